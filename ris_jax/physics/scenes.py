r"""Random scenes, and simulation of the snapshots at the base station.

Snapshot l is :math:`y_l = H\,\mathrm{diag}(c_l)\,A s_l + n_l` with
:math:`A = [g_k a(p_k)]` (docs/theory.md). Functions handle one scene and are mapped over
a batch with `jax.vmap`. A scene depends only on the key of its stream and its index.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, UInt32

from ris_jax import config as config_lib
from ris_jax.physics import (
    arrays,
    channel,
    codebooks,
    element_response,
    linear,
    random_draws,
)


class Measurement(NamedTuple):
    """Received snapshots, estimated channel and nominal codes.

    `localize` fills missing fields: without a surface the channel is I and the codes are 1, so
    ``Measurement(snapshots)`` is an array of M elements. An unknown noise variance is NaN.
    """

    snapshots: Complex[Array, "... L M"]
    channel: Complex[Array, "... M N"] = None  # pyright: ignore[reportAssignmentType]
    codes: Complex[Array, "... L N"] = None  # pyright: ignore[reportAssignmentType]
    noise_variance: Float[Array, "..."] = None  # pyright: ignore[reportAssignmentType]


class Truth(NamedTuple):
    """True sources. Entries after the first `num_sources` are padding of amplitude zero."""

    azimuth: Float[Array, "... K"]  #: [rad]
    elevation: Float[Array, "... K"]  #: [rad]
    source_range: Float[Array, "... K"]  #: [m]
    amplitude: Float[Array, "... K"]  #: g_k, linear
    num_sources: Int[Array, "..."]
    snr_db: Float[Array, "..."]


class Scene(NamedTuple):
    """One simulated scene, or a batch of them."""

    measurement: Measurement
    truth: Truth
    signals: Complex[Array, "... L K"]  #: s_l, without the amplitudes g_k


def stream_key(seed: int | UInt32[Array, ""], name: str) -> jax.Array:
    """Return the key of a named stream of a root seed; different streams share no scenes.

    Args:
      seed: 0 to 2**32 - 1.
      name: the commands use `train`, `validation` and `test`; any other name is free.

    Returns:
      A JAX key, [].
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def active_sources(truth: Truth) -> Float[Array, "... K"]:
    """Return 1 for sources and 0 for padding."""
    index = jnp.arange(truth.azimuth.shape[-1])
    return (index < truth.num_sources[..., None]).astype(truth.azimuth.dtype)


def steering_matrix(
    truth: Truth, positions: Float[Array, "N 3"], system: config_lib.SystemConfig
) -> Complex[Array, "... N K"]:
    """Return A = [g_k a(p_k)], [..., N, K]; the columns of padding are zero."""
    columns = arrays.steering_vector(
        truth.azimuth,
        truth.elevation,
        truth.source_range,
        positions,
        wavelength=system.wavelength,
        wavefront=system.wavefront,
        response=element_response.of_system(system),
    )
    return jnp.swapaxes(columns * truth.amplitude[..., None], -1, -2)


def sample_truth(key: jax.Array, scene: config_lib.SceneConfig) -> Truth:
    """Draw the sources of one scene; every field uniform within its configured limits."""
    return _truth_of(random_draws.draw(key, *_truth_draws(scene)), scene)


def _truth_draws(scene: config_lib.SceneConfig) -> list[tuple[int, ...]]:
    """Return the shapes of the draws for `_truth_of`."""
    return [(), (3, scene.max_sources), ()]


def _truth_of(entries: Sequence[Float[Array, "..."]], scene: config_lib.SceneConfig) -> Truth:
    count, places, snr = entries
    numbers = scene.max_sources - scene.min_sources + 1
    added = jnp.floor(random_draws.uniform(count, 0.0, numbers)).astype(jnp.int32)
    count = scene.min_sources + jnp.minimum(added, numbers - 1)
    active = jnp.arange(scene.max_sources) < count
    azimuth, elevation, source_range = places
    source_range = random_draws.uniform(source_range, scene.range_min, scene.range_max)
    inverse_square = scene.path_loss == "inverse_square"
    gain = 1.0 / source_range if inverse_square else jnp.ones_like(source_range)
    return Truth(
        azimuth=jnp.where(active, jnp.deg2rad(scene.azimuth_max_deg) * azimuth, 0.0),
        elevation=jnp.where(active, jnp.deg2rad(scene.elevation_max_deg) * elevation, 0.0),
        source_range=jnp.where(active, source_range, scene.range_max),
        amplitude=jnp.where(active, gain, 0.0),
        num_sources=count,
        snr_db=random_draws.uniform(snr, scene.snr_min_db, scene.snr_max_db),
    )


