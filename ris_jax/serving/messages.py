"""Messages of the service: scenes in JSON or .npz in, positions with error bars in JSON out.

JSON has complex numbers as two arrays: ``{"snapshots": {"real": [...], "imag": [...]}}``.
"""

import difflib
import json
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Complex, Float

from ris_jax import errors
from ris_jax.data.recordings import containers
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import NOTES, Flag
from ris_jax.reports import source_table

FIELDS = ("snapshots", "snr_db", "id")
_PARTS = containers.COMPLEX_PARTS[0]
_LARGEST = 1e15  # single precision cannot square values above 1e19
_LARGEST_SNR_DB = 200.0
_LONGEST_ID = 100  # characters
#: Flags of a residual that the model does not explain.
RESIDUAL_FLAGS = Flag.MISFIT | Flag.NOISE_ABOVE | Flag.NOISE_BELOW | Flag.MAX_SOURCES


class RequestError(errors.RunError):
    """A request that cannot be answered; the service reports it with status 400."""

    def __init__(self, field: str, expected: str, found: object, advice: str = ""):
        """Create the message, one line.

        Args:
          field: of the request.
          expected: description.
          found: in its place.
          advice: next step, if known.
        """
        self.field, self.expected, self.found = field, expected, errors.brief(found)
        line = f"{field}: expected {expected}; found {self.found}"
        super().__init__(line + (f"; {advice}" if advice else ""))


class SceneRequest(NamedTuple):
    """Scenes to localise."""

    snapshots: Complex[np.ndarray, "B L M"]  #: complex64, finite
    snr_db: Float[np.ndarray, "B"] | None  #: if given
    name: str | None  #: `id` of the request


def parse(body: bytes, shape: tuple[int, int], *, max_scenes: int, max_bytes: int) -> SceneRequest:
    """Read a request, .npz if it begins as one, else JSON. Nothing is unpickled.

    Args:
      body: of the request.
      shape: L and M.
      max_scenes: maximum number of scenes.
      max_bytes: maximum size of the arrays of an .npz archive.

    Raises:
      RequestError: the field, what was expected and what was found.
    """
    if not body:
        _refuse("body", "JSON or .npz", "nothing")
    fields = _npz(body, max_bytes) if body.startswith(b"PK") else _json(body)
    for key in fields:
        if key not in FIELDS:
            close = difflib.get_close_matches(str(key).lower(), FIELDS, n=1)
            advice = f"did you mean {close[0]}?" if close else ""
            _refuse("body", f"the fields {', '.join(FIELDS)}", repr(key), advice)
    if "snapshots" not in fields:
        _refuse("snapshots", "[L, M] or [B, L, M] complex numbers", "none")
    snapshots = _snapshots(fields["snapshots"], shape, max_scenes)
    return SceneRequest(
        snapshots, _snr_db(fields.get("snr_db"), len(snapshots)), _name(fields.get("id"))
    )


def _refuse(field: str, expected: str, found: object, advice: str = "") -> NoReturn:
    raise RequestError(field, expected, found, advice)


def _npz(body: bytes, most: int) -> dict[str, Any]:
    try:
        return dict(containers.load_bytes("body", body, most))
    except errors.RunError as error:
        raise RequestError("body", "an .npz archive of plain arrays", error) from error


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("body", "JSON or .npz", errors.first_line(error)) from error
    if not isinstance(found, dict):
        _refuse("body", "a JSON object", type(found).__name__)
    if isinstance(pair := found.get("snapshots"), dict):
        if set(pair) != set(_PARTS):
            _refuse("snapshots", f"the parts {' and '.join(_PARTS)}", ", ".join(pair) or "none")
        parts = [_numbers(f"snapshots.{part}", pair[part]) for part in _PARTS]
        if parts[0].shape != parts[1].shape:
            _refuse("snapshots", "parts of one shape", [list(part.shape) for part in parts])
        found["snapshots"] = parts[0] + 1j * parts[1]
    elif "snapshots" in found:
        _refuse(
            "snapshots", f"an object with the parts {' and '.join(_PARTS)}", type(pair).__name__
        )
    return found


def _numbers(field: str, value: Any) -> Float[np.ndarray, "..."]:
    """Return nested lists of numbers as an array."""
    try:
        array = np.asarray(value)
    except ValueError:
        _refuse(field, "lists of equal lengths", "lists of different lengths")
    if array.dtype.kind not in "fiu":
        _refuse(field, "real numbers", _kind(array))
    return array.astype(np.float64)


def _kind(array: np.ndarray) -> str:
    kinds = {"U": "text", "S": "text", "O": "null or nested values", "b": "truth values"}
    return kinds.get(array.dtype.kind, f"dtype {array.dtype}")


