"""Source counting and localisation from recordings at several frequencies."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ris_jax import config as config_lib
from ris_jax import estimators, localization
from ris_jax.estimation import batches, inputs, matching_pursuit, search_grid, source_number
from ris_jax.estimation.checks import limits as limits_lib
from ris_jax.estimation.checks import residual_test
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.estimation.wideband import stacked_inputs, wideband_likelihood
from ris_jax.physics import scenes


def localize_wideband(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    frequencies: Float[Any, "F"],
    coherence: config_lib.Coherence = "incoherent",
    wavefront: config_lib.Wavefront = "spherical",
    source_signal: config_lib.SourceSignal = "constant",
    num_sources: int | Int[Array, "B"] | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = source_number.DEFAULT_FALSE_ALARM_RATE,
    region: search_grid.SearchRegion | None = None,
    limits: limits_lib.Limits | None = None,
    delay_limits: tuple[float, float] | None = None,
    search: str | matching_pursuit.SearchOptions = "normal",
) -> Estimate:
    """Localise the sources of a batch of scenes by maximum likelihood over all frequencies.

    The delay of a coherent source is that of its wave at the array's origin: r / c, the clock
    offset between source and receiver, and nothing else, because the channel is known. A clock
    offset is common to all sources of one transmitter clock, so differences of their delays do not
    contain it. Delays are unique within the inverse of the frequency spacing. The range is a
    separate coordinate, from the curvature of the wavefront.

    The noise variance is unknown and the same at all frequencies. If it is not, divide snapshots
    and channel of each frequency by the standard deviation of its noise.

    Args:
      measurement: snapshots [B, F, L, M]; channel [B, F, M, N] or [F, M, N]; codes [B, F, L, N],
        [F, L, N] or [L, N]. `noise_variance` may be missing; it is compared with the residual.
      positions: [N, 3] elements [m]; map coordinates are centred, as by `localize`.
      frequencies: [F] [Hz].
      coherence: "incoherent", each source has a free amplitude at each frequency; or "coherent",
        one amplitude and one delay.
      wavefront: of the steering vectors, which are those of each frequency.
      source_signal: "constant" only: a source sends the same signal in all snapshots.
      num_sources: number of sources, for all scenes or each, if known.
      max_sources: maximum number of sources in the result.
      false_alarm_rate: fraction of scenes with a false source if the number of sources is unknown.
      region: search region; by default that of `limits`, or `search_grid.SearchRegion`.
      limits: limits of reported sources.
      delay_limits: least and greatest delay [s] of coherent sources; by default from zero to the
        inverse of the smallest frequency spacing.
      search: effort of the search: fast, normal, thorough, or `SearchOptions`.

    Returns:
      `Estimate` with max_sources entries per scene; `delay` and `delay_variance` if coherent. Of
      the warnings in `flags`, only those of limits and of the given noise are tested.

    Raises:
      ConfigError: an invalid option, or mismatched shapes.
    """
    measurement, elements, frequencies = stacked_inputs.prepared_band(
        measurement, positions, frequencies
    )
    if source_signal != "constant":
        inputs.refuse("source_signal", "constant for several frequencies", source_signal,
                      "localise each frequency on its own, or send a known pilot")  # fmt: skip
    batch, count, length, antennas = measurement.snapshots.shape
    localization.check_options(
        "maximum_likelihood",
        num_sources=num_sources,
        max_sources=max_sources,
        false_alarm_rate=false_alarm_rate,
        batch=batch,
    )
    samples = length * antennas * (count if coherence == "coherent" else 1)
    limit = min(len(elements), samples)
    inputs.require(max_sources < limit, "max_sources", f"less than {limit}", max_sources)
    centre, moved = inputs.centred(elements)
    region, undetermined = localization.search_region(centre, region, limits)
    scaled, scale = estimators.scaled(jax.tree.map(inputs.as_canonical, measurement))
    found = wideband_likelihood.wideband_maximum_likelihood(
        scaled,
        centre,
        frequencies=frequencies,
        coherence=coherence,
        wavefront=wavefront,
        num_sources=num_sources,
        max_sources=max_sources,
        false_alarm_rate=false_alarm_rate,
        region=region,
        delay_limits=delay_limits,
        options=matching_pursuit.effort(search),
    )
    found = jax.device_get(estimators.unscaled(found, scale))
    notes = Flag.WIDEBAND | Flag.CENTRED * moved | Flag.UNDETERMINED * (undetermined is not None)
    flags = np.full(batch, int(notes), np.int32)
    parameters = 1 if coherence == "coherent" else count
    excess = np.asarray(residual_test.deviations(found, measurement, parameters))
    for flag, there in (
        (Flag.NOISE_ABOVE, excess > residual_test.MOST_DEVIATIONS),
        (Flag.NOISE_BELOW, excess < -residual_test.MOST_DEVIATIONS),
    ):
        flags |= np.where(there, np.int32(flag), np.int32(0))
    edge = limits_lib.on_region_edge(found, region)
    if limits is not None:
        found, beyond = limits_lib.apply(found, limits)
        edge |= beyond
    flags |= np.where(edge, np.int32(Flag.ON_LIMIT), np.int32(0))
    if num_sources is None and not np.any(found.num_sources):
        flags |= np.int32(Flag.NOTHING_FOUND)
    return jax.tree.map(jnp.asarray, found._replace(flags=flags))


def localize_wideband_in_chunks(
    measurement: scenes.Measurement,
    positions: Float[Any, "N 3"],
    *,
    chunk_size: int,
    num_sources: int | Int[Any, "B"] | None = None,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> Estimate:
    """Run `localize_wideband` on any number of scenes in chunks, from and to host memory.

    Args:
      measurement: snapshots [B, F, L, M]; channel [S, F, M, N] and codes [S, C, L, N] with S = B
        or 1.
      positions: [N, 3] elements [m].
      chunk_size: number of scenes at a time.
      num_sources: as for `localize_wideband`.
      progress: called with the number of scenes of each chunk.
      **options: other arguments of `localize_wideband`.

    Returns:
      `Estimate` of NumPy arrays.
    """
    shared = {
        name: array[0]
        for name in ("channel", "codes")
        if len(array := getattr(measurement, name)) == 1 < len(measurement.snapshots)
    }
    batch = measurement._replace(**dict.fromkeys(shared)), batches.per_scene(num_sources)

    def compute(part):
        scene, count = part
        known = num_sources if count is None else count
        return localize_wideband(scene._replace(**shared), positions, num_sources=known, **options)

    return batches.in_chunks(compute, batch, chunk_size=chunk_size, equal=False, progress=progress)
