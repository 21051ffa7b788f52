r"""Maximum likelihood by matching pursuit with joint refinement.

Sources are added one by one at the strongest peaks of the residual's spectrum, and all are refined
jointly after each addition. Then each source in turn is removed and searched elsewhere, or split in
two; a change that explains more energy is kept. The number of sources is given, or grows while the
test of `source_number` is significant. If the result is ambiguous, the weakest source is tested
again at the end.

Every scene of a batch has its own `Stage`. One round of the search has three parts: propose
positions for missing sources, one job for each source that is removed; refine the resulting
alternatives, one job each; decide, scene by scene. The jobs of all scenes form one queue
(`in_turn`). A scene therefore costs what it needs, not what the hardest scene of its batch needs,
and the compiled program contains each component once.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation import candidate_search, likelihood, refinement, search_grid, source_number
from ris_jax.estimation.refinement import SourceFit

# Smallest improvement, as a fraction of the noise's energy in one sample.
_TOLERANCE = 0.01
# Rounding of float32, as a fraction of the energy: nothing is counted 60 dB below the sources.
_ROUNDING = 1e-6
# Energy by which another source must beat a change without one, in the same unit.
_PRICE = 10.0
# A source that alone explains this energy (same unit) is not tested again, unless another one is
# closer than this (units of resolution).
_BEYOND_DOUBT = 30.0
_CLOSE = 2.0
# A change that explains this much less than the fit before its refinement (same unit) is not
# refined: of 1200 refined changes, none below 60 improved the fit.
_HOPELESS = 100.0
# Most sources that are tested together, and by how much more than the first one they may explain.
_LOOK_AHEAD = 3
# False-alarm rate of these tests over that with a source fewer, so that they hardly add to it.
_AHEAD_RATE = 0.1
_INTERFERENCE = 1.1
# Values of a decision other than an alternative: the fit as it is; the fit to return to.
_SAME, _KEPT = 3, 4
# Bytes of observation operators that a queue may copy.
_QUEUE_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Search effort: grid, candidates, iterations. `EFFORTS` has named ones.

    The reference is the likelihood reached from a start at the truth. From 10 dB on, with constant
    signals, the defaults reach it in 98 % of scenes of five sources and 99.7 % of scenes with fewer
    (experiments/at_the_bound.py).
    """

    #: Cells in u, w, 1/r; None derives them from the array's resolution, see
    #: `search_grid.search_shape`.
    grid: tuple[int, int, int] | None = None
    cell: float = search_grid.SEARCH_CELL  #: width of the derived cells in units of resolution
    candidates: int = 6  #: peaks of the grid that are compared
    joint_iterations: int = 4
    final_iterations: int = 6
    attempts: int = 6  #: exchanges and splits per scene
    passes: int = 3  #: passes over growing and improving
    queue: int = 16  #: jobs that run at once


#: Search efforts by name, for `localize(search=...)` and ``--search``.
EFFORTS = {
    "fast": SearchOptions(cell=0.95, candidates=3, attempts=2, passes=2),
    "normal": SearchOptions(),
    "thorough": SearchOptions(
        cell=0.55, candidates=12, joint_iterations=8, final_iterations=12, attempts=16, passes=5
    ),
}


def effort(search: str | SearchOptions) -> SearchOptions:
    """Search options by name, or as they are.

    Raises:
      ConfigError: an unknown name.
    """
    if isinstance(search, SearchOptions):
        return search
    if search not in EFFORTS:
        raise config_lib.ConfigError(
            f"search: expected one of {', '.join(EFFORTS)} or SearchOptions; found {search!r}"
        )
    return EFFORTS[search]


class Stage(enum.IntEnum):
    """Next step of a scene."""

    GROW = 0  #: add a source
    IMPROVE = 1  #: refine the sources; move one; split one
    SETTLE = 2  #: reduce if a source is ambiguous, else rest
    REDUCE = 3  #: take the weakest source out
    RETRY = 4  #: improve without it, then restore it if it is significant
    REST = 5  #: start another pass if anything has changed
    DONE = 6


