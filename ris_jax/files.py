"""Atomic file replacement, and locks on directories."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

from ris_jax import errors

_PARTIAL = ".partial"
_LOCK_NAME = ".lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SECONDS_BETWEEN_ATTEMPTS = 1.0  # to take a lock


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary path next to `path`; at the end that file replaces `path`.

    After an exception, `path` is unchanged and the temporary file is removed. The temporary file is
    synced to disk first, so that a power cut leaves either the old or the new file.

    Raises:
      OSError: the directory cannot be written, or nothing was written; it names a file.
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
    """Return the error; if it has no reason, as from NumPy, the error of a further write."""
    if error.errno is not None:
        return error
    try:
        with partial.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as real:
        return real
    return error


def described(error: OSError) -> str:
    """Describe an error: file, reason and, if the disk is full, the remedy."""
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = "; make room and give the same command again" if error.errno in _NO_ROOM else ""
    return f"{where}{error.strerror or error}{advice}"


def _sync(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sweep(folder: pathlib.Path, name: str = "*") -> None:
    """Remove temporary files that killed writers left; no writer may be active."""
    for path in folder.rglob(f".{name}.*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: pathlib.Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a directory against other writers until the context or the process ends.

    Args:
      folder: it must exist.
      wait: wait for the other process to end, instead of raising an error.

    Raises:
      RunError: another process is writing there.
      OSError: the directory cannot be written.
    """
    from filelock import FileLock, Timeout  # slow to import

    path = folder / _LOCK_NAME
    path.touch()  # if the directory cannot be written, this error names the reason
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise errors.RunError(
                f"{folder}: another process is writing there; wait for its end, or give another "
                "directory"
            ) from error
        print(f"waiting for another process that writes to {folder}", flush=True)
        held = lock.acquire(poll_interval=_SECONDS_BETWEEN_ATTEMPTS)
    with held:
        yield
