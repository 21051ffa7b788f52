"""Figures of a run's rows and scores. The functions draw given numbers and compute nothing."""

import math
import pathlib
from typing import Any

from matplotlib.figure import Figure

from ris_jax.reports import localization_figures, provenance
from ris_jax.reports.run.covariance_scores import HEADER
from ris_jax.training.saving import metrics_log

_BARS = {"network": "C0", "snapshots": "C1", "constant": "0.65"}  # and their colours


def loss_curves(rows: list[dict[str, Any]]) -> Figure:
    """Draw loss and NMSE of training and held-out scenes by epoch, with the baselines' NMSE.

    Args:
      rows: rows of `metrics.jsonl`; null values are not drawn.
    """
    epochs = [row for row in rows if row["kind"] == "epoch"]
    held_out = [row for row in rows if row["kind"] in ("start", "epoch")]
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 2)
    windows = [row for row in rows if row["kind"] == "microbatch" and "window_loss" in row]
    if epochs and (per_epoch := epochs[-1].get("microbatches")):
        places = [row["microbatch"] / per_epoch for row in windows]
        label = "training scenes, in windows"
        panels[0].plot(places, _column(windows, "window_loss"), color="0.75", lw=1, label=label)
    for axes, name in zip(panels, ("loss", "nmse"), strict=True):
        for what, chosen, style in (("train", epochs, "C0o-"), ("val", held_out, "C1s-")):
            label = "training scenes" if what == "train" else "held-out scenes"
            places = [row["epoch"] for row in chosen]
            axes.plot(places, _column(chosen, f"{what}_{name}"), style, ms=3, label=label)
    if epochs:
        for name, style in (("snapshots", "--"), ("constant", ":")):
            label = "best constant" if name == "constant" else name
            (level,) = _column(epochs[-1:], f"{name}_nmse")
            panels[1].axhline(level, color="0.4", ls=style, lw=1, label=label)
    panels[0].set(xlabel="epoch", ylabel="loss")
    panels[1].set(xlabel="epoch", ylabel="covariance NMSE", yscale="log")
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    return figure


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [math.nan if row.get(name) is None else row[name] for row in rows]


def covariance_score_bars(rows: list[tuple]) -> Figure:
    """Draw NMSE of network, snapshots and constant, by number of sources and by SNR.

    Args:
      rows: of `covariance_scores.HEADER`.
    """
    labels = [row[0] for row in rows]
    columns = {name: [row[HEADER.index(name)] for row in rows] for name in _BARS}
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(columns)
    for number, (name, values) in enumerate(columns.items()):
        places = [place + (number - 1) * width for place in range(len(rows))]
        axes.bar(places, values, width, label=name, color=_BARS[name])
    axes.set_xticks(range(len(rows)), labels, rotation=30, ha="right")
    axes.set(ylabel="covariance NMSE", yscale="log")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(columns))
    return figure


def _save(figure: Figure, workdir: pathlib.Path, name: str) -> pathlib.Path:
    path = workdir / "figures" / name
    path.parent.mkdir(exist_ok=True)
    provenance.write_whole(path, localization_figures.png(figure))
    return path


def save_loss_curves(workdir: pathlib.Path) -> pathlib.Path:
    """Draw a run's loss curves into `figures/loss.png`; return the path."""
    return _save(loss_curves(metrics_log.read_rows(workdir)), workdir, "loss.png")


def save_covariance_scores(workdir: pathlib.Path, rows: list[tuple]) -> pathlib.Path:
    """Draw the rows of an evaluation into `figures/covariance_scores.png`; return the path."""
    return _save(covariance_score_bars(rows), workdir, "covariance_scores.png")