class Task(NamedTuple):
    """State of the search in one scene."""

    observation: likelihood.Observation  #: without its operator, which the tasks may share
    least: Int[Array, ""]  #: sources
    most: Int[Array, ""]
    stage: Int[Array, ""]
    fit: SourceFit
    #: The fit to return to: with the removed weakest source, or without those `ahead`.
    kept: SourceFit
    ahead: Int[Array, ""]  #: last sources of the fit that are not significant yet; see `decide`
    attempts: Int[Array, ""]  #: improvements tried
    passes: Int[Array, ""]
    changed: Bool[Array, ""]  #: whether this pass has changed anything after growing

    @property
    def count(self) -> Int[Array, ""]:
        """Sources present."""
        return jnp.sum(self.fit.active).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Search:
    """Constants shared by all scenes of a call."""

    setting: refinement.RefinementProblem
    grid: candidate_search.Grid
    volumes: Float[Array, "D+1"]
    false_alarm_rate: Float[Array, ""]
    samples: int
    amplitudes: int  #: free complex amplitudes of a source
    options: SearchOptions

    @property
    def dimensions(self) -> int:
        """Coordinates of a source."""
        return self.setting.lower.shape[0]

    def significant(
        self,
        energy: Float[Array, ""],
        count: Int[Array, "..."],
        before: Float[Array, "..."],
        after: Float[Array, "..."],
        added: Int[Array, "..."],
    ) -> Bool[Array, "..."]:
        """Test whether one or more further sources are significant together.

        Args:
          energy: of the scene.
          count: sources before.
          before: energy explained by these.
          after: energy explained with the further ones.
          added: number of these.
        """
        statistic = source_number.statistic(
            jnp.maximum(energy - before, 0.0) + _ROUNDING * energy,
            jnp.maximum(energy - after, 0.0) + _ROUNDING * energy,
            count,
            samples=self.samples,
            amplitudes=self.amplitudes,
            coordinates=self.dimensions,
            added=added,
        )
        chance = source_number.false_alarm_probability(
            statistic, self.amplitudes, self.volumes, added
        )
        return chance < self.false_alarm_rate * _AHEAD_RATE ** (added - 1.0)

    def noise_variance(
        self, observation: likelihood.Observation, fit: SourceFit
    ) -> Float[Array, ""]:
        parameters = self.amplitudes + 0.5 * self.dimensions
        left = self.samples - jnp.sum(fit.active) * parameters
        residual = observation.energy - fit.local.value
        return jnp.maximum(residual, 0.0) / jnp.maximum(left, 1.0)


def begin(
    observation: likelihood.Observation,
    least: Int[Array, ""],
    most: Int[Array, ""],
    max_sources: int,
    dimensions: int = 3,
) -> Task:
    """Initial state of a scene: no sources; done if none are wanted or nothing was received."""
    fit = refinement.no_sources(observation, max_sources, dimensions)
    # Non-finite data make the noise variance NaN.
    size = jnp.sum(jnp.abs(observation.operator)) + jnp.sum(jnp.abs(observation.data))
    energy = jnp.where(jnp.isfinite(size), observation.energy, jnp.nan)
    observation = observation.replace(energy=energy, operator=None)
    zero = jnp.zeros((), jnp.int32)
    idle = (most == 0) | ~jnp.isfinite(energy) | ((energy == 0.0) & (least == 0))
    stage = jnp.where(idle, Stage.DONE, Stage.GROW).astype(jnp.int32)
    return Task(observation, least, most, stage, fit, fit, zero, zero, zero, jnp.zeros((), bool))


