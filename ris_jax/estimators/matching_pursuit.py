r"""Maximum likelihood by matching pursuit with joint refinement.

Sources are added one by one where the residual says, and after each all are refined together.
When none is to be added, each in turn is taken out and sought elsewhere, or split in two; what
explains the data better is kept. The number of sources is the caller's, or grows for as long as
the test of `model_order` holds; where there is doubt, the weakest must pass it again in the end.

A batch is worked off as a queue: every round takes up the next few scenes that are not finished,
so that a scene costs what it needs and not what the hardest of its batch needs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

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


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How hard to look.

    With the defaults, the likelihood reached is that of a start at the truth or better in 98 % of
    scenes of five sources with constant signals, 99.7 % of fewer, from 10 dB on
    (experiments/at_the_bound.py).
    """

    grid: tuple[int, int, int] = (28, 16, 9)  #: cells in u, w, 1/r
    candidates: int = 6  #: peaks of the grid that are compared
    finalists: int = 2  #: of these, the ones that are refined alone
    candidate_iterations: int = 3
    joint_iterations: int = 4
    final_iterations: int = 6
    attempts: int = 6  #: exchanges and splits a scene may try
    passes: int = 3  #: over growing and improving
    queue: int = 16  #: scenes a round, at least; a quarter of the batch if that is more


