"""Source counting and localisation: one function for all estimators."""

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
from ris_jax.estimation import (
    batches,
    inputs,
    matching_pursuit,
    maximum_likelihood,
    search_grid,
    source_number,
)
from ris_jax.estimation.baselines import decoupled_music, symmetric_arrays
from ris_jax.estimation.baselines.catalogue import METHODS, Method, of_network
from ris_jax.estimation.checks import model_check
from ris_jax.estimation.checks.limits import Limits, collapsed, undetermined_coordinate
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.networks import network_start
from ris_jax.physics import covariance as cov
from ris_jax.physics import measurement as measurement_lib
from ris_jax.physics import scenes
from ris_jax.physics import static_path as static_path_lib
from ris_jax.physics.element_response import ElementResponse, directional, of_system

ESTIMATORS = ("auto", *METHODS)
_DEFAULT_CHUNK = 64


def options_of(config: config_lib.Config) -> dict[str, Any]:
    """Return the arguments of `localize` that a configuration determines, by name."""
    return {
        "wavelength": config.system.wavelength,
        "wavefront": config.system.wavefront,
        "response": of_system(config.system),
        "source_signal": config.system.source_signal,
        "max_sources": config.scene.max_sources,
        "region": search_grid.region_of(config.scene),
    }


def check_options(
    estimator: str,
    *,
    num_sources: int | Int[Any, "B"] | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = source_number.DEFAULT_FALSE_ALARM_RATE,
    batch: int | None = None,
) -> None:
    """Check the options of `localize`; see `inputs.check_counts`.

    Raises:
      ConfigError: one line with the option, the needed and the given value.
    """
    known = ", ".join(ESTIMATORS)
    inputs.require(estimator in ESTIMATORS, "estimator", f"one of {known}", estimator)
    inputs.check_counts(num_sources, max_sources, false_alarm_rate, batch=batch)


