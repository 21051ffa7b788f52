"""Table of the sources found, in degrees, metres and dB, with error bars."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ris_jax.accuracy import counts, metrics, statistics
from ris_jax.estimation import flags as flags_lib
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.estimate import Estimate
from ris_jax.reports import tables

HEADER = (
    "scene",
    "source",
    "azimuth_deg",
    "elevation_deg",
    "range_m",
    "azimuth_std_deg",
    "elevation_std_deg",
    "range_std_m",
    "power_db",
    "flags",
)
_DELAY_HEADER = ("delay_ns", "delay_std_ns")  # further columns of coherent frequencies
_FILE_HEADER = ("file", "scene_of_file")  # further columns for a directory of files
_SLACK = 1e-6  # tolerance of the search limits, which the truth may touch
_FEW_SCENES = 4  # with fewer scenes, a constant error of the number may be chance
_DIGITS = 7  # of single precision


def _number(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _finite(value: float) -> float | None:
    return _number(value) if np.isfinite(value) else None


def header(estimate: Estimate) -> tuple[str, ...]:
    """Return the names of the columns of `source_rows`."""
    return HEADER if estimate.delay is None else (*HEADER, *_DELAY_HEADER)


def source_rows(estimate: Estimate, scene_numbers: np.ndarray) -> list[tuple]:
    """Return rows of `header`, one per source.

    Args:
      estimate: [B, ...] NumPy arrays.
      scene_numbers: [B] numbers of the scenes.

    Returns:
      Tuples. Non-finite values are None, except the infinite range of a plane wave. Names of a
      scene's flags are separated by spaces.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        variances = np.diagonal(np.asarray(estimate.covariance, float), axis1=-2, axis2=-1)
        deviations = np.sqrt(variances) * [180 / np.pi, 180 / np.pi, 1.0]
        power_db = 10.0 * np.log10(np.asarray(estimate.power, float))
    rows = []
    for scene, number in enumerate(scene_numbers.tolist()):
        flags = " ".join(_flag_names(estimate, scene))
        for source in range(int(estimate.num_sources[scene])):
            at = (scene, source)
            rows.append(
                (
                    number,
                    source,
                    _number(np.rad2deg(float(estimate.azimuth[at]))),
                    _number(np.rad2deg(float(estimate.elevation[at]))),
                    _number(float(estimate.source_range[at])),
                    *(_finite(value) for value in deviations[at]),
                    _finite(power_db[at]),
                    flags,
                    *_delay(estimate, at),
                )
            )
    return rows


def _delay(estimate: Estimate, at: tuple[int, int]) -> tuple[float | None, ...]:
    """Return delay and standard deviation [ns] of a source with coherent frequencies."""
    if estimate.delay is None or estimate.delay_variance is None:
        return ()
    deviation = np.sqrt(float(estimate.delay_variance[at]))
    return tuple(_finite(1e9 * value) for value in (float(estimate.delay[at]), deviation))


def _flag_names(estimate: Estimate, scene: int) -> list[str]:
    return [] if estimate.flags is None else flags_lib.names(int(estimate.flags[scene]))


def _static_path(estimate: Estimate, scene: int) -> float | None:
    return (
        None if estimate.static_path_db is None else _finite(float(estimate.static_path_db[scene]))
    )


