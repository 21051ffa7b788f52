r"""Maximum likelihood at several frequencies, with the search of the narrowband estimator.

The likelihood, the search and the test of the number of sources are those of
`maximum_likelihood`; a scene is a `likelihood.Observation` of stacked frequencies. The noise
variance is unknown and the same at all frequencies. Incoherent amplitudes add F complex unknowns
for each source, coherent ones a single one and a delay.
"""

import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.estimation import (
    batches,
    error_bars,
    inputs,
    likelihood,
    maximum_likelihood,
    refinement,
    search_grid,
    source_number,
)
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.matching_pursuit import Search, SearchOptions, begin, solve
from ris_jax.estimation.wideband import delay_grid, stacked_observation
from ris_jax.physics import scenes, wideband

# Width of the cells of the delay, over the inverse of the bandwidth.
_DELAY_CELL = 0.45
# Vectors that one job of the search holds, and bytes that the jobs of a queue may take.
_VECTORS_OF_JOB = 160
_QUEUE_BYTES = 1 << 28
# Bytes that the operators and data of one part of a batch may take.
_PART_BYTES = 1 << 29
_MOST_DELAYS = 1 << 14


def delay_interval(
    frequencies: Float[np.ndarray, "F"], limits: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the least and the greatest delay of a search [s].

    By default from zero to the period in which delays are unique, the inverse of the smallest
    difference of two frequencies.

    Raises:
      ConfigError: invalid limits, an interval longer than the period, or a single frequency.
    """
    if len(frequencies) < 2:
        raise config_lib.ConfigError(
            "frequencies: expected two or more for coherent signals; found 1; use incoherent"
        )
    period = 1.0 / float(np.min(np.diff(np.sort(frequencies))))
    if limits is None:
        return 0.0, period
    least, most = (float(value) for value in limits)
    if not (np.isfinite(least) and np.isfinite(most) and least < most):
        raise config_lib.ConfigError(
            f"delay_limits: expected (least, greatest) [s], finite; found {limits}"
        )
    if most - least > period * (1.0 + 1e-6):
        raise config_lib.ConfigError(
            f"delay_limits: expected an interval of at most {period:.4g} s, the inverse of the "
            f"frequency spacing, in which delays are unique; found {most - least:.4g} s"
        )
    return least, most


def delay_cells(frequencies: Float[np.ndarray, "F"], interval: tuple[float, float]) -> int:
    """Return the number of delays of the search grid, at least 4.

    Raises:
      ConfigError: more than 16384.
    """
    span = float(np.ptp(frequencies)) * (interval[1] - interval[0])
    cells = max(int(np.ceil(span / _DELAY_CELL)), 4)
    if cells > _MOST_DELAYS:
        raise config_lib.ConfigError(
            f"delay_limits: expected at most {_MOST_DELAYS} delay cells of {_DELAY_CELL} over the "
            f"bandwidth; found {cells}; give a shorter interval"
        )
    return cells


def prepare_band(
    positions: Float[Array, "N 3"],
    region: search_grid.Box,
    options: SearchOptions,
    shape: tuple[int, int, int],
    samples: int,
    false_alarm_rate: Float[Array, ""],
    *,
    band: wideband.Band,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront,
    delay_limits: Float[Array, "2"] | None,
    num_delays: int,
) -> Search:
    """Constants of a search at several frequencies; see `maximum_likelihood.prepare`.

    The metric is the mean over the frequencies, which is that of the root mean square frequency.

    Args:
      positions: [N, 3] elements [m].
      region: limits of the search.
      options: search effort.
      shape: cells of the grid.
      samples: F L M.
      false_alarm_rate: of the test for another source.
      band: frequencies.
      coherence: incoherent or coherent.
      wavefront: of the steering vectors.
      delay_limits: [2] least and greatest delay distance [m], if coherent.
      num_delays: cells of the delay.
    """
    wavelength = jax.lax.rsqrt(jnp.mean(band.wavelengths**-2))
    narrow = maximum_likelihood.prepare(
        positions, region, options, shape, samples, 1, false_alarm_rate,
        wavelength=wavelength, wavefront=wavefront,
    )  # fmt: skip
    space, unit, volumes = narrow.grid.space, narrow.grid.unit, narrow.volumes
    lower, upper, delays = space.lower, space.upper, None
    if delay_limits is not None:
        low, high = delay_limits
        delays = low + (high - low) * (jnp.arange(num_delays) + 0.5) / num_delays
        # A delay of one unit turns the phases by one radian, root mean square.
        rate = 2.0 * jnp.pi * jnp.sqrt(jnp.mean(band.wavenumbers**2))
        unit = jnp.append(unit, 1.0 / rate)
        volumes = source_number.times_interval(volumes, rate * (high - low))
        # Noise may move a delay across the limits of the search.
        margin = (high - low) / num_delays
        lower, upper = jnp.append(lower, low - margin), jnp.append(upper, high + margin)
    grid = delay_grid.FrequencyGrid(
        space, unit, positions, wavelength, wavefront, None, None, band, delays
    )
    jet = functools.partial(
        wideband.stacked_jet,
        positions=positions, band=band, wavefront=wavefront, coherence=coherence,
    )  # fmt: skip
    return dataclasses.replace(
        narrow,
        setting=refinement.RefinementProblem(jet, lower, upper),
        grid=grid,
        volumes=volumes,
        amplitudes=1 if coherence == "coherent" else len(band.wavelengths),
    )


def _as_estimate(
    search: Search, observation: likelihood.Observation, fit: refinement.SourceFit
) -> Estimate:
    """Return physical coordinates, strongest first, with error bars from the curvature."""
    noise_variance = search.noise_variance(observation, fit)
    held = refinement.background(observation, fit)
    power = refinement.signal_power(observation, fit, noise_variance, held)
    alone = jnp.sum((fit.images.left.conj() * fit.images.right).real, axis=-1)
    inflation = refinement.variances(held) * alone
    distinct = (fit.active > 0) & (jnp.min(inflation, axis=0) < error_bars.MOST_INFLATION)
    covariance = error_bars.from_curvature(
        fit, power, refinement.mean_power(observation, fit), distinct, noise_variance
    )
    return maximum_likelihood.strongest_first(fit, power, covariance, noise_variance)


@compilation.program(
    static_argnames=(
        "wavefront", "coherence", "max_sources", "options", "shape", "samples", "num_delays",
    )
)  # fmt: skip
def _wideband_likelihood(
    measurement, positions, least, most, false_alarm_rate, band, limits, delay_limits,
    *, wavefront, coherence, max_sources, options, shape, samples, num_delays,
):  # fmt: skip
    """`wideband_maximum_likelihood` with limits on the number of sources."""
    search = prepare_band(
        positions, limits, options, shape, samples, false_alarm_rate, band=band,
        coherence=coherence, wavefront=wavefront, delay_limits=delay_limits, num_delays=num_delays,
    )  # fmt: skip
    observations = stacked_observation.observe_frequencies(measurement, coherence)
    start = functools.partial(begin, max_sources=max_sources, dimensions=search.dimensions)
    tasks = likelihood.over_scenes(start, observations, least, most)
    tasks = solve(search, observations.operator, tasks)
    observations = observations.replace(energy=tasks.observation.energy)
    finish = functools.partial(_as_estimate, search)
    return likelihood.over_scenes(finish, observations, tasks.fit)


def _largest(measurement: scenes.Measurement) -> int:
    """Return the largest part of a batch whose operators and data fit into memory."""
    _, frequencies, length, antennas = measurement.snapshots.shape
    elements = measurement.channel.shape[-1]
    rows = min(elements, length * antennas)
    each = 8 * frequencies * (elements + rows + length * antennas)
    if len(measurement.channel) > 1:
        each += 8 * frequencies * elements * rows
    room = _PART_BYTES // each
    return max((size for size in batches.SIZES if size <= room), default=1)


def wideband_maximum_likelihood(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    frequencies: Float[np.ndarray, "F"],
    band: wideband.Band | None = None,
    coherence: config_lib.Coherence = "incoherent",
    wavefront: config_lib.Wavefront = "spherical",
    num_sources: Int[Array, "B"] | int | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = source_number.DEFAULT_FALSE_ALARM_RATE,
    region: search_grid.SearchRegion | None = None,
    delay_limits: tuple[float, float] | None = None,
    options: SearchOptions | None = None,
) -> Estimate:
    """Number of sources and their positions at the maximum of the likelihood of all frequencies.

    Args:
      measurement: a batch after `stacked_inputs.prepared_band`: snapshots [B, F, L, M], channel
        [S, F, M, N] and codes [S, C, L, N], S = B or 1, C = F or 1. The noise variance is not used;
        it is estimated, and the same at all frequencies.
      positions: [N, 3] elements [m].
      frequencies: [F] [Hz].
      band: wavelengths of the steering vectors, if they are not those of the frequencies.
      coherence: incoherent, a free amplitude for each frequency; or coherent, one amplitude and one
        delay a source.
      wavefront: as for `maximum_likelihood`.
      num_sources: given number of sources, [B] or one for all; None counts them.
      max_sources: maximum number of sources.
      false_alarm_rate: probability of a false source in a scene, if they are counted.
      region: search region; default `SearchRegion()`.
      delay_limits: least and greatest delay [s]; see `delay_interval`.
      options: search effort; default `SearchOptions()`.

    Returns:
      An `Estimate`, [B, max_sources], with `delay` if coherent.

    Raises:
      ConfigError: an unknown coherence, or invalid limits.
    """
    choices = get_args(config_lib.Coherence)
    inputs.require(coherence in choices, "coherence", "one of " + ", ".join(choices), coherence)
    options, region = options or SearchOptions(), region or search_grid.SearchRegion()
    values = np.asarray(frequencies, np.float64)
    band = wideband.band_of(values) if band is None else band
    shape = options.grid or search_grid.search_shape(
        positions, region, cell=options.cell, wavefront=wavefront,
        wavelength=config_lib.SPEED_OF_LIGHT / float(np.sqrt(np.mean(values**2))),
    )  # fmt: skip
    vectors = 8 * _VECTORS_OF_JOB * len(values) * len(positions)
    options = dataclasses.replace(
        options, queue=max(1, min(options.queue, _QUEUE_BYTES // vectors))
    )
    limits, num_delays = None, 0
    if coherence == "coherent":
        interval = delay_interval(values, delay_limits)
        num_delays = delay_cells(values, interval)
        limits = config_lib.SPEED_OF_LIGHT * np.asarray(interval)
    elif delay_limits is not None:
        raise config_lib.ConfigError(
            "delay_limits: expected none for incoherent signals, which have no delay; found "
            f"{delay_limits}; use coherent"
        )

    def search(measurement, counts):
        least, most = (0, max_sources) if counts is None else (counts, counts)
        batch = len(measurement.snapshots)
        real, number = jnp.zeros(()).dtype, functools.partial(jnp.asarray, dtype=jnp.int32)
        return _wideband_likelihood(
            jax.tree.map(inputs.as_canonical, measurement),
            jnp.asarray(positions, real),
            jnp.broadcast_to(number(least), batch),
            jnp.broadcast_to(number(most), batch),
            jnp.asarray(false_alarm_rate, real),
            band,
            region.limits,
            None if limits is None else jnp.asarray(limits, real),
            wavefront=wavefront,
            coherence=coherence,
            max_sources=max_sources,
            options=options,
            shape=shape,
            samples=int(np.prod(measurement.snapshots.shape[1:])),
            num_delays=num_delays,
        )

    return batches.in_sizes(search, measurement, num_sources, largest=_largest(measurement))
