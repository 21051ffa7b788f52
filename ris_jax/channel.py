"""The channel from the surface to the base station."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import arrays


def complex_normal(key: jax.Array, shape: tuple[int, ...]) -> Complex[Array, "..."]:
    """Circular complex Gaussian of unit variance."""
    real, imaginary = jax.random.normal(key, (2, *shape)) / jnp.sqrt(2.0)
    return jax.lax.complex(real, imaginary)


def rician_channel(
    key: jax.Array,
    positions: Float[Array, "N 3"],
    *,
    num_antennas: int,
    wavelength: float,
    rician_factor: Float[Array, ""],
) -> Complex[Array, "M N"]:
    r"""Rician channel of unit mean power with a line of sight of rank one.

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
    angle_key, phase_key, scatter_key = jax.random.split(key, 3)
    limits = jnp.deg2rad(jnp.array([60.0, 30.0, 60.0]))
    azimuth, elevation, arrival = limits * jax.random.uniform(angle_key, (3,), minval=-1.0)
    departure = arrays.steering_vector(
        azimuth,
        elevation,
        jnp.asarray(jnp.inf),
        positions,
        wavelength=wavelength,
        wavefront="planar",
    ) * jnp.sqrt(float(positions.shape[0]))
    receive = jnp.exp(-1j * jnp.pi * jnp.arange(num_antennas) * jnp.sin(arrival))
    phase = jnp.exp(2j * jnp.pi * jax.random.uniform(phase_key))
    line_of_sight = phase * receive[:, None] * departure[None, :]
    scattered = complex_normal(scatter_key, (num_antennas, positions.shape[0]))
    weight = rician_factor / (rician_factor + 1.0)
    return jnp.sqrt(weight) * line_of_sight + jnp.sqrt(1.0 - weight) * scattered
