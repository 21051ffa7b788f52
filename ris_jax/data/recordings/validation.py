"""Field-by-field validation of a recordings file.

Every failure is one line: file, field, expected and actual value. An unusable scene is not a
failure; `unusable_scenes` lists those.
"""

import difflib
import itertools
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.physics.element_response import ElementResponse, directional

REQUIRED_KEYS = ("snapshots", "wavelength", "element_positions")
TRUTH_KEYS = ("num_sources", "azimuth", "elevation", "source_range")
RESPONSE_KEYS = (
    "response_exponent", "response_angles", "response_amplitudes", "response_normals"
)  # fmt: skip
OPTIONAL_KEYS = ("channel", "codes", "snr_db", *TRUTH_KEYS, *RESPONSE_KEYS)
KNOWN_KEYS = (*REQUIRED_KEYS, *OPTIONAL_KEYS)

# Fields that may replace another one; see `conventions`.
_IN_PLACE_OF = {
    "codes": ("states with coefficients", "phases_rad", "phases_deg"),
    "wavelength": ("frequency",),
}

# Axes that a field may have: B scenes, L snapshots, M antennas, N elements. An error names the
# first field that does not fit: snapshots define B, L and M, positions define N.
LAYOUTS = {
    "snapshots": ("BLM",),
    "element_positions": ("N3",),
    "channel": ("BMN", "MN"),
    "codes": ("BLN", "LN"),
}
_LARGEST_SNR_DB = 200.0  # beyond, single precision has no noise, or no signal
_LARGEST_MAGNITUDE = 1e15  # single precision cannot square values above 1e19
_MOST_NAMES = 8  # of unknown keys in one line

#: Meaning of codes 0 and 1: amplitudes of elements that are off and on, or states, phases 0 and pi.
BinaryCodes = Literal["amplitudes", "states"]

# Largest magnitude of a field of the truth, and its description. Larger angles are degrees.
_LIMITS = {
    "azimuth": (2 * np.pi, "finite radians, at most 2 pi in magnitude"),
    "elevation": (np.pi / 2 + 1e-6, "finite radians, at most pi / 2 in magnitude"),  # float32
    "source_range": (np.inf, "finite metres above zero"),
}


class SourceTruth(NamedTuple):
    """True sources; places after the first `num_sources` of a scene are NaN."""

    azimuth: Float[np.ndarray, "B K"]  # [rad]
    elevation: Float[np.ndarray, "B K"]  # [rad]
    source_range: Float[np.ndarray, "B K"]  # [m]
    num_sources: Int[np.ndarray, "B"]


def fail(name: str, field: str, needed: str, got: object) -> NoReturn:
    """Raise the one-line error of a failed check."""
    raise errors.RunError(f"{name}: {field}: need {needed}; got {got}")


def check_keys(name: str, keys: Iterable[str]) -> None:
    """Check that required keys are present, none is unknown, and the truth is complete or absent.

    An unknown key is an error because a misspelt optional key would be ignored without notice.
    """
    keys = list(keys)
    absent = [key for key in KNOWN_KEYS if key not in keys]
    missing = [key for key in REQUIRED_KEYS if key in absent]
    unknown = [key for key in keys if key not in KNOWN_KEYS]
    complaints = [f"missing keys: {', '.join(missing)}"] if missing else []
    if unknown:
        readable = [_with_suggestion(key, absent) for key in unknown[:_MOST_NAMES]]
        more = len(unknown) - len(readable)
        readable += [f"{more} more"] if more else []
        complaints.append(f"unknown keys: {', '.join(readable)}")
    if complaints:
        raise errors.RunError(
            f"{name}: {'; '.join(complaints)}; needed: {', '.join(map(_named, REQUIRED_KEYS))}; "
            f"optional: {', '.join(map(_named, OPTIONAL_KEYS))}"
        )
    given = [key for key in TRUTH_KEYS if key in keys]
    if given and len(given) < len(TRUTH_KEYS):
        lost = [key for key in TRUTH_KEYS if key in absent]
        fail(name, "truth", f"all of {', '.join(TRUTH_KEYS)}, or none", f"no {', '.join(lost)}")


