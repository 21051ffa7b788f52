"""Scenes of a cell and their bound, as a function of the seed, the cell and the index.

Every cell has its own random stream, named by the cell's changes, so that cells are independent.
Cells that differ only in whether the number of sources is given have the same scenes.
"""

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.accuracy import bounds, scene_mismatch
from ris_jax.benchmarks.suites import Cell, SourcePlacement
from ris_jax.estimation import batches, search_grid
from ris_jax.physics import arrays, element_response, scenes

_TRIES = 64  # draws of a scene's positions until its sources are far enough apart
_CHUNK = 64


class Draw(NamedTuple):
    """Scenes of a cell, in host memory."""

    measurement: scenes.Measurement  # [B, ...]
    truth: scenes.Truth  # [B, K_max]
    bound: Float[np.ndarray, "B K 3 3"]


def _at_azimuth(key: jax.Array, truth: scenes.Truth, azimuth_deg: float) -> scenes.Truth:
    side = jnp.where(jax.random.bernoulli(key, shape=truth.azimuth.shape), 1.0, -1.0)
    return truth._replace(azimuth=side * jnp.deg2rad(azimuth_deg))


def _apart(
    key: jax.Array, truth: scenes.Truth, scene: config_lib.SceneConfig, angle_deg: float
) -> scenes.Truth:
    """Place two sources on a great circle, at equal angles from a centre within the view."""
    limits = np.deg2rad([scene.azimuth_max_deg, scene.elevation_max_deg]) - np.deg2rad(angle_deg)
    limits = np.maximum(limits, 0.0)
    places = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
    azimuth, elevation, turn = places[0] * limits[0], places[1] * limits[1], places[2] * jnp.pi
    centre = jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
            jnp.cos(azimuth) * jnp.cos(elevation),
        ]
    )
    east = jnp.stack([jnp.cos(azimuth), jnp.zeros(()), -jnp.sin(azimuth)])
    across = jnp.cos(turn) * east + jnp.sin(turn) * jnp.cross(centre, east)
    half = jnp.deg2rad(angle_deg) / 2 * jnp.array([-1.0, 1.0])
    x, y, z = jnp.cos(half) * centre[:, None] + jnp.sin(half) * across[:, None]
    return truth._replace(azimuth=jnp.arctan2(x, z), elevation=jnp.arcsin(y))


def _closest(truth: scenes.Truth) -> Float[Array, ""]:
    """Return the smallest angle between two directions [rad]."""
    x = jnp.sin(truth.azimuth) * jnp.cos(truth.elevation)
    y = jnp.sin(truth.elevation)
    z = jnp.cos(truth.azimuth) * jnp.cos(truth.elevation)
    cosines = jnp.clip(x * x[:, None] + y * y[:, None] + z * z[:, None], -1.0, 1.0)
    active = scenes.active_sources(truth) > 0
    pair = active & active[:, None] & ~jnp.eye(len(x), dtype=bool)
    return jnp.min(jnp.where(pair, jnp.arccos(cosines), jnp.inf))


def _place(
    key: jax.Array, scene: config_lib.SceneConfig, placement: SourcePlacement
) -> scenes.Truth:
    truth_key, place_key = jax.random.split(key)
    truth = scenes.sample_truth(truth_key, scene)
    if placement.azimuth_deg is not None:
        truth = _at_azimuth(place_key, truth, placement.azimuth_deg)
    if placement.separation_deg is not None:
        truth = _apart(place_key, truth, scene, placement.separation_deg)
    return truth


def _widen(truth: scenes.Truth, places: int, range_max: float) -> scenes.Truth:
    """Pad the scene to a common number of places, so that all cells have one shape."""
    more = (0, places - truth.azimuth.shape[-1])
    return truth._replace(
        azimuth=jnp.pad(truth.azimuth, more),
        elevation=jnp.pad(truth.elevation, more),
        source_range=jnp.pad(truth.source_range, more, constant_values=range_max),
        amplitude=jnp.pad(truth.amplitude, more),
    )


@functools.partial(jax.jit, static_argnames=("scene", "placement", "places"))
def _truths(keys, scene: config_lib.SceneConfig, placement: SourcePlacement, places: int):
    """Return truths of a batch, and whether their sources are far enough apart."""
    tries = _TRIES if placement.least_separation_deg else 1
    least = jnp.deg2rad(placement.least_separation_deg)

    def one(key):
        drawn = jax.vmap(lambda n: _place(jax.random.fold_in(key, n), scene, placement))(
            jnp.arange(tries)
        )
        fits = jax.vmap(_closest)(drawn) >= least
        first = jnp.argmax(fits)
        truth = jax.tree.map(lambda leaf: leaf[first], drawn)
        return _widen(truth, places, scene.range_max), fits[first]

    return jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnames="config")
