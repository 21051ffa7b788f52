r"""Scores of estimated scenes against the truth, on the host, in float64.

An estimate is a set: its order is arbitrary and its size may be wrong. Every score therefore first
assigns estimates to true sources (exactly, `scipy.optimize.linear_sum_assignment`). Scores of
assigned pairs only, such as `matched_errors`, should be reported with one that counts missed
sources and false estimates: `gospa`, `detection`, `counts.confusion_matrix`.

Arguments `estimate` and `truth` are any objects with the fields of `Sources`, such as
`scenes.Truth`. Fractions and means of empty sets are NaN, without a warning.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Int

from ris_jax.accuracy import counts, statistics


class SourcesLike(Protocol):
    """Object with the fields of `Sources`, in arrays of any library."""

    @property
    def azimuth(self) -> Any: ...
    @property
    def elevation(self) -> Any: ...
    @property
    def source_range(self) -> Any: ...
    @property
    def num_sources(self) -> Any: ...


class Sources(NamedTuple):
    """A batch of scenes; entries after the first `num_sources` of a scene are padding."""

    azimuth: Float[np.ndarray, "B K"]  #: [rad]
    elevation: Float[np.ndarray, "B K"]  #: [rad]
    source_range: Float[np.ndarray, "B K"]  #: [m]; infinity is a plane wave
    num_sources: Int[np.ndarray, "B"]


def sources(scene: SourcesLike) -> Sources:
    """Validate the sources of any object with the four fields; float64, padding NaN.

    Args:
      scene: has azimuth [B, K], elevation [B, K] [rad], source_range [B, K] [m], num_sources [B].

    Returns:
      `Sources` of new arrays.

    Raises:
      ValueError: a shape is wrong, a count is outside 0 ... K, or a source that is not padding has
        a non-finite angle or a range that is not positive. The message names the field.
    """
    fields = {name: np.array(getattr(scene, name), float) for name in Sources._fields[:3]}
    shape = fields["azimuth"].shape
    for name, values in fields.items():
        if values.ndim != 2 or values.shape != shape:
            raise ValueError(f"{name}: need [B, K], as azimuth has; got {values.shape} and {shape}")
    num_sources = counts.checked("num_sources", scene.num_sources, shape[0], shape[1])
    active = np.arange(shape[1]) < num_sources[:, None]
    for name, values in fields.items():
        usable = values > 0 if name == "source_range" else np.isfinite(values)
        needed = "above zero" if name == "source_range" else "finite"
        wrong = np.argwhere(active & ~usable)
        if len(wrong):
            at = tuple(wrong[0].tolist())
            raise ValueError(f"{name}: need values {needed}; got {values[at]} at {at}")
        values[~active] = np.nan
    return Sources(**fields, num_sources=num_sources)


def _both(estimate: SourcesLike, truth: SourcesLike) -> tuple[Sources, Sources]:
    estimate, truth = sources(estimate), sources(truth)
    if len(estimate.num_sources) != len(truth.num_sources):
        raise ValueError(
            "need estimate and truth with equal numbers of scenes; "
            f"got {len(estimate.num_sources)} and {len(truth.num_sources)}"
        )
    return estimate, truth


def _against_each_other(estimate: Sources, truth: Sources) -> tuple[Sources, Sources]:
    """Return fields that broadcast to [B, K_est, K_true]."""
    rows = [values[:, :, None] for values in estimate[:3]]
    columns = [values[:, None, :] for values in truth[:3]]
    return (
        Sources(*rows, num_sources=estimate.num_sources),
        Sources(*columns, num_sources=truth.num_sources),
    )


def _wrap(angle: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Wrap an angle to -pi ... pi [rad]; angles in this interval are unchanged."""
    return angle - 2 * np.pi * np.round(angle / (2 * np.pi))


