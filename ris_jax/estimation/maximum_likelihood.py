r"""The maximum-likelihood estimator: number of sources, positions and error bars.

`matching_pursuit` has the search; this module sets it up and adds the error bars.
"""

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.accuracy import bounds
from ris_jax.estimation import (
    batches,
    candidate_search,
    error_bars,
    inputs,
    likelihood,
    refinement,
    search_grid,
    snapshot_groups,
    source_number,
)
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.matching_pursuit import Search, SearchOptions, begin, solve
from ris_jax.physics import arrays, scenes
from ris_jax.physics.element_response import ElementResponse, directional

# Points in u, w and 1/r at which the metric of the steering vectors is evaluated.
_METRIC_GRID = (8, 6, 4)


def prepare(
    positions: Float[Array, "N 3"],
    region: search_grid.Box,
    options: SearchOptions,
    shape: tuple[int, int, int],
    samples: int,
    amplitudes: int,
    false_alarm_rate: float | Float[Array, ""],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront,
    response: ElementResponse | None = None,
) -> Search:
    """Constants of a search: grid, metric and limits.

    Args:
      positions: [N, 3] elements [m].
      region: limits of the search.
      options: search effort.
      shape: cells of the grid, see `search_grid.search_shape`.
      samples: L M.
      amplitudes: free complex amplitudes of a source: 1, or one for each snapshot.
      false_alarm_rate: of the test for another source.
      wavelength: [m].
      wavefront: of the steering vectors.
      response: of the elements; None: the same in all directions.
    """
    wave: dict[str, Any] = {
        "wavelength": wavelength, "wavefront": wavefront, "response": response
    }  # fmt: skip
    jet = functools.partial(arrays.steering_jet, positions=positions, **wave)
    space = search_grid.search_space(region, shape, wavefront)
    # The metric changes slowly: a few points suffice. Element responses change it little, and
    # elements that face away have none.
    places = search_grid.search_space(region, _METRIC_GRID, wavefront).points
    alike = functools.partial(
        arrays.steering_jet, positions=positions, wavelength=wavelength, wavefront=wavefront
    )
    metric = source_number.metric_tensor(alike(places))
    scale = jnp.mean(jnp.diagonal(metric, axis1=1, axis2=2), axis=0)
    unit = jax.lax.rsqrt(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny))
    return Search(
        setting=refinement.RefinementProblem(jet, space.lower, space.upper),
        grid=candidate_search.grid_of(space, unit, positions, **wave),
        volumes=source_number.intrinsic_volumes(metric, space.upper - space.lower),
        false_alarm_rate=jnp.asarray(false_alarm_rate),
        samples=samples,
        amplitudes=amplitudes,
        options=options,
    )


def as_estimate(
    search: Search, observation: likelihood.Observation, fit: refinement.SourceFit,
    measurement: scenes.Measurement, positions: Float[Array, "N 3"], wave: dict[str, Any],
    source_signal: config_lib.SourceSignal,
) -> Estimate:  # fmt: skip
    """Physical coordinates, strongest first, with error bars from the bound at the estimate."""
    noise_variance = search.noise_variance(observation, fit)
    if source_signal == "constant":
        held = refinement.background(observation, fit)
        power = refinement.signal_power(observation, fit, noise_variance, held)
        variances = refinement.variances(held)[0]
        covariance = error_bars.covariance(fit, power, variances, noise_variance)
    else:
        fit = refinement.integrate_amplitudes(
            search.setting, observation, fit, noise_variance, search.options.final_iterations
        )
        power = refinement.mean_power(observation, fit)
        covariance = _bound(
            fit, measurement._replace(noise_variance=noise_variance), positions, wave
        )
    return strongest_first(fit, power, covariance, noise_variance)


