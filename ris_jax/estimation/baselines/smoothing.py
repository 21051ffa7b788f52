r"""Spatial smoothing: a covariance of full rank for coherent sources.

Sources whose signals are the same in all snapshots give a covariance of rank one. For a plane wave,
a shift of a sub-array changes only the phase. The mean covariance of all shifts,
:math:`\bar R = \frac{1}{P}\sum_p Z_p R Z_p^H`, therefore contains each source with P different
phases, and has rank K if P is large enough (Shan, Wax & Kailath, *On spatial smoothing
for direction-of-arrival estimation of coherent signals*, IEEE Trans. ASSP 33(4), 1985; planar
arrays: Yeh, Lee & Chen, *Estimating two-dimensional angles of arrival in coherent source
environment*, IEEE Trans. ASSP 37(1), 1989). The cost is aperture: a sub-array has wider beams.

**For plane waves only.** In the near field a shift d also changes the range of a source, and
its angle by about d / r radians. Smoothing blurs the source over that angle.
This is acceptable if the angle is well below the beamwidth of the sub-array.

`covariance.forward_backward` doubles the number of phases; use it first, on the whole array.
"""

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float


def _windows(elements, shape, window) -> list[tuple[slice, slice]]:
    """Return the positions of a window on a grid; raise an error if there are none."""
    (rows, columns), (rows_s, columns_s) = shape, window
    if rows * columns != elements:
        raise ValueError(f"need rows * columns = N; got {rows} x {columns} and N={elements}")
    if not (1 <= rows_s <= rows and 1 <= columns_s <= columns):
        raise ValueError(
            f"need a sub-array of 1 x 1 to {rows} x {columns}; got {rows_s} x {columns_s}"
        )
    corners = itertools.product(range(rows - rows_s + 1), range(columns - columns_s + 1))
    return [(slice(y, y + rows_s), slice(x, x + columns_s)) for y, x in corners]


def smooth(
    factor: Complex[Array, "... N r"], shape: tuple[int, int], window: tuple[int, int]
) -> Complex[Array, "... n rP"]:
    """Return the factor of the mean covariance of all shifted sub-arrays.

    Args:
      factor: [..., N, r] of the covariance of a grid; elements along x are fastest.
      shape: rows (along y) and columns (along x) of the grid.
      window: rows and columns of the sub-array.

    Returns:
      [..., n, r * P], n the elements of a window and P its positions:
      ``(rows - rows_s + 1) * (columns - columns_s + 1)``.

    Raises:
      ValueError: the grid does not have N elements, or the window does not fit into it.
    """
    places = _windows(factor.shape[-2], shape, window)
    lead, rank = factor.shape[:-2], factor.shape[-1]
    grid = factor.reshape(*lead, *shape, rank)
    size = window[0] * window[1]
    parts = [grid[..., y, x, :].reshape(*lead, size, rank) for y, x in places]
    return jnp.concatenate(parts, axis=-1) / len(places) ** 0.5


def centred_window(
    positions: Float[Array, "N 3"], shape: tuple[int, int], window: tuple[int, int]
) -> Float[Array, "n 3"]:
    """Return the mean position of the sub-array of `smooth`.

    If rows or columns of array and window differ by an odd number, it lies between elements.

    Args:
      positions: [N, 3] of an evenly spaced grid [m].
      shape: rows and columns of the grid.
      window: rows and columns of the sub-array.

    Returns:
      [n, 3] float [m].

    Raises:
      ValueError: as `smooth` does.
    """
    places = _windows(positions.shape[0], shape, window)
    grid = positions.reshape(*shape, 3)
    return jnp.mean(jnp.stack([grid[y, x].reshape(-1, 3) for y, x in places]), axis=0)
