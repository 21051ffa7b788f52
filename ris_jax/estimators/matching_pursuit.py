r"""Maximum likelihood by matching pursuit with joint refinement.

Sources are added one by one where the residual says, and after each all are refined together.
When none is to be added, each in turn is taken out and sought elsewhere, or split in two; what
explains the data better is kept. The number of sources is the caller's, or grows for as long as
the test of `model_order` holds; where there is doubt, the weakest must pass it again in the end.

Every scene of a batch is at a stage of its own (`Stage`). A round first looks for places of sources
that may be missing, one job for each source that is taken out; then it refines the alternatives
that come of these, one job each; then every scene decides. Jobs of all scenes make one queue
(`in_turn`), so that a scene costs what it needs and not what the hardest of its batch needs, and
the compiled program has each component once.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ris_jax.estimators import likelihood, model_order, proposals, refinement
from ris_jax.estimators.refinement import Fit

# An improvement below this share of the noise's energy in one sample is none.
_TOLERANCE = 0.01
# Of the energy, what float32 cannot tell: 60 dB below the sources there is nothing to count.
_ROUNDING = 1e-6
# What a source more has to bring to be preferred to a change without one, in the same unit.
_PRICE = 10.0
# A source that explains so much that the others do not is not doubted, in the same unit, unless it
# is so close to another, in units of resolution.
_BEYOND_DOUBT = 30.0
_CLOSE = 2.0
# A change that before its refinement explains so much less than the fit, in the same unit, is not
# refined: of 1200 that were, none below 60 came to explain more.
_HOPELESS = 100.0
# Instead of an alternative: the fit as it was; the one with the source that was taken out.
_SAME, _FULLER = 3, 4


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How hard to look.

    With the defaults, the likelihood reached is that of a start at the truth or better in 98 % of
    scenes of five sources with constant signals, 99.7 % of fewer, from 10 dB on
    (experiments/at_the_bound.py).
    """

    grid: tuple[int, int, int] = (28, 16, 9)  #: cells in u, w, 1/r
    candidates: int = 6  #: peaks of the grid that are compared
    joint_iterations: int = 4
    final_iterations: int = 6
    attempts: int = 6  #: exchanges and splits a scene may try
    passes: int = 3  #: over growing and improving
    queue: int = 16  #: jobs that are done at once


class Stage(enum.IntEnum):
    """What a scene does next."""

    GROW = 0  #: add a source
    IMPROVE = 1  #: refine the sources; move one; split one
    SETTLE = 2  #: reduce if a source is doubtful, else rest
    REDUCE = 3  #: take the weakest source out
    RETRY = 4  #: improve without it, then have it back if it is significant
    REST = 5  #: go through it all again if anything has changed
    DONE = 6


class Task(NamedTuple):
    """A scene, what is asked of it and how far it is."""

    observation: likelihood.Observation
    least: Int[Array, ""]  #: sources
    most: Int[Array, ""]
    stage: Int[Array, ""]
    fit: Fit
    fuller: Fit  #: while it tries with a source less: the fit with it
    attempts: Int[Array, ""]  #: improvements tried
    passes: Int[Array, ""]
    changed: Bool[Array, ""]  #: whether this pass has changed anything after growing

    @property
    def count(self) -> Int[Array, ""]:
        """Sources present."""
        return jnp.sum(self.fit.active).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Search:
    """What all scenes of a call share."""

    setting: refinement.Setting
    grid: proposals.Grid
    volumes: Float[Array, "4"]
    false_alarm_rate: Float[Array, ""]
    samples: int
    amplitudes: int  #: free complex ones of a source
    options: SearchOptions

    def significant(
        self,
        energy: Float[Array, ""],
        count: Float[Array, ""],
        before: Float[Array, ""],
        after: Float[Array, ""],
    ) -> Bool[Array, ""]:
        """Whether there is good reason for a source more.

        Args:
          energy: of the scene.
          count: sources before.
          before: energy that these explain.
          after: energy that is explained with one more.
        """
        statistic = model_order.statistic(
            jnp.maximum(energy - before, 0.0) + _ROUNDING * energy,
            jnp.maximum(energy - after, 0.0) + _ROUNDING * energy,
            count,
            samples=self.samples,
            amplitudes=self.amplitudes,
        )
        chance = model_order.false_alarm_probability(statistic, self.amplitudes, self.volumes)
        return chance < self.false_alarm_rate

    def noise_variance(self, observation: likelihood.Observation, fit: Fit) -> Float[Array, ""]:
        left = self.samples - jnp.sum(fit.active) * (self.amplitudes + 1.5)
        residual = observation.energy - fit.local.value
        return jnp.maximum(residual, 0.0) / jnp.maximum(left, 1.0)


