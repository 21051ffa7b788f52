"""What a result came from: versions, machine, configuration; and files that are whole or not."""

import importlib.metadata
import pathlib
import platform

from ris_jax import _environment, errors
from ris_jax import config as config_lib
from ris_jax.data import files

_PACKAGES = ("ris-jax", "jax", "jaxlib", "numpy", "scipy")
_MOST_CHARACTERS = 200  # of a field that differs from the default, in a header


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[package] = "unknown"
    return found


def machine() -> str:
    """Processor, cores and the device that JAX computes on."""
    import jax

    device = jax.devices()[0]
    return f"{platform.machine()}, {_environment.available_cores()} cores, {device.device_kind}"


def header(config: config_lib.Config) -> str:
    """Machine, versions, seed and what differs from the default configuration, in three lines."""
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
    """`name=value`, or that there is one where it is long: the positions of an array's elements."""
    return entry if len(entry) <= _MOST_CHARACTERS else f"{entry.partition('=')[0]} given"


def require_folder(flag: str, path: pathlib.Path) -> None:
    """A file can be written there, as far as one can tell before.

    Raises:
      RunError: the folder is not there, or the path is one.
    """
    if not path.parent.is_dir():
        raise errors.RunError(f"{flag}: need a folder that exists; got {path.parent}")
    if path.is_dir():
        raise errors.RunError(f"{flag}: need the name of a file; got the folder {path}")


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file; one of that name is replaced whole or not at all.

    Raises:
      OSError: the folder cannot be written.
    """
    with files.replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
