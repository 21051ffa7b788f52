"""Checks an installation: devices, physics, losses, gradients, and that a small network learns.

Example:
  ris-jax doctor
  ris-jax doctor --workdir=runs/quickstart      (checks that run's checkpoints too)

Each check prints one line with what it measured; the exit status is 0 when all hold.
"""

import dataclasses
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import get_args

from absl import flags

from ris_jax import config as config_lib
from ris_jax import errors

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of a run to check as well", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "root of the checks' randomness", flag_values=FLAGS)

Finding = tuple[str, bool, str]  # what was checked, whether it holds, what was measured

_OVERFIT_NMSE = 0.1
_OVERFIT_COUNT_RIGHT = 0.9
_LEAST_VARIANCE_RATIO = 0.5


def small_config(seed: int) -> config_lib.Config:
    """A network and an array that learn 32 scenes in seconds."""
    values = {
        "system.rows": 6,
        "system.columns": 6,
        "system.num_antennas": 8,
        "system.num_snapshots": 8,
        "scene.max_sources": 2,
        "model.rounds": 1,
        "model.candidates": 6,
        "model.width": 32,
        "model.depth": 2,
        "training.seed": seed,
        "training.batch_size": 32,
        "training.fixed_scenes": 32,
        "training.steps_per_epoch": 120,
        "training.epochs": 1,
        "training.validation_scenes": 32,
        "training.validate_on_training_scenes": True,
        "optimizer.ema_decay": 0.9,
        "optimizer.weight_decay": 0.0,
    }
    return config_lib.override(config_lib.Config(), values)


def check_devices() -> Iterator[Finding]:
    """Versions, and a computation on every device."""
    import jax
    import jax.numpy as jnp

    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    for device in jax.devices():
        total = float(jnp.sum(jax.device_put(jnp.ones((64, 64)), device) @ jnp.ones((64, 64))))
        yield f"device {device}", total == 64.0**3, versions


def check_conditioning(config: config_lib.Config) -> Iterator[Finding]:
    """Condition number of Phi, median over 16 scenes, for every codebook."""
    import jax
    import jax.numpy as jnp

    from ris_jax import measurement, scenes

    for name in get_args(config_lib.CodebookName):
        system = dataclasses.replace(config.system, codebook=name)
        key = scenes.stream_key(config.training.seed, "doctor")
        batch = scenes.sample_scenes(key, dataclasses.replace(config, system=system), 16)
        median = float(jnp.median(jax.vmap(measurement.condition_number)(batch.measurement)))
        used = " (the one used)" if name == config.system.codebook else ""
        # A user's worse-conditioned codebook is a choice, a singular one a failure.
        yield f"conditioning of Phi, {name}{used}", median < 1e4, f"median {median:.1f}"


