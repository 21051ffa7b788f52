"""Figures of suites, each with the Cramér-Rao bound."""

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ris_jax.benchmarks.suites import Suite
from ris_jax.estimation.baselines.catalogue import METHODS
from ris_jax.reports import localization_figures

# With fewer found, the errors are those of a few chance estimates within the gate.
_ENOUGH = 0.5
_PANELS = (
    ("azimuth_rmse_deg", "azimuth_bound_deg", "azimuth RMSE [deg]"),
    ("range_rmse_m", "range_bound_m", "range RMSE [m]"),
)
_SHARE_LABELS = {"detected": "sources found", "resolved": "scenes resolved"}
_LEGEND_COLUMNS = 4
_MARKERS = "osv^DPX*<>hp"

Rows = list[dict[str, Any]]


def image(figure: Figure, form: str) -> bytes:
    """Return the figure as a file in a format that matplotlib supports, png or pdf."""
    buffer = io.BytesIO()
    # Without a date, the same numbers give the same file.
    metadata = {"CreationDate": None} if form == "pdf" else {}
    figure.savefig(buffer, format=form, dpi=110, metadata=metadata)
    return buffer.getvalue()


def _series(rows: Rows) -> Iterator[tuple[int, str, Rows]]:
    """Yield number, legend and rows of every estimator, in the order of the rows."""
    for number, name in enumerate(dict.fromkeys(row["estimator"] for row in rows)):
        own = [row for row in rows if row["estimator"] == name]
        # If both cases are present, the axis names them.
        known = all(row["count_given"] for row in own)
        yield number, f"{name}, K known" if known else name, own


def _style(number: int, name: str) -> dict[str, Any]:
    ours = METHODS[name.split(",")[0]].counts
    return {
        "color": f"C{number % 10}",
        "marker": _MARKERS[number % len(_MARKERS)],
        "ms": 5 if ours else 4,
        "lw": 1.8 if ours else 1.0,
        "label": name.replace("_", " "),
    }


def _draw(axes: Axes, column: str, rows: Rows, style: dict[str, Any], lines: bool) -> None:
    places = np.array([row["value"] for row in rows], float)
    values, low, high = (
        np.array([row[column + end] for row in rows], float) for end in ("", "_lower", "_upper")
    )
    if not column.startswith(tuple(_SHARE_LABELS)):
        enough = np.array([row["detected"] for row in rows]) >= _ENOUGH
        values = np.where(enough, values, np.nan)
    spread = np.abs(np.stack([values - low, high - values]))
    axes.errorbar(places, values, spread, ls="-" if lines else "none", capsize=2, elinewidth=0.8,
                  **style)  # fmt: skip


def _bound(axes: Axes, column: str, rows: Rows, lines: bool) -> None:
    """Draw the bound of the sources that the first estimator found."""
    name = rows[0]["estimator"]
    own = [row for row in rows if row["estimator"] == name]
    own = list({row["value"]: row for row in own}.values())
    places, values = (np.array([row[of] for row in own], float) for of in ("value", column))
    style = {"color": "k", "zorder": 5, "lw": 1.5, "label": "Cramér-Rao bound"}
    if lines:
        axes.plot(places, values, ls="--", **style)
    else:
        axes.hlines(values, places - 0.4, places + 0.4, **style)


def _logarithmic(axes: Axes, name: str) -> None:
    """Label 1, 2 and 5 of every decade with plain numbers."""
    axes.set(**{f"{name}scale": "log"})
    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")


def compared(suite: Suite, rows: Rows) -> Figure:
    """Draw errors of azimuth and range with the bound, and the fraction found.

    No error is drawn if an estimator finds fewer than half of the sources.

    Args:
      suite: its labels.
      rows: `value`, `label`, `estimator`, `count_given` and the columns of `summary.HEADER`.
    """
    lines = suite.figure == "lines"
    series = list(_series(rows))
    lines_of_legend = -(-(len(series) + 1) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(10.5, 4.4 + 0.2 * lines_of_legend), layout="constrained")
    panels = figure.subplots(1, 3)
    for number, name, own in series:
        # Side by side if the cells have no order.
        aside = 0.0 if lines else 0.5 * ((number + 0.5) / len(series) - 0.5)
        moved = [row | {"value": row["value"] + aside} for row in own]
        columns = [column for column, _, _ in _PANELS] + [suite.share]
        for axes, column in zip(panels, columns, strict=True):
            _draw(axes, column, moved, _style(number, name), lines)
    for axes, (_, bound, label) in zip(panels, _PANELS, strict=False):
        _bound(axes, bound, rows, lines)
        axes.set_ylabel(label)
        _logarithmic(axes, "y")
    panels[2].set(ylabel=f"fraction of {_SHARE_LABELS[suite.share]}", ylim=(-0.03, 1.03))
    for axes in panels:
        axes.set_xlabel(suite.axis)
        axes.grid(alpha=0.3, which="both")
        if not lines:
            labels = {row["value"]: row["label"] for row in rows}
            axes.set_xticks(list(labels), list(labels.values()), rotation=25, ha="right")
    figure.suptitle(suite.title, fontsize="medium")
    handles, names = panels[0].get_legend_handles_labels()
    columns = min(len(names), _LEGEND_COLUMNS)
    pairs = [(row[column], row[bound]) for row in rows for column, bound, _ in _PANELS]
    below = any(rmse < bound for rmse, bound in pairs)
    # The note is the title of the legend: a label of the figure would overlap it.
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize="small",
                  frameon=False, title=localization_figures.BELOW_BOUND if below else None,
                  title_fontsize="small")  # fmt: skip
    return figure


