r"""Orthogonal matching pursuit on a grid in (u, w, 1/r), without refinement.

.. math:: g_{k+1} = \arg\max_g \sum_t \frac{|b_{tg}^H r_t|}{\|b_{tg}\|},\quad
          r_t = (I - B_t B_t^+) y_t

with :math:`B_t` the columns chosen so far: Tropp & Gilbert, *Signal recovery from random
measurements via orthogonal matching pursuit*, IEEE Trans. Inf. Theory 53(12), 2007, Algorithm 3;
for several snapshots with separate dictionaries, Duarte, Sarvotham, Baron, Wakin &
Baraniuk, *Distributed compressed sensing of jointly sparse signals*, Asilomar 2005 (DCS-SOMP). On a
grid of angles and ranges, even in 1/r: Cui & Dai, *Channel estimation for extremely large-scale
MIMO: far-field or near-field?*, IEEE Trans. Commun. 70(4), 2022.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import estimate, likelihood, search_grid
from ris_jax.estimation.baselines import grid_dictionary
from ris_jax.physics import scenes
from ris_jax.physics.element_response import ElementResponse

_EVERYWHERE = search_grid.SearchRegion()
CELL = 0.53  # width of a cell in units of resolution: estimates are grid points


def pursue(
    dictionary: likelihood.Images,
    data: Complex[Array, "T R"],
    count: Int[Array, ""],
    most: int,
) -> tuple[Int[Array, "K"], grid_dictionary.GridFit]:
    """Select columns of a dictionary that explain the data, in order of selection.

    Args:
      dictionary: [T, G, R]; zero columns are never selected.
      data: [T, R], in the coordinates of the dictionary's right images.
      count: [] int, number of columns to select, at most `most`.
      most: K.

    Returns:
      Indices [K], valid up to `count`, and the least-squares fit of these columns.
    """
    energy = jnp.sum((dictionary.left.conj() * dictionary.right).real, axis=-1)
    scale = jnp.where(energy > 0, jax.lax.rsqrt(jnp.where(energy > 0, energy, 1.0)), 0.0)

    def at(indices):
        return likelihood.Images(dictionary.left[:, indices], dictionary.right[:, indices])

    def choose(k, carry):
        indices, active, fit = carry
        score = jnp.sum(jnp.abs(likelihood.against(dictionary.left, fit.residual)) * scale, axis=0)
        # Due to rounding, the residual may contain a small part of a selected column.
        score = score.at[jnp.where(active > 0, indices, score.size)].set(-1.0, mode="drop")
        indices = indices.at[k].set(jnp.argmax(score))
        active = active.at[k].set((k < count).astype(active.dtype))
        return indices, active, grid_dictionary.least_squares(at(indices), data, active)

    groups = data.shape[0]
    nothing = grid_dictionary.GridFit(jnp.zeros((groups, most), data.dtype), data)
    start = jnp.zeros(most, int), jnp.zeros(most, energy.dtype), nothing
    indices, _, fit = jax.lax.fori_loop(0, most, choose, start)
    return indices, fit


def orthogonal_matching_pursuit(
    measurement: scenes.Measurement,
    num_sources: int | Int[Array, "B"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    source_signal: config_lib.SourceSignal = "constant",
    max_sources: int = 5,
    region: search_grid.Box = _EVERYWHERE,
    grid: tuple[int, int, int] | None = None,
) -> estimate.Estimate:
    """Estimate sources at grid points by orthogonal matching pursuit.

    Args:
      measurement: a batch of scenes; the noise variance is copied to the result, not used.
      num_sources: int or [B], columns to select.
      positions: [N, 3] float [m].
      wavelength: [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar;
        planar waves have infinite range.
      response: of the elements; None: the same in all directions.
      source_signal: "constant" fits an amplitude for all snapshots, "independent" one for each.
      max_sources: K, the width of the result.
      region: search region.
      grid: cells in u, w and 1/r; None derives them from the array's resolution.

    Returns:
      An `Estimate` [B, K] with infinite error bars.

    Raises:
      ValueError: mismatched shapes, `max_sources` below 1, or a grid without cells.
    """
    num_sources, positions = grid_dictionary.counts_and_positions(
        measurement, num_sources, positions, max_sources
    )
    grid = grid or search_grid.search_shape(
        positions, region, wavelength=wavelength, wavefront=wavefront, cell=CELL
    )
    atoms = grid_dictionary.atoms_of(
        positions, region, grid, wavelength=wavelength, wavefront=wavefront, response=response
    )
    count = jnp.clip(num_sources, 0, max_sources)

    def one_scene(task):
        scene, count = task
        observation = likelihood.observe(scene, source_signal)
        seen = likelihood.images(observation, atoms.vectors)
        return pursue(seen, observation.data, count, max_sources)

    indices, fit = jax.lax.map(
        one_scene, (measurement, count), batch_size=grid_dictionary.AT_A_TIME
    )
    active = (jnp.arange(max_sources) < count[:, None]).astype(fit.amplitudes.real.dtype)
    return grid_dictionary.as_estimate(
        atoms, indices, fit.amplitudes, active, measurement.noise_variance
    )
