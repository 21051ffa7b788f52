"""How many sources and where: one entry for every estimator, by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ris_jax import config as config_lib
from ris_jax import covariance as cov
from ris_jax import measurement as measurement_lib
from ris_jax import scenes
from ris_jax.estimators import (
    batches,
    checks,
    compilation,
    grids,
    inputs,
    matching_pursuit,
    maximum_likelihood,
    model_check,
    model_order,
    modified_music,
    network_start,
    symmetric_arrays,
)
from ris_jax.estimators.catalogue import METHODS, Method, of_network
from ris_jax.estimators.estimate import Estimate
from ris_jax.estimators.flags import Flag
from ris_jax.estimators.limits import Limits, collapsed, undetermined_coordinate

ESTIMATORS = ("auto", *METHODS)
_DEFAULT_CHUNK = 64


def options_of(config: config_lib.Config) -> dict[str, Any]:
    """What `localize` has to know of the system that scenes are of, by the names of arguments."""
    return {
        "wavelength": config.system.wavelength,
        "wavefront": config.system.wavefront,
        "source_signal": config.system.source_signal,
        "max_sources": config.scene.max_sources,
        "region": grids.region_of(config.scene),
    }


def check_options(
    estimator: str,
    *,
    num_sources: int | Int[Any, "B"] | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = model_order.DEFAULT_FALSE_ALARM_RATE,
    batch: int | None = None,
) -> None:
    """Checks what `localize` is told, before any work; see `checks.check_counts`.

    Raises:
      ConfigError: one line that names the option, what was needed and what came.
    """
    known = ", ".join(ESTIMATORS)
    checks.require(estimator in ESTIMATORS, "estimator", f"one of {known}", estimator)
    checks.check_counts(num_sources, max_sources, false_alarm_rate, batch=batch)


def localize(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    source_signal: config_lib.SourceSignal = "constant",
    estimator: str = "auto",
    num_sources: int | Int[Array, "B"] | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = model_order.DEFAULT_FALSE_ALARM_RATE,
    region: grids.SearchRegion | None = None,
    limits: Limits | None = None,
    network: network_start.Network | None = None,
    search: str | matching_pursuit.SearchOptions = "normal",
    check: bool = True,
) -> Estimate:
    """Sources of a batch of scenes, by the estimator of that name.

    The estimator "network" takes what a network says of the number of sources and their places,
    and refines it on the likelihood; scenes of which it is in doubt are searched by maximum
    likelihood. MUSIC and MVDR look at the network's covariance if there is one, else at that of the
    field that the snapshots give; with constant signals the latter has rank one, and what they find
    beside the strongest source is not to be relied on. Modified and reduced-dimension MUSIC smooth
    such a covariance over sub-surfaces first. What the baselines and the network cannot find out
    themselves, the number of sources if it is not given and the noise variance where it is NaN,
    they take from maximum likelihood. Plane waves have no range: with wavefront "planar" it is
    infinite.

    Args:
      measurement: a batch, [B, ...] in every field. Channel and codes may be shared by all scenes,
        [M, N] and [L, N], or missing for an array without a surface. `noise_variance` may be NaN or
        missing if it is unknown.
      positions: [N, 3] elements [m]. Map coordinates are centred: places are then relative to the
        centre of the array.
      wavelength: [m].
      wavefront: of the steering vectors.
      source_signal: whether the sources sent the same in all snapshots.
      estimator: one of `ESTIMATORS`; "auto" is what the network is for if there is one, else
        maximum likelihood.
      num_sources: how many there are, for all scenes or each, if known.
      max_sources: places for sources in the result.
      false_alarm_rate: of the blind count, the share of scenes with a source too many.
      region: where to look; by default that of `grids.SearchRegion`. A network looks where it was
        trained to.
      limits: where sources may be reported; it also sets `region` if that is not given.
      network: a trained one, from `ris_jax.load_pretrained` or `networks.from_run`. A learned
        pursuit that was trained on another `source_signal` is not used: "network" is then maximum
        likelihood, covariances are those of the snapshots, and `flags` has NETWORK_NOT_USED.
      search: effort of the search on a grid: fast, normal, thorough, or `SearchOptions`.
      check: whether the model check runs. It costs a few milliseconds of the host for each scene,
        and does not run inside `jax.jit`.

    Returns:
      `Estimate` of max_sources places a scene. Its `flags` name doubts about each scene; see
      `flags.Flag`.

    Raises:
      ConfigError: an option that cannot be used, or shapes that do not fit each other.
    """
    measurement, positions = inputs.prepared(measurement, positions)
    antennas = measurement.snapshots.shape[-1]
    inputs.check_determined(antennas, source_signal, num_sources, max_sources)
    checks.check_scenes(measurement, positions, wavelength, max_sources)
    check_options(
        estimator,
        num_sources=num_sources,
        max_sources=max_sources,
        false_alarm_rate=false_alarm_rate,
        batch=len(measurement.snapshots),
    )
    effort = matching_pursuit.effort(search)
    positions, moved = inputs.centred(positions)
    traced = any(isinstance(leaf, Tracer) for leaf in (*measurement, positions))
    undetermined = None
    if not isinstance(positions, Tracer):
        undetermined = undetermined_coordinate(np.asarray(positions))
    if region is None:
        region = grids.SearchRegion() if limits is None else limits.region()
    region = collapsed(region, undetermined)
    if estimator == "auto":
        estimator = "maximum_likelihood" if network is None else of_network(network.config)
    method = METHODS[estimator]
    if method.network == "needed":
        checks.require(network is not None, "network", "one for this estimator", network)
        assert network is not None
        kind, needed = network.config.model.architecture, method.architecture
        checks.require(kind == needed, "network", f"a {needed} for this estimator", kind)
    if method.network == "unused" and method.search is not None:
        checks.require(network is None, "network", "none for this estimator", "one")
    estimator, serving = network_start.for_signal(estimator, network, source_signal)
    network_not_used, network = serving is not network, serving
    if network is not None:
        network = network.for_array(measurement, positions, wavelength, wavefront, source_signal)

    def run(measurement, counts):
        scaled, scale = _scaled(jax.tree.map(inputs.as_canonical, measurement))
        estimate = _localize_scaled(
            scaled,
            positions,
            estimator=estimator,
            num_sources=counts,
            source_signal=source_signal,
            false_alarm_rate=false_alarm_rate,
            wavelength=wavelength,
            wavefront=wavefront,
            max_sources=max_sources,
            region=region,
            network=network,
            effort=effort,
        )
        return _unscaled(estimate, scale)

    largest = batches.largest(measurement, source_signal)
    estimate = batches.in_sizes(run, measurement, num_sources, largest=largest)
    notes = Flag.CENTRED * moved | Flag.UNDETERMINED * (undetermined is not None)
    notes |= Flag.NETWORK_NOT_USED * network_not_used
    if traced or not check:
        notes = jnp.full(len(measurement.snapshots), int(notes | Flag.NOT_CHECKED), jnp.int32)
        return estimate._replace(flags=notes)
    problem = model_check.Problem(
        measurement=jax.tree.map(np.asarray, inputs.for_each_scene(measurement)),
        positions=np.asarray(positions),
        wavelength=wavelength,
        wavefront=wavefront,
        signal=source_signal,
        region=region if network is None else grids.region_of(network.config.scene),
        counted=num_sources is None,
    )
    found = model_check.finish(estimate, problem, limits)
    found = found._replace(flags=np.asarray(found.flags) | np.int32(notes))
    return jax.tree.map(jnp.asarray, found)


class _Scale(NamedTuple):
    """Divisors of a measurement: powers of two, so that no digit is lost."""

    snapshots: Float[Array, "B"]
    channel: Float[Array, "B"]


@jax.jit
def _scaled(measurement: scenes.Measurement) -> tuple[scenes.Measurement, _Scale]:
    """A batch with snapshots and channels near one: microvolts squared would leave float32."""

    def power_of_two(values):
        largest = jnp.max(jnp.abs(values), axis=(1, 2))
        return jnp.ldexp(jnp.ones(()), jnp.frexp(jnp.where(largest > 0, largest, 1.0))[1])

    scale = _Scale(power_of_two(measurement.snapshots), power_of_two(measurement.channel))
    scaled = measurement._replace(
        snapshots=measurement.snapshots / scale.snapshots[:, None, None],
        channel=measurement.channel / scale.channel[:, None, None],
        # Twice: the square of a small scale is none.
        noise_variance=measurement.noise_variance / scale.snapshots / scale.snapshots,
    )
    return scaled, scale


@jax.jit
def _unscaled(estimate: Estimate, scale: _Scale) -> Estimate:
    """An estimate in the units of the measurement."""
    return estimate._replace(
        power=estimate.power * (scale.snapshots / scale.channel)[:, None] ** 2,
        noise_variance=estimate.noise_variance * scale.snapshots**2,
    )


def _localize_scaled(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    estimator: str,
    num_sources: Int[Array, "B"] | None,
    source_signal: config_lib.SourceSignal,
    false_alarm_rate: float,
    network: network_start.Network | None,
    effort: matching_pursuit.SearchOptions,
    **common: Any,
) -> Estimate:
    """`localize` with checked options, of numbers near one."""

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
        # The covariance of a single field has rank one; smoothing gives it more.
        single = network is None and source_signal == "constant"
        sub_surface = modified_music.sub_surface_of(layout.shape) if single else None
        extra = {"layout": layout, "sub_surface": sub_surface}
    counts, noise = num_sources, measurement.noise_variance
    # Inside `jax.jit` values cannot be read: the noise variance may be unknown.
    unknown = isinstance(noise, Tracer) or bool(np.any(np.isnan(noise)))
    if unknown or (counts is None and network is None):
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
    cell = method.cell * effort.cell / matching_pursuit.SearchOptions.cell
    wave = {name: common[name] for name in ("wavelength", "wavefront")}
    grid = effort.grid or grids.search_shape(positions, common["region"], cell=cell, **wave)
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
    """The search of a baseline, compiled once for each of its options.

    A mirrored method has as many aliases as wavelength, region and spacing say, so it has a program
    for each.
    """
    static = {"wavefront", "max_sources", "source_signal", "layout", "sub_surface", "grid"}
    if method.mirrored:
        static |= {"wavelength", "region"}
    assert method.search is not None  # the others have been dealt with
    static &= set(inspect.signature(method.search).parameters)
    return compilation.Program(method.search, static)


def _searched_again(
    estimate: Estimate,
    unsure: Bool[Array, "B"],
    measurement: scenes.Measurement,
    counts: Int[Array, "B"] | None,
    search: Callable[..., Estimate],
) -> Estimate:
    """The estimate, with the result of `search` for the unsure scenes."""
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
    measurement: scenes.Measurement, network: network_start.Network
) -> tuple[cov.LowRankCovariance, Float[Array, "B"], Int[Array, "B"]]:
    """The covariance of a network, its mean power, and the number of sources that it finds."""
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
    """Covariance of the fields that the snapshots give, shrunk as that of a network is.

    Args:
      measurement: a batch, [B, ...].
      source_signal: "constant" gives one field a scene, "independent" L of them.

    Returns:
      The covariance [B, ...] at trace N, and the mean power of the fields' entries [B].
    """
    fields = jax.vmap(lambda scene: measurement_lib.field_estimates(scene, source_signal))(
        measurement
    )
    snr = jax.vmap(measurement_lib.signal_to_noise)(measurement)
    covariance = cov.effective_covariance(fields, fields, snr, config_lib.CovarianceConfig())
    return covariance, jnp.mean(jnp.abs(fields) ** 2, axis=(1, 2))


def in_chunks(
    compute: Callable[[Any], Any],
    batch: Any,
    *,
    chunk_size: int = _DEFAULT_CHUNK,
    equal: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> Any:
    """A function of a batch, applied to equal parts of it: one shape, so one compilation.

    The last part is filled up with its last scene, which is cut off again.

    Args:
      compute: takes and returns pytrees of arrays [chunk, ...].
      batch: a pytree of arrays [B, ...], B at least 1.
      chunk_size: scenes a part; no more than B are used.
      equal: False leaves the last part as it is.
      progress: is told how many scenes each part had, once it is done.

    Returns:
      What `compute` returns, [B, ...], in NumPy.

    Raises:
      ValueError: no scenes, or a chunk size below 1.
    """
    total = len(jax.tree.leaves(batch)[0])
    if total < 1 or chunk_size < 1:
        raise ValueError(f"need scenes and chunk_size >= 1; got {total} and {chunk_size}")
    size = min(chunk_size, total)
    parts = []
    for start in range(0, total, size):
        chosen = start + np.arange(size if equal else min(size, total - start))
        chosen = np.minimum(chosen, total - 1)
        part = jax.device_get(compute(jax.tree.map(lambda leaf, c=chosen: leaf[c], batch)))
        count = min(size, total - start)
        parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], part))
        if progress is not None:
            progress(count)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def localize_in_chunks(
    measurement: scenes.Measurement,
    positions: Float[Any, "N 3"],
    *,
    num_sources: int | Int[Any, "B"] | None = None,
    chunk_size: int = _DEFAULT_CHUNK,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> Estimate:
    """`localize` for any number of scenes, chunk by chunk, from and to host memory.

    Args:
      measurement: [B, ...], NumPy arrays or views.
      positions: [N, 3] elements [m].
      num_sources: as for `localize`.
      chunk_size: scenes that are worked on at a time.
      progress: is told how many scenes each chunk had.
      **options: further ones of `localize`.

    Returns:
      `Estimate` of NumPy arrays.

    Raises:
      ConfigError: an option that cannot be used.
      ValueError: no scenes.
    """
    each = num_sources is not None and np.ndim(num_sources) == 1
    counts = np.asarray(num_sources) if each else None

    checked = {"estimator", "max_sources", "false_alarm_rate"} & set(options)
    check_options(
        options.get("estimator", "auto"),
        num_sources=num_sources,
        batch=len(measurement.snapshots),
        **{name: options[name] for name in checked - {"estimator"}},
    )

    def compute(part):
        scene, count = part
        known = num_sources if count is None else count
        return localize(scene, positions, num_sources=known, **options)

    return in_chunks(
        compute, (measurement, counts), chunk_size=chunk_size, equal=False, progress=progress
    )
