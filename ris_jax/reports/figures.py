"""Figures. Each function draws from numbers that are already there and returns or saves them."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.figure  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402

from ris_jax.training import record  # noqa: E402


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


def save_loss_curves(workdir: pathlib.Path) -> pathlib.Path:
    """Draws a run's loss curves into `figures/loss.png`; returns the path."""
    path = workdir / "figures" / "loss.png"
    path.parent.mkdir(exist_ok=True)
    figure = loss_curves(record.read_rows(workdir))
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
