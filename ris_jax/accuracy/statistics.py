"""Summaries of errors and counts, with confidence intervals; on the host, in float64.

Fractions and means of empty sets are NaN, without a warning.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

# Median of |error| / standard deviation of an efficient estimator with Gaussian errors.
EFFICIENT_MEDIAN = float(scipy.special.ndtri(0.75))


def share(part: Any, whole: Any) -> float:
    """Return the ratio of part and whole; NaN if the whole is zero, without a warning."""
    return float(part / whole) if whole else np.nan


def root_mean_square(errors: Float[np.ndarray, "..."]) -> float:
    """Return the value over all errors that are not NaN, those of matched sources."""
    errors = np.asarray(errors, float)
    return float(np.sqrt(share(np.nansum(errors**2), np.sum(~np.isnan(errors)))))


def median_absolute(errors: Float[np.ndarray, "..."]) -> float:
    """Return the value over all errors that are not NaN, those of matched sources."""
    errors = np.abs(np.asarray(errors, float))
    errors = errors[~np.isnan(errors)]
    return float(np.median(errors)) if errors.size else np.nan


def efficient_share(
    size: Float[np.ndarray, "n"], deviations: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "n"]:
    """Return the fraction of an efficient estimator's Gaussian errors that are within each size.

    Args:
      size: [n], zero or more.
      deviations: [...] standard deviation of each error; non-finite ones are left out.

    Returns:
      [n], NaN without deviations.
    """
    deviations = np.asarray(deviations, float)
    deviations = deviations[np.isfinite(deviations)]
    if not deviations.size:
        return np.full(len(size), np.nan)
    return np.array([np.mean(2 * scipy.special.ndtr(x / deviations) - 1) for x in size])


def efficient_median(deviations: Float[np.ndarray, "..."]) -> float:
    """Return the median absolute error of an efficient estimator; see `efficient_share`."""
    deviations = np.asarray(deviations, float)
    deviations = deviations[np.isfinite(deviations)]
    if not deviations.size:
        return np.nan
    low, high = EFFICIENT_MEDIAN * deviations.min(), EFFICIENT_MEDIAN * deviations.max()
    for _ in range(60):  # the fraction grows with the size
        middle = (low + high) / 2
        below = efficient_share(np.array([middle]), deviations)[0] < 0.5
        low, high = (middle, high) if below else (low, middle)
    return float((low + high) / 2)


class Efficiency(NamedTuple):
    """Errors relative to their bound; both ratios with a 95 % confidence interval."""

    ratio: float  # bound over mean squared error, 1 if efficient
    ratio_interval: tuple[float, float]
    median_ratio: float  # median |error| / sqrt(bound), EFFICIENT_MEDIAN if efficient
    median_interval: tuple[float, float]
    count: int  # entries with a bound
    missed: int  # those of them without an error


def efficiency(errors: Float[np.ndarray, "..."], variances: Float[np.ndarray, "..."]) -> Efficiency:
    r"""Compare errors of one parameter with the bound of each source.

    .. math::
      \text{ratio} = 1 / \overline{e^2/\sigma^2}, \quad
      \text{median ratio} = \mathrm{median}\, |e| / \sigma

    Entries without a finite bound (padding, not identifiable) are left out. Entries without a
    finite error (missed) are left out of the mean and infinite in the median, so that only the
    median counts them. The interval of the ratio inverts mean ± 1.96 standard errors. It relies on
    the central limit theorem and needs many entries without large outliers. The interval of the
    median comes from binomial order statistics and holds for any distribution. Both assume
    independent entries.

    Args:
      errors: [...] estimate minus truth; NaN if missed.
      variances: [...] Cramér-Rao bound of the same parameter, the errors' unit squared.

    Returns:
      `Efficiency`; ratios and intervals are NaN without valid entries.

    Raises:
      ValueError: shapes differ, or a variance is not above zero.

    Example:
      >>> result = efficiency([0.1, -0.1, 0.1, -0.2, np.nan], [0.01] * 5)
      >>> print(f"{result.ratio:.3f} {result.median_ratio:.3f} {result.count} {result.missed}")
      0.571 1.000 5 1
    """
    errors, variances = np.asarray(errors, float), np.asarray(variances, float)
    if errors.shape != variances.shape:
        raise ValueError(f"need one shape; got {errors.shape} and {variances.shape}")
    bounded = np.isfinite(variances)
    errors, variances = errors[bounded], variances[bounded]
    if np.any(variances <= 0):
        raise ValueError(f"variances: need values above zero; got {variances.min()}")
    missed = ~np.isfinite(errors)
    scores = np.where(missed, np.inf, np.abs(errors) / np.sqrt(variances))
    return Efficiency(
        *_inverse_mean(scores[~missed] ** 2),
        median_absolute(scores),
        _median_interval(scores),
        count=len(scores),
        missed=int(missed.sum()),
    )


def _inverse_mean(values: Float[np.ndarray, "n"]) -> tuple[float, tuple[float, float]]:
    """Return 1 / mean of nonnegative values and its 95 % interval, [0, inf] for a single value."""
    if not len(values):
        return np.nan, (np.nan, np.nan)
    mean, half = np.mean(values), np.inf
    if len(values) > 1:
        half = scipy.special.ndtri(0.975) * np.std(values, ddof=1) / np.sqrt(len(values))

    def inverse(value):
        return float(1 / value) if value > 0 else np.inf

    return inverse(mean), (inverse(mean + half), inverse(mean - half))


def _median_interval(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """Return the 95 % interval of the median of nonnegative values; unbounded below six values."""
    count = len(values)
    if not count:
        return np.nan, np.nan
    # The median is below the k-th smallest value with the probability of fewer than k tails.
    tails = scipy.special.bdtr(np.arange(count), count, 0.5)
    rank = int(np.searchsorted(tails, 0.025, side="right"))
    ordered = np.concatenate([[0.0], np.sort(values), [np.inf]])
    return float(ordered[rank]), float(ordered[count + 1 - rank])


class Coverage(NamedTuple):
    """Fraction, and the confidence interval of its probability."""

    share: float
    lower: float
    upper: float


def ellipse_coverage(
    errors: Float[np.ndarray, "n d"], covariance: Float[np.ndarray, "n d d"], level: float = 0.95
) -> Coverage:
    r"""Return the fraction of errors with :math:`e^T C^{-1} e \le \chi^2_d(\text{level})`.

    Valid error bars have a fraction of `level`. Entries with a non-finite error or covariance
    (missed, not identifiable) are left out.

    Args:
      errors: [n, d], each parameter in its own unit.
      covariance: [n, d, d] of the estimator or the bound.
      level: nominal probability of the ellipses; the interval's level is always 0.95.

    Raises:
      ValueError: shapes or level are invalid, or a covariance is not positive definite.
    """
    errors, covariance = np.asarray(errors, float), np.asarray(covariance, float)
    if errors.ndim != 2 or covariance.shape != (*errors.shape, errors.shape[-1]):
        raise ValueError(f"need [n, d] and [n, d, d]; got {errors.shape} and {covariance.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level: need 0 < level < 1; got {level}")
    usable = np.isfinite(errors).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    try:
        root = np.linalg.cholesky(covariance[usable])
    except np.linalg.LinAlgError as error:
        raise ValueError("covariance: need positive definite matrices") from error
    square = np.sum(np.linalg.solve(root, errors[usable, :, None]) ** 2, axis=(1, 2))
    inside = int(np.sum(square <= scipy.special.chdtri(errors.shape[1], 1 - level)))
    trials = int(np.sum(usable))
    return Coverage(share(inside, trials), *binomial_interval(inside, trials))


class Reliability(NamedTuple):
    """Confidence and accuracy of a classifier by bin of confidence; NaN for empty bins."""

    confidence: Float[np.ndarray, "bins"]  # mean of the bin's entries
    right: Float[np.ndarray, "bins"]  # fraction of correct ones
    count: Int[np.ndarray, "bins"]


def reliability(
    confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int = 15
) -> Reliability:
    """Compute the bins of a reliability diagram.

    Guo et al., *On calibration of modern neural networks*, ICML 2017, Eqs. (1) and (2).

    Args:
      confidence: [n] probability of the chosen class, 0 to 1.
      right: [n] whether it is the correct class.
      bins: of equal width.

    Raises:
      ValueError: there are no entries, shapes differ, or a confidence is no probability.
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    if confidence.shape != right.shape or confidence.ndim != 1 or not confidence.size:
        raise ValueError(f"need [n] and [n], n > 0; got {confidence.shape} and {right.shape}")
    if not np.all((confidence >= 0) & (confidence <= 1 + 1e-6)):
        raise ValueError("confidence: need probabilities, 0 to 1")
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    entries = np.where(count > 0, count, np.nan)
    sure, often = (np.bincount(index, values, minlength=bins) for values in (confidence, right))
    return Reliability(sure / entries, often / entries, count)


