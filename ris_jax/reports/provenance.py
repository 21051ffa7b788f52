"""Provenance of a result (versions, machine, configuration), and atomic file writes."""

import importlib.metadata
import pathlib
import platform

from ris_jax import _environment, errors, files
from ris_jax import config as config_lib

_PACKAGES = ("ris-jax", "jax", "jaxlib", "numpy", "scipy")
_MOST_CHARACTERS = 200  # of a non-default field in a header


def versions() -> dict[str, str]:
    """Return the versions of Python and of the numerical packages."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[package] = "unknown"
    return found


def machine() -> str:
    """Return the processor, the number of cores and the device of JAX."""
    import jax

    device = jax.devices()[0]
    return f"{platform.machine()}, {_environment.available_cores()} cores, {device.device_kind}"


def header(config: config_lib.Config) -> str:
    """Return three lines: machine; versions; seed and non-default configuration."""
    changed = config_lib.difference(config, config_lib.Config())
    return "\n".join(
        (
            f"machine: {machine()}",
            "versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()),
            f"seed: {config.training.seed}; configuration: "
            + (
                "; ".join(_short(entry).replace("(there ", "(default ") for entry in changed)
                or "the default"
            ),
        )
    )


def _short(entry: str) -> str:
    """Return `name=value`, or `name given` if the value is long, such as element positions."""
    return entry if len(entry) <= _MOST_CHARACTERS else f"{entry.partition('=')[0]} given"


def require_folder(flag: str, path: pathlib.Path) -> None:
    """Check that a file can be written to this path.

    Raises:
      RunError: the directory does not exist, or the path is a directory.
    """
    if not path.parent.is_dir():
        raise errors.RunError(f"{flag}: need a directory that exists; got {path.parent}")
    if path.is_dir():
        raise errors.RunError(f"{flag}: need the name of a file; got the directory {path}")


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Write a file atomically: an existing one is replaced as a whole or not at all.

    Raises:
      OSError: the directory cannot be written.
    """
    with files.replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
