"""Estimators of `localize`: one function that runs any of them on scaled data."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.estimation import inputs, matching_pursuit, maximum_likelihood, search_grid
from ris_jax.estimation.baselines import decoupled_music, symmetric_arrays
from ris_jax.estimation.baselines.catalogue import METHODS, Method
from ris_jax.estimation.estimate import Estimate
from ris_jax.networks import network_start
from ris_jax.physics import covariance as cov
from ris_jax.physics import measurement as measurement_lib
from ris_jax.physics import scenes


class _Scale(NamedTuple):
    """Divisors of a measurement: powers of two, so that scaling is exact."""

    snapshots: Float[Array, "B"]
    channel: Float[Array, "B"]


@jax.jit
def scaled(measurement: scenes.Measurement) -> tuple[scenes.Measurement, _Scale]:
    """Scale snapshots and channels to near one: squared microvolts underflow in float32."""

    def power_of_two(values):
        largest = jnp.max(jnp.abs(values), axis=tuple(range(1, values.ndim)))
        return jnp.ldexp(jnp.ones(()), jnp.frexp(jnp.where(largest > 0, largest, 1.0))[1])

    def spread(scale, values):
        return jnp.expand_dims(scale, range(1, values.ndim))

    scale = _Scale(power_of_two(measurement.snapshots), power_of_two(measurement.channel))
    near_one = measurement._replace(
        snapshots=measurement.snapshots / spread(scale.snapshots, measurement.snapshots),
        channel=measurement.channel / spread(scale.channel, measurement.channel),
        # Two divisions: the square of a small scale underflows.
        noise_variance=measurement.noise_variance / scale.snapshots / scale.snapshots,
    )
    return near_one, scale


@jax.jit
def unscaled(estimate: Estimate, scale: _Scale) -> Estimate:
    """Return an estimate in the units of the measurement."""
    return estimate._replace(
        power=estimate.power * (scale.snapshots / scale.channel)[:, None] ** 2,
        noise_variance=estimate.noise_variance * scale.snapshots**2,
    )


def run(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    estimator: str,
    num_sources: Int[Array, "B"] | None,
    source_signal: config_lib.SourceSignal,
    false_alarm_rate: float,
    network: network_start.LocalizationNetwork | None,
    effort: matching_pursuit.SearchOptions,
    noise_unknown: bool,
    **common: Any,
) -> Estimate:
    """Run one estimator on scaled data; the arguments are those of `localize`, checked."""

    def likelihood_fit(measurement, num_sources):
        return maximum_likelihood.maximum_likelihood(
            measurement,
            positions,
            source_signal=source_signal,
            num_sources=num_sources,
            false_alarm_rate=false_alarm_rate,
            options=effort,
            **common,
        )

    if estimator == "maximum_likelihood":
        return likelihood_fit(measurement, num_sources)
    method = METHODS[estimator]
    extra: dict[str, Any] = {}
    if method.mirrored:
        layout = symmetric_arrays.layout_of(np.asarray(positions))
        # The covariance of a single field has rank one; smoothing raises the rank.
        single = network is None and source_signal == "constant"
        sub_surface = decoupled_music.sub_surface_of(layout.shape) if single else None
        extra = {"layout": layout, "sub_surface": sub_surface}
    counts, noise = num_sources, measurement.noise_variance
    if noise_unknown or (counts is None and network is None):
        fit = likelihood_fit(measurement, num_sources)
        counts = fit.num_sources if counts is None and network is None else counts
        noise = jnp.where(jnp.isnan(jnp.asarray(noise)), fit.noise_variance, noise)
    known = inputs.for_each_scene(measurement._replace(noise_variance=noise))
    if estimator == "network":
        assert network is not None  # `localize` has checked it
        estimate, unsure = network_start.network_start(
            known, positions, network, counts, source_signal=source_signal, **common
        )
        return _searched_again(estimate, unsure, known, counts, likelihood_fit)
    search = _jitted(method)
    cell = method.cell * effort.cell / search_grid.SEARCH_CELL
    wave = {name: common[name] for name in ("wavelength", "wavefront")}
    grid = effort.grid or search_grid.search_shape(positions, common["region"], cell=cell, **wave)
    common["grid"] = tuple(map(max, grid, method.least_grid))
    if not method.mirrored:
        common = common | {
            "wavelength": jnp.asarray(common["wavelength"], jnp.float32),
            "region": common["region"].limits,
        }
    if method.data == "measurement":
        return search(known, counts, positions, source_signal=source_signal, **common)
    if network is None:
        covariance, unit = snapshot_covariance(known, source_signal)
    else:
        covariance, unit, found = network_covariance(known, network)
        counts = found if counts is None else counts
    found = search(covariance, counts, positions, **common, **extra)
    return found._replace(power=found.power * unit[:, None], noise_variance=jnp.asarray(noise))


@functools.cache
def _jitted(method: Method) -> Callable[..., Estimate]:
    """Return the search of a baseline, compiled once for each of its options.

    The number of aliases of a mirrored method depends on wavelength, region and spacing, so it has
    one program for each of them.
    """
    static = {"wavefront", "max_sources", "source_signal", "layout", "sub_surface", "grid"}
    if method.mirrored:
        static |= {"wavelength", "region"}
    assert method.search is not None  # the other methods are handled above
    static &= set(inspect.signature(method.search).parameters)
    return compilation.Program(method.search, static)


def _searched_again(
    estimate: Estimate,
    unsure: Bool[Array, "B"],
    measurement: scenes.Measurement,
    counts: Int[Array, "B"] | None,
    search: Callable[..., Estimate],
) -> Estimate:
    """Replace the unsure scenes of an estimate by the result of `search`."""
    if isinstance(unsure, Tracer):
        found = search(measurement, counts)
        return jax.tree.map(
            lambda old, new: jnp.where(jnp.expand_dims(unsure, range(1, old.ndim)), new, old),
            estimate,
            found,
        )
    numbers = np.flatnonzero(unsure)
    if not len(numbers):
        return estimate
    found = search(*jax.tree.map(lambda leaf: leaf[numbers], (measurement, counts)))
    return jax.tree.map(lambda whole, new: whole.at[numbers].set(new), estimate, found)


@jax.jit
def network_covariance(
    measurement: scenes.Measurement, network: network_start.LocalizationNetwork
) -> tuple[cov.LowRankCovariance, Float[Array, "B"], Int[Array, "B"]]:
    """Return a network's covariance, its mean power, and its number of sources."""
    config = network.config
    signal = config.system.source_signal
    fields = jax.vmap(lambda scene: measurement_lib.field_estimates(scene, signal))(measurement)
    snr = jax.vmap(measurement_lib.signal_to_noise)(measurement)
    factor, count = network.covariance(measurement)
    covariance = cov.effective_covariance(factor, fields, snr, config.covariance)
    return covariance, jnp.sum(jnp.abs(factor) ** 2, axis=(1, 2)) / fields.shape[1], count


@functools.partial(jax.jit, static_argnames="source_signal")
def snapshot_covariance(
    measurement: scenes.Measurement, source_signal: config_lib.SourceSignal
) -> tuple[cov.LowRankCovariance, Float[Array, "B"]]:
    """Return the covariance of the field estimates, with the shrinkage of a network's covariance.

    Args:
      measurement: a batch, [B, ...].
      source_signal: "constant" gives one field per scene, "independent" L.

    Returns:
      The covariance [B, ...] at trace N, and the mean power of the fields' entries [B].
    """
    fields = jax.vmap(lambda scene: measurement_lib.field_estimates(scene, source_signal))(
        measurement
    )
    snr = jax.vmap(measurement_lib.signal_to_noise)(measurement)
    covariance = cov.effective_covariance(fields, fields, snr, config_lib.CovarianceConfig())
    return covariance, jnp.mean(jnp.abs(fields) ** 2, axis=(1, 2))