class Task(NamedTuple):
    """A scene, what is asked of it and how far it is."""

    observation: likelihood.Observation
    least: Int[Array, ""]  #: sources
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
    amplitudes: int  #: free complex ones of a source
    options: SearchOptions

    def significant(self, task: Task, new: Fit) -> Bool[Array, ""]:
        """Whether the new fit has a source more for good reason."""
        energy = task.observation.energy
        statistic = model_order.statistic(
            jnp.maximum(energy - task.fit.local.value, 0.0) + _ROUNDING * energy,
            jnp.maximum(energy - new.local.value, 0.0) + _ROUNDING * energy,
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


class Change(NamedTuple):
    """Sources to refine instead of the present ones, and what they cost beside their energy."""

    coordinates: Float[Array, "K 3"]
    active: Float[Array, "K"]
    price: Float[Array, ""]


def propose_changes(search: Search, task: Task) -> Change:
    """The present sources; one of them elsewhere; and one of them as two, stacked, [3, ...].

    The second half of a split source takes a free place while there may be more sources, else
    that of the weakest one.
    """
    fit, observation = task.fit, task.observation
    index = jnp.arange(fit.active.shape[0])
    present = fit.active > 0
    count = jnp.sum(fit.active).astype(int)

    def without(k):
        held = refinement.background(observation, fit, k)
        asked = search.setting, search.grid, observation, held, fit.coordinates[k]
        elsewhere = proposals.propose_elsewhere(*asked, candidates=search.options.candidates)
        return elsewhere, proposals.propose_pair(*asked), fit.local.value - held.value

    elsewhere, pair, loss = jax.vmap(without)(index)
    moved = jnp.argmax(jnp.where(present, elsewhere.gain - loss, -jnp.inf))
    room = count < task.most
    second = jnp.where(room, count, jnp.argmin(jnp.where(present, loss, jnp.inf)))
    halved = jnp.argmax(jnp.where(present & (index != second), pair.gain - loss, -jnp.inf))

    column = index[:, None]
    after_move = jnp.where(column == moved, elsewhere.coordinates[moved], fit.coordinates)
    after_split = jnp.where(column == halved, pair.coordinates[halved, 0], fit.coordinates)
    after_split = jnp.where(column == second, pair.coordinates[halved, 1], after_split)
    with_second = jnp.maximum(fit.active, (index == second).astype(fit.active.dtype))
    # A source more is worth its while when it brings what chance alone would not.
    dearer = jnp.where(room, _PRICE * search.noise_variance(task), 0.0)
    return Change(
        jnp.stack([fit.coordinates, after_move, after_split]),
        jnp.stack([fit.active, fit.active, with_second]),
        jnp.stack([jnp.zeros(()), jnp.zeros(()), dearer]),
    )


def improve(search: Search, task: Task) -> tuple[Task, Bool[Array, ""]]:
    """Refines the sources and changes of them; returns the task and whether a change was better."""
    changes = propose_changes(search, task)
    fits = jax.vmap(
        lambda change: refinement.refine(
            search.setting,
            task.observation,
            change.coordinates,
            change.active,
            search.options.final_iterations,
        )
    )(changes)
    same = jax.tree.map(lambda leaf: leaf[0], fits)
    best = jnp.argmax(fits.local.value - changes.price)
    new = jax.tree.map(lambda leaf: leaf[best], fits)
    count = jnp.sum(task.fit.active)
    better = new.local.value > same.local.value + _TOLERANCE * search.noise_variance(task)
    added = jnp.sum(new.active) > count
    better &= ~added | (count < task.least) | search.significant(task, new)
    better &= count > 0
    task = task._replace(fit=_where(better, new, same), attempts=task.attempts + 1)
    return task, better & (task.attempts < search.options.attempts)


def _losses(task: Task) -> Float[Array, "K"]:
    """The energy that each source explains beyond the others in their places; absent: infinite."""
    held = refinement.background(task.observation, task.fit)
    variances = jnp.diagonal(held.inverse_gram, axis1=1, axis2=2).real
    losses = jnp.sum(jnp.abs(task.fit.local.amplitudes) ** 2 / variances, axis=0)
    return jnp.where(task.fit.active > 0, losses, jnp.inf)


def doubtful(search: Search, task: Task) -> Bool[Array, ""]:
    """Whether a source may be one too many: it is weak, or two are close to each other."""
    fit = task.fit
    # Noise explains its variance for every amplitude.
    least = _BEYOND_DOUBT + 2.0 * (search.amplitudes - 1)
    weak = jnp.min(_losses(task)) < least * search.noise_variance(task)
    apart = (fit.coordinates[:, None] - fit.coordinates) / search.grid.unit
    pairs = jnp.triu(jnp.outer(fit.active, fit.active), 1) > 0
    close = jnp.any(pairs & (jnp.sum(apart**2, axis=-1) < _CLOSE**2))
    return (jnp.sum(fit.active) > jnp.maximum(task.least, 1)) & (weak | close)


def prune(search: Search, task: Task) -> tuple[Task, Bool[Array, ""]]:
    """Takes the weakest source out if the others, put right, explain the data about as well.

    It may have been added for what others, not yet in their places, had left of the data.
    Returns the task and whether it went.
    """
    fit = task.fit
    index = jnp.arange(fit.active.shape[0])
    left = jnp.maximum(jnp.sum(fit.active).astype(int) - 1, 0)
    # The last one takes its slot: those that are present come first.
    taken = index == jnp.argmin(_losses(task))
    fewer = refinement.refine(
        search.setting,
        task.observation,
        jnp.where(taken[:, None], fit.coordinates[left], fit.coordinates),
        (index < left).astype(fit.active.dtype),
        search.options.joint_iterations,
    )
    fewer = improve(search, task._replace(least=left, most=left, fit=fewer))[0].fit
    gone = (left >= task.least) & ~search.significant(task._replace(fit=fewer), fit)
    return task._replace(fit=_where(gone, fewer, fit)), gone


def work_off(
    step: Callable[[Task], tuple[Task, Bool[Array, ""]]],
    tasks: Task,
    open_tasks: Bool[Array, "B"],
    size: int,
) -> tuple[Task, Bool[Array, "B"]]:
    """Steps all open tasks until each says that it is done.

    Args:
      step: returns a task and whether it is to be stepped again.
      tasks: of a batch.
      open_tasks: [B], which of them to step.
      size: at least so many of them a round, if there are; a quarter of the batch if that is more.

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
    """Grows and improves every scene of a batch until nothing changes, or `passes` times."""
    options = search.options

    def one_pass(carry):
        tasks, open_tasks, passes = carry
        growing = open_tasks & (tasks.most > 0)
        tasks, _ = work_off(functools.partial(grow, search), tasks, growing, options.queue)
        tasks, improved = work_off(
            functools.partial(improve, search), tasks, growing, options.queue
        )
        in_doubt = growing & jax.vmap(functools.partial(doubtful, search))(tasks)
        tasks, pruned = work_off(functools.partial(prune, search), tasks, in_doubt, options.queue)
        return tasks, improved | pruned, passes + 1

    start = (tasks, jnp.ones(tasks.least.shape, bool), 0)
    return jax.lax.while_loop(
        lambda carry: jnp.any(carry[1]) & (carry[2] < options.passes), one_pass, start
    )[0]