def _half_angle_sine(first: Sources, second: Sources) -> Float[np.ndarray, "..."]:
    """Return the sine of half the angle between directions, exact for small angles."""
    azimuth, elevation = first.azimuth - second.azimuth, first.elevation - second.elevation
    cosines = np.cos(first.elevation) * np.cos(second.elevation)
    square = np.sin(elevation / 2) ** 2 + cosines * np.sin(azimuth / 2) ** 2
    return np.sqrt(np.clip(square, 0.0, 1.0))


def _separation(first: Sources, second: Sources) -> Float[np.ndarray, "..."]:
    """Return distances of positions [m], infinite with a plane wave or padding."""
    near = np.isfinite(first.source_range) & np.isfinite(second.source_range)
    one = np.where(near, first.source_range, 0.0)
    other = np.where(near, second.source_range, 0.0)
    across = 2 * np.sqrt(one) * np.sqrt(other) * _half_angle_sine(first, second)
    return np.where(near, np.hypot(one - other, across), np.inf)


def position_distance(
    estimate: SourcesLike, truth: SourcesLike
) -> Float[np.ndarray, "B K_est K_true"]:
    """Return distances between positions [m]; infinite for padding or plane waves."""
    return _separation(*_against_each_other(*_both(estimate, truth)))


def direction_distance(
    estimate: SourcesLike, truth: SourcesLike
) -> Float[np.ndarray, "B K_est K_true"]:
    """Return angles between directions [rad]; infinite for padding."""
    sine = _half_angle_sine(*_against_each_other(*_both(estimate, truth)))
    return np.where(np.isnan(sine), np.inf, 2 * np.arctan2(sine, np.sqrt(1 - sine**2)))


def _angle_differences(estimate: Sources, truth: Sources) -> Float[np.ndarray, "2 B K_est K_true"]:
    """Return wrapped azimuth and elevation differences of every pair [rad]; padding: NaN."""
    one, other = _against_each_other(estimate, truth)
    return _wrap(np.stack([one.azimuth - other.azimuth, one.elevation - other.elevation]))


def assign(
    distance: Float[np.ndarray, "B K_est K_true"],
    num_estimated: Int[np.ndarray, "B"],
    num_true: Int[np.ndarray, "B"],
    cutoff: float = np.inf,
    order: float = 2.0,
) -> Int[np.ndarray, "B K_true"]:
    r"""Match estimates to true sources so that :math:`\sum \min(d, c)^p` is smallest.

    The sum is over min(K_est, K_true) pairs; pairs at or beyond the cutoff are not matched. Without
    a cutoff, the number of pairs with a finite distance is maximal, and the sum is smallest among
    these choices.

    Args:
      distance: [B, K_est, K_true] :math:`d`, zero or more; infinite forbids the pair.
      num_estimated: [B] number of estimates; later entries are ignored.
      num_true: [B] number of true sources; later entries are ignored.
      cutoff: :math:`c`, in the unit of distance, above zero.
      order: :math:`p`, 1 or more.

    Returns:
      [B, K_true] int, the index of each true source's estimate, -1 for none and for padding.

    Raises:
      ValueError: a shape, count, cutoff or order is invalid, or a distance is negative or NaN.
    """
    distance = np.asarray(distance, float)
    if distance.ndim != 3:
        raise ValueError(f"distance: need [B, K_est, K_true]; got {distance.shape}")
    num_estimated = counts.checked("num_estimated", num_estimated, len(distance), distance.shape[1])
    num_true = counts.checked("num_true", num_true, len(distance), distance.shape[2])
    if not (cutoff > 0 and 1 <= order < np.inf):
        raise ValueError(f"need cutoff > 0 and finite order >= 1; got {cutoff} and {order}")
    matches = np.full((distance.shape[0], distance.shape[2]), -1)
    for scene, (rows, columns) in enumerate(zip(num_estimated, num_true, strict=True)):
        pairs = distance[scene, :rows, :columns]
        if not np.all(pairs >= 0):
            raise ValueError(f"distance: need values of zero or more; got {pairs} in scene {scene}")
        estimated, true = scipy.optimize.linear_sum_assignment(_costs(pairs, cutoff, order))
        close = pairs[estimated, true] < cutoff
        matches[scene, true[close]] = estimated[close]
    return matches


