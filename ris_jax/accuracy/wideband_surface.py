"""Bounds and code design of one surface that receives a single source at several frequencies.

A bound is computed for a noise variance of one and a source of unit amplitude at all frequencies;
it scales with the noise variance. The codes of a design are the same at all frequencies.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import bounds, code_design, wideband_bound
from ris_jax.physics import scenes, wideband

_CHUNK_BYTES = 1 << 26  # size of codes times steering vectors and slopes in one call
_LARGEST_CHUNK = 128  # positions


class WidebandSurface(NamedTuple):
    """Inputs of the bound at F frequencies."""

    positions: Float[Array, "N 3"]  #: [m]
    codes: Complex[Array, "F L N"] | Complex[Array, "L N"]
    channel: Complex[Array, "F M N"]
    band: wideband.Band


class WidebandUnitBound(NamedTuple):
    """Bound of a single source at each of P positions, at a noise variance of one."""

    #: Standard deviations of azimuth [rad], elevation [rad], range [m] and, if coherent, delay [s];
    #: infinity if not identifiable.
    deviations: Float[np.ndarray, "P D"]
    position_error: Float[np.ndarray, "P"]  #: [m]
    gain: Float[np.ndarray, "P"]  #: mean received power


@functools.partial(jax.jit, static_argnames=("coherence", "wavefront"))
def _chunk_bounds(
    surface: WidebandSurface,
    places: Float[Array, "P 3"],
    *,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront,
) -> tuple[Array, Array, Array]:
    """Return the fields of a `WidebandUnitBound` for one chunk."""
    signals = jnp.ones((len(surface.band.wavelengths), 1), surface.codes.dtype)
    noise = jnp.ones((), places.dtype)
    measurement = scenes.Measurement(jnp.zeros(()), surface.channel, surface.codes, noise)

    def one(place):
        gain = wideband.received_power(
            signals, place[None], measurement, surface.positions, band=surface.band,
            wavefront=wavefront,
        )  # fmt: skip
        source = place[:1], place[1:2], place[2:]
        found = wideband_bound.wideband_bound(
            measurement, *source, None, signals, surface.positions, band=surface.band,
            coherence=coherence, wavefront=wavefront,
        )  # fmt: skip
        error = bounds.position_error_bound(found.position, *source)
        return wideband_bound.wideband_deviations(found)[0], error[0], gain

    return jax.vmap(one)(places)


def unit_bounds(
    surface: WidebandSurface,
    places: Float[np.ndarray, "P 3"],
    *,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront = "spherical",
) -> WidebandUnitBound:
    """Compute the bound of a single source at each of P positions, at a noise variance of one.

    Args:
      surface: array, codes, channel and frequencies.
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      coherence: incoherent or coherent.
      wavefront: as for `arrays.steering`.

    Returns:
      A `WidebandUnitBound` of NumPy arrays; D is 3 (incoherent) or 4 (coherent). Deviations and
      position errors are proportional to the root of the noise variance.

    Raises:
      ValueError: there are no positions, or arrays do not fit.
    """
    if not len(places):
        raise ValueError("places: need at least one position; got none")
    codes, frequencies = surface.codes, len(surface.band.wavelengths)
    values = 5 * frequencies * codes.shape[-2] * codes.shape[-1] * codes.dtype.itemsize
    size = min(max(_CHUNK_BYTES // values, 1), _LARGEST_CHUNK, len(places))
    parts = []
    for start in range(0, len(places), size):
        part = np.asarray(places[start : start + size], surface.positions.dtype)
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        found = _chunk_bounds(surface, padded, coherence=coherence, wavefront=wavefront)
        parts.append([np.asarray(field)[: len(part)] for field in found])
    return WidebandUnitBound(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnames=("coherence", "wavefront"))
def design_problem(
    surface: WidebandSurface,
    places: Float[Array, "P 3"],
    level: Float[Array, "P"],
    *,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront = "spherical",
) -> code_design.DesignProblem:
    """Compute the responses of positions, for codes that are the same at all frequencies.

    The antennas of all frequencies together are the antennas of a coherent source, which has its
    delay as a further unknown. For an incoherent source, each frequency is a group of positions.

    Args:
      surface: array, channel and frequencies; its codes are not used.
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      level: [P] power of the source at each frequency over the noise variance.
      coherence: incoherent or coherent.
      wavefront: as for `arrays.steering`.
    """

    def at(channel, wavelength):
        return code_design.make_problem(
            surface.positions, channel, wavelength, places, level, wavefront=wavefront
        ).responses

    found = jax.vmap(at, out_axes=1)(surface.channel, surface.band.wavelengths)  # [N, F, P, 4, M]
    elements = len(surface.positions)
    if coherence == "incoherent":
        return code_design.DesignProblem(found.reshape(elements, -1, *found.shape[3:]), level)
    turns = (-2j * jnp.pi * surface.band.wavenumbers)[:, None, None, None]
    found = jnp.concatenate([found, turns * found[..., :1, :]], axis=-2)
    found = jnp.moveaxis(found, 1, 3)  # [N, P, 5, F, M]
    return code_design.DesignProblem(found.reshape(*found.shape[:3], -1), level)
