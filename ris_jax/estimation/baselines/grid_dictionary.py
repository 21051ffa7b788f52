r"""Sparse models: the field as a few steering vectors of a grid in (u, w, 1/r).

Column g of the dictionary is the received image of a source at point g,
:math:`b_{tg} = \Phi_t a(p_g)`, for each group t of snapshots. Constant signals form a single group;
independent signals have one group per snapshot (`ris_jax.estimation.likelihood`). Estimates lie on
grid points, so their error is up to half a cell.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import estimate, inputs, likelihood, search_grid
from ris_jax.physics import arrays, linear, scenes
from ris_jax.physics.element_response import ElementResponse

# Number of scenes whose dictionaries are in memory at a time.
AT_A_TIME = 4
_MOST_NUMBERS = 1 << 27


class Atoms(NamedTuple):
    """Steering vectors of a grid."""

    points: Float[Array, "G 3"]  # (u, w, 1/r), 1/r fastest
    vectors: Complex[Array, "G N"]  # of norm one; zero beyond the horizon
    squared_norms: Float[Array, "G"]  # before normalisation, see `arrays.squared_norm`
    shape: tuple[int, int, int]


def atoms_of(
    positions: Float[Array, "N 3"],
    region: search_grid.Box,
    grid: tuple[int, int, int],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
    response: ElementResponse | None = None,
) -> Atoms:
    """Compute unit-norm steering vectors at the grid points of a region.

    Args:
      positions: [N, 3] float [m].
      region: search region.
      grid: cells in u, w and 1/r.
      wavelength: [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar;
        planar waves have the single value 1/r = 0.
      response: of the elements; None: the same in all directions.

    Raises:
      ValueError: a grid without cells.
      ConfigError: a dictionary that does not fit into memory.
    """
    if len(grid) != 3 or min(grid) < 1:
        raise ValueError(f"need a grid of three counts, 1 or more; got {grid}")
    numbers = len(positions) * math.prod(grid)
    if numbers > _MOST_NUMBERS:
        raise config_lib.ConfigError(
            f"estimator: expected at most {_MOST_NUMBERS} numbers in the dictionary of a sparse"
            f" method; found {numbers}, {len(positions)} elements at {math.prod(grid)} points; use"
            " maximum_likelihood, which stores none"
        )
    space = search_grid.search_space(region, grid, wavefront)
    vectors = arrays.steering_at(
        space.points, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )
    norms = arrays.squared_norm(space.points, positions, wavefront=wavefront, response=response)
    vectors = arrays.normalized(vectors) * space.visible[:, None]
    return Atoms(space.points, vectors, norms, space.shape)


def counts_and_positions(
    measurement: scenes.Measurement,
    num_sources: int | Int[Array, "B"],
    positions: Float[Array, "N 3"],
    max_sources: int,
) -> tuple[Int[Array, "B"], Float[Array, "N 3"]]:
    """Return the number of sources of each scene, and positions as an array, after a check.

    Raises:
      ValueError: mismatched shapes, or `max_sources` below 1.
    """
    batch, elements = measurement.snapshots.shape[:1], measurement.channel.shape[-1]
    counts, positions = inputs.counts_and_positions(num_sources, positions, *batch)
    if positions.shape != (elements, 3) or counts.shape != batch:
        raise ValueError(
            f"need positions [{elements}, 3] and num_sources {list(batch)}; "
            f"got {positions.shape} and {counts.shape}"
        )
    if max_sources < 1:
        raise ValueError(f"need max_sources >= 1; got {max_sources}")
    return counts, positions


class GridFit(NamedTuple):
    """Least-squares fit of some columns of a dictionary."""

    amplitudes: Complex[Array, "T K"]
    residual: Complex[Array, "T R"]


def least_squares(
    columns: likelihood.Images, data: Complex[Array, "T R"], active: Float[Array, "K"]
) -> GridFit:
    """Fit the amplitudes of the active columns, zero for the others; return also the residual."""
    left, right = columns.left * active[:, None], columns.right * active[:, None]
    gram = likelihood.regular_gram(likelihood.inner_products(left, right), active)
    matched = likelihood.against(left, data)
    amplitudes = linear.solve_positive(gram, matched[..., None])[..., 0]
    return GridFit(amplitudes, data - linear.einsum("tk,tkr->tr", amplitudes, right))


def as_estimate(
    atoms: Atoms,
    indices: Int[Array, "B K"],
    amplitudes: Complex[Array, "B T K"],
    active: Float[Array, "B K"],
    noise_variance: Float[Array, "B"],
) -> estimate.Estimate:
    """Convert grid points to an estimate; powers are means over the groups."""
    power = jnp.mean(jnp.abs(amplitudes) ** 2, axis=1) / atoms.squared_norms[indices]
    return estimate.without_error_bars(atoms.points[indices], power, active, noise_variance)