def heat_map(suite: Suite, rows: Rows) -> Figure:
    """Draw every estimator's RMSE above the bound, and the fraction of sources found."""
    series = list(_series(rows))
    figure = Figure(figsize=(12.0, 0.6 + 2.5 * len(series)), layout="constrained")
    places = figure.subplots(len(series), 3, squeeze=False)
    for line, (_, name, own) in zip(places, series, strict=True):
        drawn = (
            ("azimuth_above_bound_db", "azimuth RMSE above\nthe bound [dB]", 0, 20, "viridis"),
            ("range_above_bound_db", "range RMSE above\nthe bound [dB]", 0, 20, "viridis"),
            ("detected", "fraction of\nsources found", 0, 1, "Blues"),
        )
        for axes, (column, label, low, high, colours) in zip(line, drawn, strict=True):
            table = _table(own, column)
            shown = axes.imshow(table, vmin=low, vmax=high, cmap=colours, aspect="auto",
                                origin="lower")  # fmt: skip
            for (row, place), value in np.ndenumerate(table):
                light = (value - low > (high - low) / 2) == (column == "detected")
                text = f"{value:.1f}" if high > 1 else f"{value:.2f}"
                axes.text(place, row, text, ha="center", va="center", fontsize="small",
                          color="w" if light else "k")  # fmt: skip
            figure.colorbar(shown, ax=axes, label=label)
            _ticks(axes, own)
            axes.set(xlabel=suite.axis, ylabel="sources", title=name.replace("_", " "))
    above = [row[f"{name}_above_bound_db"] for row in rows for name in ("azimuth", "range")]
    localization_figures.explain_below_bound(figure, any(level < 0 for level in above))
    return figure


def _ticks(axes: Axes, rows: Rows) -> None:
    columns, lines = (sorted({row[name] for row in rows}) for name in ("value", "series"))
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(lines)), [f"{value:g}" for value in lines])


def _table(rows: Rows, column: str) -> np.ndarray:
    """Return [series, value] of a column."""
    columns, lines = (sorted({row[name] for row in rows}) for name in ("value", "series"))
    found = {(row["series"], row["value"]): row[column] for row in rows}
    return np.array([[found.get(pair, np.nan) for pair in itertools.product([s], columns)]
                     for s in lines], float)  # fmt: skip


def runtime(suite: Suite, rows: Rows) -> Figure:
    """Draw time per scene against azimuth error, with the bound, for three numbers of sources."""
    values = sorted({row["value"] for row in rows})
    shown = sorted({values[0], values[len(values) // 2], values[-1]})
    figure = Figure(figsize=(1.8 + 3.3 * len(shown), 3.8), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, value in zip(panels, shown, strict=True):
        cell = [row for row in rows if row["value"] == value]
        for number, name, own in _series(cell):
            _, column, _ = _PANELS[0]
            style = _style(number, name) | {"ls": "none"}
            axes.plot([row["ms_per_scene"] for row in own],
                      [row["azimuth_rmse_deg"] for row in own], **style)  # fmt: skip
        axes.axhline(cell[0][column], color="k", ls="--", lw=1.2,
                     label="Cramér-Rao bound")  # fmt: skip
        axes.set(xlabel="time per scene [ms]", title=cell[0]["label"])
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("azimuth RMSE of the sources found [deg]")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize="small", frameon=False)
    figure.suptitle(suite.title, fontsize="medium")
    return figure


DRAWING = {"bars": compared, "lines": compared, "heat_map": heat_map, "runtime": runtime}
