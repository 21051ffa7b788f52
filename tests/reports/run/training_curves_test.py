"""Figures of a run's rows."""

import numpy as np

from ris_jax.reports.run import training_curves


def _row(kind, epoch, train, val):
    yardsticks = {"snapshots_nmse": 1.2, "constant_nmse": 0.9, "microbatches": 10}
    scores = {"train_nmse": train, "val_nmse": val, "train_loss": 2 * train, "val_loss": 2 * val}
    return {"kind": kind, "epoch": epoch} | scores | yardsticks


def test_loss_curves():
    rows = [
        {"kind": "start", "epoch": 0, "val_nmse": 1.4, "val_loss": 2.8},
        {"kind": "microbatch", "epoch": 1, "microbatch": 5, "window_loss": 1.5},
        _row("epoch", 1, 0.5, 0.4),
        {"kind": "microbatch", "epoch": 2, "microbatch": 15, "window_loss": None},
        _row("epoch", 2, 0.3, 0.25),
    ]
    loss, nmse = training_curves.loss_curves(rows).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in nmse.lines}
    assert drawn == {
        "training scenes": [0.5, 0.3],
        "held-out scenes": [1.4, 0.4, 0.25],
        "snapshots": [1.2, 1.2],
        "best constant": [0.9, 0.9],
    }
    assert nmse.get_ylabel() == "covariance NMSE"
    windows, train, held_out = loss.lines
    np.testing.assert_array_equal(windows.get_xydata(), [[0.5, 1.5], [1.5, np.nan]])
    assert list(train.get_ydata()) == [1.0, 0.6]
    assert list(held_out.get_xydata()[0]) == [0.0, 2.8]


def test_loss_curves_before_the_first_epoch():
    loss, _ = training_curves.loss_curves(
        [{"kind": "microbatch", "epoch": 1, "microbatch": 5}]
    ).axes
    assert all(not len(line.get_xdata()) for line in loss.lines)


def test_loss_curves_of_incomplete_rows():
    rows = [
        {"kind": "epoch", "epoch": 1, "val_nmse": 0.5},
        {"kind": "microbatch", "epoch": 1, "microbatch": 4, "window_loss": 1.0},
    ]
    panels = training_curves.loss_curves(rows).axes
    held_out = {line.get_label(): line.get_ydata()[0] for line in panels[1].lines}
    assert held_out["held-out scenes"] == 0.5
