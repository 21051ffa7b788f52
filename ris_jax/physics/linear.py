"""Small dense systems in plain array operations.

On the CPU, JAX calls LAPACK once per matrix for `solve` and `cholesky`. Batched calls inside one
program are slow and can deadlock (`ris_jax._environment`). The matrices of the estimators have a
few dozen rows, so elimination with array operations runs over the whole batch, on any device.

Physics and estimators use `matmul` and `einsum` of this module, at the full precision of the data
type. JAX's default on a GPU or TPU is TF32 or bfloat16. This is too coarse for phases of many
radians and for differences of nearly equal energies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
tensordot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)
vdot = functools.partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)


def matmul(*factors: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """Return the matrix product of two or more factors, from left to right."""
    return functools.reduce(
        functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST), factors
    )


# A pivot below this fraction of its diagonal entry is rounding; it is raised to that value.
_LEAST_PIVOT = 1e-7
# Larger systems are eliminated in a loop: unrolled, they take seconds to compile.
_MOST_UNROLLED = 3


def parts(matrix: Complex[Array, "... n m"]) -> Float[Array, "... n 2m"]:
    """Concatenate the real and imaginary parts of a matrix, for `product`."""
    return jnp.concatenate([matrix.real, matrix.imag], axis=-1)


def diagonal(matrix: Inexact[Array, "... n n"]) -> Inexact[Array, "... n"]:
    """Return the diagonals of square matrices, in fewer operations than `jnp.diagonal`."""
    on = jnp.broadcast_to(np.eye(matrix.shape[-1], dtype=bool), matrix.shape)
    return jnp.sum(jax.lax.select(on, matrix, jnp.zeros_like(matrix)), axis=-1)


def product(
    left: Complex[Array, "... p n"], right_parts: Float[Array, "... n 2m"]
) -> Complex[Array, "... p m"]:
    """Compute ``left @ right`` as one real product, given `parts` of the right factor.

    XLA's complex products are slow on a CPU: for a batch of 16, 20 x 144 by 144 x 144, it reached
    53 Gflop/s on one core, this function 85.
    """
    rows, columns = left.shape[-2], right_parts.shape[-1] // 2
    both = matmul(jnp.concatenate([left.real, left.imag], axis=-2), right_parts)
    upper, lower = both[..., :rows, :], both[..., rows:, :]
    return jax.lax.complex(
        upper[..., :columns] - lower[..., columns:], upper[..., columns:] + lower[..., :columns]
    )


def _least_pivots(matrix: Inexact[Array, "... n n"]) -> Float[Array, "... n"]:
    floor = _LEAST_PIVOT * jnp.abs(diagonal(matrix))
    return jnp.maximum(floor, jnp.finfo(floor.dtype).tiny)


@jax.jit
def solve_positive(
    matrix: Inexact[Array, "... n n"], right: Inexact[Array, "... n m"]
) -> Inexact[Array, "... n m"]:
    """Solve ``matrix @ x = right`` by Gauss-Jordan elimination without pivoting.

    Args:
      matrix: [..., n, n] Hermitian, positive definite. If it is singular due to rounding, a zero
        pivot is raised to 1e-7 of its diagonal entry; the result is then large and finite.
      right: [..., n, m].

    Returns:
      [..., n, m].
    """
    size = matrix.shape[-1]
    floor = _least_pivots(matrix)
    table = jnp.concatenate([matrix, right], axis=-1)
    rows = jnp.arange(size)

    def eliminate(pivot, table):
        row = jax.lax.dynamic_index_in_dim(table, pivot, axis=-2, keepdims=False)
        column = jax.lax.dynamic_index_in_dim(table, pivot, axis=-1, keepdims=False)
        least = jax.lax.dynamic_index_in_dim(floor, pivot, axis=-1, keepdims=False)
        scale = jnp.sum(jnp.where(rows == pivot, column.real, 0.0), axis=-1)
        row = row / jnp.maximum(scale, least)[..., None]
        rest = table - column[..., :, None] * row[..., None, :]
        return jnp.where((rows == pivot)[:, None], row[..., None, :], rest)

    table = jax.lax.fori_loop(0, size, eliminate, table, unroll=size <= _MOST_UNROLLED)
    return table[..., size:]


def inverse_positive(matrix: Inexact[Array, "... n n"]) -> Inexact[Array, "... n n"]:
    """Return the inverse of a Hermitian positive definite matrix; see `solve_positive`."""
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return solve_positive(matrix, jnp.broadcast_to(identity, matrix.shape))


def log_determinant_positive(matrix: Inexact[Array, "... n n"]) -> Inexact[Array, "..."]:
    """Return the real log-determinant of a Hermitian positive definite matrix.

    A pivot that is zero due to rounding is raised as in `solve_positive`.
    """
    size = matrix.shape[-1]
    floor = _least_pivots(matrix)
    rows = jnp.arange(size)

    def eliminate(pivot, carry):
        table, total = carry
        row = jax.lax.dynamic_index_in_dim(table, pivot, axis=-2, keepdims=False)
        corner = jnp.sum(jnp.where(rows == pivot, row.real, 0.0), axis=-1)
        least = jax.lax.dynamic_index_in_dim(floor, pivot, axis=-1, keepdims=False)
        corner = jnp.maximum(corner, least)
        rest = table - row.conj()[..., :, None] * row[..., None, :] / corner[..., None, None]
        return rest, total + jnp.log(corner)

    start = matrix, jnp.zeros(matrix.shape[:-2], matrix.real.dtype)
    return jax.lax.fori_loop(0, size, eliminate, start)[1]
