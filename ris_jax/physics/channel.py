"""Channel from the surface to the base station."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import compilation
from ris_jax.physics import arrays, random_draws

_ANGLES = 4  # two of departure, one of arrival, and the phase


def complex_normal(key: jax.Array, shape: tuple[int, ...]) -> Complex[Array, "..."]:
    """Draw circular complex Gaussian numbers of unit variance."""
    (entries,) = random_draws.draw(key, (2, *shape))
    return random_draws.complex_normal(entries)


def channel_draws(num_antennas: int, num_elements: int) -> list[tuple[int, ...]]:
    """Return the shapes of the draws that `channel_of` needs."""
    return [(_ANGLES,), (2, num_antennas, num_elements)]


def channel_of(
    entries: Sequence[Float[Array, "..."]],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    rician_factor: Float[Array, ""],
) -> Complex[Array, "M N"]:
    """Compute `rician_channel` from `random_draws.draw` with the shapes of `channel_draws`."""
    angles, scatter = entries
    limits = jnp.deg2rad(jnp.array([60.0, 30.0, 60.0, 180.0]))
    azimuth, elevation, arrival, phase = limits * angles
    departure = arrays.steering_vector(
        azimuth,
        elevation,
        jnp.asarray(jnp.inf),
        positions,
        wavelength=wavelength,
        wavefront="planar",
    ) * jnp.sqrt(float(positions.shape[0]))
    antennas = jnp.arange(scatter.shape[1])
    receive = jnp.exp(1j * (phase - jnp.pi * antennas * jnp.sin(arrival)))
    line_of_sight = receive[:, None] * departure[None, :]
    weight = rician_factor / (rician_factor + 1.0)
    scattered = random_draws.complex_normal(scatter)
    return jnp.sqrt(weight) * line_of_sight + jnp.sqrt(1.0 - weight) * scattered


@compilation.one_program("num_antennas")
def rician_channel(
    key: jax.Array,
    positions: Float[Array, "N 3"],
    *,
    num_antennas: int,
    wavelength: float,
    rician_factor: Float[Array, ""],
) -> Complex[Array, "M N"]:
    r"""Draw a Rician channel of unit mean power with a line of sight of rank one.

    .. math:: H = \sqrt{\tfrac{\kappa}{\kappa+1}} e^{j\psi} b\,\bar a^T
              + \sqrt{\tfrac{1}{\kappa+1}} W

    The base station is a half-wavelength line of antennas; the line of sight leaves the surface
    within 60 degrees of azimuth and 30 of elevation and arrives within 60 degrees, uniformly.

    Args:
      key: randomness of this channel.
      positions: [N, 3] elements of the surface [m].
      num_antennas: M.
      wavelength: [m].
      rician_factor: :math:`\kappa`, line-of-sight over scattered power, linear.

    Returns:
      [M, N] complex.
    """
    entries = random_draws.draw(key, *channel_draws(num_antennas, positions.shape[0]))
    return channel_of(entries, positions, wavelength=wavelength, rician_factor=rician_factor)
