r"""Pose of a surface, together with the factors of its elements, from sources at known positions.

In the frame of the surface a source at p is at :math:`p' = R^T (p - t)`. A small rotation
:math:`\omega` and shift :math:`\tau` in this frame move it by :math:`-\omega \times p' - \tau`.
Gauss-Newton steps on factors and pose together use the projected sums of
`ris_jax.estimation.calibration.known_sources`.

A small rotation and a phase that is linear over the surface have nearly the same effect. The
rotation moves a source by an amount that depends on its direction, the phase does not. Sources in
different directions and at different ranges separate the two; the standard deviations show it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from ris_jax import config as config_lib
from ris_jax.data.recordings import host_steering
from ris_jax.estimation.calibration import damped_steps, known_sources
from ris_jax.estimation.calibration.known_sources import KnownScene, SurfaceFit
from ris_jax.physics.element_response import ElementResponse

_ITERATIONS = 60
_CONVERGED = 1e-9
_SINGULAR = 1e-13
# Step of finite differences, as a fraction of the range of a source.
_STEP = 1e-4


class Pose(NamedTuple):
    """Element q of the drawing is at ``rotation @ q + offset``."""

    rotation: Float[np.ndarray, "3 3"]
    offset: Float[np.ndarray, "3"]  #: [m]
    angle_deviations: Float[np.ndarray, "3"]  #: standard deviations about the surface's axes [rad]
    offset_deviations: Float[np.ndarray, "3"]  #: along the surface's axes [m]

    def seen(self, places: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "K 3"]:
        """Return positions of the room in the frame of the surface [m]."""
        return (places - self.offset) @ self.rotation

    def moved(self, turn: Float[np.ndarray, "3"], shift: Float[np.ndarray, "3"]) -> "Pose":
        """Return the pose after a rotation [rad] and a shift [m] in the frame of the surface."""
        rotation = self.rotation @ Rotation.from_rotvec(turn).as_matrix()
        return self._replace(rotation=rotation, offset=self.offset + rotation @ shift)


def steering_slopes(
    places: Float[np.ndarray, "K 3"],
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
    response: ElementResponse | None = None,
) -> np.ndarray:
    """Return derivatives [3, N, K] of steering vectors with respect to x, y, z [1/m]."""
    step = _STEP * np.linalg.norm(places, axis=1).min()
    return np.stack(
        [
            (ahead - behind) / (2 * step)
            for ahead, behind in (
                (
                    host_steering.steering_to(
                        places + sign * step * axis, positions,
                        wavelength=wavelength, wavefront=wavefront, response=response,
                    ).T
                    for sign in (1, -1)
                )
                for axis in np.eye(3)
            )
        ]
    )  # fmt: skip


def calibrate_with_pose(
    scenes: Sequence[KnownScene],
    of_scene: Int[np.ndarray, "S"],
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    states: np.ndarray | None = None,
) -> tuple[SurfaceFit, Pose, list[KnownScene]]:
    """Estimate the factors of the elements and the pose of the surface.

    Args:
      scenes: from `known_sources.known_scenes`, in the frame of the room.
      of_scene: [S] the recording that each entry belongs to.
      positions: [N, 3] elements as drawn [m].
      wavelength: [m].
      wavefront: of the steering vectors.
      response: of the elements; None: the same in all directions.
      states: nominal codes of the states; None for one factor per element.

    Returns:
      The factors, the pose, and the entries in the frame of the surface.

    Raises:
      RunError: as `known_sources.calibrate`.
    """
    wave: dict[str, Any] = {
        "wavelength": wavelength, "wavefront": wavefront, "response": response
    }  # fmt: skip
    repeat = 1 if states is None else len(states)
    sums = [known_sources.sums_of(scene, states) for scene in scenes]

    def seen(pose):
        return [
            scene._replace(
                places=pose.seen(scene.places),
                steering=host_steering.steering_to(pose.seen(scene.places), positions, **wave).T,
            )
            for scene in scenes
        ]

    def residual(point):
        pose, factors = point
        return sum(
            known_sources.fitted(part.with_steering(scene.steering, repeat), factors).residual
            for part, scene in zip(sums, seen(pose), strict=True)
        )

    def equations(point):
        pose, factors = point
        parts = []
        for part, scene in zip(sums, seen(pose), strict=True):
            found = known_sources.fitted(part.with_steering(scene.steering, repeat), factors)
            slopes = np.repeat(steering_slopes(scene.places, positions, **wave), repeat, axis=1)
            turns = -np.cross(np.eye(3)[:, None], scene.places)  # [3, K, 3]
            by_turn = np.einsum("akx,xnk,k->na", turns, slopes, found.signals)
            by_shift = -np.einsum("xnk,k->nx", slopes, found.signals)
            by_pose = factors[:, None] * np.concatenate([by_turn, by_shift], axis=1)
            parts.append(known_sources.information(found, by_pose))
        whole = known_sources.total(parts)
        information = np.block([[whole.moves, whole.cross], [whole.cross.T, whole.factors]])
        return information, np.concatenate([whole.slope, whole.factor_slope])

    def step(point, found, damping):
        (pose, factors), (information, slope) = point, found
        scale = np.sqrt(np.maximum(np.diagonal(information), np.finfo(float).tiny))
        matrix = information / np.outer(scale, scale) + damping * np.eye(len(scale))
        move = np.linalg.solve(matrix, slope / scale) / scale
        real, imaginary = np.split(move[6:], 2)
        return pose.moved(move[:3], move[3:6]), factors + real + 1j * imaginary

    drawn = Pose(np.eye(3), np.zeros(3), np.full(3, np.inf), np.full(3, np.inf))
    fit = known_sources.calibrate(scenes, of_scene, states=states)
    start = drawn, fit.calibration.factors.ravel()
    pose, factors = damped_steps.minimise(
        start, equations, step, residual, most_steps=_ITERATIONS, converged=_CONVERGED
    )
    entries = seen(pose)
    fit = known_sources.calibrate(entries, of_scene, states=states, start=factors)
    information, _ = equations((pose, fit.calibration.factors.ravel()))
    covariance = 0.5 * fit.noise_variance * np.linalg.pinv(information, rcond=_SINGULAR,
                                                           hermitian=True)  # fmt: skip
    spread = np.sqrt(np.maximum(np.diagonal(covariance)[:6], 0.0))
    return fit, pose._replace(angle_deviations=spread[:3], offset_deviations=spread[3:]), entries
