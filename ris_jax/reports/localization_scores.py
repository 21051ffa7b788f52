"""Scores of estimated positions, next to the bound, by number of sources, SNR, range, separation.

A source is found if it has an estimate of its own within 5 degrees in both azimuth and elevation.
Errors, and the bound next to them, are those of the sources found; missed sources and false
estimates are in the table of counts. In the median ratio, missed sources are infinite errors.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ris_jax.accuracy import bounds, metrics, statistics
from ris_jax.estimation.estimate import Estimate
from ris_jax.reports import tables

# Name, unit, and units per SI unit.
PARAMETERS = (("azimuth", "deg", 180 / np.pi), ("elevation", "deg", 180 / np.pi), ("range", "m", 1))
_DELAY = ("delay", "ns", 1e9)  # of coherent sources at several frequencies
_COUNTS = (
    "scenes",
    "sources",
    "detected",
    "detected_lower",
    "detected_upper",
    "false_per_scene",
    "count_right",
    "gospa_m",
    "gospa_localisation_m2",
    "gospa_missed_m2",
    "gospa_false_m2",
    "rmspe_deg",
    "position_median_m",
    "position_bound_m",
    "inside_ellipse",
    "inside_lower",
    "inside_upper",
)
_ERRORS = ("rmse", "rms_bound", "median", "efficient_median", "median_bound")  # columns with units
_RATIOS = (
    "efficiency",
    "efficiency_lower",
    "efficiency_upper",
    "ratio",
    "ratio_lower",
    "ratio_upper",
)
_SNR_BINS = 5
_RANGE_EDGES = (0.0, 1.0, 2.0, 4.0, 8.0, np.inf)  # [m]
_SEPARATION_EDGES_DEG = (0.0, 5.0, 10.0, 20.0, 40.0, 180.0)
_LABEL = "scenes_of"


class LocalizationScores(NamedTuple):
    """Scores of every scene and of every true source; NaN where a score does not exist."""

    truth: metrics.Sources
    num_estimated: Int[np.ndarray, "B"]
    snr_db: Float[np.ndarray, "B"]
    separation: Float[np.ndarray, "B"]  # smallest angle between two sources [rad]
    gospa: metrics.GospaScores
    detection: metrics.Detection
    errors: Float[np.ndarray, "B K 3"]  # of the sources found: azimuth, elevation [rad], range [m]
    claimed: Float[np.ndarray, "B K 3 3"]  # their covariance from the estimator
    deviations: Float[np.ndarray, "B K 3"]  # of the bound; not finite: not identifiable
    position: Float[np.ndarray, "B K"]  # distance of the sources found from the truth [m]
    position_bound: Float[np.ndarray, "B K"]  # position error bound [m]
    rmspe: Float[np.ndarray, "B"]  # [rad]; a missed source or a false estimate counts as 90 degrees
    delay_errors: Float[np.ndarray, "B K"] | None = None  # of the sources found [s]
    delay_deviations: Float[np.ndarray, "B K"] | None = None  # of the bound [s]


class _Group(NamedTuple):
    """Subset of the scenes, or of the sources of all scenes."""

    kind: str
    label: str
    sources: Bool[np.ndarray, "B K"]
    scenes: Bool[np.ndarray, "B"] | None  # None: scores of whole scenes do not apply


def score(
    estimate: Estimate,
    truth: metrics.SourcesLike,
    *,
    snr_db: Float[np.ndarray, "B"] | None = None,
    bound_covariance: Float[np.ndarray, "B K 3 3"] | None = None,
    delay: Float[np.ndarray, "B K"] | None = None,
    delay_variance: Float[np.ndarray, "B K"] | None = None,
) -> LocalizationScores:
    """Score a batch of scenes.

    Args:
      estimate: of B scenes.
      truth: of the same scenes, K places a scene.
      snr_db: [B], if known.
      bound_covariance: [B, K, 3, 3] of azimuth, elevation and range, if there is a bound.
      delay: [B, K] true delays [s]; scored if the estimate has delays.
      delay_variance: [B, K] their bound [s^2], if there is one.
    """
    true = metrics.sources(truth)
    batch, places = true.azimuth.shape
    found = metrics.detection(estimate, true)
    errors = metrics.matched_errors(estimate, true, found.matches)
    nowhere = np.full((batch, 1, 3, 3), np.nan)
    covariance = np.append(np.asarray(estimate.covariance, float), nowhere, axis=1)
    active = np.arange(places) < true.num_sources[:, None]
    deviations = np.full((batch, places, 3), np.nan)
    position_bound = np.full((batch, places), np.nan)
    if bound_covariance is not None:
        variances = np.diagonal(np.asarray(bound_covariance, float), axis1=-2, axis2=-1)
        deviations = np.sqrt(np.where(active[..., None], variances, np.nan))
        covariances, finite = jax.device_put((bound_covariance, np.isfinite(variances)))
        bound = bounds.Bound(covariances, finite)
        places_of = true.azimuth, true.elevation, true.source_range
        in_metres = np.asarray(bounds.position_error_bound(bound, *places_of), float)
        position_bound = np.where(active, in_metres, np.nan)
    delay_errors = delay_deviations = None
    if delay is not None and estimate.delay is not None:
        estimated = np.append(
            np.asarray(estimate.delay, float), np.full((batch, 1), np.nan), axis=1
        )
        delay_errors = np.take_along_axis(estimated, found.matches, axis=1) - delay
        variances = np.nan if delay_variance is None else np.asarray(delay_variance, float)
        delay_deviations = np.sqrt(np.where(active, variances, np.nan))
    angles = metrics.direction_distance(true, true)
    closest = np.min(np.where(np.eye(places, dtype=bool), np.inf, angles), axis=(1, 2), initial=9.9)
    return LocalizationScores(
        truth=true,
        num_estimated=np.asarray(estimate.num_sources),
        snr_db=np.full(batch, np.nan) if snr_db is None else np.asarray(snr_db, float),
        separation=np.where(true.num_sources > 1, closest, np.nan),
        gospa=metrics.gospa(estimate, true),
        detection=found,
        errors=np.stack(errors[:3], axis=-1),
        claimed=np.take_along_axis(covariance, found.matches[..., None, None], axis=1),
        deviations=deviations,
        position=errors.position,
        position_bound=position_bound,
        rmspe=np.nan_to_num(metrics.rmspe(estimate, true)),  # no source and no estimate: 0
        delay_errors=delay_errors,
        delay_deviations=delay_deviations,
    )


def _bins(values: np.ndarray, edges: Any, unit: str) -> list[tuple[str, np.ndarray]]:
    """Return label and members of every bin that has any; the last bin includes its upper edge."""
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (values >= low) & ((values < high) | ((values == high) & (high == edges[-1])))
        label = f"{low:g} to {high:g} {unit}" if np.isfinite(high) else f"{low:g} {unit} and more"
        if inside.any():
            bins.append((label, inside))
    return bins


def _groups(scores: LocalizationScores, snr_limits_db: tuple[float, float] | None) -> list[_Group]:
    batch, places = scores.truth.azimuth.shape
    active = np.arange(places) < scores.truth.num_sources[:, None]

    def of_scenes(kind, bins):
        return [_Group(kind, label, active & inside[:, None], inside) for label, inside in bins]

    groups = of_scenes("all", [("all", np.ones(batch, bool))])
    counts = scores.truth.num_sources
    groups += of_scenes("count", [(f"K = {k}", counts == k) for k in np.unique(counts)])
    known = scores.snr_db[np.isfinite(scores.snr_db)]
    if known.size:
        low, high = snr_limits_db or (np.floor(known.min()), np.ceil(known.max()))
        edges = np.linspace(low, high, _SNR_BINS + 1) if low < high else (low, low + 1)
        groups += of_scenes("snr", _bins(np.clip(scores.snr_db, low, high), edges, "dB"))
    ranges = _bins(scores.truth.source_range, _RANGE_EDGES, "m")
    groups += [_Group("range", f"r = {label}", inside, None) for label, inside in ranges]
    apart = _bins(np.rad2deg(scores.separation), _SEPARATION_EDGES_DEG, "deg apart")
    return groups + of_scenes("separation", apart)


def _counts(scores: LocalizationScores, group: _Group) -> dict[str, Any]:
    sources, scenes = group.sources, group.scenes
    detected = int(scores.detection.detected[sources].sum())
    total = int(sources.sum())
    inside = _coverage(scores.errors[sources], scores.claimed[sources])
    whole = sources.any(axis=1) if scenes is None else scenes
    values = {
        "scenes": int(whole.sum()),
        "sources": total,
        "detected": statistics.share(detected, total),
        "inside_ellipse": inside.share,
        "inside_lower": inside.lower,
        "inside_upper": inside.upper,
    }
    found = np.isfinite(scores.errors[sources][:, :2]).all(axis=1)
    values["position_median_m"] = statistics.median_absolute(scores.position[sources][found])
    values["position_bound_m"] = statistics.median_absolute(scores.position_bound[sources][found])
    interval = statistics.binomial_interval(detected, total)
    values["detected_lower"], values["detected_upper"] = interval
    per_scene = {
        "false_per_scene": scores.detection.false_alarms,
        "count_right": scores.num_estimated == scores.truth.num_sources,
        "gospa_m": scores.gospa.total,
        "gospa_localisation_m2": scores.gospa.localisation,
        "gospa_missed_m2": scores.gospa.missed,
        "gospa_false_m2": scores.gospa.false,
        "rmspe_deg": np.rad2deg(scores.rmspe),
    }
    for name, numbers in per_scene.items():
        values[name] = np.nan if scenes is None else float(np.mean(numbers[scenes]))
    return values


def _coverage(
    errors: Float[np.ndarray, "n 3"], claimed: Float[np.ndarray, "n 3 3"]
) -> statistics.Coverage:
    """Fraction of errors inside the estimator's 95 % ellipsoid, where it gives one."""
    usable = np.isfinite(claimed).all(axis=(1, 2))
    deviations = np.sqrt(np.diagonal(claimed[usable], axis1=1, axis2=2))
    # With a unit diagonal, rounding in the estimator's float32 is small next to the eigenvalues.
    scaled = claimed[usable] / deviations[:, :, None] / deviations[:, None, :]
    positive = np.linalg.eigvalsh(scaled)[:, 0] > 0 if len(scaled) else np.zeros(0, bool)
    return statistics.ellipse_coverage(
        (errors[usable] / deviations)[positive], scaled[positive], level=0.95
    )