def _costs(
    pairs: Float[np.ndarray, "E T"], cutoff: float, order: float
) -> Float[np.ndarray, "E T"]:
    """Return finite costs of the pairs of a scene, at most 1 for those that may match."""
    possible = pairs < cutoff
    if np.isfinite(cutoff):
        scale, forbidden = cutoff, 1.0
    else:  # one forbidden pair costs more than all allowed ones together
        scale = np.max(pairs, where=possible, initial=0.0) or 1.0
        forbidden = min(pairs.shape) + 1.0
    return np.where(possible, (np.where(possible, pairs, 0.0) / scale) ** order, forbidden)


def _matched_sum(
    distance: Float[np.ndarray, "B K_est K_true"],
    matches: Int[np.ndarray, "B K_true"],
    order: float,
) -> Float[np.ndarray, "B"]:
    """Return the sum of the matched pairs' distances to the power `order`."""
    scene, true = np.nonzero(matches >= 0)
    powers = distance[scene, matches[scene, true], true] ** order
    return np.bincount(scene, weights=powers, minlength=len(matches))


class GospaScores(NamedTuple):
    """The metric and its parts: ``total ** order = localisation + missed + false``."""

    total: Float[np.ndarray, "B"]  #: [m]
    localisation: Float[np.ndarray, "B"]  #: [``m ** order``], of the matched pairs
    missed: Float[np.ndarray, "B"]  #: [``m ** order``], ``cutoff ** order / 2`` per missed source
    false: Float[np.ndarray, "B"]  #: [``m ** order``], ``cutoff ** order / 2`` per false estimate


def gospa(
    estimate: SourcesLike, truth: SourcesLike, cutoff: float = 2.0, order: float = 2.0
) -> GospaScores:
    r"""Compute the generalised optimal sub-pattern assignment metric of every scene, alpha = 2.

    .. math::
      d^p = \min_\gamma \sum_{(i, j) \in \gamma} \|\hat p_i - p_j\|^p
        + \tfrac{c^p}{2} (\hat K - |\gamma|) + \tfrac{c^p}{2} (K - |\gamma|)

    over all sets :math:`\gamma` of disjoint pairs: a metric between sets of positions. A plane
    wave matches nothing: it is always missed, or false.

    Args:
      estimate: K_est sources per scene.
      truth: K_true sources per scene.
      cutoff: :math:`c` [m], finite; a pair at this distance costs as much as a missed source and a
        false estimate.
      order: :math:`p`, 1 or more.

    Raises:
      ValueError: sources, cutoff or order are invalid.

    Example:
      One source at boresight with 1 m range error, and one false estimate:

      >>> truth = Sources(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[3.0]]), np.array([1]))
      >>> estimate = Sources(
      ...     np.zeros((1, 2)), np.zeros((1, 2)), np.array([[9.0, 4.0]]), np.array([2]))
      >>> result = gospa(estimate, truth, cutoff=2.0)
      >>> print(*(part.item() for part in result[1:]), f"{result.total.item():.3f}")
      1.0 0.0 2.0 1.732

    References:
      Rahmathullah, Garcia-Fernandez, Svensson, *Generalized optimal sub-pattern assignment metric*,
      FUSION 2017, Definition 1 and Proposition 1.
    """
    if not np.isfinite(cutoff):
        raise ValueError(f"need a finite cutoff; got {cutoff}")
    estimate, truth = _both(estimate, truth)
    distance = position_distance(estimate, truth)
    matches = assign(distance, estimate.num_sources, truth.num_sources, cutoff, order)
    matched = np.sum(matches >= 0, axis=1)
    localisation = _matched_sum(distance, matches, order)
    missed = cutoff**order / 2 * (truth.num_sources - matched)
    false = cutoff**order / 2 * (estimate.num_sources - matched)
    return GospaScores((localisation + missed + false) ** (1 / order), localisation, missed, false)