def source_signals(
    key: jax.Array, num_snapshots: int, max_sources: int, source_signal: config_lib.SourceSignal
) -> Complex[Array, "L K"]:
    """Draw s_l: one unit-modulus value for all snapshots, or a unit-power Gaussian for each."""
    shape = _signal_draws(num_snapshots, max_sources, source_signal)
    signals = _signals_of(random_draws.draw(key, shape)[0], source_signal)
    return jnp.broadcast_to(signals, (num_snapshots, max_sources))


def _signal_draws(
    num_snapshots: int, max_sources: int, source_signal: config_lib.SourceSignal
) -> tuple[int, ...]:
    """Return the shape of the draw for `_signals_of`."""
    constant = source_signal == "constant"
    return (1, max_sources) if constant else (2, num_snapshots, max_sources)


def _signals_of(
    entries: Float[Array, "... K"], source_signal: config_lib.SourceSignal
) -> Complex[Array, "S K"]:
    """Return the signals of every snapshot; one row if they are constant."""
    if source_signal == "constant":
        return jnp.exp(1j * jnp.pi * entries)
    return random_draws.complex_normal(entries)


def _product(left: Complex[Array, "L N"], right: Complex[Array, "M N"]) -> Complex[Array, "L M"]:
    """Compute ``left @ right.T`` as one real product; XLA's complex product is slow on a CPU."""
    count, width = left.shape[0], right.shape[0]
    left = jnp.concatenate([left.real, left.imag])
    right = jnp.concatenate([right.real, right.imag])
    both = linear.matmul(left, right.T)
    real = both[:count, :width] - both[count:, width:]
    return jax.lax.complex(real, both[:count, width:] + both[count:, :width])


def simulate(key: jax.Array, truth: Truth, config: config_lib.Config) -> Scene:
    """Simulate channel, hardware, snapshots and noise of one scene.

    The impairments act on the received snapshots only. The returned codes are nominal, and the
    returned channel is the estimate of the base station.

    Args:
      key: randomness of the scene's channel, signals, hardware and noise.
      truth: one scene (no batch axis).
      config: system, scene and impairments.

    Returns:
      A `Scene` without batch axis.
    """
    sources = truth.azimuth.shape[-1]
    return _scene_of(
        random_draws.draw(key, *_scene_draws(config.system, sources)), key, truth, config
    )


def _scene_draws(system: config_lib.SystemConfig, sources: int) -> list[tuple[int, ...]]:
    """Return the shapes of the draws for `_scene_of`, without those of the impairments."""
    snapshots, antennas = system.num_snapshots, system.num_antennas
    return [
        (),
        *channel.channel_draws(antennas, system.num_elements),
        _signal_draws(snapshots, sources, system.source_signal),
        (2, snapshots, antennas),
    ]


def _static_path(
    key: jax.Array, clean: Complex[Array, "L M"], power_db: float
) -> Complex[Array, "M"]:
    """Draw a static path of the given power relative to the clean snapshots."""
    direction = channel.complex_normal(jax.random.fold_in(key, 2), (clean.shape[-1],))
    power = jnp.mean(jnp.abs(clean) ** 2) * 10.0 ** (power_db / 10.0)
    return direction * jnp.sqrt(power / jnp.mean(jnp.abs(direction) ** 2))


class _Hardware(NamedTuple):
    """Actual hardware, which can differ from the nominal one."""

    positions: Float[Array, "N 3"]
    codes: Complex[Array, "L N"]
    channel_error: Complex[Array, "M N"] | float


