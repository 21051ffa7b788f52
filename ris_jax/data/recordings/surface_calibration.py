"""Calibration of a surface: factors of its elements, its pose, and the file that holds them.

A real element reflects with an amplitude and a phase of its own. Element n under code c has the
coefficient ``c * g_n``. If the elements switch between a few states, every state can have its own
factor. Factors multiply the codes, so that all estimators use them.
"""

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Complex, Float, Int

from ris_jax import errors
from ris_jax.data.recordings import containers

_FIELDS = ("factors", "deviations", "states", "element_positions", "rotation", "offset")
# Maximum distance of a code from the nominal code of its state.
_TOLERANCE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceCalibration:
    """Factors of N elements, [N], or [N, Q] for Q states, and the pose of the surface."""

    factors: Complex[np.ndarray, "N"] | Complex[np.ndarray, "N Q"]
    #: standard deviations of real and imaginary parts, the shape of `factors`
    deviations: Float[np.ndarray, "..."]
    states: Complex[np.ndarray, "Q"] | None = None  #: nominal codes of the states
    positions: Float[np.ndarray, "N 3"] | None = None  #: elements as drawn [m]
    rotation: Float[np.ndarray, "3 3"] | None = None  #: of the surface in the room
    offset: Float[np.ndarray, "3"] | None = None  #: of the surface in the room [m]

    def apply_to_codes(
        self, codes: Complex[np.ndarray, "... L N"]
    ) -> Complex[np.ndarray, "... L N"]:
        """Return codes with the factors of their elements.

        Raises:
          RunError: the codes have other elements or other states.
        """
        codes = np.asarray(codes)
        elements = len(self.factors)
        if codes.shape[-1] != elements:
            raise errors.RunError(
                f"codes: expected the {elements} elements of the calibration, found "
                f"{codes.shape[-1]}"
            )
        factors = self.factors
        if self.states is not None:
            factors = factors[np.arange(elements), states_of(codes, self.states)]
        return (codes * factors).astype(np.result_type(codes, np.complex64))

    def apply_to_positions(self, positions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Return element positions in the room [m]; as they are if the pose is not calibrated."""
        if self.rotation is None or self.offset is None:
            return np.asarray(positions)
        return np.asarray(positions) @ self.rotation.T + self.offset


def states_of(
    codes: Complex[np.ndarray, "... N"], states: Complex[np.ndarray, "Q"]
) -> Int[np.ndarray, "... N"]:
    """Return the index of the state with each code.

    Raises:
      RunError: a code is far from all states.
    """
    distance = np.abs(codes[..., None] - states)
    if (worst := float(distance.min(axis=-1).max())) > _TOLERANCE:
        raise errors.RunError(
            f"codes: expected the {len(states)} states of the calibration, found a code that "
            f"differs by {worst:.2g} from all of them; calibrate with such codes, or without states"
        )
    return np.argmin(distance, axis=-1)


def distinct_states(codes: Complex[np.ndarray, "..."], most: int = 8) -> Complex[np.ndarray, "Q"]:
    """Return the different codes of a surface, by phase.

    Raises:
      RunError: there are more than `most`.
    """
    found: list[complex] = []
    rest = np.unique(np.round(np.asarray(codes, np.complex128).ravel(), 3))
    while rest.size:
        found.append(complex(rest[0]))
        rest = rest[np.abs(rest - rest[0]) > _TOLERANCE]
        if len(found) > most:
            raise errors.RunError(
                f"codes: expected at most {most} states for one factor per state, found more; "
                "calibrate with one factor per element"
            )
    order = np.argsort(np.round(np.angle(found) % (2 * np.pi), 3), kind="stable")
    return np.array(found)[order]


def save_calibration(path: str | os.PathLike[str], calibration: SurfaceCalibration) -> None:
    """Write a calibration to a .npz or HDF5 file, atomically.

    Raises:
      RunError: the suffix is none of .npz, .h5, .hdf5.
      OSError: the directory cannot be written.
    """
    fields = {
        "factors": calibration.factors,
        "deviations": calibration.deviations,
        "states": calibration.states,
        "element_positions": calibration.positions,
        "rotation": calibration.rotation,
        "offset": calibration.offset,
    }
    containers.save(path, {name: array for name, array in fields.items() if array is not None})


def load_calibration(path: str | os.PathLike[str]) -> SurfaceCalibration:
    """Read the file that `ris-jax calibrate` writes.

    Raises:
      RunError: it is missing, damaged, or holds something else; the field is named.
    """
    name, keys = str(path), containers.names(path)
    if unknown := sorted({"factors"} - set(keys) or set(keys) - set(_FIELDS)):
        raise errors.RunError(
            f"{name}: expected the fields of a calibration ({', '.join(_FIELDS)}), found "
            f"{errors.brief(', '.join(sorted(keys)))}; {unknown[0]} is "
            f"{'missing' if unknown[0] == 'factors' else 'unknown'}"
        )
    found = containers.load(pathlib.Path(path), keys)
    factors = np.asarray(found["factors"])
    states = found.get("states")
    wanted = "[N]" if states is None else f"[N, {np.size(states)}]"
    fits = factors.ndim == 1 if states is None else factors.shape[1:] == np.shape(states)
    if not (fits and np.issubdtype(factors.dtype, np.number) and np.isfinite(factors).all()):
        raise errors.RunError(
            f"{name}: factors: expected finite complex numbers {wanted}, found "
            f"{list(factors.shape)} {factors.dtype.name}"
        )
    deviations = np.asarray(found.get("deviations", np.full(factors.shape, np.nan)), float)
    return SurfaceCalibration(
        factors.astype(np.complex128),
        np.broadcast_to(deviations, factors.shape),
        None if states is None else np.asarray(states, np.complex128),
        *(found.get(field) for field in ("element_positions", "rotation", "offset")),
    )


def require_same_elements(
    calibration: SurfaceCalibration, positions: Float[np.ndarray, "N 3"], wavelength: float
) -> None:
    """Check that a calibration belongs to an array, up to a shift and a tenth of a wavelength.

    Raises:
      RunError: another number of elements, or other positions.
    """
    if len(calibration.factors) != len(positions):
        raise errors.RunError(
            f"calibration: expected factors of {len(positions)} elements, found "
            f"{len(calibration.factors)}"
        )
    if calibration.positions is None:
        return
    centred = [places - np.mean(places, axis=0) for places in (calibration.positions, positions)]
    if (worst := float(np.abs(centred[0] - centred[1]).max())) > 0.1 * wavelength:
        raise errors.RunError(
            f"calibration: expected the element positions of the recordings, found positions that "
            f"differ by {worst:.3g} m; calibrate this surface, or list its elements in this order"
        )
