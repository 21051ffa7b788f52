"""Ways to damage bytes, JSON values and NumPy arrays, each a function of a random generator."""

import copy
import io
import json
import random
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_DEEP = 50_000  # brackets; Python's own recursion ends at 1000
# Replacement values in JSON, which `json` writes unchanged.
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e-320, 1e300, 2**31, 2**63, -(2**63), 10**400,
    float("inf"), float("-inf"), float("nan"), "", "x", "1", "nan", "\ud800", "\x00", "../..",
    "a" * 5000,
    [], {}, [[]], [1], [None], ["x"], {"": 0}, {"x": {}}, [[0, 0, 0], [0, 0]], [[1, 2, 3]] * 3,
    {"low": 1, "high": 2}, {"choices": [1, 2]},
)  # fmt: skip


def damaged_bytes(
    rng: random.Random, data: bytes, other: bytes = b"PK\x03\x04"
) -> tuple[str, bytes]:
    """Damage the bytes of a file in one way; return the description and the bytes."""
    if not data:
        return "grown from nothing", rng.randbytes(rng.randrange(1, 100))
    place = rng.randrange(len(data))
    if rng.random() < 0.5:  # headers are at the start, directories at the end
        near = min(len(data), 300)
        place = rng.choice([rng.randrange(near), len(data) - 1 - rng.randrange(near)])
    length = rng.choice([1, 2, 8, 64, 1000])
    kinds: dict[str, Callable[[], bytes]] = {
        "bits flipped": lambda: _flipped(rng, data, place),
        "cut short": lambda: data[:place],
        "beginning lost": lambda: data[place:],
        "part lost": lambda: data[:place] + data[place + length :],
        "zeros": lambda: data[:place] + bytes(len(data[place:][:length])) + data[place + length :],
        "ones": lambda: data[:place] + b"\xff" * length + data[place + length :],
        "noise": lambda: data[:place] + rng.randbytes(length) + data[place + length :],
        "part twice": lambda: data[: place + length] + data[place:],
        "bytes put in": lambda: data[:place] + rng.randbytes(length) + data[place:],
        "grown": lambda: data + rng.randbytes(length),
        "empty": lambda: b"",
        "another file": lambda: other,
        "another beginning": lambda: other[:place] + data[place:],
    }
    kind = rng.choice([*kinds, "bits flipped", "bits flipped", "bits flipped"])
    return f"{kind} at {place}", kinds[kind]()


