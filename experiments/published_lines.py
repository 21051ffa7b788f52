"""Published cases 2 and 3: lines of antennas without a surface.

  python experiments/published_cases.py --cases=2,3

2. A line of 128 antennas half a wavelength apart at 25 GHz, behind a combiner of 16 x 128 random
   phases; one snapshot of one source at 1 to 10 m. The noise enters at the antennas, with variance
   2 / SNR for a source of power 1. Combiner and snapshot are multiplied by the inverse root of the
   covariance of the combined noise, so that the noise is white. Ranges are uniform over 1 to 10 m
   and azimuths over +-60 degrees: the published distribution is not known.
3. A line of 15 antennas half a wavelength apart, 100 snapshots, two sources of independent signals
   with 10 dB each per antenna, 9 to 10 degrees apart within +-55 degrees. Ranges are uniform over
   12 to 39 wavelengths, from the end of the Fresnel region to 0.4 of the Fraunhofer distance.

Waves have unit modulus over the line. A line determines the azimuth and the range in a plane; the
elevation is 0. Data are simulated with NumPy in double precision.
"""

from typing import NamedTuple

import ris_jax  # Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float
from published_surface import Trials, errors

from ris_jax.physics.scenes import Measurement

WAVELENGTH = 299_792_458.0 / 25e9  # of case 2 [m]
ANTENNAS, CHAINS = 128, 16
# SNR [dB] and position RMSE [m] of the published network.
PUBLISHED = {0.0: 4.39, 5.0: 2.59, 10.0: 1.65, 15.0: 1.46, 20.0: 1.40}
ACCURACY = (0.85, 0.97)  # published, of case 3
_LIMITS = ris_jax.Limits(
    azimuth_max=np.radians(60.0), elevation_max=0.0, range_min=1.0, range_max=10.0
)
_COUNTED, _SNAPSHOTS, _SNR_DB = 15, 100, 10.0


class OneShot(NamedTuple):
    """Data of case 2."""

    snapshots: Complex[np.ndarray, "T 1 M"]  #: with white noise
    combiner: Complex[np.ndarray, "M N"]
    places: Float[np.ndarray, "T 3"]  #: azimuth, elevation [rad], range [m]
    noise_variance: float


def line(count: int, wavelength: float) -> Float[np.ndarray, "N 3"]:
    """Return antennas half a wavelength apart along x [m]."""
    offsets = (np.arange(count) - (count - 1) / 2) * wavelength / 2
    return np.stack([offsets, 0 * offsets, 0 * offsets], axis=-1)


def waves(
    azimuth: Float[np.ndarray, "..."],
    metres: Float[np.ndarray, "..."],
    count: int,
    wavelength: float,
) -> Complex[np.ndarray, "... N"]:
    """Return waves of unit modulus of sources in the plane of elevation 0."""
    x = line(count, wavelength)[:, 0]
    place = metres * np.exp(1j * azimuth)  # z + jx
    distance = np.abs(place[..., None] - 1j * x)
    return np.exp(-2j * np.pi / wavelength * (distance - metres[..., None]))


def _complex_normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) * 0.5**0.5


def one_shot(seed: int, snr_db: float, num_trials: int) -> OneShot:
    """Simulate single snapshots of case 2."""
    random = np.random.default_rng(seed)
    phases = np.exp(2j * np.pi * random.random((CHAINS, ANTENNAS)))
    values, vectors = np.linalg.eigh(phases @ phases.conj().T)
    combiner = (vectors * values**-0.5) @ vectors.conj().T @ phases
    azimuth = random.uniform(-np.pi / 3, np.pi / 3, num_trials)
    metres = random.uniform(1.0, 10.0, num_trials)
    variance = 2.0 / 10.0 ** (snr_db / 10.0)
    noise = variance**0.5 * _complex_normal(random, num_trials, ANTENNAS)
    received = (waves(azimuth, metres, ANTENNAS, WAVELENGTH) + noise) @ combiner.T
    places = np.stack([azimuth, 0 * azimuth, metres], axis=-1)
    return OneShot(received[:, None], combiner, places, variance)


def localised(data: OneShot, num_sources: int | None) -> Trials:
    """Localise the source of each trial; None is an unknown number of sources."""
    estimate = ris_jax.localize(
        Measurement(
            data.snapshots.astype(np.complex64),
            data.combiner.astype(np.complex64),
            np.ones((1, ANTENNAS), np.complex64),
        ),
        line(ANTENNAS, WAVELENGTH),
        wavelength=WAVELENGTH,
        wavefront="spherical_phase",
        num_sources=num_sources,
        limits=_LIMITS,
    )
    return errors(estimate, data.places)


def deviations(data: OneShot) -> Float[np.ndarray, "T 2"]:
    """Return the bounds of azimuth [rad] and range [m] of each trial."""

    @jax.jit
    def bound(place, combiner):
        measurement = Measurement(
            jnp.zeros((1, CHAINS), combiner.dtype), combiner,
            jnp.ones((1, ANTENNAS), combiner.dtype), jnp.asarray(data.noise_variance),
        )  # fmt: skip
        signals = jnp.full((1, 1), ANTENNAS**0.5, combiner.dtype)
        found = ris_jax.cramer_rao_bound(
            measurement, place[:1], place[1:2], place[2:], signals,
            jnp.asarray(line(ANTENNAS, WAVELENGTH)), wavelength=WAVELENGTH,
            wavefront="spherical_phase",
        )  # fmt: skip
        return jnp.sqrt(jnp.diagonal(found.covariance[0]))[jnp.array([0, 2])]

    found = jax.lax.map(lambda place: bound(place, jnp.asarray(data.combiner)), data.places)
    return np.asarray(found)


def counted(seed: int, num_trials: int, wavelength: float = 1.0) -> np.ndarray:
    """Count the two sources of case 3 in each trial, number of sources unknown."""
    random = np.random.default_rng(seed)
    apart = np.radians(random.uniform(9.0, 10.0, num_trials))
    edge = np.radians(55.0)
    first = random.uniform(-edge, edge - apart)
    azimuth = np.stack([first, first + apart], axis=-1)
    metres = wavelength * random.uniform(12.0, 39.0, (num_trials, 2))
    signals = 10.0 ** (_SNR_DB / 20.0) * _complex_normal(random, num_trials, _SNAPSHOTS, 2)
    received = signals @ waves(azimuth, metres, _COUNTED, wavelength)
    received = received + _complex_normal(random, num_trials, _SNAPSHOTS, _COUNTED)
    estimate = ris_jax.localize(
        Measurement(received.astype(np.complex64)),
        line(_COUNTED, wavelength),
        wavelength=wavelength,
        wavefront="spherical_phase",
        source_signal="independent",
        limits=ris_jax.Limits(
            azimuth_max=np.radians(60.0), elevation_max=0.0, range_min=10.0 * wavelength
        ),
    )
    return np.asarray(estimate.num_sources)
