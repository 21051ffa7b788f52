r"""The maximum-likelihood estimator: how many sources, where, and how sure.

`matching_pursuit` searches; here are its set-up, the error bars and the function that users call.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ris_jax import arrays, bounds, scenes
from ris_jax import config as config_lib
from ris_jax.estimators import checks, grids, likelihood, model_order, proposals, refinement
from ris_jax.estimators.estimate import Estimate
from ris_jax.estimators.matching_pursuit import Search, SearchOptions, Task, solve

# Places in u, w and 1/r at which the metric of the steering vectors is taken.
_METRIC_GRID = (8, 6, 4)


def _prepare(
    positions, region, options, samples, amplitudes, false_alarm_rate, source_signal, **wave
) -> Search:
    """Grid, metric and limits of a call."""
    jet = functools.partial(arrays.steering_jet, positions=positions, **wave)
    space = grids.search_space(region, options.grid, wave["wavefront"])
    points = space.points
    unit = arrays.unit_from_cosines(points[:, 0], points[:, 1])
    vectors = arrays.steering(unit, points[:, 2], positions, **wave)
    visible = jnp.sum(points[:, :2] ** 2, axis=1) < 1.0
    # The metric changes slowly: a few places tell it.
    places = grids.search_space(region, _METRIC_GRID, wave["wavefront"]).points
    metric = model_order.metric_tensor(jet(places))
    scale = jnp.mean(jnp.diagonal(metric, axis1=1, axis2=2), axis=0)
    return Search(
        setting=refinement.Setting(jet, space.lower, space.upper, source_signal),
        grid=proposals.Grid(
            points=points,
            conjugates=vectors.conj() * visible[:, None],
            shape=space.shape,
            unit=jax.lax.rsqrt(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)),
        ),
        volumes=model_order.intrinsic_volumes(metric, space.upper - space.lower),
        false_alarm_rate=false_alarm_rate,
        samples=samples,
        amplitudes=amplitudes,
        options=options,
    )


def _final_fit(search: Search, task: Task, noise_variance: Float[Array, ""]) -> refinement.Fit:
    """The fit with amplitudes as strong as the sources are: noise makes fitted ones stronger."""
    if search.setting.source_signal == "independent":
        return refinement.integrate_amplitudes(
            search.setting, task.observation, task.fit, noise_variance,
            search.options.final_iterations,
        )  # fmt: skip
    fit = task.fit
    power = refinement.signal_power(task.observation, fit, noise_variance)
    fitted = jnp.abs(fit.local.amplitudes) ** 2
    share = power / jnp.maximum(fitted, jnp.finfo(fitted.dtype).tiny)
    amplitudes = fit.local.amplitudes * jnp.sqrt(share)
    return fit._replace(local=fit.local._replace(amplitudes=amplitudes))


def _as_estimate(search: Search, task: Task, measurement, positions, wave) -> Estimate:
    """Physical coordinates, strongest first, with error bars from the bound at the estimate."""
    noise_variance = search.noise_variance(task)
    fit = _final_fit(search, task, noise_variance)
    present = (fit.active > 0) & jnp.isfinite(noise_variance)
    power = jnp.where(present, jnp.mean(jnp.abs(fit.local.amplitudes) ** 2, axis=0), 0.0)
    order = jnp.argsort(-power, stable=True)
    present, power = present[order], power[order]
    azimuth, elevation, source_range = arrays.from_coordinates(fit.coordinates[order])
    azimuth, elevation = jnp.where(present, azimuth, 0.0), jnp.where(present, elevation, 0.0)
    source_range = jnp.where(present, source_range, jnp.inf)
    signals = jnp.where(present, fit.local.amplitudes[:, order], 0.0)
    bound = bounds.cramer_rao_bound(
        measurement._replace(noise_variance=noise_variance),
        azimuth,
        elevation,
        source_range,
        jnp.broadcast_to(signals, (measurement.codes.shape[0], signals.shape[1])),
        positions,
        source_signal=search.setting.source_signal,
        **wave,
    )
    return Estimate(
        azimuth=azimuth,
        elevation=elevation,
        source_range=source_range,
        power=power,
        num_sources=jnp.sum(present).astype(jnp.int32),
        covariance=bound.covariance,
        noise_variance=noise_variance,
    )


@functools.partial(
    jax.jit,
    static_argnames=(
        "wavelength",
        "wavefront",
        "source_signal",
        "max_sources",
        "region",
        "options",
    ),
)
def _maximum_likelihood(
    measurement, positions, least, most, false_alarm_rate,
    *, wavelength, wavefront, source_signal, max_sources, region, options,
):  # fmt: skip
    """`maximum_likelihood` with limits on the number of sources instead of a number or None."""
    wave = {"wavelength": wavelength, "wavefront": wavefront}
    snapshots, antennas = measurement.snapshots.shape[-2:]
    with jax.default_matmul_precision("highest"):
        search = _prepare(
            positions,
            region,
            options,
            snapshots * antennas,
            1 if source_signal == "constant" else snapshots,
            false_alarm_rate,
            source_signal,
            **wave,
        )

        def begin(scene, least, most):
            observation = likelihood.observe(scene, source_signal)
            nothing = jnp.zeros((max_sources, 3)), jnp.zeros(max_sources)
            fit = refinement.refine(search.setting, observation, *nothing, 0)
            return Task(observation, least, most, fit, jnp.zeros((), jnp.int32))

        tasks = solve(search, jax.vmap(begin)(measurement, least, most))
        return jax.vmap(lambda task, scene: _as_estimate(search, task, scene, positions, wave))(
            tasks, measurement
        )


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

    Args:
      measurement: a batch of scenes: snapshots [B, L, M], channel [B, M, N], codes [B, L, N]. Its
        noise variance is not used; it is estimated.
      positions: [N, 3] elements [m].
      wavelength: [m].
      wavefront: spherical, fresnel, parabolic or planar; planar ones have no range: infinity.
      source_signal: constant, one amplitude a source for all snapshots; or independent.
      num_sources: how many there are, [B] or one number for all; None counts them. All numbers up
        to `max_sources`, and None, share one compilation.
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
    checks.check_scenes(measurement, positions, wavelength, max_sources)
    batch = measurement.snapshots.shape[0]
    checks.check_counts(num_sources, max_sources, false_alarm_rate, batch=batch)
    least, most = (0, max_sources) if num_sources is None else (num_sources, num_sources)
    return _maximum_likelihood(
        measurement,
        jnp.asarray(positions, jnp.float32),
        jnp.broadcast_to(jnp.asarray(least, jnp.int32), batch),
        jnp.broadcast_to(jnp.asarray(most, jnp.int32), batch),
        jnp.asarray(false_alarm_rate, jnp.float32),
        wavelength=float(wavelength),
        wavefront=wavefront,
        source_signal=source_signal,
        max_sources=max_sources,
        region=region or grids.SearchRegion(),
        options=options or SearchOptions(),
    )
