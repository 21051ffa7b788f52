r"""MUSIC in two steps on a centred planar array: directions first, then ranges.

Both methods use the mirror pairs of `ris_jax.estimation.baselines.symmetric_arrays` to separate
direction and range. They take the highest peaks of a spectrum in (u, w). The range of each is the
maximum of the MUSIC spectrum along its direction, :math:`\|U^H a(u, w, \rho)\|^2` with U an
orthonormal basis of the signal subspace. One search over three dimensions becomes one over two and
a few over one.

**Modified MUSIC** (Ramezani, Kosasih & Björnson, *An efficient modified MUSIC algorithm for
RIS-assisted near-field localization*, 2024, arXiv:2409.14152; the anti-diagonal for a linear array:
He, Swamy & Ahmad, *Efficient application of MUSIC algorithm under the coexistence of far-field and
near-field sources*, IEEE Trans. Signal Process. 60(4), 2012). For uncorrelated sources, the
covariance entries of mirror pairs, its anti-diagonal, do not depend on the range:

.. math:: v_n = R_{n,-n} = \frac{1}{N} \sum_k P_k \exp(2jk\,\hat u_k^T q_n)

This is one snapshot of K plane waves on an array of twice the spacing. Smoothing over sub-surfaces
gives a covariance of rank K, and MUSIC on it gives the directions.

**Reduced-dimension MUSIC** (Zhang, Chen, Zheng, Xia & Wang, *Localization of near-field sources: a
reduced-dimension MUSIC algorithm*, IEEE Commun. Lett. 22(7), 2018; as a rank reduction: Zhi & Chia,
*Near-field source localization via symmetric subarrays*, IEEE Signal Process. Lett. 14(6), 2007).
The steering vector is :math:`C(u, w)\,\nu`. C has one column per mirror pair with its two linear
phases; :math:`\nu` holds the quadratic phases. With C scaled to :math:`C^HC = I`, some
:math:`C\nu` lies in the signal subspace if :math:`C^H(I - UU^H)C = I - WW^H`, :math:`W = C^HU`,
is singular. The spectrum is, up to a constant, the trace of its inverse (the papers take one
entry of it, or the determinant; all have the same poles):

.. math:: \mathrm{tr}\,(I - W^HW)^{-1}

**Requirements.** Fresnel waves, a centred grid, and sources with uncorrelated signals. Exact waves
have odd phase orders above the first and asymmetric amplitudes in the pairs; both bias the
estimates of near sources. With constant signals the covariance has rank one and its anti-diagonal
has cross terms. The covariance is then first smoothed over sub-surfaces
(`ris_jax.estimation.baselines.smoothing`). This reduces the aperture and blurs a source, whose
angle differs between sub-surfaces.

Directions are ambiguous with the period :math:`\lambda/2d`. The papers use an element spacing of a
quarter wavelength, or a narrow field of view. Here the alias in the region with the highest MUSIC
spectrum along its range is taken. The rank reduction also has false peaks between sources with
similar quadratic phases. The papers take the K highest peaks; here 2K + 3 peaks get a range, and
the K with the highest MUSIC spectrum are taken.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import estimate, search_grid
from ris_jax.estimation.baselines import smoothing, spectral_search, subspace
from ris_jax.estimation.baselines.symmetric_arrays import GridLayout, aliases, layout_of, one_period
from ris_jax.physics import arrays, linear
from ris_jax.physics import covariance as cov
from ris_jax.physics.element_response import ElementResponse

_EVERYWHERE = search_grid.SearchRegion()
LEAST_GRID = (48, 32, 48)  # cells in u, w (of one period) and 1/r
# Number of scenes searched at a time.
_AT_A_TIME = 8
# Halvings of the step around a peak of a grid: it ends at 1/256 of a cell.
_HALVINGS = 8
# Default size of a sub-surface, as a fraction of the rows and columns.
_SUB_SURFACE = 2.0 / 3.0

# For one scene: unexplained fraction of directions [..., 2], 0 at a source.
_Spectrum = Callable[[Float[Array, "... 2"]], Float[Array, "..."]]


class _Aperture(NamedTuple):
    """Mean sub-surface of a batch, or the whole array, and its signal subspaces."""

    factor: Complex[Array, "B n r"]
    positions: Float[Array, "n 3"]
    shape: tuple[int, int]
    basis: Complex[Array, "B n K"]


@dataclasses.dataclass(frozen=True)
class _DecoupledSearch:
    """Constants shared by all scenes of a call."""

    vectors: Callable[
        [Float[Array, "... 3"]], Complex[Array, "... N"]
    ]  # of norm one, at (u, w, 1/r)
    lower: Float[Array, "3"]  # limits of (u, w, 1/r)
    upper: Float[Array, "3"]
    period: search_grid.SearchSpace  # grid of directions
    ranges: Float[Array, "R"]  # grid of 1/r
    aliases: Float[np.ndarray, "P 2"]
    max_sources: int


def sub_surface_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the default rows and columns of sub-surfaces for smoothing."""
    rows, columns = (int(np.ceil(_SUB_SURFACE * count)) for count in shape)
    return rows, columns


