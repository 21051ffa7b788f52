r"""Factors of the elements from recordings of sources at unknown positions.

Positions and factors are first estimated in turn, then refined together: Gauss-Newton steps with
the three coordinates of every source as further unknowns, which are eliminated scene by scene.

A phase that is linear or quadratic in the element positions moves all sources nearly alike, in
direction or in inverse range (Rockah & Schultheiss, *Array shape calibration using sources in
unknown locations*, IEEE Trans. ASSP 35(3), 1987). For plane waves no recording shows it. For near
sources at different places the effect differs a little, and the standard deviations show how well
such a phase is determined. While positions and factors are estimated in turn, these phases are
zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import host_steering
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.estimation.calibration import damped_steps, known_sources, pose
from ris_jax.estimation.calibration.known_sources import KnownScene, SurfaceFit
from ris_jax.physics.element_response import ElementResponse

MOST_ROUNDS = 20
# A round ends the first part if it reduces the residual by less than this fraction.
_SMALL_GAIN = 1e-4
_STEPS = 100
_CONVERGED = 1e-7
_LEAST_RANGE = 1e-2  # [m]

Entries = tuple[Sequence[KnownScene], Int[np.ndarray, "S"]]


def common_phases(positions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N D"]:
    """Return an orthonormal basis of the phases that move all sources nearly alike.

    It contains the constant phase, the phases linear in the positions, and the quadratic one.
    """
    centred = positions - positions.mean(axis=0)
    square = np.sum(centred**2, axis=1, keepdims=True)
    columns = np.concatenate([np.ones_like(square), centred, square], axis=1)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > 1e-6 * values[0]]


def without_common_phases(
    factors: Complex[np.ndarray, "N ..."], positions: Float[np.ndarray, "N 3"]
) -> Complex[np.ndarray, "N ..."]:
    """Return factors whose phases have no component in `common_phases`."""
    basis = common_phases(positions)
    mean = factors if factors.ndim == 1 else factors.mean(axis=1)
    for _ in range(3):  # phases are angles: a first step may unwrap some
        turned = np.exp(-1j * (basis @ (basis.T @ np.angle(mean))))
        mean = mean * turned
        factors = (factors.T * turned).T
    return factors


def in_turn(
    locate: Callable[[Complex[np.ndarray, "B L N"]], SourceTruth],
    scenes_at: Callable[[SourceTruth], Entries],
    codes: Complex[np.ndarray, "B L N"],
    positions: Float[np.ndarray, "N 3"],
    *,
    states: Complex[np.ndarray, "Q"] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[SurfaceFit, Entries]:
    """Estimate factors and positions in turn.

    Args:
      locate: returns the sources of all recordings for codes that include factors.
      scenes_at: `known_sources.known_scenes` for given sources.
      codes: [B, L, N] nominal codes.
      positions: [N, 3] elements [m].
      states: nominal codes of the states; None for one factor per element.
      progress: called with the number of each finished round.

    Returns:
      The factors, without common phases, and the recordings with their sources.

    Raises:
      RunError: no source is found, or as `known_sources.calibrate`.
    """
    found, start, before = locate(codes), None, np.inf
    for number in range(1, MOST_ROUNDS + 1):
        if not found.num_sources.any():
            raise errors.RunError(
                "recordings: expected sources for the self-calibration, found none; give positions"
            )
        fit = known_sources.calibrate(*scenes_at(found), states=states, start=start)
        start = without_common_phases(fit.calibration.factors, positions)
        progress(number)
        found = locate(fit.with_factors(start).calibration.apply_to_codes(codes))
        if fit.noise_variance > (1.0 - _SMALL_GAIN) * before:
            break
        before = fit.noise_variance
    entries = scenes_at(found)
    return known_sources.calibrate(*entries, states=states, start=start), entries


def together(
    fit: SurfaceFit,
    entries: Entries,
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> tuple[SurfaceFit, Entries]:
    """Refine factors and positions together.

    Args:
      fit: factors to start from, from `in_turn`.
      entries: recordings with their sources.
      positions: [N, 3] elements [m].
      wavelength: [m].
      wavefront: of the steering vectors.
      response: of the elements; None: the same in all directions.

    Returns:
      The factors, with deviations and information for unknown positions, and the recordings with
      the refined sources.
    """
    wave: dict[str, Any] = {
        "wavelength": wavelength, "wavefront": wavefront, "response": response
    }  # fmt: skip
    states = fit.calibration.states
    repeat = 1 if states is None else len(states)
    scenes, of_scene = entries
    groups = [np.flatnonzero(of_scene == scene) for scene in np.unique(of_scene)]
    sums = [known_sources.sums_of(scene, states) for scene in scenes]
    elements = fit.calibration.factors.size

    def steered(places, group):
        steering = host_steering.steering_to(places, positions, **wave).T
        return [sums[index].with_steering(steering, repeat) for index in group]

    def residual(point):
        factors, all_places = point
        if any((places[:, 2] < _LEAST_RANGE).any() for places in all_places):  # behind the array
            return np.inf
        return sum(
            known_sources.fitted(part, factors).residual
            for places, group in zip(all_places, groups, strict=True)
            for part in steered(places, group)
        )

    def equations(point):
        """Return the information of each recording."""
        (factors, all_places), found = point, []
        for places, group in zip(all_places, groups, strict=True):
            slopes = np.repeat(pose.steering_slopes(places, positions, **wave), repeat, axis=1)
            parts = []
            for part in steered(places, group):
                one = known_sources.fitted(part, factors)
                moved = factors[:, None] * np.einsum("xnk,k->nkx", slopes, one.signals).reshape(
                    elements, -1
                )
                parts.append(known_sources.information(one, moved))
            found.append(known_sources.total(parts))
        return found

    def reduced(found, damping):
        """Eliminate the positions; return the system of the factors."""
        matrix, slope = np.zeros((2 * elements, 2 * elements)), np.zeros(2 * elements)
        inverses = []
        for part in found:
            scale = np.diag(np.maximum(np.diagonal(part.moves), np.finfo(float).tiny))
            inverse = np.linalg.pinv(part.moves + damping * scale, hermitian=True)
            matrix += part.factors - part.cross.T @ inverse @ part.cross
            slope += part.factor_slope - part.cross.T @ (inverse @ part.slope)
            inverses.append(inverse)
        return matrix, slope, inverses

    def step(point, found, damping):
        factors, all_places = point
        matrix, slope, inverses = reduced(found, damping)
        matrix = matrix + damping * np.diag(np.diagonal(sum(part.factors for part in found)))
        move = np.linalg.lstsq(matrix, slope, rcond=None)[0]
        real, imaginary = np.split(move, 2)
        return factors + real + 1j * imaginary, [
            places + (inverse @ (part.slope - part.cross @ move)).reshape(-1, 3)
            for places, inverse, part in zip(all_places, inverses, found, strict=True)
        ]

    start = fit.calibration.factors.ravel(), [scenes[group[0]].places for group in groups]
    factors, all_places = damped_steps.minimise(
        start, equations, step, residual, most_steps=_STEPS, converged=_CONVERGED
    )
    moved = list(scenes)
    for places, group in zip(all_places, groups, strict=True):
        steering = host_steering.steering_to(places, positions, **wave).T
        for index in group.tolist():
            moved[index] = scenes[index]._replace(places=places, steering=steering)
    fit = known_sources.calibrate(moved, of_scene, states=states, start=factors)
    matrix, _, _ = reduced(equations((fit.calibration.factors.ravel(), all_places)), 0.0)
    return fit.with_information(matrix), (moved, of_scene)