def _snapshots(array: Any, shape: tuple[int, int], max_scenes: int) -> Complex[np.ndarray, "B L M"]:
    if array.dtype.kind != "c":
        _refuse("snapshots", "complex numbers", _kind(array))
    array = array[None] if array.ndim == 2 else array
    length, antennas = shape
    if array.ndim != 3 or array.shape[1:] != shape:
        swapped = array.ndim == 3 and array.shape[:0:-1] == shape and length != antennas
        _refuse(
            "snapshots",
            f"[L, M] = [{length}, {antennas}] or [B, L, M]",
            list(array.shape),
            "axes look transposed" if swapped else "",
        )
    if not 1 <= len(array) <= max_scenes:
        _refuse("snapshots", f"1 to {max_scenes} scenes", len(array), "send several requests")
    with np.errstate(invalid="ignore", over="ignore"):
        good = np.abs(array) <= _LARGEST
    if not good.all():
        scene, *place = np.argwhere(~good)[0].tolist()
        _refuse("snapshots", "finite numbers", f"{array[scene, *place]} in scene {scene}")
    return np.ascontiguousarray(array, np.complex64)


def _snr_db(value: Any, scenes: int) -> Float[np.ndarray, "B"] | None:
    if value is None:
        return None
    values = _numbers("snr_db", value)
    if values.shape not in ((), (scenes,)):
        _refuse("snr_db", f"a number or [B] = [{scenes}]", list(values.shape))
    if not (np.abs(values) <= _LARGEST_SNR_DB).all():
        _refuse("snr_db", f"finite dB, at most {_LARGEST_SNR_DB:g} in magnitude", values.tolist())
    return np.broadcast_to(values, (scenes,))


def _name(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > _LONGEST_ID:
        _refuse("id", f"text or a whole number of at most {_LONGEST_ID} characters", repr(value))
    return str(value)


def answer(
    estimate: Estimate, *, name: str | None, time: float, elapsed_ms: float
) -> dict[str, Any]:
    """Return the answer to a request, ready for JSON.

    Args:
      estimate: [B, ...] NumPy arrays with flags.
      name: `id` of the request.
      time: of the answer [s] since 1970.
      elapsed_ms: from the complete request to the answer.
    """
    numbers = np.arange(len(estimate.num_sources))
    rows = source_table.source_rows(estimate, numbers)
    scenes = source_table.scene_entries(rows, estimate, numbers)
    for number, scene in enumerate(scenes):
        flags = 0 if estimate.flags is None else int(estimate.flags[number])
        scene["warnings"] = [flag.sentence for flag in Flag if flags & flag & ~NOTES]
        scene["residual_test"] = "failed" if flags & int(RESIDUAL_FLAGS) else "passed"
        for index, source in enumerate(scene["sources"]):
            source |= _cartesian(estimate, number, index)
    return {"id": name, "time": time, "elapsed_ms": round(elapsed_ms, 3), "scenes": scenes}


def _cartesian(estimate: Estimate, scene: int, source: int) -> dict[str, Any]:
    """Return the covariance of a source, its position [m] and the covariance of that."""
    place = np.array(
        [
            float(field[scene, source])
            for field in (estimate.azimuth, estimate.elevation, estimate.source_range)
        ]
    )
    covariance = np.asarray(estimate.covariance[scene, source], float)
    found: dict[str, Any] = {
        "covariance": _listed(covariance),
        "position_m": None,
        "position_covariance_m2": None,
    }
    if np.isfinite(place[2]):
        point, slopes = cartesian(place)
        found["position_m"] = _listed(point)
        if np.isfinite(covariance).all():
            found["position_covariance_m2"] = _listed(slopes @ covariance @ slopes.T)
    return found


def cartesian(
    place: Float[np.ndarray, "3"],
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
    """Return x, y, z [m] of azimuth [rad], elevation [rad] and range [m], and the derivatives.

    Args:
      place: azimuth, elevation, range; the frame is that of `physics.arrays`.
    """
    azimuth, elevation, source_range = place
    sin_a, cos_a, sin_e, cos_e = (f(x) for x in (azimuth, elevation) for f in (np.sin, np.cos))
    direction = np.array([sin_a * cos_e, sin_e, cos_a * cos_e])
    by_azimuth = source_range * np.array([cos_a * cos_e, 0.0, -sin_a * cos_e])
    by_elevation = source_range * np.array([-sin_a * sin_e, cos_e, -cos_a * sin_e])
    return source_range * direction, np.stack([by_azimuth, by_elevation, direction], axis=-1)


def _listed(values: Float[np.ndarray, "..."]) -> Any:
    """Return nested lists with seven digits; null for values that are not finite."""
    if values.ndim:
        return [_listed(value) for value in values]
    return float(f"{values:.7g}") if np.isfinite(values) else None


def as_text(message: dict[str, Any]) -> str:
    """Return a message as JSON without infinity and NaN."""
    return json.dumps(message, allow_nan=False)