def _parameter(
    errors: Float[np.ndarray, "n"], deviations: Float[np.ndarray, "n"]
) -> dict[str, float]:
    """Return errors of one parameter, in the unit of the arguments."""
    bounds = np.where(np.isfinite(errors) & np.isfinite(deviations), deviations, np.nan)
    # An estimate at infinite range has no squared error; it counts in the medians.
    finite = np.where(np.isfinite(errors), errors, np.nan)
    result = statistics.efficiency(errors, deviations**2)
    return {
        "rmse": statistics.root_mean_square(finite),
        "rms_bound": statistics.root_mean_square(bounds),
        "median": statistics.median_absolute(errors),
        "efficient_median": statistics.efficient_median(bounds),
        "median_bound": statistics.median_absolute(bounds),
        "efficiency": result.ratio,
        "efficiency_lower": result.ratio_interval[0],
        "efficiency_upper": result.ratio_interval[1],
        "ratio": result.median_ratio,
        "ratio_lower": result.median_interval[0],
        "ratio_upper": result.median_interval[1],
    }


def _scored(scores: LocalizationScores) -> Iterator[tuple[tuple, np.ndarray, np.ndarray]]:
    """Yield each parameter, its errors and the deviations of its bound, [B, K]."""
    for index, parameter in enumerate(PARAMETERS):
        yield parameter, scores.errors[..., index], scores.deviations[..., index]
    if scores.delay_errors is not None and scores.delay_deviations is not None:
        yield _DELAY, scores.delay_errors, scores.delay_deviations


