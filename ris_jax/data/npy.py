"""The header of an .npy file, looked at before NumPy is given the file."""

import math
import tokenize
from typing import Any

import numpy as np

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def header(file: Any, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in a file, whose content is as long as they say.

    NumPy evaluates the header as Python, and allocates or maps what it asks for.

    Args:
      file: binary, at its beginning; then at the array.
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
    # Beside ValueError: what tokens, the parser and its depth make of a damaged header; CPython
    # 3.11 has a SystemError for a depth that an earlier one has left behind.
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, SystemError) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
    if any(length < 0 for length in shape):
        raise ValueError(f"its header is damaged (shape {shape})")
    needed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and needed != held:
        raise ValueError(f"its header asks for {needed} bytes; got {held}")
    return shape, dtype
