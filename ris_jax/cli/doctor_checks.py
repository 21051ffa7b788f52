"""Checks of `ris-jax doctor`: generators of findings, evaluated on demand."""

import dataclasses
import functools
import pathlib
import platform
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ris_jax import compilation_cache
from ris_jax import config as config_lib
from ris_jax.networks import losses, pursuit_features
from ris_jax.physics import arrays, element_response, measurement, scenes
from ris_jax.training import evaluation, loop
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.saving import checkpoint, metrics_log

Finding = tuple[str, bool, str]  # check, whether it passed, measured value

_SCENES = 16  # per physical check
_QUIET_DB = 100.0
_SCAN = 21  # directions or ranges around the truth, which is at the centre
_OVERFIT_NMSE = 0.1
_OVERFIT_COUNT_RIGHT = 0.9
_LEAST_VARIANCE_RATIO = 0.5


def small_config(seed: int) -> config_lib.Config:
    """Return a network and an array that learn 32 scenes in seconds."""
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


def devices() -> Iterator[Finding]:
    """Report versions, and compute on every device."""
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    for device in jax.devices():
        total = float(jnp.sum(jax.device_put(jnp.ones((64, 64)), device) @ jnp.ones((64, 64))))
        yield f"device {device}", total == 64.0**3, versions