def _newton(height, points, cell, lower, upper):
    """Move points [..., D], D = 1 or 2, to the maximum of the quadratic there, within `cell` [D].

    Points without a maximum in reach keep their place: where rounding limits the height.
    """
    gradient = jax.grad(lambda trial: jnp.sum(height(trial[..., None, :])))
    slope = gradient(points)
    axes = jnp.eye(points.shape[-1], dtype=points.dtype)
    curvature = jnp.stack(
        [-jax.jvp(gradient, (points,), (axis + 0.0 * points,))[1] for axis in axes],
        axis=-1,
    )
    diagonal = jnp.diagonal(curvature, axis1=-2, axis2=-1)
    determinant = jnp.linalg.det(curvature)[..., None]
    positive = jnp.all(diagonal > 0, axis=-1, keepdims=True) & (determinant > 0)
    curvature = jnp.where(positive[..., None], curvature, axes)
    step = linear.solve_positive(curvature, slope[..., None])[..., 0]
    near = positive & jnp.all(jnp.abs(step) <= cell, axis=-1, keepdims=True)
    return jnp.clip(jnp.where(near, points + step, points), lower, upper)


def _zoom(height, points, cell, lower, upper):
    """Refine points [..., D] of a grid with cells [D]: successively finer grids, then Newton."""
    steps = np.meshgrid(*[np.linspace(-1.0, 1.0, 5)] * points.shape[-1], indexing="ij")
    offsets = np.stack(steps, axis=-1).reshape(-1, points.shape[-1]).astype(np.float32)

    def finer(_, carry):
        points, cell = carry
        trial = jnp.clip(points[..., None, :] + offsets * cell, lower, upper)
        best = jnp.argmax(height(trial), axis=-1)[..., None, None]
        return jnp.take_along_axis(trial, best, axis=-2)[..., 0, :], 0.5 * cell

    points, cell = jax.lax.fori_loop(0, _HALVINGS, finer, (points, jnp.asarray(cell)))
    return _newton(height, points, 4.0 * cell, lower, upper)


def _directions(setting: _DecoupledSearch, spectrum: _Spectrum):
    """Return the highest peaks of a spectrum within a period, [C, 2], and a mask of valid ones."""
    space = setting.period
    height = jnp.where(space.visible, -spectrum(space.points[:, :2]), -jnp.inf)
    count = spectral_search.least_cells(setting.max_sources) + setting.max_sources
    heights, indices = search_grid.highest_peaks(height, space.shape, count)
    lower, upper = space.lower[:2], space.upper[:2]
    cell = (upper - lower) / jnp.array(space.shape[:2])
    found = _zoom(lambda p: -spectrum(p), space.points[indices, :2], cell, lower, upper)
    return found, jnp.isfinite(heights)