def strongest_first(
    fit: refinement.SourceFit,
    power: Float[Array, "K"],
    covariance: Float[Array, "K D D"],
    noise_variance: Float[Array, ""],
) -> Estimate:
    """Return a fit in physical coordinates, strongest source first; a fourth one is a delay.

    Args:
      fit: its coordinates are (u, w, 1/r), or (u, w, 1/r, delay distance [m]).
      power: [K].
      covariance: [K, D, D] of azimuth, elevation, range and delay distance.
      noise_variance: [].
    """
    present = (fit.active > 0) & jnp.isfinite(noise_variance)
    power = jnp.where(present, power, 0.0)
    order = jnp.argsort(-power, stable=True)
    present, power, covariance = present[order], power[order], covariance[order]
    azimuth, elevation, source_range = arrays.from_coordinates(fit.coordinates[order])
    unknown = jnp.where(jnp.eye(3, dtype=bool), jnp.inf, 0.0)
    delays = {}
    if fit.coordinates.shape[-1] > 3:
        speed = config_lib.SPEED_OF_LIGHT
        delay, variance = fit.coordinates[order, 3] / speed, covariance[:, 3, 3] / speed / speed
        delays = {
            "delay": jnp.where(present, delay, 0.0),
            "delay_variance": jnp.where(present, variance, jnp.inf),
        }
        covariance = covariance[:, :3, :3]
    return Estimate(
        azimuth=jnp.where(present, azimuth, 0.0),
        elevation=jnp.where(present, elevation, 0.0),
        source_range=jnp.where(present, source_range, jnp.inf),
        power=power,
        num_sources=jnp.sum(present).astype(jnp.int32),
        covariance=jnp.where(present[:, None, None], covariance, unknown),
        noise_variance=noise_variance,
        **delays,
    )


def _bound(fit: refinement.SourceFit, measurement, positions, wave) -> Float[Array, "K 3 3"]:
    """Return the Cramér-Rao bound of independent signals at a fit."""
    signals = jnp.where(fit.active > 0, fit.local.amplitudes, 0.0)
    azimuth, elevation, source_range = arrays.from_coordinates(fit.coordinates)
    return bounds.cramer_rao_bound(
        measurement, azimuth, elevation, source_range, signals, positions,
        source_signal="independent", **wave,
    ).covariance  # fmt: skip


@compilation.program(
    static_argnames=("wavefront", "source_signal", "max_sources", "options", "shape", "snapshots")
)
def _maximum_likelihood(
    measurement, weights, positions, least, most, false_alarm_rate, wavelength, limits, response,
    *, wavefront, source_signal, max_sources, options, shape, snapshots,
):  # fmt: skip
    """`maximum_likelihood` with limits on the number of sources instead of a number or None."""
    wave = {"wavelength": wavelength, "wavefront": wavefront, "response": response}
    search = prepare(
        positions,
        limits,
        options,
        shape,
        snapshots * measurement.snapshots.shape[-1],
        1 if source_signal == "constant" else snapshots,
        false_alarm_rate,
        **wave,
    )
    observations = likelihood.observe_batch(measurement, source_signal)
    if weights is not None:
        weights = jnp.broadcast_to(weights, observations.weights.shape)
        observations = observations.replace(weights=weights)
    return fit_scenes(
        search, observations, measurement, positions, least, most,
        max_sources=max_sources, source_signal=source_signal, **wave,
    )  # fmt: skip


def fit_scenes(
    search: Search, observations: likelihood.Observation, measurement: scenes.Measurement,
    positions: Float[Array, "N 3"], least: Int[Array, "B"], most: Int[Array, "B"],
    *, max_sources: int, source_signal: config_lib.SourceSignal, **wave: Any,
) -> Estimate:  # fmt: skip
    """Search all scenes of a batch.

    Args:
      search: of the array, from `prepare`.
      observations: [B, ...] of the measurement.
      measurement: [B, ...]; channel and codes may be shared, [1, ...].
      positions: [N, 3] elements [m].
      least: [B] minimum number of sources.
      most: [B] maximum number of sources.
      max_sources: maximum number in any scene.
      source_signal: constant or independent.
      **wave: wavelength [m] and wavefront.
    """
    start = functools.partial(begin, max_sources=max_sources)
    tasks = likelihood.over_scenes(start, observations, least, most)
    tasks = solve(search, observations.operator, tasks)
    observations = observations.replace(energy=tasks.observation.energy)
    batch = len(measurement.snapshots)
    scene = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])), measurement)
    return likelihood.over_scenes(
        lambda observation, fit, scene: as_estimate(
            search, observation, fit, scene, positions, wave, source_signal
        ),
        observations,
        tasks.fit,
        scene,
    )