def _named(key: str) -> str:
    others = _IN_PLACE_OF.get(key)
    return f"{key} (or {' or '.join(others)})" if others else key


def _with_suggestion(key: str, absent: list[str]) -> str:
    others = [name.split()[0] for field in absent for name in _IN_PLACE_OF.get(field, ())]
    close = difflib.get_close_matches(key.lower(), [*absent, *others], n=1)
    return f"{key[:40]!r}" + (f" (did you mean {close[0]}?)" if close else "")


def surface(
    name: str, keys: Iterable[str], snapshots: np.ndarray, positions: np.ndarray
) -> dict[str, Complex[np.ndarray, "..."]]:
    """Return channel and codes of an array without a surface, if a file has none.

    The antennas are then the elements: the channel is I and the codes are 1.
    """
    missing = [key for key in ("channel", "codes") if key not in keys]
    if not missing or snapshots.ndim != 3 or positions.ndim != 2:
        return {}
    (_, length, antennas), elements = snapshots.shape, len(positions)
    if antennas != elements:
        raise errors.RunError(
            f"{name}: missing keys: {', '.join(missing)}; only an array whose M antennas are its N "
            f"elements needs none; got M={antennas}, N={elements}"
        )
    plain = {
        "channel": np.eye(antennas, dtype=np.complex64),
        "codes": np.ones((length, elements), np.complex64),
    }
    return {key: plain[key] for key in missing}


def complex_array(name: str, field: str, array: np.ndarray) -> Complex[np.ndarray, "..."]:
    """Return `array` as complex64; reject real numbers.

    A real array is the real part only, or has real and imaginary parts on an axis of their own;
    both would give wrong results.
    """
    if array.dtype.kind != "c":
        real = array.dtype.kind in "fiu" and field != "snapshots"
        advice = "; if they are real, write .astype(complex)" if real else ""
        fail(name, field, "complex numbers", _describe(array) + advice)
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is reported
        return np.asarray(array, np.complex64, order="C")


def channel_array(name: str, array: np.ndarray) -> Complex[np.ndarray, "..."]:
    """Return a channel as complex64; a real one may have only 0 and 1, as an identity matrix."""
    if array.dtype.kind in "fiu" and np.isin(array, (0, 1)).all():
        return array.astype(np.complex64)
    return complex_array(name, "channel", array)


def code_array(
    name: str, array: np.ndarray, binary: BinaryCodes | None = None
) -> Complex[np.ndarray, "..."]:
    """Return codes as complex64; real codes may only be -1, 0 and 1.

    One-bit phases and switched elements are real. Other real numbers are phases in radians or
    numbers of phase states; read as amplitudes, they would be wrong. One-bit states would be wrong
    as well: real codes of 0 and 1 are rejected unless `binary` is given. Complex codes are accepted
    unchanged; the model check compares them with states.

    Args:
      name: the file.
      array: of any shape.
      binary: meaning of codes 0 and 1; see `BinaryCodes`.
    """
    if array.dtype.kind in "fiu" and _is_binary(array):
        if binary is None:
            fail(
                name,
                "codes",
                "reflection coefficients exp(j phase)",
                "only 0 and 1, which look like one-bit states; give --binary_codes=states for "
                "phases 0 and pi, or --binary_codes=amplitudes for elements that are off and on",
            )
        codes = array.astype(np.complex64)
        return 1.0 - 2.0 * codes if binary == "states" else codes
    if array.dtype.kind in "fiu":
        known = np.isin(array, (-1, 0, 1)) | ~np.isfinite(array)
        if known.all():
            return array.astype(np.complex64)
        other = array[~known].flat[0]
        fail(
            name,
            "codes",
            "complex exp(j phase), or real numbers that are all -1, 0 or 1",
            f"real {other} - phases or states?",
        )
    return complex_array(name, "codes", array)