def _with_ranges(
    setting: _DecoupledSearch,
    basis: Complex[Array, "N K"],
    directions: Float[Array, "C 2"],
    peak: Bool[Array, "C"],
) -> spectral_search.Candidates:
    """Return each direction, or its best alias, with its range."""

    def height(points):
        return jnp.sum(jnp.abs(linear.matmul(setting.vectors(points).conj(), basis)) ** 2, axis=-1)

    def along(places, inverse_range):
        return jnp.concatenate([places, inverse_range], axis=-1)

    places = directions[:, None] + setting.aliases  # [C, P, 2]
    inside = jnp.all((places >= setting.lower[:2]) & (places <= setting.upper[:2]), axis=-1)
    inside &= jnp.sum(places**2, axis=-1) < 1.0
    ranges = jnp.broadcast_to(setting.ranges[:, None], (*places.shape[:2], len(setting.ranges), 1))
    lines = jnp.broadcast_to(places[..., None, :], (*ranges.shape[:-1], 2))
    best = jnp.argmax(height(along(lines, ranges)), axis=-1)
    start = setting.ranges[best][..., None]
    cell = (setting.upper[2:] - setting.lower[2:]) / len(setting.ranges)
    found = _zoom(
        lambda trial: height(
            along(jnp.broadcast_to(places[..., None, :], (*trial.shape[:-1], 2)), trial)
        ),
        start, cell, setting.lower[2:], setting.upper[2:],
    )  # fmt: skip
    points = along(places, found)
    seen = jnp.where(inside, height(points), 0.0)
    best = jnp.argmax(seen, axis=1)[:, None]
    points = jnp.take_along_axis(points, best[..., None], axis=1)[:, 0]
    seen = jnp.take_along_axis(seen, best, axis=1)[:, 0]
    vectors = setting.vectors(points)
    return spectral_search.Candidates(points, vectors, 1.0 - seen, peak & jnp.any(inside, axis=1))


def _one_scene(
    setting: _DecoupledSearch,
    spectrum: _Spectrum,
    basis: Complex[Array, "N K"],
    most: Int[Array, ""],
) -> spectral_search.Peaks:
    """Return the best distinct directions and their ranges."""
    candidates = _with_ranges(setting, basis, *_directions(setting, spectrum))
    return spectral_search.choose(candidates, most, setting.max_sources)


def _setting_of(
    positions, layout, wavelength, wavefront, response, max_sources, region, grid
) -> _DecoupledSearch:
    space = search_grid.search_space(region, grid, wavefront)
    period = search_grid.search_space(
        one_period(region, layout, wavelength), (*grid[:2], 1), "planar"
    )
    # The grid includes the ends of the region, such as infinite range.
    ranges = jnp.linspace(space.lower[2], space.upper[2], space.shape[2])

    def vectors(points):
        found = arrays.steering_at(
            points, positions, wavelength=wavelength, wavefront=wavefront, response=response
        )
        return arrays.normalized(found)

    return _DecoupledSearch(
        vectors, space.lower, space.upper, period, ranges,
        aliases(region, layout, wavelength), max_sources,
    )  # fmt: skip


def _plane_waves(directions, positions, wavelength):
    """Compute unit-norm steering vectors of directions [..., 2] at infinite range."""
    points = jnp.concatenate([directions, jnp.zeros_like(directions[..., :1])], axis=-1)
    return arrays.steering_at(points, positions, wavelength=wavelength, wavefront="planar")


def _check(covariance, num_sources, positions, layout, sub_surface, max_sources, grid) -> None:
    subspace.check(covariance, num_sources, positions, max_sources, grid)
    if layout.rows * layout.columns != positions.shape[0]:
        raise ValueError(
            f"need a layout of {positions.shape[0]} elements; got {layout.rows} x {layout.columns}"
        )
    rows, columns = sub_surface or layout.shape
    if not (1 <= rows <= layout.rows and 1 <= columns <= layout.columns):
        raise ValueError(
            f"need a sub-surface within {layout.rows} x {layout.columns}; got {rows} x {columns}"
        )


