"""What became of every trial: a search has places, and a place the trials that tried to fill it.

A trial that fails without a reason of its own was lost with its worker, and another trial with the
same values takes its place. Which trial belongs where follows from the storage alone, whoever
looks and whenever: a worker that is killed between any two writes leaves nothing that the next one
cannot put right.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

# Attributes of a trial.
RETRY_OF = "retry_of"  # number of the trial whose place it takes
FAILURE = "failure"  # why its configuration cannot be trained
LEFT = "left"  # true: its worker was asked to stop, and did so in good order

Outcome = Literal["waiting", "running", "complete", "pruned", "failed", "lost", "abandoned"]
SETTLED: tuple[Outcome, ...] = ("complete", "pruned", "failed", "abandoned")

_OF_STATE: dict[TrialState, Outcome] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """One of the trials that were asked for, with its attempts, the first one first."""

    number: int  # from 0; the same however often, and by how many workers, trials are begun again
    attempts: tuple[FrozenTrial, ...]
    retries: int  # allowed after the first attempt

    @property
    def last(self) -> FrozenTrial:
        """The attempt that counts."""
        return self.attempts[-1]

    @property
    def outcome(self) -> Outcome:
        """What became of it; `lost` needs another attempt, `abandoned` gets none any more."""
        if self.last.state is not TrialState.FAIL:
            return _OF_STATE[self.last.state]
        if FAILURE in self.last.user_attrs:
            return "failed"
        return "lost" if self._losses <= self.retries else "abandoned"

    @property
    def _losses(self) -> int:
        """How many attempts ended with their worker's death; who stops when asked to is no loss."""
        return sum(not trial.user_attrs.get(LEFT) for trial in self.attempts)

    @property
    def reason(self) -> str:
        """Why it has no result; empty where it has one, or may get one."""
        if self.outcome == "abandoned":
            return f"its worker was lost {self._losses} times"
        return self.last.user_attrs.get(FAILURE, "")


def places(trials: Sequence[FrozenTrial], count: int, retries: int) -> list[Place]:
    """The places of a search, by number.

    Args:
      trials: all of a study.
      count: places of the search. Two workers may both ask for the last one: trials past it have
        none, and neither has a second retry of the same trial.
      retries: allowed of each.
    """
    ordered = sorted(trials, key=lambda trial: trial.number)
    successor: dict[int, FrozenTrial] = {}
    for trial in ordered:
        if RETRY_OF in trial.user_attrs:
            successor.setdefault(trial.user_attrs[RETRY_OF], trial)
    found = []
    firsts = [trial for trial in ordered if RETRY_OF not in trial.user_attrs]
    for number, first in enumerate(firsts[:count]):
        attempts = [first]
        while attempts[-1].number in successor:
            attempts.append(successor[attempts[-1].number])
        found.append(Place(number, tuple(attempts), retries))
    return found


def place_of(number: int, found: Sequence[Place]) -> Place | None:
    """The place whose last attempt is the trial of that number, if one's is."""
    return next((place for place in found if place.last.number == number), None)


def summary(found: Sequence[Place]) -> str:
    """Counts of outcomes in words: ``20 trials: 14 complete, 5 pruned, 1 failed``."""
    outcomes = [place.outcome for place in found]
    counts = {name: outcomes.count(name) for name in dict.fromkeys(outcomes)}
    again = sum(len(place.attempts) - 1 for place in found)
    text = f"{len(found)} trial{'s' * (len(found) != 1)}: " + ", ".join(
        f"{n} {name}" for name, n in counts.items()
    )
    return text + f"; {again} begun again" * (again > 0)


def best(found: Sequence[Place], direction: optuna.study.StudyDirection) -> Place | None:
    """The complete place of the best value, the earliest of equals; None where none is complete."""
    sign = -1.0 if direction is optuna.study.StudyDirection.MAXIMIZE else 1.0
    complete = [place for place in found if place.outcome == "complete"]
    return min(complete, key=lambda place: sign * (place.last.value or 0.0), default=None)
