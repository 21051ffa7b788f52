"""Position error bound of a published near-field case, from the set-up of its paper.

  python experiments/published_bound.py

Case: Abu-Shaban, Keykhosravi, Keskin, Alexandropoulos, Seco-Granados and Wymeersch, *Near-field
localization with a reconfigurable intelligent surface acting as lens*, arXiv:2010.05617.

Set-up: 28 GHz; 50 x 50 elements at (i - 25) lambda / 2, i = 0 ... 49; one antenna one wavelength
behind the surface, 200 codes of random phases; one source on the diagonal x = y = z; 1 mW and noise
of 2.51e-11 mW. Both hops have the power of a square patch of half a wavelength (the paper's model
CM3: Bjoernson and Sanguinetti, arXiv:2002.04960, Eq. 4); the phase of the channel to the antenna is
removed, and waves have unit modulus over the surface.

The published numbers are for one draw of the codes. This script shows the mean and the standard
deviation over --num_draws draws (two CPU cores, 10 draws, 7 s of CPU time):

  range_m  published_m    mean_m  spread  mean_over_published
  -----------------------------------------------------------
        1     0.000769  0.000769    2.6%                1.001
        2      0.00615   0.00621    3.8%                1.009
        3       0.0208     0.021    2.7%                1.009
        4       0.0494    0.0497    2.5%                1.006
        6        0.167     0.167    2.8%                1.000
        8        0.395     0.395    2.9%                1.000
       10         0.77      0.77    3.0%                1.000
       15          2.6      2.59    3.1%                0.997
"""

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax.accuracy import bound_maps, code_baselines
from ris_jax.physics import arrays
from ris_jax.reports import provenance, tables

_DRAWS = flags.DEFINE_integer("num_draws", 10, "draws of the codes", lower_bound=2)

WAVELENGTH = 299_792_458.0 / 28e9  # [m]
SIDE, CODES = 50, 200
POWER_OVER_NOISE = 1.0 / 2.51e-11
# Range [m] and position error bound [m].
PUBLISHED = {
    1.0: 7.69e-4, 2.0: 6.15e-3, 3.0: 0.0208, 4.0: 0.0494, 6.0: 0.167, 8.0: 0.395, 10.0: 0.770,
    15.0: 2.60,
}  # fmt: skip


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


def position_error_bounds(seed: int, ranges: np.ndarray) -> np.ndarray:
    """Return bounds [m] of a source on the diagonal, for one draw of the codes."""
    positions = arrays.planar_array(SIDE, SIDE, WAVELENGTH / 2, centered=False)
    x, y, _ = np.asarray(positions).T
    channel = np.sqrt(patch_gain(x, y, WAVELENGTH))
    surface = bound_maps.Surface(
        positions,
        jnp.asarray(code_baselines.random_codes(seed, CODES, SIDE**2), complex),
        jnp.asarray(channel[None, None], complex),
        jnp.asarray(WAVELENGTH),
    )
    diagonal = np.array([np.pi / 4, np.arcsin(3.0**-0.5), 0.0])
    places = diagonal + np.outer(ranges, [0.0, 0.0, 1.0])
    unit = bound_maps.unit_bounds(surface, places, wavefront="spherical_phase")
    edge = ranges / 3.0**0.5
    snr = POWER_OVER_NOISE * patch_gain(edge, edge, edge) * SIDE**2 * unit.gain
    return bound_maps.deviations(unit, snr, places).position_error


def main(_):
    """Print one row for each range."""
    jax.config.update("jax_enable_x64", True)
    print(provenance.header(config_lib.Config()), flush=True)
    ranges = np.array(list(PUBLISHED))
    found = np.array([position_error_bounds(seed, ranges) for seed in range(1, 1 + _DRAWS.value)])
    rows = [
        [
            f"{metres:g}", f"{published:.3g}", f"{mean:.3g}", f"{spread:.1%}",
            f"{mean / published:.3f}",
        ]
        for metres, published, mean, spread in zip(
            ranges, PUBLISHED.values(), found.mean(axis=0),
            found.std(axis=0, ddof=1) / found.mean(axis=0), strict=True,
        )
    ]  # fmt: skip
    header = ("range_m", "published_m", "mean_m", "spread", "mean_over_published")
    print(tables.as_text(header, rows))


if __name__ == "__main__":
    app.run(main)