def _aperture(covariance, most, positions, layout, sub_surface, max_sources) -> _Aperture:
    factor, shape = covariance.factor, layout.shape
    if sub_surface is not None:
        factor = smoothing.smooth(factor, shape, sub_surface)
        positions = smoothing.centred_window(positions, shape, sub_surface)
        shape = sub_surface
    return _Aperture(factor, positions, shape, cov.signal_basis(factor, most, max_sources))


def _search(
    spectra_of, covariance, num_sources, positions,
    *, layout, wavelength, wavefront, response, max_sources, region, sub_surface, grid,
) -> estimate.Estimate:  # fmt: skip
    """Run the common steps of both methods, for a spectrum of directions.

    `spectra_of(aperture, most, wavelength, max_sources)` returns arrays with leading axis B, and a
    function of the arrays of one scene and of directions [..., 2].
    """
    layout = layout or layout_of(np.asarray(positions))
    batch = subspace.as_batch(covariance, num_sources, positions)
    covariance, num_sources, positions, _ = batch
    _check(covariance, num_sources, positions, layout, sub_surface, max_sources, grid)
    unit, covariance = subspace.unit_power(covariance)
    most = jnp.clip(num_sources, 0, max_sources)
    aperture = _aperture(covariance, most, positions, layout, sub_surface, max_sources)
    setting = _setting_of(
        aperture.positions, layout, wavelength, wavefront, response, max_sources, region, grid
    )
    seen, spectrum = spectra_of(aperture, most, wavelength, max_sources)

    def one_scene(scene):
        seen, basis, most = scene
        return _one_scene(setting, functools.partial(spectrum, seen), basis, most)

    peaks = jax.lax.map(one_scene, (seen, aperture.basis, most), batch_size=_AT_A_TIME)
    # A sub-surface receives the fraction n / N of the energy of a unit-norm steering vector.
    unit_power = unit * len(positions) / len(aperture.positions)
    power = subspace.least_squares_powers(peaks.vectors, peaks.active, aperture.factor)
    power = power / arrays.squared_norm(
        peaks.coordinates, aperture.positions, wavefront=wavefront, response=response
    )
    return batch.result(
        estimate.without_error_bars(
            peaks.coordinates, unit_power[:, None] * power, peaks.active, unit * covariance.loading
        )
    )


def anti_diagonal(factor: Complex[Array, "... N r"]) -> Complex[Array, "... N"]:
    """Return the entries of ``F F^H`` between each element and its mirror."""
    return jnp.sum(factor * jnp.flip(factor, axis=-2).conj(), axis=-1)


def _after(array, *others):
    """Return the array after the others are computed.

    Two concurrent batched decompositions in one program can deadlock on a CPU.
    """
    return array + sum(0.0 * jnp.sum(jnp.abs(other)) for other in others)


def _anti_diagonal_spectra(aperture, most, wavelength, max_sources):
    """Prepare MUSIC on the anti-diagonal: plane waves on an array of twice the spacing."""
    window = sub_surface_of(aperture.shape)
    pairs = _after(anti_diagonal(aperture.factor), aperture.basis)[..., None]
    smoothed = smoothing.smooth(pairs, aperture.shape, window)
    doubled = 2.0 * smoothing.centred_window(aperture.positions, aperture.shape, window)

    def spectrum(basis, directions):
        seen = linear.matmul(_plane_waves(directions, doubled, wavelength).conj(), basis)
        return jnp.maximum(1.0 - jnp.sum(jnp.abs(seen) ** 2, axis=-1), spectral_search.ROUNDING)

    return cov.signal_basis(smoothed, most, max_sources), spectrum


