"""Compiled programs on disk, so that the next process need not compile them again.

JAX writes and reads the entries; this module selects the directory and limits its size. Entries are
machine code: the directory's name has the versions and a hash of the processor, and only its owner
has access. JAX's own size limit locks every entry and fails after a process died between two of its
writes. Here, the oldest entries are deleted when the cache is enabled.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import platformdirs

from ris_jax import _environment

MAX_BYTES = 1 << 30

# Options of JAX; in capitals, the environment variables that it reads on import.
_FOLDER = "jax_compilation_cache_dir"
_THRESHOLDS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_PROCESSOR_FIELDS = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip
_UNREADABLE = re.compile("Error reading persistent compilation cache entry for '(.+?)'")
_UNWRITTEN = re.compile("Error writing persistent compilation cache entry")


class Contents(NamedTuple):
    """Size of a cache."""

    entries: int
    num_bytes: int


def enable_compilation_cache(
    path: str | os.PathLike[str] | None = None,
) -> pathlib.Path | None:
    """Keep compiled programs on disk, for this process and its children.

    The second start of a program then takes seconds instead of tens of seconds. Call this before
    the first computation. ``JAX_COMPILATION_CACHE_DIR`` replaces the default directory. If the
    directory cannot be written, programs run without a cache.

    Args:
      path: directory of the cache; by default one in the user's cache directory, such as
        ``~/.cache/ris_jax/compiled/``, limited to 1 GiB.

    Returns:
      The directory, or None if it cannot be written.

    Example:
      >>> import ris_jax
      >>> ris_jax.enable_compilation_cache()  # doctest: +SKIP
    """
    given = path or os.environ.get(_FOLDER.upper())
    folder = pathlib.Path(given).absolute() if given else _default_folder()
    if folder is None or not _writable(folder):
        return None
    if not given:
        prune(folder.parent, MAX_BYTES)
    _environment.silence_xla()  # on some processors it logs an error for each entry
    unset = {name: x for name, x in _THRESHOLDS.items() if name.upper() not in os.environ}
    _configure({_FOLDER: str(folder), **unset})
    _replace_damaged_entries(folder)
    return folder


def disable_compilation_cache() -> None:
    """Stop reading and writing compiled programs, independent of the environment."""
    _configure({"jax_enable_compilation_cache": False})


def contents(folder: pathlib.Path) -> Contents:
    """Count the entries of a cache and add up their sizes."""
    sizes = [size for *_, size in _entries(folder)]
    return Contents(len(sizes), sum(sizes))


def prune(folder: pathlib.Path, max_bytes: int) -> None:
    """Delete entries in and below a directory, least recently used first, down to a total size.

    Other processes may delete or write at the same time.

    Args:
      folder: it may be missing.
      max_bytes: total size to keep.
    """
    found = sorted(_entries(folder), reverse=True)
    kept = 0
    for _, path, size in found:
        kept += size
        if kept > max_bytes:
            with contextlib.suppress(OSError):
                path.unlink()


def _entries(folder: pathlib.Path) -> Iterator[tuple[float, pathlib.Path, int]]:
    """Yield the time of last use [s], path and size [bytes] of each file."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.is_file():
                yield max(status.st_atime, status.st_mtime), path, status.st_size


def _default_folder() -> pathlib.Path | None:
    """Return the directory for these versions and processor, or None without a home directory."""
    root = platformdirs.user_cache_path("ris_jax", appauthor=False)
    if not root.is_absolute():
        return None
    versions = [f"{name}-{_version(name)}" for name in ("jax", "jaxlib", "ris_jax")]
    return root / "compiled" / "-".join([*versions, _processor()])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        return "source"


def _processor() -> str:
    """Return a hash of the processor's model and instruction sets, which machine code needs."""
    system = platform.uname()
    lines = [system.system, system.machine, platform.processor()]
    with contextlib.suppress(OSError):
        first, _, _ = pathlib.Path("/proc/cpuinfo").read_text().partition("\n\n")
        fields = (line.partition(":") for line in first.splitlines())
        lines += [value for name, _, value in fields if name.strip() in _PROCESSOR_FIELDS]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _writable(folder: pathlib.Path) -> bool:
    """Create a directory with access for its owner only, and test if it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError:
        return False
    return True


def _configure(options: Mapping[str, Any]) -> None:
    """Set options of JAX, imported or not, and of child processes."""
    os.environ.update({name.upper(): str(value) for name, value in options.items()})
    if "jax" not in sys.modules:
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.values[_FOLDER]
    for name, value in options.items():
        jax.config.update(name, value)
    if before not in (None, jax.config.values[_FOLDER]):
        compilation_cache.reset_cache()


@functools.cache
def _replace_damaged_entries(folder: pathlib.Path) -> None:
    """Let JAX overwrite an entry that it could not read, such as a truncated one.

    JAX warns, compiles, and leaves the entry unchanged. Here the warning deletes the entry before
    JAX compiles. A failed write is not reported: it only costs time.
    """
    show = warnings.showwarning
    warnings.filterwarnings("always", _UNREADABLE.pattern, UserWarning)

    def showwarning(message, category, filename, lineno, file=None, line=None):
        text = str(message)
        if unreadable := _UNREADABLE.match(text):
            for entry in folder.glob(f"{unreadable[1]}-*"):
                with contextlib.suppress(OSError):
                    entry.unlink()
        elif not _UNWRITTEN.match(text):
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = showwarning