def _parameters_of(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, str, float], ...]:
    """Return the parameters of rows from `score_rows`."""
    with_delay = _column(_DELAY[0], _ERRORS[0], _DELAY[1]) in rows[0]
    return (*PARAMETERS, _DELAY) if with_delay else PARAMETERS


def score_rows(
    scores: LocalizationScores, snr_limits_db: tuple[float, float] | None = None
) -> list[dict[str, Any]]:
    """Return a row for all scenes, then rows by number of sources, SNR, range and separation.

    Args:
      scores: from `score`.
      snr_limits_db: ends of the bins of SNR; by default those of the data.

    Returns:
      Rows with `kind`, `scenes_of` and the columns of `as_csv`.
    """
    rows = []
    for group in _groups(scores, snr_limits_db):
        row = {"kind": group.kind, _LABEL: group.label} | _counts(scores, group)
        for (name, unit, factor), errors, deviations in _scored(scores):
            values = _parameter(errors[group.sources] * factor, deviations[group.sources] * factor)
            row |= {_column(name, short, unit): value for short, value in values.items()}
        rows.append(row)
    return rows


def _column(name: str, short: str, unit: str) -> str:
    return f"{name}_{short}" + (f"_{unit}" if short in _ERRORS else "")


def _columns(parameters: Sequence[tuple[str, str, float]]) -> tuple[str, ...]:
    shorts = (*_ERRORS, *_RATIOS)
    return tuple(_column(name, short, unit) for name, unit, _ in parameters for short in shorts)


