"""Summary of a cell: errors next to the bound of the same sources, missed sources, intervals.

All intervals are 95 %. Intervals of fractions are Clopper-Pearson; all others are percentile
bootstraps over scenes (`statistics.bootstrap_interval`), because errors within a scene are
dependent.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ris_jax.accuracy import statistics
from ris_jax.benchmarks.accuracy import Outcome
from ris_jax.reports.localization_scores import PARAMETERS

_INTERVAL = ("", "_lower", "_upper")
SHARES = ("detected", "resolved", "count_right")
MEANS = ("false_per_scene", "gospa_m")
_BESIDE = tuple(
    column
    for name, unit, _ in PARAMETERS
    for column in (
        *(f"{name}_rmse_{unit}{end}" for end in _INTERVAL),
        f"{name}_bound_{unit}",
        *(f"{name}_above_bound_db{end}" for end in _INTERVAL),
        *(f"{name}_median_ratio{end}" for end in _INTERVAL),
    )
)
# Under mismatch: the misspecified bound.
PREDICTED = (*(f"{name}_predicted_{unit}" for name, unit, _ in PARAMETERS), "predicted")
HEADER = (
    "scenes",
    "sources",
    *(f"{name}{end}" for name in (*SHARES, *MEANS) for end in _INTERVAL),
    *_BESIDE,
)


def _with_interval(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return dict(zip((f"{name}{end}" for end in _INTERVAL), (value, *interval), strict=True))


def _share(name: str, part: int, whole: int) -> dict[str, float]:
    interval = statistics.binomial_interval(part, whole)
    return _with_interval(name, statistics.share(part, whole), interval)


def _mean(name: str, values: Float[np.ndarray, "B"]) -> dict[str, float]:
    return _with_interval(name, float(np.mean(values)), statistics.bootstrap_interval(values))


def _decibels(ratio: float) -> float:
    return float(10 * np.log10(ratio)) if ratio > 0 else np.nan


def _parameter(outcome: Outcome, index: int) -> dict[str, float]:
    r"""Compare errors of one parameter with the bound of the same sources.

    .. math::
      \text{RMSE} = \Big(\tfrac1n \sum e^2\Big)^{1/2}, \quad
      \text{bound} = \Big(\tfrac1n \sum \sigma^2\Big)^{1/2}, \quad
      \text{above bound} = 20 \log_{10} \text{RMSE} / \text{bound}

    over the sources found that have an estimate at a finite range and whose parameter the data
    determine. The median ratio, of :math:`|e| / \sigma`, is over all sources; missed sources have
    infinite errors there.
    """
    name, unit, factor = PARAMETERS[index]
    errors = outcome.scores.errors[..., index] * factor
    deviations = outcome.scores.deviations[..., index] * factor
    valid = np.isfinite(errors) & np.isfinite(deviations)
    square = np.sum(np.where(valid, errors, 0.0) ** 2, axis=1)
    variance = np.sum(np.where(valid, deviations, 0.0) ** 2, axis=1)
    number = valid.sum(axis=1)
    mean_square = statistics.share(square.sum(), number.sum())
    interval = statistics.bootstrap_interval(square, number)
    above = statistics.bootstrap_interval(square, variance)
    ratio = statistics.efficiency(errors, deviations**2)
    return (
        _with_interval(
            f"{name}_rmse_{unit}",
            np.sqrt(mean_square),
            (np.sqrt(interval[0]), np.sqrt(interval[1])),
        )
        | {f"{name}_bound_{unit}": float(np.sqrt(statistics.share(variance.sum(), number.sum())))}
        | _with_interval(
            f"{name}_above_bound_db",
            _decibels(statistics.share(square.sum(), variance.sum())),
            (_decibels(above[0]), _decibels(above[1])),
        )
        | _with_interval(f"{name}_median_ratio", ratio.median_ratio, ratio.median_interval)
    )


def summarise(outcome: Outcome) -> dict[str, Any]:
    """Return the columns of `HEADER` for an estimator in a cell, and `PREDICTED` under mismatch.

    Args:
      outcome: from `accuracy.Runner.outcome`.

    Returns:
      Sources found (an estimate of its own within 5 degrees in both angles), resolved scenes
      (`metrics.resolved`), correct numbers of sources, false estimates, GOSPA, and the results of
      `_parameter` for each parameter; NaN where a score does not exist.
    """
    scores = outcome.scores
    batch = len(scores.num_estimated)
    sources = int(scores.truth.num_sources.sum())
    right = scores.num_estimated == scores.truth.num_sources
    row: dict[str, Any] = {"scenes": batch, "sources": sources}
    row |= _share("detected", int(scores.detection.detected.sum()), sources)
    row |= _share("resolved", int(outcome.resolved.sum()), batch)
    row |= _share("count_right", int(right.sum()), batch)
    row |= _mean("false_per_scene", scores.detection.false_alarms)
    row |= _mean("gospa_m", scores.gospa.total)
    for index in range(len(PARAMETERS)):
        row |= _parameter(outcome, index)
    return row if outcome.predicted is None else row | _predictions(outcome, outcome.predicted)


def _predictions(outcome: Outcome, predicted: Float[np.ndarray, "B K 3"]) -> dict[str, float]:
    """Return root mean square predicted errors of the sources whose errors are in the RMSE.

    The last value is the fraction of these sources that has a prediction, for the range.
    """
    values = {}
    for index, (name, unit, factor) in enumerate(PARAMETERS):
        errors, deviations = (
            outcome.scores.errors[..., index],
            outcome.scores.deviations[..., index],
        )
        scored = np.isfinite(errors) & np.isfinite(deviations)
        valid = scored & np.isfinite(predicted[..., index])
        total = np.sum(np.where(valid, predicted[..., index] * factor, 0.0) ** 2)
        values[f"{name}_predicted_{unit}"] = float(np.sqrt(statistics.share(total, valid.sum())))
        values["predicted"] = statistics.share(int(valid.sum()), int(scored.sum()))
    return values
