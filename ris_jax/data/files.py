"""Files that are replaced whole or not at all, and folders that one process writes."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from ris_jax import errors

_PARTIAL = ".partial"
_LOCK_NAME = ".lock"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` to write to; in the end that file takes the place of `path`.

    If anything is raised meanwhile, `path` stays as it was and what was written is removed. What
    was written is on disk before it takes the place, so that a power cut leaves one or the other.

    Raises:
      OSError: the folder cannot be written, or nothing was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: pathlib.Path) -> None:
    """Removes what writers that were killed have left; nobody may be writing."""
    for path in folder.rglob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder; ends with the process, however it ends.

    Raises:
      RunError: another process is writing there.
      OSError: the folder cannot be written.
    """
    with (folder / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.RunError(f"{folder}: another process is writing there") from error
        yield
