"""Files that are replaced whole or not at all, and folders that one process writes."""

import contextlib
import errno
import fcntl
import math
import os
import pathlib
import time
from collections.abc import Iterator

from ris_jax import errors

_PARTIAL = ".partial"
_LOCK_NAME = ".lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SECONDS_BETWEEN_LOOKS = 1.0  # at a lock that another process has
_SECONDS_BETWEEN_LINES = 30.0


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` to write to; in the end that file takes the place of `path`.

    If anything is raised meanwhile, `path` stays as it was and what was written is removed. What
    was written is on disk before it takes the place, so that a power cut leaves one or the other.

    Raises:
      OSError: the folder cannot be written, or nothing was; it names a file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename is not None:
            raise
        real = _with_reason(error, partial)
        raise OSError(real.errno, real.strerror or str(real), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _with_reason(error: OSError, partial: pathlib.Path) -> OSError:
    """The error, or where that gives no reason, as NumPy's does not, the one of writing on."""
    if error.errno is not None:
        return error
    try:
        with partial.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as real:
        return real
    return error


def described(error: OSError) -> str:
    """An error in words: which file, what about it, and what to do where there is no room."""
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = "; make room and give the same command again" if error.errno in _NO_ROOM else ""
    return f"{where}{error.strerror or error}{advice}"


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: pathlib.Path, name: str = "*") -> None:
    """Removes what killed writers of files of that name have left; nobody may be writing them."""
    for path in folder.rglob(f".{name}.*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: pathlib.Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing to a folder; ends with the process, however it ends.

    Args:
      folder: it must exist.
      wait: until the other process ends, instead of refusing.

    Raises:
      RunError: another process is writing there.
      OSError: the folder cannot be written.
    """
    told = -math.inf
    with (folder / _LOCK_NAME).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not wait:
                    raise errors.RunError(
                        f"{folder}: another process is writing there; need another folder, or its "
                        "end"
                    ) from error
            if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(f"waiting for another process that writes to {folder}", flush=True)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        yield