def _simulated(keys, truth: scenes.Truth, positions, config: config_lib.Config):
    batch = jax.vmap(lambda key, one: scenes.simulate(key, one, config))(keys, truth)
    return batch.measurement, bounds.scene_bound(batch, positions, config.system).covariance


@functools.partial(jax.jit, static_argnames="config")
def _predicted(keys, batch, positions, config: config_lib.Config):
    """Return predicted root mean square errors of drawn scenes, [B, K, 3]."""
    system, region = config.system, search_grid.region_of(config.scene)

    def one(key, measurement, truth):
        # The same scene without noise.
        clean = scenes.simulate(key, truth._replace(snr_db=jnp.inf), config)
        return scene_mismatch.misspecified_scene_bound(
            clean.measurement.snapshots, measurement, truth, truth.amplitude * clean.signals[0],
            positions, wavelength=system.wavelength, wavefront=system.wavefront,
            response=element_response.of_system(system), lower=jnp.asarray(region.lower),
            upper=jnp.asarray(region.upper),
        ).root_mean_square  # fmt: skip

    return jax.vmap(one)(keys, *batch)


def is_predictable(config: config_lib.Config) -> bool:
    """Return whether `predicted_errors` covers the scenes of a configuration."""
    system = config.system
    within = system.wavefront != "planar" and config.scene.static_path_db is None
    return within and system.source_signal == "constant"


def predicted_errors(
    base: config_lib.Config, cell: Cell, drawn: Draw
) -> Float[np.ndarray, "B K 3"]:
    """Predict the root mean square errors of maximum likelihood with the nominal model.

    Args:
      base: as for `draw`.
      cell: as for `draw`.
      drawn: its scenes, with constant signals, see `is_predictable`.

    Returns:
      Of azimuth [rad], elevation [rad] and range [m] of every source, from the hardware of its
      scene; see `scene_mismatch.misspecified_scene_bound`.
    """
    positions = arrays.element_positions(base.system)
    hardware = _hardware(base, cell)

    def some(part):
        indices, *batch = part
        return _predicted(_keys(base, cell, indices)[:, 1], batch, positions, hardware)

    part = np.arange(len(drawn.truth.azimuth)), drawn.measurement, drawn.truth
    return batches.in_chunks(some, part, chunk_size=_CHUNK)


def _stream(cell: Cell) -> str:
    """Return the name of a cell's random stream."""
    return json.dumps(["benchmark", dict(cell.changes), dataclasses.asdict(cell.placement)])


def _keys(base: config_lib.Config, cell: Cell, indices) -> jax.Array:
    """Return the keys of truth and simulation of scenes of a cell, [B, 2]."""
    root = scenes.stream_key(base.training.seed, _stream(cell))
    return jax.vmap(lambda index: jax.random.split(jax.random.fold_in(root, index)))(indices)


def _hardware(base: config_lib.Config, cell: Cell) -> config_lib.Config:
    """Return the base with the impairments of a cell.

    The truth has all draws of the sources, so that cells share one compiled function.
    """
    impairments = config_lib.to_dict(cell.config(base))["impairments"]
    return config_lib.override(base, config_lib.flatten({"impairments": impairments}))


def draw(base: config_lib.Config, cell: Cell, num_scenes: int, progress: Any = None) -> Draw:
    """Draw the scenes of a cell.

    Args:
      base: the configuration that the cell changes; its `max_sources` are the places of a scene.
      cell: the kind of scene.
      num_scenes: B.
      progress: called with the number of scenes drawn.

    Raises:
      ConfigError: the changed configuration is invalid.
      RunError: no draw had sources far enough apart.
    """
    config = cell.config(base)
    positions, hardware = arrays.element_positions(base.system), _hardware(base, cell)

    def some(indices):
        keys = _keys(base, cell, indices)
        truth, fits = _truths(keys[:, 0], config.scene, cell.placement, base.scene.max_sources)
        return *_simulated(keys[:, 1], truth, positions, hardware), truth, fits

    measurement, bound, truth, fits = batches.in_chunks(
        some, np.arange(num_scenes), chunk_size=_CHUNK, progress=progress
    )
    if not fits.all():
        raise errors.RunError(
            f"{cell.label}: need sources {cell.placement.least_separation_deg:g} degrees apart; "
            f"none found in {_TRIES} draws"
        )
    return Draw(measurement, truth, bound)
