"""A user's answer: every source that was found, in degrees, metres and dB, with error bars."""

import json
from typing import Any

import numpy as np

from ris_jax import counts, metrics, statistics
from ris_jax.estimators.estimate import Estimate
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
)
_DIGITS = 7  # single precision has no more


def _number(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _finite(value: float) -> float | None:
    return _number(value) if np.isfinite(value) else None


def source_rows(estimate: Estimate, scene_numbers: np.ndarray) -> list[tuple]:
    """Rows of `HEADER`, one a source.

    Args:
      estimate: [B, ...] NumPy arrays.
      scene_numbers: [B] what to call the scenes.

    Returns:
      Tuples; what is not finite is None, but for the infinite range of a plane wave.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        variances = np.diagonal(np.asarray(estimate.covariance, float), axis1=-2, axis2=-1)
        deviations = np.sqrt(variances) * [180 / np.pi, 180 / np.pi, 1.0]
        power_db = 10.0 * np.log10(np.asarray(estimate.power, float))
    rows = []
    for scene, number in enumerate(scene_numbers.tolist()):
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
                )
            )
    return rows


def as_csv(rows: list[tuple]) -> str:
    """The rows with their header; what is not known is an empty cell."""
    return tables.as_csv(HEADER, rows)


def as_json(
    rows: list[tuple], estimate: Estimate, scene_numbers: np.ndarray, about: dict[str, Any]
) -> str:
    """An object of what the result came from and `scenes`, a list, those with nothing included.

    Args:
      rows: from `source_rows`.
      estimate: [B, ...] that they came from.
      scene_numbers: [B] what to call the scenes.
      about: what else is to stand in the object, ready for JSON.

    Returns:
      Text; what is not finite is null.
    """
    listed: dict[int, list[dict[str, Any]]] = {number: [] for number in scene_numbers.tolist()}
    for row in rows:
        fields: dict[str, Any] = dict(zip(HEADER[1:], row[1:], strict=True))
        fields["range_m"] = _finite(fields["range_m"])
        listed[row[0]].append(fields)
    found = [
        {
            "scene": number,
            "num_sources": len(listed[number]),
            "noise_variance": _finite(noise),
            "sources": listed[number],
        }
        for number, noise in zip(listed, np.asarray(estimate.noise_variance, float), strict=True)
    ]
    return json.dumps({**about, "scenes": found}, indent=1, allow_nan=False) + "\n"


def truth_summary(estimate: metrics.SourcesLike, truth: metrics.SourcesLike) -> str:
    """Errors in two lines; a source is found if both of its angles are within 5 degrees."""
    found = metrics.detection(estimate, truth)
    errors = metrics.matched_errors(estimate, truth, found.matches)
    medians = [statistics.median_absolute(values) for values in errors[:3]]
    distance = metrics.gospa(estimate, truth)
    right = counts.accuracy(np.asarray(truth.num_sources), np.asarray(estimate.num_sources))
    return (
        f"against the truth: {metrics.detection_rate(found):.1%} of {found.num_true.sum()} sources "
        f"within 5 degrees in both angles, {found.false_alarms.sum()} false; count right in "
        f"{right:.1%} of scenes; GOSPA {distance.total.mean():.3f} m\n{_median_errors(medians)}"
    )


def _median_errors(medians: list[float]) -> str:
    """The line of median errors in azimuth [rad], elevation [rad] and range [m]."""
    if np.isnan(medians[0]):
        return "median error of those found: none, as no source was found within 5 degrees"
    azimuth, elevation = np.rad2deg(medians[:2])
    in_range = "unknown" if np.isnan(medians[2]) else f"{medians[2]:.3f} m"
    return (
        f"median error of those found: azimuth {azimuth:.3f} deg, elevation {elevation:.3f} deg, "
        f"range {in_range}"
    )
