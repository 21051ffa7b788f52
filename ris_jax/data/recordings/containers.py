"""Files of named arrays (.npz, HDF5, MATLAB) as plain dictionaries of NumPy arrays.

Nothing is ever unpickled. Every error is one line that names the file.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from ris_jax import errors, files
from ris_jax.data.recordings import mat_files, npy

# Formats allowed by each suffix. The content is checked as well: MATLAB's HDF5 has reversed axes,
# so a renamed file would be read in the wrong order.
_CONTENTS_OF_ENDING = {
    ".npz": ("an npz archive",),
    ".h5": ("HDF5",),
    ".hdf5": ("HDF5",),
    ".mat": ("MATLAB v7.3", "MATLAB v5", "MATLAB v4"),
}
ENDINGS = tuple(_CONTENTS_OF_ENDING)
_BEFORE_HDF5 = ("MATLAB v5", "MATLAB v4")
_ADVICE = {
    "an npz archive": "name it .npz",
    "HDF5": "name it .h5",
    "MATLAB v7.3": "name it .mat",
    "MATLAB v5": "name it .mat",
    "a single .npy array": "save the arrays by name with np.savez",
}
# Bookkeeping entries of MATLAB and its readers.
_BOOKKEEPING = {"#refs#", "#subsystem#", "__header__", "__version__", "__globals__"}
_NPY_MAGIC = b"\x93NUMPY"
_LARGEST_COMPRESSION = 1100  # deflate reaches 1032
_ALWAYS_ALLOWED = 64 << 20  # bytes; HDF5 does not store chunks that were never written
#: Names of the parts of a complex number, in any case.
COMPLEX_PARTS = (("real", "imag"), ("re", "im"), ("r", "i"))
# Complex numbers of HDF5 2.0, which h5py reads directly; older releases have none.
_NATIVE_COMPLEX = tuple(
    getattr(h5py.h5t, f"COMPLEX_IEEE_F{bits}{order}")
    for bits in (32, 64)
    for order in ("LE", "BE")
    if hasattr(h5py.h5t, f"COMPLEX_IEEE_F{bits}{order}")
)
# MATLAB stores these classes as integers, but they are not numbers.
_MATLAB_CLASSES = {b"logical": bool, b"char": str}


def names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the arrays in a file, without MATLAB's bookkeeping.

    Raises:
      RunError: the file is missing, damaged or in an unknown format.
    """
    with _opened(pathlib.Path(path)) as file:
        if isinstance(file, np.lib.npyio.NpzFile):
            found = list(file.files)
        elif isinstance(file, h5py.File):
            found = list(file)
        else:
            found = mat_files.variables(file)
    return [name for name in found if name not in _BOOKKEEPING]


