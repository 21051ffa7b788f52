"""Ambiguous positions: grating lobes and mirror images that explain a source equally well."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import alternatives, residual_analysis
from ris_jax.estimation.checks.check_input import CheckInput

# Squared correlation and log-likelihood difference that distinguish two positions.
_ALIKE = 0.5
_DISTINCT = 12.0
# Main lobe radius, in units of resolution.
_MAIN_LOBE = 2.5


class Lobes(NamedTuple):
    """Shifts of grating lobes and mirror images."""

    shifts: Float[np.ndarray, "S 2"]  #: in u and w
    unit: Float[np.ndarray, "3"]  #: resolution


def lobes_of(problem: CheckInput) -> Lobes | None:
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


def is_ambiguous(
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
