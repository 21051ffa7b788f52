"""Published case 1: one source before a surface of 50 x 50 elements with one antenna behind it.

  python experiments/published_cases.py --cases=1

Abu-Shaban, Keykhosravi, Keskin, Alexandropoulos, Seco-Granados and Wymeersch, *Near-field
localization with a reconfigurable intelligent surface acting as lens*, arXiv:2010.05617.

Set-up: 28 GHz; elements at (i - 25) lambda / 2, i = 0 ... 49; one antenna one wavelength behind the
surface, 200 codes of random phases; one source on the diagonal x = y = z; 1 mW and noise of
2.51e-11 mW. Both hops have the power of a square patch of half a wavelength (the paper's model CM3:
Bjoernson and Sanguinetti, arXiv:2002.04960, Eq. 4); the phase of the channel to the antenna is
removed, and waves have unit modulus over the surface.

Published are position error bounds, for one draw of the codes. Here they are computed for
--num_draws draws. The estimates are for one draw. Data are simulated with NumPy, in double
precision.
"""

from typing import NamedTuple

import ris_jax  # Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from ris_jax.accuracy import bound_maps, code_baselines
from ris_jax.physics import arrays
from ris_jax.physics.scenes import Measurement

WAVELENGTH = 299_792_458.0 / 28e9  # [m]
SIDE, CODES = 50, 200
POWER_OVER_NOISE = 1.0 / 2.51e-11
# Range [m] and position error bound [m].
PUBLISHED = {
    1.0: 7.69e-4, 2.0: 6.15e-3, 3.0: 0.0208, 4.0: 0.0494, 6.0: 0.167, 8.0: 0.395, 10.0: 0.770,
    15.0: 2.60,
}  # fmt: skip
# The half space in front of the surface from 0.5 m to infinity, up to 64 degrees from boresight
# along each axis.
REGION = ris_jax.SearchRegion(u_max=0.9, w_max=0.9, inverse_range_min=0.0, inverse_range_max=2.0)
_DIAGONAL = np.array([np.pi / 4, np.arcsin(3.0**-0.5)])  # azimuth and elevation [rad]


class Trials(NamedTuple):
    """Estimates of one source in several trials; NaN if no source is found."""

    counts: Float[np.ndarray, "T"]  #: sources found
    position_error: Float[np.ndarray, "T"]  #: of the strongest source [m]
    inverse_range_error: Float[np.ndarray, "T"]  #: of the strongest source [1/m]


def patch_gain(x, y, z):
    """Return the power that half-wavelength square patches receive from an isotropic antenna.

    Args:
      x: [...] distance of patch and antenna along the polarisation's normal [m].
      y: [...] along the polarisation [m].
      z: [...] from the plane of the patch [m].
    """
    total = 0.0
    for across in (WAVELENGTH / 4 + x, WAVELENGTH / 4 - x):
        for along in (WAVELENGTH / 4 + y, WAVELENGTH / 4 - y):
            u, v = across / z, along / z
            root = np.sqrt(u**2 + v**2 + 1.0)
            total += u * v / (3.0 * (v**2 + 1.0) * root) + 2.0 / 3.0 * np.arctan(u * v / root)
    return total / (4.0 * np.pi)


def elements() -> Float[np.ndarray, "N 3"]:
    """Return the positions of the elements [m]."""
    return np.asarray(arrays.planar_array(SIDE, SIDE, WAVELENGTH / 2, centered=False), float)


def antenna_channel() -> Float[np.ndarray, "1 N"]:
    """Return the channel from the elements to the antenna."""
    x, y, _ = elements().T
    return np.sqrt(patch_gain(x, y, WAVELENGTH))[None]


def signal_power(source_range, power_db: float = 0.0):
    """Return the power of the source at an element over the noise, for a range [m] or several.

    Args:
      source_range: [...] [m].
      power_db: transmit power over that of the paper [dB].
    """
    edge = source_range / 3.0**0.5
    return POWER_OVER_NOISE * 10.0 ** (power_db / 10.0) * patch_gain(edge, edge, edge)


def bounds(
    seed: int, ranges: Float[np.ndarray, "P"], power_db: float = 0.0
) -> bound_maps.Deviations:
    """Return the bounds of a source on the diagonal at P ranges [m], for one draw of the codes."""
    surface = bound_maps.Surface(
        jnp.asarray(elements()),
        jnp.asarray(code_baselines.random_codes(seed, CODES, SIDE**2), complex),
        jnp.asarray(antenna_channel()[None], complex),
        jnp.asarray(WAVELENGTH),
    )
    places = np.column_stack([np.tile(_DIAGONAL, (len(ranges), 1)), ranges])
    unit = bound_maps.unit_bounds(surface, places, wavefront="spherical_phase")
    snr = signal_power(ranges, power_db) * SIDE**2 * unit.gain
    return bound_maps.deviations(unit, snr, places)


def snapshots(
    seed: int, source_range: float, num_trials: int, power_db: float = 0.0
) -> Complex[np.ndarray, "T L 1"]:
    """Simulate the signals of the antenna, with noise of variance one.

    Args:
      seed: of the codes; the noise also depends on the other arguments.
      source_range: [m].
      num_trials: T, draws of the noise.
      power_db: transmit power over that of the paper [dB].
    """
    place = np.full(3, source_range / 3.0**0.5)
    distance = np.linalg.norm(place - elements(), axis=1)
    wave = np.exp(-2j * np.pi / WAVELENGTH * (distance - source_range))
    codes = code_baselines.random_codes(seed, CODES, SIDE**2)
    clean = codes @ (antenna_channel()[0] * wave)
    stream = [seed, round(1e3 * source_range), round(100.0 - power_db)]
    noise = np.random.default_rng(stream).normal(size=(2, num_trials, CODES)) * 0.5**0.5
    found = np.sqrt(signal_power(source_range, power_db)) * clean + noise[0] + 1j * noise[1]
    return found[..., None].astype(np.complex64)


def localised(seed: int, source_range: float, num_trials: int, power_db: float = 0.0) -> Trials:
    """Localise the source in simulated data, number of sources unknown; see `snapshots`."""
    codes = code_baselines.random_codes(seed, CODES, SIDE**2)
    estimate = ris_jax.localize(
        Measurement(
            snapshots(seed, source_range, num_trials, power_db),
            antenna_channel().astype(np.complex64),
            codes,
        ),
        elements(),
        wavelength=WAVELENGTH,
        wavefront="spherical_phase",
        region=REGION,
        check=False,
    )
    return errors(estimate, np.tile([*_DIAGONAL, source_range], (num_trials, 1)))


def errors(estimate: ris_jax.Estimate, places: Float[np.ndarray, "T 3"]) -> Trials:
    """Compare the strongest source with the true place: azimuth, elevation [rad], range [m]."""
    first = (estimate.azimuth, estimate.elevation, estimate.source_range)
    found = np.stack([np.asarray(values, float)[:, 0] for values in first], axis=-1)
    counts = np.asarray(estimate.num_sources)
    found[counts == 0] = np.nan

    def cartesian(place):
        azimuth, elevation, metres = place.T
        return metres[:, None] * np.stack(
            [
                np.sin(azimuth) * np.cos(elevation),
                np.sin(elevation),
                np.cos(azimuth) * np.cos(elevation),
            ],
            axis=-1,
        )

    return Trials(
        counts,
        np.linalg.norm(cartesian(found) - cartesian(places), axis=1),
        1.0 / found[:, 2] - 1.0 / places[:, 2],
    )