def localize(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    source_signal: config_lib.SourceSignal = "constant",
    estimator: str = "auto",
    num_sources: int | Int[Array, "B"] | None = None,
    max_sources: int = 5,
    false_alarm_rate: float = source_number.DEFAULT_FALSE_ALARM_RATE,
    region: search_grid.SearchRegion | None = None,
    limits: Limits | None = None,
    network: network_start.LocalizationNetwork | None = None,
    search: str | matching_pursuit.SearchOptions = "normal",
    static_path: config_lib.StaticPath = "auto",
    check: bool = True,
) -> Estimate:
    """Localise the sources of a batch of scenes with the given estimator.

    The estimator "network" refines the sources of a network on the likelihood. Scenes for which the
    network is unsure are searched by maximum likelihood. MUSIC and MVDR use the covariance of the
    network if given, otherwise that of the field estimates. With constant signals the latter has
    rank one, and only the strongest source is reliable. Modified and reduced-dimension MUSIC first
    smooth such a covariance over sub-surfaces. If the number of sources is not given, or the noise
    variance is NaN, the baselines and the network take it from maximum likelihood. With wavefront
    "planar" the range is infinite.

    Args:
      measurement: a batch, [B, ...] in every field. Channel and codes may be shared by all scenes,
        [M, N] and [L, N], or missing for an array without a surface. `noise_variance` may be NaN or
        missing if unknown.
      positions: [N, 3] elements [m]. Map coordinates are centred: source positions are then
        relative to the centre of the array.
      wavelength: [m].
      wavefront: of the steering vectors.
      response: amplitude of the elements over the angle to their normal, in the frame of the
        positions; see `physics.element_response`. None: the same in all directions. The reported
        power is that of the wave at the origin of the array in both cases.
      source_signal: "constant" if each source sends the same symbol in all snapshots, else
        "independent".
      estimator: one of `ESTIMATORS`; "auto" selects the estimator that the network was trained for,
        or maximum likelihood without a network.
      num_sources: number of sources, for all scenes or each, if known. max_sources: maximum number
      of sources in the result. false_alarm_rate: fraction of scenes with a false source if the
      number of sources is unknown. region: search region; by default `search_grid.SearchRegion`. A
      network uses its training region. limits: limits of reported sources; they also set `region`
      by default. network: a trained network, from `ris_jax.load_pretrained` or `load_run`.
      A learned
        pursuit trained on another `source_signal` or another `response` is not used. Maximum
        likelihood then replaces "network", snapshot covariances replace the network's, and
        `flags` has NETWORK_NOT_USED.
      search: effort of the search on a grid: fast, normal, thorough, or `SearchOptions`.
      static_path: removal of a path that is the same under all codes, such as the direct path or
        reflections from the room; constant signals only. "on" removes it. "auto" fits without
        removal, tests the residual, and repeats the fit if the scenes have such a path; without
        the model check and inside `jax.jit` it is "off". The removal costs as much accuracy as the
        mean of the codes has energy, mostly 1/L; see `physics.static_path`.
      check: run the model check. It takes a few milliseconds on the host per scene, and does not
        run inside `jax.jit`.

    Returns:
      `Estimate` with max_sources entries per scene. Its `flags` hold warnings for each scene; see
      `flags.Flag`.

    Raises:
      ConfigError: an invalid option, or mismatched shapes.
    """
    measurement, positions = inputs.prepared(measurement, positions)
    antennas = measurement.snapshots.shape[-1]
    inputs.check_determined(antennas, source_signal, num_sources, max_sources)
    inputs.check_scenes(measurement, positions, wavelength, max_sources)
    separable = inputs.check_static_path(static_path, measurement, source_signal, max_sources)
    check_options(
        estimator,
        num_sources=num_sources,
        max_sources=max_sources,
        false_alarm_rate=false_alarm_rate,
        batch=len(measurement.snapshots),
    )
    effort = matching_pursuit.effort(search)
    response = directional(response)
    if response is not None:
        response.check_elements(len(positions))
    positions, moved = inputs.centred(positions)
    traced = any(isinstance(leaf, Tracer) for leaf in (*measurement, positions))
    region, undetermined = search_region(positions, region, limits)
    if estimator == "auto":
        estimator = "maximum_likelihood" if network is None else of_network(network.config)
    method = METHODS[estimator]
    if method.network == "needed":
        inputs.require(network is not None, "network", "one for this estimator", network)
        assert network is not None
        kind, needed = network.config.model.architecture, method.architecture
        inputs.require(kind == needed, "network", f"a {needed} for this estimator", kind)
    if method.network == "unused" and method.search is not None:
        inputs.require(network is None, "network", "none for this estimator", "one")
    estimator, serving = network_start.for_model(estimator, network, source_signal, response)
    network_not_used, network = serving is not network, serving

    noise = measurement.noise_variance
    # Inside `jax.jit` values cannot be read: the noise variance may be unknown.
    noise_unknown = isinstance(noise, Tracer) or bool(np.any(np.isnan(noise)))

    def run(measurement, counts, network):
        near_one, scale = scaled(jax.tree.map(inputs.as_canonical, measurement))
        estimate = _localize_scaled(
            near_one,
            positions,
            estimator=estimator,
            num_sources=counts,
            source_signal=source_signal,
            false_alarm_rate=false_alarm_rate,
            wavelength=wavelength,
            wavefront=wavefront,
            response=response,
            max_sources=max_sources,
            region=region,
            network=network,
            effort=effort,
            noise_unknown=noise_unknown,
        )
        return unscaled(estimate, scale)

    def fit(without_path: bool) -> Estimate:
        given = measurement if traced else jax.tree.map(np.asarray, measurement)
        given = static_path_lib.remove_static_path(given) if without_path else measurement
        serving = network
        if serving is not None:
            serving = serving.for_array(given, positions, wavelength, wavefront, source_signal)
        largest = batches.largest(given, source_signal)
        compute = functools.partial(run, network=serving)
        return batches.in_sizes(compute, given, num_sources, largest=largest)

    without_path = static_path == "on"
    estimate = fit(without_path)
    notes = Flag(Flag.CENTRED * moved | Flag.UNDETERMINED * (undetermined is not None))
    notes |= Flag(Flag.NETWORK_NOT_USED * network_not_used)
    if traced or not check:
        notes |= Flag(Flag.NOT_CHECKED | Flag.STATIC_PATH * without_path)
        return estimate._replace(flags=jnp.full(len(measurement.snapshots), int(notes), jnp.int32))
    problem = model_check.CheckInput(
        measurement=jax.tree.map(np.asarray, inputs.for_each_scene(measurement)),
        positions=np.asarray(positions),
        wavelength=wavelength,
        wavefront=wavefront,
        signal=source_signal,
        region=region if network is None else search_grid.region_of(network.config.scene),
        counted=num_sources is None,
        static_path=without_path,
        response=response,
    )
    tested = static_path == "auto" and separable
    found = checked(estimate, problem, limits, notes, fit_again=fit if tested else None)
    return jax.tree.map(jnp.asarray, found)


