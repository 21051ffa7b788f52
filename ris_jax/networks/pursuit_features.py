"""Input features of the scorer: fitted sources and peaks of the residual spectrum.

The features have no trained parameters and no units: energies are relative to the noise,
coordinates relative to the resolution of the array.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import candidate_search, likelihood, refinement, search_grid
from ris_jax.physics import arrays, element_response, linear

# Neighbours of a grid cell whose phases and heights locate a peak between cells.
_OFFSETS = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if any(d)])
_ROUNDING = 1e-7
_LEAST_ENERGY = 1e-3  # relative to the noise energy of one sample
CANDIDATE_FEATURES = 6 + 2 * len(_OFFSETS)
SOURCE_FEATURES = 8
SCENE_FEATURES = 4


class PursuitState(NamedTuple):
    """Pursuit state of one scene, as features."""

    candidates: Float[Array, "P 3"]  #: (u, w, 1/r) of the highest peaks of the residual
    candidate_features: Float[Array, "P F"]
    source_features: Float[Array, "K G"]
    scene_features: Float[Array, "S"]
    #: Correlation of received images, sources first, then candidates.
    overlaps: Float[Array, "K+P K+P"]


@dataclasses.dataclass(frozen=True)
class SearchContext:
    """Search context shared by all scenes: limits, grid steering vectors, resolution."""

    problem: refinement.RefinementProblem
    grid: candidate_search.Grid
    samples: int  #: L M
    amplitudes: int  #: free complex amplitudes per source
    candidates: int

    @property
    def step(self) -> Float[Array, "3"]:
        """Resolution, zero along coordinates that the array does not resolve."""
        return jnp.where(jnp.isfinite(self.grid.unit), self.grid.unit, 0.0)

    def scaled(self, coordinates: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
        """Scale coordinates so that the limits of the region are -1 and 1."""
        low, high = self.problem.lower, self.problem.upper
        return (coordinates - 0.5 * (low + high)) / jnp.maximum(0.5 * (high - low), 1e-6)


def resolution(system: config_lib.SystemConfig) -> np.ndarray:
    """Return `search_grid.resolution` of a system's array, [3], also during tracing."""
    with jax.ensure_compile_time_eval():
        positions = np.asarray(arrays.element_positions(system))
    return search_grid.resolution(
        positions, wavelength=system.wavelength, wavefront=system.wavefront
    ).astype(np.float32)


def search_context(config: config_lib.Config) -> SearchContext:
    """Return grid, limits and resolution of a configuration; constants, also during tracing."""
    with jax.ensure_compile_time_eval():
        return _search_context(config)


@functools.lru_cache(maxsize=8)
def _search_context(config: config_lib.Config) -> SearchContext:
    system = config.system
    positions = arrays.element_positions(system)
    wave: dict[str, Any] = {
        "wavelength": system.wavelength,
        "wavefront": system.wavefront,
        "response": element_response.of_system(system),
    }
    region = search_grid.region_of(config.scene)
    unit = resolution(system)
    space = search_grid.search_space(
        region, search_grid.natural_shape(region, unit), system.wavefront
    )

    def jet(coordinates):
        return arrays.steering_jet(coordinates, positions, **wave)

    constant = system.source_signal == "constant"
    return SearchContext(
        problem=refinement.RefinementProblem(jet, space.lower, space.upper),
        grid=candidate_search.grid_of(space, jnp.asarray(unit), positions, **wave),
        samples=system.num_snapshots * system.num_antennas,
        amplitudes=1 if constant else system.num_snapshots,
        candidates=min(config.model.candidates, int(np.prod(space.shape))),
    )


def _neighbours(
    cube: Complex[Array, "T G"], shape: tuple[int, int, int], index: Int[Array, "P"]
) -> Complex[Array, "P 26"]:
    """Return matched-filter outputs around cells relative to the cells; zero beyond the grid."""
    padded = jnp.pad(cube.reshape(-1, *shape), [(0, 0), (1, 1), (1, 1), (1, 1)])
    number = jnp.broadcast_to(index[:, None], (len(index), 3))
    strides, sizes = (
        jnp.broadcast_to(np.array(values, index.dtype), number.shape)
        for values in ((shape[1] * shape[2], shape[2], 1), shape)
    )
    cell = jax.lax.rem(jax.lax.div(number, strides), sizes) + 1
    cells = cell[:, None] + _OFFSETS
    values = padded[:, cells[..., 0], cells[..., 1], cells[..., 2]]
    centre = padded[:, cell[:, 0], cell[:, 1], cell[:, 2]][..., None]
    power = jnp.sum(jnp.abs(centre) ** 2, axis=0)
    floor = jnp.finfo(power.dtype).tiny
    return jnp.sum(values * centre.conj(), axis=0) / jnp.maximum(power, floor)


def _overlaps(
    observation: likelihood.Observation, images: likelihood.Images
) -> Float[Array, "P P"]:
    """Return the correlation of images, 0 to 1; zero for padding."""
    gram = jnp.abs(jnp.sum(likelihood.inner_products(*images), axis=0))
    norm = jnp.sqrt(linear.diagonal(gram))
    return gram / jnp.maximum(norm[:, None] * norm, jnp.finfo(norm.dtype).tiny)


