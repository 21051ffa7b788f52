"""Files of named arrays, .npz, HDF5 and MATLAB v7.3, as plain dictionaries of NumPy arrays.

Nothing is ever unpickled, and whatever is wrong with a file is one line that names it.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from ris_jax import errors
from ris_jax.data import files, npy

# What an ending promises. The content is looked at, too: MATLAB's HDF5 has its axes reversed, and
# a file that was renamed must not be read the wrong way round.
_CONTENT_OF_ENDING = {
    ".npz": "an npz archive",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".mat": "MATLAB v7.3",
}
ENDINGS = tuple(_CONTENT_OF_ENDING)
_ADVICE = {
    "an npz archive": "name it .npz",
    "HDF5": "name it .h5",
    "MATLAB v7.3": "name it .mat",
    "MATLAB v5": "save it again with save(..., '-v7.3')",
    "a single .npy array": "save the arrays by name with np.savez",
}
# What MATLAB and its readers keep beside the variables.
_BOOKKEEPING = {"#refs#", "#subsystem#", "__header__", "__version__", "__globals__"}
_NPY_MAGIC = b"\x93NUMPY"
_LARGEST_COMPRESSION = 1100  # deflate reaches 1032
_ALWAYS_ALLOWED = 64 << 20  # bytes; HDF5 stores nothing of chunks that were never written
# How h5py and MATLAB name the parts of a complex number.
_COMPLEX_PARTS = (("r", "i"), ("real", "imag"), ("re", "im"))
# MATLAB stores these as integers; unlike integers they are no numbers.
_MATLAB_CLASSES = {b"logical": bool, b"char": str}


def names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the arrays in a file, MATLAB's own bookkeeping left out.

    Raises:
      RunError: the file is not there, is none of the formats, or is damaged.
    """
    with _opened(pathlib.Path(path)) as file:
        found = file.files if isinstance(file, np.lib.npyio.NpzFile) else list(file)
    return [name for name in found if name not in _BOOKKEEPING]


