"""Model check of an estimate: flags for every scene, without use of the SNR.

`finish` takes the arguments and the estimate of `localize`. It runs on the host, in NumPy, and
needs values: inside `jax.jit` scenes get the flag `NOT_CHECKED` instead.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int
from scipy import spatial

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import (
    alternatives,
    limits,
    residual_analysis,
    static_path_check,
)
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.physics import arrays, scenes
from ris_jax.physics.element_response import ElementResponse

# Residual over received energy below which float32 dominates the noise: 60 dB.
_FLOOR = 1e-6
# Minimum noise over received power that error bars assume.
_LEAST_NOISE = 1e-10
# Energy of a source over received energy above which another source must cancel it.
_HUGE = 10.0
# The same ratio, above which other readings are tested. Close sources in valid scenes reach it.
_LARGE = 4.0
# Squared correlation and log-likelihood difference that distinguish two positions.
_ALIKE = 0.5
_DISTINCT = 12.0
# Main lobe radius, in units of resolution.
_MAIN_LOBE = 2.5
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


class CheckInput(NamedTuple):
    """Arguments of `localize`, on the host."""

    measurement: scenes.Measurement  #: [B, ...] NumPy
    positions: Float[np.ndarray, "N 3"]
    wavelength: float
    wavefront: config_lib.Wavefront
    signal: config_lib.SourceSignal
    region: search_grid.SearchRegion
    counted: bool  #: the number of sources was not given
    static_path: bool = False  #: it was removed before the fit; the measurement still has it
    response: ElementResponse | None = None  #: of the elements

    def scene(self, number: int) -> alternatives.Reading:
        """Data of one scene, as given, in double precision."""
        snapshots, channel, codes, _ = self.measurement
        return alternatives.Reading(
            np.asarray(snapshots[number], np.complex128),
            np.asarray(channel[number], np.complex128),
            np.asarray(codes[number], np.complex128),
            np.asarray(self.positions, float),
            self.signal,
            self.wavefront,
            static_path=self.static_path,
        )

    def fitted_scene(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Snapshots, channel and codes of one scene, without the static path if it was removed."""
        return self.scene(number).removed()[:3]

    def steering(self, points, positions, wavefront) -> Complex[np.ndarray, "P N"]:
        """Steering vectors of the package; see `alternatives.Steering`."""
        found = _vectors(
            np.asarray(points, np.float32),
            np.asarray(positions, np.float32),
            self.response,
            wavelength=float(self.wavelength),
            wavefront=wavefront,
        )
        return np.asarray(found)


@functools.partial(jax.jit, static_argnames=("wavelength", "wavefront"))
def _vectors(points, positions, response, *, wavelength, wavefront):
    return arrays.steering_at(
        points, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )


@functools.partial(jax.jit, static_argnames=("wavelength", "wavefront"))
def _jets(points, positions, response, *, wavelength, wavefront):
    return arrays.steering_jet(
        points, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )


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
    estimate = _with_error_bars(estimate, problem, flags)
    if problem.signal == "constant":
        estimate = _with_static_path(estimate, problem)
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


def coordinates_of(estimate: Estimate) -> Float[np.ndarray, "B K 3"]:
    """Return the source positions in (u, w, 1/r), [B, K, 3]."""
    azimuth, elevation = np.asarray(estimate.azimuth, float), np.asarray(estimate.elevation, float)
    with np.errstate(divide="ignore"):
        rho = 1.0 / np.asarray(estimate.source_range, float)
    return np.stack([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), rho], axis=-1)


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
    lobes = _lobes_of(problem)
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
            _is_ambiguous(points[b, k], k, fitted, channel, codes, noise, problem, lobes)
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


class Lobes(NamedTuple):
    """Shifts of grating lobes and mirror images."""

    shifts: Float[np.ndarray, "S 2"]  #: in u and w
    unit: Float[np.ndarray, "3"]  #: resolution


def _lobes_of(problem: CheckInput) -> Lobes | None:
    """Return grating lobes and mirror images within the region; None if there are none."""
    positions = np.asarray(problem.positions, np.float64)
    return _lobes(positions.tobytes(), problem.wavelength, problem.wavefront, problem.region)


