r"""Covariances: conditioning, blending, low-rank form, safe eigendecomposition, projectors.

A covariance of rank r is kept as :math:`R = FF^H + \epsilon I` with F of N x r: traces, products,
distances and projectors come from r x r Gram matrices, and no N x N matrix is decomposed.
`load`, `dense`, `sample_covariance` and `forward_backward` are for estimators of any covariance.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.physics import linear

# Gram eigenvalues below this fraction of the largest are float32 rounding, not signal.
_RANK_TOLERANCE = 1e-6
# Relative to the mean power, added to the diagonal before every eigendecomposition.
JITTER = 1e-6


class LowRankCovariance(NamedTuple):
    r""":math:`R = FF^H + \epsilon I`."""

    factor: Complex[Array, "... N r"]
    loading: Float[Array, "..."]

    @classmethod
    def from_matrix(cls, matrix: Complex[Array, "... N N"]) -> "LowRankCovariance":
        """Return the covariance of a dense matrix, whose negative eigenvalues become zero."""
        values, vectors = safe_eigh(jnp.asarray(matrix))
        factor = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
        return cls(factor, jnp.zeros(factor.shape[:-2], values.dtype))

    @classmethod
    def from_snapshots(cls, snapshots: Complex[Array, "... L N"]) -> "LowRankCovariance":
        """Return the mean outer product of L snapshots of N antennas."""
        snapshots = jnp.asarray(snapshots)
        factor = jnp.swapaxes(snapshots, -1, -2) / snapshots.shape[-2] ** 0.5
        return cls(factor, jnp.zeros(factor.shape[:-2], snapshots.real.dtype))


@compilation.one_program()
def hermitize(matrix: Complex[Array, "... N N"]) -> Complex[Array, "... N N"]:
    """Return (R + R^H) / 2."""
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2).conj())


def trace(covariance: LowRankCovariance) -> Float[Array, "..."]:
    """Return tr R, real."""
    elements = covariance.factor.shape[-2]
    return jnp.sum(jnp.abs(covariance.factor) ** 2, axis=(-1, -2)) + elements * covariance.loading


@compilation.one_program()
def trace_normalize(covariance: LowRankCovariance) -> LowRankCovariance:
    """Scale to trace N; a zero covariance stays zero, with a finite derivative."""
    total = trace(covariance)
    positive = total > jnp.finfo(total.dtype).tiny
    scale = jnp.where(positive, covariance.factor.shape[-2] / jnp.where(positive, total, 1.0), 0.0)
    # sqrt has an infinite slope at 0; `where` avoids it.
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, scale, 1.0)), 0.0)
    return LowRankCovariance(covariance.factor * root[..., None, None], covariance.loading * scale)


def from_factor(factor: Complex[Array, "... N r"]) -> LowRankCovariance:
    """Return F F^H scaled to trace N."""
    return trace_normalize(LowRankCovariance(factor, jnp.zeros(factor.shape[:-2])))


@compilation.one_program()
def dense(covariance: LowRankCovariance) -> Complex[Array, "... N N"]:
    """Return R as a matrix, for estimators that need one."""
    factor = covariance.factor
    identity = jnp.eye(factor.shape[-2], dtype=factor.dtype)
    outer = linear.matmul(factor, jnp.swapaxes(factor, -1, -2).conj())
    return outer + covariance.loading[..., None, None] * identity


def load(covariance: LowRankCovariance, amount: Float[Array, "..."]) -> LowRankCovariance:
    """Return R + amount * I."""
    return covariance._replace(loading=covariance.loading + amount)


def shrink(covariance: LowRankCovariance, weight: Float[Array, "..."]) -> LowRankCovariance:
    """Return (1 - weight) R + weight (tr R / N) I; the trace is unchanged."""
    mean_power = trace(covariance) / covariance.factor.shape[-2]
    return LowRankCovariance(
        covariance.factor * jnp.sqrt(1.0 - weight)[..., None, None],
        (1.0 - weight) * covariance.loading + weight * mean_power,
    )


def blend(
    predicted: LowRankCovariance, sample: LowRankCovariance, weight: float
) -> LowRankCovariance:
    r"""Return :math:`(1-\beta) R_{pred} + \beta\,\mathrm{stop\_gradient}(R_{samp})`."""
    sample = jax.lax.stop_gradient(sample)
    return LowRankCovariance(
        jnp.concatenate(
            [(1.0 - weight) ** 0.5 * predicted.factor, weight**0.5 * sample.factor], axis=-1
        ),
        (1.0 - weight) * predicted.loading + weight * sample.loading,
    )


def shrinkage_weight(
    snr: Float[Array, "..."], config: config_lib.CovarianceConfig
) -> Float[Array, "..."]:
    """Return the weight of the identity for a linear SNR: `shrinkage / snr`, at most one half."""
    return jnp.minimum(config.shrinkage / jnp.maximum(snr, 1e-6), 0.5)


def effective_covariance(
    predicted_factor: Complex[Array, "... N K"],
    sample_factor: Complex[Array, "... N C"],
    snr: Float[Array, "..."],
    config: config_lib.CovarianceConfig,
) -> LowRankCovariance:
    """Return the covariance for losses and estimators: normalised, blended and shrunk, in order.

    Training and inference use this function only, so that both have the same covariance.

    Args:
      predicted_factor: [..., N, K] complex, any scale.
      sample_factor: [..., N, C] complex, the snapshots' fields, any scale; no gradient flows.
      snr: [...] linear.
      config: blend and shrinkage.

    Returns:
      Trace N.
    """
    covariance = from_factor(predicted_factor)
    if config.blend > 0:
        covariance = blend(covariance, from_factor(sample_factor), config.blend)
    return shrink(covariance, shrinkage_weight(snr, config))


@compilation.one_program()
def inner(left: LowRankCovariance, right: LowRankCovariance) -> Float[Array, "..."]:
    """Return tr(R_left R_right) from Gram matrices."""
    cross = linear.matmul(jnp.swapaxes(left.factor, -1, -2).conj(), right.factor)
    left_power = jnp.sum(jnp.abs(left.factor) ** 2, axis=(-1, -2))
    right_power = jnp.sum(jnp.abs(right.factor) ** 2, axis=(-1, -2))
    return (
        jnp.sum(jnp.abs(cross) ** 2, axis=(-1, -2))
        + left.loading * right_power
        + right.loading * left_power
        + left.factor.shape[-2] * left.loading * right.loading
    )


def sample_covariance(fields: Complex[Array, "... N C"]) -> Complex[Array, "... N N"]:
    """Return the mean outer product of C fields, [..., N, N]."""
    return linear.matmul(fields, jnp.swapaxes(fields, -1, -2).conj()) / fields.shape[-1]


def forward_backward(factor: Complex[Array, "... N r"]) -> Complex[Array, "... N 2r"]:
    r"""Return a factor of :math:`(R + J\bar R J)/2`, J the exchange of the elements' order.

    Requires an array that is point-symmetric in its numbering, such as a centred grid, and plane
    waves. Pillai & Kwon, IEEE Trans. ASSP 37(1), 1989.
    """
    backward = jnp.flip(factor, axis=-2).conj()
    return jnp.concatenate([factor, backward], axis=-1) / jnp.sqrt(2.0)


def safe_eigh(
    matrix: Complex[Array, "... n n"], *, jitter: float = JITTER
) -> tuple[Float[Array, "... n"], Complex[Array, "... n n"]]:
    """Return eigenvalues (ascending) and eigenvectors of the Hermitian part of a matrix.

    No other function calls `jnp.linalg.eigh`. The decomposed matrix is the Hermitian part plus
    ``jitter * |mean power| * I``; the returned eigenvalues have that shift subtracted. The jitter
    does not separate equal eigenvalues: differentiate projectors (`gram_pseudo_inverse`), never
    eigenvectors.

    Args:
      matrix: [..., n, n].
      jitter: relative to the mean power, the mean of the diagonal's magnitudes.

    Returns:
      Eigenvalues [..., n] of the Hermitian part, and eigenvectors [..., n, n] in columns.
    """
    matrix = hermitize(matrix)
    mean_power = jnp.mean(jnp.abs(jnp.diagonal(matrix, axis1=-2, axis2=-1)), axis=-1)
    shift = (jitter * mean_power)[..., None]
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    values, vectors = jnp.linalg.eigh(matrix + shift[..., None] * identity)
    return values - shift, vectors


def _principal(gram, rank):
    """Return eigenvalues, eigenvectors, and a mask of the `rank` largest above rounding."""
    values, vectors = safe_eigh(gram)
    size = gram.shape[-1]
    index = jnp.arange(size)
    floor = jnp.maximum(_RANK_TOLERANCE * values[..., -1:], jnp.finfo(values.dtype).tiny)
    signal = (index >= size - rank[..., None]) & (values > floor)
    return values, vectors, signal


@compilation.one_program("columns")
def signal_basis(
    factor: Complex[Array, "... N r"], rank: Int[Array, "..."], columns: int
) -> Complex[Array, "... N c"]:
    """Return an orthonormal basis of the `rank` principal directions of ``F F^H``.

    Args:
      factor: [..., N, r].
      rank: [...] int; directions that the factor does not have are left out.
      columns: the largest rank.

    Returns:
      [..., N, min(columns, r, N)], largest eigenvalue last; columns past the rank are zero.
    """
    adjoint = jnp.swapaxes(factor, -1, -2).conj()
    tall = factor.shape[-2] >= factor.shape[-1]
    values, vectors, signal = _principal(
        linear.matmul(adjoint, factor) if tall else linear.matmul(factor, adjoint), rank
    )
    values, vectors, signal = (part[..., -columns:] for part in (values, vectors, signal))
    if not tall:
        return vectors * signal[..., None, :]
    scale = jnp.where(signal, jax.lax.rsqrt(jnp.where(signal, values, 1.0)), 0.0)
    return linear.matmul(factor, vectors * scale[..., None, :])


@jax.custom_jvp
def gram_pseudo_inverse(
    gram: Complex[Array, "... r r"], rank: Int[Array, "..."]
) -> Complex[Array, "... r r"]:
    r"""Return the inverse of a Gram matrix on its principal eigenspace, zero elsewhere.

    With :math:`G = F^HF` and :math:`Q` this inverse, :math:`P = F Q F^H` is the orthogonal
    projector on the `rank` principal directions of :math:`FF^H`. Its derivative (Daleckii & Krein,
    *AMS Translations* 47, 1965) divides by signal eigenvalues and by signal-noise gaps only, so it
    is finite where signal eigenvalues coincide, and where noise eigenvalues do.

    Args:
      gram: [..., r, r] Hermitian, positive semidefinite.
      rank: [...] int, number of principal directions.

    Returns:
      [..., r, r] complex Hermitian.
    """
    values, vectors, signal = _principal(gram, rank)
    inverse = jnp.where(signal, 1.0 / jnp.where(signal, values, 1.0), 0.0)
    return linear.matmul(vectors * inverse[..., None, :], jnp.swapaxes(vectors, -1, -2).conj())


@gram_pseudo_inverse.defjvp
def _gram_pseudo_inverse_jvp(primals, tangents):
    gram, rank = primals
    gram_dot, _ = tangents
    values, vectors, signal = _principal(gram, rank)
    adjoint = jnp.swapaxes(vectors, -1, -2).conj()
    inverse = jnp.where(signal, 1.0 / jnp.where(signal, values, 1.0), 0.0)
    output = linear.matmul(vectors * inverse[..., None, :], adjoint)
    row, column = inverse[..., :, None], inverse[..., None, :]
    both = signal[..., :, None] & signal[..., None, :]
    either = signal[..., :, None] ^ signal[..., None, :]
    gap = values[..., :, None] - values[..., None, :]
    # gap / (gap^2 + floor^2) is 1 / gap for a nonzero gap, and 0, not infinity, for a zero one.
    floor = jnp.maximum(_RANK_TOLERANCE * values[..., -1], jnp.finfo(values.dtype).tiny)
    floor = floor[..., None, None]
    scaled = gap / floor
    quotient = (row - column) * scaled / (scaled**2 + 1.0) / floor
    divided = jnp.where(both, -row * column, jnp.where(either, quotient, 0.0))
    inside = linear.matmul(adjoint, hermitize(gram_dot), vectors)
    return output, linear.matmul(vectors, divided * inside, adjoint)


@compilation.one_program()
def projector_overlap(
    estimate: Complex[Array, "... N r"], truth: Complex[Array, "... N r"], rank: Int[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Compute the overlap of the estimated with the true signal subspace.

    Args:
      estimate: [..., N, r] factor of the estimated covariance.
      truth: [..., N, r] factor of the true one.
      rank: [...] int, dimension of the signal subspace.

    Returns:
      :math:`tr(P_{est} P_{true})` and the dimension :math:`tr(P_{true})`, both [...].
    """
    if estimate.shape != truth.shape:
        raise ValueError(f"need factors of one shape; got {estimate.shape} and {truth.shape}")
    # One batched decomposition for both: two at once in one program can deadlock on a CPU.
    factors = jnp.stack([estimate, truth])
    grams = linear.matmul(jnp.swapaxes(factors, -1, -2).conj(), factors)
    inverses = gram_pseudo_inverse(grams, jnp.broadcast_to(rank, grams.shape[:-2]))
    cross = linear.matmul(jnp.swapaxes(estimate, -1, -2).conj(), truth)
    product = linear.matmul(
        inverses[0],
        cross,
        inverses[1],
        jnp.swapaxes(cross, -1, -2).conj(),
    )
    dimension = jnp.trace(linear.matmul(inverses[1], grams[1]), axis1=-2, axis2=-1).real
    return jnp.trace(product, axis1=-2, axis2=-1).real, dimension
