r"""Waves at several frequencies: stacked steering vectors, and simulation of wideband scenes.

At frequency f, snapshot l is

.. math:: y_{fl} = H_f\,\mathrm{diag}(c_{fl}) \sum_k s_{fk}\, a_f(p_k) + n_{fl}

with the steering vector :math:`a_f` of the wavelength c / f: the direction of a phase code and the
shape of a wave change with the frequency (beam squint). The amplitudes :math:`s_{fk}` are

* `incoherent`: free at each frequency;
* `coherent`: :math:`s_k \exp\{-j 2\pi (f - f_0) \tau_k\}`, one amplitude and one delay a source.

Steering vectors have the phase 0 at the origin of the array. The delay :math:`\tau_k` is therefore
that of the wave at the origin, relative to the clock of the receiver. It contains r / c and the
clock offset, which is common to all sources. Range and delay are separate coordinates: the range
follows from the curvature of the wavefront. The reference frequency :math:`f_0` is the mean of the
frequencies; another one changes the phase of :math:`s_k` only.

A stacked vector has the entries of all frequencies one after the other, [..., F N].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.physics import arrays, channel, codebooks, phasor, scenes

# Paths of the scattered part of a simulated channel, and their largest delay [s].
_TAPS = 8
_DELAY_SPREAD = 50e-9


class WidebandScene(NamedTuple):
    """One simulated wideband scene, or a batch of them."""

    #: Snapshots [..., F, L, M], channel [..., F, M, N] and codes [..., L, N].
    measurement: scenes.Measurement
    truth: scenes.Truth
    delay: Float[Array, "... K"]  #: [s]
    signals: Complex[Array, "... F K"]  #: amplitudes g_k s_fk of every frequency


class Band(NamedTuple):
    """Frequencies as the functions of this module use them; see `band_of`."""

    wavelengths: Float[Array, "F"]  #: c / f [m]
    wavenumbers: Float[Array, "F"]  #: (f - f0) / c, turns per metre of delay distance [1/m]


def band_of(frequencies: Float[Any, "F"]) -> Band:
    """Return wavelengths and relative wavenumbers; computed in float64 on the host.

    In float32, 28 GHz has a rounding error of 1 kHz, or 0.006 turns at a delay of 1 us.

    Args:
      frequencies: [F] [Hz], concrete.

    Raises:
      ConfigError: they are not different frequencies in hertz.
    """
    values = np.asarray(frequencies)
    check_frequencies(values)
    values = values.astype(np.float64)
    kind = jnp.zeros(()).dtype
    return Band(
        jnp.asarray(config_lib.SPEED_OF_LIGHT / values, kind),
        jnp.asarray((values - values.mean()) / config_lib.SPEED_OF_LIGHT, kind),
    )


def delay_phasors(
    distance: Float[Array, "..."], wavenumbers: Float[Array, "F"]
) -> Complex[Array, "... F"]:
    r"""Return :math:`\exp\{-j 2\pi (f - f_0)\tau\}` of delay distances :math:`c\tau`.

    Args:
      distance: [...] [m].
      wavenumbers: [F] of a `Band`.
    """
    cosine, sine = phasor.cosine_and_sine(distance[..., None] * wavenumbers)
    return jax.lax.complex(cosine, -sine)


def steering_at_frequencies(
    coordinates: Float[Array, "... 3"],
    positions: Float[Array, "N 3"],
    *,
    band: Band,
    wavefront: config_lib.Wavefront = "spherical",
) -> Complex[Array, "... F N"]:
    """Return the steering vectors of every frequency at (u, w, 1/r).

    Args:
      coordinates: [..., 3] direction cosines u and w, inverse range [1/m].
      positions: [N, 3] elements [m].
      band: frequencies.
      wavefront: as for `arrays.steering`.
    """

    def at(wavelength):
        return arrays.steering_at(
            coordinates, positions, wavelength=wavelength, wavefront=wavefront
        )

    return jax.vmap(at, out_axes=-2)(band.wavelengths)


def stacked_jet(
    coordinates: Float[Array, "... D"],
    positions: Float[Array, "N 3"],
    *,
    band: Band,
    wavefront: config_lib.Wavefront,
    coherence: config_lib.Coherence,
) -> Complex[Array, "... D+1 FN"]:
    r"""Return stacked steering vectors and their derivatives in the coordinates.

    Args:
      coordinates: [..., 3] (u, w, 1/r) if incoherent; [..., 4] (u, w, 1/r, delay distance
        :math:`c\tau` [m]) if coherent.
      positions: [N, 3] elements [m].
      band: frequencies.
      wavefront: as for `arrays.steering`.
      coherence: incoherent or coherent.
    """

    def at(wavelength):
        return arrays.steering_jet(
            coordinates[..., :3], positions, wavelength=wavelength, wavefront=wavefront
        )

    jet = jax.vmap(at, out_axes=-2)(band.wavelengths)  # [..., 4, F, N]
    if coherence == "coherent":
        wavenumbers = band.wavenumbers
        jet = jet * delay_phasors(coordinates[..., 3], wavenumbers)[..., None, :, None]
        slope = jet[..., :1, :, :] * (-2j * jnp.pi * wavenumbers)[:, None]
        jet = jnp.concatenate([jet, slope], axis=-3)
    return jet.reshape(*jet.shape[:-2], -1)


def check_frequencies(frequencies: Float[np.ndarray, "F"]) -> None:
    """Check that frequencies are different, finite and in hertz.

    Raises:
      ConfigError: they are not.
    """
    values = np.asarray(frequencies)
    found: object = None
    if values.ndim != 1 or not values.size or values.dtype.kind not in "fiu":
        found = f"{values.dtype} {list(values.shape)}"
    elif not (np.isfinite(values).all() and (values >= config_lib.LOWEST_FREQUENCY).all()):
        found = f"{np.min(values):g} - in MHz or GHz?"
    elif len(np.unique(values)) < len(values):
        found = "a frequency more than once"
    if found is not None:
        raise config_lib.ConfigError(
            "frequencies: expected [F] different frequencies [Hz], all "
            f"{config_lib.LOWEST_FREQUENCY:g} or more; found {found}"
        )


@compilation.one_program("num_antennas")
def wideband_channel(
    key: jax.Array,
    positions: Float[Array, "N 3"],
    *,
    num_antennas: int,
    band: Band,
    rician_factor: Float[Array, ""],
) -> Complex[Array, "F M N"]:
    r"""Draw a frequency-selective Rician channel of unit mean power.

    The line of sight is that of `channel.rician_channel`: a plane wave leaves the surface and
    arrives at a line of antennas, half a wavelength apart at the mean frequency. The scattered part
    has eight paths with delays of up to 50 ns and circular Gaussian gains.

    Args:
      key: randomness of this channel.
      positions: [N, 3] elements [m].
      num_antennas: M.
      band: frequencies.
      rician_factor: [] power of the line of sight over that of the scattered part.
    """
    gains, angles, delays = jax.random.split(key, 3)
    limits = jnp.deg2rad(jnp.array([60.0, 30.0, 60.0, 180.0]))
    azimuth, elevation, arrival, phase = limits * jax.random.uniform(angles, (4,), minval=-1.0)
    unit = arrays.direction(azimuth, elevation)
    leaving = jax.vmap(
        lambda wavelength: arrays.steering(
            unit, jnp.zeros(()), positions, wavelength=wavelength, wavefront="planar"
        )
    )(band.wavelengths)
    leaving = leaving * jnp.sqrt(float(positions.shape[0]))
    relative = 1.0 / band.wavelengths[:, None] / jnp.mean(1.0 / band.wavelengths)  # f / f0
    turn = phase - jnp.pi * relative * jnp.arange(num_antennas) * jnp.sin(arrival)
    line_of_sight = jnp.exp(1j * turn)[:, :, None] * leaving[:, None, :]
    taps = channel.complex_normal(gains, (_TAPS, num_antennas, positions.shape[0]))
    distance = config_lib.SPEED_OF_LIGHT * _DELAY_SPREAD * jax.random.uniform(delays, (_TAPS,))
    turns = delay_phasors(distance, band.wavenumbers)
    scattered = jnp.einsum("tf,tmn->fmn", turns, taps) / jnp.sqrt(float(_TAPS))
    weight = rician_factor / (rician_factor + 1.0)
    return jnp.sqrt(weight) * line_of_sight + jnp.sqrt(1.0 - weight) * scattered


def received_clean(
    signals: Complex[Array, "F K"],
    coordinates: Float[Array, "K 3"],
    channels: Complex[Array, "F M N"],
    codes: Complex[Array, "F L N"] | Complex[Array, "L N"],
    positions: Float[Array, "N 3"],
    *,
    band: Band,
    wavefront: config_lib.Wavefront,
) -> Complex[Array, "F L M"]:
    """Return the snapshots without noise of sources at (u, w, 1/r); signals as in the module."""
    vectors = steering_at_frequencies(coordinates, positions, band=band, wavefront=wavefront)
    fields = jnp.einsum("fk,kfn->fn", signals, vectors, precision="highest")
    axes = "fln" if codes.ndim == 3 else "ln"
    return jnp.einsum(f"{axes},fn,fmn->flm", codes, fields, channels, precision="highest")


def received_power(
    signals: Complex[Array, "F K"],
    place: Float[Array, "K 3"],
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    band: Band,
    wavefront: config_lib.Wavefront,
) -> Float[Array, ""]:
    """Return the mean power of the snapshots without noise, of sources at given positions.

    Args:
      signals: [F, K].
      place: [K, 3] azimuth [rad], elevation [rad], range [m].
      measurement: channel [F, M, N] and codes [F, L, N] or [L, N].
      positions: [N, 3] elements [m].
      band: frequencies.
      wavefront: as for `arrays.steering`.
    """
    clean = received_clean(
        signals,
        arrays.to_coordinates(place[:, 0], place[:, 1], place[:, 2]),
        measurement.channel,
        measurement.codes,
        positions,
        band=band,
        wavefront=wavefront,
    )
    return jnp.mean(jnp.abs(clean) ** 2)


def simulate_wideband(
    key: jax.Array,
    truth: scenes.Truth,
    delay: Float[Array, "K"],
    config: config_lib.Config,
    *,
    band: Band,
    coherence: config_lib.Coherence = "coherent",
) -> WidebandScene:
    """Simulate channel, snapshots and noise of one scene at F frequencies.

    The surface has the same codes at all frequencies, and no impairments.

    Args:
      key: randomness of the channel, the phases of the signals and the noise.
      truth: sources; the amplitudes are the same at all frequencies.
      delay: [K] [s], used by coherent signals.
      config: system and limits of the Rician factor; its wavelength sets element positions only.
      band: frequencies.
      coherence: coherent, one random phase a source; or incoherent, one for each frequency.

    Returns:
      A `WidebandScene` without batch axis.
    """
    system, limits = config.system, config.scene
    positions, codes = arrays.element_positions(system), codebooks.codebook(system)
    keys = jax.random.split(key, 4)
    channels = wideband_channel(
        keys[0],
        positions,
        num_antennas=system.num_antennas,
        band=band,
        rician_factor=jax.random.uniform(
            keys[1], minval=limits.rician_factor_min, maxval=limits.rician_factor_max
        ),
    )
    coherent, sources = coherence == "coherent", truth.azimuth.shape[-1]
    rows = 1 if coherent else len(band.wavelengths)
    phase = jax.random.uniform(keys[2], (rows, sources), minval=-jnp.pi, maxval=jnp.pi)
    signals = truth.amplitude * jnp.exp(1j * phase)
    if coherent:
        distance = config_lib.SPEED_OF_LIGHT * jnp.asarray(delay, truth.azimuth.dtype)
        signals = signals * delay_phasors(distance, band.wavenumbers).T
    clean = received_clean(
        signals,
        arrays.to_coordinates(truth.azimuth, truth.elevation, truth.source_range),
        channels,
        codes,
        positions,
        band=band,
        wavefront=system.wavefront,
    )
    noise_variance = jnp.mean(jnp.abs(clean) ** 2) * 10.0 ** (-truth.snr_db / 10.0)
    noise = channel.complex_normal(keys[3], clean.shape)
    measurement = scenes.Measurement(
        snapshots=clean + jnp.sqrt(noise_variance) * noise,
        channel=channels,
        codes=codes,
        noise_variance=noise_variance,
    )
    return WidebandScene(measurement, truth, jnp.asarray(delay), signals)
