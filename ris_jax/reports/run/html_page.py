"""HTML pages in one file: embedded images, no scripts, no external resources, all text escaped."""

import base64
import html
from collections.abc import Iterable, Sequence

from ris_jax.reports import tables

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.15rem; margin: 1.8rem 0 0.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid #555; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: 0.6rem; white-space: pre-wrap; font-size: 0.8rem; }
.warning { border-left: 4px solid #b35900; padding-left: 0.6rem; }
@media print { body { margin: 0; max-width: none; } h2, img, table { break-inside: avoid; } }
"""
# The browser blocks every request to another address.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value: object) -> str:
    """Escape text for HTML."""
    return html.escape(str(value), quote=True)


def paragraph(value: object, kind: str = "") -> str:
    """Return a paragraph of plain text; `kind` may be "warning"."""
    return f'<p class="{text(kind)}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def preformatted(value: object) -> str:
    """Return lines of plain text, unformatted."""
    return f"<pre>{text(value)}</pre>"


def listed(values: Iterable[object], kind: str = "") -> str:
    """Return a list of plain texts."""
    return "".join(paragraph(value, kind) for value in values)


def table(header: Sequence[str], rows: Iterable[tables.Row]) -> str:
    """Return a table; numbers are formatted as in `tables.as_text`."""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(tables.cell(value))}</td>" for value in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def image(png: bytes, what: str) -> str:
    """Embed a PNG in the page; `what` is its alternative text."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{text(what)}" src="data:image/png;base64,{data}">'


def folded(summary: str, body: str) -> str:
    """Return HTML that the reader can unfold."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def render(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """Return the page.

    Args:
      title: plain text.
      sections: heading (plain text) and body (HTML from the functions here); sections with an empty
        body are omitted.
    """
    parts = [f"<h2>{text(heading)}</h2>{body}" for heading, body in sections if body]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{text(title)}</h1>{''.join(parts)}</body></html>\n"
    )
