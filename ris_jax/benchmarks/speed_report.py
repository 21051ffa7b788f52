"""Figures and tables of rates."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ris_jax.reports import tables

READING = (
    "Rates have 95 % intervals (Student's, over the calls in two seconds), without compilation. "
    "Operations and bytes are the compiler's counts, except matrix products and the likelihood's "
    "search (ris_jax/benchmarks/operations.py). Loops of data-dependent length count once, and all "
    "loops count once in bytes, so that these counts are lower bounds. Bytes served from caches "
    "count in full, so that their fraction of the copy rate may exceed one. Estimators that can "
    "estimate the number of sources do. network: without the search for ambiguous scenes."
)
_AXES = {"N": "elements N", "L": "codes L", "K": "sources K", "grid": "cells of the grid",
         "batch": "scenes at once"}  # fmt: skip


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw rates of all stages; if sizes vary, rates over each size."""
    return _growth_figure(rows) if any(row["varies"] for row in rows) else _stages_figure(rows)


def _stages_figure(rows: list[dict[str, Any]]) -> Figure:
    drawn = Figure(figsize=(8.0, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    rates = np.array([[row["scenes_per_second" + end] for end in ("", "_lower", "_upper")]
                      for row in rows])  # fmt: skip
    spread = np.abs(rates[:, 1:] - rates[:, :1]).T
    axes.barh([row["stage"].replace("_", " ") for row in rows], rates[:, 0],
              xerr=np.where(np.isfinite(spread), spread, 0.0), capsize=2)  # fmt: skip
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="scenes/s")
    axes.grid(alpha=0.3, axis="x", which="both")
    return drawn


def _growth_figure(rows: list[dict[str, Any]]) -> Figure:
    sizes = [size for size in _AXES if any(row["varies"] == size for row in rows)]
    drawn = Figure(figsize=(1.0 + 2.4 * len(sizes), 3.8), layout="constrained")
    panels = drawn.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    for axes, size in zip(panels, sizes, strict=True):
        for number, stage in enumerate(stages):
            # The base has scenes of several K, so it is no point on this axis.
            points = sorted((_number(row[size]), row["scenes_per_second"]) for row in rows
                            if row["stage"] == stage and (row["varies"] == size or
                            (not row["varies"] and size != "K")))  # fmt: skip
            if len(points) > 1:
                axes.plot(*zip(*points, strict=True), "o-", ms=4, color=f"C{number}")
        axes.set(xscale="log", yscale="log", xlabel=_AXES[size])
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("scenes/s")
    for number, stage in enumerate(stages):
        panels[0].plot([], [], "o-", ms=4, color=f"C{number}", label=stage.replace("_", " "))
    drawn.legend(loc="outside upper center", ncols=len(stages), frameon=False)
    return drawn


def _number(size: Any) -> float:
    """Return a size on an axis; for a grid, its number of cells."""
    return float(np.prod([int(part) for part in str(size).split("x")]))


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells with three significant digits."""
    header = ["stage", "N", "L", "K", "grid", "batch", "scenes/s", "scenes/core-s", "compile [s]",
              "Mflop/scene", "MB/scene", "% of matrix rate", "% of copy rate"]  # fmt: skip
    body = []
    for row in rows:
        ends = ("", "_lower", "_upper")
        numbers = (
            row["scenes_per_core_second"], row["compile_seconds"],
            row["operations_per_scene"] / 1e6, row["bytes_per_scene"] / 1e6,
            100 * row["share_of_matrix_rate"], 100 * row["share_of_copy_rate"],
        )  # fmt: skip
        rate = tables.with_interval(*(row["scenes_per_second" + end] for end in ends))
        sizes = [str(row[name]) for name in ("stage", "N", "L", "K", "grid", "batch")]
        body.append([*sizes, rate, *map(tables.significant, numbers)])
    return header, body
