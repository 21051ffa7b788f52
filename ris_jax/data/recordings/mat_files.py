"""MATLAB files before version 7.3 (`save -v4`, `-v6`, `-v7`): their plain arrays of numbers.

`scipy.io.loadmat` crashes the process on some damaged files, so it cannot read untrusted files.
This reader supports plain arrays only, and checks every length before use.
"""

import math
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

# Classes of version 5 that are plain arrays, with the real and the complex type of their numbers.
# The file may store the numbers as smaller integers.
_CLASSES: dict[int, tuple[str, str]] = {
    6: ("f8", "c16"),
    7: ("f4", "c8"),
    8: ("i1", "c8"),
    9: ("u1", "c8"),
    10: ("i2", "c8"),
    11: ("u2", "c8"),
    12: ("i4", "c16"),
    13: ("u4", "c16"),
    14: ("i8", "c16"),
    15: ("u8", "c16"),
}
_OPAQUE = 17  # objects, such as strings, with another header
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_COMPLEX_FLAG, _LOGICAL_FLAG = 0x0800, 0x0200
_HEADER = 128
_HEADER_OF_MATRIX = 1024  # bytes that contain flags, shape and name
# Version 4: number types by the third digit of a matrix's type.
_STORED_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_MOST_CHARACTERS = 63


class _Element(NamedTuple):
    """Location of a variable in its file."""

    start: int
    size: int
    order: str  #: "<" or ">"; not used for version 4
    compressed: bool = False


def is_version_4(head: bytes) -> bool:
    """Test for version 4, which has no signature but a type in the first word of the file."""
    return any(_type_4(head[:4], order) is not None for order in "<>")


def variables(file: BinaryIO) -> list[str]:
    """Return the names of the variables, without objects.

    Args:
      file: binary.

    Raises:
      ValueError: the file is damaged.
    """
    return [name for name, _ in _listed(file)]


def array(file: BinaryIO, name: str) -> np.ndarray | None:
    """Return a variable with axes in MATLAB's order; None if it is no plain array of numbers.

    Numbers have the type of their MATLAB class.

    Args:
      file: binary.
      name: out of `variables(file)`.

    Raises:
      ValueError: the file is damaged.
    """
    element = dict(_listed(file))[name]
    if _is_version_5(file):
        return _array_5(_content(file, element, None), element.order)
    return _array_4(file, element)