def _flipped(rng: random.Random, data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << rng.randrange(8)
    for _ in range(rng.choice([0, 0, 1, 5])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damaged_json(rng: random.Random, values: Any) -> tuple[str, Any]:
    """Return a copy with one to three values replaced, lost, renamed, ..., and a description."""
    values, changes = copy.deepcopy(values), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        what, values = _with_one_change(rng, values)
        changes.append(what)
    return ", ".join(changes), values


def _with_one_change(rng: random.Random, values: Any) -> tuple[str, Any]:
    if not isinstance(values, (dict, list)) or not values or rng.random() < 0.02:
        value = rng.choice(_ODD_VALUES)
        return f"all is {_short(value)}", copy.deepcopy(value)
    parent, key, path = _place(rng, values)
    value = parent[key]
    kind = rng.choice(["odd", "odd", "odd", "lost", "wrapped", "text", "more", "scaled", "renamed"])
    where = ".".join(map(str, path))
    if kind == "odd":
        parent[key] = copy.deepcopy(rng.choice(_ODD_VALUES))
        return f"{where} is {_short(parent[key])}", values
    if kind == "lost":
        del parent[key]
    elif kind == "wrapped":
        parent[key] = rng.choice([[value], {"x": value}, [value, value]])
    elif kind == "text":
        parent[key] = str(value)
    elif kind == "scaled" and isinstance(value, (int, float)):
        factor = rng.choice([-1, 2, 0.5, 10, 1000, 1e-9])
        # After earlier damage, it may have more digits than a float can hold.
        parent[key] = value * factor if abs(value) < 1e300 else -value
    elif kind == "renamed" and isinstance(parent, dict):
        parent[rng.choice(["x", f"{key}x", "", "\ud800", str(key).upper()])] = parent.pop(key)
    elif isinstance(parent, dict):
        parent[f"{key}_more"] = value
    else:
        parent.append(value)
    return f"{where} {kind}", values


def _place(rng: random.Random, values: Any) -> tuple[Any, Any, list[Any]]:
    """Pick any nested value: return its container, its key and its path."""
    path: list[Any] = []
    while True:
        key = rng.choice(list(values) if isinstance(values, dict) else range(len(values)))
        path.append(key)
        inner = values[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.15:
            return values, key, path
        values = inner


def _short(value: Any) -> str:
    return ascii(value if not isinstance(value, int) else float(min(abs(value), 1e300)))[:40]


def json_text(rng: random.Random, values: Any) -> tuple[str, bytes]:
    """Return damaged values as JSON; sometimes invalid text or extreme nesting."""
    kind = rng.random()
    if kind < 0.15:
        return damaged_bytes(rng, json.dumps(values).encode(), b"\x80\x04K\x00.")
    if kind < 0.18:
        opening = rng.choice(["[", '{"a":', '{"model":'])
        return "nested without end", (opening * _DEEP).encode()
    if kind < 0.2:
        return "digits without end", b'{"training": {"seed": ' + b"9" * 5000 + b"}}"
    what, values = damaged_json(rng, values)
    return what, json.dumps(values).encode()


_TYPES = ("?", "b", "u1", "<i2", ">i4", "<i8", "<u8", "<f2", "<f4", ">f4", "<f8", "<f16", "<c8",
          ">c8", "<c16", "<c32", "S3", "U3", "M8[s]", "m8[ns]", "V5")  # fmt: skip


def damaged_array(rng: random.Random, array: np.ndarray) -> tuple[str, Any]:
    """Return an array of another type, shape or content, and a description."""
    kinds = {
        "another type": _retyped,
        "another shape": _reshaped,
        "odd values": with_odd_values,
        "not plain": _not_plain,
    }
    kind = rng.choice(list(kinds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        what, damaged = kinds[kind](rng, array)
    return f"{kind}: {what}", damaged


def _retyped(rng: random.Random, array: np.ndarray) -> tuple[str, Any]:
    kind = rng.choice(_TYPES)
    plain = np.real(array) if np.dtype(kind).kind not in "cSUV" else array
    if np.dtype(kind).kind in "mM":
        plain = np.nan_to_num(np.asarray(plain, float)).astype(np.int64)
    if np.dtype(kind).kind == "V" or array.dtype.names:  # real and imaginary parts, in HDF5
        return kind, np.zeros(array.shape, kind)
    return kind, np.asarray(plain).astype(kind)


def _reshaped(rng: random.Random, array: np.ndarray) -> tuple[str, Any]:
    order = list(range(array.ndim))
    rng.shuffle(order)
    axis = rng.randrange(max(array.ndim, 1))
    changes: dict[str, Callable[[], Any]] = {
        "axes shuffled": lambda: np.transpose(array, order),
        "flat": lambda: array.ravel(),
        "an axis more": lambda: array[..., None] if rng.random() < 0.5 else array[None],
        "no axis": lambda: array.ravel()[0] if array.size else array,
        "first only": lambda: array[0] if array.ndim and len(array) else array,
        "one fewer": lambda: np.delete(array, 0, axis) if array.ndim and array.size else array,
        "twice": lambda: np.concatenate([np.atleast_1d(array)] * 2, axis),
        "nothing": lambda: np.take(array, [], axis) if array.ndim else np.zeros(0),
        "fortran": lambda: np.asfortranarray(array),
        "thirty axes": lambda: array.reshape(array.shape + (1,) * (30 - array.ndim)),
    }  # fmt: skip
    what = rng.choice(list(changes))
    return what, changes[what]()


def with_odd_values(rng: random.Random, array: np.ndarray) -> tuple[str, Any]:
    """Replace some values by one that is valid for the type and unusual for the field."""
    array = np.array(array)
    odd = rng.choice([np.nan, np.inf, -np.inf, 0, -1, 1e300, -1e30, 1e-300, 2**40, 57.3, 0.5])
    if array.dtype.kind in "iu":
        odd = rng.choice([0, 9, np.iinfo(array.dtype).min, np.iinfo(array.dtype).max])
    flat = array.reshape(-1)
    share = rng.choice(["one", "some", "all"])
    count = {"one": 1, "some": max(1, flat.size // 5), "all": flat.size}[share]
    for place in rng.sample(range(flat.size), min(count, flat.size)):
        flat[place] = odd
    if array.dtype.kind == "f" and rng.random() < 0.1:  # signalling NaNs, which warn when cast
        array.reshape(-1).view(f"u{array.itemsize}")[:1] = 0x7FF0000000000001 >> (
            0 if array.itemsize == 8 else 32
        )
        return "a signalling NaN", array
    return f"{share} {odd}", array


def _not_plain(rng: random.Random, array: np.ndarray) -> tuple[str, Any]:
    changes: dict[str, Callable[[], Any]] = {
        "objects": lambda: np.array([*array.ravel()[:3], None], object),
        "text": lambda: np.array("text"),
        "a structure": lambda: np.zeros(array.shape, [("a", "<f4"), ("b", "<c8")]),
        "a structure of one": lambda: np.zeros(array.shape, [("r", "<f4")]),
        "parts": lambda: np.zeros(array.shape, [("r", "<f8"), ("i", "<f8")]),
        "parts of text": lambda: np.zeros(array.shape, [("real", "S2"), ("imag", "S2")]),
        "parts of rows": lambda: np.zeros(array.shape, [("r", "<f8", 2), ("i", "<f8", 2)]),
        "a number": lambda: 3.5,
    }
    what = rng.choice(list(changes))
    return what, changes[what]()


def npy_bytes(array: Any) -> bytes:
    """Return an array in npy format."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


_SHAPES = ("(-1,)", "(0,)", "()", "(99999999999,)", "(9223372036854775807, 2)", "(2, -3, 4)", "5",
           "(3.5,)", "('a',)", "None", "(True,)", "(" * 200 + ")" * 200, "(1," * 40 + ")" * 40,
           "(100000, 100000, 100000)", "(10**9,)")  # fmt: skip
_DESCRIPTIONS = ("'|O'", "'<f17'", "'V0'", "'<f4'", "'<c16'", "'>c8'", "None", "[('a', '<f4')]",
                 "[('a', '|O')]", "('<f4', (2,))", "'<U1000000000'", "'S0'", "7", "'\\x00'",
                 "[('a', [('b', '<f4', (2, 2))])]",
                 "{'names': ['a'], 'formats': ['<f4']}")  # fmt: skip


def npy_with_odd_header(rng: random.Random, array: Any) -> tuple[str, bytes]:
    """Return an npy file whose header contradicts its content."""
    data, array = npy_bytes(array), np.asarray(array)
    body = data[-array.nbytes :] if array.nbytes else b""
    fields = {
        "descr": repr(np.lib.format.dtype_to_descr(array.dtype)),
        "fortran_order": "False",
        "shape": repr(array.shape),
    }
    name = rng.choice(["descr", "fortran_order", "shape", "shape"])
    fields[name] = {
        "descr": lambda: rng.choice(_DESCRIPTIONS),
        "fortran_order": lambda: rng.choice(["True", "1", "None", "'x'"]),
        "shape": lambda: rng.choice(_SHAPES),
    }[name]()
    if rng.random() < 0.1:
        fields[rng.choice(["x", "shape "])] = "0"
    if rng.random() < 0.1:
        del fields[name]
    header = "{" + ", ".join(f"'{key}': {value}" for key, value in fields.items()) + ", }"
    header = rng.choice([header, header, header, header[:-3], header + "#", "[" * 5000, "9" * 5000])
    text = header.encode() + b"\n"
    version = rng.choice([(1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) % 65536)
    description = f"header {header[:60]} of version {version[0]}"
    return description, b"\x93NUMPY" + bytes(version) + length + text + body