def expected_calibration_error(
    confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int = 15
) -> float:
    """Return the mean difference between the confidence and the accuracy of a classifier.

    Guo et al., as above, Eq. (3); arguments and errors as for `reliability`.
    """
    found = reliability(confidence, right, bins)
    gaps = np.abs(found.confidence - found.right) * found.count
    return float(np.nansum(gaps) / found.count.sum())


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a probability; its coverage is at least `level`.

    Returns:
      lower, upper; NaN without trials.

    Raises:
      ValueError: not 0 <= successes <= trials, or not 0 < level < 1.
    """
    if not (0 <= successes <= trials and 0 < level < 1):
        raise ValueError(
            "need 0 <= successes <= trials and 0 < level < 1; "
            f"got {successes}, {trials} and {level}"
        )
    if not trials:
        return np.nan, np.nan
    tail, failures = (1 - level) / 2, trials - successes
    lower = scipy.special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    upper = scipy.special.betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(lower), float(upper)


@functools.lru_cache(maxsize=2)
def _resampled(size: int, resamples: int) -> Float[np.ndarray, "R B"]:
    """Count each scene in each of the resamples."""
    drawn = np.random.default_rng(size).multinomial(size, np.full(size, 1 / size), resamples)
    return drawn.astype(float)


def bootstrap_interval(
    parts: Float[np.ndarray, "B"],
    wholes: Float[np.ndarray, "B"] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    r"""Return the percentile bootstrap interval of :math:`\sum_b p_b / \sum_b w_b` over scenes.

    Whole scenes are drawn with replacement, because errors within a scene are dependent. The draws
    are the same for the same number of scenes. An interval of one scene, or of equal draws, has
    zero width, which does not bound the error.

    Args:
      parts: [B] summand of each scene, such as a sum over its sources.
      wholes: [B] denominator of each scene, such as the number of sources; default 1, for a mean.
      resamples: number of resamples.
      level: of the interval.

    Returns:
      lower, upper; NaN if the denominator is zero.

    Raises:
      ValueError: shapes differ, or the level is outside (0, 1).

    References:
      Efron and Tibshirani, *An introduction to the bootstrap*, 1993, section 13.3.
    """
    parts = np.asarray(parts, float)
    wholes = np.ones(parts.shape) if wholes is None else np.asarray(wholes, float)
    if parts.ndim != 1 or parts.shape != wholes.shape:
        raise ValueError(f"need [B] and [B]; got {parts.shape} and {wholes.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level: need 0 < level < 1; got {level}")
    if not wholes.sum() > 0:
        return np.nan, np.nan
    size = len(parts)
    drawn = _resampled(size, resamples)
    totals = drawn @ wholes
    ratios = (drawn @ parts)[totals > 0] / totals[totals > 0]
    tail = (1 - level) / 2
    return float(np.quantile(ratios, tail)), float(np.quantile(ratios, 1 - tail))


def mean_interval(values: Float[np.ndarray, "n"], level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of a few repeated measurements, such as times.

    Returns:
      lower, upper; NaN without values, unbounded for a single value.

    Raises:
      ValueError: not [n], or not 0 < level < 1.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not 0 < level < 1:
        raise ValueError(f"need [n] and 0 < level < 1; got {values.shape} and {level}")
    if len(values) < 2:
        return (-np.inf, np.inf) if len(values) else (np.nan, np.nan)
    quantile = scipy.special.stdtrit(len(values) - 1, 0.5 + level / 2)
    half = quantile * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)
