"""Files that are replaced whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` to write to; in the end that file takes the place of `path`.

    If anything is raised meanwhile, `path` stays as it was and what was written is removed.

    Raises:
      OSError: the folder cannot be written, or nothing was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