def checked(
    estimate: Estimate,
    problem: model_check.CheckInput,
    limits: Limits | None,
    notes: Flag,
    *,
    fit_again: Callable[[bool], Estimate] | None,
    causes: bool = True,
) -> Estimate:
    """Run the model check of `localize`; repeat the fit if the scenes have a static path.

    Args:
      estimate: [B, ...] sources found.
      problem: arguments of the estimate.
      limits: limits of reported sources, if any.
      notes: flags of all scenes.
      fit_again: called with True to fit without the static path; None does not test for one.
      causes: name likely causes of warnings; see `model_check.finish`.

    Returns:
      The estimate of NumPy arrays, with `flags`.
    """
    estimate, found = model_check.examine(estimate, problem)
    if fit_again is not None and model_check.has_static_path(estimate, found, problem):
        problem = problem._replace(static_path=True)
        estimate, found = model_check.examine(fit_again(True), problem)
    estimate = model_check.finish(estimate, found, problem, limits, causes=causes)
    return estimate._replace(flags=np.asarray(estimate.flags) | np.int32(notes))


def search_region(
    positions: Any, region: search_grid.SearchRegion | None, limits: Limits | None
) -> tuple[search_grid.SearchRegion, int | None]:
    """Return the search region of an array, and the coordinate that it does not determine.

    Args:
      positions: [N, 3] elements [m].
      region: if given.
      limits: of reported sources, which give the region otherwise.
    """
    undetermined = None
    if not isinstance(positions, Tracer):
        undetermined = undetermined_coordinate(np.asarray(positions))
    if region is None:
        region = search_grid.SearchRegion() if limits is None else limits.region()
    return collapsed(region, undetermined), undetermined


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


def _localize_scaled(
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
    """`localize` with checked options and scaled data."""

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


def in_chunks(
    compute: Callable[[Any], Any],
    batch: Any,
    *,
    chunk_size: int = _DEFAULT_CHUNK,
    equal: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> Any:
    """Apply a function to equal parts of a batch, with one compilation.

    The last part is padded with its last scene; the padding is dropped.

    Args:
      compute: takes and returns pytrees of arrays [chunk, ...].
      batch: a pytree of arrays [B, ...], B at least 1.
      chunk_size: scenes per part, at most B.
      equal: False does not pad the last part.
      progress: called with the number of scenes of each finished part.

    Returns:
      The results of `compute`, [B, ...], as NumPy arrays.

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
    """Run `localize` on any number of scenes in chunks, from and to host memory.

    With `static_path` "auto", a path that is found in one chunk is removed from all scenes.

    Args:
      measurement: [B, ...], NumPy arrays or views.
      positions: [N, 3] elements [m].
      num_sources: as for `localize`.
      chunk_size: number of scenes at a time.
      progress: called with the number of scenes of each chunk.
      **options: other arguments of `localize`.

    Returns:
      `Estimate` of NumPy arrays.

    Raises:
      ConfigError: an invalid option.
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

    choice = options.pop("static_path", "auto")
    finished, before = 0, 0  # scenes; those before the first chunk with a static path

    def compute(part):
        nonlocal choice, finished, before
        scene, count = part
        known = num_sources if count is None else count
        found = localize(scene, positions, num_sources=known, static_path=choice, **options)
        if choice == "auto" and found.has_static_path:
            choice, before = "on", finished
        finished += len(scene.snapshots)
        return found

    whole = measurement, counts
    found = in_chunks(compute, whole, chunk_size=chunk_size, equal=False, progress=progress)
    if before:
        part = jax.tree.map(lambda leaf: leaf[:before], whole)
        again = in_chunks(compute, part, chunk_size=chunk_size, equal=False)
        found = jax.tree.map(lambda new, old: np.concatenate([new, old[before:]]), again, found)
    return found