def _level(energy: Float[Array, "..."], noise: Float[Array, ""]) -> Float[Array, "..."]:
    """Return the logarithm of an energy relative to the noise, with a floor."""
    return jnp.log(energy / noise + _LEAST_ENERGY)


def _residual_peaks(
    context: SearchContext, observation: likelihood.Observation, background: refinement.Background
) -> tuple[Float[Array, "P 3"], Complex[Array, "P 26"]]:
    """Return the highest peaks of the residual's matched filter and the relative outputs nearby."""
    grid = context.grid
    fields = likelihood.matched_fields(observation, background.residual)
    cube = grid.matched(fields)
    _, index = search_grid.highest_peaks(
        jnp.sum(jnp.abs(cube) ** 2, axis=0), grid.shape, context.candidates
    )
    return grid.points[index], _neighbours(cube, grid.shape, index)


def _candidate_features(
    context: SearchContext,
    background: refinement.Background,
    points: Float[Array, "P 3"],
    neighbours: Complex[Array, "P 26"],
    peak_images: likelihood.Images,
    residual: Float[Array, ""],
    noise: Float[Array, ""],
) -> Float[Array, "P F"]:
    """Return location, explained energy and shape of each peak."""
    cross = likelihood.inner_products(background.images.left, peak_images.right)
    lost = jnp.sum((cross.conj() * linear.matmul(background.inverse_gram, cross)).real, axis=1)
    power = jnp.sum((peak_images.left.conj() * peak_images.right).real, axis=-1)
    left = jnp.maximum(power - lost, 1e-3 * power)
    gain = jnp.sum(
        jnp.abs(likelihood.against(peak_images.left, background.residual)) ** 2 / left, axis=0
    )
    fraction = jnp.mean(left / jnp.maximum(power, 1e-30), axis=0)
    return jnp.concatenate(
        [
            context.scaled(points),
            _level(gain, noise)[:, None],
            (gain / jnp.maximum(residual, noise))[:, None],
            jnp.log(fraction + _LEAST_ENERGY)[:, None],
            neighbours.real,
            neighbours.imag,
        ],
        axis=-1,
    )


def _source_features(
    context: SearchContext,
    fit: refinement.SourceFit,
    background: refinement.Background,
    noise: Float[Array, ""],
) -> Float[Array, "K G"]:
    """Return location, strength and sharpness of each source; zero for padding."""
    # Energy lost without a source: |s|^2 over its entry of the inverse Gram matrix.
    spread = linear.diagonal(background.inverse_gram).real
    marginal = jnp.sum(jnp.abs(fit.local.amplitudes) ** 2 / jnp.maximum(spread, 1e-30), axis=0)
    alone = jnp.sum((fit.images.left.conj() * fit.images.right).real, axis=-1)
    strength = jnp.sum(jnp.abs(fit.local.amplitudes) ** 2 * alone, axis=0)
    sharpness = linear.diagonal(fit.local.curvature).reshape(3, -1).T * context.step**2
    features = jnp.concatenate(
        [
            context.scaled(fit.coordinates),
            _level(marginal, noise)[:, None],
            _level(strength, noise)[:, None],
            _level(sharpness, noise),
        ],
        axis=-1,
    )
    return jnp.where(fit.active[:, None] > 0, features, 0.0)


def _scene_features(
    context: SearchContext,
    observation: likelihood.Observation,
    fit: refinement.SourceFit,
    residual: Float[Array, ""],
    noise: Float[Array, ""],
) -> Float[Array, "S"]:
    """Return data energy, residual energy and number of sources."""
    count = jnp.sum(fit.active)
    freedom = jnp.maximum(context.samples - count * (context.amplitudes + 1.5), 1.0)
    features = jnp.stack(
        [
            _level(observation.energy / context.samples, noise),
            _level(residual, noise * freedom),
            (residual / (noise * freedom) - 1.0) * np.sqrt(context.samples) / 5.0,
            count / fit.active.shape[0],
        ]
    )
    return jnp.clip(features, -20.0, 20.0)


def describe(
    context: SearchContext,
    observation: likelihood.Observation,
    fit: refinement.SourceFit,
    noise_variance: Float[Array, ""],
) -> PursuitState:
    """Return features of the fitted sources and of candidate locations for missing ones."""
    problem = context.problem
    background = refinement.background(observation, fit)
    # Without noise, the rounding of float32 is the reference.
    floor = _ROUNDING * observation.energy / context.samples
    noise = jnp.maximum(noise_variance, floor + jnp.finfo(floor.dtype).tiny)
    residual = jnp.maximum(observation.energy - background.value, 0.0)
    points, neighbours = _residual_peaks(context, observation, background)
    peak_images = likelihood.images(observation, problem.jet(points)[:, 0])
    both = likelihood.Images(
        jnp.concatenate([background.images.left, peak_images.left], axis=1),
        jnp.concatenate([background.images.right, peak_images.right], axis=1),
    )
    return PursuitState(
        candidates=points,
        candidate_features=_candidate_features(
            context, background, points, neighbours, peak_images, residual, noise
        ),
        source_features=_source_features(context, fit, background, noise),
        scene_features=_scene_features(context, observation, fit, residual, noise),
        overlaps=_overlaps(observation, both),
    )
