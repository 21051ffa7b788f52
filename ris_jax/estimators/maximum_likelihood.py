r"""The maximum-likelihood estimator: how many sources, where, and how sure.

`matching_pursuit` searches; here are its set-up, the error bars and the function that users call.
"""

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ris_jax import arrays, bounds, scenes
from ris_jax import config as config_lib
from ris_jax.estimators import (
    batches,
    checks,
    compilation,
    error_bars,
    grids,
    likelihood,
    model_order,
    proposals,
    refinement,
)  # fmt: skip
from ris_jax.estimators.estimate import Estimate
from ris_jax.estimators.matching_pursuit import Search, SearchOptions, begin, solve

# Places in u, w and 1/r at which the metric of the steering vectors is taken.
_METRIC_GRID = (8, 6, 4)


def prepare(
    positions: Float[Array, "N 3"],
    region: grids.Box,
    options: SearchOptions,
    samples: int,
    amplitudes: int,
    false_alarm_rate: float | Float[Array, ""],
    source_signal: config_lib.SourceSignal,
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront,
) -> Search:
    """What all scenes of a call share: grid, metric and limits; for the caller to search with."""
    wave: dict[str, Any] = {"wavelength": wavelength, "wavefront": wavefront}
    jet = functools.partial(arrays.steering_jet, positions=positions, **wave)
    space = grids.search_space(region, options.grid, wavefront)
    # The metric changes slowly: a few places tell it.
    places = grids.search_space(region, _METRIC_GRID, wavefront).points
    metric = model_order.metric_tensor(jet(places))
    scale = jnp.mean(jnp.diagonal(metric, axis1=1, axis2=2), axis=0)
    unit = jax.lax.rsqrt(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny))
    return Search(
        setting=refinement.Setting(jet, space.lower, space.upper, source_signal),
        grid=proposals.grid_of(space, unit, positions, **wave),
        volumes=model_order.intrinsic_volumes(metric, space.upper - space.lower),
        false_alarm_rate=jnp.asarray(false_alarm_rate),
        samples=samples,
        amplitudes=amplitudes,
        options=options,
    )


def as_estimate(
    search: Search, observation: likelihood.Observation, fit: refinement.Fit,
    measurement: scenes.Measurement, positions: Float[Array, "N 3"], wave: dict[str, Any],
) -> Estimate:  # fmt: skip
    """Physical coordinates, strongest first, with error bars from the bound at the estimate."""
    noise_variance = search.noise_variance(observation, fit)
    if search.setting.source_signal == "constant":
        held = refinement.background(observation, fit)
        # Noise makes fitted amplitudes stronger than the sources are.
        power = refinement.signal_power(observation, fit, noise_variance, held)
        variances = refinement.variances(held)[0]
        covariance = error_bars.covariance(fit, power, variances, noise_variance)
    else:
        fit = refinement.integrate_amplitudes(
            search.setting, observation, fit, noise_variance, search.options.final_iterations
        )
        power = jnp.mean(jnp.abs(fit.local.amplitudes) ** 2, axis=0)
        covariance = _bound(
            fit, measurement._replace(noise_variance=noise_variance), positions, wave
        )
    present = (fit.active > 0) & jnp.isfinite(noise_variance)
    power = jnp.where(present, power, 0.0)
    order = jnp.argsort(-power, stable=True)
    present, power, covariance = present[order], power[order], covariance[order]
    azimuth, elevation, source_range = arrays.from_coordinates(fit.coordinates[order])
    unknown = jnp.where(jnp.eye(3, dtype=bool), jnp.inf, 0.0)
    return Estimate(
        azimuth=jnp.where(present, azimuth, 0.0),
        elevation=jnp.where(present, elevation, 0.0),
        source_range=jnp.where(present, source_range, jnp.inf),
        power=power,
        num_sources=jnp.sum(present).astype(jnp.int32),
        covariance=jnp.where(present[:, None, None], covariance, unknown),
        noise_variance=noise_variance,
    )


