r"""Maximum likelihood by matching pursuit with joint refinement.

Sources are added one by one where the residual says, and after each all are refined together.
When none is to be added, each in turn is taken out and sought elsewhere, or split in two; what
explains the data better is kept. The number of sources is the caller's, or grows for as long as
the test of `model_order` holds.

A batch is worked off as a queue: every round takes up the next few scenes that are not finished,
so that a scene costs what it needs and not what the hardest of its batch needs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ris_jax import arrays, bounds, scenes
from ris_jax import config as config_lib
from ris_jax.estimators import grids, likelihood, model_order, proposals, refinement
from ris_jax.estimators.estimate import Estimate
from ris_jax.estimators.refinement import Fit

# An improvement below this share of the noise's energy in one sample is none.
_TOLERANCE = 0.01
_METRIC_GRID = (8, 6, 4)


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How hard to look. The defaults are the measured knee, see experiments/."""

    grid: tuple[int, int, int] = (28, 16, 9)  # cells in u, w, 1/r
    candidates: int = 6  # peaks of the grid that are compared
    finalists: int = 2  # of these, the ones that are refined alone
    candidate_iterations: int = 3
    joint_iterations: int = 4
    final_iterations: int = 6
    attempts: int = 6  # exchanges and splits a scene may try
    passes: int = 3  # over growing and improving
    queue: int = 16  # scenes a round, at least; a quarter of the batch if that is more


class Task(NamedTuple):
    """A scene, what is asked of it and how far it is."""

    observation: likelihood.Observation
    least: Int[Array, ""]  # sources
    most: Int[Array, ""]
    fit: Fit
    attempts: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Search:
    """What all scenes of a call share."""

    setting: refinement.Setting
    grid: proposals.Grid
    volumes: Float[Array, "4"]
    false_alarm_rate: Float[Array, ""]
    samples: int
    amplitudes: int  # free complex ones of a source
    options: SearchOptions

    def significant(self, task: Task, new: Fit) -> Bool[Array, ""]:
        """Whether the new fit has a source more for good reason."""
        energy = task.observation.energy
        statistic = model_order.statistic(
            energy - task.fit.local.value,
            energy - new.local.value,
            jnp.sum(task.fit.active),
            samples=self.samples,
            amplitudes=self.amplitudes,
        )
        chance = model_order.false_alarm_probability(statistic, self.amplitudes, self.volumes)
        return chance < self.false_alarm_rate

    def noise_variance(self, task: Task) -> Float[Array, ""]:
        left = self.samples - jnp.sum(task.fit.active) * (self.amplitudes + 1.5)
        residual = task.observation.energy - task.fit.local.value
        return jnp.maximum(residual, 0.0) / jnp.maximum(left, 1.0)


def _where(condition, new, old):
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def grow(search: Search, task: Task) -> tuple[Task, Bool[Array, ""]]:
    """Adds a source; returns the task and whether another may follow."""
    options, fit = search.options, task.fit
    count = jnp.sum(fit.active).astype(int)
    held = refinement.background(task.observation, fit)
    proposal = proposals.propose_source(
        search.setting,
        search.grid,
        task.observation,
        held,
        candidates=options.candidates,
        finalists=options.finalists,
        iterations=options.candidate_iterations,
    )
    slot = jnp.arange(fit.active.shape[0]) == count
    new = refinement.refine(
        search.setting,
        task.observation,
        jnp.where(slot[:, None], proposal.coordinates, fit.coordinates),
        jnp.where(slot, 1.0, fit.active),
        options.joint_iterations,
    )
    wanted = (count < task.least) | search.significant(task, new)
    added = (count < task.most) & wanted
    return task._replace(fit=_where(added, new, fit)), added & (count + 1 < task.most)