class Errors(NamedTuple):
    """Errors of the matched estimates, estimate minus truth; NaN without a match."""

    azimuth: Float[np.ndarray, "B K_true"]  #: [rad], wrapped to -pi ... pi
    elevation: Float[np.ndarray, "B K_true"]  #: [rad]
    source_range: Float[np.ndarray, "B K_true"]  #: [m]
    position: Float[np.ndarray, "B K_true"]  #: [m], the distance, zero or more


def matched_errors(
    estimate: SourcesLike, truth: SourcesLike, matches: Int[np.ndarray, "B K_true"]
) -> Errors:
    """Return the error of the estimate matched to each true source.

    Args:
      estimate: K_est sources per scene.
      truth: K_true sources per scene.
      matches: [B, K_true], from `assign` or `detection`.

    Returns:
      `Errors`. If one of a pair is a plane wave, range and position errors are infinite. If both
      are, the range error is zero and the position error infinite.

    Raises:
      ValueError: sources are invalid, or a match is no estimate of its scene.
    """
    estimate, truth = _both(estimate, truth)
    matches, expected = np.asarray(matches), truth.azimuth.shape
    if matches.shape != expected or not np.issubdtype(matches.dtype, np.integer):
        raise ValueError(f"matches: need {expected} int; got {matches.shape} {matches.dtype}")
    if np.any((matches < -1) | (matches >= estimate.num_sources[:, None])):
        raise ValueError("matches: need -1 or the index of an estimate that is not padding")
    nothing = np.full((len(matches), 1), np.nan)  # where index -1 points
    chosen = [
        np.take_along_axis(np.append(values, nothing, axis=1), matches, axis=1)
        for values in estimate[:3]
    ]
    found = Sources(*chosen, num_sources=truth.num_sources)
    azimuth = _wrap(found.azimuth - truth.azimuth)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = found.source_range - truth.source_range
    difference = np.where(found.source_range == truth.source_range, 0.0, difference)
    position = np.where(np.isnan(azimuth), np.nan, _separation(found, truth))
    return Errors(azimuth, found.elevation - truth.elevation, difference, position)


class Detection(NamedTuple):
    """Detected sources and false estimates."""

    detected: Bool[np.ndarray, "B K_true"]  #: False for padding
    matches: Int[np.ndarray, "B K_true"]  #: the estimate within the gate, -1 for none
    false_alarms: Int[np.ndarray, "B"]  #: estimates that are not matched to a source
    num_true: Int[np.ndarray, "B"]


def detection(estimate: SourcesLike, truth: SourcesLike, gate_rad: float = np.pi / 36) -> Detection:
    """Detect sources: one estimate each within the gate in both azimuth and elevation.

    The assignment has as many pairs within the gate as possible and, among these choices, the
    smallest sum of squared angles between directions. Range is not used.

    Args:
      estimate: K_est sources per scene.
      truth: K_true sources per scene.
      gate_rad: largest difference of either angle [rad], 5 degrees by default.

    Raises:
      ValueError: sources are invalid, or the gate is not above zero.
    """
    if not gate_rad > 0:
        raise ValueError(f"gate_rad: need a value above zero; got {gate_rad}")
    estimate, truth = _both(estimate, truth)
    within = np.all(np.abs(_angle_differences(estimate, truth)) <= gate_rad, axis=0)
    distance = np.where(within, direction_distance(estimate, truth), np.inf)
    matches = assign(distance, estimate.num_sources, truth.num_sources)
    detected = matches >= 0
    false_alarms = estimate.num_sources - detected.sum(axis=1)
    return Detection(detected, matches, false_alarms, truth.num_sources)