def _in_file(number: int, files: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """Return the file of a scene and the scene's number in it."""
    name, first = [entry for entry in files if entry[1] <= number][-1]
    return name, number - first


def file_fields(number: int, files: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return the file of a scene and its number there, for JSON; empty without `files`."""
    return dict(zip(_FILE_HEADER, _in_file(number, files), strict=True)) if files else {}


def scene_name(number: int, files: Sequence[tuple[str, int]] = ()) -> str:
    """Name a scene, with its file for a directory of files: ``scene 17 (b.npz, scene 5)``.

    Args:
      number: of the scene in the data.
      files: as for `as_csv`.
    """
    if not files:
        return f"scene {number}"
    name, number_there = _in_file(number, files)
    return f"scene {number} ({name}, scene {number_there})"


def as_csv(
    rows: list[tuple],
    files: Sequence[tuple[str, int]] = (),
    columns: tuple[str, ...] = HEADER,
) -> str:
    """Return the rows with their header as CSV; unknown values are empty cells.

    Args:
      rows: from `source_rows`.
      files: name and number of the first scene of every file of a directory. With them, each row
        ends with the file and the number of the scene in it.
      columns: names of the columns, see `header`.
    """
    if not files:
        return tables.as_csv(columns, rows)
    return tables.as_csv(
        (*columns, *_FILE_HEADER), [(*row, *_in_file(row[0], files)) for row in rows]
    )


def scene_entries(
    rows: list[tuple],
    estimate: Estimate,
    scene_numbers: np.ndarray,
    files: Sequence[tuple[str, int]] = (),
) -> list[dict[str, Any]]:
    """Return an object for JSON per scene, with a list of its sources.

    Args:
      rows: from `source_rows`.
      estimate: [B, ...] source of the rows.
      scene_numbers: [B] numbers of the scenes.
      files: as for `as_csv`.
    """
    listed: dict[int, list[dict[str, Any]]] = {number: [] for number in scene_numbers.tolist()}
    for row in rows:
        fields: dict[str, Any] = dict(zip(header(estimate), row, strict=True))
        del fields["scene"], fields["flags"]
        fields["range_m"] = _finite(fields["range_m"])
        listed[row[0]].append(fields)
    return [
        {
            "scene": number,
            **file_fields(number, files),
            "num_sources": len(listed[number]),
            "noise_variance": _finite(noise),
            "static_path_db": _static_path(estimate, scene),
            "flags": _flag_names(estimate, scene),
            "sources": listed[number],
        }
        for scene, (number, noise) in enumerate(
            zip(listed, np.asarray(estimate.noise_variance, float), strict=True)
        )
    ]


def as_json(
    rows: list[tuple],
    estimate: Estimate,
    scene_numbers: np.ndarray,
    about: dict[str, Any],
    files: Sequence[tuple[str, int]] = (),
) -> str:
    """Return JSON: an object with the provenance and `scenes`, a list of all scenes.

    Args:
      rows: from `source_rows`.
      estimate: [B, ...] source of the rows.
      scene_numbers: [B] numbers of the scenes.
      about: further entries of the object, ready for JSON.
      files: as for `as_csv`.

    Returns:
      Text; non-finite values are null.
    """
    found = scene_entries(rows, estimate, scene_numbers, files)
    return json.dumps({**about, "scenes": found}, indent=1, allow_nan=False) + "\n"


def static_path_summary(estimate: Estimate) -> list[str]:
    """Summarise the removed static paths in one line; no line if none was removed."""
    if not estimate.has_static_path:
        return []
    strength, loss = (
        np.asarray(values, float)
        for values in (estimate.static_path_db, estimate.static_path_loss_db)
    )
    costs = f"; its removal costs {np.nanmedian(loss):.1f} dB" if np.isfinite(loss).any() else ""
    return [
        f"static path: median power {np.nanmedian(strength):+.1f} dB relative to the sources{costs}"
    ]


def truth_summary(estimate: metrics.SourcesLike, truth: metrics.SourcesLike) -> str:
    """Summarise errors in two lines; a source is found if both angles are within 5 degrees."""
    found = metrics.detection(estimate, truth)
    errors = metrics.matched_errors(estimate, truth, found.matches)
    medians = [statistics.median_absolute(values) for values in errors[:3]]
    distance = metrics.gospa(estimate, truth)
    right = counts.accuracy(np.asarray(truth.num_sources), np.asarray(estimate.num_sources))
    total = int(found.num_true.sum())
    detected = (
        f"{metrics.detection_rate(found):.1%} of {total} sources within 5 degrees in both angles"
        if total
        else "it has no sources"
    )
    return (
        f"against the truth: {detected}, {found.false_alarms.sum()} false; number correct in "
        f"{right:.1%} of scenes; GOSPA {distance.total.mean():.3f} m\n{_median_errors(medians)}"
    )


def delay_summary(
    estimate: Estimate, truth: metrics.SourcesLike, delay: Float[np.ndarray, "B K"]
) -> str:
    """Summarise the errors of delays [s] of the sources found, in one line."""
    matches = metrics.detection(estimate, truth).matches
    found = np.take_along_axis(np.asarray(estimate.delay), np.maximum(matches, 0), axis=1)
    errors = np.abs(found - delay)[matches >= 0]
    if not errors.size:
        return "median delay error: none; no source was found within 5 degrees"
    return f"median delay error of those found: {1e9 * np.median(errors):.4f} ns"


def _median_errors(medians: list[float]) -> str:
    """Return the line of median errors in azimuth [rad], elevation [rad] and range [m]."""
    if np.isnan(medians[0]):
        return "median error of those found: none; no source was found within 5 degrees"
    azimuth, elevation = np.rad2deg(medians[:2])
    in_range = "unknown" if np.isnan(medians[2]) else f"{medians[2]:.3f} m"
    return (
        f"median error of those found: azimuth {azimuth:.3f} deg, elevation {elevation:.3f} deg, "
        f"range {in_range}"
    )


def truth_doubts(
    estimate: metrics.SourcesLike, truth: metrics.SourcesLike, limits: Limits | None
) -> list[str]:
    """Return warnings about the truth in a file, one per line.

    Args:
      estimate: [B, ...] sources found.
      truth: [B, ...] of the file; places after the first `num_sources` are ignored.
      limits: of the search, if known.
    """
    count = np.asarray(truth.num_sources)
    active = np.arange(np.shape(truth.azimuth)[1]) < count[:, None]
    lines = []
    if limits is not None and active.any():
        outside = np.abs(truth.azimuth) > limits.azimuth_max + _SLACK
        outside |= np.abs(truth.elevation) > limits.elevation_max + _SLACK
        outside |= np.asarray(truth.source_range) > limits.range_max * (1.0 + _SLACK)
        outside |= np.asarray(truth.source_range) < limits.range_min * (1.0 - _SLACK)
        number = np.count_nonzero(outside & active)
        if number:
            lines.append(f"{number} of {active.sum()} true sources lie outside the search limits")
    ratios = _range_ratios(estimate, truth)
    for factor, unit in ((100.0, "centimetres"), (1000.0, "millimetres")):
        # Most range errors are below about ten percent.
        if len(ratios) and abs(np.log(np.median(ratios) / factor)) < np.log(1.5):
            lines.append(f"the true ranges look like {unit}: expected metres")
    excess = np.asarray(estimate.num_sources) - count
    if len(excess) >= _FEW_SCENES and excess[0] != 0 and np.all(excess == excess[0]):
        lines.append(
            f"every scene has {excess[0]:+d} sources found against the true number: check "
            "num_sources"
        )
    return lines


def _range_ratios(estimate, truth) -> np.ndarray:
    """Return true over estimated ranges of the sources with matching directions."""
    ratios = []
    for scene in range(len(np.asarray(truth.num_sources))):
        for true in range(int(truth.num_sources[scene])):
            angles = [
                np.hypot(
                    estimate.azimuth[scene][k] - truth.azimuth[scene][true],
                    estimate.elevation[scene][k] - truth.elevation[scene][true],
                )
                for k in range(int(estimate.num_sources[scene]))
            ]
            if angles and min(angles) < np.deg2rad(5.0):
                near = float(estimate.source_range[scene][int(np.argmin(angles))])
                if np.isfinite(near):
                    ratios.append(float(truth.source_range[scene][true]) / near)
    return np.array(ratios)