def _is_binary(codes: np.ndarray) -> bool:
    """Return whether codes have both 0 and 1, and no other value."""
    return bool(np.isin(codes, (0, 1)).all() and (codes == 0).any() and (codes == 1).any())


def real_array(name: str, field: str, array: np.ndarray) -> Float[np.ndarray, "..."]:
    """Return `array` as float64; reject complex numbers, truth values and text."""
    if array.dtype.kind not in "fiu":
        fail(name, field, "real numbers", _describe(array))
    return np.asarray(array, np.float64)


def _describe(array: np.ndarray) -> str:
    kind = {"b": "truth values", "f": "real numbers", "i": "integers", "u": "integers"}.get(
        array.dtype.kind, "complex numbers" if array.dtype.kind == "c" else "no numbers"
    )
    return f"{kind} (dtype {str(array.dtype)[:60]})"


def wavelength(name: str, array: np.ndarray) -> float:
    """Return one positive length [m]; [1] and MATLAB's [1, 1] count as a number."""
    values = real_array(name, "wavelength", array)
    if values.size != 1 or values.ndim > 2:
        fail(name, "wavelength", "one number [m]", f"an array {list(values.shape)}")
    value = values.item()
    if not (np.isfinite(value) and value > 0):
        fail(name, "wavelength", "a finite length above zero [m]", value)
    return value


def check_positions(name: str, positions: Float[np.ndarray, "N 3"]) -> None:
    """Check that positions are finite and that no two elements coincide."""
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if broken.size:
        fail(
            name,
            "element_positions",
            "finite metres",
            f"{positions[broken[0]].tolist()} for element {broken[0]}",
        )
    distinct = len(np.unique(positions, axis=0))
    if distinct < len(positions):
        fail(
            name,
            "element_positions",
            "distinct positions of all elements",
            f"{distinct} places for N={len(positions)} elements",
        )


def check_axes(
    name: str, arrays: Mapping[str, np.ndarray], layouts: Mapping[str, tuple[str, ...]] = LAYOUTS
) -> None:
    """Check that axes exist, are not empty, and agree; detect swapped ones.

    Args:
      name: the file.
      arrays: the fields of `layouts`.
      layouts: axes that a field may have, the first field being snapshots with all axes but N.
    """
    shapes = {field: arrays[field].shape for field in layouts}
    for field, possible in layouts.items():
        shape = shapes[field]
        if len(shape) not in map(len, possible):
            one = _letters(possible[0]).replace("B", "1")
            missing = field == "snapshots" and len(shape) == len(possible[0]) - 1
            hint = f" - one scene is {one}" if missing else ""
            fail(name, field, " or ".join(map(_letters, possible)), f"{list(shape)}{hint}")
        if 0 in shape:
            fail(name, field, "no empty axis", list(shape))
    misfit = _misfit(shapes, layouts)
    if misfit is None:
        return
    backwards = {field: shape[::-1] for field, shape in shapes.items()}
    for field in layouts:
        for shape in itertools.permutations(shapes[field]):
            fitting = {**shapes, field: shape}
            if _misfit(fitting, layouts) is None:
                got = f"{list(shapes[field])} - are the axes swapped?"
                fail(name, field, _needed(field, fitting, layouts), got)
    reversed_axes = _misfit(backwards, layouts) is None
    hint = " - are the axes of all arrays reversed?" if reversed_axes else ""
    fail(name, misfit, _needed(misfit, shapes, layouts), f"{list(shapes[misfit])}{hint}")


def _sizes(
    shapes: Mapping[str, tuple[int, ...]], layouts: Mapping[str, tuple[str, ...]]
) -> dict[str, int]:
    received = zip(layouts["snapshots"][0], shapes["snapshots"], strict=True)
    return {**dict(received), "N": shapes["element_positions"][0], "3": 3}


