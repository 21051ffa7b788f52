r"""MUSIC with differentiable peaks, for training networks that estimate the covariance.

Peaks are found on a grid. The coordinates of each are the mean over a window around it, weighted by
the spectrum. Gradients therefore reach the covariance. This is the maskpeak of Gast, Le Magoarou &
Shlezinger, *Near-field localization via AI-aided subspace methods*, 2025 (arXiv:2504.00599). The
signal subspace enters by its projector, whose derivative is finite
(`ris_jax.physics.covariance.gram_pseudo_inverse`). The choice of the peaks is not differentiated.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ris_jax.estimation import search_grid
from ris_jax.estimation.baselines import spectral_search
from ris_jax.estimation.candidate_search import Grid
from ris_jax.physics import covariance as cov
from ris_jax.physics import linear

# Points of a window along each coordinate, in cells from its peak.
_PLACES = (-1.0, -0.5, 0.0, 0.5, 1.0)
# Exponent of the spectrum in the weights.
_SHARPNESS = 2.0


class SoftPeaks(NamedTuple):
    """Highest peaks of a scene, best first; inactive ones are padding."""

    coordinates: Float[Array, "K 3"]  #: (u, w, 1/r)
    active: Float[Array, "K"]  #: 1 or 0


def _left(
    factor: Complex[Array, "N r"], inverse: Complex[Array, "r r"], conjugates: Complex[Array, "G N"]
) -> Float[Array, "G"]:
    """Return the fraction of steering vectors outside the signal subspace."""
    inner = linear.matmul(conjugates, factor)
    explained = jnp.sum((linear.matmul(inner, inverse) * inner.conj()).real, axis=-1)
    return jnp.maximum(1.0 - explained, spectral_search.ROUNDING)


def soft_peaks(
    factor: Complex[Array, "N r"],
    num_sources: Int[Array, ""],
    grid: Grid,
    steering: Callable[[Float[Array, "P 3"]], Complex[Array, "P N"]],
    limits: tuple[Float[Array, "3"], Float[Array, "3"]],
    max_sources: int,
) -> SoftPeaks:
    """Return the sources of one scene at the MUSIC peaks of a covariance F F^H.

    Args:
      factor: F, [N, r], any scale.
      num_sources: [] int, dimension of the signal subspace and number of peaks.
      grid: search grid.
      steering: unit-norm vectors at any (u, w, 1/r).
      limits: minimum and maximum (u, w, 1/r); windows end there.
      max_sources: K, the width of the result.

    Returns:
      Coordinates, differentiable in the factor, within a cell of a peak of the grid.
    """
    inverse = cov.gram_pseudo_inverse(linear.matmul(factor.conj().T, factor), num_sources)
    height = -jax.lax.stop_gradient(_left(factor, inverse, grid.conjugates))
    # Points beyond the horizon are excluded.
    height = jnp.where(jnp.any(grid.conjugates != 0, axis=-1), height, -jnp.inf)
    heights, index = search_grid.highest_peaks(height, grid.shape, max_sources)
    places = _windows(grid.points[index], grid.shape, limits)
    left = _left(factor, inverse, steering(places.reshape(-1, 3)).conj())
    low, high = limits
    inside = jnp.all((places >= low) & (places <= high), axis=-1)
    inside &= jnp.sum(places[..., :2] ** 2, axis=-1) < 1.0
    inside |= ~jnp.any(inside, axis=-1, keepdims=True)  # padding, whose result is not used
    level = jnp.where(inside, -_SHARPNESS * jnp.log(left.reshape(inside.shape)), -jnp.inf)
    weight = jax.nn.softmax(level, axis=-1)
    found = jnp.isfinite(heights) & (jnp.arange(max_sources) < num_sources)
    return SoftPeaks(jnp.sum(weight[..., None] * places, axis=1), found.astype(places.dtype))


def _windows(centres, shape, limits) -> Float[Array, "K W 3"]:
    """Return the points around peaks; a coordinate with one cell has only the peak itself."""
    cell = (limits[1] - limits[0]) / jnp.asarray(shape, centres.dtype)
    axes = [_PLACES if count > 1 else (0.0,) for count in shape]
    offsets = np.array(list(itertools.product(*axes)), np.float32)
    return centres[:, None] + offsets.astype(centres.dtype) * cell
