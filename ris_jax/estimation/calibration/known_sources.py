r"""Factors of the elements from recordings of sources at known positions.

The recording of scene b is linear in the factors g and in the signals s_b,

.. math:: y_b = D_b\,(g \circ f_b) + n_b,\quad f_b = A_b s_b

:math:`D_b` [LM, N] has the rows :math:`h_m \circ c_l`, and the columns of :math:`A_b` [N, K] are
steering vectors. All sums over samples need only
:math:`T_b = D_b^H D_b = (H_b^H H_b) \circ (C_b^H C_b)` and :math:`z_b = D_b^H y_b`.

The signals are eliminated (variable projection: Golub & Pereyra, SIAM J. Numer. Anal. 10(2), 1973).
A Gauss-Newton step on g solves :math:`M\,\delta = \sum_b f_b^* \circ (z_b - T_b x_b)` with

.. math:: M = \sum_b F_b^H (T_b - T_b V_b (V_b^H T_b V_b)^{-1} V_b^H T_b) F_b,\quad
   V_b = \mathrm{diag}(g) A_b,\ F_b = \mathrm{diag}(f_b),\ x_b = g \circ f_b

The covariance of g is :math:`\sigma^2 M^+`. One complex scale is common to g and all signals, and
M is singular along it: g has unit mean power and a real positive sum.

Independent signals are recordings of one snapshot each. Factors per state are factors of N Q
virtual elements, each with the codes of one state only.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import host_steering, surface_calibration
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.physics import static_path as static_path_lib
from ris_jax.physics.element_response import ElementResponse

_ITERATIONS = 100
# The fit has converged if a step reduces the residual by less than this fraction.
_CONVERGED = 1e-9
_FARTHEST = 1e6  # [m]
# Eigenvalues of M below this fraction of the largest are zero.
_SINGULAR = 1e-10


class KnownScene(NamedTuple):
    """Samples of one recording with constant signals, and its steering vectors."""

    snapshots: Complex[np.ndarray, "L M"]
    channel: Complex[np.ndarray, "M N"]
    codes: Complex[np.ndarray, "L N"]
    places: Float[np.ndarray, "K 3"]  # of the sources, x, y, z [m]
    steering: Complex[np.ndarray, "N K"]
    static_path: bool = False  # whether the mean over codes is removed


class SurfaceFit(NamedTuple):
    """Result of a calibration."""

    calibration: surface_calibration.SurfaceCalibration
    #: of real and imaginary parts of P = N or N Q factors; half the Fisher information
    information: Float[np.ndarray, "2P 2P"]
    noise_variance: float  #: of a sample, estimated; near 1 if the recordings' noise is known
    residual_before: Float[np.ndarray, "B"]  #: residual power over noise power, nominal model
    residual_after: Float[np.ndarray, "B"]  #: the same with the factors; one if the model fits
    samples: Int[np.ndarray, "B"]  #: degrees of freedom of each residual

    def with_factors(self, factors: Complex[np.ndarray, "..."]) -> "SurfaceFit":
        """Return the fit with other factors."""
        calibration = dataclasses.replace(self.calibration, factors=factors)
        return self._replace(calibration=calibration)

    def outliers(self, false_alarm_rate: float, least: float = 1.0) -> Int[np.ndarray, "O"]:
        """Return the recordings with a residual above the noise, at a rate for all together.

        Args:
          false_alarm_rate: for all recordings together.
          least: minimum ratio of residual and noise; above 1 if recordings may differ in noise.
        """
        level = scipy.stats.chi2.isf(
            false_alarm_rate / max(len(self.samples), 1), 2 * np.maximum(self.samples, 1)
        )
        level = np.maximum(level / (2 * np.maximum(self.samples, 1)), least)
        return np.flatnonzero(self.residual_after > level)

    def with_information(self, information: Float[np.ndarray, "R R"]) -> "SurfaceFit":
        """Return the fit with information about real and imaginary parts of the factors.

        Args:
          information: times the noise variance, such as that for unknown positions.
        """
        inverse = np.linalg.pinv(information, rcond=_SINGULAR, hermitian=True)
        real, imaginary = np.split(0.5 * self.noise_variance * np.diagonal(inverse), 2)
        deviations = np.sqrt(np.maximum(0.5 * (real + imaginary), 0.0))
        factors = self.calibration.factors
        known = np.isfinite(self.calibration.deviations)
        deviations = np.where(known, deviations.reshape(factors.shape), np.inf)
        calibration = dataclasses.replace(self.calibration, deviations=deviations)
        return self._replace(calibration=calibration, information=information / self.noise_variance)

    @property
    def gain_db(self) -> float:
        """Ratio of the residual powers without and with the factors [dB]."""
        weights = self.samples / self.samples.sum()
        return float(
            10 * np.log10(weights @ self.residual_before / (weights @ self.residual_after))
        )

    @property
    def phase_deviations(self) -> Float[np.ndarray, "..."]:
        """Standard deviations of the phases of the factors [rad]."""
        return self.calibration.deviations / np.abs(self.calibration.factors)


class SceneSums(NamedTuple):
    """Sums over the samples of an entry."""

    gram: Complex[np.ndarray, "P P"]  # T
    matched: Complex[np.ndarray, "P"]  # z
    steering: Complex[np.ndarray, "P K"]  # A
    energy: float
    samples: int

    def with_steering(self, steering: Complex[np.ndarray, "N K"], repeat: int) -> "SceneSums":
        """Return the sums with other steering vectors; `repeat` is the number of states."""
        return self._replace(steering=np.repeat(steering, repeat, axis=0))


class SignalFit(NamedTuple):
    """Least-squares signals of an entry for given factors."""

    signals: Complex[np.ndarray, "K"]  # s
    field: Complex[np.ndarray, "P"]  # f
    free: Complex[np.ndarray, "P P"]  # T with the signals projected out
    gradient: Complex[np.ndarray, "P"]  # z - T x
    residual: float


def places_of(truth: SourceTruth, index: int) -> Float[np.ndarray, "K 3"]:
    """Return x, y, z [m] of the sources of a recording; plane waves come from 1000 km."""
    count = int(truth.num_sources[index])
    azimuth, elevation, source_range = (
        part[index, :count] for part in (truth.azimuth, truth.elevation, truth.source_range)
    )
    return np.minimum(source_range, _FARTHEST)[:, None] * np.stack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        axis=1,
    )


def known_scenes(
    snapshots: Complex[np.ndarray, "B L M"],
    channel: Complex[np.ndarray, "B M N"],
    codes: Complex[np.ndarray, "B L N"],
    positions: Float[np.ndarray, "N 3"],
    truth: SourceTruth,
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    source_signal: config_lib.SourceSignal = "constant",
    noise_variance: Float[np.ndarray, "B"] | None = None,
    static_path: bool = False,
) -> tuple[list[KnownScene], Int[np.ndarray, "S"]]:
    """Return the recordings with a source, and the index of the recording of each entry.

    Independent signals give one entry per snapshot. If the noise variances are known, snapshots are
    in units of the noise, so that weak and strong recordings have the right weights. A static path
    can be removed from constant signals, see `ris_jax.physics.static_path`.

    Raises:
      RunError: a static path with independent signals or with a single code.
    """
    if static_path and (source_signal != "constant" or snapshots.shape[1] < 2):
        raise errors.RunError(
            "static_path: expected constant signals and two or more codes, found "
            f"{source_signal} signals and {snapshots.shape[1]} codes; do not remove a path"
        )
    if noise_variance is not None and np.isfinite(noise_variance).all():
        snapshots = snapshots / np.sqrt(noise_variance)[:, None, None]
    scenes, of_scene = [], []
    for index, count in enumerate(truth.num_sources):
        if not count:
            continue
        places = places_of(truth, index)
        steering = host_steering.steering_to(
            places, positions, wavelength=wavelength, wavefront=wavefront, response=response
        ).T
        parts = [slice(None)] if source_signal == "constant" else [
            slice(row, row + 1) for row in range(snapshots.shape[1])
        ]  # fmt: skip
        for part in parts:
            scenes.append(
                KnownScene(
                    snapshots[index, part],
                    channel[index],
                    codes[index, part],
                    places,
                    steering,
                    static_path,
                )
            )
            of_scene.append(index)
    return scenes, np.array(of_scene, int)


def sums_of(scene: KnownScene, states: Complex[np.ndarray, "Q"] | None) -> SceneSums:
    """Return the sums over the samples of an entry, for N or N Q factors."""
    snapshots, channel, codes, steering = (
        np.asarray(part, np.complex128)
        for part in (scene.snapshots, scene.channel, scene.codes, scene.steering)
    )
    if states is not None:
        chosen = surface_calibration.states_of(codes, states)[..., None] == np.arange(len(states))
        codes = (codes[..., None] * chosen).reshape(len(codes), -1)
        channel = np.repeat(channel, len(states), axis=1)
        steering = np.repeat(steering, len(states), axis=0)
    if scene.static_path:
        snapshots, codes = map(static_path_lib.without_mean, (snapshots, codes))
    gram = (channel.conj().T @ channel) * (codes.conj().T @ codes)
    matched = np.sum((snapshots @ channel.conj()) * codes.conj(), axis=0)
    energy = float(np.sum(np.abs(snapshots) ** 2))
    return SceneSums(gram, matched, steering, energy, snapshots.size)


def fitted(sums: SceneSums, factors: Complex[np.ndarray, "P"]) -> SignalFit:
    """Fit the signals of an entry for given factors."""
    columns = factors[:, None] * sums.steering
    seen = sums.gram @ columns
    inverse = np.linalg.pinv(columns.conj().T @ seen, hermitian=True)
    signals = inverse @ (columns.conj().T @ sums.matched)
    explained = float(np.real(np.vdot(columns @ signals, sums.matched)))
    return SignalFit(
        signals=signals,
        field=sums.steering @ signals,
        free=sums.gram - seen @ inverse @ seen.conj().T,
        gradient=sums.matched - seen @ signals,
        residual=max(sums.energy - explained, 0.0),
    )


class Information(NamedTuple):
    """Fisher information of an entry times half the noise variance, signals unknown."""

    moves: Float[np.ndarray, "D D"]  # of real parameters
    cross: Float[np.ndarray, "D R"]  # with real and imaginary parts of factors, R = 2 P
    factors: Float[np.ndarray, "R R"]
    slope: Float[np.ndarray, "D"]  # half the derivatives of the likelihood
    factor_slope: Float[np.ndarray, "R"]


def real_parts(matrix: Complex[np.ndarray, "P P"]) -> Float[np.ndarray, "R R"]:
    """Return a Hermitian form in P complex numbers as one in their real and imaginary parts."""
    real, imaginary = np.real(matrix), np.imag(matrix)
    return np.block([[real, -imaginary], [imaginary, real]])


def information(found: SignalFit, moved: Complex[np.ndarray, "P D"]) -> Information:
    """Return the information of an entry about real parameters and factors.

    Args:
      found: of the entry.
      moved: derivatives of g f with respect to the real parameters.
    """
    seen = found.free @ moved
    cross = seen.conj().T * found.field
    slope = found.field.conj() * found.gradient
    return Information(
        moves=np.real(moved.conj().T @ seen),
        cross=np.concatenate([np.real(cross), -np.imag(cross)], axis=1),
        factors=real_parts(found.field.conj()[:, None] * found.free * found.field),
        slope=np.real(moved.conj().T @ found.gradient),
        factor_slope=np.concatenate([np.real(slope), np.imag(slope)]),
    )


def total(parts: Sequence[Information]) -> Information:
    """Return the sum of the information of several entries."""
    return Information(*(np.sum(np.stack(values), axis=0) for values in zip(*parts, strict=True)))


def _normal(all_sums: list[SceneSums], factors: Complex[np.ndarray, "P"]):
    """Return M, the gradient and the residuals of the entries."""
    size = len(factors)
    matrix, gradient = np.zeros((size, size), complex), np.zeros(size, complex)
    residuals = []
    for sums in all_sums:
        found = fitted(sums, factors)
        matrix += found.field.conj()[:, None] * found.free * found.field
        gradient += found.field.conj() * found.gradient
        residuals.append(found.residual)
    return matrix, gradient, np.array(residuals)


def _normalised(factors: Complex[np.ndarray, "P"]) -> Complex[np.ndarray, "P"]:
    """Return factors of unit mean power with a real positive sum."""
    scaled = factors / np.sqrt(np.mean(np.abs(factors) ** 2))
    total = scaled.sum()
    return scaled * (np.conj(total) / abs(total) if abs(total) > 0 else 1.0)


def _require_determined(
    values: Float[np.ndarray, "P"], used: Bool[np.ndarray, "P"], scenes: int
) -> None:
    needed = int(used.sum()) - 1
    rank = int(np.sum(values > _SINGULAR * values[-1]))
    if rank < needed:
        raise errors.RunError(
            f"recordings: expected enough samples to determine {needed} factors, found "
            f"{rank} in {scenes} recordings; record more, or sources at more positions"
        )


def calibrate(
    scenes: Sequence[KnownScene],
    of_scene: Int[np.ndarray, "S"],
    *,
    states: Complex[np.ndarray, "Q"] | None = None,
    start: Complex[np.ndarray, "P"] | None = None,
) -> SurfaceFit:
    """Estimate the factors of the elements from recordings of sources at known positions.

    Args:
      scenes: from `known_scenes`.
      of_scene: [S] the recording that each entry belongs to.
      states: nominal codes of the states; None for one factor per element.
      start: first factors; one by default.

    Returns:
      Factors with standard deviations; an element or a state that no recording uses has the factor
      one and an infinite deviation.

    Raises:
      RunError: no recording has a source, or they do not determine all factors.
    """
    if not scenes:
        raise errors.RunError(
            "recordings: expected at least one with a source at a known position; found none"
        )
    all_sums = [sums_of(scene, states) for scene in scenes]
    size = len(all_sums[0].matched)
    factors = np.ones(size, complex) if start is None else np.asarray(start, complex).ravel()
    nominal = np.ones(size, complex)
    before = np.array([fitted(sums, nominal).residual for sums in all_sums])
    matrix, gradient, residuals = _normal(all_sums, factors)
    for _ in range(_ITERATIONS):
        step = np.linalg.pinv(matrix, rcond=_SINGULAR, hermitian=True) @ gradient
        for _ in range(20):
            trial = _normal(all_sums, factors + step)
            if trial[2].sum() <= residuals.sum():
                break
            step = step / 2
        else:
            break
        gained = residuals.sum() - trial[2].sum()
        factors = factors + step
        matrix, gradient, residuals = trial
        if gained <= _CONVERGED * residuals.sum():
            break
    factors = _normalised(factors)
    return _result(all_sums, factors, before, of_scene, states)


def _per_scene(
    values: Float[np.ndarray, "S"], of_scene: Int[np.ndarray, "S"]
) -> Float[np.ndarray, "B"]:
    return np.array([values[of_scene == scene].sum() for scene in np.unique(of_scene)])


def _result(all_sums, factors, before, of_scene, states) -> SurfaceFit:
    matrix, _, after = _normal(all_sums, factors)
    used = np.real(np.diagonal(matrix)) > _SINGULAR * np.real(np.diagonal(matrix)).max()
    values = np.linalg.eigvalsh(matrix)
    scenes = np.unique(of_scene)
    _require_determined(values, used, len(scenes))
    counts = np.array([sums.samples - sums.steering.shape[1] for sums in all_sums])
    unknowns = int(used.sum()) - 1
    freedom = counts.sum() - unknowns
    if freedom <= 0:
        raise errors.RunError(
            f"recordings: expected more samples than unknowns, found {counts.sum()} samples beside "
            f"the signals for {unknowns} factors; record more"
        )
    free = counts * freedom / counts.sum()  # each entry pays its part of the factors
    # The median: a recording with a wrong position does not raise the noise.
    noise = float(np.median(_per_scene(after, of_scene) / _per_scene(free, of_scene)))
    energy = sum(sums.energy for sums in all_sums)
    noise = max(noise, np.finfo(float).eps * energy / counts.sum())  # rounding
    inverse = np.linalg.pinv(matrix, rcond=_SINGULAR, hermitian=True)
    variance = noise * np.real(np.diagonal(inverse)) / 2.0
    deviations = np.where(used, np.sqrt(np.maximum(variance, 0.0)), np.inf)
    factors = np.where(used, factors, 1.0)
    shape = (-1,) if states is None else (-1, len(states))
    free = _per_scene(free, of_scene)
    return SurfaceFit(
        surface_calibration.SurfaceCalibration(
            factors.reshape(shape), deviations.reshape(shape), states
        ),
        real_parts(matrix) / noise,
        noise,
        _per_scene(before, of_scene) / (free * noise),
        _per_scene(after, of_scene) / (free * noise),
        free.astype(int),
    )
