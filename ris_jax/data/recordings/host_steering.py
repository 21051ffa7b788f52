"""Steering vectors in NumPy, for commands that avoid XLA compilation.

Conventions and formulas are those of `ris_jax.physics.arrays`; a test compares the two.
"""

from typing import get_args

import numpy as np
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax.physics.element_response import ElementResponse

_LEAST_SQUARE = 1e-6  # as in `ris_jax.physics.arrays`


def steering(
    coordinates: Float[np.ndarray, "P 3"],
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Complex[np.ndarray, "P N"]:
    """Return steering vectors; see `ris_jax.physics.arrays.steering_at`.

    Args:
      coordinates: direction cosines u and w with u^2 + w^2 < 1, and inverse range [1/m].
      positions: elements [m].
      wavelength: [m].
      wavefront: shape of the waves.
      response: of the elements; None: the same in all directions.

    Raises:
      ValueError: an unknown wavefront.
    """
    u, w, rho = np.moveaxis(np.asarray(coordinates, float), -1, 0)[..., None]
    unit = np.concatenate([u, w, np.sqrt(np.maximum(1.0 - u**2 - w**2, 0.0))], axis=-1)
    positions = np.asarray(positions, float)
    along = unit @ positions.T
    square = np.sum(positions**2, axis=-1)
    amplitude = 1.0
    if wavefront == "planar":
        difference = -along
    elif wavefront == "parabolic":
        difference = -along + 0.5 * rho * square
    elif wavefront == "fresnel":
        difference = -along + 0.5 * rho * (square - along**2)
    elif wavefront in ("spherical", "spherical_phase"):
        distances = np.sum((unit[:, None] - rho[..., None] * positions) ** 2, axis=-1)
        relative = np.sqrt(np.maximum(distances, _LEAST_SQUARE))
        difference = (rho * square - 2.0 * along) / (relative + 1.0)
        if wavefront == "spherical":
            amplitude = 1.0 / relative
    else:
        known = ", ".join(get_args(config_lib.Wavefront))
        raise ValueError(f"wavefront: need one of {known}; got {wavefront!r}")
    if response is not None:
        ranged = np.zeros_like(rho) if wavefront == "planar" else rho
        amplitude = amplitude * response.amplitudes(unit, ranged[..., 0], positions, np)
    phase = 2.0 * np.pi / wavelength * difference
    return amplitude * np.exp(-1j * phase) / np.sqrt(len(positions))


def steering_to(
    places: Float[np.ndarray, "K 3"],
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Complex[np.ndarray, "K N"]:
    """Return steering vectors of sources at x, y, z [m]."""
    distance = np.linalg.norm(places, axis=1)
    coordinates = np.stack([places[:, 0] / distance, places[:, 1] / distance, 1.0 / distance], 1)
    return steering(
        coordinates, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )


def coordinates_of(
    azimuth: Float[np.ndarray, "P"],
    elevation: Float[np.ndarray, "P"],
    source_range: Float[np.ndarray, "P"],
) -> Float[np.ndarray, "P 3"]:
    """Return (u, w, 1/r) of azimuth [rad], elevation [rad] and range [m]."""
    u = np.sin(azimuth) * np.cos(elevation)
    return np.stack([u, np.sin(elevation), 1.0 / np.asarray(source_range, float)], axis=-1)