def _rank_reduction_spectra(aperture, most, wavelength, max_sources):
    """Prepare the rank-reduction spectrum, from the trace of the inverse."""
    del most, max_sources  # contained in the subspace
    elements = len(aperture.positions)
    half = (elements + 1) // 2
    # A centre element is its own mirror and is counted half, twice.
    share = jnp.where(2 * jnp.arange(half) + 1 == elements, 0.5, 0.5**0.5)

    def spectrum(basis, directions):
        first, mirror = basis[:half], jnp.flip(basis, axis=0)[:half]
        waves = _plane_waves(directions, aperture.positions[:half], wavelength)
        phases = half**0.5 * share * waves
        folded = phases.conj()[..., None] * first + phases[..., None] * mirror
        rest = jnp.eye(basis.shape[-1]) - linear.einsum("...nk,...nl->...kl", folded.conj(), folded)
        inverse = linear.inverse_positive(rest)
        trace = jnp.sum(jnp.diagonal(inverse, axis1=-2, axis2=-1).real, axis=-1)
        return 1.0 / jnp.maximum(trace, 1.0)

    return aperture.basis, spectrum


def modified_music(
    covariance: cov.LowRankCovariance | Complex[Array, "... N N"],
    num_sources: int | Int[Array, "B"],
    positions: Float[Array, "N 3"],
    *,
    layout: GridLayout | None = None,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    max_sources: int = 5,
    region: search_grid.SearchRegion = _EVERYWHERE,
    sub_surface: tuple[int, int] | None = None,
    grid: tuple[int, int, int] = LEAST_GRID,
) -> estimate.Estimate:
    """Estimate directions from the smoothed anti-diagonal of the covariance, then ranges.

    Args:
      covariance: [B, N, N] or a factor [B, N, r], any scale; without the first axis for one scene.
      num_sources: int or [B], dimension of the signal subspaces and number of peaks.
      positions: [N, 3] float [m].
      layout: grid of the elements; by default it is read from the positions, which are then
        concrete.
      wavelength: [m].
      wavefront: of the range search; planar ones have no range: infinity.
      response: of the elements, in the range search; None: the same in all directions.
      max_sources: K, the width of the result.
      region: search region.
      sub_surface: rows and columns of the sub-surfaces for smoothing the covariance; None for
        uncorrelated signals. The anti-diagonal is always smoothed.
      grid: cells in u, w (of one period) and 1/r.

    Returns:
      An `Estimate` [B, K] with infinite error bars; [K] for one scene. If fewer distinct peaks than
      `num_sources` are found, the `num_sources` of the estimate is their number.

    Raises:
      ValueError: mismatched shapes, `max_sources` below 1, or a grid of too few cells.
    """
    return _search(
        _anti_diagonal_spectra, covariance, num_sources, positions,
        layout=layout, wavelength=wavelength, wavefront=wavefront, response=response,
        max_sources=max_sources, region=region, sub_surface=sub_surface, grid=grid,
    )  # fmt: skip


def reduced_dimension_music(
    covariance: cov.LowRankCovariance | Complex[Array, "... N N"],
    num_sources: int | Int[Array, "B"],
    positions: Float[Array, "N 3"],
    *,
    layout: GridLayout | None = None,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    max_sources: int = 5,
    region: search_grid.SearchRegion = _EVERYWHERE,
    sub_surface: tuple[int, int] | None = None,
    grid: tuple[int, int, int] = LEAST_GRID,
) -> estimate.Estimate:
    """Estimate directions by a rank reduction over mirror pairs, then ranges.

    Arguments, result and errors as for `modified_music`.
    """
    return _search(
        _rank_reduction_spectra, covariance, num_sources, positions,
        layout=layout, wavelength=wavelength, wavefront=wavefront, response=response,
        max_sources=max_sources, region=region, sub_surface=sub_surface, grid=grid,
    )  # fmt: skip
