"""Held-out scores and the reference predictors they are compared with."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.networks import losses
from ris_jax.physics import covariance as cov
from ris_jax.physics import linear, scenes
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices

CONSTANT_SCENES = 1024  # to compute the best constant covariance from
YARDSTICKS = ("constant_nmse", "snapshots_nmse", "shrunk_truth_nmse")


class Heldout(NamedTuple):
    """Prepared scenes of a stream, on the device, in batches of equal shape."""

    batches: list[tuple[scenes.Measurement, losses.Target]]
    num_scenes: int

    def first_batch(self) -> "Heldout":
        """Return the scenes of the first batch alone."""
        size = len(self.batches[0][1].snr)
        return Heldout(self.batches[:1], min(self.num_scenes, size))


class Evaluation(NamedTuple):
    """Scores of every scene, and the variance of predictions across inputs."""

    scores: dict[str, np.ndarray]
    output_variance_ratio: float  # variance of predicted over variance of true covariances
    first: losses.Prediction  # of the scenes of the first batch, on the host

    def mean(self, name: str) -> float:
        """Return the mean of a score over scenes."""
        return float(np.mean(self.scores[name], dtype=np.float64))


@functools.cache
def _stretch(
    seed: int, stream: str, size: int, sharding: jax.sharding.NamedSharding | None
) -> Callable[[np.int32], tuple[jax.Array, Int[Array, "B"]]]:
    """Return a stream's key and `size` consecutive indices, placed as in training.

    Training and validation then share one drawing program.
    """

    def from_start(start):
        return scenes.stream_key(seed, stream), start + jnp.arange(size)

    whole = None if sharding is None else devices.replicated_beside(sharding)
    return jax.jit(from_start, out_shardings=whole)


def draw_heldout(
    config: config_lib.Config,
    stream: str,
    num_scenes: int,
    sharding: jax.sharding.NamedSharding | None = None,
) -> Heldout:
    """Draw the first scenes of a named stream and prepare them on the device.

    Args:
      config: the run.
      stream: name of the stream.
      num_scenes: number of scenes.
      sharding: `Placement.batch` of the state to be scored; one device by default.
    """
    size = config.training.batch_size
    stretch = _stretch(config.training.seed, stream, size, sharding)
    batches = []
    for start in range(0, num_scenes, size):
        batch = step_lib.draw_scenes(config, sharding, *stretch(np.int32(start)))
        batches.append(step_lib.prepared(batch, config))
    return Heldout(batches, num_scenes)


def validation_stream(config: config_lib.Config) -> str:
    """Return the name of the validation stream."""
    return "train" if config.training.validate_on_training_scenes else "validation"


def evaluate(state: state_lib.TrainState, heldout: Heldout) -> Evaluation:
    """Score the averaged parameters of a state on held-out scenes."""
    results = []
    for number, batch in enumerate(heldout.batches):
        result = step_lib.eval_step(state, *batch)
        results.append(result if number == 0 else result._replace(prediction=()))
    results = devices.to_host(results)
    scores = _gather([result.scores for result in results], heldout.num_scenes)
    moments = jax.tree.map(lambda *parts: sum(parts), *[result.moments for result in results])
    count = len(heldout.batches) * heldout.batches[0][1].snr.shape[0]

    def variance(total, power):
        return power / count - np.linalg.norm(total / count) ** 2

    predicted = variance(moments.predicted, moments.predicted_power)
    true = variance(moments.true, moments.true_power)
    ratio = float(predicted / max(true, 1e-12))
    return Evaluation(scores, ratio, results[0].prediction)


def _gather(host: list[dict[str, np.ndarray]], num_scenes: int) -> dict[str, np.ndarray]:
    """Concatenate batches of scores and drop the padding of the last batch."""
    return {name: np.concatenate([p[name] for p in host])[:num_scenes] for name in host[0]}


@compilation.program(quick=True)
def _constant_sums(target: losses.Target) -> tuple[Complex[Array, "N N"], Float[Array, ""]]:
    truth = cov.from_factor(target.factor)
    weight = 1.0 / cov.inner(truth, truth)
    weighted = truth.factor * weight[:, None, None]
    return linear.einsum("bnk,bmk->nm", weighted, truth.factor.conj()), jnp.sum(weight)


def best_constant(training_scenes: Heldout) -> Complex[np.ndarray, "N N"]:
    """Return the constant covariance with the least mean NMSE over training scenes.

    This is the strictest constant predictor.
    """
    sums = devices.to_host([_constant_sums(target) for _, target in training_scenes.batches])
    total, weight = jax.tree.map(lambda *parts: sum(parts), *sums)
    return total / weight


@functools.lru_cache(maxsize=1)
def simulated_constant(
    config: config_lib.Config, sharding: jax.sharding.NamedSharding | None = None
) -> Complex[np.ndarray, "N N"]:
    """Return the best constant covariance of the simulated training stream.

    A run needs it at its start and for its report; the process keeps it.
    """
    return best_constant(draw_heldout(config, "train", CONSTANT_SCENES, sharding))


@compilation.program(static_argnames=("config",), quick=True)
def _yardsticks(
    config: config_lib.Config, constant: Complex[Array, "N N"], target: losses.Target
) -> dict[str, Float[Array, "B"]]:
    truth = cov.from_factor(target.factor)
    power = cov.inner(truth, truth)
    projected = linear.einsum("bnk,nm,bmk->b", truth.factor.conj(), constant, truth.factor).real
    shrunk = cov.shrink(truth, cov.shrinkage_weight(target.snr, config.covariance))
    return {
        "constant_nmse": (jnp.sum(jnp.abs(constant) ** 2) - 2.0 * projected + power) / power,
        "snapshots_nmse": losses.covariance_nmse(cov.from_factor(target.sample_factor), truth),
        "shrunk_truth_nmse": losses.covariance_nmse(shrunk, truth),
    }


def yardsticks(
    config: config_lib.Config,
    heldout: Heldout,
    constant: Complex[np.ndarray, "N N"] | None = None,
) -> dict[str, np.ndarray]:
    """Return the NMSE of three untrained predictors for every scene of `heldout`.

    `constant_nmse`: the best constant covariance. `snapshots_nmse`: the covariance of the field
    estimates from the snapshots. `shrunk_truth_nmse`: the truth after the shrinkage of the
    effective covariance, which is the floor of `effective_nmse`.

    Args:
      config: the run.
      heldout: scenes to score.
      constant: the best constant covariance; `simulated_constant` by default.
    """
    if constant is None:
        constant = simulated_constant(config, devices.batch_beside(heldout.batches[0][1].snr))
    parts = [_yardsticks(config, constant, target) for _, target in heldout.batches]
    return _gather(devices.to_host(parts), heldout.num_scenes)