@functools.lru_cache(maxsize=8)
def _lobes(
    raw: bytes, wavelength: float, wavefront: config_lib.Wavefront, region: search_grid.SearchRegion
) -> Lobes | None:
    """Find maxima of the plane-wave array factor over differences of direction cosines."""
    positions = np.frombuffer(raw).reshape(-1, 3)
    centred = positions - positions.mean(axis=0)
    unit = search_grid.resolution(positions, wavelength=wavelength, wavefront=wavefront)
    wavenumber = 2.0 * np.pi / wavelength
    axes = []
    for most, width in ((region.u_max, unit[0]), (region.w_max, unit[1])):
        count = int(np.ceil(4.0 * most / (0.5 * width))) if np.isfinite(width) else 0
        axes.append(np.linspace(-2.0 * most, 2.0 * most, max(min(count, 2048), 1) | 1))
    left = np.exp(1j * wavenumber * np.outer(axes[0], centred[:, 0]))
    right = np.exp(1j * wavenumber * np.outer(centred[:, 1], axes[1]))
    power = np.abs(left @ right / len(positions)) ** 2
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    away = np.sum((shifts / unit[:2]) ** 2, axis=-1) > _MAIN_LOBE**2
    high = away & (power > _ALIKE / 2.0)
    for axis in (0, 1):
        for step in (1, -1):
            high &= power >= np.roll(power, step, axis) - 1e-9
    found = shifts[high]
    # An array with depth can resolve mirror images: they are tested source by source.
    flat = np.ptp(centred[:, 2]) <= 1e-3 * wavelength
    if flat and not len(found):
        return None
    strongest = np.argsort(-power[high])[:16]
    return Lobes(found[strongest], unit)


def _is_ambiguous(
    point, index, fitted, channel, codes, noise: float, problem: CheckInput, lobes: Lobes
) -> bool:
    """Return whether another position explains a source equally well, within the noise."""
    region, unit = problem.region, np.where(np.isfinite(lobes.unit), lobes.unit, 1.0)
    mirrored = point * np.array([[1, -1, 1], [-1, 1, 1], [-1, -1, 1]])
    candidates = np.concatenate([point + np.pad(lobes.shifts, ((0, 0), (0, 1))), mirrored])
    inside = np.all((candidates >= region.lower - unit) & (candidates <= region.upper + unit), 1)
    inside &= np.sum(candidates[:, :2] ** 2, axis=1) < 1.0
    far = np.sum(((candidates - point) / lobes.unit)[:, :2] ** 2, axis=1) > _MAIN_LOBE**2
    rows = slice(None if problem.signal == "constant" else alternatives.MOST_SNAPSHOTS)
    noise = noise * len(codes[rows]) / len(codes)
    codes, amplitudes = codes[rows], fitted.amplitudes[rows, index]
    vector = problem.steering(point[None], problem.positions, problem.wavefront)
    seen = residual_analysis.images(vector, channel, codes)[..., 0] * amplitudes[:, None]
    reading = alternatives.Reading(
        seen, channel, codes, problem.positions, problem.signal, problem.wavefront
    )
    cells = alternatives.Cells(
        candidates, unit, region.lower.astype(float), region.upper.astype(float)
    )
    correlate = alternatives.Correlator(reading, problem.signal == "constant")
    energy = np.sum(np.abs(seen) ** 2)

    def vectors(points):
        return problem.steering(points, problem.positions, problem.wavefront)

    for candidate in candidates[inside & far]:
        start = np.clip(candidate, cells.lower, cells.upper)
        place = alternatives.refined(start, cells, vectors, correlate, seen)
        there = vectors(place[None])
        gain = float(correlate.gains(there, seen, correlate.norms(there))[0])
        apart = np.sum(((place - point) / lobes.unit)[:2] ** 2) > _MAIN_LOBE**2
        if apart and gain > _ALIKE * energy and energy - gain < _DISTINCT * noise:
            return True
    return False


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


