"""Conversion of alternative field names and units of a recordings file to those of the format.

=============================== =============================================================
given                           read as
=============================== =============================================================
``X_real`` and ``X_imag``       complex X, of snapshots, channel, codes or coefficients; also
                                ``_re`` and ``_im``, or ``_r`` and ``_i``
``frequency`` [Hz]              wavelength
``states`` and ``coefficients`` codes: ``coefficients[states]``, counted from 0
``phases_rad``, ``phases_deg``  codes: exp(j phase)
snapshots [B, L]                [B, L, 1], if the channel is that of one antenna
=============================== =============================================================
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ris_jax import config as config_lib
from ris_jax.data.recordings import containers, validation

_COMPLEX_FIELDS = ("snapshots", "channel", "codes", "coefficients")
#: Fields that replace another one.
_STANDS_FOR = {
    "frequency": "wavelength",
    "states": "codes",
    "phases_rad": "codes",
    "phases_deg": "codes",
}
_CODE_FIELDS = ("codes", "states", "phases_rad", "phases_deg")
_SAME_WAVELENGTH = 2e-3  # relative; many files use 3e8 m/s
_MOST_RADIANS = 4 * math.pi  # larger phases are degrees, even if unwrapped
_LEAST_DEGREES = 2 * math.pi + 1e-3  # if all phases are smaller, they are radians


def _parts(field: str) -> list[tuple[str, str]]:
    return [(f"{field}_{real}", f"{field}_{imag}") for real, imag in containers.COMPLEX_PARTS]


_PARTS = {key: field for field in _COMPLEX_FIELDS for pair in _parts(field) for key in pair}


def canonical(keys: Iterable[str]) -> list[str]:
    """Return the fields of the format that a file's fields are read as; unknown ones stay."""
    found = dict.fromkeys(_PARTS.get(key, key) for key in keys)
    if "states" in found:
        found.pop("coefficients", None)
    return list(dict.fromkeys(_STANDS_FOR.get(key, key) for key in found))


