"""Results of the suites for a paper: tables (CSV, LaTeX), figures (PNG, PDF) and a README."""

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ris_jax.accuracy import statistics
from ris_jax.benchmarks import figures, summary
from ris_jax.benchmarks.accuracy import Runner, is_count_given
from ris_jax.benchmarks.suites import NAMES, SPEED, SUITES, Cell, Suite
from ris_jax.reports import provenance, tables
from ris_jax.reports.localization_scores import PARAMETERS

_WHO = ("label", "value", "series", "estimator", "count_given")
_TIMES = ("ms_per_scene", "ms_per_scene_lower", "ms_per_scene_upper")
HEADER = (*_WHO, *summary.HEADER, *_TIMES)
# Probability of resolution above which an estimator is compared with the bound.
_RESOLVED = 0.9
_INDEX = "index.json"


def header_of(suite: Suite) -> tuple[str, ...]:
    """Return the columns of a suite's table."""
    return HEADER + summary.PREDICTED * suite.mismatch


def rows_of(
    suite: Suite, runner: Runner, report: Callable[[str], Any] = lambda _: None
) -> list[dict[str, Any]]:
    """Return rows of `header_of`, one per cell and estimator; missing results are computed.

    Args:
      suite: its cells.
      runner: the estimators.
      report: called with a line of text for each row.
    """
    rows, cells = [], suite.cells(runner.plan.config)
    for number, cell in enumerate(cells, start=1):
        for estimator in runner.plan.estimators:
            began = time.monotonic()
            row = {
                "label": cell.label,
                "value": cell.value,
                "series": cell.series,
                "estimator": estimator,
                "count_given": is_count_given(cell, estimator),
            }
            row |= summary.summarise(runner.outcome(cell, estimator, mismatch=suite.mismatch))
            rows.append(row | _times(suite, runner, cell, estimator))
            spent = time.monotonic() - began
            report(f"{suite.name}, cell {number} of {len(cells)}, {estimator}: {spent:.1f} s")
    return rows


def _times(suite: Suite, runner: Runner, cell: Cell, estimator: str) -> dict[str, float]:
    if suite.figure != "runtime":
        return dict.fromkeys(_TIMES, np.nan)
    spent = 1e3 * runner.seconds(cell, estimator)
    values = float(np.mean(spent)), *statistics.mean_interval(spent)
    return dict(zip(_TIMES, values, strict=True))


def _parts(suite: Suite, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], list]]:
    """Yield title, header and rows of each table; the tables are narrow enough to read."""

    def cells(columns, row):
        beside = (f"{name}_lower" in row for name in columns)
        values = [
            tables.with_interval(*(row[name + end] for end in ("", "_lower", "_upper")))
            if both
            else tables.significant(row[name])
            for name, both in zip(columns, beside, strict=True)
        ]
        return [
            row["label"],
            row["estimator"],
            "known" if row["count_given"] else "estimated",
            *values,
        ]

    first = [*summary.SHARES, *summary.MEANS]
    if suite.figure == "runtime":
        first.append("ms_per_scene")
    groups = [("detection", first)]
    for name, unit, _ in PARAMETERS:
        columns = [f"{name}_rmse_{unit}", f"{name}_bound_{unit}", f"{name}_above_bound_db",
                   f"{name}_median_ratio"]  # fmt: skip
        columns[1:1] = [f"{name}_predicted_{unit}"] * suite.mismatch
        groups.append((f"{name} of the sources found, and their Cramér-Rao bound", columns))
    for title, columns in groups:
        body = [cells(columns, row) for row in rows]
        yield title, [suite.axis, "estimator", "K", *columns], body


def write_suite(
    folder: pathlib.Path, suite: Suite, rows: list[dict[str, Any]], header: str
) -> list[pathlib.Path]:
    """Write tables and figure of a suite; return their paths."""
    comments = [suite.title, f"scenes: {suite.scenes}", *header.splitlines()]
    latex = "".join(
        f"% {title}; 95 % intervals\n{tables.as_latex(columns, body)}"
        for title, columns, body in _parts(suite, rows)
    )
    columns = header_of(suite)
    csv = tables.as_csv(columns, [[row[name] for name in columns] for row in rows])
    figure = figures.DRAWING[suite.figure](suite, rows)
    return write_files(folder, suite.name, comments, csv, latex, figure)