def begin(
    observation: likelihood.Observation,
    least: Int[Array, ""],
    most: Int[Array, ""],
    max_sources: int,
) -> Task:
    """A scene without any source yet; done at once if none is asked for or nothing was received."""
    fit = refinement.no_sources(observation, max_sources)
    # What is not finite leaves a residual that is no number.
    size = jnp.sum(jnp.abs(observation.operator)) + jnp.sum(jnp.abs(observation.data))
    energy = jnp.where(jnp.isfinite(size), observation.energy, jnp.nan)
    observation = observation._replace(energy=energy)
    zero = jnp.zeros((), jnp.int32)
    idle = (most == 0) | ~jnp.isfinite(energy) | ((energy == 0.0) & (least == 0))
    stage = jnp.where(idle, Stage.DONE, Stage.GROW).astype(jnp.int32)
    return Task(observation, least, most, stage, fit, fit, zero, zero, jnp.zeros((), bool))


def _where(condition, new, old):
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def in_turn(
    function: Callable[[Int[Array, "size"]], Any],
    rank: Int[Array, "J"],
    ranks: int,
    size: int,
) -> Any:
    """Applies a function to the jobs that are wanted, `size` at a time.

    Args:
      function: of the numbers of `size` jobs; returns arrays [size, ...].
      rank: of each job, those of a low rank first; `ranks` and more are not wanted.
      ranks: see there.
      size: jobs at a time, no more than J are.

    Returns:
      Arrays [J, ...]; of jobs that are not wanted, anything.
    """
    total = rank.shape[0]
    size = min(size, total)
    order = jnp.argsort(rank, stable=True)
    wanted = jnp.sum(rank < ranks)

    def some(carry):
        start, results = carry
        place = jnp.minimum(start, total - size)
        new = function(jax.lax.dynamic_slice_in_dim(order, place, size))
        results = jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, place, axis=0),
            results,
            new,
        )
        return start + size, results

    shapes = jax.eval_shape(function, order[:size])
    nothing = jax.tree.map(lambda s: jnp.zeros((total, *s.shape[1:]), s.dtype), shapes)
    _, results = jax.lax.while_loop(
        lambda c: c[0] < wanted, some, (jnp.zeros_like(wanted), nothing)
    )
    place = jnp.zeros_like(order).at[order].set(jnp.arange(total, dtype=order.dtype))
    return jax.tree.map(lambda leaf: leaf[place], results)


def lost_without(observation: likelihood.Observation, fit: Fit) -> Float[Array, "K"]:
    """The energy that each source explains beyond the others in their places; absent: infinite."""
    variances = refinement.variances(refinement.background(observation, fit))
    losses = jnp.sum(jnp.abs(fit.local.amplitudes) ** 2 / variances, axis=0)
    return jnp.where(fit.active > 0, losses, jnp.inf)


def doubtful(search: Search, task: Task, losses: Float[Array, "K"]) -> Bool[Array, ""]:
    """Whether a source may be one too many: it is weak, or two are close to each other."""
    fit = task.fit
    # Noise explains its variance for every amplitude.
    least = _BEYOND_DOUBT + 2.0 * (search.amplitudes - 1)
    weak = jnp.min(losses) < least * search.noise_variance(task.observation, fit)
    apart = (fit.coordinates[:, None] - fit.coordinates) / search.grid.unit
    index = jnp.arange(fit.active.shape[0])
    pairs = (jnp.outer(fit.active, fit.active) > 0) & (index[:, None] < index)
    close = jnp.any(pairs & (jnp.sum(apart**2, axis=-1) < _CLOSE**2))
    return (task.count > jnp.maximum(task.least, 1)) & (weak | close)


def review(search: Search, task: Task, losses: Float[Array, "K"]) -> Task:
    """Where a scene goes on that has come to the end of improving."""
    settles = task.stage == Stage.SETTLE
    doubt = settles & doubtful(search, task, losses)
    rests = (settles & ~doubt) | (task.stage == Stage.REST)
    passes = task.passes + rests
    again = rests & task.changed & (passes < search.options.passes)
    grow = jnp.where(task.count < task.most, Stage.GROW, Stage.IMPROVE)
    stage = jnp.select(
        [doubt, again, rests], [jnp.full_like(grow, Stage.REDUCE), grow, Stage.DONE], task.stage
    )
    return task._replace(stage=stage, passes=passes, changed=task.changed & ~rests)


class Places(NamedTuple):
    """Where sources may be missing if one of those present is taken out, or none."""

    source: proposals.Proposal  #: [...] one
    pair: proposals.Proposal  #: two around the place of the one that was taken out
    explained: Float[Array, "..."]  #: energy that the others explain


