"""Outcome of every trial for any order of lost workers."""

import optuna
import pytest
from optuna.trial import TrialState

from ris_jax.tuning import ledger

W, R, C, P, F = (
    TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
)  # fmt: skip


def _trials(*described):
    """Create trials of (state, attributes), numbered in order."""
    found = []
    for number, (state, attributes) in enumerate(described):
        value = 1.0 / (1 + number) if state is C else None
        trial = optuna.trial.create_trial(state=state, user_attrs=attributes, value=value)
        trial.number = number
        found.append(trial)
    return found


def _outcomes(trials, count=3, retries=2):
    found = ledger.places(trials, count, retries)
    return [(place.number, place.last.number, place.outcome) for place in found]


def _retry(number):
    return {"retry_of": number}


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], []),
        (
            [(C, {}), (P, {}), (R, {})],
            [(0, 0, "complete"), (1, 1, "pruned"), (2, 2, "running")],
        ),
        ([(F, {"failure": "lost"}), (W, {})], [(0, 0, "failed"), (1, 1, "waiting")]),
        ([(F, {})], [(0, 0, "lost")]),
        # Taken over, twice; a third retry is not allowed.
        ([(F, {}), (R, _retry(0))], [(0, 1, "running")]),
        ([(F, {}), (F, _retry(0)), (F, _retry(1))], [(0, 2, "abandoned")]),
        ([(F, {}), (F, _retry(0)), (C, _retry(1))], [(0, 2, "complete")]),
        # Two workers queued the same retry: the second has no place.
        ([(F, {}), (W, _retry(0)), (W, _retry(0))], [(0, 1, "waiting")]),
        # Two workers requested the last place: the later has none.
        ([(C, {}), (C, {}), (C, {}), (R, {})], [(n, n, "complete") for n in range(3)]),
        # Retries do not use up places.
        (
            [(F, {}), (C, _retry(0)), (C, {}), (C, {})],
            [(0, 1, "complete"), (1, 2, "complete"), (2, 3, "complete")],
        ),
    ],
)
def test_outcomes(trials, expected):
    found = _trials(*trials)
    assert _outcomes(found) == expected
    assert _outcomes(found[::-1]) == expected  # the order in the storage does not matter


def test_a_trial_without_a_place_gets_one_when_the_search_grows():
    trials = _trials((C, {}), (F, {}))
    assert _outcomes(trials, count=1) == [(0, 0, "complete")]
    assert _outcomes(trials, count=2)[1] == (1, 1, "lost")


def test_place_of():
    found = ledger.places(_trials((F, {}), (R, _retry(0)), (R, _retry(0)), (R, {})), 1, 2)
    assert ledger.place_of(1, found) is found[0]
    assert [ledger.place_of(number, found) for number in (0, 2, 3)] == [None] * 3


def test_texts():
    trials = _trials((C, {}), (F, {"failure": "why"}), (F, {}), (F, _retry(2)), (P, _retry(3)))
    found = ledger.places(trials, 3, 2)
    assert ledger.summary(found) == ("3 trials: 1 complete, 1 failed, 1 pruned; 2 restarted")
    assert [place.reason for place in found] == ["", "why", ""]
    (gone,) = ledger.places(_trials((F, {}), (F, _retry(0))), 1, 1)
    assert gone.reason == "its worker was lost 2 times"


def test_best():
    found = ledger.places(_trials((C, {}), (C, {}), (P, {})), 3, 2)
    down, up = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    assert ledger.best(found, down) is found[1]
    assert ledger.best(found, up) is found[0]
    assert ledger.best(found[2:], down) is None
