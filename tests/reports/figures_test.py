"""Figures show what the rows say."""

from ris_jax.reports import figures


def _row(kind, epoch, train, val):
    yardsticks = {"snapshots_nmse": 1.2, "constant_nmse": 0.9}
    return {"kind": kind, "epoch": epoch, "train_nmse": train, "val_nmse": val} | yardsticks


def test_loss_curves():
    rows = [
        {"kind": "start", "epoch": 0, "val_nmse": 1.4},
        _row("epoch", 1, 0.5, 0.4),
        {"kind": "microbatch", "epoch": 2},
        _row("epoch", 2, 0.3, 0.25),
    ]
    (axes,) = figures.loss_curves(rows).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {
        "training scenes": [0.5, 0.3],
        "held-out scenes": [1.4, 0.4, 0.25],
        "snapshots": [1.2, 1.2],
        "best constant": [0.9, 0.9],
    }
    assert axes.get_ylabel() == "covariance NMSE"