def normalised(
    name: str, arrays: Mapping[str, np.ndarray], *, drops_last_axis: bool = False
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return arrays with the names and units of the format.

    Args:
      name: the file, for errors.
      arrays: by any of the names of this module; others are passed through.
      drops_last_axis: the writer drops a last axis of length one, as MATLAB does.

    Returns:
      The arrays, and notes for the user on the assumptions made.

    Raises:
      RunError: fields contradict each other, are incomplete or have the wrong unit.

    Example:
      >>> arrays, _ = normalised("a.npz", {"phases_deg": np.array([[0, 180]]),
      ...                                  "frequency": np.array(1e9)})
      >>> arrays["codes"].real, round(float(arrays["wavelength"]), 4)
      (array([[ 1., -1.]]), 0.2998)
    """
    found = dict(arrays)
    _join_parts(name, found)
    _replace_frequency(name, found)
    _replace_codes(name, found)
    notes = _restore_antenna_axis(found)
    return found, () if drops_last_axis else notes


def _join_parts(name: str, arrays: dict[str, np.ndarray]) -> None:
    for field in _COMPLEX_FIELDS:
        for pair in _parts(field):
            given = [key for key in pair if key in arrays]
            if not given:
                continue
            if len(given) == 1:
                (other,) = set(pair) - set(given)
                validation.fail(name, given[0], f"{other} as well", "one part only")
            if field in arrays:
                validation.fail(name, field, f"either it or {pair[0]} and {pair[1]}", "both")
            real, imaginary = (arrays.pop(key) for key in pair)
            arrays[field] = containers.joined(name, field, real, imaginary)


def _replace_frequency(name: str, arrays: dict[str, np.ndarray]) -> None:
    if "frequency" not in arrays:
        return
    values = validation.real_array(name, "frequency", arrays.pop("frequency"))
    if values.size != 1:
        got = f"an array {list(values.shape)}"
        validation.fail(name, "frequency", "one number [Hz], one file for each frequency", got)
    value = values.item()
    if not (math.isfinite(value) and value >= config_lib.LOWEST_FREQUENCY):
        hint = " - in MHz or GHz?" if 0 < value < config_lib.LOWEST_FREQUENCY else ""
        validation.fail(name, "frequency", "a frequency [Hz] of 1e6 or more", f"{value:g}{hint}")
    implied = config_lib.SPEED_OF_LIGHT / value
    if "wavelength" not in arrays:
        arrays["wavelength"] = np.array(implied)
        return
    wavelength = validation.wavelength(name, arrays["wavelength"])
    if not math.isclose(wavelength, implied, rel_tol=_SAME_WAVELENGTH):
        validation.fail(
            name,
            "wavelength",
            f"{implied:.6g} m as frequency={value:g} Hz implies",
            f"{wavelength:g}",
        )


def _replace_codes(name: str, arrays: dict[str, np.ndarray]) -> None:
    given = [field for field in _CODE_FIELDS if field in arrays]
    if len(given) > 1:
        needed = "one of codes, states (with coefficients), phases_rad and phases_deg"
        validation.fail(name, "codes", needed, " and ".join(given))
    if "states" in arrays:
        arrays["codes"] = _codes_of_states(name, arrays)
    for field, unit in (("phases_rad", 1.0), ("phases_deg", np.pi / 180)):
        if field in arrays:
            phases = validation.real_array(name, field, arrays.pop(field))
            _check_unit(name, field, phases)
            with np.errstate(invalid="ignore"):  # infinite ones become NaN, which is reported
                arrays["codes"] = np.exp(1j * unit * phases)


def _check_unit(name: str, field: str, phases: np.ndarray) -> None:
    """Reject phases whose size does not fit the unit in their name."""
    most = np.max(np.abs(phases[np.isfinite(phases)]), initial=0.0)
    if field == "phases_rad" and most > _MOST_RADIANS:
        validation.fail(
            name, field, "radians, at most 4 pi in magnitude", f"{most:g} - degrees? (phases_deg)"
        )
    if field == "phases_deg" and 0 < most <= _LEAST_DEGREES:
        got = f"{most:g} at most - radians? (phases_rad)"
        validation.fail(name, field, "degrees that span more than 2 pi", got)


def _codes_of_states(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """``coefficients[states]``, [L, N] or [B, L, N]."""
    states = arrays.pop("states")
    if "coefficients" not in arrays:
        validation.fail(name, "states", "coefficients [num_states] as well", "none")
    table = _table(name, arrays.pop("coefficients"))
    if states.dtype.kind != "b":
        states = validation.real_array(name, "states", states)
    whole = np.isfinite(states) & (states == np.round(states))
    if not whole.all():
        validation.fail(name, "states", "whole numbers", f"{states[~whole].flat[0]:g}")
    low, high = (int(f(states)) for f in (np.min, np.max)) if states.size else (0, 0)
    if low < 0 or high >= len(table):
        hint = " - counted from 1?" if low == 1 and high == len(table) else ""
        needed = f"0 to {len(table) - 1}, as coefficients has {len(table)} numbers"
        validation.fail(name, "states", needed, f"{low} to {high}{hint}")
    return table[states.astype(np.int64)]


def _table(name: str, coefficients: np.ndarray) -> np.ndarray:
    """Return the reflection coefficients of the states, [num_states]; rows and columns allowed."""
    if coefficients.dtype.kind not in "fiuc":
        validation.real_array(name, "coefficients", coefficients)
    if coefficients.size == 0 or coefficients.size != max(coefficients.shape, default=0):
        validation.fail(name, "coefficients", "[num_states]", list(coefficients.shape))
    table = coefficients.reshape(-1)
    large = np.abs(table) > 1.0 + 1e-6
    if table.dtype.kind != "c" and large.any():
        got = f"real {table[large][0]:g} - phases?"
        validation.fail(name, "coefficients", "complex reflection coefficients", got)
    return table.astype(np.complex128)


def _restore_antenna_axis(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Reshape snapshots [B, L] of one antenna to [B, L, 1], and its channel [N] to [1, N]."""
    fields = ("snapshots", "channel", "codes")
    if not set(fields) <= set(arrays):
        return ()
    snapshots, channel, codes = (arrays[field] for field in fields)
    one_antenna = channel.ndim == 1 or (channel.ndim in (2, 3) and channel.shape[-2] == 1)
    fits = codes.ndim >= 2 and codes.shape[-2] == snapshots.shape[-1] if snapshots.ndim else False
    if snapshots.ndim != 2 or not one_antenna or not fits:
        return ()
    arrays["snapshots"] = snapshots[..., None]
    if channel.ndim == 1:
        arrays["channel"] = channel[None]
    scenes, length = snapshots.shape
    return (f"snapshots [{scenes}, {length}] are read as {scenes} scenes of one antenna [B, L, 1]",)