def find_places(search: Search, tasks: Task) -> Places:
    """Places for the sources of all scenes, [B, K]: with each source that is present taken out.

    Of a scene that grows, the first one is that for a source more.
    """
    options, setting, grid = search.options, search.setting, search.grid
    batch, sources = tasks.fit.active.shape
    growing = tasks.stage == Stage.GROW
    changing = (tasks.stage == Stage.IMPROVE) | (tasks.stage == Stage.RETRY)
    first = jnp.arange(sources) == 0
    rank = jnp.where(growing[:, None] & first, 1, 2)
    rank = jnp.where(changing[:, None] & (tasks.fit.active > 0), 0, rank)

    def look(jobs):
        scene, source = jobs // sources, jobs % sources
        task = jax.tree.map(lambda leaf: leaf[scene], tasks)
        adds = growing[scene]
        held = jax.vmap(refinement.background)(
            task.observation, task.fit, jnp.where(adds, -1, source)
        )
        place = task.fit.coordinates[jnp.arange(len(jobs)), source]

        def one(observation, held, away_from):
            return proposals.propose_source(
                setting, grid, observation, held, away_from, candidates=options.candidates
            )

        def two(_):
            propose = functools.partial(proposals.propose_pair, setting, grid)
            return jax.vmap(propose)(task.observation, held, place)

        found = jax.vmap(one)(task.observation, held, jnp.where(adds[:, None], jnp.inf, place))
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(two, None))
        pair = jax.lax.cond(jnp.any(~adds), two, lambda _: nothing, None)
        return Places(found, pair, held.value)

    found = in_turn(look, rank.ravel(), 2, options.queue)
    return jax.tree.map(lambda leaf: leaf.reshape(batch, sources, *leaf.shape[1:]), found)


class Change(NamedTuple):
    """Alternatives to a fit, A = 3 of them: sources, and what they cost beside their energy."""

    coordinates: Float[Array, "A K 3"]
    active: Float[Array, "A K"]
    price: Float[Array, "A"]
    wanted: Bool[Array, "A"]
    iterations: Int[Array, "A"]


def propose_changes(
    search: Search, task: Task, losses: Float[Array, "K"], places: Places
) -> Change:
    """What a scene wants refined.

    Growing: its sources and one more. Reducing: all but the weakest. Else the present sources; one
    of them elsewhere; and one of them as two. The second half of a split source takes a free place
    while there may be more sources, else that of the weakest one.
    """
    fit, stage = task.fit, task.stage
    index = jnp.arange(fit.active.shape[0])
    column = index[:, None]
    present = fit.active > 0
    count = task.count
    is_next = index == count
    growing, reducing = stage == Stage.GROW, stage == Stage.REDUCE

    after_growth = jnp.where(is_next[:, None], places.source.coordinates[0], fit.coordinates)
    # The last one takes the slot of the weakest: those that are present come first.
    left = jnp.maximum(count - 1, 0)
    weakest = column == jnp.argmin(losses)
    after_loss = jnp.where(weakest, fit.coordinates[left], fit.coordinates)

    loss = fit.local.value - places.explained
    moved = jnp.argmax(jnp.where(present, places.source.gain - loss, -jnp.inf))
    room = count < jnp.where(stage == Stage.RETRY, count, task.most)
    second = jnp.where(room, count, jnp.argmin(jnp.where(present, loss, jnp.inf)))
    halves = present & (index != second)
    halved = jnp.argmax(jnp.where(halves, places.pair.gain - loss, -jnp.inf))
    after_move = jnp.where(column == moved, places.source.coordinates[moved], fit.coordinates)
    pair = places.pair.coordinates[halved]
    after_split = jnp.where(column == halved, pair[0], fit.coordinates)
    after_split = jnp.where(column == second, pair[1], after_split)

    first = jnp.where(growing, after_growth, jnp.where(reducing, after_loss, fit.coordinates))
    grown = jnp.where(is_next, 1.0, fit.active)
    reduced = (index < left).astype(fit.active.dtype)
    active = jnp.where(growing, grown, jnp.where(reducing, reduced, fit.active))
    with_second = jnp.where(index == second, 1.0, fit.active)
    # A source more is worth its while when it brings what chance alone would not.
    noise = search.noise_variance(task.observation, fit)
    dearer = jnp.where(room, _PRICE * noise, 0.0)
    least = -_HOPELESS * noise
    worth_moving = (places.source.gain - loss)[moved] > least
    halved_gain = (places.pair.gain - loss)[halved]
    lost = jnp.where(room, 0.0, jnp.min(jnp.where(present, loss, jnp.inf)))
    worth_splitting = jnp.any(halves) & (halved_gain - lost > least)
    improving = ((stage == Stage.IMPROVE) | (stage == Stage.RETRY)) & (count > 0)
    options = search.options
    steps = jnp.where(improving, options.final_iterations, options.joint_iterations)
    return Change(
        jnp.stack([first, after_move, after_split]),
        jnp.stack([active, fit.active, with_second]),
        jnp.stack([jnp.zeros(()), jnp.zeros(()), dearer]),
        jnp.stack(
            [
                improving | growing | reducing,
                improving & worth_moving,
                improving & worth_splitting,
            ]
        ),
        jnp.full(3, steps),
    )


