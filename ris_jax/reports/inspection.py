"""Interpretation and plausibility checks of recordings, in NumPy; nothing is compiled.

`inspect` measures the array, the codes, the operator and the received power, and fits two sources
to two scenes. `estimators.alternatives` then tries other readings of the same scenes, such as the
opposite sign convention.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float
from scipy.spatial import KDTree

from ris_jax import config as config_lib
from ris_jax.data.recordings import host_steering
from ris_jax.data.recordings.reader import Recordings
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import alternatives
from ris_jax.estimation.flags import Flag
from ris_jax.physics import static_path

# Usual element spacings of surfaces, in wavelengths.
_SPACING = (0.1, 1.0)
_UNITS = {"centimetres": 1e-2, "millimetres": 1e-3}
_NEAR = 1e-3  # distance below which elements coincide, in wavelengths
_OFF_CENTRE = 1.0  # distance of the centre from the origin, in extents
_FACES = 0.7  # cosine of the angle between the normal of a flat array and +z
_FLAT = 1e-3  # thickness of a flat array, in extents
_MOST_ELEMENTS = 1024  # for eigenvalues of the operator
_MOST_LEVELS = 64  # of codes that are counted
# Scenes and sources in the fit, and the evidence above chance, in nats, that counts as a fit.
_FITTED_SCENES, _FITTED_SOURCES, _EVIDENCE = 2, 2, 28.0
_DRAWS = 5  # of random phases, to measure the evidence by chance
_LEAST_FREE = 32  # samples beyond the elements, for a noise floor
_SAME_SNR_DB = 4.0
_LARGEST_CONDITION = 1e4
_STEPS_DEG = (180.0, 90.0, 45.0, 22.5)
_RADIATION = "between 0.1 and 1 wavelengths"


class Inspection(NamedTuple):
    """Result of `inspect`."""

    lines: list[tuple[str, str]]  #: (topic, text)
    doubts: list[str]  #: warnings, one line each


def inspect(recordings: Recordings) -> Inspection:
    """Describe how recordings are interpreted, and warn about suspicious values.

    Args:
      recordings: from `recordings.read`.
    """
    report = Inspection([], [])
    _geometry(recordings, report)
    _codes(recordings, report)
    _operator(recordings, report)
    _power(recordings, report)
    static = _static_path(recordings, report)
    constant = _fit(recordings, static, report)
    _noise(recordings, static, constant, report)
    return report


def _geometry(recordings: Recordings, report: Inspection) -> None:
    positions, wavelength = recordings.positions, recordings.wavelength
    frequency = config_lib.SPEED_OF_LIGHT / wavelength
    report.lines.append(("wavelength", f"{wavelength:.4g} m, frequency {frequency / 1e9:.4g} GHz"))
    centre, extent = positions.mean(axis=0), np.ptp(positions, axis=0)
    size = float(np.linalg.norm(extent))
    sides = " x ".join(f"{side:.4g}" for side in extent)
    report.lines.append(
        ("elements", f"{len(positions)} within {sides} m, centre {_vector(centre)}")
    )
    if len(positions) > 1:
        _spacing(positions, wavelength, report)
        report.lines.append(("resolution", _resolution(extent, size, wavelength)))
    if np.linalg.norm(centre) > _OFF_CENTRE * max(size, wavelength):
        report.doubts.append(
            f"element_positions: the centre {_vector(centre)} is {np.linalg.norm(centre):.4g} m "
            "from the origin: map coordinates? expected the origin on the surface"
        )
    if recordings.response is not None:
        report.lines.append(("element response", recordings.response.description()))
    normal = _normal(positions, size)
    if normal is not None and abs(normal[2]) < _FACES:
        report.doubts.append(
            f"element_positions: the surface is perpendicular to {_vector(normal)}: map "
            "coordinates? expected it in the x-y plane, facing +z"
        )


def _vector(values: np.ndarray) -> str:
    return f"({', '.join(f'{value:.4g}' for value in np.round(values, 6) + 0.0)})"


def _resolution(extent: np.ndarray, size: float, wavelength: float) -> str:
    """Return half-power beam widths at boresight, and the Fraunhofer distance."""
    widths = [
        f"{name} {np.rad2deg(0.886 * wavelength / side):.3g} deg"
        for name, side in (("azimuth", extent[0]), ("elevation", extent[1]))
        if side > 0.886 * wavelength
    ]
    return (
        f"{', '.join([*widths, ''])}near field up to {2.0 * size**2 / wavelength:.4g} m "
        "(Fraunhofer distance)"
    )


def _spacing(positions: np.ndarray, wavelength: float, report: Inspection) -> None:
    tree = KDTree(positions)
    nearest = tree.query(positions, k=2)[0][:, 1]
    spacing = float(np.median(nearest))
    report.lines.append(("spacing", f"{spacing:.4g} m, {spacing / wavelength:.3g} wavelengths"))
    near = int(np.count_nonzero(nearest < _NEAR * wavelength))
    if near:
        report.doubts.append(f"element_positions: {near} elements coincide with another")
    if not _SPACING[0] * (1 - 1e-6) <= spacing / wavelength <= _SPACING[1] * (1 + 1e-6):
        factors = {**_UNITS, "wavelengths": wavelength}
        fitting = [
            unit
            for unit, factor in factors.items()
            if _SPACING[0] <= factor * spacing / wavelength <= _SPACING[1]
        ]
        looks = f": in {' or '.join(fitting)}? expected metres" if fitting else ""
        report.doubts.append(
            f"element_positions: the spacing is {spacing / wavelength:.3g} wavelengths, expected "
            f"{_RADIATION}{looks}; or the wavelength is wrong"
        )


def _normal(positions: np.ndarray, size: float) -> Float[np.ndarray, "3"] | None:
    """Return the unit normal of a flat array; None for a line or a body."""
    if len(positions) < 3:
        return None
    _, lengths, axes = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)
    scale = size * np.sqrt(len(positions))
    flat = lengths[2] < _FLAT * scale < lengths[1]
    return axes[2] if flat else None


def _codes(recordings: Recordings, report: Inspection) -> None:
    codes = recordings.codes[0]
    modulus = np.abs(recordings.codes)
    low, high = float(modulus.min()), float(modulus.max())
    levels = np.unique(np.round(codes, 3))
    count = f"{len(levels)} levels" if len(levels) <= _MOST_LEVELS else "many levels"
    of = "one set for all scenes" if _shared(recordings.codes) else "a set for each scene"
    amplitude = f"{low:.3g}" if high - low < 1e-3 else f"{low:.3g} to {high:.3g}"
    report.lines.append(("codes", f"{len(codes)}, {of}, amplitude {amplitude}, {count}"))
    if len(codes) > 1 and np.ptp(np.abs(codes - codes[0])) == 0 and not _plain(recordings):
        report.doubts.append("codes: all are the same: only the antennas separate the elements")
    doubt = _code_doubt(codes, high)
    if doubt:
        report.doubts.append(f"codes: {doubt}")


def _plain(recordings: Recordings) -> bool:
    """Return whether this is an array without a surface."""
    return bool((recordings.codes[0] == 1).all())


def _shared(array: np.ndarray) -> bool:
    return array.strides[0] == 0 or len(array) == 1


def _code_doubt(codes: Any, largest: float) -> str:
    """Return why complex codes are not reflection coefficients; empty if they are."""
    if largest > 1.0 + 1e-3 and not codes.imag.any():
        whole = bool((codes.real == np.round(codes.real)).all())
        kind = "states (give states and coefficients)" if whole else "phases (give phases_rad)"
        return f"real values up to {largest:.3g} look like {kind}"
    if largest > 2.0:
        return f"amplitudes up to {largest:.3g}: expected reflection coefficients of about 1"
    step = _degrees_taken_for_radians(codes)
    if step:
        return f"exp(j phase) of multiples of {step:g} as if they were radians: in degrees?"
    return ""


def _degrees_taken_for_radians(codes: Complex[np.ndarray, "L N"]) -> float:
    """Return the step of phases in degrees that were used as radians; 0 if there is none."""
    if not np.allclose(np.abs(codes), 1.0, atol=1e-3):
        return 0.0
    for step in _STEPS_DEG:
        for start in (0.0, -180.0):
            allowed = np.exp(1j * (start + step * np.arange(round(360 / step) + 1)))
            distance = np.min(np.abs(codes.reshape(-1, 1) - allowed), axis=1)
            regular = np.exp(1j * np.deg2rad(step) * np.arange(round(360 / step)))
            usual = np.min(np.abs(codes.reshape(-1, 1) - regular), axis=1)
            if distance.max() < 1e-3 < usual.max():
                return step
    return 0.0


def _operator(recordings: Recordings, report: Inspection) -> None:
    """Report the condition number of the operator of the first scene."""
    _, length, antennas = recordings.snapshots.shape
    elements = len(recordings.positions)
    shape = f"{length * antennas} x {elements}"
    if elements > _MOST_ELEMENTS:
        text = "condition number not computed"
    elif length * antennas < elements:
        text = "fewer samples than elements: it has no inverse"
    else:
        channel, codes = (
            np.asarray(array[0], np.complex128) for array in (recordings.channel, recordings.codes)
        )
        values = np.linalg.eigvalsh((channel.conj().T @ channel) * (codes.conj().T @ codes))
        ratio = np.sqrt(values[-1] / max(values[0], 1e-15 * values[-1]))
        text = f"condition number {ratio:.3g}"
        text += ", nearly singular" if ratio > _LARGEST_CONDITION else ""
    report.lines.append(("operator", f"{shape}, {text}"))


def _power(recordings: Recordings, report: Inspection) -> None:
    power = np.abs(recordings.snapshots) ** 2
    mean = power.mean()
    spreads = [
        f"{name} {_span_db(power.mean(axis=axes) / mean)}"
        for name, axes in (("scenes", (1, 2)), ("codes", (0, 2)), ("antennas", (0, 1)))
        if power.shape[({0, 1, 2} - set(axes)).pop()] > 1
    ]
    text = f"{10 * np.log10(mean):.1f} dB mean"
    report.lines.append(("power", f"{text}; over {', over '.join(spreads)}" if spreads else text))
    silent = np.flatnonzero(~power.any(axis=(0, 1)))
    if silent.size:
        report.doubts.append(f"snapshots: antenna {silent[0]} is zero in all scenes")


def _span_db(ratios: np.ndarray) -> str:
    low, high = 10 * np.log10(np.maximum([ratios.min(), ratios.max()], 1e-30))
    return f"{low:+.1f} to {high:+.1f} dB"


def _static_path(recordings: Recordings, report: Inspection) -> bool:
    """Test if the mean over codes has more power than codes of this mean let through."""
    scenes, length, _ = recordings.snapshots.shape
    codes = recordings.codes
    expected = max(static_path.mean_fraction(codes), 1.0 / length)
    if expected > 0.3:
        report.lines.append(("static path", "not visible: the codes have a large mean"))
        return False
    power = np.mean(np.abs(recordings.snapshots) ** 2, axis=(1, 2))
    held = np.mean(np.abs(recordings.snapshots.mean(axis=1)) ** 2, axis=1) / power
    share = float(held.mean())
    seen = share > (2.0 + 4.0 / np.sqrt(scenes)) * expected + 0.02
    about = f"the mean over codes holds {share:.1%} of the power, {expected:.1%} expected"
    if seen:
        ratio = (share - expected) / max(1.0 - share, 1e-6)
        about = f"{10 * np.log10(ratio):+.1f} dB relative to the surface; {about}"
    report.lines.append(("static path", about if seen else f"none seen; {about}"))
    return seen


def _chosen(recordings: Recordings) -> list[int]:
    """Select the scenes to fit: those with a source, by SNR if it is known."""
    order = np.arange(len(recordings.snapshots))
    if recordings.snr_db is not None:
        order = np.argsort(-recordings.snr_db, kind="stable")
    if recordings.truth is not None:
        order = order[recordings.truth.num_sources[order] > 0]
    return order[:_FITTED_SCENES].tolist()


def _readings(recordings: Recordings, static: bool) -> list[alternatives.Reading]:
    """Return scenes as given; their static path is removed before a fit."""
    centred = recordings.positions - recordings.positions.mean(axis=0)
    found = []
    for scene in _chosen(recordings):
        found.append(
            alternatives.Reading(
                recordings.snapshots[scene].astype(np.complex128),
                recordings.channel[scene].astype(np.complex128),
                recordings.codes[scene].astype(np.complex128),
                centred,
                recordings.source_signal or "constant",
                recordings.wavefront or "spherical",
                static_path=static,
            )
        )
    return found


def _fit(recordings: Recordings, static: bool, report: Inspection) -> bool:
    """Fit sources under this and other readings; return whether the signals are constant."""

    scenes = _readings(recordings, static)
    constant = recordings.source_signal != "independent"
    if not scenes:
        return constant
    cells = alternatives.cells_of(
        search_grid.SearchRegion(),
        scenes[0].positions,
        wavelength=recordings.wavelength,
        wavefront=scenes[0].wavefront,
    )
    if cells is None:
        report.lines.append(("fit", "not tried: too many elements"))
        return constant
    if report.doubts:  # a wrong unit explains a bad fit
        return constant
    steering = _steering(recordings, cells.points, scenes[0].positions)
    counts = [_FITTED_SOURCES] * len(scenes)
    found = [alternatives.pursue(scene, cells, steering, _FITTED_SOURCES) for scene in scenes]
    fractions = [one.fraction for one in found]
    explained = float(np.mean(fractions))
    flags = alternatives.better(scenes, counts, fractions, cells, None, steering) & ~Flag.WAVEFRONT
    if flags & Flag.INDEPENDENT_SIGNALS:
        report.lines.append(("signals", Flag.INDEPENDENT_SIGNALS.sentence))
        # The mistakes that the data can have besides.
        return _fit(dataclasses.replace(recordings, source_signal="independent"), False, report)
    report.lines.append(("fit", f"two sources explain {explained:.0%} of the received power"))
    report.doubts.extend(flag.sentence for flag in Flag if flags & flag)
    if not flags and not _beyond_chance(scenes, found, cells, steering):
        report.doubts.append(
            "no source explains the snapshots better than chance: the channel, codes or positions "
            "belong to other snapshots (a channel that was measured with other codes?)"
        )
    return constant


def _steering(recordings: Recordings, grid: np.ndarray, array: np.ndarray) -> alternatives.Steering:
    """Return a steering function that caches the vectors of the whole grid."""
    kept: dict[str, np.ndarray] = {}

    def steering(points, positions, wavefront):
        whole = points is grid and positions is array
        if whole and wavefront in kept:
            return kept[wavefront]
        found = host_steering.steering(
            points, positions, wavelength=recordings.wavelength, wavefront=wavefront,
            response=recordings.response,
        )  # fmt: skip
        if whole:
            kept[wavefront] = found
        return found

    return steering


def _beyond_chance(
    scenes: list[alternatives.Reading],
    found: list[alternatives.Explained],
    cells: alternatives.Cells,
    steering: alternatives.Steering,
) -> bool:
    """Test if the fit is better than with random phases of the elements."""
    random = np.random.default_rng(0)
    chance = 0.0
    for _ in range(_DRAWS):
        phases = np.exp(2j * np.pi * random.random(len(scenes[0].positions)))
        others = [scene._replace(channel=scene.channel * phases) for scene in scenes]
        fits = [alternatives.pursue(other, cells, steering, _FITTED_SOURCES) for other in others]
        chance = max(chance, sum(fit.evidence for fit in fits))
    return sum(fit.evidence for fit in found) > chance + _EVIDENCE


def _noise(recordings: Recordings, static: bool, constant: bool, report: Inspection) -> None:
    """Report the power outside of the operator's range: for constant signals, the noise."""
    _, length, antennas = recordings.snapshots.shape
    elements = len(recordings.positions)
    free = (length - static) * antennas - elements
    known = recordings.snr_db
    given = "" if known is None else f"snr_db of the file {np.median(known):.3g} dB"
    if elements > _MOST_ELEMENTS or not constant or free < _LEAST_FREE:
        report.lines.append(("noise", given or "not known: too few samples, or signals change"))
        return
    ratios = []
    for scene, reading in zip(_chosen(recordings), _readings(recordings, static), strict=True):
        left = reading.removed()
        floor = _floor(left, free)
        power = float(np.mean(np.abs(left.snapshots) ** 2))
        signal = max(power - floor, 1e-12 * power)
        ratios.append((scene, 10 * np.log10(floor), 10 * np.log10(signal / floor)))
    if not ratios:
        report.lines.append(("noise", given or "not known"))
        return
    floor_db, snr_db = np.median([row[1:] for row in ratios], axis=0)
    text = f"floor {floor_db:.1f} dB, SNR {snr_db:.1f} dB outside of the operator's range"
    report.lines.append(("noise", f"{text}; {given}" if given else text))
    if known is not None and not report.doubts:
        off = float(np.median([estimate - known[scene] for scene, _, estimate in ratios]))
        if abs(off) > _SAME_SNR_DB:
            report.doubts.append(
                f"snr_db: the noise floor implies {off:+.1f} dB against the file: the SNR is "
                "wrong, or positions, codes or channel do not fit the data"
            )


def _floor(scene: alternatives.Reading, free: int) -> float:
    """Estimate the noise variance of a scene from the residual of a general field."""
    operator = (scene.codes[:, None, :] * scene.channel[None]).reshape(scene.snapshots.size, -1)
    basis, _ = np.linalg.qr(operator)
    inside = basis.conj().T @ scene.snapshots.ravel()
    energy = np.sum(np.abs(scene.snapshots) ** 2)
    return float(max(energy - np.sum(np.abs(inside) ** 2), 1e-14 * energy) / free)