HEADER = (_LABEL, *_COUNTS, *_columns(PARAMETERS))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return all columns of all rows as CSV: `HEADER`, and those of the delay if it is scored."""
    header = (_LABEL, *_COUNTS, *_columns(_parameters_of(rows)))
    return tables.as_csv(header, [[row[name] for name in header] for row in rows])


def _readable(row: dict[str, Any], columns: tuple[str, ...], short: Callable[[str], str]) -> dict:
    """Return cells by short name, with value and interval in one cell: `0.858 [0.799, 0.905]`."""
    cells: dict[str, Any] = {_LABEL: row[_LABEL]}
    for column in columns:
        if column.endswith(("_lower", "_upper")):
            continue
        value, cell = row[column], row[column]
        if f"{column}_lower" in columns and not np.isnan(value):
            low, high = row[f"{column}_lower"], row[f"{column}_upper"]
            cell = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        elif isinstance(value, float) and not np.isnan(value):
            cell = f"{value:.3f}"
        cells[short(column)] = cell
    return cells


def _parts(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """Yield title, header and rows of each table; the tables are narrow enough to read."""
    tables_of: list[tuple[str, tuple[str, ...], Callable[[str], str]]]
    tables_of = [("sources found, 95 % intervals", _COUNTS, str)]
    for name, unit, _ in _parameters_of(rows):
        shorts = {_column(name, short, unit): short for short in (*_ERRORS, *_RATIOS)}
        title = f"{name} of the sources found [{unit}], 95 % intervals"
        tables_of.append((title, tuple(shorts), shorts.__getitem__))
    for title, columns, short in tables_of:
        cells = [_readable(row, columns, short) for row in rows]
        yield title, list(cells[0]), [list(row.values()) for row in cells]


def as_text(rows: list[dict[str, Any]]) -> str:
    """Return text tables: detection, then each parameter next to its bound."""
    return "\n\n".join(
        f"{title}\n{tables.as_text(header, body)}" for title, header, body in _parts(rows)
    )


SUMMARY_TITLE = (
    "median |error| of the sources found / median of an efficient estimator (from the bound)"
)


def summary_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of a table of counts and median errors next to the bound, by K.

    Args:
      rows: from `score_rows`; those for all scenes and by number of sources are used.
    """
    header = ["scenes of", "scenes", "found", "number correct"]
    parameters = _parameters_of(rows)
    header += [f"{name} [{unit}]" for name, unit, _ in parameters]
    body = [
        [
            row[_LABEL],
            row["scenes"],
            tables.percent(row["detected"]),
            tables.percent(row["count_right"]),
            *(_beside_bound(row, name, unit) for name, unit, _ in parameters),
        ]
        for row in rows
        if row["kind"] in ("all", "count")
    ]
    return header, body


def summary(rows: list[dict[str, Any]]) -> str:
    """Return `summary_table` as text in 100 columns, or wider with a delay."""
    return f"{SUMMARY_TITLE}\n{tables.as_text(*summary_table(rows))}"


def _beside_bound(row: dict[str, Any], name: str, unit: str) -> str:
    """Format `0.045 / 0.043`: the median error of a parameter and that at the bound."""
    values = (row[_column(name, short, unit)] for short in ("median", "efficient_median"))
    return " / ".join(tables.significant(value) for value in values)


def as_latex(rows: list[dict[str, Any]]) -> str:
    """Return the same tables in LaTeX."""
    return "\n".join(
        f"% {title}\n{tables.as_latex(header, body)}" for title, header, body in _parts(rows)
    )
