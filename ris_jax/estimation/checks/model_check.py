"""Model check of an estimate: flags for every scene, without use of the SNR.

`finish` takes the arguments and the estimate of `localize`. It runs on the host, in NumPy, and
needs values: inside `jax.jit` scenes get the flag `NOT_CHECKED` instead.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import spatial

from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import (
    alternatives,
    ambiguity,
    host_error_bars,
    limits,
    residual_analysis,
    static_path_check,
)
from ris_jax.estimation.checks.check_input import CheckInput, coordinates_of
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag

# Residual over received energy below which float32 dominates the noise: 60 dB.
_FLOOR = 1e-6
# Energy of a source over received energy above which another source must cancel it.
_HUGE = 10.0
# The same ratio, above which other readings are tested. Close sources in valid scenes reach it.
_LARGE = 4.0
# False-alarm rate of a source beyond `max_sources`.
_RATE = 1e-4
# Two-sided normal deviation above which the noise variance differs from the given one.
_NOISE_DEVIATIONS = 4.0
_HORIZON = 0.99  # direction cosine
_SPACING = (0.1, 1.0)  # wavelengths
# Warnings that another reading of the data may explain.
_DOUBTS = (
    Flag.ON_LIMIT | Flag.MAX_SOURCES | Flag.NOTHING_FOUND | Flag.COINCIDENT | Flag.COHERENT
    | Flag.MISFIT | Flag.NOISE_ABOVE
)  # fmt: skip


def examine(estimate: Estimate, problem: CheckInput) -> tuple[Estimate, "Checked"]:
    """Return the estimate on the host, and its check.

    Args:
      estimate: [B, ...] of any estimator. If the number of sources was estimated, sources weaker
        than the rounding errors of the strongest are removed.
      problem: arguments of the estimate.
    """
    estimate = jax.tree.map(np.asarray, estimate)
    if problem.counted:
        estimate = _without_rounding(estimate)
    return estimate, check(estimate, problem)


def finish(
    estimate: Estimate,
    checked: "Checked",
    problem: CheckInput,
    bounds: limits.Limits | None,
    *,
    causes: bool = True,
) -> Estimate:
    """Return the estimate within its limits, with plausible error bars and flags.

    Args:
      estimate: [B, ...] from `examine`.
      checked: its check: the residual belongs to the estimate before the limits.
      problem: arguments of the estimate.
      bounds: limits in reported coordinates, if any.
      causes: name likely causes of warnings. This tests other readings of the data, which takes
        0.1 to 1 s on the host.

    Returns:
      The estimate with `flags` [B].
    """
    edge = limits.on_region_edge(estimate, problem.region)
    flags = checked.flags
    estimate = host_error_bars.with_error_bars(estimate, problem, flags)
    if problem.signal == "constant":
        estimate = host_error_bars.with_static_path(estimate, problem)
        flags = flags | static_path_check.flags_of(estimate)
    if bounds is not None:
        estimate, beyond = limits.apply(estimate, bounds)
        edge |= beyond
    flags = flags | np.where(edge, Flag.ON_LIMIT, 0)
    if causes:
        flags = flags | _named(estimate, problem, checked._replace(flags=flags))
    return estimate._replace(flags=flags.astype(np.int32))


def has_static_path(estimate: Estimate, checked: "Checked", problem: CheckInput) -> bool:
    """Return whether the scenes have a static path worth removing.

    States 0 and 1 that are read as amplitudes have one as well: half the difference of the
    reflections. The cause is then the reading, and the path stays.

    Args:
      estimate: from `examine`, with the path.
      checked: its check.
      problem: arguments of the estimate.
    """
    codes = problem.scene(0).codes
    if not static_path_check.is_present(checked.mean, codes):
        return False
    binary = bool(np.isin(codes, (0, 1)).all())
    return not (binary and np.any(_named(estimate, problem, checked) & Flag.CODE_STATES))


def _without_rounding(estimate: Estimate) -> Estimate:
    """Remove sources that are within float32 rounding of the strongest one."""
    power = np.asarray(estimate.power, float)
    there = limits.present(estimate)
    kept = there & ~(power < _FLOOR * power[:, :1])
    if (kept == there).all():
        return estimate
    unknown = np.where(np.eye(3, dtype=bool), np.inf, 0.0).astype(estimate.covariance.dtype)
    return estimate._replace(
        azimuth=np.where(kept, estimate.azimuth, 0.0),
        elevation=np.where(kept, estimate.elevation, 0.0),
        source_range=np.where(kept, estimate.source_range, np.inf),
        power=np.where(kept, estimate.power, 0.0),
        covariance=np.where(kept[..., None, None], estimate.covariance, unknown),
        num_sources=kept.sum(axis=1).astype(estimate.num_sources.dtype),
    )


class Checked(NamedTuple):
    """Results of the check."""

    flags: Int[np.ndarray, "B"]  #: bit masks
    explained: Float[np.ndarray, "B"]  #: fraction of each scene's energy
    cancelling: Bool[np.ndarray, "B"]  #: sources cancel each other, possibly by chance
    mean: static_path_check.MeanTest  #: of the residual's mean over codes


def check(estimate: Estimate, problem: CheckInput) -> Checked:
    """Test the residual and the source positions of an estimate, scene by scene."""
    measurement = problem.measurement
    counts = np.asarray(estimate.num_sources)
    points = coordinates_of(estimate)
    vectors = problem.steering(points.reshape(-1, 3), problem.positions, problem.wavefront)
    vectors = vectors.reshape(*points.shape[:2], -1)
    lobes = ambiguity.lobes_of(problem)
    space, cells, surface = None, None, None
    flags, explained = np.zeros(len(counts), np.int64), np.zeros(len(counts))
    cancelling = np.zeros(len(counts), bool)
    mean = static_path_check.untested(len(counts))
    for b, count in enumerate(counts.tolist()):
        snapshots, channel, codes = problem.fitted_scene(b)
        if not np.isfinite(snapshots).all() or not snapshots.any():
            continue
        constant = problem.signal == "constant"
        seen = residual_analysis.images(vectors[b, :count], channel, codes)
        fitted = residual_analysis.fit(snapshots, seen, constant=constant)
        energy = np.sum(np.abs(snapshots) ** 2)
        left = np.sum(np.abs(fitted.residual) ** 2)
        explained[b] = 1.0 - left / energy
        largest = np.max(_energies(fitted, seen), initial=0.0)
        cancelling[b] = largest > _LARGE * energy
        if largest > _HUGE * energy:
            flags[b] |= Flag.COINCIDENT
        if constant and not problem.static_path:
            mean.ratio[b], mean.chance[b] = static_path_check.mean_test(fitted)
        flags[b] |= _against_noise(fitted, float(np.asarray(measurement.noise_variance)[b]), energy)
        if count and left < _FLOOR * energy:
            flags[b] |= Flag.NOISE_FLOOR
        else:
            if constant and not _same(surface, (channel, codes)):
                surface = channel, codes
                space = residual_analysis.field_space(channel, codes)
            if not residual_analysis.is_white(fitted, channel, codes, space):
                flags[b] |= Flag.MISFIT
            if problem.counted and residual_analysis.has_redundant_source(fitted):
                flags[b] |= Flag.COHERENT
        if count and count == points.shape[1] and problem.counted:
            cells = cells or _cells(problem)
            if _holds_another(fitted, channel, codes, problem, cells):
                flags[b] |= Flag.MAX_SOURCES
        noise = left / max(fitted.dof, 1.0)
        if lobes is not None and any(
            ambiguity.is_ambiguous(points[b, k], k, fitted, channel, codes, noise, problem, lobes)
            for k in range(count)
        ):
            flags[b] |= Flag.AMBIGUOUS
    if problem.counted and not counts.any():
        flags |= Flag.NOTHING_FOUND
    return Checked(flags, explained, cancelling, mean)


def _same(old: Any, new: Any) -> bool:
    return old is not None and all(map(np.array_equal, old, new))


def _energies(fitted: residual_analysis.SceneFit, seen) -> Float[np.ndarray, "K"]:
    """Return the energy of each source alone."""
    amplitudes = fitted.amplitudes[:, None] if len(fitted.amplitudes) > 1 else fitted.amplitudes
    return np.sum(np.abs(seen * amplitudes) ** 2, axis=(0, 1))


def _against_noise(fitted: residual_analysis.SceneFit, given: float, energy: float) -> Flag:
    """Compare the residual with a known noise variance, two-sided.

    A known variance often comes from an SNR and the received power, which also fluctuates.
    """
    if not given > 0.0 or fitted.dof < 1.0:
        return Flag(0)
    found = np.sum(np.abs(fitted.residual) ** 2) / fitted.dof
    samples = fitted.residual.size
    snr = max(energy / samples / given - 1.0, 0.0)
    variance = 1.0 / fitted.dof + (2.0 * snr + 1.0) / (1.0 + snr) ** 2 / samples
    # Wilson and Hilferty: the cube root of a Gamma variable is nearly normal.
    spread = np.sqrt(variance / 9.0)
    deviation = (np.cbrt(found / given) - (1.0 - variance / 9.0)) / spread
    if deviation > _NOISE_DEVIATIONS:
        return Flag.NOISE_ABOVE
    return Flag.NOISE_BELOW if deviation < -_NOISE_DEVIATIONS else Flag(0)


def _cells(problem: CheckInput) -> alternatives.Cells | None:
    return alternatives.cells_of(
        problem.region,
        problem.positions,
        wavelength=problem.wavelength,
        wavefront=problem.wavefront,
    )


def _widened(problem: CheckInput) -> CheckInput:
    """Extend the region to the horizon and to half the minimum range."""
    region = problem.region
    u_max, w_max = (_HORIZON if most else 0.0 for most in (region.u_max, region.w_max))
    wide = search_grid.SearchRegion(u_max, w_max, 0.0, 2.0 * region.inverse_range_max)
    return problem._replace(region=wide)


def _holds_another(fitted, channel, codes, problem: CheckInput, cells) -> bool:
    """Return whether the residual holds another source; True if it cannot be tested."""
    if cells is None or fitted.dof < 4.0:
        return True
    rows = slice(None if problem.signal == "constant" else alternatives.MOST_SNAPSHOTS)
    reading = alternatives.Reading(
        fitted.residual[rows], channel, codes[rows], problem.positions, problem.signal,
        problem.wavefront,
    )  # fmt: skip
    found = alternatives.pursue(reading, cells, problem.steering, 1)
    return found.evidence > np.log(len(cells.points) / _RATE)


def _named(estimate: Estimate, problem: CheckInput, checked: Checked) -> Int[np.ndarray, "B"]:
    """Return likely causes of the warnings: units, or another reading of the data."""
    counts = np.asarray(estimate.num_sources)
    flags, explained, cancelling, _ = checked
    doubtful = (flags & int(_DOUBTS) != 0) | (counts == 0) | cancelling
    doubtful &= np.array([bool(np.any(s)) and bool(np.all(np.isfinite(s)))
                          for s in problem.measurement.snapshots])  # fmt: skip
    named = np.zeros(len(flags), np.int64)
    if not doubtful.any():
        return named
    low, high = _SPACING
    if not low * (1 - 1e-6) <= spacing(problem.positions) / problem.wavelength <= high * (1 + 1e-6):
        return np.where(doubtful & ~(cancelling & (flags & int(_DOUBTS) == 0)), Flag.UNITS, 0)
    chosen = np.flatnonzero(doubtful)
    given = [problem.scene(b) for b in chosen[: alternatives.MOST_SCENES]]
    found = alternatives.better(
        given,
        counts[chosen[: alternatives.MOST_SCENES]].tolist(),
        explained[chosen[: alternatives.MOST_SCENES]].tolist(),
        _cells(problem),
        _cells(_widened(problem)),
        problem.steering,
    )
    # An input error affects all scenes of a file; a source outside the limits only its scene.
    everywhere = found & ~Flag.OUTSIDE_LIMITS if 2 * len(chosen) >= len(flags) else Flag(0)
    return np.where(doubtful, int(found), int(everywhere))


def spacing(positions: Float[np.ndarray, "N 3"]) -> float:
    """Return the median distance of an element to its nearest neighbour [m]."""
    places = np.asarray(positions, float)
    distances, _ = spatial.KDTree(places).query(places, k=2)
    return float(np.median(np.asarray(distances)[:, 1]))
