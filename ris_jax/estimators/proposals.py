"""Where a source may be missing: peaks of the residual on a grid, and sources that are two."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import arrays
from ris_jax import config as config_lib
from ris_jax.estimators import grids, levenberg_marquardt, likelihood
from ris_jax.estimators.refinement import Background, Setting, projected_products

# A peak within this many units of resolution of a source is that source.
_SAME = 1.5
# Half distances, in units of resolution, at which the halves of a source are tried.
_HALF_DISTANCES = (0.6, 1.2)
_OPPOSITE = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)], float)
_OFFSETS = np.concatenate(
    [h * _OPPOSITE / np.linalg.norm(_OPPOSITE, axis=1, keepdims=True) for h in _HALF_DISTANCES]
)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of steering vectors to match residuals with."""

    points: Float[Array, "G 3"]
    conjugates: Complex[Array, "G N"]  # of the steering vectors; zero beyond the horizon
    shape: tuple[int, int, int]
    unit: Float[Array, "3"]  # metric length one along each coordinate: half a beam or so


def grid_of(
    space: grids.SearchSpace,
    unit: Float[Array, "3"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
) -> Grid:
    """The steering vectors of a search space, in units of a resolution."""
    vectors = arrays.steering_at(
        space.points, positions, wavelength=wavelength, wavefront=wavefront
    )
    return Grid(space.points, vectors.conj() * space.visible[:, None], space.shape, unit)


class Proposal(NamedTuple):
    """A place for a source, and the energy it would add to what is explained."""

    coordinates: Float[Array, "... 3"]
    gain: Float[Array, "..."]


def _peaks(setting, grid, observation, residual, count):
    """Highest peaks of the matched filter of a residual, [count, 3]."""
    fields = likelihood.matched_fields(observation, residual, setting.source_signal)
    spectrum = jnp.sum(jnp.abs(fields @ grid.conjugates.T) ** 2, axis=0)
    _, indices = grids.highest_peaks(spectrum, grid.shape, count)
    return grid.points[indices]


def _gains(setting, observation, held, points):
    """Energy that a source at each of the points would add, [P]; the others are held."""
    new = likelihood.images(observation, setting.jet(points)[:, 0], setting.source_signal)
    cross = likelihood.inner_products(held.images.left, new.right)
    lost = jnp.sum((cross.conj() * (held.inverse_gram @ cross)).real, axis=1)
    power = jnp.sum((new.left.conj() * new.right).real, axis=-1)
    matched = likelihood.against(new.left, held.residual)
    return jnp.sum(jnp.abs(matched) ** 2 / jnp.maximum(power - lost, 1e-3 * power), axis=0)


def propose_source(
    setting: Setting,
    grid: Grid,
    observation: likelihood.Observation,
    held: Background,
    *,
    candidates: int,
    finalists: int,
    iterations: int,
) -> Proposal:
    """The best place for one more source.

    The `candidates` highest peaks of the matched filter are compared by the energy they add, and
    the `finalists` best of them after some Levenberg-Marquardt steps, the others held.
    """
    points = _peaks(setting, grid, observation, held.residual, candidates)
    _, best = jax.lax.top_k(_gains(setting, observation, held, points), finalists)

    def evaluate(point):
        new = likelihood.images(observation, setting.jet(point), setting.source_signal)
        return likelihood.concentrate(*projected_products(held, new), jnp.ones(1)), ()

    def climb(start):
        return levenberg_marquardt.ascend(
            evaluate, start, setting.lower, setting.upper, iterations
        )[:2]

    refined, local = jax.vmap(climb)(points[best])
    winner = jnp.argmax(local.value)
    return Proposal(refined[winner], local.value[winner])


def propose_elsewhere(
    setting: Setting,
    grid: Grid,
    observation: likelihood.Observation,
    held: Background,
    place: Float[Array, "3"],
    *,
    candidates: int,
) -> Proposal:
    """The best grid point for a source that is taken out of `place`, away from there."""
    points = _peaks(setting, grid, observation, held.residual, candidates)
    distance = jnp.linalg.norm((points - place) / grid.unit, axis=-1)
    gains = jnp.where(distance > _SAME, _gains(setting, observation, held, points), -jnp.inf)
    winner = jnp.argmax(gains)
    return Proposal(points[winner], gains[winner])


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
    gram = jnp.einsum("tipr,tjpr->tijp", left.conj(), right)
    gram = gram - jnp.einsum("tkip,tkjp->tijp", cross.conj(), solved)
    matched = jnp.einsum("tipr,tr->tip", left.conj(), held.residual)
    first, second, between = gram[:, 0, 0].real, gram[:, 1, 1].real, gram[:, 0, 1]
    determinant = jnp.maximum(first * second - jnp.abs(between) ** 2, 1e-5 * first * second)
    explained = (
        jnp.abs(matched[:, 0]) ** 2 * second
        + jnp.abs(matched[:, 1]) ** 2 * first
        - 2.0 * (matched[:, 0].conj() * between * matched[:, 1]).real
    ) / determinant
    gains = jnp.sum(explained, axis=0)
    winner = jnp.argmax(gains)
    return Proposal(pairs[:, winner], gains[winner])