def _misfit(
    shapes: Mapping[str, tuple[int, ...]], layouts: Mapping[str, tuple[str, ...]]
) -> str | None:
    """Return the first field whose axes disagree with snapshots and positions."""
    sizes = _sizes(shapes, layouts)
    for field, possible in layouts.items():
        if shapes[field] not in [tuple(sizes[axis] for axis in layout) for layout in possible]:
            return field
    return None


def _needed(
    field: str, shapes: Mapping[str, tuple[int, ...]], layouts: Mapping[str, tuple[str, ...]]
) -> str:
    """Return ``[B, M, N] = [32, 16, 144]``, for the layout with the field's number of axes."""
    sizes = _sizes(shapes, layouts)
    layout = next(layout for layout in layouts[field] if len(layout) == len(shapes[field]))
    if field == "element_positions":
        return "[N, 3], x y z of every element"
    return f"{_letters(layout)} = {[sizes[axis] for axis in layout]}"


def _letters(layout: str) -> str:
    return f"[{', '.join(layout)}]"


def unusable_scenes(name: str, arrays: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Return the unusable scenes, in order, with the reason.

    Args:
      name: the file.
      arrays: snapshots [B, L, M], channel [B, M, N] or [M, N], codes [B, L, N] or [L, N].

    Raises:
      RunError: a channel or codes shared by all scenes are not finite.
    """
    scenes = len(arrays["snapshots"])
    reasons: dict[int, str] = {}
    for field in ("snapshots", "channel", "codes"):
        array, shared = arrays[field], arrays[field].ndim == 2
        values = array.reshape(1 if shared else scenes, -1)
        broken = np.sum(~(np.abs(values) <= _LARGEST_MAGNITUDE), axis=1)
        if shared and broken[0]:
            got = f"{broken[0]} of {values.shape[1]} NaN, infinite or too large"
            fail(name, field, "finite values, because all scenes share them", got)
        bad = np.broadcast_to((broken > 0) | ~values.any(axis=1), scenes)
        for scene in np.flatnonzero(bad).tolist():
            count = 0 if shared else broken[scene]
            zero = "is all zero" if field == "channel" else "are all zero"
            why = (
                f": {count} of {values.shape[1]} values are NaN, infinite or too large"
                if count
                else ""
            )
            reasons.setdefault(scene, f"{field}{why or ' ' + zero}")
    return dict(sorted(reasons.items()))


def element_response(
    name: str, arrays: Mapping[str, np.ndarray], elements: int
) -> ElementResponse | None:
    """Return the response of the elements; None if the file has none, or one of exponent 0.

    Args:
      name: the file.
      arrays: response_exponent, a number, or response_angles [A] [rad] and response_amplitudes [A];
        optional response_normals [3] or [N, 3].
      elements: N.

    Raises:
      RunError: an invalid response; the field is named.
    """
    given = {key: real_array(name, key, arrays[key]) for key in RESPONSE_KEYS if key in arrays}
    if not given:
        return None
    for key, values in given.items():
        if key == "response_exponent" and values.size != 1:
            fail(name, key, "a number", list(values.shape))
        if key in RESPONSE_KEYS[1:3] and values.size != max(values.shape, default=0):
            fail(name, key, "[A]", list(values.shape))
    exponent, angles, amplitudes = (
        given[key].ravel().tolist() if key in given else None for key in RESPONSE_KEYS[:3]
    )
    if exponent is None and angles is None and amplitudes is None:
        fail(name, "response_normals", "response_exponent or a table beside them", "neither")
    exponent = 0.0 if exponent is None else exponent[0]
    problem = config_lib.response_problem(exponent, angles, amplitudes)
    if problem is not None:
        fail(name, f"response_{problem[0]}", *problem[1:])
    normals = given.get("response_normals")
    if normals is not None and normals.size == 3:  # MATLAB has no vectors, only rows and columns
        normals = normals.reshape(3)
    try:
        if angles is None or amplitudes is None:
            found = ElementResponse.cosine(exponent, normals=normals)
        else:
            found = ElementResponse.table(angles, amplitudes, normals=normals)
        found.check_elements(elements)
    except config_lib.ConfigError as error:
        raise errors.RunError(f"{name}: {error}") from error
    return directional(found)


def vector(name: str, field: str, array: np.ndarray, scenes: int) -> Float[np.ndarray, "B"]:
    """Return one number per scene; MATLAB's rows and columns count as vectors."""
    values = real_array(name, field, array)
    if values.shape not in ((scenes,), (scenes, 1), (1, scenes)):
        fail(name, field, f"[B] = [{scenes}]", list(values.shape))
    return values.reshape(scenes)


def snr(
    name: str, array: np.ndarray, scenes: int, usable: Int[np.ndarray, "U"]
) -> Float[np.ndarray, "U"]:
    """Return the signal-to-noise ratios [dB] of the usable scenes, all finite."""
    values = vector(name, "snr_db", array, scenes)[usable]
    broken = np.flatnonzero(~(np.abs(values) <= _LARGEST_SNR_DB))
    if broken.size:
        fail(
            name,
            "snr_db",
            f"finite dB in every scene, at most {_LARGEST_SNR_DB:g} in magnitude (leave out the "
            "key if it is unknown)",
            f"{values[broken[0]]} in scene {usable[broken[0]]}",
        )
    return values


def truth(
    name: str, arrays: Mapping[str, np.ndarray], scenes: int, usable: Int[np.ndarray, "U"]
) -> SourceTruth:
    """Return the sources of the usable scenes; values after the first `num_sources` are dropped.

    Args:
      name: the file.
      arrays: num_sources [B], azimuth, elevation [B, K] [rad] and source_range [B, K] [m].
      scenes: B.
      usable: [U] indices of the scenes to keep.

    Returns:
      A `SourceTruth` of U scenes.
    """
    places = {field: real_array(name, field, arrays[field]) for field in _LIMITS}
    shape = places["azimuth"].shape
    width = shape[1] if len(shape) == 2 and shape[0] == scenes else 0
    for field, values in places.items():
        if width == 0 or values.shape != (scenes, width):
            needed = f"[B, K_max] = [{scenes}, {width or 'K_max'}]"
            fail(name, field, needed, list(values.shape))
    counts = vector(name, "num_sources", arrays["num_sources"], scenes)[usable]
    wrong = np.flatnonzero(~np.isin(counts, np.arange(width + 1)))
    if wrong.size:
        got = f"{counts[wrong[0]]:g} in scene {usable[wrong[0]]}"
        fail(name, "num_sources", f"whole numbers 0 to K_max={width}", got)
    active = np.arange(width) < counts[:, None]
    kept = {f: np.where(active, values[usable], np.nan) for f, values in places.items()}
    _check_places(name, kept, active, usable)
    return SourceTruth(**kept, num_sources=counts.astype(np.int64))


def _check_places(
    name: str,
    places: Mapping[str, Float[np.ndarray, "U K"]],
    active: np.ndarray,
    usable: Int[np.ndarray, "U"],
) -> None:
    """Check that sources are finite, with angles in radians and ranges above zero."""
    for field, (limit, needed) in _LIMITS.items():
        values = places[field]
        good = np.isfinite(values) & (np.abs(values) <= limit)
        if field == "source_range":
            good &= values > 0
        wrong = np.argwhere(active & ~good)
        if wrong.size:
            scene, place = wrong[0]
            value = values[scene, place]
            hint = " - degrees?" if field != "source_range" and np.isfinite(value) else ""
            got = f"{value:g} for source {place} of scene {usable[scene]}{hint}"
            fail(name, field, needed, got)
