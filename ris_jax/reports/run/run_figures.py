"""Figures of a run: estimates in one scene, and calibration of the number of sources."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from matplotlib.figure import Figure

from ris_jax import config as config_lib
from ris_jax.accuracy import metrics, statistics
from ris_jax.estimation.estimate import Estimate
from ris_jax.networks import losses, network_start, pursuit_features
from ris_jax.physics import arrays
from ris_jax.reports import localization_figures
from ris_jax.reports.run import spectra
from ris_jax.training import callbacks, evaluation
from ris_jax.training.processes import devices, distributed

_FIGURES_A_RUN = 10


class Shown(NamedTuple):
    """Scene of a held-out batch that is drawn; always the same one."""

    index: int
    target: losses.Target  # of the batch, on the host


def shown(config: config_lib.Config, heldout: evaluation.Heldout) -> Shown:
    """Select the median scene, ordered by number of sources and then by SNR.

    Every process of a run must call this function.
    """
    target = devices.to_host(heldout.batches[0][1])
    scene = config.scene
    middle = -(-(scene.min_sources + scene.max_sources) // 2)
    by_count = np.abs(target.num_sources - middle)
    by_snr = np.abs(target.snr_db - (scene.snr_min_db + scene.snr_max_db) / 2)
    return Shown(int(np.lexsort((by_snr, by_count))[0]), target)


def _truth(config: config_lib.Config, target: losses.Target) -> metrics.Sources:
    """Return the sources of a batch; plane waves have no range."""
    unit = pursuit_features.resolution(config.system)
    coordinates = target.coordinates * jnp.where(jnp.isfinite(unit), unit, 0.0)
    return _sources(coordinates, target.num_sources)


def _sources(coordinates: Float[Array, "B K 3"], num_sources: Int[Array, "B"]) -> metrics.Sources:
    places = (np.asarray(part, float) for part in arrays.from_coordinates(coordinates))
    return metrics.Sources(*places, num_sources=np.asarray(num_sources))


def _found(prediction: losses.Prediction) -> Estimate:
    """Return the sources that a network is sure of, by confidence; there are no error bars."""
    existence = jnp.asarray(prediction.existence)
    order = jnp.argsort(-existence, axis=-1)
    coordinates = jnp.take_along_axis(jnp.asarray(prediction.coordinates), order[..., None], axis=1)
    azimuth, elevation, source_range = arrays.from_coordinates(coordinates)
    return Estimate(
        azimuth=azimuth,
        elevation=elevation,
        source_range=source_range,
        power=jnp.full(order.shape, jnp.nan),
        num_sources=jnp.sum(existence > network_start.SURE, axis=1),
        covariance=jnp.full((*order.shape, 3, 3), jnp.inf),
        noise_variance=jnp.full(len(order), jnp.nan),
    )


def scene_figures(
    config: config_lib.Config, prediction: losses.Prediction, scene: Shown
) -> dict[str, Figure]:
    """Draw spectra and map of one scene.

    Args:
      config: the run.
      prediction: for the batch that contains the scene, on the host.
      scene: from `shown`.
    """
    at, target = scene
    true_count = int(target.num_sources[at])
    count = 1 + int(np.argmax(prediction.count_logits[at]))
    truth, found = _truth(config, target), _found(prediction)
    factors = [prediction.factor[at], target.factor[at], target.sample_factor[at]]
    widest = max(factor.shape[1] for factor in factors)
    padded = np.stack([np.pad(f, [(0, 0), (0, widest - f.shape[1])]) for f in factors])
    ranks = np.array([count, true_count, true_count])
    of_scene = f"a held-out scene of {true_count} sources at {target.snr_db[at]:.1f} dB"
    return {
        "spectra": spectra.figure(
            spectra.spectra(padded, ranks, config),
            [f"network (K = {count})", "truth", "snapshots"],
            truth.azimuth[at][:true_count],
            truth.elevation[at][:true_count],
            f"MUSIC spectra of covariances: {of_scene}",
        ),
        "map": localization_figures.scene_map(
            found, at, truth, f"{of_scene}; the network is sure of {found.num_sources[at]}"
        ),
    }


def calibration(confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> Figure:
    """Draw a reliability diagram of the number of sources, with its expected calibration error.

    Guo et al., *On calibration of modern neural networks*, ICML 2017, Fig. 1.

    Args:
      confidence: [n] probability of the most probable number.
      right: [n] whether that number is correct.
    """
    bins = statistics.reliability(confidence, right)
    edges = np.linspace(0.0, 1.0, len(bins.count) + 1)
    filled = bins.count > 0
    right_in_bin = np.rint(bins.right[filled] * bins.count[filled]).astype(int)
    trials = zip(right_in_bin.tolist(), bins.count[filled].tolist(), strict=True)
    ends = np.array([statistics.binomial_interval(*pair) for pair in trials]).T
    bars = np.abs(ends - bins.right[filled])
    figure = Figure(figsize=(4.8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.4", ls="--", lw=1, label="perfectly calibrated")
    upper.errorbar(
        bins.confidence[filled], bins.right[filled], bars,
        fmt="o", ms=4, lw=1, capsize=2, color="C0", label="network, 95 % intervals",
    )  # fmt: skip
    error = statistics.expected_calibration_error(confidence, right)
    upper.set(
        ylabel="fraction of scenes with the correct number",
        ylim=(-0.02, 1.02),
        title=f"number of sources: expected calibration error {error:.3f}",
    )
    upper.legend(loc="lower right", fontsize="small")
    lower.bar(edges[:-1], bins.count / len(confidence), np.diff(edges), align="edge", color="0.6")
    lower.set(xlabel="confidence in the number", ylabel="fraction of scenes", xlim=(0, 1))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def draw(
    config: config_lib.Config, result: evaluation.Evaluation, scene: Shown
) -> dict[str, Figure]:
    """Draw all figures of an evaluation: `spectra`, `map` and `calibration`."""
    right = result.scores["count_correct"] > 0
    confidence = calibration(result.scores["count_confidence"], right)
    return scene_figures(config, result.first, scene) | {"calibration": confidence}


def watcher(config: config_lib.Config) -> Callable[[callbacks.CallbackData], Mapping[str, bytes]]:
    """Create a callback that draws a run's figures: about ten times in a run, and at its end.

    With several processes, the first one draws.
    """
    epochs = config.training.epochs
    every = max(1, epochs // _FIGURES_A_RUN)
    scenes: list[Shown] = []

    def look_at(look: callbacks.CallbackData) -> Mapping[str, bytes]:
        if look.epoch % every and look.epoch != epochs:
            return {}
        if not scenes:
            scenes.append(shown(config, look.heldout))
        if not distributed.is_first():
            return {}
        drawn = draw(config, look.evaluation, scenes[0])
        return {f"figures/{name}": localization_figures.png(drawn[name]) for name in drawn}

    return look_at
