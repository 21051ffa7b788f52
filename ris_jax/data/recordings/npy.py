"""Validation of the header of an .npy file before NumPy opens it."""

import math
import tokenize
from typing import Any

import numpy as np

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def header(file: Any, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of the array in a file, checked against the file's size.

    NumPy evaluates the header as Python, and allocates or maps the memory that it requests.

    Args:
      file: binary, at its beginning; afterwards at the array.
      size: of the file, bytes.

    Returns:
      Shape and dtype.

    Raises:
      ValueError: it is no .npy file, or the header is damaged.
      OSError: it cannot be read.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"need npy format 1.0 or 2.0; got {version[0]}.{version[1]}")
        shape, _, dtype = _READERS[version](file)
    # Besides ValueError: exceptions of tokenizer and parser on damaged headers. CPython 3.11 raises
    # SystemError for a recursion depth left over from an earlier failure.
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, SystemError) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
    if any(length < 0 for length in shape):
        raise ValueError(f"its header is damaged (shape {shape})")
    needed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and needed != held:
        raise ValueError(f"its header asks for {needed} bytes; got {held}")
    return shape, dtype
