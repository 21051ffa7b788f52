"""Proposals of the search: peaks of the residual's spectrum, and splits of a source in two."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.estimation import levenberg_marquardt, likelihood, search_grid
from ris_jax.estimation.refinement import Background, RefinementProblem, projected_products
from ris_jax.physics import arrays, linear
from ris_jax.physics.element_response import ElementResponse

# Relative damping of the Gauss-Newton step from a peak.
_DAMPING = 0.05
# A peak within this many units of resolution of a source is that source.
_SAME = 1.5
# Half distances, in units of resolution, at which the halves of a source are tried: sources up to 2
# apart are refined from the first, sources up to 3 apart from the second.
_HALF_DISTANCES = (0.75, 1.3)
_OPPOSITE = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)], float)
_DIRECTIONS = _OPPOSITE / np.linalg.norm(_OPPOSITE, axis=1, keepdims=True)
_OFFSETS = np.concatenate([distance * _DIRECTIONS for distance in _HALF_DISTANCES])
PAIRS = len(_OFFSETS)
# Maximum size of stored steering vectors (32 MB per part), and of a block of a larger grid.
_MOST_STORED = 1 << 22
_BLOCK = 1 << 21
# Most samples for which the matched filter is divided by the received power, least power over its
# maximum, and most stored powers.
_FEW_SAMPLES = 32
_LEAST_POWER = 1e-4
_MOST_POWERS = 1 << 24


@compilation.one_program("wavefront")
def _parts(
    points: Float[Array, "P 3"], positions: Float[Array, "N 3"], **waves: Any
) -> Float[Array, "N 2P"]:
    """Return the parts of a `Grid`; waves as for `arrays.steering_at`."""
    vectors = arrays.steering_at(points, positions, **waves)
    conjugates = arrays.normalized(vectors).conj() * search_grid.visible(points)[:, None]
    return linear.parts(conjugates.T)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Unit-norm steering vectors at the points of a search space.

    The vectors of a small grid are stored; those of a large one are computed block by block
    wherever they are used, so that memory does not grow with their number.
    """

    space: search_grid.SearchSpace
    unit: Float[Array, "D"]  #: distance of metric length one along each coordinate: half a beam
    positions: Float[Array, "N 3"]  #: [m]
    wavelength: float | Float[Array, ""]  #: [m]
    wavefront: config_lib.Wavefront
    response: ElementResponse | None  #: of the elements
    stored: Float[Array, "N 2G"] | None  #: `parts` of all points, or None of a large grid

    @property
    def points(self) -> Float[Array, "G 3"]:
        """Coordinates (u, w, 1/r), 1/r fastest."""
        return self.space.points

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells in u, w and 1/r."""
        return self.space.shape

    def parts(self, points: Float[Array, "P 3"]) -> Float[Array, "N 2P"]:
        """`linear.parts` of the conjugate steering vectors, transposed; zero beyond the horizon."""
        return _parts(
            points, self.positions, wavelength=self.wavelength, wavefront=self.wavefront,
            response=self.response,
        )  # fmt: skip

    @property
    def conjugates(self) -> Complex[Array, "G N"]:
        """All conjugate steering vectors."""
        parts = self.parts(self.points) if self.stored is None else self.stored
        return jax.lax.complex(*jnp.split(parts, 2, axis=1)).T

    def _of_parts(self, function: Callable[[Float[Array, "N 2P"]], Array], rows: int) -> Array:
        """A function of `parts`, [..., P], over all points, [..., G]; `rows` of it per point."""
        if self.stored is not None:
            return function(self.stored)
        return self.by_blocks(lambda p: function(self.parts(p)), len(self.positions) + rows)

    def by_blocks(self, function: Callable[[Float[Array, "P 3"]], Array], numbers: int) -> Array:
        """A function of points, [..., P], over all points, [..., G], block by block.

        Args:
          function: of points [P, 3].
          numbers: that it needs in memory for each point.
        """
        total = len(self.points)
        size = max(_BLOCK // numbers, 16)
        count = -(-total // size)
        points = jnp.pad(self.points, [(0, count * size - total), (0, 0)], mode="edge")
        blocks = jax.lax.map(function, points.reshape(count, size, 3))
        whole = jnp.moveaxis(blocks, 0, -2)
        return whole.reshape(*whole.shape[:-2], count * size)[..., :total]

    def matched(self, fields: Complex[Array, "T N"]) -> Complex[Array, "T G"]:
        """Inner products of the steering vectors with fields."""
        return self._of_parts(lambda parts: linear.product(fields, parts), len(fields))

    def complete(
        self, points: Float[Array, "C 3"], fields: Complex[Array, "T N"]
    ) -> Float[Array, "C D"]:
        """Return points (u, w, 1/r) with all coordinates of a source; here there are no others."""
        del fields
        return points

    def spectrum(self, fields: Complex[Array, "T N"]) -> Float[Array, "G"]:
        """Matched filter: squared inner products, summed over the fields."""

        def power(parts):
            filtered = linear.product(fields, parts)
            return jnp.sum(filtered.real**2 + filtered.imag**2, axis=0)

        return self._of_parts(power, len(fields))


def grid_of(
    space: search_grid.SearchSpace,
    unit: Float[Array, "3"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront,
    response: ElementResponse | None = None,
) -> Grid:
    """Steering vectors of a search space, for distances in units of a resolution."""
    grid = Grid(space, unit, positions, wavelength, wavefront, response, None)
    if len(space.points) * len(positions) > _MOST_STORED:
        return grid
    return dataclasses.replace(grid, stored=grid.parts(space.points))


def _offsets(dimensions: int) -> Float[np.ndarray, "P D"]:
    """Return half differences of two halves of a source; those along a delay are separate."""
    if dimensions == 3:
        return _OFFSETS
    in_delay = np.array([[0.0, 0.0, 0.0, distance] for distance in _HALF_DISTANCES])
    return np.concatenate([np.pad(_OFFSETS, [(0, 0), (0, 1)]), in_delay])


class Proposal(NamedTuple):
    """Coordinates of a possible source, and the energy it would add to the explained energy."""

    coordinates: Float[Array, "... D"]
    gain: Float[Array, "..."]


def peaks(
    space: search_grid.SearchSpace, spectrum: Float[Array, "G"], count: int
) -> Float[Array, "count 3"]:
    """Highest peaks of a spectrum, interpolated between the points of its grid.

    The position is the vertex of the parabola through a peak and its two neighbours on each axis.
    """
    _, peak = search_grid.highest_peaks(spectrum, space.shape, count)
    shape = np.array(space.shape)
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    cell = peak[:, None] // strides % shape
    inside = (cell > 0) & (cell < shape - 1)
    before, after = (
        spectrum[jnp.where(inside, peak[:, None] + step, peak[:, None])]
        for step in (-strides, strides)
    )
    bend = 2.0 * spectrum[peak][:, None] - before - after
    offset = jnp.where(bend > 0, 0.5 * (after - before) / jnp.where(bend > 0, bend, 1.0), 0.0)
    size = (space.upper - space.lower) / shape
    return space.points[peak] + jnp.clip(offset, -0.5, 0.5) * size


def received_power(
    grid: Grid, operator: Float[Array, "S T N 2R"], observation: likelihood.Observation
) -> Float[Array, "S G"] | None:
    r"""Return the received power of a source at each point, :math:`\|\Phi a\|^2`, if it matters.

    It differs little between directions if there are many samples: its relative spread for random
    codes or combiners is one over the root of their number. For few samples of constant signals,
    the highest peak of the likelihood may be a low peak of the matched filter, which is then
    divided by the power.

    Args:
      grid: of the call.
      operator: of every scene, or one that all share.
      observation: of the scenes, [B, ...].

    Returns:
      [S, G], or None: the power is not needed, or too large to store.
    """
    scenes, groups, _, parts = operator.shape
    one_amplitude = groups == 1 and not observation.compressed and observation.coherence is None
    if not one_amplitude or parts > 2 * _FEW_SAMPLES or scenes * len(grid.points) > _MOST_POWERS:
        return None
    real, imaginary = jnp.split(jnp.swapaxes(operator[:, 0], 1, 2), 2, axis=1)
    power = jax.lax.map(grid.spectrum, jax.lax.complex(real, -imaginary))
    return jnp.maximum(power, _LEAST_POWER * jnp.max(power, axis=-1, keepdims=True))


def find_peaks(
    grid: Grid,
    fields: Complex[Array, "J T N"],
    count: int,
    power: Float[Array, "J G"] | None = None,
) -> Float[Array, "J count D"]:
    """Highest peaks of the matched filter of each of J sets of fields.

    The steering vectors serve all sets at once; the spectra of a large grid are then scanned few at
    a time.

    Args:
      grid: of the call.
      fields: residuals.
      count: number of peaks.
      power: see `received_power`; [1, G] if all sets share it.
    """
    spectra = jax.vmap(grid.spectrum)(fields)
    if power is not None:
        spectra = spectra / power
    some = max(1, min(len(spectra), _BLOCK // spectra.shape[1]))
    find = functools.partial(peaks, grid.space, count=min(count, spectra.shape[1]))
    found = (
        jax.lax.map(find, spectra, batch_size=some)
        if some < len(spectra)
        else jax.vmap(find)(spectra)
    )
    return jax.vmap(grid.complete)(found, fields)


def propose_source(
    setting: RefinementProblem,
    grid: Grid,
    observation: likelihood.Observation,
    held: Background,
    away_from: Float[Array, "D"],
    points: Float[Array, "C D"],
) -> Proposal:
    """Find the best position for another source, with the others held.

    Each candidate takes one Gauss-Newton step. The winner is the one that adds the most energy at
    the end of its step, by the quadratic model of the step.

    Args:
      setting: of the call.
      grid: of the call.
      observation: one scene.
      held: its other sources.
      away_from: coordinates of a source that was just removed and is not proposed there again;
        infinity excludes nothing.
      points: candidates, see `find_peaks`.
    """

    def model(point):
        new = likelihood.images(observation, setting.jet(point))
        return likelihood.concentrate(*projected_products(held, new), jnp.ones(1, point.dtype))

    local = jax.vmap(model)(points)
    step = functools.partial(levenberg_marquardt.step, lower=setting.lower, upper=setting.upper)
    moved = jax.vmap(lambda point, local: step(point, local, jnp.asarray(_DAMPING, points.dtype)))(
        points, local
    )
    # The model holds for about a unit of resolution.
    move = jnp.clip(moved - points, -grid.unit, grid.unit)
    curved = linear.einsum("pi,pij,pj->p", move, local.curvature, move)
    gains = local.value + 2.0 * jnp.sum(local.gradient * move, axis=-1) - curved
    distance = jnp.sum(((points - away_from) / grid.unit) ** 2, axis=-1)
    winner = jnp.argmax(jnp.where((distance > _SAME**2) & (gains >= 0.0), gains, -1.0))
    place = points[winner] + move[winner]
    return Proposal(place, _gain(setting, observation, held, place))


def _gain(
    setting: RefinementProblem,
    observation: likelihood.Observation,
    held: Background,
    place: Float[Array, "D"],
) -> Float[Array, ""]:
    """Return the energy that a source at a position adds, with the others held."""
    vector = setting.jet(place)[:1]
    new = likelihood.images(observation, vector)
    gram, matched = projected_products(held, new)
    power = jnp.sum((new.left.conj() * new.right).real, axis=-1)
    return jnp.sum(jnp.abs(matched) ** 2 / jnp.maximum(gram[..., 0].real, 1e-3 * power))


def propose_pair(
    setting: RefinementProblem,
    grid: Grid,
    observation: likelihood.Observation,
    held: Background,
    place: Float[Array, "D"],
) -> Proposal:
    """Find the best pair of sources around the position of a removed source, [2, D].

    Two sources within a beamwidth are first fitted as one between them, or as two that coincide and
    cancel each other; no other single source then explains the energy of both.

    Args:
      setting: of the call.
      grid: of the call.
      observation: one scene.
      held: its other sources.
      place: of the removed source, or the middle of two.
    """
    offset = _offsets(place.shape[0]).astype(place.dtype) * grid.unit
    pairs = jnp.clip(jnp.stack([place + offset, place - offset]), setting.lower, setting.upper)
    vectors = setting.jet(pairs)[:, :, 0]
    count = offset.shape[0]
    new = likelihood.images(observation, vectors.reshape(2 * count, -1))
    left, right = (part.reshape(part.shape[0], 2, count, -1) for part in new)
    cross = likelihood.inner_products(held.images.left, new.right)
    solved = linear.matmul(held.inverse_gram, cross).reshape(*cross.shape[:2], 2, count)
    cross = cross.reshape(solved.shape)

    def projected(i, j):  # sums, not products: a batch of 2 x 2 matrices is slow as that
        own = jnp.sum(left[:, i].conj() * right[:, j], axis=-1)
        return own - jnp.sum(cross[:, :, i].conj() * solved[:, :, j], axis=1)

    first, second, between = projected(0, 0).real, projected(1, 1).real, projected(0, 1)
    matched = likelihood.against(new.left, held.residual).reshape(-1, 2, count)
    determinant = jnp.maximum(first * second - jnp.abs(between) ** 2, 1e-5 * first * second)
    explained = (
        jnp.abs(matched[:, 0]) ** 2 * second
        + jnp.abs(matched[:, 1]) ** 2 * first
        - 2.0 * (matched[:, 0].conj() * between * matched[:, 1]).real
    ) / determinant
    gains = jnp.sum(explained, axis=0)
    winner = jnp.argmax(gains)
    return Proposal(pairs[:, winner], gains[winner])
