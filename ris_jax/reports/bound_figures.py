"""Figures of the bound: maps from above and from the surface, and curves.

The figures do not use pyplot: they have no global state and need not be closed.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ris_jax.reports.bound_tables import HEADER

_PANELS = (
    ("position_error_m", "position error [m]"),
    ("azimuth_std_deg", "azimuth [deg]"),
    ("elevation_std_deg", "elevation [deg]"),
    ("range_std_m", "range [m]"),
)
_GREY = ListedColormap(["0.75"])  # positions at which a parameter is not identifiable
_DECADES = 3.0  # largest span of the colours


def pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF file without a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file of moderate size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def _column(numbers: np.ndarray, name: str) -> np.ndarray:
    return numbers[..., HEADER.index(name)]


def draw_map(
    axes: Axes,
    across: np.ndarray,
    along: np.ndarray,
    values: np.ndarray,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw colours on a logarithmic scale, a line every factor 10^(1/2); grey where infinite."""
    unknown = np.ma.masked_array(np.ones(values.shape), ~np.isposinf(values))
    axes.pcolormesh(
        across, along, unknown, cmap=_GREY, shading="nearest", vmin=0.0, vmax=1.0, rasterized=True
    )
    known = values[np.isfinite(values)]
    if not known.size:
        axes.text(0.5, 0.5, "not identifiable", transform=axes.transAxes, ha="center")
        return
    low, high = limits or color_limits(known)
    drawn = np.ma.masked_invalid(values)
    mesh = axes.pcolormesh(
        across, along, drawn, norm=LogNorm(low, high), shading="nearest", rasterized=True
    )
    levels = 10.0 ** (np.arange(np.floor(2 * np.log10(low)), 2 * np.log10(high) + 1) / 2)
    levels = levels[(levels > low) & (levels < high)]
    if levels.size:
        lines = axes.contour(across, along, drawn, levels, colors="w", linewidths=0.6)
        axes.clabel(lines, fmt="%.2g", fontsize=6)
    bar = axes.figure.colorbar(mesh, ax=axes, extend="max" if known.max() > high else "neither")
    bar.ax.yaxis.set_major_formatter(_plain)
    bar.ax.yaxis.set_minor_formatter(_plain if high < 8 * low else NullFormatter())


def color_limits(known: np.ndarray) -> tuple[float, float]:
    """Return the smallest and largest finite value, without the few largest ones."""
    low = float(known.min())
    return low, float(max(min(np.quantile(known, 0.995), low * 10**_DECADES), low * 1.05))


def _plain(value: float, _: float = 0.0) -> str:
    """Format a tick label without powers of ten."""
    return f"{value:.3g}"


def _four_panels(numbers: np.ndarray, across: np.ndarray, along: np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    grey = "; grey: not identifiable" if np.isposinf(numbers).any() else ""
    figure.suptitle(title + grey, fontsize="medium")
    for axes, (name, label) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        draw_map(axes, across, along, _column(numbers, name))
        axes.set(title=label, aspect="equal")
    return figure


def from_above(
    numbers: Float[np.ndarray, "R A 11"],
    title: str,
    second: Float[np.ndarray, "3"] | None = None,
) -> Figure:
    """Draw bounds in the plane of a fixed elevation, over x and z.

    Args:
      numbers: columns of `bound_tables.HEADER` on a grid of ranges and azimuths.
      title: of the figure.
      second: [3] x, y, z of a second source, drawn as a marker.
    """
    figure = _four_panels(numbers, _column(numbers, "x_m"), _column(numbers, "z_m"), title)
    for axes in figure.axes[:4]:
        axes.set(xlabel="x [m]", ylabel="z, boresight [m]")
        axes.plot(0.0, 0.0, "k|", ms=12, mew=2)
        if second is not None:
            axes.plot(second[0], second[2], "rx", ms=8, mew=2, label="second source")
            axes.legend(fontsize="small")
    return figure


def front(
    numbers: Float[np.ndarray, "W U 11"],
    title: str,
    second: Float[np.ndarray, "3"] | None = None,
) -> Figure:
    """Draw bounds at a fixed range over the direction cosines u and w.

    Args:
      numbers: columns of `bound_tables.HEADER` on a grid of w and u; rows of NaN are no direction.
      title: of the figure.
      second: [3] x, y, z of a second source; its direction is drawn as a marker.
    """
    side = np.linspace(-1.0, 1.0, numbers.shape[1])
    across, along = np.meshgrid(side, np.linspace(-1.0, 1.0, numbers.shape[0]))
    figure = _four_panels(numbers, across, along, title)
    outside = np.isnan(_column(numbers, "x_m")).astype(float)
    for axes in figure.axes[:4]:
        axes.contourf(across, along, outside, [0.5, 1.5], colors="w")
        axes.set(xlabel="u, along x", ylabel="w, along y")
        if second is not None:
            axes.plot(*(second[:2] / np.linalg.norm(second)), "rx", ms=8, mew=2)
    return figure


def curves(
    name: str, values: Sequence[float], lines: Mapping[str, Float[np.ndarray, "V 4"]]
) -> Figure:
    """Draw bounds of positions over a swept quantity; values that are not identifiable are gaps.

    Args:
      name: of the swept quantity, with its unit.
      values: V of them.
      lines: by position, V rows of position error [m], azimuth and elevation [deg], range [m].
    """
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    for number, (axes, (_, label)) in enumerate(
        zip(figure.subplots(2, 2).flat, _PANELS, strict=True)
    ):
        for place, numbers in lines.items():
            found = np.where(np.isfinite(numbers[:, number]), numbers[:, number], np.nan)
            axes.plot(values, found, "o-", ms=3, label=place)
        if any(np.isfinite(numbers[:, number]).any() for numbers in lines.values()):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_plain)
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=name, ylabel=label)
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small", title="azimuth, elevation, range")
    return figure


def before_and_after(
    places: Float[np.ndarray, "R A 3"],
    maps: Mapping[str, Float[np.ndarray, "R A"]],
    errors: Mapping[str, Float[np.ndarray, "P"]],
) -> Figure:
    """Draw position error bounds of two sets of codes from above, and the distribution of all sets.

    Args:
      places: x, y and z [m] of the maps.
      maps: by name of the codes, position error bound [m].
      errors: by name of the codes, position error bound [m] at the design positions.
    """
    figure = Figure(figsize=(13.0, 4.2), layout="constrained")
    panels = figure.subplots(1, len(maps) + 1)
    known = np.concatenate([found[np.isfinite(found)] for found in maps.values()])
    limits = color_limits(known) if known.size else None
    for axes, (name, found) in zip(panels, maps.items(), strict=False):
        draw_map(axes, places[..., 0], places[..., 2], found, limits)
        axes.set(title=f"{name}: position error [m]", aspect="equal")
        axes.set(xlabel="x [m]", ylabel="z, boresight [m]")
    axes = panels[-1]
    for name, found in errors.items():
        ordered = np.sort(found[np.isfinite(found)])
        axes.step(ordered, (np.arange(ordered.size) + 1) / found.size, where="post", label=name)
        if found.size == 1:
            axes.plot(ordered, np.ones(ordered.size), "o", color=axes.lines[-1].get_color())
    if any(np.isfinite(found).any() for found in errors.values()):
        axes.set_xscale("log")
    axes.set(xlabel="position error bound [m]", ylabel="fraction of the positions", ylim=(0, 1.02))
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="x-small")
    return figure