def _hardware(
    key: jax.Array,
    positions: Float[Array, "N 3"],
    codes: Complex[Array, "L N"],
    config: config_lib.Config,
) -> _Hardware:
    """Draw the hardware; ideal parts need no draw."""
    impairments = config.impairments
    keys = jax.random.split(jax.random.fold_in(key, 1), 4)
    severity = (
        random_draws.uniform(random_draws.draw(keys[0], ())[0]) if impairments.varied else 1.0
    )
    if impairments.position_jitter > 0:
        (jitter,) = random_draws.draw(keys[1], positions.shape)
        positions = positions + severity * impairments.position_jitter * jitter
    if _surface(impairments) != _surface(config_lib.ImpairmentConfig()):
        codes = codebooks.hardware_response(keys[2], codes, impairments, severity)
    error = 0.0
    if impairments.channel_error > 0:
        shape = (config.system.num_antennas, config.system.num_elements)
        error = channel.complex_normal(keys[3], shape)
        error = severity * jnp.sqrt(impairments.channel_error) * error
    return _Hardware(positions, codes, error)


def _surface(impairments: config_lib.ImpairmentConfig) -> config_lib.ImpairmentConfig:
    """Return the impairments that act on the codes."""
    ideal = config_lib.ImpairmentConfig()
    return dataclasses.replace(
        ideal,
        phase_error=impairments.phase_error,
        amplitude_error_db=impairments.amplitude_error_db,
        dead_fraction=impairments.dead_fraction,
        beta_min=impairments.beta_min,
    )


def _scene_of(
    entries: Sequence[Float[Array, "..."]],
    key: jax.Array,
    truth: Truth,
    config: config_lib.Config,
) -> Scene:
    """Simulate from draws with the shapes of `_scene_draws`; the key gives those of hardware."""
    factor, angles, scatter, signals, noise = entries
    system, limits = config.system, config.scene
    nominal_positions, nominal_codes = arrays.element_positions(system), codebooks.codebook(system)
    true_channel = channel.channel_of(
        (angles, scatter),
        nominal_positions,
        wavelength=system.wavelength,
        rician_factor=random_draws.uniform(
            factor, limits.rician_factor_min, limits.rician_factor_max
        ),
    )
    real = _hardware(key, nominal_positions, nominal_codes, config)
    sent = _signals_of(signals, system.source_signal)
    # Padding has zero amplitude. Sources are few, so sums are cheaper than matrix products.
    columns = steering_matrix(truth, real.positions, system)
    field = jnp.sum(sent[:, None, :] * columns, axis=-1)
    clean = _product(real.codes * field, true_channel)
    noise_variance = jnp.mean(jnp.abs(clean) ** 2) * 10.0 ** (-truth.snr_db / 10.0)
    received = clean + jnp.sqrt(noise_variance) * random_draws.complex_normal(noise)
    if limits.static_path_db is not None:
        received = received + _static_path(key, clean, limits.static_path_db)
    measurement = Measurement(
        snapshots=received,
        channel=true_channel + real.channel_error,
        codes=nominal_codes,
        noise_variance=noise_variance,
    )
    return Scene(measurement, truth, jnp.broadcast_to(sent, (system.num_snapshots, sent.shape[-1])))


def scenes_at(key: jax.Array, indices: Int[Array, "B"], config: config_lib.Config) -> Scene:
    """Return the scenes of a stream with the given indices, independent of the batch.

    Args:
      key: a stream's key, see `stream_key`.
      indices: [B] scene indices.
      config: system, scene and impairments.

    Returns:
      A `Scene` with leading axis B.
    """

    shapes = _truth_draws(config.scene)
    shapes_after = _scene_draws(config.system, config.scene.max_sources)

    def one(index):
        own = jax.random.fold_in(key, index)
        entries = random_draws.draw(own, *shapes, *shapes_after)
        truth = _truth_of(entries[: len(shapes)], config.scene)
        return _scene_of(entries[len(shapes) :], own, truth, config)

    return jax.vmap(one)(indices)


_scenes_from_0 = jax.jit(
    lambda key, config, batch_size: scenes_at(key, jnp.arange(batch_size), config),
    static_argnames=("config", "batch_size"),
)


def sample_scenes(key: jax.Array, config: config_lib.Config, batch_size: int) -> Scene:
    """Return the first `batch_size` scenes of a stream; see `scenes_at` for others.

    Args:
      key: a stream's key, see `stream_key`.
      config: system, scene and impairments.
      batch_size: B, number of scenes.

    Returns:
      A `Scene` with leading axis B.

    Raises:
      ConfigError: `key` is a number.
    """
    if isinstance(key, int):
        raise config_lib.ConfigError(
            f"key: expected a JAX key; found the number {key}; pass jax.random.key({key})"
        )
    return _scenes_from_0(key, config, batch_size)