def _is_version_5(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(10) == b"MATLAB 5.0"


def _listed(file: BinaryIO) -> list[tuple[str, _Element]]:
    found = _listed_5(file) if _is_version_5(file) else _listed_4(file)
    names = [name for name, _ in found]
    if len(set(names)) != len(names):
        raise ValueError("several variables have one name")
    return found


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _listed_5(file: BinaryIO) -> list[tuple[str, _Element]]:
    file.seek(_HEADER - 2)
    order = {b"IM": "<", b"MI": ">"}.get(file.read(2))
    if order is None:
        raise ValueError("the header has no byte order")
    end, place, found = _size(file), _HEADER, []
    while place < end:
        file.seek(place)
        kind, size = _words(file.read(8), order)
        if kind not in (_MATRIX, _COMPRESSED) or place + 8 + size > end:
            raise ValueError("a variable does not end within the file")
        element = _Element(place + 8, size, order, kind == _COMPRESSED)
        name = _name_5(_content(file, element, _HEADER_OF_MATRIX), order)
        if name:  # MATLAB's internal variables have none
            found.append((name, element))
        place += 8 + size
    return found


def _words(data: bytes, order: str) -> tuple[int, int]:
    if len(data) != 8:
        raise ValueError("the file is cut off")
    first, second = np.frombuffer(data, f"{order}u4").tolist()
    return first, second


def _content(file: BinaryIO, element: _Element, most: int | None) -> bytes:
    """Return the matrix of an element, or its first `most` bytes; decompressed, without tag."""
    file.seek(element.start)
    if not element.compressed:
        return file.read(element.size if most is None else min(most, element.size))
    stream = zlib.decompressobj()
    data = file.read(element.size)
    kind, size = _words(stream.decompress(data, 8), element.order)
    if kind != _MATRIX:
        raise ValueError("a compressed variable is no matrix")
    wanted = size if most is None else min(most, size)
    content = stream.decompress(stream.unconsumed_tail, wanted) if wanted else b""
    if most is None and (stream.decompress(stream.unconsumed_tail, 1) or not stream.eof):
        raise ValueError("a compressed variable has another length than its tag")
    return content


def _part(data: bytes, place: int, order: str) -> tuple[int, bytes, int]:
    """Return type and bytes of the part at an offset, and the offset of the next part."""
    kind, size = _words(data[place : place + 8], order)
    if kind >> 16:  # the tag itself has up to four bytes of data
        kind, size, start, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        if size > 4:
            raise ValueError("a short part is too long")
    else:
        start = place + 8
        following = start + -(-size // 8) * 8
    content = data[start : start + size]
    if len(content) != size:
        raise ValueError("a part is cut off")
    return kind, content, following


class _Matrix(NamedTuple):
    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str
    place: int  #: of the numbers


def _matrix(data: bytes, order: str) -> _Matrix:
    kind, content, place = _part(data, 0, order)
    if kind != _UINT32 or len(content) != 8:
        raise ValueError("a matrix has no flags")
    flags = _words(content, order)[0]
    if flags & 0xFF == _OPAQUE:
        return _Matrix(_OPAQUE, 0, (), "", place)
    kind, content, place = _part(data, place, order)
    if kind != _INT32 or len(content) < 8 or len(content) % 4:
        raise ValueError("a matrix has no shape")
    shape = tuple(np.frombuffer(content, f"{order}i4").tolist())
    kind, content, place = _part(data, place, order)
    if kind != _INT8 or min(shape) < 0:
        raise ValueError("a matrix has no name or no shape")
    return _Matrix(flags & 0xFF, flags, shape, _readable(content), place)


def _readable(name: bytes) -> str:
    text = name.decode("ascii")
    if text and not (text.isidentifier() and len(text) <= _MOST_CHARACTERS):
        raise ValueError("a variable has a name that MATLAB does not allow")
    return text


def _name_5(data: bytes, order: str) -> str:
    return _matrix(data, order).name


def _array_5(data: bytes, order: str) -> np.ndarray | None:
    matrix = _matrix(data, order)
    if matrix.kind not in _CLASSES:
        return None
    real, place = _numbers(data, matrix.place, order, matrix.shape)
    kept, complex_kept = _CLASSES[matrix.kind]
    if matrix.flags & _COMPLEX_FLAG:
        imaginary, _ = _numbers(data, place, order, matrix.shape)
        return _whole(real, imaginary, complex_kept)
    return real.astype(bool if matrix.flags & _LOGICAL_FLAG else kept)


def _numbers(data: bytes, place: int, order: str, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    kind, content, following = _part(data, place, order)
    if kind not in _STORED:
        raise ValueError("numbers have an unknown type")
    stored = np.dtype(f"{order}{_STORED[kind]}")
    return _shaped(content, stored, shape), following


def _shaped(content: bytes, stored: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if len(content) != math.prod(shape) * stored.itemsize:
        raise ValueError("a matrix has more or fewer numbers than its shape")
    return np.frombuffer(content, stored).reshape(shape, order="F")


def _whole(real: np.ndarray, imaginary: np.ndarray, kind: str) -> np.ndarray:
    whole = np.empty(real.shape, kind)
    whole.real, whole.imag = real, imaginary
    return whole


def _type_4(word: bytes, order: str) -> tuple[str, int] | None:
    """Return the number type of a matrix, and 0 for a full one; None for an unknown type."""
    if len(word) != 4:
        return None
    value = int(np.frombuffer(word, f"{order}u4")[0])
    thousands, rest = divmod(value, 1000)
    hundreds, rest = divmod(rest, 100)
    numbers, kind = divmod(rest, 10)
    if thousands != "<>".index(order) or hundreds or numbers >= len(_STORED_4) or kind > 2:
        return None
    return _STORED_4[numbers], kind


def _header_4(file: BinaryIO, place: int) -> tuple[str, np.dtype, int, bool, tuple[int, int], int]:
    """Return a header's name, number type, kind, complexity, shape and length."""
    file.seek(place)
    head = file.read(20)
    for order in "<>":
        known = _type_4(head[:4], order)
        if known is not None and len(head) == 20:
            rows, columns, is_complex, length = np.frombuffer(head[4:], f"{order}u4").tolist()
            if not 0 < length <= _MOST_CHARACTERS + 1 or is_complex > 1:
                break
            name = _readable(file.read(length).partition(b"\0")[0])
            stored = np.dtype(f"{order}{known[0]}")
            return name, stored, known[1], bool(is_complex), (rows, columns), 20 + length
    raise ValueError("a matrix has no header")


def _listed_4(file: BinaryIO) -> list[tuple[str, _Element]]:
    end, place, found = _size(file), 0, []
    while place < end:
        name, stored, _, is_complex, shape, length = _header_4(file, place)
        size = length + math.prod(shape) * stored.itemsize * (2 if is_complex else 1)
        if place + size > end:
            raise ValueError("a variable does not end within the file")
        found.append((name, _Element(place, size, "")))
        place += size
    return found


def _array_4(file: BinaryIO, element: _Element) -> np.ndarray | None:
    _, stored, kind, is_complex, shape, length = _header_4(file, element.start)
    if kind:  # text, or a sparse matrix
        return None
    file.seek(element.start + length)
    size = math.prod(shape) * stored.itemsize
    real = _shaped(file.read(size), stored, shape).astype("f8")
    if not is_complex:
        return real
    return _whole(real, _shaped(file.read(size), stored, shape), "c16")