def maximum_likelihood(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    source_signal: config_lib.SourceSignal = "constant",
    num_sources: Int[Array, "B"] | int | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = source_number.DEFAULT_FALSE_ALARM_RATE,
    region: search_grid.SearchRegion | None = None,
    options: SearchOptions | None = None,
) -> Estimate:
    r"""Number of sources and their positions at the maximum of the likelihood.

    Numbers of sources, false-alarm rates, wavelengths and regions share one compiled program as
    long as the search grid has the same shape. Batches are padded to a few sizes, see `batches`.

    Args:
      measurement: a batch of scenes: snapshots [B, L, M], channel [B, M, N] and codes [B, L, N], or
        [1, M, N] and [1, L, N] if all scenes share them. Its noise variance is not used; it is
        estimated.
      positions: [N, 3] elements [m]. Concrete also inside `jax.jit`, unless `options.grid` is
        given: the grid follows the array.
      wavelength: [m]; concrete, as the positions.
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar; planar ones have no
        range: infinity.
      response: of the elements, see `physics.element_response`; None: the same in all directions.
      source_signal: constant, one amplitude a source for all snapshots; or independent. For
        independent signals, snapshots with the same code are replaced by as many as there are
        antennas, without loss: see `snapshot_groups`.
      num_sources: given number of sources, [B] or one for all; None counts them.
      max_sources: maximum number of sources.
      false_alarm_rate: probability of a false source in a scene, if they are counted.
      region: search region; default `SearchRegion()`.
      options: search effort; default `SearchOptions()`.

    Returns:
      An `Estimate`, [B, max_sources]. For a scene with non-finite data, `num_sources` is 0 and
      `noise_variance` is NaN.

    Raises:
      ConfigError: mismatched shapes, or a number out of its domain.

    References:
      Ziskind & Wax, *Maximum likelihood localization of multiple sources by alternating
      projection*, IEEE Trans. ASSP 36(10), 1988; Mallat & Zhang, *Matching pursuits with
      time-frequency dictionaries*, IEEE Trans. Signal Process. 41(12), 1993.
    """
    signals = get_args(config_lib.SourceSignal)
    inputs.require(
        source_signal in signals, "source_signal", "one of " + ", ".join(signals), source_signal
    )
    inputs.check_scenes(measurement, positions, wavelength, max_sources)
    inputs.check_counts(
        num_sources, max_sources, false_alarm_rate, batch=len(measurement.snapshots)
    )

    options, region = options or SearchOptions(), region or search_grid.SearchRegion()
    shape = options.grid or search_grid.search_shape(
        positions, region, wavelength=wavelength, wavefront=wavefront, cell=options.cell
    )
    snapshots = measurement.snapshots.shape[1]
    weights = None
    if source_signal == "independent":
        measurement, weights = snapshot_groups.compress(measurement)

    def search(measurement, counts):
        least, most = (0, max_sources) if counts is None else (counts, counts)
        batch = len(measurement.snapshots)
        real, number = jnp.zeros(()).dtype, functools.partial(jnp.asarray, dtype=jnp.int32)
        return _maximum_likelihood(
            jax.tree.map(inputs.as_canonical, measurement),
            None if weights is None else jnp.asarray(weights, real),
            jnp.asarray(positions, real),
            jnp.broadcast_to(number(least), batch),
            jnp.broadcast_to(number(most), batch),
            jnp.asarray(false_alarm_rate, real),
            jnp.asarray(wavelength, real),
            region.limits,
            directional(response),
            wavefront=wavefront,
            source_signal=source_signal,
            max_sources=max_sources,
            options=options,
            shape=shape,
            snapshots=snapshots,
        )

    largest = batches.largest(measurement, source_signal)
    return batches.in_sizes(search, measurement, num_sources, largest=largest)
