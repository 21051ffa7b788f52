"""Trial ledger: a search has places, and each place holds the trials that tried to fill it.

A failed trial without a recorded reason was lost with its worker; a trial with the same values
takes its place. The place of a trial follows from the storage alone, for every worker at any time.
A worker killed between two writes therefore leaves a storage that the next worker can repair.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

# Attributes of a trial.
RETRY_OF = "retry_of"  # number of the trial that this one repeats
FAILURE = "failure"  # reason why its configuration cannot be trained
LEFT = "left"  # true: its worker stopped on request and in good order

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
    """One of the requested trials, with its attempts in order."""

    number: int  # from 0; the same for all attempts and workers
    attempts: tuple[FrozenTrial, ...]
    retries: int  # allowed after the first attempt

    @property
    def last(self) -> FrozenTrial:
        """The attempt that counts: the latest."""
        return self.attempts[-1]

    @property
    def outcome(self) -> Outcome:
        """Outcome of the last attempt; `lost` is tried again, `abandoned` is not."""
        if self.last.state is not TrialState.FAIL:
            return _OF_STATE[self.last.state]
        if FAILURE in self.last.user_attrs:
            return "failed"
        return "lost" if self._losses <= self.retries else "abandoned"

    @property
    def _losses(self) -> int:
        """Number of attempts that ended with the death of their worker, not by a requested stop."""
        return sum(not trial.user_attrs.get(LEFT) for trial in self.attempts)

    @property
    def reason(self) -> str:
        """Reason why it has no result; empty if it has one or may still get one."""
        if self.outcome == "abandoned":
            return f"its worker was lost {self._losses} times"
        return self.last.user_attrs.get(FAILURE, "")


def places(trials: Sequence[FrozenTrial], count: int, retries: int) -> list[Place]:
    """Group the trials of a search by place.

    Args:
      trials: all of a study.
      count: places of the search. Two workers may both request the last one: further trials have no
        place, and neither has a second retry of the same trial.
      retries: allowed for each place.
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
    """Return the place whose last attempt is this trial, or None."""
    return next((place for place in found if place.last.number == number), None)


def summary(found: Sequence[Place]) -> str:
    """Count the outcomes: ``20 trials: 14 complete, 5 pruned, 1 failed``."""
    outcomes = [place.outcome for place in found]
    counts = {name: outcomes.count(name) for name in dict.fromkeys(outcomes)}
    again = sum(len(place.attempts) - 1 for place in found)
    text = f"{len(found)} trial{'s' * (len(found) != 1)}: " + ", ".join(
        f"{n} {name}" for name, n in counts.items()
    )
    return text + f"; {again} restarted" * (again > 0)


def best(found: Sequence[Place], direction: optuna.study.StudyDirection) -> Place | None:
    """Return the complete place with the best value (the first of equals), or None."""
    sign = -1.0 if direction is optuna.study.StudyDirection.MAXIMIZE else 1.0
    complete = [place for place in found if place.outcome == "complete"]
    return min(complete, key=lambda place: sign * (place.last.value or 0.0), default=None)
