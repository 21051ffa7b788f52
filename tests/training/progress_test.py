"""Means over microbatches do not depend on interruptions."""

import json
import math

import numpy as np
import pytest

from ris_jax.config import TrainingConfig
from ris_jax.training import progress


def _rows(count=200):
    random = np.random.default_rng(0)
    losses = np.float32(random.lognormal(sigma=8.0, size=(count, 2)))
    return [
        {"finite": n % 7 != 3, "update_applied": n % 3 == 2, "loss": a.item(), "nmse": b.item()}
        for n, (a, b) in enumerate(losses)
    ]


def _saved(here):
    return progress.Progress.from_json(json.loads(json.dumps(here.to_json())))


def test_means_do_not_depend_on_where_a_tally_was_saved():
    rows = _rows()
    tally = progress.Tally()
    for number, row in enumerate(rows):
        tally = tally.plus(row)
        if number % 23 == 0:
            tally = _saved(progress.Progress(so_far=tally)).so_far
    finite = [row for row in rows if row["finite"]]
    assert tally.epoch_row() == {
        "train_loss": sum(row["loss"] for row in finite) / len(finite),
        "train_nmse": sum(row["nmse"] for row in finite) / len(finite),
        "microbatches": 200,
        "updates": 66,
        "skipped": 29,
    }


def test_exact_fractions_of_earlier_versions():
    values = progress.Progress().to_json() | {
        "so_far": {"microbatches": 2, "finite": 2, "updates": 1, "loss": "3/8", "nmse": "5"}
    }
    assert progress.Progress.from_json(values).so_far == progress.Tally(2, 2, 1, 0.375, 5.0)


def test_non_finite_values():
    row = {"finite": True, "update_applied": True, "loss": 1.0, "nmse": math.inf}
    tally = progress.Tally().plus(row | {"nmse": 2.0}).plus(row)
    assert _saved(progress.Progress(window=tally)).window == tally
    assert math.isnan(tally.epoch_row()["train_nmse"])
    assert tally.mean_loss == 1.0
    assert math.isnan(progress.Tally().plus(row | {"finite": False}).mean_loss)


@pytest.mark.parametrize("best", [math.inf, 0.1 + 0.2])
def test_progress_round_trip(best):
    here = progress.Progress(3, 2, best, {"identity": "a", "iterator": {"next_index": 4}})
    for row in _rows(5):
        here = here.plus(row)
    assert _saved(here) == here
    assert here.microbatches(TrainingConfig(steps_per_epoch=50)) == 155
    assert here.place(TrainingConfig(epochs=8, steps_per_epoch=50)) == (
        "microbatch 5 of 50 in epoch 4 of 8"
    )


def test_progress_of_versions_without_tallies():
    old = {"epoch": 3, "best_epoch": 2, "best_val_nmse": 0.5, "data": None}
    assert progress.Progress.from_json(old) == progress.Progress(3, 2, 0.5)


@pytest.mark.parametrize(
    "values", [None, 3, {"epoch": "3"}, {"epochs": 3}, {"so_far": {"loss": "a/b"}},
               {"window": {"nmse": "1/0"}}, {"so_far": [1]}],
)  # fmt: skip
def test_invalid_progress(values):
    with pytest.raises(ValueError, match=r"."):
        progress.Progress.from_json(values)