def _bound(fit: refinement.Fit, measurement, positions, wave) -> Float[Array, "K 3 3"]:
    """The Cramér-Rao bound of independent signals at a fit."""
    signals = jnp.where(fit.active > 0, fit.local.amplitudes, 0.0)
    azimuth, elevation, source_range = arrays.from_coordinates(fit.coordinates)
    return bounds.cramer_rao_bound(
        measurement, azimuth, elevation, source_range, signals, positions,
        source_signal="independent", **wave,
    ).covariance  # fmt: skip


@compilation.program(static_argnames=("wavefront", "source_signal", "max_sources", "options"))
def _maximum_likelihood(
    measurement, positions, least, most, false_alarm_rate, wavelength, limits,
    *, wavefront, source_signal, max_sources, options,
):  # fmt: skip
    """`maximum_likelihood` with limits on the number of sources instead of a number or None."""
    wave = {"wavelength": wavelength, "wavefront": wavefront}
    snapshots, antennas = measurement.snapshots.shape[-2:]
    with jax.default_matmul_precision("highest"):
        search = prepare(
            positions,
            limits,
            options,
            snapshots * antennas,
            1 if source_signal == "constant" else snapshots,
            false_alarm_rate,
            source_signal,
            **wave,
        )
        observations = likelihood.observe_batch(measurement, source_signal)
        start = functools.partial(begin, max_sources=max_sources)
        tasks = solve(search, jax.vmap(start)(observations, least, most))
        return jax.vmap(
            lambda task, scene: as_estimate(
                search, task.observation, task.fit, scene, positions, wave
            )
        )(tasks, measurement)


def maximum_likelihood(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    source_signal: config_lib.SourceSignal = "constant",
    num_sources: Int[Array, "B"] | int | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = model_order.DEFAULT_FALSE_ALARM_RATE,
    region: grids.SearchRegion | None = None,
    options: SearchOptions | None = None,
) -> Estimate:
    r"""How many sources there are and where, at the maximum of the likelihood.

    Numbers of sources, false-alarm rates, wavelengths and regions share one compiled program, and
    so do numbers of scenes up to 8, up to 64 and beyond, see `batches`.

    Args:
      measurement: a batch of scenes: snapshots [B, L, M], channel [B, M, N], codes [B, L, N]. Its
        noise variance is not used; it is estimated.
      positions: [N, 3] elements [m].
      wavelength: [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar;
        planar ones have no range: infinity.
      source_signal: constant, one amplitude a source for all snapshots; or independent.
      num_sources: how many there are, [B] or one number for all; None counts them.
      max_sources: most sources that are sought.
      false_alarm_rate: probability of a source too many in a scene, when they are counted.
      region: where sources are sought; default `SearchRegion()`.
      options: how hard they are sought.

    Returns:
      An `Estimate`, [B, max_sources]. A scene that is not finite has no sources and a noise
      variance that is NaN.

    Raises:
      ConfigError: shapes that do not fit each other, or a number out of its domain.

    References:
      Ziskind & Wax, *Maximum likelihood localization of multiple sources by alternating
      projection*, IEEE Trans. ASSP 36(10), 1988; Mallat & Zhang, *Matching pursuits with
      time-frequency dictionaries*, IEEE Trans. Signal Process. 41(12), 1993.
    """
    signals = get_args(config_lib.SourceSignal)
    checks.require(
        source_signal in signals, "source_signal", "one of " + ", ".join(signals), source_signal
    )
    checks.check_scenes(measurement, positions, wavelength, max_sources)
    checks.check_counts(
        num_sources, max_sources, false_alarm_rate, batch=len(measurement.snapshots)
    )

    def search(measurement, counts):
        least, most = (0, max_sources) if counts is None else (counts, counts)
        batch = len(measurement.snapshots)
        return _maximum_likelihood(
            measurement,
            jnp.asarray(positions, jnp.float32),
            jnp.broadcast_to(jnp.asarray(least, jnp.int32), batch),
            jnp.broadcast_to(jnp.asarray(most, jnp.int32), batch),
            jnp.asarray(false_alarm_rate, jnp.float32),
            jnp.asarray(wavelength, jnp.float32),
            (region or grids.SearchRegion()).limits,
            wavefront=wavefront,
            source_signal=source_signal,
            max_sources=max_sources,
            options=options or SearchOptions(),
        )

    return batches.in_sizes(search, measurement, num_sources)