def _with_error_bars(
    estimate: Estimate, problem: CheckInput, flags: Int[np.ndarray, "B"]
) -> Estimate:
    """Recompute error bars in double precision where those of the estimator are invalid.

    These are scenes with noise below float32 resolution, and arrays that do not determine one
    coordinate.
    """
    region = problem.region
    fixed = [i for i, most in enumerate((region.u_max, region.w_max)) if most == 0.0]
    wanted = np.full(len(flags), bool(fixed)) | (flags & int(Flag.NOISE_FLOOR) != 0)
    wanted &= np.asarray(estimate.num_sources) > 0
    if not wanted.any():
        return estimate
    points, jets = coordinates_of(estimate), _jets_of(estimate, problem)
    covariance, noise = estimate.covariance.copy(), estimate.noise_variance.copy()
    for b in np.flatnonzero(wanted).tolist():
        count = int(estimate.num_sources[b])
        own, noise[b] = _scene_error_bars(jets[b, :count], points[b, :count], fixed, problem, b)
        covariance[b, :count] = own
    return estimate._replace(covariance=covariance, noise_variance=noise)


def _jets_of(estimate: Estimate, problem: CheckInput) -> Complex[np.ndarray, "B K 4 N"]:
    """Return the steering vectors of an estimate and their derivatives."""
    points = coordinates_of(estimate)
    jets = _jets(
        jnp.asarray(points.reshape(-1, 3), jnp.float32),
        jnp.asarray(problem.positions, jnp.float32),
        problem.response,
        wavelength=float(problem.wavelength),
        wavefront=problem.wavefront,
    )
    return np.asarray(jets).reshape(*points.shape[:2], 4, -1)


def _with_static_path(estimate: Estimate, problem: CheckInput) -> Estimate:
    """Add the strength of a removed static path, and the increase of the variances."""
    counts = np.asarray(estimate.num_sources)
    strength, loss = np.full((2, len(counts)), np.nan, np.float32)
    if problem.static_path:
        jets = _jets_of(estimate, problem)
        for b, count in enumerate(counts.tolist()):
            scene = problem.scene(b)
            if np.isfinite(scene.snapshots).all() and scene.snapshots.any():
                strength[b], loss[b] = static_path_check.measured(scene, jets[b, :count])
    return estimate._replace(static_path_db=strength, static_path_loss_db=loss)


def _scene_error_bars(jets, points, fixed, problem: CheckInput, scene: int):
    r"""Return the Cramér-Rao bound at an estimate with some direction cosines known to be 0.

    .. math:: C^{-1} = \frac{2}{\sigma^2} \mathrm{Re}\, D^H (I - B B^+) D
    """
    snapshots, channel, codes = problem.fitted_scene(scene)
    constant = problem.signal == "constant"
    count = len(jets)
    seen = residual_analysis.images(jets.reshape(4 * count, -1), channel, codes)
    seen = seen.reshape(*seen.shape[:2], count, 4)
    fitted = residual_analysis.fit(snapshots, seen[..., 0], constant=constant)
    power = np.mean(np.abs(snapshots) ** 2)
    noise = np.sum(np.abs(fitted.residual) ** 2) / max(fitted.dof, 1.0)
    noise = max(noise, _LEAST_NOISE * power)
    information = 2.0 / noise * residual_analysis.information(fitted, seen)
    free = np.array([i % 3 not in fixed for i in range(3 * count)])
    full = residual_analysis.inverse_information(information, free)
    own = np.stack([full[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] for k in range(count)])
    return np.stack([_turned(c, p, fixed) for c, p in zip(own, points, strict=True)]), noise


def _turned(covariance, point, fixed) -> Float[np.ndarray, "3 3"]:
    """Transform a covariance of (u, w, 1/r) to azimuth, elevation and range."""
    u, w, rho = point
    cosine = np.sqrt(max(1.0 - w**2, 1e-12))
    ahead = np.sqrt(max(1.0 - u**2 - w**2, 1e-12))
    range_slope = -1.0 / rho**2 if rho > 0 else 0.0
    turn = np.array([[1.0 / ahead, u * w / (ahead * cosine**2), 0.0],
                     [0.0, 1.0 / cosine, 0.0],
                     [0.0, 0.0, range_slope]])  # fmt: skip
    known = np.isfinite(np.diagonal(covariance))
    found = turn @ np.where(np.outer(known, known), covariance, 0.0) @ turn.T
    known = known & np.array([True, True, rho > 0])
    # If the other angle is an assumption, azimuth has the variance at that fixed angle.
    known[0] &= known[1] or 1 in fixed
    known[1] &= 1 not in fixed
    known[0] &= 0 not in fixed
    return np.where(np.outer(known, known), found, np.where(np.eye(3, dtype=bool), np.inf, 0.0))
