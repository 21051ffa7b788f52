"""Figures of estimated positions. The functions draw given numbers and return a figure.

The figures do not use pyplot: they have no global state and need not be closed.
"""

import io
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ris_jax.accuracy import metrics, statistics
from ris_jax.estimation.estimate import Estimate
from ris_jax.reports import localization_scores

_TRUTH = {"marker": "o", "s": 70, "facecolors": "none", "edgecolors": "0.35", "label": "truth"}
_FOUND = {"marker": "x", "s": 40, "color": "C0", "label": "estimate"}
BELOW_BOUND = (
    "The RMSE can be below the bound: errors are limited by the search region and by the 5 degrees "
    "within\nwhich a source counts as found. The bound of close or weak sources has no such limits."
)
_LEVEL = 0.95
# Radius of the ellipse that contains 95 % of a normal distribution in the plane.
_RADIUS = np.sqrt(-2 * np.log(1 - _LEVEL))


def image(figure: Figure, ending: str) -> bytes:
    """Return the figure as a file with that suffix: .png, .pdf or .svg."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending.removeprefix("."), dpi=150)
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    return image(figure, ".png")


def explain_below_bound(figure: Figure, below: bool) -> None:
    """Add the reasons for an RMSE below the bound to a figure that shows one."""
    if below:
        figure.supxlabel(BELOW_BOUND, fontsize="small", color="0.3")


def ellipse(
    center: Float[np.ndarray, "2"], covariance: Float[np.ndarray, "2 2"]
) -> Float[np.ndarray, "2 P"] | None:
    """Return the outline of a 95 % ellipse in the plane; None if the covariance is not finite."""
    if not np.isfinite(covariance).all():
        return None
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 181)
    half_axes = _RADIUS * vectors * np.sqrt(np.maximum(values, 0.0))
    return center[:, None] + half_axes @ np.stack([np.cos(angle), np.sin(angle)])


def _ground(place: np.ndarray) -> np.ndarray:
    """Return x and z [m] of (azimuth, elevation, range), [..., 2]."""
    azimuth, elevation, source_range = np.moveaxis(place, -1, 0)
    across = source_range * np.cos(elevation)
    return np.stack([across * np.sin(azimuth), across * np.cos(azimuth)], axis=-1)


def _ground_slopes(place: np.ndarray) -> np.ndarray:
    """Return the [2, 3] derivatives of x and z by azimuth, elevation and range."""
    azimuth, elevation, source_range = place
    sin_a, cos_a, sin_e, cos_e = (f(x) for x in (azimuth, elevation) for f in (np.sin, np.cos))
    return np.array(
        [
            [source_range * cos_e * cos_a, -source_range * sin_e * sin_a, cos_e * sin_a],
            [-source_range * cos_e * sin_a, -source_range * sin_e * cos_a, cos_e * cos_a],
        ]
    )


def _places(sources: metrics.SourcesLike, scene: int) -> Float[np.ndarray, "K 3"]:
    count = int(sources.num_sources[scene])
    fields = (sources.azimuth, sources.elevation, sources.source_range)
    return np.stack([np.asarray(field[scene], float)[:count] for field in fields], axis=-1)


def scene_map(
    estimate: Estimate, scene: int, truth: metrics.SourcesLike | None = None, title: str = ""
) -> Figure:
    """Draw one scene from above and from the surface, estimates with their 95 % ellipses.

    A plane wave is a dashed ray. A parameter that is not identifiable has no ellipse.

    Args:
      estimate: [B, ...] NumPy arrays.
      scene: index of the scene to draw.
      truth: of the same B scenes, if known.
      title: of the figure.
    """
    found = _places(estimate, scene)
    covariances = np.asarray(estimate.covariance[scene], float)[: len(found)]
    true = np.zeros((0, 3)) if truth is None else _places(truth, scene)
    figure = Figure(figsize=(10.0, 5.0), layout="constrained")
    above, front = figure.subplots(1, 2)
    _draw_above(above, found, covariances, true)
    _draw_front(front, found, covariances, true)
    figure.suptitle(title or f"{len(found)} sources found")
    front.legend(loc="best")
    return figure


def _draw_above(axes: Axes, found: np.ndarray, covariances: np.ndarray, true: np.ndarray) -> None:
    near, far = (np.isfinite(found[:, 2]) == finite for finite in (True, False))
    axes.scatter(*_ground(true[np.isfinite(true[:, 2])]).T, **_TRUTH)
    axes.scatter(*_ground(found[near]).T, **_FOUND)
    axes.plot(0, 0, "ks", ms=8)
    axes.annotate("surface", (0, 0), xytext=(0, -18), textcoords="offset points", ha="center")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    reach = np.max(np.abs(np.concatenate([axes.get_xlim(), axes.get_ylim()])))
    for place, covariance in zip(found[near], covariances[near], strict=True):
        slopes = _ground_slopes(place)
        usable = np.isfinite(covariance).all()
        outline = ellipse(_ground(place), slopes @ covariance @ slopes.T) if usable else None
        if outline is not None:
            axes.plot(*outline, "C0-", lw=1, scalex=False, scaley=False)
    for azimuth, elevation, _ in found[far]:
        end = _ground(np.array([azimuth, elevation, reach]))
        ray = axes.plot([0, end[0]], [0, end[1]], "C0--", lw=1, scalex=False, scaley=False)
        axes.legend(ray, ["estimate, unlimited range"])
    axes.set(xlabel="x [m]", ylabel="z, boresight [m]", title="from above")
    axes.grid(alpha=0.3)


def _draw_front(axes: Axes, found: np.ndarray, covariances: np.ndarray, true: np.ndarray) -> None:
    axes.scatter(*np.rad2deg(true[:, :2]).T, **_TRUTH)
    axes.scatter(*np.rad2deg(found[:, :2]).T, **_FOUND)
    axes.margins(0.15)
    for place, covariance in zip(found, covariances, strict=True):
        outline = ellipse(place[:2], covariance[:2, :2])
        if outline is not None:
            axes.plot(*np.rad2deg(outline), "C0-", lw=1, scalex=False, scaley=False)
    if np.isfinite(covariances[:, :2, :2]).all(axis=(1, 2)).any():
        axes.plot([], [], "C0-", lw=1, label="95 % ellipse")
    axes.set(xlabel="azimuth [deg]", ylabel="elevation [deg]", title="from the surface")
    axes.grid(alpha=0.3)


def error_by_snr(rows: list[dict[str, Any]]) -> Figure:
    """Draw median absolute error and RMSE of the sources found, with the bound's, by SNR.

    Args:
      rows: from `localization_scores.score_rows`; those of kind `snr` are drawn.
    """
    rows = [row for row in rows if row["kind"] == "snr"]
    places = range(len(rows))
    lines = (
        ("median", "C0o-", "median |error|"),
        ("efficient_median", "C0--", "median, efficient"),
        ("rmse", "C1s-", "RMSE"),
        ("rms_bound", "C1--", "Cramér-Rao bound, RMS"),
    )
    figure = Figure(figsize=(11.0, 3.8), layout="constrained")
    for axes, (name, unit, _) in zip(
        figure.subplots(1, 3), localization_scores.PARAMETERS, strict=True
    ):
        drawn = []
        for short, style, label in lines:
            values = np.array([row[f"{name}_{short}_{unit}"] for row in rows], float)
            drawn.append(values)
            axes.plot(places, values, style, ms=4, label=label)
        if np.any(np.isfinite(drawn) & (np.asarray(drawn) > 0)):
            axes.set_yscale("log")
        axes.set_xticks(places, [row["scenes_of"] for row in rows], rotation=30, ha="right")
        axes.set(ylabel=f"{name} error [{unit}]", xlabel="SNR")
        axes.grid(alpha=0.3, which="both")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(lines), fontsize="small")
    explain_below_bound(figure, any(_below_bound(row) for row in rows))
    return figure


def _below_bound(row: dict[str, Any]) -> bool:
    """Return whether an RMSE is below the bound; False if one of them is unknown."""
    return any(
        row[f"{name}_rmse_{unit}"] < row[f"{name}_rms_bound_{unit}"]
        for name, unit, _ in localization_scores.PARAMETERS
    )


def count_confusion(matrix: Int[np.ndarray, "K K"]) -> Figure:
    """Draw scenes by true and estimated number of sources, each row as fractions of its scenes.

    Args:
      matrix: [K_max + 1] squared, see `counts.confusion_matrix`.
    """
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", origin="lower")
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "w" if shares[row, column] > 0.5 else "k"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    axes.set(
        xlabel="estimated number of sources",
        ylabel="true number of sources",
        xticks=range(len(matrix)),
        yticks=range(len(matrix)),
    )
    figure.colorbar(image, label="fraction of the scenes of a row")
    return figure


def error_distribution(scores: localization_scores.LocalizationScores) -> Figure:
    """Draw the fraction of all sources with an error below a value, and the bound's prediction.

    A missed source has an infinite error; the bound's curve has no missed sources.
    """
    active = np.arange(scores.truth.azimuth.shape[1]) < scores.truth.num_sources[:, None]
    figure = Figure(figsize=(11.0, 3.8), layout="constrained")
    for index, (axes, (name, unit, factor)) in enumerate(
        zip(figure.subplots(1, 3), localization_scores.PARAMETERS, strict=True)
    ):
        errors = np.abs(scores.errors[..., index][active]) * factor
        known = np.sort(errors[np.isfinite(errors) & (errors > 0)])
        deviations = scores.deviations[..., index][active] * factor
        if known.size:
            beyond = int(np.sum(errors == 0))
            shares = (np.arange(known.size) + 1 + beyond) / errors.size
            axes.step(known, shares, where="post", label="estimates")
            sizes = np.geomspace(known[0], known[-1], 200)
            if np.isfinite(deviations).any():
                axes.plot(
                    sizes, statistics.efficient_share(sizes, deviations), "k--", lw=1, label="bound"
                )
            axes.set_xscale("log")
            axes.legend()
        axes.set(xlabel=f"{name} error [{unit}]", ylabel="fraction of sources", ylim=(0, 1.02))
        axes.grid(alpha=0.3, which="both")
    return figure