def load(path: str | os.PathLike[str], wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Load the requested arrays of a file, with the axes in their writer's order.

    Args:
      path: a file ending in .npz, .h5, .hdf5 or .mat.
      wanted: names out of `names(path)`.

    Returns:
      Name to array. Complex numbers of HDF5 are complex, whether stored as a compound or as a group
      of two arrays (see `COMPLEX_PARTS`). MATLAB's reversed axes are restored.

    Raises:
      RunError: the file is missing, damaged or in an unknown format, or a requested name is not an
        array.
    """
    path = pathlib.Path(path)
    matlab = path.suffix.lower() == ".mat"
    with _opened(path) as file:
        if isinstance(file, np.lib.npyio.NpzFile):
            return {name: _npz_array(path, file, name) for name in wanted}
        if isinstance(file, h5py.File):
            return {name: _hdf5_array(path, file, name, matlab=matlab) for name in wanted}
        return {name: _mat_array(path, file, name) for name in wanted}


def load_bytes(name: str, content: bytes, most: int) -> dict[str, np.ndarray]:
    """Load all arrays of an .npz archive in memory.

    Args:
      name: of the archive in error messages.
      content: of the archive.
      most: maximum size of its arrays together [bytes].

    Raises:
      RunError: it is damaged, has something else than arrays of numbers, or is too large.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise errors.RunError(f"{name}: need an .npz archive; got a single .npy array")
            entries = [] if archive.zip is None else archive.zip.infolist()
            if (total := sum(entry.file_size for entry in entries)) > most:
                raise errors.RunError(f"{name}: need at most {most} bytes; got {total} unpacked")
            return {key: _npz_array(name, archive, key) for key in archive.files}
    except errors.RunError:
        raise
    except Exception as error:  # as in `_opened`
        reason = errors.brief(f"{type(error).__name__}: {error}")
        raise errors.RunError(
            f"{name}: cannot be read, damaged or incomplete? ({reason})"
        ) from error


def require_name(path: str | os.PathLike[str]) -> None:
    """Check that `save` can write a file with this suffix.

    Raises:
      RunError: it cannot.
    """
    ending = pathlib.Path(path).suffix.lower()
    if ending not in (".npz", ".h5", ".hdf5"):
        raise errors.RunError(f"{path}: need a name ending in .npz, .h5 or .hdf5; got {ending!r}")


def save(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write named arrays as .npz or HDF5; an existing file is replaced atomically.

    Raises:
      RunError: the suffix is not supported.
      OSError: the directory cannot be written.
    """
    require_name(path)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        if path.suffix.lower() == ".npz":
            with open(partial, "wb") as file:
                np.savez(file, **arrays)
        else:
            with h5py.File(partial, "w") as file:
                for name, array in arrays.items():
                    file[name] = array


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """Open an archive; turn any exception of its library into one line with the file's name."""
    try:
        content = _checked_content(path)
        if content == "an npz archive":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                yield archive
        elif content in _BEFORE_HDF5:
            with open(path, "rb") as file:
                yield file
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
    """Return the format of the file, which must agree with its suffix."""
    if not path.exists():
        raise errors.RunError(f"{path}: no such file or directory")
    if not path.is_file():
        raise errors.RunError(f"{path}: need a file; got something else")
    ending = path.suffix.lower()
    if ending not in _CONTENTS_OF_ENDING:
        known = ", ".join(ENDINGS)
        raise errors.RunError(f"{path}: need a name ending in one of {known}; got {ending!r}")
    content, needed = _content(path), _CONTENTS_OF_ENDING[ending]
    if content not in needed:
        advice = f"; {_ADVICE[content]}" if content in _ADVICE else ""
        raise errors.RunError(
            f"{path}: need {' or '.join(needed)} in a file that ends in {ending}; its content is "
            f"{content}{advice}"
        )
    return content


def _content(path: pathlib.Path) -> str:
    """Detect the format of a file from its first bytes."""
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
    if path.suffix.lower() == ".mat" and mat_files.is_version_4(head):
        return "MATLAB v4"
    return "something else, or damaged"


def _require_held(path: pathlib.Path | str, name: str, needed: int, held: int) -> None:
    """Reject an array that is larger than its file, before memory is allocated for it."""
    if needed > _LARGEST_COMPRESSION * held + _ALWAYS_ALLOWED:
        raise errors.RunError(
            f"{path}: {name}: need an array that the file holds; got one of {needed} bytes in "
            f"{held}, damaged?"
        )


def _npz_array(path: pathlib.Path | str, archive: Any, name: str) -> np.ndarray:
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
            f"{path}: {name}: need a plain numeric array; got pickled Python objects, which are "
            "never unpickled: convert it, e.g. with np.stack, and save it again"
        ) from error
    if not isinstance(array, np.ndarray):  # bytes, from an archive that NumPy did not write
        raise errors.RunError(f"{path}: {name}: need an array in npy format; got other bytes")
    return array


def _mat_array(path: pathlib.Path, file: Any, name: str) -> np.ndarray:
    array = mat_files.array(file, name)
    if array is None:
        raise errors.RunError(
            f"{path}: {name}: need an array of numbers; got another class, such as a struct or text"
        )
    return array


def _hdf5_array(path: pathlib.Path, file: Any, name: str, *, matlab: bool) -> np.ndarray:
    entry = file[name]
    parts = _parts_of(entry) if isinstance(entry, h5py.Group) else None
    if parts is None:
        return _dataset_array(path, entry, name, matlab=matlab)
    real, imaginary = (
        _dataset_array(path, entry[part], f"{name}/{part}", matlab=matlab) for part in parts
    )
    return joined(str(path), name, real, imaginary)


def _parts_of(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the names of the real and the imaginary part, if there are no other names."""
    by_name = {name.lower(): name for name in names}
    for parts in COMPLEX_PARTS:
        if set(by_name) == set(parts):
            return by_name[parts[0]], by_name[parts[1]]
    return None


def joined(where: str, name: str, real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """Join two real arrays into a complex one; single precision unless a part is double.

    Raises:
      RunError: the parts are not real numbers, or have different shapes.
    """
    if not all(part.dtype.kind in "fiu" for part in (real, imaginary)):
        raise errors.RunError(f"{where}: {name}: need real numbers in both parts; got others")
    if real.shape != imaginary.shape:
        raise errors.RunError(
            f"{where}: {name}: need parts of one shape; got {list(real.shape)} real and "
            f"{list(imaginary.shape)} imaginary"
        )
    whole = np.empty(real.shape, np.result_type(real, imaginary, np.complex64))
    whole.real, whole.imag = real, imaginary
    return whole


def _dataset_array(path: pathlib.Path, dataset: Any, name: str, *, matlab: bool) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise errors.RunError(
            f"{path}: {name}: need a plain array; got an empty or nested entry, such as a struct"
        )
    if not dataset.is_virtual and not dataset.external:
        _require_held(path, name, dataset.nbytes, dataset.id.get_storage_size())
    # Of other types, damaged ones included, HDF5's conversion can write past its buffer.
    stored = dataset.id.get_type()
    if stored != h5py.h5t.py_create(dataset.dtype, logical=True) and stored not in _NATIVE_COMPLEX:
        raise errors.RunError(
            f"{path}: {name}: need numbers of a standard type; got others, damaged? "
            f"(read as {str(dataset.dtype)[:60]})"
        )
    array = np.asarray(dataset[()])
    parts = _parts_of(array.dtype.names or ())
    if parts is not None:
        array = joined(str(path), name, *(array[part] for part in parts))
    if not matlab:
        return array
    if "MATLAB_empty" in dataset.attrs:  # the stored values are then the shape
        return np.zeros(tuple(map(int, array.ravel())))
    kind = _MATLAB_CLASSES.get(np.bytes_(dataset.attrs.get("MATLAB_class", b"")))
    # MATLAB's first index varies fastest; HDF5 lists the fastest axis last.
    return (array if kind is None else array.astype(kind)).T
