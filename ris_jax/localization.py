"""Source counting and localisation: one function for all estimators."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ris_jax import config as config_lib
from ris_jax import estimators
from ris_jax.estimation import (
    batches,
    inputs,
    matching_pursuit,
    search_grid,
    source_number,
)
from ris_jax.estimation.baselines.catalogue import METHODS, of_network
from ris_jax.estimation.checks import model_check
from ris_jax.estimation.checks.check_input import CheckInput
from ris_jax.estimation.checks.limits import Limits, collapsed, undetermined_coordinate
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.networks import network_start
from ris_jax.physics import scenes
from ris_jax.physics import static_path as static_path_lib
from ris_jax.physics.element_response import ElementResponse, directional, of_system

ESTIMATORS = ("auto", *METHODS)


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
    given = checked_inputs(
        measurement, positions, wavelength=wavelength, response=response,
        source_signal=source_signal, estimator=estimator, num_sources=num_sources,
        max_sources=max_sources, false_alarm_rate=false_alarm_rate, region=region, limits=limits,
        static_path=static_path,
    )  # fmt: skip
    estimator, serving = _chosen(estimator, network, source_signal, given.response)
    options = {
        "estimator": estimator, "source_signal": source_signal, "max_sources": max_sources,
        "false_alarm_rate": false_alarm_rate, "wavelength": wavelength, "wavefront": wavefront,
        "response": given.response, "region": given.region,
        "effort": matching_pursuit.effort(search),
    }  # fmt: skip

    def fit(without_path: bool) -> Estimate:
        scene = given.measurement
        if without_path:
            scene = static_path_lib.remove_static_path(given.on_host())
        return _fit(scene, given.positions, num_sources, serving, **options)

    without_path = static_path == "on"
    estimate = fit(without_path)
    notes = given.notes | Flag(Flag.NETWORK_NOT_USED * (serving is not network))
    if given.traced or not check:
        notes |= Flag(Flag.NOT_CHECKED | Flag.STATIC_PATH * without_path)
        flags = jnp.full(len(given.measurement.snapshots), int(notes), jnp.int32)
        return estimate._replace(flags=flags)
    problem = CheckInput(
        measurement=jax.tree.map(np.asarray, inputs.for_each_scene(given.measurement)),
        positions=np.asarray(given.positions),
        wavelength=wavelength,
        wavefront=wavefront,
        signal=source_signal,
        region=given.region if serving is None else search_grid.region_of(serving.config.scene),
        counted=num_sources is None,
        static_path=without_path,
        response=given.response,
    )
    fit_again = fit if given.path_tested else None
    # `jnp.asarray` would compile a program for every shape.
    return jax.device_put(checked(estimate, problem, limits, notes, fit_again=fit_again))


def _chosen(
    estimator: str,
    network: network_start.LocalizationNetwork | None,
    source_signal: config_lib.SourceSignal,
    response: ElementResponse | None,
) -> tuple[str, network_start.LocalizationNetwork | None]:
    """Return the estimator to run and its network; None if the network does not fit the data.

    Raises:
      ConfigError: the estimator needs another network, or none.
    """
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
    return network_start.for_model(estimator, network, source_signal, response)


def _fit(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    num_sources: int | Int[Array, "B"] | None,
    network: network_start.LocalizationNetwork | None,
    **options: Any,
) -> Estimate:
    """Run an estimator on scaled data, in batches of a few fixed sizes."""
    wave = (options["wavelength"], options["wavefront"], options["source_signal"])
    if network is not None:
        network = network.for_array(measurement, positions, *wave)
    noise = measurement.noise_variance
    # Inside `jax.jit` values cannot be read: the noise variance may be unknown.
    noise_unknown = isinstance(noise, Tracer) or bool(np.any(np.isnan(noise)))

    def compute(part, counts):
        near_one, scale = estimators.scaled(jax.tree.map(inputs.as_canonical, part))
        found = estimators.run(
            near_one, positions, num_sources=counts, network=network, noise_unknown=noise_unknown,
            **options,
        )  # fmt: skip
        return estimators.unscaled(found, scale)

    largest = batches.largest(measurement, options["source_signal"])
    return batches.in_sizes(compute, measurement, num_sources, largest=largest)


class CheckedInputs(NamedTuple):
    """Arguments of `localize` after their check."""

    measurement: scenes.Measurement  #: complex, without missing fields
    positions: Float[Array, "N 3"]  #: around their centre [m]
    region: search_grid.SearchRegion
    response: ElementResponse | None  #: None if it is the same in all directions
    path_tested: bool  #: test the residual for a static path
    notes: Flag  #: of all scenes

    @property
    def traced(self) -> bool:
        """True while `jax.jit` traces the call: values cannot be read."""
        return any(isinstance(leaf, Tracer) for leaf in (*self.measurement, self.positions))

    def on_host(self) -> scenes.Measurement:
        """Return the measurement as NumPy arrays, or as it is if traced."""
        return self.measurement if self.traced else jax.tree.map(np.asarray, self.measurement)


def checked_inputs(
    measurement: scenes.Measurement,
    positions: Float[Any, "N 3"],
    *,
    wavelength: float,
    response: ElementResponse | None,
    source_signal: config_lib.SourceSignal,
    estimator: str,
    num_sources: int | Int[Any, "B"] | None,
    max_sources: int,
    false_alarm_rate: float,
    region: search_grid.SearchRegion | None,
    limits: Limits | None,
    static_path: config_lib.StaticPath,
) -> CheckedInputs:
    """Check the arguments of `localize`, and complete those that were not given.

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
    response = directional(response)
    if response is not None:
        response.check_elements(len(positions))
    positions, moved = inputs.centred(positions)
    region, undetermined = search_region(positions, region, limits)
    notes = Flag(Flag.CENTRED * moved | Flag.UNDETERMINED * (undetermined is not None))
    tested = static_path == "auto" and separable
    return CheckedInputs(measurement, positions, region, response, tested, notes)


def checked(
    estimate: Estimate,
    problem: CheckInput,
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


def localize_in_chunks(
    measurement: scenes.Measurement,
    positions: Float[Any, "N 3"],
    *,
    num_sources: int | Int[Any, "B"] | None = None,
    chunk_size: int = batches.CHUNK,
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
    counts = batches.per_scene(num_sources)

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
    found = batches.in_chunks(compute, whole, chunk_size=chunk_size, equal=False, progress=progress)
    if before:
        part = jax.tree.map(lambda leaf: leaf[:before], whole)
        again = batches.in_chunks(compute, part, chunk_size=chunk_size, equal=False)
        found = jax.tree.map(lambda new, old: np.concatenate([new, old[before:]]), again, found)
    return found
