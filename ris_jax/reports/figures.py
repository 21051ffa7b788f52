"""Figures. Each function draws from numbers that are already there and returns or saves them."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.figure
import matplotlib.pyplot as plt

from ris_jax.data import files
from ris_jax.reports.covariance_scores import HEADER
from ris_jax.training import record

_BARS = ("network", "snapshots", "constant")


def loss_curves(rows: list[dict]) -> matplotlib.figure.Figure:
    """NMSE of training and held-out scenes by epoch, between the yardsticks.

    Args:
      rows: rows of `metrics.jsonl`: one of kind `start` and those of kind `epoch`.
    """
    epochs = [row for row in rows if row["kind"] == "epoch"]
    numbers = [row["epoch"] for row in epochs]
    held_out = [row for row in rows if row["kind"] in ("start", "epoch")]
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.plot(numbers, [row["train_nmse"] for row in epochs], "o-", ms=3, label="training scenes")
    axes.plot(
        [row["epoch"] for row in held_out],
        [row["val_nmse"] for row in held_out],
        "s-",
        ms=3,
        label="held-out scenes",
    )
    if epochs:
        axes.axhline(epochs[-1]["snapshots_nmse"], color="0.4", ls="--", lw=1, label="snapshots")
        axes.axhline(epochs[-1]["constant_nmse"], color="0.4", ls=":", lw=1, label="best constant")
    axes.set(xlabel="epoch", ylabel="covariance NMSE", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def covariance_score_bars(rows: list[tuple]) -> matplotlib.figure.Figure:
    """NMSE of network, snapshots and constant, by number of sources and by SNR.

    Args:
      rows: of `covariance_scores.HEADER`.
    """
    labels = [row[0] for row in rows]
    columns = {name: [row[HEADER.index(name)] for row in rows] for name in _BARS}
    figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
    width = 0.8 / len(columns)
    for number, (name, values) in enumerate(columns.items()):
        places = [place + (number - 1) * width for place in range(len(rows))]
        axes.bar(places, values, width, label=name)
    axes.set_xticks(range(len(rows)), labels, rotation=30, ha="right")
    axes.set(ylabel="covariance NMSE", yscale="log")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(columns))
    return figure


def _save(figure: matplotlib.figure.Figure, workdir: pathlib.Path, name: str) -> pathlib.Path:
    path = workdir / "figures" / name
    path.parent.mkdir(exist_ok=True)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:])
    plt.close(figure)
    return path


def save_loss_curves(workdir: pathlib.Path) -> pathlib.Path:
    """Draws a run's loss curves into `figures/loss.png`; returns the path."""
    return _save(loss_curves(record.read_rows(workdir)), workdir, "loss.png")


def save_covariance_scores(workdir: pathlib.Path, rows: list[tuple]) -> pathlib.Path:
    """Draws the rows of an evaluation into `figures/covariance_scores.png`; returns the path."""
    return _save(covariance_score_bars(rows), workdir, "covariance_scores.png")
