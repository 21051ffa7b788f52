"""Small dense systems in plain array operations.

JAX sends `solve` and `cholesky` to LAPACK on the CPU, one call a matrix; batched calls inside one
program are slow there and can deadlock (DESIGN section 7). The matrices of the estimators have a
few dozen rows: elimination written as array operations runs over the whole batch at once, on any
device.
"""

import jax.numpy as jnp
from jaxtyping import Array, Inexact

# A pivot below this share of its diagonal entry is rounding; it is raised to it.
_LEAST_PIVOT = 1e-7


def solve_positive(
    matrix: Inexact[Array, "... n n"], right: Inexact[Array, "... n m"]
) -> Inexact[Array, "... n m"]:
    """Solves ``matrix @ x = right`` by Gauss-Jordan elimination without pivoting.

    Args:
      matrix: [..., n, n] Hermitian, positive definite. Where rounding has made it singular, the
        pivot that vanishes is raised to 1e-7 of its diagonal entry: the result is then large and
        finite.
      right: [..., n, m].

    Returns:
      [..., n, m].
    """
    size = matrix.shape[-1]
    floor = _LEAST_PIVOT * jnp.abs(jnp.diagonal(matrix, axis1=-2, axis2=-1))
    floor = jnp.maximum(floor, jnp.finfo(floor.dtype).tiny)
    table = jnp.concatenate([matrix, right], axis=-1)
    rows = jnp.arange(size)
    for pivot in range(size):
        scale = jnp.maximum(table[..., pivot, pivot].real, floor[..., pivot])
        row = table[..., pivot, :] / scale[..., None]
        column = jnp.where(rows == pivot, 0.0, table[..., :, pivot])
        table = jnp.where(
            (rows == pivot)[:, None],
            row[..., None, :],
            table - column[..., :, None] * row[..., None, :],
        )
    return table[..., size:]


def inverse_positive(matrix: Inexact[Array, "... n n"]) -> Inexact[Array, "... n n"]:
    """Inverse of a Hermitian positive definite matrix; see `solve_positive`."""
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return solve_positive(matrix, jnp.broadcast_to(identity, matrix.shape))
