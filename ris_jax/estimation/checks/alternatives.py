"""Alternative readings of the data, tested against the given one.

A conjugated channel, codes in reverse order or swapped axes are frequent input errors. No source
explains such data. Each reading is fitted by a small matching pursuit on the host, with as many
sources as the estimate has. Only a few scenes with warnings are tested.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import residual_analysis
from ris_jax.estimation.flags import Flag
from ris_jax.physics import static_path

# Maximum number of scenes tested, and of entries of a grid of steering vectors.
MOST_SCENES = 4
_MOST_ENTRIES = 2**23
MOST_SNAPSHOTS = 32
# Maximum number of sources of a pursuit.
_MOST_SOURCES = 3
# Thresholds: evidence in nats over all scenes, and relative decrease of the residual.
_CLEAR = 25.0
_SMALLER = 0.85
# Gain relative to the best reading above which a reading is indistinguishable from it.
_TIE = 0.8
# Refinement of a cell: points per coordinate, and halvings.
_HALVINGS = 8
# Wavefronts that are tested; the others are nearly indistinguishable from these.
_WAVEFRONTS = ("spherical", "spherical_phase", "parabolic")

#: Steering vectors [P, N] at (u, w, 1/r) [P, 3], for element positions [N, 3] and a wavefront.
Steering = Callable[..., Complex[np.ndarray, "P N"]]


class Reading(NamedTuple):
    """One interpretation of the data of a scene."""

    snapshots: Complex[np.ndarray, "L M"]
    channel: Complex[np.ndarray, "M N"]
    codes: Complex[np.ndarray, "L N"]
    positions: Float[np.ndarray, "N 3"]
    signal: config_lib.SourceSignal
    wavefront: config_lib.Wavefront
    conjugate: bool = False  #: steering vectors of the opposite sign convention
    static_path: bool = False  #: remove it before the fit, see `physics.static_path`

    def removed(self) -> "Reading":
        """Return the reading without its static path, if it has one."""
        if not self.static_path:
            return self
        snapshots, codes = map(static_path.without_mean, (self.snapshots, self.codes))
        return self._replace(snapshots=snapshots, codes=codes, static_path=False)


class Cells(NamedTuple):
    """Grid of a pursuit."""

    points: Float[np.ndarray, "G 3"]
    step: Float[np.ndarray, "3"]
    lower: Float[np.ndarray, "3"]
    upper: Float[np.ndarray, "3"]


def cells_of(
    region: search_grid.SearchRegion,
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
) -> Cells | None:
    """Return a grid at the resolution of the array; None if it is too large to store."""
    unit = search_grid.resolution(np.asarray(positions), wavelength=wavelength, wavefront=wavefront)
    lower, upper = region.lower.astype(float), region.upper.astype(float)
    width = upper - lower
    if wavefront == "planar":
        lower[2] = upper[2] = width[2] = 0.0
    with np.errstate(invalid="ignore"):
        shape = np.where(width > 0, np.maximum(np.ceil(width / (0.9 * unit)), 1), 1)
    if not np.prod(shape) * len(positions) <= _MOST_ENTRIES:
        return None
    axes = [
        low + size * (np.arange(int(count)) + 0.5) / count
        for low, size, count in zip(lower, width, shape, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[points[:, 0] ** 2 + points[:, 1] ** 2 < 1.0]
    return Cells(points, width / shape, lower, upper)


def readings(given: Reading) -> Iterator[tuple[Flag, Reading]]:
    """Yield the alternative readings of a scene, each with its flag."""
    yield Flag.CONJUGATED, given._replace(conjugate=True)
    yield Flag.SNAPSHOTS_CONJUGATED, given._replace(snapshots=given.snapshots.conj())
    if np.any(np.imag(given.channel)):
        yield Flag.CHANNEL_CONJUGATED, given._replace(channel=given.channel.conj())
    if np.any(np.imag(given.codes)):
        yield Flag.CODES_CONJUGATED, given._replace(codes=given.codes.conj())
    if len(given.codes) > 1 and not np.array_equal(given.codes, given.codes[::-1]):
        yield Flag.CODES_REVERSED, given._replace(codes=given.codes[::-1])
    if np.isin(given.codes, (0, 1)).all() and (given.codes == 0).any():
        yield Flag.CODE_STATES, given._replace(codes=1.0 - 2.0 * given.codes)
    length, antennas = given.snapshots.shape
    if length == antennas > 1:
        yield Flag.AXES_SWAPPED, given._replace(snapshots=given.snapshots.T)
    order = _other_order(given.positions)
    if order is not None:
        yield Flag.ELEMENT_ORDER, given._replace(positions=given.positions[order])
    extent = np.ptp(given.positions, axis=0)
    if extent[2] > 0 and min(extent[:2]) < 1e-6 * extent[2]:
        flat = int(np.argmin(extent[:2]))
        turned = given.positions.copy()
        turned[:, [flat, 2]] = given.positions[:, [2, flat]]
        yield Flag.ELEMENT_PLANE, given._replace(positions=turned)
    if given.signal == "constant" and length > 1 and antennas > 2:
        yield Flag.INDEPENDENT_SIGNALS, given._replace(signal="independent", static_path=False)
    if given.wavefront != "planar":
        for other in get_args(config_lib.Wavefront):
            if other in _WAVEFRONTS and other != given.wavefront:
                yield Flag.WAVEFRONT, given._replace(wavefront=other)


def _other_order(positions: Float[np.ndarray, "N 3"]) -> np.ndarray | None:
    """Return the element order with rows and columns swapped; None without a grid."""
    extent = np.ptp(positions, axis=0)
    along = [axis for axis in range(3) if extent[axis] > 1e-6 * extent.max()]
    if len(along) != 2:
        return None
    scale = extent.max()
    counts = [len(np.unique(np.round(positions[:, axis] / scale, 6))) for axis in along]
    if counts[0] * counts[1] != len(positions) or min(counts) < 2:
        return None
    fastest = np.argmax(np.abs(positions[1] - positions[0])[along])
    shape = counts[::-1] if fastest == 0 else counts
    return np.arange(len(positions)).reshape(shape).T.ravel()


class Explained(NamedTuple):
    """Result of a pursuit."""

    fraction: float  #: of the energy
    evidence: float  #: nats against noise


def pursue(reading: Reading, cells: Cells, steering: Steering, count: int) -> Explained:
    """Fit `count` sources successively, each refined within its cell, then all once more.

    Args:
      reading: data of one scene.
      cells: grid that is searched.
      steering: of the package, see `Steering`.
      count: 1 or more.
    """

    reading = reading.removed()

    def vectors(points):
        found = steering(points, reading.positions, reading.wavefront)
        return found.conj() if reading.conjugate else found

    constant = reading.signal == "constant"
    snapshots = np.asarray(reading.snapshots, np.complex128)
    energy = np.sum(np.abs(snapshots) ** 2)
    dictionary = vectors(cells.points)
    correlate = Correlator(reading, constant)
    norms = correlate.norms(dictionary)
    places: list[Float[np.ndarray, 3]] = []

    def fitted(points):
        seen = residual_analysis.images(vectors(np.asarray(points)), reading.channel, reading.codes)
        return residual_analysis.fit(snapshots, seen, constant=constant)

    residual = snapshots
    for _ in range(count):
        best = np.argmax(correlate.gains(dictionary, residual, norms))
        places.append(refined(cells.points[best], cells, vectors, correlate, residual))
        residual = fitted(places).residual
    if count > 1:
        for index in range(count):
            others = places[:index] + places[index + 1 :]
            alone = fitted(others).residual
            places[index] = refined(places[index], cells, vectors, correlate, alone)
    residual = fitted(places).residual
    fraction = 1.0 - float(np.sum(np.abs(residual) ** 2) / energy)
    return Explained(fraction, _evidence(fraction, snapshots.shape, constant, count))


def _evidence(fraction: float, shape: tuple[int, ...], constant: bool, count: int) -> float:
    """Return the Chernoff bound, in nats, for white noise with this energy in a subspace."""
    samples = shape[0] * shape[1]
    free = count * (2.5 if constant else shape[0] + 1.5)
    share = min(free / samples, 0.99)
    fraction = min(max(fraction, share), 1.0 - 1e-12)
    return samples * (
        share * np.log(share / fraction) + (1 - share) * np.log((1 - share) / (1 - fraction))
    )


class Correlator:
    """Explained energy of single sources under a reading."""

    def __init__(self, reading: Reading, constant: bool):
        self._channel = np.asarray(reading.channel, np.complex64)
        self._codes = np.asarray(reading.codes, np.complex64)
        self._constant = constant
        if constant:
            gram = (self._channel.conj().T @ self._channel) * (self._codes.conj().T @ self._codes)
            self._gram = gram

    def norms(self, vectors):
        """Energy of the images: [P], or [L, P] of each snapshot."""
        if self._constant:
            return np.sum((vectors @ self._gram.T * vectors.conj()).real, axis=1)
        alike = bool((self._codes == self._codes[0]).all())
        codes = self._codes[:1] if alike else self._codes
        norms = [np.sum(np.abs((vectors * c) @ self._channel.T) ** 2, axis=1) for c in codes]
        return np.broadcast_to(np.stack(norms), (len(self._codes), len(vectors)))

    def gains(self, vectors, residual, norms):
        """Energy that each vector explains of a residual, [P]."""
        back = self._codes.conj() * (residual.astype(np.complex64) @ self._channel.conj())
        if self._constant:
            return np.abs(vectors.conj() @ back.sum(axis=0)) ** 2 / np.maximum(norms, 1e-30)
        return np.sum(np.abs(back @ vectors.conj().T) ** 2 / np.maximum(norms, 1e-30), axis=0)


def refined(point, cells: Cells, vectors, correlate: Any, residual) -> Float[np.ndarray, "3"]:
    """Return the position of the highest gain near a cell, by step halving."""
    offsets = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    step = cells.step / 2.0
    for _ in range(_HALVINGS):
        points = np.clip(point + offsets * step, cells.lower, cells.upper)
        points = points[np.sum(points[:, :2] ** 2, axis=1) < 1.0]
        points = np.concatenate([points, np.repeat(point[None], 27 - len(points), axis=0)])
        around = vectors(points)
        point = points[np.argmax(correlate.gains(around, residual, correlate.norms(around)))]
        step = step / 2.0
    return point


def _shortened(scene: Reading) -> Reading:
    """The scene with its first snapshots only, unless L and M may have been swapped."""
    length, antennas = scene.snapshots.shape
    if length <= MOST_SNAPSHOTS or length == antennas:
        return scene
    rows = slice(MOST_SNAPSHOTS)
    return scene._replace(snapshots=scene.snapshots[rows], codes=scene.codes[rows])


def better(
    scenes: list[Reading],
    counts: list[int],
    explained: list[float],
    cells: Cells | None,
    wide: Cells | None,
    steering: Steering,
) -> Flag:
    """Return the flags of readings that fit the scenes clearly better than the given one.

    Args:
      scenes: data as given, one entry per scene with warnings; at most `MOST_SCENES`.
      counts: sources found in each.
      explained: fraction of each scene's energy that these sources explain.
      cells: from `cells_of`; None skips the test.
      wide: cells beyond the search region, if they are to be tested.
      steering: of the package, see `Steering`.

    Returns:
      The flag of the best reading, or none; several flags if they fit equally well.
    """
    if cells is None or not scenes:
        return Flag(0)
    given_evidence, gained = 0.0, {}
    for scene, found, fraction in zip(scenes, counts, explained, strict=True):
        count = min(max(found, 1), _MOST_SOURCES)
        short = _shortened(scene)
        given = pursue(short, cells, steering, count)
        if found == count and short is scene and fraction > given.fraction:
            constant = scene.signal == "constant"
            shape = scene.removed().snapshots.shape
            evidence = _evidence(fraction, shape, constant, count)
            given = Explained(fraction, evidence)
        given_evidence += given.evidence
        best: dict[Flag, float] = {}
        tried = [(flag, reading, cells) for flag, reading in readings(short)]
        tried += [] if wide is None else [(Flag.OUTSIDE_LIMITS, short, wide)]
        for flag, reading, grid in tried:
            found_here = pursue(reading, grid, steering, count)
            clear = (1.0 - found_here.fraction) < _SMALLER * (1.0 - given.fraction)
            gain = found_here.evidence - given.evidence if clear else 0.0
            best[flag] = max(best.get(flag, 0.0), gain)
        for flag, gain in best.items():
            gained[flag] = gained.get(flag, 0.0) + gain
    most = max(gained.values(), default=0.0)
    if most <= _CLEAR + 0.02 * given_evidence:
        return Flag(0)
    named = next(flag for flag, gain in gained.items() if gain == most)
    # On a square grid, swapped rows and columns are equivalent to swapped angles.
    if named == Flag.ELEMENT_ORDER and gained.get(Flag.OUTSIDE_LIMITS, 0.0) > _TIE * most:
        named |= Flag.OUTSIDE_LIMITS
    if named == Flag.OUTSIDE_LIMITS and gained.get(Flag.ELEMENT_ORDER, 0.0) > most - _CLEAR:
        named |= Flag.ELEMENT_ORDER
    return named