def check_peak(config: config_lib.Config) -> Iterator[Finding]:
    """Without noise the matched filter on the aperture field peaks at the truth."""
    import jax
    import jax.numpy as jnp

    from ris_jax import arrays, measurement, scenes

    scene = dataclasses.replace(
        config.scene, min_sources=1, max_sources=1, snr_min_db=100.0, snr_max_db=100.0
    )
    offsets = jnp.linspace(-0.5, 0.5, 21)  # the truth is in the middle
    for wavefront in get_args(config_lib.Wavefront):
        system = dataclasses.replace(config.system, wavefront=wavefront)
        quiet = dataclasses.replace(config, scene=scene, system=system)
        batch = scenes.sample_scenes(scenes.stream_key(config.training.seed, "doctor"), quiet, 16)
        fields = jax.vmap(measurement.aperture_field)(batch.measurement)
        truth = batch.truth
        grids = {
            "azimuth": (truth.azimuth + offsets, truth.elevation, truth.source_range),
            "elevation": (truth.azimuth, truth.elevation + offsets, truth.source_range),
        }
        if wavefront != "planar":
            inverse = jnp.maximum(1.0 / truth.source_range + offsets * 0.2, 1e-3)
            grids["range"] = (truth.azimuth, truth.elevation, 1.0 / inverse)
        right = []
        for coordinates in grids.values():
            azimuth, elevation, source_range = jnp.broadcast_arrays(*coordinates)
            steering = arrays.steering_vector(
                azimuth,
                elevation,
                source_range,
                arrays.element_positions(system),
                wavelength=system.wavelength,
                wavefront=wavefront,
            )
            spectrum = jnp.abs(jnp.einsum("bgn,bn->bg", steering.conj(), fields))
            right.append(jnp.mean(jnp.argmax(spectrum, axis=1) == len(offsets) // 2))
        share = float(jnp.min(jnp.stack(right)))
        yield f"peak at the truth, {wavefront}", share == 1.0, f"in {share:.0%} of 16 scenes"


def check_losses(config: config_lib.Config) -> Iterator[Finding]:
    """Every loss term is zero at the truth."""
    import jax
    import jax.numpy as jnp

    from ris_jax import losses, scenes
    from ris_jax.models import situation
    from ris_jax.training import step as step_lib

    config = dataclasses.replace(config, loss=config_lib.LossConfig(1.0, 1.0, 1.0, 1.0))

    @jax.jit
    def prepared(key):
        return step_lib.prepare(scenes.sample_scenes(key, config, 32), config)[1]

    target = prepared(scenes.stream_key(config.training.seed, "doctor"))
    certain = 1e3
    nothing = jnp.zeros((32, 1, 3))
    decision = losses.Decision(
        sources=target.coordinates,
        active=target.active,
        keep=jnp.full(target.active.shape, certain),
        candidates=nothing + 1e3,  # far from every source
        add=jnp.full((32, 1), -certain),
        offset=nothing,
    )
    truth = losses.Prediction(
        factor=target.factor,
        count_logits=certain * jax.nn.one_hot(target.num_sources - 1, config.scene.max_sources),
        coordinates=target.coordinates * situation.resolution(config.system),
        existence=target.active,
        decisions=jax.tree.map(lambda leaf: leaf[None], decision),  # of one round
    )
    unblended = dataclasses.replace(config.covariance, blend=0.0)
    terms = losses.loss_terms(truth, target, config.loss, unblended)
    for name, term in terms.items():
        worst = float(jnp.max(jnp.abs(term)))
        yield f"loss at the truth, {name}", worst < 1e-4, f"at most {worst:.1e}"


def check_learning(config: config_lib.Config) -> Iterator[Finding]:
    """Gradients reach all parameters; a bad microbatch is skipped; a few scenes are learned."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ris_jax.training import evaluation, loop
    from ris_jax.training import state as state_lib
    from ris_jax.training import step as step_lib

    state = state_lib.create_train_state(config)
    batch = step_lib.draw_batch(config, state.step)
    dead = loop.dead_parameters(state_lib.create_train_state(config), batch)
    yield "gradients alive", not dead, ", ".join(dead) or "no parameter without gradient"
    before = jax.device_get(state.params)
    snapshots = batch.measurement.snapshots.at[0, 0, 0].set(jnp.nan)
    bad = batch._replace(measurement=batch.measurement._replace(snapshots=snapshots))
    state, metrics = step_lib.train_step(state, bad)
    same = jax.tree.all(
        jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), before, jax.device_get(state.params))
    )
    skipped = int(metrics["skipped"])
    yield "a NaN microbatch changes nothing", same and skipped == 1, f"{skipped} skipped"
    heldout = evaluation.draw_heldout(config, "train", config.training.validation_scenes)
    constant = float(np.mean(evaluation.yardsticks(config, heldout)["constant_nmse"]))
    for _ in range(config.total_updates):
        state, _ = step_lib.train_step(state, step_lib.draw_batch(config, state.step))
    result = evaluation.evaluate(state, heldout)
    nmse, right = result.mean("nmse"), result.mean("count_correct")
    measured = f"NMSE {nmse:.4f} after {config.total_updates} updates; constant {constant:.3f}"
    yield "32 scenes are learned", nmse < _OVERFIT_NMSE and nmse < constant, measured
    yield "their sources are counted", right >= _OVERFIT_COUNT_RIGHT, f"right in {right:.0%}"
    ratio = result.output_variance_ratio
    yield (
        "outputs vary with the input",
        ratio > _LEAST_VARIANCE_RATIO,
        f"variance ratio {ratio:.3f}",
    )


def check_run(workdir: pathlib.Path) -> Iterator[Finding]:
    """A run's checkpoints are whole, and its best network beats the best constant."""
    from ris_jax.training import checkpoint, record

    restored, warnings = checkpoint.open_best(workdir)
    yield "checkpoints are whole", not warnings, "; ".join(warnings) or f"epoch {restored.epoch}"
    rows = [row for row in record.epoch_rows(workdir) if row["epoch"] == restored.epoch]
    nmse, constant = (rows[-1].get(n) if rows else None for n in ("val_nmse", "constant_nmse"))
    better = nmse is not None and constant is not None and nmse < constant
    yield "beats the best constant", better, f"val_nmse {nmse}, constant {constant}"


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that cannot be carried out is a finding, and the others still run."""
    try:
        yield from check()
    except Exception as error:
        yield name, False, f"the check itself failed: {errors.first_line(error)}"


def run() -> int:
    """Runs the command; returns the exit status."""
    default = config_lib.override(config_lib.Config(), {"training.seed": FLAGS.seed})
    small = small_config(FLAGS.seed)
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "devices": check_devices,
        "conditioning": lambda: check_conditioning(default),
        "peak": lambda: check_peak(default),
        "losses": lambda: check_losses(default),
        "learning": lambda: check_learning(small),
    }
    if FLAGS.workdir:
        checks["run"] = lambda: check_run(pathlib.Path(FLAGS.workdir))
    failures = 0
    for name, check in checks.items():
        for what, holds, measured in _guarded(name, check):
            failures += not holds
            print(f"{'ok  ' if holds else 'FAIL'}  {what}: {measured}", flush=True)
    print("all well" if not failures else f"{failures} checks failed")
    return min(failures, 1)