def improve(search: Search, task: Task) -> tuple[Task, Bool[Array, ""]]:
    """Refines the sources, and tries the most promising changes; returns the task and whether
    one of them was better.

    One source goes elsewhere; or one becomes two, the second in a free place while there may be
    more sources, else instead of the weakest one.
    """
    fit, observation = task.fit, task.observation
    index = jnp.arange(fit.active.shape[0])
    present = fit.active > 0
    count = jnp.sum(fit.active).astype(int)

    def without(k):
        held = refinement.background(observation, fit, k)
        place = fit.coordinates[k]
        elsewhere = proposals.propose_elsewhere(
            search.setting, search.grid, observation, held, place,
            candidates=search.options.candidates,
        )  # fmt: skip
        pair = proposals.propose_pair(search.setting, search.grid, observation, held, place)
        return elsewhere, pair, fit.local.value - held.value

    elsewhere, pair, loss = jax.vmap(without)(index)
    room = count < task.most
    weakest = jnp.argmin(jnp.where(present, loss, jnp.inf))
    second = jnp.where(room, count, weakest)
    may_split = present & (index != second)
    split_gain = jnp.where(may_split, pair.gain - loss, -jnp.inf)
    # A source more has to bring what chance alone would not: some ten times the noise's energy.
    price = jnp.where(room, 10.0 * search.noise_variance(task), loss[weakest])
    move_gain = jnp.where(present, elsewhere.gain - loss, -jnp.inf)
    moved, halved = jnp.argmax(move_gain), jnp.argmax(split_gain)
    column = index[:, None]
    after_move = jnp.where(column == moved, elsewhere.coordinates[moved], fit.coordinates)
    after_split = jnp.where(column == halved, pair.coordinates[halved, 0], fit.coordinates)
    after_split = jnp.where(column == second, pair.coordinates[halved, 1], after_split)
    with_second = jnp.maximum(fit.active, (index == second).astype(fit.active.dtype))
    starts = jnp.stack([fit.coordinates, after_move, after_split])
    actives = jnp.stack([fit.active, fit.active, with_second])
    refined = jax.vmap(
        lambda start, active: refinement.refine(
            search.setting, observation, start, active, search.options.final_iterations
        )
    )(starts, actives)
    same = jax.tree.map(lambda leaf: leaf[0], refined)
    best = jnp.argmax(refined.local.value - jnp.stack([0.0, 0.0, jnp.where(room, price, 0.0)]))
    new = jax.tree.map(lambda leaf: leaf[best], refined)
    better = new.local.value > same.local.value + _TOLERANCE * search.noise_variance(task)
    added = jnp.sum(new.active) > count
    better &= ~added | (count < task.least) | search.significant(task, new)
    better &= count > 0
    task = task._replace(fit=_where(better, new, same), attempts=task.attempts + 1)
    return task, better & (task.attempts < search.options.attempts)