def load(path: str | os.PathLike[str], wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The wanted arrays of a file, with the axes in the order in which their writer saw them.

    Args:
      path: a file whose ending is .npz, .h5, .hdf5 or .mat.
      wanted: names out of `names(path)`.

    Returns:
      Name to array; HDF5's compound complex numbers are complex, MATLAB's reversed axes are
      turned back.

    Raises:
      RunError: the file is not there, is none of the formats, is damaged, or holds something
        else than arrays under a wanted name.
    """
    path = pathlib.Path(path)
    matlab = path.suffix.lower() == ".mat"
    with _opened(path) as file:
        if isinstance(file, np.lib.npyio.NpzFile):
            return {name: _npz_array(path, file, name) for name in wanted}
        return {name: _hdf5_array(path, file, name, matlab=matlab) for name in wanted}


def save(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes named arrays as .npz or HDF5; a file of that name is replaced whole or not at all.

    Raises:
      RunError: the ending is none that can be written.
      OSError: the folder cannot be written.
    """
    path = pathlib.Path(path)
    ending = path.suffix.lower()
    if _CONTENT_OF_ENDING.get(ending) not in ("an npz archive", "HDF5"):
        raise errors.RunError(f"{path}: need a name ending in .npz, .h5 or .hdf5; got {ending!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        if ending == ".npz":
            with open(partial, "wb") as file:
                np.savez(file, **arrays)
        else:
            with h5py.File(partial, "w") as file:
                for name, array in arrays.items():
                    file[name] = array


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """The open archive; any exception of its library becomes one line with the file's name."""
    try:
        content = _checked_content(path)
        if content == "an npz archive":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                yield archive
        else:
            with h5py.File(path, "r") as file:
                yield file
    except errors.RunError:
        raise
    # A damaged file makes zipfile, zlib, NumPy and h5py raise nearly anything: BadZipFile, OSError,
    # ValueError, EOFError, KeyError, RuntimeError, MemoryError for an absurd shape, ...
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.RunError(
            f"{path}: cannot be read, damaged or incomplete? ({reason[:200]})"
        ) from error


def _checked_content(path: pathlib.Path) -> str:
    """What is in the file, which must be what its ending says."""
    if not path.exists():
        raise errors.RunError(f"{path}: no such file or folder")
    if not path.is_file():
        raise errors.RunError(f"{path}: need a file; got something else")
    ending = path.suffix.lower()
    if ending not in _CONTENT_OF_ENDING:
        known = ", ".join(ENDINGS)
        raise errors.RunError(f"{path}: need a name ending in one of {known}; got {ending!r}")
    content, needed = _content(path), _CONTENT_OF_ENDING[ending]
    if content != needed:
        advice = f"; {_ADVICE[content]}" if content in _ADVICE else ""
        raise errors.RunError(
            f"{path}: need {needed} in a file that ends in {ending}; its content is "
            f"{content}{advice}"
        )
    return content


def _content(path: pathlib.Path) -> str:
    """Tells a file by its first bytes, whatever its name."""
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        return "empty"
    if head.startswith(b"PK"):
        return "an npz archive"
    if head.startswith(_NPY_MAGIC):
        return "a single .npy array"
    if head.startswith(b"MATLAB 5.0"):
        return "MATLAB v5"
    if h5py.is_hdf5(path):
        return "MATLAB v7.3" if head.startswith(b"MATLAB 7.3") else "HDF5"
    return "something else, or damaged"


def _require_held(path: pathlib.Path, name: str, needed: int, held: int) -> None:
    """Refuses to allocate memory for an array that cannot be in its file."""
    if needed > _LARGEST_COMPRESSION * held + _ALWAYS_ALLOWED:
        raise errors.RunError(
            f"{path}: {name}: need an array that the file holds; got one of {needed} bytes in "
            f"{held}, damaged?"
        )


def _npz_array(path: pathlib.Path, archive: Any, name: str) -> np.ndarray:
    if len(archive.zip.namelist()) != len(set(archive.zip.namelist())):
        raise errors.RunError(f"{path}: need every array once; got several of one name")
    entry = archive.zip.getinfo(f"{name}.npy" if f"{name}.npy" in archive.zip.namelist() else name)
    _require_held(path, name, entry.file_size, entry.compress_size)
    try:
        with archive.zip.open(entry) as file:
            if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
                file.seek(0)
                npy.header(file, entry.file_size)
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise errors.RunError(
            f"{path}: {name}: need a plain numeric array; got pickled Python objects, and nothing "
            "is ever unpickled: convert it, e.g. with np.stack, and save it again"
        ) from error
    if not isinstance(array, np.ndarray):  # bytes, from an archive that NumPy did not write
        raise errors.RunError(f"{path}: {name}: need an array in npy format; got other bytes")
    return array


def _hdf5_array(path: pathlib.Path, file: Any, name: str, *, matlab: bool) -> np.ndarray:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise errors.RunError(
            f"{path}: {name}: need a plain array; got an empty or nested entry, such as a struct"
        )
    if not dataset.is_virtual and not dataset.external:
        _require_held(path, name, dataset.nbytes, dataset.id.get_storage_size())
    # HDF5 converts any other type on reading, and where damage has made one up, beyond its buffer.
    if dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype, logical=True):
        raise errors.RunError(
            f"{path}: {name}: need numbers of a standard type; got others, damaged? "
            f"(read as {str(dataset.dtype)[:60]})"
        )
    array = _complex_from_parts(np.asarray(dataset[()]))
    if not matlab:
        return array
    if "MATLAB_empty" in dataset.attrs:  # what is stored is then the shape
        return np.zeros(tuple(map(int, array.ravel())))
    kind = _MATLAB_CLASSES.get(np.bytes_(dataset.attrs.get("MATLAB_class", b"")))
    # MATLAB's first index is the fastest, and HDF5 lists the fastest axis last.
    return (array if kind is None else array.astype(kind)).T


def _complex_from_parts(array: np.ndarray) -> np.ndarray:
    """A compound array of two parts as a complex one, any other array as it is."""
    parts = array.dtype.names
    if parts not in _COMPLEX_PARTS:
        return array
    real, imaginary = array[parts[0]], array[parts[1]]
    whole = np.empty(array.shape, np.result_type(real, imaginary, np.complex64))
    whole.real, whole.imag = real, imaginary
    return whole
