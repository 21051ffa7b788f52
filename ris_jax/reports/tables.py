"""Tables as text, CSV, LaTeX and Markdown."""

import csv
import io
from collections.abc import Sequence

import numpy as np

Row = Sequence[str | int | float | None]


def cell(value: str | int | float | None) -> str:
    """Format a value for display; unknown values are a dash."""
    if value is None or value != value:  # not a number
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def as_text(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return columns of equal width, right-aligned."""
    cells = [list(header), *[[cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_csv(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return comma-separated values with a header line, numbers at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def as_latex(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a `tabular` environment in booktabs style."""

    def line(cells):
        return " & ".join(c.replace("_", r"\_").replace("%", r"\%") for c in cells) + r" \\"

    body = [line([cell(value) for value in row]) for row in rows]
    frame = r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}"
    return "\n".join(
        [frame, r"\toprule", line(header), r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    )


def as_markdown(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table in GitHub's Markdown."""
    lines = [list(header), ["---"] * len(header), *[[cell(value) for value in r] for r in rows]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def with_interval(value: float, lower: float, upper: float) -> str:
    """Format a cell with three significant digits: `0.858 [0.799, 0.905]`."""
    if np.isnan(value):
        return "-"
    return f"{value:.3g} [{lower:.3g}, {upper:.3g}]"


def percent(value: float) -> str:
    """Format a fraction as a percentage with one digit after the point: `85.8%`."""
    return "-" if np.isnan(value) else f"{value:.1%}"


def significant(value: float) -> str:
    """Format a cell with three significant digits."""
    return "-" if np.isnan(value) else f"{value:.3g}"