def refine_changes(search: Search, tasks: Task, changes: Change) -> Fit:
    """Fits of all alternatives that are wanted, [B A]."""
    options = search.options
    alternatives = changes.wanted.shape[1]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), changes)
    long = flat.iterations == options.final_iterations
    rank = jnp.where(flat.wanted, jnp.where(long, 0, 1), 2)

    def refine(jobs):
        observation = jax.tree.map(lambda leaf: leaf[jobs // alternatives], tasks.observation)
        coordinates, active, _, wanted, most = jax.tree.map(lambda leaf: leaf[jobs], flat)
        longest = jnp.max(jnp.where(wanted, most, 0))

        def one(observation, coordinates, active, most):
            return refinement.refine(
                search.setting, observation, coordinates, active, longest, most=most
            )

        return jax.vmap(one)(observation, coordinates, active, most)

    return in_turn(refine, rank, 2, options.queue)


def decide(
    search: Search, task: Task, change: Change, values: Float[Array, "A"]
) -> tuple[Task, Int[Array, ""]]:
    """What a scene makes of the energies that its alternatives explain.

    Returns:
      The task as it goes on, but for its fit; and which that is to be: the alternative of this
      number, or `_SAME` or `_FULLER`.
    """
    stage, count = task.stage, task.count
    growing, improving, reducing, retrying = (
        stage == which for which in (Stage.GROW, Stage.IMPROVE, Stage.REDUCE, Stage.RETRY)
    )
    values = jnp.where(change.wanted, values, -jnp.inf)
    best = jnp.argmax(values - change.price)
    same, found = values[0], values[best]
    tolerance = _TOLERANCE * search.noise_variance(task.observation, task.fit)
    better = found > same + tolerance
    # Of a source that was taken out, given what the others explain by now.
    before = jnp.where(retrying, jnp.where(better, found, same), task.fit.local.value)
    after = jnp.where(retrying, task.fuller.local.value, jnp.where(growing, same, found))
    significant = search.significant(task.observation.energy, count, before, after)
    needed = (count < task.least) | significant
    better &= retrying | needed | (jnp.sum(change.active[best]) <= count)

    chosen = jnp.where(better, best, 0)
    grown = growing & needed
    gone = retrying & ~significant
    takes = (improving | reducing | grown | gone).astype(chosen.dtype)
    take = jnp.where(takes, jnp.where(growing, 0, chosen), jnp.where(retrying, _FULLER, _SAME))

    attempts = task.attempts + improving
    again = improving & better & (attempts < search.options.attempts)
    grows_on = grown & (count + 1 < task.most)
    nothing = growing & ~grown & (count == 0)
    following = jnp.select(
        [nothing, grows_on, growing | again, improving | gone, reducing, retrying],
        [Stage.DONE, Stage.GROW, Stage.IMPROVE, Stage.SETTLE, Stage.RETRY, Stage.REST],
        stage,
    )
    task = task._replace(
        stage=following,
        fuller=_where(reducing, task.fit, task.fuller),
        attempts=attempts,
        changed=task.changed | again | gone,
    )
    return task, take


def solve(search: Search, tasks: Task) -> Task:
    """Takes every scene of a batch through its stages."""
    batch = tasks.stage.shape[0]

    def one_round(tasks):
        losses = jax.vmap(lambda task: lost_without(task.observation, task.fit))(tasks)
        tasks = jax.vmap(functools.partial(review, search))(tasks, losses)
        places = find_places(search, tasks)
        changes = jax.vmap(functools.partial(propose_changes, search))(tasks, losses, places)
        fits = refine_changes(search, tasks, changes)
        values = fits.local.value.reshape(batch, -1)
        old, fuller = tasks.fit, tasks.fuller
        tasks, take = jax.vmap(functools.partial(decide, search))(tasks, changes, values)
        alternatives = values.shape[1]
        place = alternatives * jnp.arange(batch) + jnp.minimum(take, alternatives - 1)
        new = jax.tree.map(lambda leaf: leaf[place], fits)
        new = jax.vmap(_where)(take == _SAME, old, new)
        return tasks._replace(fit=jax.vmap(_where)(take == _FULLER, fuller, new))

    return jax.lax.while_loop(lambda t: jnp.any(t.stage != Stage.DONE), one_round, tasks)