def work_off(
    step: Callable[[Task], tuple[Task, Bool[Array, ""]]],
    tasks: Task,
    open_tasks: Bool[Array, "B"],
    size: int,
) -> tuple[Task, Bool[Array, "B"]]:
    """Steps all open tasks until each says that it is done; `size` of them a round.

    Returns:
      The tasks, and which of them were taken further at least once.
    """
    batch = open_tasks.shape[0]
    size = min(max(size, batch // 4), batch)

    def one_round(carry):
        tasks, open_tasks, touched = carry
        chosen = jnp.argsort(~open_tasks, stable=True)[:size]
        mine = open_tasks[chosen]
        some = jax.tree.map(lambda leaf: leaf[chosen], tasks)
        stepped, again = jax.vmap(step)(some)
        stepped = jax.vmap(_where)(mine, stepped, some)
        fits = jax.tree.map(
            lambda all_, part: all_.at[chosen].set(part),
            (tasks.fit, tasks.attempts),
            (stepped.fit, stepped.attempts),
        )
        tasks = tasks._replace(fit=fits[0], attempts=fits[1])
        return (
            tasks,
            open_tasks.at[chosen].set(mine & again),
            touched.at[chosen].set(touched[chosen] | (mine & again)),
        )

    carry = (tasks, open_tasks, jnp.zeros_like(open_tasks))
    tasks, _, touched = jax.lax.while_loop(lambda c: jnp.any(c[1]), one_round, carry)
    return tasks, touched


def solve(search: Search, tasks: Task) -> Task:
    """Grows and improves every scene of a batch until nothing changes, then refines it."""
    options = search.options

    def one_pass(carry):
        tasks, open_tasks, passes = carry
        growing = open_tasks & (tasks.most > 0)
        tasks, _ = work_off(functools.partial(grow, search), tasks, growing, options.queue)
        tasks, improved = work_off(functools.partial(improve, search), tasks, growing, options.queue)
        return tasks, improved, passes + 1

    start = (tasks, jnp.ones(tasks.least.shape, bool), 0)
    return jax.lax.while_loop(
        lambda carry: jnp.any(carry[1]) & (carry[2] < options.passes), one_pass, start
    )[0]


def _prepare(
    positions, region, options, samples, amplitudes, false_alarm_rate, source_signal, **wave
) -> Search:
    """Grid, metric and limits of a call."""
    jet = functools.partial(arrays.steering_jet, positions=positions, **wave)
    points = grids.grid_points(region, options.grid)
    unit = arrays.unit_from_cosines(points[:, 0], points[:, 1])
    vectors = arrays.steering(unit, points[:, 2], positions, **wave)
    visible = np.sum(points[:, :2] ** 2, axis=1) < 1.0
    # The metric changes slowly: a few places tell it.
    metric = model_order.metric_tensor(jet(jnp.asarray(grids.grid_points(region, _METRIC_GRID))))
    scale = jnp.mean(jnp.diagonal(metric, axis1=1, axis2=2), axis=0)
    return Search(
        setting=refinement.Setting(jet, region.lower, region.upper, source_signal),
        grid=proposals.Grid(
            points=jnp.asarray(points),
            conjugates=vectors.conj() * visible[:, None],
            shape=options.grid,
            unit=jax.lax.rsqrt(jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)),
        ),
        volumes=model_order.intrinsic_volumes(metric, region.upper - region.lower),
        false_alarm_rate=false_alarm_rate,
        samples=samples,
        amplitudes=amplitudes,
        options=options,
    )


def _final_fit(search: Search, task: Task, noise_variance: Float[Array, ""]) -> Fit:
    """The fit with amplitudes as strong as the sources are: noise makes fitted ones stronger."""
    if search.setting.source_signal == "independent":
        return refinement.integrate_amplitudes(
            search.setting, task.observation, task.fit, noise_variance,
            search.options.final_iterations,
        )  # fmt: skip
    fit = task.fit
    inverse = refinement.background(task.observation, fit).inverse_gram
    fitted = jnp.abs(fit.local.amplitudes) ** 2
    excess = noise_variance * jnp.diagonal(inverse, axis1=1, axis2=2).real
    share = jnp.clip(1.0 - excess / jnp.maximum(fitted, jnp.finfo(fitted.dtype).tiny), 0.05, 1.0)
    amplitudes = fit.local.amplitudes * jnp.sqrt(share)
    return fit._replace(local=fit.local._replace(amplitudes=amplitudes))


def _as_estimate(search: Search, task: Task, measurement, positions, wave) -> Estimate:
    """Physical coordinates, strongest first, with error bars from the bound at the estimate."""
    noise_variance = search.noise_variance(task)
    fit = _final_fit(search, task, noise_variance)
    present = (fit.active > 0) & jnp.isfinite(task.observation.energy)
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
    static_argnames=("wavelength", "wavefront", "source_signal", "max_sources", "region", "options"),
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
      wavefront: spherical, fresnel, parabolic or planar.
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
      ValueError: shapes that do not fit each other, or a number out of its domain.

    References:
      Ziskind & Wax, *Maximum likelihood localization of multiple sources by alternating
      projection*, IEEE Trans. ASSP 36(10), 1988; Mallat & Zhang, *Matching pursuits with
      time-frequency dictionaries*, IEEE Trans. Signal Process. 41(12), 1993.
    """
    _check(measurement, positions, max_sources, false_alarm_rate)
    batch = measurement.snapshots.shape[0]
    if num_sources is None:
        least, most = 0, max_sources
    else:
        least = most = num_sources
        asked = np.asarray(num_sources)
        if np.any(asked < 0) or np.any(asked > max_sources) or asked.shape not in ((), (batch,)):
            raise ValueError(
                f"num_sources: need 0 to max_sources={max_sources}, one number or [{batch}];"
                f" got {num_sources!r}"
            )
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


def _check(measurement, positions, max_sources, false_alarm_rate):
    """Shapes and numbers that no estimate can come of."""
    snapshots, channel, codes = measurement.snapshots, measurement.channel, measurement.codes
    if snapshots.ndim != 3 or channel.ndim != 3 or codes.ndim != 3:
        raise ValueError(
            "measurement: need snapshots [B, L, M], channel [B, M, N], codes [B, L, N]; got"
            f" {snapshots.shape}, {channel.shape}, {codes.shape}"
        )
    batch, length, antennas = snapshots.shape
    elements = positions.shape[0]
    for name, array, shape in (
        ("channel", channel, (batch, antennas, elements)),
        ("codes", codes, (batch, length, elements)),
        ("positions", positions, (elements, 3)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name}: need {list(shape)}; got {list(array.shape)}")
    if batch == 0:
        raise ValueError("measurement: need at least one scene; got none")
    if not 1 <= max_sources < min(elements, length * antennas):
        raise ValueError(
            f"max_sources: need 1 <= max_sources < min(N, L M) = {min(elements, length * antennas)};"
            f" got {max_sources}"
        )
    if not 0.0 < false_alarm_rate < 1.0:
        raise ValueError(f"false_alarm_rate: need 0 < rate < 1; got {false_alarm_rate!r}")
