r"""Sparse Bayesian learning on a grid in (u, w, 1/r).

Every grid point has a source of unknown power :math:`\gamma_g`, most of them zero. Amplitudes are
circular Gaussian with these variances. The powers maximise the likelihood of the data (Tipping,
*Sparse Bayesian learning and the relevance vector machine*, J. Mach. Learn. Res. 1, 2001; for
several snapshots Wipf & Rao, *An empirical Bayesian strategy for solving the simultaneous sparse
approximation problem*, IEEE Trans. Signal Process. 55(7), 2007). With :math:`C_t = \sigma^2 I +
\sum_g \gamma_g b_{tg} b_{tg}^H` the fixed point is found as in Gerstoft, Mecklenbräuker, Xenaki &
Nannuru, *Multisnapshot sparse Bayesian learning for DOA*, IEEE Signal Process. Lett. 23(10), 2016:

.. math::
  \gamma_g \leftarrow \gamma_g
  \left(\frac{\sum_t \sum_s |b_{tg}^H C_t^{-1} y_{ts}|^2}
             {S \sum_t b_{tg}^H C_t^{-1} b_{tg}}\right)^{1/2}

In the paper the S snapshots :math:`y_{ts}` share one dictionary. Here groups t of snapshots can
have separate dictionaries, and both sums run over the groups. With independent signals each
snapshot is a group, with its own code; constant signals form a single group of one. The matrices
:math:`C_t` are in data coordinates, so the cost is linear in the size of the grid. After some steps
over the whole grid only the strongest points are kept, as in Tipping's pruning. Sources are the
highest local maxima of :math:`\gamma` on the grid; the noise variance is that of the measurement.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import estimate, likelihood, search_grid
from ris_jax.estimation.baselines import grid_dictionary
from ris_jax.physics import linear, scenes
from ris_jax.physics import measurement as measurement_lib
from ris_jax.physics.element_response import ElementResponse

_EVERYWHERE = search_grid.SearchRegion()
# Minimum noise, as a fraction of the mean data power, for inversion in float32.
_LEAST_NOISE = 1e-5
# Loading of an operator, as a fraction of its mean power, for a finite Cholesky factor.
_RIDGE = 1e-6
# Larger matrices use LAPACK, one scene at a time: batched calls can deadlock.
_SMALL = 32


class PowerIterations(NamedTuple):
    """Numbers of iterations of sparse Bayesian learning, and of the points that it keeps."""

    whole: int = 10  # over all points
    kept: int = 256  # points kept after these
    pruned: int = 60  # over the kept points


class _Whitened(NamedTuple):
    """A scene in coordinates with white noise."""

    atoms: Complex[Array, "T G D"]
    data: Complex[Array, "T S D"]


def _whiten(
    scene: scenes.Measurement, atoms: grid_dictionary.Atoms, source_signal: config_lib.SourceSignal
) -> _Whitened:
    """Whiten: min(N, LM) coordinates for constant signals, else the antennas of each snapshot."""
    if source_signal == "independent":
        seen = likelihood.observe(scene, source_signal)
        images = likelihood.images(seen, atoms.vectors)
        return _Whitened(images.right, seen.data[:, None])
    if scene.snapshots.size <= scene.channel.shape[-1]:
        operator = measurement_lib.operator(scene)
        return _Whitened(
            linear.matmul(atoms.vectors, operator.T)[None], scene.snapshots.reshape(1, 1, -1)
        )
    gram = measurement_lib.gram(scene.channel, scene.codes)
    ridge = _RIDGE * jnp.trace(gram).real / gram.shape[0]
    root = jnp.linalg.cholesky(gram + ridge * jnp.eye(gram.shape[0], dtype=gram.dtype))
    data = jax.lax.linalg.triangular_solve(
        root, measurement_lib.adjoint(scene)[:, None], left_side=True, lower=True
    )
    return _Whitened(linear.matmul(atoms.vectors, root.conj())[None], data.T[None])


def _quotient(
    atoms: Complex[Array, "T G D"],
    data: Complex[Array, "T S D"],
    power: Float[Array, "G"],
    noise_variance: Float[Array, ""],
) -> Float[Array, "G"]:
    """Return the squared growth factor of each power in a step."""
    (points, size), snapshots = atoms.shape[-2:], data.shape[1]
    covariance = linear.einsum("tgd,tge->tde", atoms * power[:, None], atoms.conj())
    covariance = covariance + noise_variance * jnp.eye(size, dtype=covariance.dtype)
    columns = jnp.swapaxes(jnp.concatenate([atoms, data], axis=1), -1, -2)
    if size <= _SMALL:
        left, right = columns, linear.matmul(linear.inverse_positive(covariance), columns)
    else:
        root = jnp.linalg.cholesky(covariance)
        left = right = jax.lax.linalg.triangular_solve(root, columns, left_side=True, lower=True)
    own = jnp.sum((left.conj() * right).real, axis=1)[:, :points]
    matched = linear.einsum("tdg,tds->tsg", left[..., :points].conj(), right[..., points:])
    own = snapshots * jnp.sum(own, axis=0)
    found = jnp.sum(jnp.abs(matched) ** 2, axis=(0, 1))
    return jnp.where(own > 0, found / jnp.where(own > 0, own, 1.0), 0.0)


def learn_powers(
    atoms: Complex[Array, "T G D"],
    data: Complex[Array, "T S D"],
    noise_variance: Float[Array, ""],
    steps: PowerIterations | None = None,
) -> Float[Array, "G"]:
    r"""Estimate the powers :math:`\gamma` of the columns of a dictionary, [G].

    Args:
      atoms: [T, G, D]: the dictionary of each group; zero columns get no power.
      data: [T, S, D]: the snapshots of each group, with white noise.
      noise_variance: [] of each data entry; the minimum is 1e-5 of the mean power.
      steps: numbers of iterations.
    """
    steps = PowerIterations() if steps is None else steps
    mean_power = jnp.mean(jnp.abs(data) ** 2)
    noise = jnp.maximum(noise_variance, _LEAST_NOISE * mean_power)
    noise = jnp.maximum(noise, jnp.finfo(noise.dtype).tiny)
    energy = jnp.sum(jnp.abs(atoms) ** 2, axis=(0, 2))
    matched = jnp.abs(linear.einsum("tgd,tsd->tsg", atoms.conj(), data)) ** 2
    # Start from the powers of a beamformer.
    squared = jnp.where(energy > 0, energy, 1.0) ** 2 * data.shape[1] / data.shape[0]
    power = jnp.where(energy > 0, jnp.sum(matched, axis=(0, 1)) / squared, 0.0)

    def iterate(atoms, power, count):
        def step(_, power):
            return power * jnp.sqrt(_quotient(atoms, data, power, noise))

        return jax.lax.fori_loop(0, count, step, power)

    power = iterate(atoms, power, steps.whole)
    _, kept = jax.lax.top_k(power, min(steps.kept, power.shape[0]))
    strongest = iterate(atoms[:, kept], power[kept], steps.pruned)
    return jnp.zeros_like(power).at[kept].set(strongest)


def sparse_bayesian_learning(
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
    steps: PowerIterations | None = None,
) -> estimate.Estimate:
    """Estimate sources at the highest peaks of grid powers; source powers by least squares.

    Args:
      measurement: a batch of scenes with their noise variance.
      num_sources: int or [B], number of peaks.
      positions: [N, 3] float [m].
      wavelength: [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar;
        planar waves have infinite range.
      response: of the elements; None: the same in all directions.
      source_signal: "constant" has an amplitude for all snapshots, "independent" one for each.
      max_sources: K, the width of the result.
      region: search region.
      grid: cells in u, w and 1/r; None derives them from the array's resolution.
      steps: numbers of iterations.

    Returns:
      An `Estimate` [B, K] with infinite error bars. If the powers have fewer peaks than
      `num_sources`, the `num_sources` of the estimate is their number.

    Raises:
      ValueError: mismatched shapes, `max_sources` below 1, or a grid without cells.
    """
    num_sources, positions = grid_dictionary.counts_and_positions(
        measurement, num_sources, positions, max_sources
    )
    grid = grid or search_grid.search_shape(
        positions, region, wavelength=wavelength, wavefront=wavefront
    )
    atoms = grid_dictionary.atoms_of(
        positions, region, grid, wavelength=wavelength, wavefront=wavefront, response=response
    )

    def one_scene(task):
        scene, count = task
        white = _whiten(scene, atoms, source_signal)
        power = learn_powers(white.atoms, white.data, scene.noise_variance, steps)
        heights, indices = search_grid.highest_peaks(power, atoms.shape, max_sources)
        active = (heights > 0) & (jnp.arange(max_sources) < count)
        active = active.astype(power.dtype)
        chosen = white.atoms[:, indices]
        columns = likelihood.Images(chosen, chosen)
        # Whitened scenes have one snapshot per group.
        fit = grid_dictionary.least_squares(columns, white.data[:, 0], active)
        return indices, fit.amplitudes, active

    indices, amplitudes, active = jax.lax.map(one_scene, (measurement, num_sources))
    return grid_dictionary.as_estimate(
        atoms, indices, amplitudes, active, measurement.noise_variance
    )