def cache() -> Iterator[Finding]:
    """Report directory and size of the compilation cache, if there is one."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None or not jax.config.values["jax_enable_compilation_cache"]:
        yield "compilation cache", True, "none"
        return
    found = compilation_cache.contents(pathlib.Path(folder))
    size = f"{found.entries} entries, {found.num_bytes / 1e6:.0f} MB"
    yield "compilation cache", True, f"{size} in {folder}"


@functools.partial(jax.jit, static_argnames="config")
def _truths(keys: jax.Array, config: config_lib.Config) -> scenes.Truth:
    return jax.vmap(lambda key: scenes.sample_truth(key, config.scene))(keys)


@functools.partial(jax.jit, static_argnames="config")
def _simulated(keys: jax.Array, truth: scenes.Truth, config: config_lib.Config) -> scenes.Scene:
    """Simulate scenes of given truths; checks with different truths share the compilation."""
    return jax.vmap(lambda key, one: scenes.simulate(key, one, config))(keys, truth)


def _keys(config: config_lib.Config) -> jax.Array:
    return jax.random.split(scenes.stream_key(config.training.seed, "doctor"), _SCENES)


def _batch(config: config_lib.Config) -> scenes.Scene:
    keys = _keys(config)
    return _simulated(keys, _truths(keys, config), config)


@jax.jit
def _condition_numbers(measured: scenes.Measurement) -> jax.Array:
    return jax.vmap(measurement.condition_number)(measured)


def conditioning(config: config_lib.Config, codebooks: Iterable[str]) -> Iterator[Finding]:
    """Measure the condition number of Phi, median over scenes, for each codebook."""
    for name in codebooks:
        system = dataclasses.replace(config.system, codebook=name, codes_file=None)
        batch = _batch(dataclasses.replace(config, system=system))
        median = float(jnp.median(_condition_numbers(batch.measurement)))
        used = " (the one used)" if name == config.system.codebook else ""
        # An ill-conditioned codebook is the user's choice, a singular one a failure.
        yield f"conditioning of Phi, {name}{used}", median < 1e4, f"median {median:.1f}"


def peak(config: config_lib.Config, wavefronts: Iterable[str]) -> Iterator[Finding]:
    """Check that without noise, the matched filter on the aperture field peaks at the truth."""
    for wavefront in wavefronts:
        system = dataclasses.replace(config.system, wavefront=wavefront)
        config = dataclasses.replace(config, system=system)
        keys = _keys(config)
        truth = _truths(keys, config)
        first = jnp.arange(truth.amplitude.shape[-1]) == 0
        alone = truth._replace(
            azimuth=jnp.where(first, truth.azimuth, 0.0),
            amplitude=jnp.where(first, truth.amplitude, 0.0),
            num_sources=jnp.ones_like(truth.num_sources),
            snr_db=jnp.full_like(truth.snr_db, _QUIET_DB),
        )
        share = float(_share_of_peaks(_simulated(keys, alone, config), system))
        yield f"peak at the truth, {wavefront}", share == 1.0, f"in {share:.0%} of {_SCENES} scenes"


@functools.partial(jax.jit, static_argnames="system")
def _share_of_peaks(batch: scenes.Scene, system: config_lib.SystemConfig) -> jax.Array:
    """Return the smallest fraction, over coordinates, of scenes with the peak at the source."""
    fields = jax.vmap(measurement.aperture_field)(batch.measurement)
    offsets = jnp.linspace(-0.5, 0.5, _SCAN)
    azimuth, elevation, source_range = (
        value[:, :1]
        for value in (batch.truth.azimuth, batch.truth.elevation, batch.truth.source_range)
    )
    grids = [
        (azimuth + offsets, elevation, source_range),
        (azimuth, elevation + offsets, source_range),
    ]
    if system.wavefront != "planar":
        inverse = jnp.maximum(1.0 / source_range + offsets * 0.2, 1e-3)
        grids.append((azimuth, elevation, 1.0 / inverse))
    azimuths, elevations, ranges = (
        jnp.stack(values)
        for values in zip(*(jnp.broadcast_arrays(*grid) for grid in grids), strict=True)
    )
    steering = arrays.steering_vector(
        azimuths,
        elevations,
        ranges,
        arrays.element_positions(system),
        wavelength=system.wavelength,
        wavefront=system.wavefront,
        response=element_response.of_system(system),
    )
    steering = arrays.normalized(steering)
    spectrum = jnp.abs(jnp.einsum("cbgn,bn->cbg", steering.conj(), fields))
    return jnp.min(jnp.mean(jnp.argmax(spectrum, axis=2) == _SCAN // 2, axis=1))


def losses_at_truth(config: config_lib.Config) -> Iterator[Finding]:
    """Check that every loss term is zero at the truth."""
    config = dataclasses.replace(config, loss=config_lib.LossConfig(1.0, 1.0, 1.0, 1.0))
    for name, worst in _loss_terms_at_truth(_batch(config), config).items():
        yield f"loss at the truth, {name}", float(worst) < 1e-4, f"at most {worst:.1e}"


@functools.partial(jax.jit, static_argnames="config")
def _loss_terms_at_truth(batch: scenes.Scene, config: config_lib.Config) -> dict[str, jax.Array]:
    """Return the largest absolute value of each loss term over the scenes."""
    _, target = step_lib.prepare(batch, config)
    certain = 1e3
    nothing = jnp.zeros((_SCENES, 1, 3))
    decision = losses.Decision(
        sources=target.coordinates,
        active=target.active,
        keep=jnp.full(target.active.shape, certain),
        candidates=nothing + 1e3,  # far from every source
        add=jnp.full((_SCENES, 1), -certain),
        offset=nothing,
    )
    truth = losses.Prediction(
        factor=target.factor,
        count_logits=certain * jax.nn.one_hot(target.num_sources - 1, config.scene.max_sources),
        coordinates=target.coordinates * pursuit_features.resolution(config.system),
        existence=target.active,
        decisions=jax.tree.map(lambda leaf: leaf[None], decision),  # of one round
    )
    unblended = dataclasses.replace(config.covariance, blend=0.0)
    terms = losses.loss_terms(truth, target, config.loss, unblended)
    return {name: jnp.max(jnp.abs(term)) for name, term in terms.items()}


def learning(config: config_lib.Config, *, thorough: bool = False) -> Iterator[Finding]:
    """Check that all parameters get gradients, NaN microbatches are skipped, and scenes learned.

    Args:
      config: of a small network and a few constant scenes.
      thorough: also score the averaged network: number of sources and variation of the outputs.
    """
    batch = step_lib.draw_batch(config, state_lib.create_train_state(config).step)
    dead = loop.dead_parameters(state_lib.create_train_state(config), batch)
    yield "gradients alive", not dead, ", ".join(dead) or "no parameter without gradient"
    state = state_lib.create_train_state(config)
    before = jax.device_get(state.params)
    snapshots = batch.measurement.snapshots.at[0, 0, 0].set(jnp.nan)
    bad = batch._replace(measurement=batch.measurement._replace(snapshots=snapshots))
    state, metrics = step_lib.train_step_in_place(state, bad)
    same = jax.tree.all(
        jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), before, jax.device_get(state.params))
    )
    skipped = int(metrics["skipped"])
    yield "a NaN microbatch changes nothing", same and skipped == 1, f"{skipped} skipped"
    first = None
    for _ in range(config.total_updates):
        state, metrics = step_lib.train_step_in_place(
            state, step_lib.draw_batch(config, state.step)
        )
        first = metrics["nmse"] if first is None else first
    nmse = float(metrics["nmse"])
    measured = f"NMSE {nmse:.4f} after {config.total_updates} updates, {first:.2f} before"
    yield "32 scenes are learned", nmse < _OVERFIT_NMSE, measured
    if thorough:
        yield from _scores(state, config)


def _scores(state: state_lib.TrainState, config: config_lib.Config) -> Iterator[Finding]:
    """Score the averaged network on the scenes that it was trained on."""
    heldout = evaluation.draw_heldout(config, "train", config.training.validation_scenes)
    constant = float(np.mean(evaluation.yardsticks(config, heldout)["constant_nmse"]))
    result = evaluation.evaluate(state, heldout)
    nmse, right = result.mean("nmse"), result.mean("count_correct")
    better = nmse < min(_OVERFIT_NMSE, constant)
    yield "the average network learned them", better, f"NMSE {nmse:.4f}; constant {constant:.3f}"
    yield "their sources are counted", right >= _OVERFIT_COUNT_RIGHT, f"right in {right:.0%}"
    ratio = result.output_variance_ratio
    varies = ratio > _LEAST_VARIANCE_RATIO
    yield "outputs vary with the input", varies, f"variance ratio {ratio:.3f}"


def run(workdir: pathlib.Path) -> Iterator[Finding]:
    """Check that a run's checkpoints are intact and its network beats the best constant."""
    restored, warnings = checkpoint.open_best(workdir)
    yield "checkpoints are intact", not warnings, "; ".join(warnings) or f"epoch {restored.epoch}"
    rows = [row for row in metrics_log.epoch_rows(workdir) if row["epoch"] == restored.epoch]
    nmse, constant = (rows[-1].get(n) if rows else None for n in ("val_nmse", "constant_nmse"))
    better = nmse is not None and constant is not None and nmse < constant
    yield "beats the best constant", better, f"val_nmse {nmse}, constant {constant}"
