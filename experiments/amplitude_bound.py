"""Cramér-Rao bound with and without the amplitude of spherical waves over the surface.

  python experiments/amplitude_bound.py

Set-up: the default surface (12 x 12 elements, 16 antennas, 16 codes), eight draws of its channel,
one source of the same power in both models. Columns: power of the steering vector, which is 1 in
the far field; standard deviations of `spherical` over those of `spherical_phase`; and position
error of an estimator that assumes `spherical_phase` on spherical waves, over the bound, at a
received SNR of 20 dB.

On two CPU cores:

  azimuth_deg  elevation_deg  range_m  power  azimuth_ratio  elevation_ratio  range_ratio  misfit
  -----------------------------------------------------------------------------------------------
            0              0      0.7  0.534          1.470            1.475        1.321   1.133
            0              0        1  0.682          1.275            1.277        1.198   1.027
            0              0        2  0.887          1.083            1.084        1.071   1.003
            0              0        4  0.968          1.022            1.023        1.020   1.000
            0              0        8  0.992          1.006            1.006        1.005   1.000
           40             15      0.7  0.677          1.151            1.255        1.065   2.372
           40             15        1  0.843          1.084            1.121        1.002   1.890
           40             15        2  0.976          1.032            1.010        0.979   1.524
           40             15        4  0.996          1.011            0.998        0.988   1.234
           40             15        8  0.999          1.004            1.000        0.993   1.098

At the same power of the source, the surface receives less at boresight, where all elements are
farther than the origin. An estimator without the amplitude is biased; off boresight its
error is still 10 % above the bound at 8 m.
"""

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from ris_jax import config as config_lib
from ris_jax.accuracy import bound_maps, mismatch
from ris_jax.physics import arrays, channel, codebooks
from ris_jax.reports import provenance, tables

DIRECTIONS_DEG = ((0.0, 0.0), (40.0, 15.0))
RANGES = (0.7, 1.0, 2.0, 4.0, 8.0)
CHANNELS = 8
SNR = 10.0**2


def make_surface() -> bound_maps.Surface:
    """Return the default surface with its channels."""
    system = config_lib.SystemConfig()
    positions = arrays.element_positions(system)

    def draw(key):
        return channel.rician_channel(
            key, positions, num_antennas=system.num_antennas, wavelength=system.wavelength,
            rician_factor=jnp.asarray(0.035),
        )  # fmt: skip

    channels = jnp.stack([draw(key) for key in jax.random.split(jax.random.key(0), CHANNELS)])
    wavelength = jnp.asarray(system.wavelength)
    return bound_maps.Surface(positions, codebooks.codebook(system), channels, wavelength)


def misfit(surface: bound_maps.Surface, places: np.ndarray) -> np.ndarray:
    """Return the position error over the bound if `spherical_phase` is assumed, [P]."""
    points = jnp.asarray(places)
    squares = []
    for matrix in surface.channel:
        one = surface._replace(channel=matrix[None])
        hardware = mismatch.Hardware(surface.positions[None], surface.codes[None], matrix[None])
        means = mismatch.received(one, hardware, points, wavefront="spherical")
        noise = jnp.mean(jnp.abs(means) ** 2, axis=-1) / SNR
        errors = []
        for assumed in ("spherical_phase", "spherical"):
            found = mismatch.misspecified_bound(
                one, matrix[None], means, points, noise, wavefront=assumed
            )
            errors.append(mismatch.root_mean_squares(found)["error"] ** 2)
        squares.append(errors)
    wrong, right = np.mean(np.array(squares), axis=0)
    return np.sqrt(wrong / right)


def main(_):
    """Print one row for each direction and range."""
    print(provenance.header(config_lib.Config()), flush=True)
    surface = make_surface()
    places = np.array([[*np.deg2rad(d), r] for d in DIRECTIONS_DEG for r in RANGES])
    deviations = []
    for wavefront in ("spherical", "spherical_phase"):
        unit = bound_maps.unit_bounds(surface, places, wavefront=wavefront)
        deviations.append(bound_maps.deviations(unit, unit.gain, places).parameters)
    ratio = deviations[0] / deviations[1]
    coordinates = arrays.to_coordinates(*jnp.asarray(places).T)
    power = arrays.squared_norm(coordinates, surface.positions)
    error = misfit(surface, places)
    rows = [
        [f"{d[0]:g}", f"{d[1]:g}", f"{r:g}", *(f"{value:.3f}" for value in values)]
        for (d, r), values in zip(
            [(d, r) for d in DIRECTIONS_DEG for r in RANGES],
            np.column_stack([power, ratio, error]),
            strict=True,
        )
    ]
    header = (
        "azimuth_deg", "elevation_deg", "range_m", "power", "azimuth_ratio", "elevation_ratio",
        "range_ratio", "misfit",
    )  # fmt: skip
    print(tables.as_text(header, rows))


if __name__ == "__main__":
    app.run(main)