def _where(condition, new, old):
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def in_turn(
    function: Callable[[Int[Array, "size"]], Any],
    rank: Int[Array, "J"],
    ranks: int,
    size: int,
) -> Any:
    """Apply a function to the wanted jobs of a queue, `size` at a time.

    Args:
      function: of the numbers of `size` jobs; returns arrays [size, ...].
      rank: of each job; lower ranks run first, and jobs of rank `ranks` or more do not run.
      ranks: number of ranks that run.
      size: jobs at a time, at most J.

    Returns:
      Arrays [J, ...]; entries of jobs that did not run are arbitrary.
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


def lost_without(observation: likelihood.Observation, fit: SourceFit) -> Float[Array, "K"]:
    """Return the energy that each source alone explains; infinite for absent sources."""
    variances = refinement.variances(refinement.background(observation, fit))
    losses = jnp.sum(jnp.abs(fit.local.amplitudes) ** 2 / variances, axis=0)
    return jnp.where(fit.active > 0, losses, jnp.inf)


def doubtful(search: Search, task: Task, losses: Float[Array, "K"]) -> Bool[Array, ""]:
    """Test whether a source may be a false alarm: it is weak, or two are close together."""
    fit = task.fit
    # A fitted amplitude explains the noise variance even without a source.
    least = _BEYOND_DOUBT + 2.0 * (search.amplitudes - 1)
    weak = jnp.min(losses) < least * search.noise_variance(task.observation, fit)
    apart = (fit.coordinates[:, None] - fit.coordinates) / search.grid.unit
    index = jnp.arange(fit.active.shape[0])
    pairs = (jnp.outer(fit.active, fit.active) > 0) & (index[:, None] < index)
    close = jnp.any(pairs & (jnp.sum(apart**2, axis=-1) < _CLOSE**2))
    return (task.count > jnp.maximum(task.least, 1)) & (weak | close)


def review(search: Search, task: Task, losses: Float[Array, "K"]) -> Task:
    """Return the next stage of a scene that cannot be improved further."""
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
    """Positions for a missing source when one of the fitted sources, or none, is removed."""

    source: candidate_search.Proposal  #: [...] one
    pair: candidate_search.Proposal  #: two around the position of the removed source
    explained: Float[Array, "..."]  #: energy explained by the others


def _queue_size(search: Search, operator: Float[Array, "S T N 2R"]) -> int:
    """Return the number of concurrent jobs: fewer if each copies the operator of its scene."""
    copies = 1 if operator.shape[0] == 1 else operator[0].nbytes
    return max(1, min(search.options.queue, _QUEUE_BYTES // copies))


def find_places(
    search: Search,
    operator: Float[Array, "S T N 2R"],
    power: Float[Array, "S G"] | None,
    tasks: Task,
) -> Places:
    """Place for the sources of all scenes, [B, K], with each fitted source taken out.

    In a growing scene, the first one is the position of another source.
    """
    options, setting, grid = search.options, search.setting, search.grid
    batch, sources = tasks.fit.active.shape
    growing = tasks.stage == Stage.GROW
    changing = (tasks.stage == Stage.IMPROVE) | (tasks.stage == Stage.RETRY)
    first = jnp.arange(sources) == 0
    rank = jnp.where(growing[:, None] & first, 1, 2)
    rank = jnp.where(changing[:, None] & (tasks.fit.active > 0), 0, rank)

    def propose(jobs):
        scene, source = jobs // sources, jobs % sources
        task = jax.tree.map(lambda leaf: leaf[scene], tasks)
        observation = likelihood.of_scenes(operator, tasks.observation, scene)
        adds = growing[scene]
        held = jax.vmap(refinement.background)(
            task.observation, task.fit, jnp.where(adds, -1, source)
        )
        place = task.fit.coordinates[jnp.arange(len(jobs)), source]
        away_from = jnp.where(adds[:, None], jnp.inf, place)
        fields = likelihood.over_scenes(likelihood.matched_fields, observation, held.residual)
        own = power if power is None or len(power) == 1 else power[scene]
        points = candidate_search.find_peaks(grid, fields, options.candidates, own)
        found = likelihood.over_scenes(
            lambda *scene: candidate_search.propose_source(setting, grid, *scene),
            observation, held, away_from, points,
        )  # fmt: skip

        def split(_):
            return likelihood.over_scenes(
                functools.partial(candidate_search.propose_pair, setting, grid),
                observation,
                held,
                place,
            )

        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(split, None))
        pair = jax.lax.cond(jnp.any(~adds), split, lambda _: nothing, None)
        return Places(found, pair, held.value)

    found = in_turn(propose, rank.ravel(), 2, _queue_size(search, operator))
    return jax.tree.map(lambda leaf: leaf.reshape(batch, sources, *leaf.shape[1:]), found)


class Change(NamedTuple):
    """Three alternatives to a fit, A = 3, with a price that their energy must exceed."""

    coordinates: Float[Array, "A K D"]
    active: Float[Array, "A K"]
    price: Float[Array, "A"]
    wanted: Bool[Array, "A"]
    iterations: Int[Array, "A"]


def propose_changes(
    search: Search, task: Task, losses: Float[Array, "K"], places: Places
) -> Change:
    """Return the alternatives of a scene for refinement.

    Growing: its sources and another one. Reducing: all except the weakest. Otherwise: its sources;
    one of them moved; one of them split in two. The second half of a split source takes a free slot
    if there may be more sources, else the slot of the weakest one.
    """
    fit, stage = task.fit, task.stage
    index = jnp.arange(fit.active.shape[0])
    column = index[:, None]
    present = fit.active > 0
    count = task.count
    is_next = index == count
    growing, reducing = stage == Stage.GROW, stage == Stage.REDUCE

    after_growth = jnp.where(is_next[:, None], places.source.coordinates[0], fit.coordinates)
    # The last source takes the slot of the weakest, so that fitted sources stay first.
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
    # Another source must explain more than chance alone would.
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
        jnp.stack([jnp.zeros_like(dearer), jnp.zeros_like(dearer), dearer]),
        jnp.stack(
            [
                improving | growing | reducing,
                improving & worth_moving,
                improving & worth_splitting,
            ]
        ),
        jnp.full(3, steps),
    )


def refine_changes(
    search: Search, operator: Float[Array, "S T N 2R"], tasks: Task, changes: Change
) -> SourceFit:
    """Fit of all wanted alternatives, [B A]."""
    options = search.options
    alternatives = changes.wanted.shape[1]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), changes)
    long = flat.iterations == options.final_iterations
    rank = jnp.where(flat.wanted, jnp.where(long, 0, 1), 2)

    def refine(jobs):
        observation = likelihood.of_scenes(operator, tasks.observation, jobs // alternatives)
        coordinates, active, _, wanted, most = jax.tree.map(lambda leaf: leaf[jobs], flat)
        longest = jnp.max(jnp.where(wanted, most, 0))

        def one(observation, coordinates, active, most):
            return refinement.refine(
                search.setting, observation, coordinates, active, longest, most=most
            )

        return likelihood.over_scenes(one, observation, coordinates, active, most)

    return in_turn(refine, rank, 2, _queue_size(search, operator))


def decide(
    search: Search, task: Task, change: Change, values: Float[Array, "A"]
) -> tuple[Task, Int[Array, ""]]:
    """Choose among the alternatives of a scene by the energy that they explain.

    A source that is not significant by itself may be the first of several equal ones, of which it
    explains only a part: while further ones are promising, the fit continues with it, and up to
    `_LOOK_AHEAD` sources are tested together.

    Returns:
      The new state, except its fit; and the number of the alternative that becomes its fit, or
      `_SAME` or `_KEPT`.
    """
    stage, count, energy = task.stage, task.count, task.observation.energy
    growing, improving, reducing, retrying = (
        stage == which for which in (Stage.GROW, Stage.IMPROVE, Stage.REDUCE, Stage.RETRY)
    )
    values = jnp.where(change.wanted, values, -jnp.inf)
    best = jnp.argmax(values - change.price)
    same, found = values[0], values[best]
    tolerance = _TOLERANCE * search.noise_variance(task.observation, task.fit)
    better = found > same + tolerance
    old = jnp.where(task.ahead > 0, task.kept.local.value, task.fit.local.value)
    # Retrying: the removed source is tested against the improved others.
    before = jnp.where(retrying, jnp.where(better, found, same), old)
    after = jnp.where(retrying, task.kept.local.value, jnp.where(growing, same, found))
    # Two or three sources may be significant where one is not. Each of them explains as much as the
    # first one at most, or a little more where they interfere.
    first = same - task.fit.local.value
    further = np.arange(2, _LOOK_AHEAD + 1)
    significant, *promising = search.significant(
        energy,
        jnp.stack([count - task.ahead, *(count for _ in further)]),
        jnp.stack([before, *(old for _ in further)]),
        jnp.stack([after, *(old + _INTERFERENCE * number * first for number in further)]),
        jnp.stack([task.ahead + 1, *further]),
    )
    needed = (count < task.least) | significant
    better &= retrying | needed | (jnp.sum(change.active[best]) <= count)

    grown = growing & needed
    failed = growing & ~needed
    looking = (task.ahead > 0) | jnp.any(jnp.stack(promising))
    looking &= failed & (task.ahead + 1 < _LOOK_AHEAD) & (count + 1 < task.most)
    returning = failed & ~looking & (task.ahead > 0)
    gone = retrying & ~significant
    takes = jnp.where(improving | reducing, jnp.where(better, best, 0), 0)
    takes = jnp.where(gone & better, best, takes)
    take = jnp.select(
        [improving | reducing | grown | looking | gone, retrying | returning],
        [takes, jnp.full_like(takes, _KEPT)],
        _SAME,
    )

    attempts = task.attempts + improving
    again = improving & better & (attempts < search.options.attempts)
    grows_on = looking | (grown & (count + 1 < task.most))
    nothing = failed & (count == task.ahead)
    following = jnp.select(
        [grows_on, nothing, growing | again, improving | gone, reducing, retrying],
        [Stage.GROW, Stage.DONE, Stage.IMPROVE, Stage.SETTLE, Stage.RETRY, Stage.REST],
        stage,
    )
    task = task._replace(
        stage=following,
        kept=_where(reducing | (looking & (task.ahead == 0)), task.fit, task.kept),
        ahead=jnp.where(looking, task.ahead + 1, 0),
        attempts=attempts,
        changed=task.changed | again | gone,
    )
    return task, take


def solve(search: Search, operator: Float[Array, "S T N 2R"], tasks: Task) -> Task:
    """Take every scene of a batch through its stages.

    Args:
      search: of the call.
      operator: `likelihood.Observation.operator` of every scene, or one that all share.
      tasks: [B, ...], see `begin`.
    """
    batch = tasks.stage.shape[0]
    power = candidate_search.received_power(search.grid, operator, tasks.observation)

    def one_round(before):
        tasks = before
        losses = jax.vmap(lambda task: lost_without(task.observation, task.fit))(tasks)
        tasks = jax.vmap(functools.partial(review, search))(tasks, losses)
        places = find_places(search, operator, power, tasks)
        changes = jax.vmap(functools.partial(propose_changes, search))(tasks, losses, places)
        fits = refine_changes(search, operator, tasks, changes)
        values = fits.local.value.reshape(batch, -1)
        old, kept = tasks.fit, tasks.kept
        tasks, take = jax.vmap(functools.partial(decide, search))(tasks, changes, values)
        alternatives = values.shape[1]
        place = alternatives * jnp.arange(batch) + jnp.minimum(take, alternatives - 1)
        new = jax.tree.map(lambda leaf: leaf[place], fits)
        new = jax.vmap(_where)(take == _SAME, old, new)
        tasks = tasks._replace(fit=jax.vmap(_where)(take == _KEPT, kept, new))
        # Python integers are int64 where JAX is set to 64 bits.
        return jax.tree.map(lambda new, old: new.astype(old.dtype), tasks, before)

    return jax.lax.while_loop(lambda t: jnp.any(t.stage != Stage.DONE), one_round, tasks)