def write_files(
    folder: pathlib.Path, name: str, comments: list[str], csv: str, latex: str, figure: Any
) -> list[pathlib.Path]:
    """Write the four files of a suite, tables headed by the comments; return their paths."""
    contents = {
        f"tables/{name}.csv": "".join(f"# {line}\n" for line in comments) + csv,
        f"tables/{name}.tex": "".join(f"% {line}\n" for line in comments) + latex,
        f"figures/{name}.png": figures.image(figure, "png"),
        f"figures/{name}.pdf": figures.image(figure, "pdf"),
    }
    paths = [folder / path for path in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        provenance.write_whole(path, content)
    return paths


def distance_from_bound(rows: list[dict[str, Any]], estimator: str) -> str:
    """Summarise in one line an estimator's RMSE over the bound where it resolves most scenes."""
    held = [row for row in rows if row["estimator"] == estimator and row["resolved"] > _RESOLVED]
    columns = [f"{name}_above_bound_db" for name, _, _ in PARAMETERS]
    found = [
        (row[column], column.split("_")[0], row)
        for row in held
        for column in columns
        if np.isfinite(row[column])
    ]
    if not found:
        return f"{estimator}: resolves at most {_RESOLVED:.0%} of the scenes in every cell"
    most, name, row = max(found, key=lambda entry: entry[0])
    column = f"{name}_above_bound_db"
    return (
        f"{estimator}: in cells with more than {_RESOLVED:.0%} of the scenes resolved "
        f"({', '.join(row['label'] for row in held)}), RMSE at most {most:.2f} dB above the bound "
        f"({name} at {row['label']}, 95 % interval {row[column + '_lower']:.2f} to "
        f"{row[column + '_upper']:.2f} dB)"
    )


def predictions(rows: list[dict[str, Any]]) -> str:
    """Return a table of measured RMSE, misspecified bound and nominal bound of a suite's rows."""
    header, body = ["hardware", "estimator"], []
    for name, unit, _ in PARAMETERS:
        header += [f"{name} RMSE [{unit}]", "predicted", "bound"]
    header.append("fraction predicted")
    for row in rows:
        values = [
            row[f"{name}_{of}_{unit}"]
            for name, unit, _ in PARAMETERS
            for of in ("rmse", "predicted", "bound")
        ]
        values.append(row["predicted"])
        body.append([row["label"], row["estimator"], *map(tables.significant, values)])
    covered = any(row["predicted"] > 0 for row in rows)
    note = _PREDICTED if covered else _NOT_PREDICTED
    return f"{tables.as_markdown(header, body)}\n{note}"


_PREDICTED = """\
Predicted: misspecified bound of all sources of a scene together, root mean square over a fraction
of the same sources, with the hardware of each scene. It holds for maximum likelihood with a known
number of sources near the true positions. Wrong numbers of sources, sources that are too close for
a linearisation and estimates at the limits of the search are in the RMSE only. The removal of a
static path is not in the prediction; phase-dependent reflection resembles such a path, so that the
RMSE can be lower. Bound: of the assumed hardware."""
_NOT_PREDICTED = """\
Predicted: only for constant signals without a static path and waves with a range; none here."""


def write_index(folder: pathlib.Path, summaries: dict[str, str], header: str) -> pathlib.Path:
    """Write README.md of the directory; it also lists the results of earlier commands.

    Args:
      folder: the results to list.
      summaries: summary of each suite, by name.
      header: settings and machine.

    Returns:
      The path.
    """
    memory = folder / _INDEX
    known: dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
    known |= summaries
    provenance.write_whole(memory, json.dumps(known, indent=1) + "\n")
    parts = {name: known[name] for name in NAMES if name in known}
    text = ["# Benchmark\n", *(f"    {line}" for line in header.splitlines()), "", _READING]
    for name, part in parts.items():
        title = SUITES[name].title if name in SUITES else SPEED[name]
        files = ", ".join(
            f"[{path.rpartition('/')[2]}]({path})"
            for path in (f"tables/{name}.csv", f"tables/{name}.tex", f"figures/{name}.pdf")
        )
        text += [f"## {title}\n", part, "", f"![{title}](figures/{name}.png)\n", f"{files}\n"]
    path = folder / "README.md"
    provenance.write_whole(path, "\n".join(text))
    return path


_READING = """\
Found: the source has an estimate of its own within 5 degrees in azimuth and elevation. Resolved:
as many estimates as sources, and each source's estimate is nearer than 5 degrees and than half the
smallest angle between sources. RMSE and bound (root of the mean variance) are those of the sources
found; the bound in the figures is that of the sources found by the first estimator.
`above_bound_db` is 20 log10 of RMSE over bound. `median_ratio` is the median of |error| over the
bound's standard deviation; missed sources are infinite errors, and an efficient estimator has
0.674. Missed and false sources are in `detected`, `false_per_scene` and `gospa_m` (cutoff 2 m).
Intervals are 95 %: Clopper-Pearson for fractions, Student's for times, percentile bootstrap over
scenes for all others. `count_given`: the number of sources was given to the estimator.
"""
