r"""MUSIC and MVDR in (u, w, 1/r), for a covariance given by a factor.

Both use the fraction of a unit-norm steering vector a that the covariance
:math:`R = FF^H + \epsilon I` does not explain. It is the minimum of a ridge regression,

.. math:: \nu(a) = \min_x \|a - Fx\|^2 + \lambda\|x\|^2 = 1 - a^H F Q F^H a,\quad x = Q F^H a

- MUSIC (Schmidt, *Multiple emitter location and signal parameter estimation*, IEEE Trans. Antennas
  Propag. 34(3), 1986): :math:`\lambda = 0`, Q the inverse of the Gram matrix on its principal
  eigenspace, :math:`FQF^H = P_s`. The spectrum is :math:`1/\nu`.
- MVDR (Capon, *High-resolution frequency-wavenumber spectrum analysis*, Proc. IEEE 57(8), 1969):
  :math:`\lambda = \epsilon`, :math:`Q = (F^HF + \epsilon I)^{-1}`, and by Woodbury
  :math:`\nu = \epsilon\, a^H R^{-1} a`. The spectrum is :math:`\epsilon/\nu`.

No matrix is larger than r x r, and a grid needs only the inner products :math:`F^Ha`. Both methods
use the search of `ris_jax.estimation.baselines.spectral_search`. Peaks of a spectrum have no error
bars. The covariance of sources with constant signals has rank one, and no spectrum can separate
them: see `ris_jax.estimation.baselines.smoothing`, or use the likelihood.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import estimate, inputs, search_grid
from ris_jax.estimation.baselines import spectral_search
from ris_jax.physics import arrays, linear
from ris_jax.physics import covariance as cov
from ris_jax.physics.element_response import ElementResponse

_EVERYWHERE = search_grid.SearchRegion()
# MVDR needs noise: the minimum loading, as a fraction of the mean power.
_LEAST_LOADING = 1e-5
# Maximum number of columns for MVDR; beyond it, the strongest directions are used.
_MOST_COLUMNS = 32


def _gram(factor: Complex[Array, "... N r"]) -> Complex[Array, "... r r"]:
    return linear.matmul(jnp.swapaxes(factor, -1, -2).conj(), factor)


def compress(covariance: cov.LowRankCovariance, columns: int) -> cov.LowRankCovariance:
    r"""Keep the strongest `columns` directions of a covariance; the mean of the others is loading.

    The kept eigenvalues and eigenvectors of R, and its trace, are unchanged (Tipping &
    Bishop, *Probabilistic principal component analysis*, J. R. Stat. Soc. B 61(3), 1999). It takes
    one eigendecomposition of r x r, or of N x N if r is larger; none if r is small enough.

    Args:
      covariance: factor [..., N, r].
      columns: to keep, 1 or more.

    Returns:
      factor [..., N, min(columns, r)], with orthogonal columns if it is smaller.

    Raises:
      ValueError: `columns` below 1.
    """
    if columns < 1:
        raise ValueError(f"need columns >= 1; got {columns}")
    factor, loading = covariance
    elements, rank = factor.shape[-2:]
    if rank <= columns:
        return covariance
    columns = min(columns, elements)
    if rank <= elements:
        values, vectors = cov.safe_eigh(_gram(factor))
        kept = linear.matmul(factor, vectors[..., -columns:])
    else:
        values, vectors = cov.safe_eigh(linear.matmul(factor, jnp.swapaxes(factor, -1, -2).conj()))
        root = jnp.sqrt(jnp.maximum(values[..., -columns:], 0.0))
        kept = vectors[..., -columns:] * root[..., None, :]
    values = jnp.maximum(values, 0.0)
    rest = jnp.sum(values[..., :-columns], axis=-1) / max(elements - columns, 1)
    strongest = values[..., -columns:]
    share = rest[..., None] / jnp.where(strongest > 0, strongest, 1.0)
    kept = kept * jnp.sqrt(jnp.maximum(1.0 - share, 0.0))[..., None, :]
    return cov.LowRankCovariance(kept, loading + rest)


def unit_power(
    covariance: cov.LowRankCovariance,
) -> tuple[Float[Array, "B"], cov.LowRankCovariance]:
    """Return the mean power, and the covariance in units of it."""
    return cov.trace(covariance) / covariance.factor.shape[-2], cov.trace_normalize(covariance)


def _music_ridge(covariance, rank) -> spectral_search.Ridge:
    inverse = cov.gram_pseudo_inverse(_gram(covariance.factor), rank)
    return spectral_search.Ridge(covariance.factor, inverse, jnp.zeros_like(covariance.loading))


def _mvdr_ridge(covariance, rank=None) -> spectral_search.Ridge:
    del rank  # all directions count
    mean_power = cov.trace(covariance) / covariance.factor.shape[-2]
    least = jnp.where(mean_power > 0, _LEAST_LOADING * mean_power, 1.0)
    loading = jnp.maximum(covariance.loading, least)
    gram = _gram(covariance.factor)
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    inverse = linear.inverse_positive(gram + loading[..., None, None] * identity)
    return spectral_search.Ridge(covariance.factor, inverse, loading)


def _unexplained(
    ridge: spectral_search.Ridge, steering: Complex[Array, "G N"]
) -> Float[Array, "... G"]:
    """Return the unexplained fraction of each steering vector, in (0, 1] up to rounding."""
    inner = linear.matmul(arrays.normalized(steering).conj(), ridge.factor)
    return jnp.maximum(1.0 - spectral_search.explained(ridge, inner), spectral_search.ROUNDING)


def music_spectrum(
    covariance: cov.LowRankCovariance, rank: Int[Array, "..."], steering: Complex[Array, "G N"]
) -> Float[Array, "... G"]:
    r"""Return the MUSIC pseudo-spectrum :math:`1 / (1 - a^H P_s a)`, at most 1e6.

    Args:
      covariance: factor [..., N, r]; its loading has no effect.
      rank: [...] int, dimension of the signal subspace; limited to the rank of the factor.
      steering: [G, N] complex, any norm.

    Returns:
      [..., G], at least 1 up to rounding.
    """
    return 1.0 / _unexplained(_music_ridge(covariance, rank), steering)


def mvdr_spectrum(
    covariance: cov.LowRankCovariance, steering: Complex[Array, "G N"]
) -> Float[Array, "... G"]:
    r"""Return the MVDR spectrum :math:`1 / (a^H R^{-1} a)`: power from a position plus noise.

    Args:
      covariance: factor [..., N, r]. A loading below 1e-5 of the mean power is raised to it, so
        that R can be inverted.
      steering: [G, N] complex, any norm; the spectrum is that of the unit-norm vectors.

    Returns:
      [..., G], in the units of the covariance.
    """
    ridge = _mvdr_ridge(covariance)
    return ridge.loading[..., None] / _unexplained(ridge, steering)


def least_squares_powers(
    vectors: Complex[Array, "... K N"],
    active: Float[Array, "... K"],
    factor: Complex[Array, "... N r"],
) -> Float[Array, "... K"]:
    r"""Return diag :math:`(A^+ FF^H A^{+H})`, A the active steering vectors (Schmidt, 1986).

    Args:
      vectors: [..., K, N].
      active: [..., K] 1 or 0.
      factor: [..., N, r] of the covariance.
    """
    rows = vectors * active[..., None]
    identity = jnp.eye(rows.shape[-2], dtype=rows.dtype)
    gram = linear.matmul(rows.conj(), jnp.swapaxes(rows, -1, -2))
    gram = gram + (1.0 - active)[..., None] * identity
    signals = linear.solve_positive(gram, linear.matmul(rows.conj(), factor))
    return jnp.sum(jnp.abs(signals) ** 2, axis=-1)


def _least_squares_powers(
    peaks: spectral_search.Peaks, ridge: spectral_search.Ridge
) -> Float[Array, "B K"]:
    return least_squares_powers(peaks.vectors, peaks.active, ridge.factor)


def _excess_powers(
    peaks: spectral_search.Peaks, ridge: spectral_search.Ridge
) -> Float[Array, "B K"]:
    """Return the MVDR spectrum at the peaks minus the noise."""
    return ridge.loading[:, None] * jnp.maximum(1.0 / peaks.unexplained - 1.0, 0.0)


class CovarianceBatch(NamedTuple):
    """Arguments of an estimator of covariances, as arrays with a scene axis."""

    covariance: cov.LowRankCovariance
    num_sources: Int[Array, "B"]
    positions: Float[Array, "N 3"]
    single: bool  # the caller gave one scene, without the axis

    def result(self, found: estimate.Estimate) -> estimate.Estimate:
        """Return the estimate as the caller expects it: without scene axis for one scene."""
        return jax.tree.map(lambda array: array[0], found) if self.single else found


def as_batch(
    covariance: cov.LowRankCovariance | Complex[Array, "... N N"], num_sources: Any, positions: Any
) -> CovarianceBatch:
    """Complete the arguments of an estimator.

    Args:
      covariance: of a batch or of one scene; a matrix [..., N, N] or a factor.
      num_sources: one number for all scenes, or [B].
      positions: [N, 3], also a list.
    """
    low_rank = (
        covariance
        if isinstance(covariance, cov.LowRankCovariance)
        else cov.LowRankCovariance.from_matrix(covariance)
    )
    single = low_rank.factor.ndim == 2
    if single:
        low_rank = jax.tree.map(lambda array: jnp.asarray(array)[None], low_rank)
    given = inputs.counts_and_positions(num_sources, positions, len(low_rank.factor))
    return CovarianceBatch(low_rank, *given, single)


def check(covariance, num_sources, positions, max_sources, grid) -> None:
    """Check the shapes of a batch of covariances, and the size of the grid.

    Raises:
      ValueError: mismatched shapes, `max_sources` below 1, or a grid of too few cells.
    """
    shape = covariance.factor.shape
    if len(shape) != 3 or positions.shape != (shape[1], 3):
        raise ValueError(
            f"need a factor [B, N, r] and positions [N, 3]; got {shape} and {positions.shape}"
        )
    if num_sources.shape != shape[:1] or covariance.loading.shape != shape[:1]:
        raise ValueError(
            f"need num_sources and loading [{shape[0]}]; "
            f"got {num_sources.shape} and {covariance.loading.shape}"
        )
    if max_sources < 1:
        raise ValueError(f"need max_sources >= 1; got {max_sources}")
    cells = spectral_search.least_cells(max_sources)
    if len(grid) != 3 or min(grid) < 1 or grid[0] * grid[1] < cells:
        raise ValueError(
            f"need a grid of three counts, {cells} cells or more in u and w; got {grid}"
        )


def _sources_at_peaks(
    ridge_of, power_of, columns, covariance, num_sources, positions, max_sources, grid, **where
) -> estimate.Estimate:
    """Run the common steps of MUSIC and MVDR: ridge, peaks and powers."""
    batch = as_batch(covariance, num_sources, positions)
    covariance, num_sources, positions, _ = batch
    wave = {name: where[name] for name in ("wavelength", "wavefront")}
    grid = grid or search_grid.search_shape(positions, where["region"], **wave)
    check(covariance, num_sources, positions, max_sources, grid)
    unit, covariance = unit_power(compress(covariance, columns))
    ridge = ridge_of(covariance, num_sources)
    peaks = spectral_search.search(
        ridge, num_sources, positions, max_sources=max_sources, grid=grid, **where
    )
    norms = arrays.squared_norm(
        peaks.coordinates, positions, wavefront=where["wavefront"], response=where["response"]
    )
    power = unit[:, None] * power_of(peaks, ridge) / norms
    return batch.result(
        estimate.without_error_bars(
            peaks.coordinates, power, peaks.active, unit * covariance.loading
        )
    )


def music(
    covariance: cov.LowRankCovariance | Complex[Array, "... N N"],
    num_sources: int | Int[Array, "B"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    max_sources: int = 5,
    region: search_grid.Box = _EVERYWHERE,
    grid: tuple[int, int, int] | None = None,
) -> estimate.Estimate:
    """Estimate sources at the highest distinct MUSIC peaks; powers by least squares.

    Args:
      covariance: [B, N, N] or a factor [B, N, r], any scale; without the first axis for one scene.
        With more than `max_sources` columns, the strongest directions are used.
      num_sources: int or [B], dimension of the signal subspace and number of peaks.
      positions: [N, 3] float [m].
      wavelength: [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar;
        planar waves have infinite range.
      response: of the elements; None: the same in all directions.
      max_sources: K, the width of the result.
      region: search region.
      grid: cells in u, w and 1/r, with K + 3 or more in u and w; None derives them from the
        array's resolution.

    Returns:
      An `Estimate` [B, K] with infinite error bars; [K] for one scene. If fewer distinct peaks than
      `num_sources` are found, the `num_sources` of the estimate is their number.

    Raises:
      ValueError: mismatched shapes, `max_sources` below 1, or a grid of too few cells.
    """
    return _sources_at_peaks(
        _music_ridge, _least_squares_powers,
        max_sources, covariance, num_sources, positions, max_sources, grid,
        wavelength=wavelength, wavefront=wavefront, response=response, region=region,
    )  # fmt: skip


def mvdr(
    covariance: cov.LowRankCovariance | Complex[Array, "... N N"],
    num_sources: int | Int[Array, "B"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    max_sources: int = 5,
    region: search_grid.Box = _EVERYWHERE,
    grid: tuple[int, int, int] | None = None,
) -> estimate.Estimate:
    """Estimate sources at the highest distinct peaks of the MVDR spectrum.

    Arguments, result and errors as for `music`. The powers are the spectrum minus the noise, exact
    for one source. With more than 32 columns, the strongest directions are used and the others
    count as noise. Loading below 1e-5 of the mean power is raised to that value.
    """
    return _sources_at_peaks(
        _mvdr_ridge, _excess_powers,
        _MOST_COLUMNS, covariance, num_sources, positions, max_sources, grid,
        wavelength=wavelength, wavefront=wavefront, response=response, region=region,
    )  # fmt: skip