def resolved(
    estimate: SourcesLike, truth: SourcesLike, gate_rad: float = np.pi / 36
) -> Bool[np.ndarray, "B"]:
    """Return the scenes in which all sources are resolved.

    A scene is resolved if there are as many estimates as sources, and each source has its own
    estimate. The angle between the two is below the gate and below half the smallest separation of
    the scene's sources, so that no estimate could match another source as well.

    Args:
      estimate: K_est sources per scene.
      truth: K_true sources per scene.
      gate_rad: largest angle between a source and its estimate [rad], 5 degrees by default.

    Raises:
      ValueError: sources are invalid, or the gate is not above zero.

    References:
      Van Trees, *Optimum array processing*, 2002, section 9.5 (probability of resolution).
    """
    if not gate_rad > 0:
        raise ValueError(f"gate_rad: need a value above zero; got {gate_rad}")
    estimate, truth = _both(estimate, truth)
    own = np.eye(truth.azimuth.shape[1], dtype=bool)
    apart = np.where(own, np.inf, direction_distance(truth, truth))
    limit = np.minimum(np.min(apart, axis=(1, 2), initial=np.inf) / 2, gate_rad)
    distance = direction_distance(estimate, truth)
    near = np.where(distance < limit[:, None, None], distance, np.inf)
    matches = assign(near, estimate.num_sources, truth.num_sources)
    every = np.sum(matches >= 0, axis=1) == truth.num_sources
    return every & (estimate.num_sources == truth.num_sources)


def detection_rate(result: Detection) -> float:
    """Return detected sources over all true sources of all scenes."""
    return statistics.share(result.detected.sum(), result.num_true.sum())


def false_alarms_per_scene(result: Detection) -> float:
    """Return the mean number of false estimates per scene."""
    return statistics.share(result.false_alarms.sum(), len(result.false_alarms))


def false_alarm_rate(result: Detection) -> float:
    """Return the fraction of scenes with at least one false estimate."""
    return statistics.share(np.sum(result.false_alarms > 0), len(result.false_alarms))


def rmspe(
    estimate: SourcesLike, truth: SourcesLike, penalty: float = np.pi / 2
) -> Float[np.ndarray, "B"]:
    r"""Compute the root mean square periodic error of both angles [rad], best permutation.

    .. math::
      \Big(\min_\pi \frac1K \sum_k \tfrac12 \mathrm{wrap}(\hat\varphi_{\pi(k)} - \varphi_k)^2
        + \tfrac12 (\hat\theta_{\pi(k)} - \theta_k)^2\Big)^{1/2}

    for equal counts. Otherwise the best min(K_est, K_true) pairs are used, and K is the larger
    count. Every missed source and every false estimate counts with the error `penalty`. The period
    is 2 pi, as in the first reference; the second, for linear arrays, uses pi.

    Returns:
      [B], NaN without sources and estimates.

    Raises:
      ValueError: sources are invalid, or the penalty is below zero.

    References:
      Routtenberg, Tabrikian, *Non-Bayesian periodic Cramér-Rao bound*, IEEE TSP, 2013.
      Shmuel et al., *SubspaceNet: deep learning-aided subspace methods for DoA estimation*, 2023.
    """
    if not penalty >= 0:
        raise ValueError(f"penalty: need zero or more; got {penalty}")
    estimate, truth = _both(estimate, truth)
    distance = np.sqrt(np.mean(_angle_differences(estimate, truth) ** 2, axis=0))
    matches = assign(distance, estimate.num_sources, truth.num_sources)
    larger = np.maximum(estimate.num_sources, truth.num_sources)
    left_over = larger - np.sum(matches >= 0, axis=1)
    total = _matched_sum(distance, matches, 2) + left_over * penalty**2
    return np.sqrt(np.where(larger > 0, total / np.maximum(larger, 1), np.nan))
