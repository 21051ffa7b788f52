r"""Drawing scenes and simulating what the base station receives.

Snapshot l is :math:`y_l = H\,\mathrm{diag}(c_l)\,A s_l + n_l` with
:math:`A = [g_k a(p_k)]` (docs/theory.md). Everything here handles one scene and is mapped over
a batch with `jax.vmap`; a scene is a function of its stream's key and its index alone.
"""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import arrays, channel, codebooks
from ris_jax import config as config_lib


class Measurement(NamedTuple):
    """Received snapshots, estimated channel and nominal codes.

    `localize` completes what is missing: without a surface the channel is I and the codes are 1,
    so that ``Measurement(snapshots)`` is an array of M elements; an unknown noise variance is NaN.
    """

    snapshots: Complex[Array, "... L M"]
    channel: Complex[Array, "... M N"] = None  # pyright: ignore[reportAssignmentType]
    codes: Complex[Array, "... L N"] = None  # pyright: ignore[reportAssignmentType]
    noise_variance: Float[Array, "..."] = None  # pyright: ignore[reportAssignmentType]


class Truth(NamedTuple):
    """What was there. Sources after the first `num_sources` are padding of amplitude zero."""

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


def stream_key(seed: int, name: str) -> jax.Array:
    """The key of a named stream of a root seed; streams of other names share no scene with it.

    Args:
      seed: 0 to 2**32 - 1.
      name: `train`, `validation` and `test` are what the commands draw from; any other is yours.

    Returns:
      A JAX key, [].
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def active_sources(truth: Truth) -> Float[Array, "... K"]:
    """1 where there is a source, 0 where there is padding."""
    index = jnp.arange(truth.azimuth.shape[-1])
    return (index < truth.num_sources[..., None]).astype(truth.azimuth.dtype)


def steering_matrix(
    truth: Truth, positions: Float[Array, "N 3"], system: config_lib.SystemConfig
) -> Complex[Array, "... N K"]:
    """A = [g_k a(p_k)], [..., N, K]; the columns of padding are zero."""
    columns = arrays.steering_vector(
        truth.azimuth,
        truth.elevation,
        truth.source_range,
        positions,
        wavelength=system.wavelength,
        wavefront=system.wavefront,
    )
    return jnp.swapaxes(columns * truth.amplitude[..., None], -1, -2)


def sample_truth(key: jax.Array, scene: config_lib.SceneConfig) -> Truth:
    """Draws the sources of one scene; every field uniform within its configured limits."""
    count_key, azimuth_key, elevation_key, range_key, snr_key = jax.random.split(key, 5)
    shape = (scene.max_sources,)
    count = jax.random.randint(count_key, (), scene.min_sources, scene.max_sources + 1)
    active = jnp.arange(scene.max_sources) < count
    azimuth_max = jnp.deg2rad(scene.azimuth_max_deg)
    elevation_max = jnp.deg2rad(scene.elevation_max_deg)
    azimuth = jax.random.uniform(azimuth_key, shape, minval=-azimuth_max, maxval=azimuth_max)
    elevation = jax.random.uniform(
        elevation_key, shape, minval=-elevation_max, maxval=elevation_max
    )
    source_range = jax.random.uniform(
        range_key, shape, minval=scene.range_min, maxval=scene.range_max
    )
    gain = 1.0 / source_range if scene.path_loss == "inverse_square" else jnp.ones(shape)
    return Truth(
        azimuth=jnp.where(active, azimuth, 0.0),
        elevation=jnp.where(active, elevation, 0.0),
        source_range=jnp.where(active, source_range, scene.range_max),
        amplitude=jnp.where(active, gain, 0.0),
        num_sources=count,
        snr_db=jax.random.uniform(snr_key, minval=scene.snr_min_db, maxval=scene.snr_max_db),
    )


def source_signals(
    key: jax.Array, num_snapshots: int, max_sources: int, source_signal: config_lib.SourceSignal
) -> Complex[Array, "L K"]:
    """s_l: one draw of unit modulus for all snapshots, or a unit-power Gaussian draw for each."""
    if source_signal == "constant":
        phase = 2.0 * jnp.pi * jax.random.uniform(key, (max_sources,))
        return jnp.broadcast_to(jnp.exp(1j * phase), (num_snapshots, max_sources))
    return channel.complex_normal(key, (num_snapshots, max_sources))


def simulate(key: jax.Array, truth: Truth, config: config_lib.Config) -> Scene:
    """Channel, hardware, snapshots and noise of one scene.

    The impairments act on what is received only: the returned codes are the nominal ones, and the
    returned channel is the base station's estimate.

    Args:
      key: randomness of the scene's channel, signals, hardware and noise.
      truth: one scene (no batch axis).
      config: system, scene and impairments.

    Returns:
      A `Scene` without batch axis.
    """
    system, impairments = config.system, config.impairments
    keys = jax.random.split(key, 7)
    nominal_positions = arrays.element_positions(system)
    nominal_codes = codebooks.codebook(system)
    rician_factor = jax.random.uniform(
        keys[0], minval=config.scene.rician_factor_min, maxval=config.scene.rician_factor_max
    )
    true_channel = channel.rician_channel(
        keys[1],
        nominal_positions,
        num_antennas=system.num_antennas,
        wavelength=system.wavelength,
        rician_factor=rician_factor,
    )
    # Folded in, so that scenes without it stay the same.
    severity = jax.random.uniform(jax.random.fold_in(key, 7)) if impairments.varied else 1.0
    jitter = jax.random.uniform(keys[2], nominal_positions.shape, minval=-1.0, maxval=1.0)
    positions = nominal_positions + severity * impairments.position_jitter * jitter
    codes = codebooks.hardware_response(keys[3], nominal_codes, impairments, severity)
    signals = source_signals(
        keys[4], system.num_snapshots, truth.azimuth.shape[-1], system.source_signal
    )
    field = signals @ steering_matrix(truth, positions, system).T
    clean = (codes * field) @ true_channel.T
    noise_variance = jnp.mean(jnp.abs(clean) ** 2) * 10.0 ** (-truth.snr_db / 10.0)
    noise = channel.complex_normal(keys[5], clean.shape)
    channel_noise = channel.complex_normal(keys[6], true_channel.shape)
    measurement = Measurement(
        snapshots=clean + jnp.sqrt(noise_variance) * noise,
        channel=true_channel + severity * jnp.sqrt(impairments.channel_error) * channel_noise,
        codes=nominal_codes,
        noise_variance=noise_variance,
    )
    return Scene(measurement, truth, signals)


def scenes_at(key: jax.Array, indices: Int[Array, "B"], config: config_lib.Config) -> Scene:
    """The scenes of a stream with the given indices, whoever else is in the batch.

    Args:
      key: a stream's key, see `stream_key`.
      indices: [B] which scenes.
      config: system, scene and impairments.

    Returns:
      A `Scene` with leading axis B.
    """

    def one(index):
        truth_key, measurement_key = jax.random.split(jax.random.fold_in(key, index))
        truth = sample_truth(truth_key, config.scene)
        return simulate(measurement_key, truth, config)

    with jax.default_matmul_precision("highest"):  # phases of many radians
        return jax.vmap(one)(indices)


_scenes_from_0 = jax.jit(
    lambda key, config, batch_size: scenes_at(key, jnp.arange(batch_size), config),
    static_argnames=("config", "batch_size"),
)


def sample_scenes(key: jax.Array, config: config_lib.Config, batch_size: int) -> Scene:
    """The first `batch_size` scenes of a stream; see `scenes_at` for others.

    Args:
      key: a stream's key, see `stream_key`.
      config: system, scene and impairments.
      batch_size: B, how many scenes.

    Returns:
      A `Scene` with leading axis B.

    Raises:
      ConfigError: a number instead of a key.
    """
    if isinstance(key, int):
        raise config_lib.ConfigError(
            f"key: expected a JAX key; found the number {key}; give jax.random.key({key})"
        )
    return _scenes_from_0(key, config, batch_size)
