"""Where a source may be missing: peaks of the residual on a grid, and sources that are two."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import arrays, linear
from ris_jax import config as config_lib
from ris_jax.estimators import grids, levenberg_marquardt, likelihood
from ris_jax.estimators.refinement import Background, Setting, projected_products

# Of the Gauss-Newton step from a peak, relative.
_DAMPING = 0.05
# A peak within this many units of resolution of a source is that source.
_SAME = 1.5
# Half distance, in units of resolution, at which the halves of a source are tried.
_HALF_DISTANCE = 0.75
_OPPOSITE = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)], float)
_OFFSETS = _HALF_DISTANCE * _OPPOSITE / np.linalg.norm(_OPPOSITE, axis=1, keepdims=True)
PAIRS = len(_OFFSETS)  # of places for the halves of a source


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of unit-norm steering vectors to match residuals with."""

    points: Float[Array, "G 3"]
    #: `linear.parts` of the conjugate steering vectors, transposed; zero beyond the horizon.
    parts: Float[Array, "N 2G"]
    shape: tuple[int, int, int]
    unit: Float[Array, "3"]  # metric length one along each coordinate: half a beam or so

    @property
    def conjugates(self) -> Complex[Array, "G N"]:
        """Conjugate steering vectors, zero beyond the horizon."""
        return jax.lax.complex(*jnp.split(self.parts, 2, axis=1)).T

    def matched(self, fields: Complex[Array, "T N"]) -> Complex[Array, "T G"]:
        """Inner products of the steering vectors with fields."""
        return linear.product(fields, self.parts)


def grid_of(
    space: grids.SearchSpace,
    unit: Float[Array, "3"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront,
) -> Grid:
    """Unit-norm steering vectors of a search space, in units of a resolution."""
    vectors = arrays.steering_at(
        space.points, positions, wavelength=wavelength, wavefront=wavefront
    )
    conjugates = arrays.normalized(vectors).conj() * space.visible[:, None]
    return Grid(space.points, linear.parts(conjugates.T), space.shape, unit)


class Proposal(NamedTuple):
    """A place for a source, and the energy it would add to what is explained."""

    coordinates: Float[Array, "... 3"]
    gain: Float[Array, "..."]


def peaks(
    setting: Setting,
    grid: Grid,
    observation: likelihood.Observation,
    residual: Complex[Array, "T R"],
    count: int,
) -> Float[Array, "count 3"]:
    """Highest peaks of the matched filter of a residual, between the grid's points.

    A parabola through a peak and its two neighbours along each axis tells where it is.
    """
    fields = likelihood.matched_fields(observation, residual, setting.source_signal)
    filtered = grid.matched(fields)
    spectrum = jnp.sum(filtered.real**2 + filtered.imag**2, axis=0)
    _, peak = grids.highest_peaks(spectrum, grid.shape, count)
    shape = np.array(grid.shape)
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    cell = peak[:, None] // strides % shape
    inside = (cell > 0) & (cell < shape - 1)
    before, after = (
        spectrum[jnp.where(inside, peak[:, None] + step, peak[:, None])]
        for step in (-strides, strides)
    )
    bend = 2.0 * spectrum[peak][:, None] - before - after
    offset = jnp.where(bend > 0, 0.5 * (after - before) / jnp.where(bend > 0, bend, 1.0), 0.0)
    size = (setting.upper - setting.lower) / shape
    return grid.points[peak] + jnp.clip(offset, -0.5, 0.5) * size


def propose_source(
    setting: Setting,
    grid: Grid,
    observation: likelihood.Observation,
    held: Background,
    away_from: Float[Array, "3"],
    *,
    candidates: int,
) -> Proposal:
    """The best place for a source beside those that are held.

    The `candidates` highest peaks of the matched filter take one Gauss-Newton step, and are
    compared by the energy that they add at its end, as the quadratic model of the step has it.

    Args:
      setting: of the call.
      grid: to look for peaks on.
      observation: one scene.
      held: its other sources.
      away_from: where it is not sought, (u, w, 1/r): it has just been taken out there. Infinity
        seeks it everywhere.
      candidates: peaks to compare.
    """
    points = peaks(setting, grid, observation, held.residual, candidates)

    def model(point):
        new = likelihood.images(observation, setting.jet(point), setting.source_signal)
        return likelihood.concentrate(*projected_products(held, new), jnp.ones(1))

    local = jax.vmap(model)(points)
    step = functools.partial(levenberg_marquardt.step, lower=setting.lower, upper=setting.upper)
    moved = jax.vmap(lambda point, local: step(point, local, jnp.asarray(_DAMPING)))(points, local)
    # The model holds for about a unit of resolution.
    move = jnp.clip(moved - points, -grid.unit, grid.unit)
    curved = jnp.einsum("pi,pij,pj->p", move, local.curvature, move)
    gains = local.value + 2.0 * jnp.sum(local.gradient * move, axis=-1) - curved
    distance = jnp.sum(((points - away_from) / grid.unit) ** 2, axis=-1)
    winner = jnp.argmax(jnp.where((distance > _SAME**2) & (gains >= 0.0), gains, -1.0))
    place = points[winner] + move[winner]
    return Proposal(place, _gain(setting, observation, held, place))


def _gain(
    setting: Setting,
    observation: likelihood.Observation,
    held: Background,
    place: Float[Array, "3"],
) -> Float[Array, ""]:
    """Energy that a source at a place would add; the others are held."""
    vector = setting.jet(place)[:1]
    new = likelihood.images(observation, vector, setting.source_signal)
    gram, matched = projected_products(held, new)
    power = jnp.sum((new.left.conj() * new.right).real, axis=-1)
    return jnp.sum(jnp.abs(matched) ** 2 / jnp.maximum(gram[..., 0].real, 1e-3 * power))


def propose_pair(
    setting: Setting,
    grid: Grid,
    observation: likelihood.Observation,
    held: Background,
    place: Float[Array, "3"],
) -> Proposal:
    """The best pair of sources around the place of one that is taken out, [2, 3].

    Two sources nearer than a beam are first fitted as one between them, and no single source
    added beside it explains what both would.
    """
    offset = _OFFSETS.astype(np.float32) * grid.unit
    pairs = jnp.clip(jnp.stack([place + offset, place - offset]), setting.lower, setting.upper)
    vectors = setting.jet(pairs)[:, :, 0]
    count = offset.shape[0]
    new = likelihood.images(observation, vectors.reshape(2 * count, -1), setting.source_signal)
    left, right = (part.reshape(part.shape[0], 2, count, -1) for part in new)
    cross = likelihood.inner_products(held.images.left, new.right)
    solved = (held.inverse_gram @ cross).reshape(*cross.shape[:2], 2, count)
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
