"""Directory of finished cells; a stored cell is not computed again.

`benchmark.json` has the settings of the directory; other settings are rejected. Every cell is a
file of arrays, named by a digest of everything it depends on and written atomically.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors, files
from ris_jax.reports import provenance

_SETTINGS, _CELLS = "benchmark.json", "cells"
# Configuration fields that scenes and estimators do not depend on.
_TRAINING_ONLY = ("model", "covariance", "loss", "optimizer")


def relevant(config: config_lib.Config) -> dict[str, Any]:
    """Return the fields that scenes depend on, including the seed, by dotted name."""
    values = config_lib.to_dict(config)
    kept = {
        name: part for name, part in values.items() if name not in (*_TRAINING_ONLY, "training")
    }
    # Cells of another format version had another meaning of "spherical".
    versioned = {"seed": config.training.seed, "format_version": config_lib.FORMAT_VERSION}
    return config_lib.flatten(kept) | versioned


@dataclasses.dataclass(frozen=True)
class Store:
    """A directory of cells; made by `opened`."""

    folder: pathlib.Path

    def path(self, kind: str, key: Mapping[str, Any]) -> pathlib.Path:
        """Return the path of a cell's arrays: `kind` and a digest of what they depend on."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / _CELLS / f"{kind}-{digest}.npz"

    def read(self, path: pathlib.Path) -> dict[str, np.ndarray] | None:
        """Return the arrays of a finished cell; None if there is none, or it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise errors.RunError(
                f"{path}: damaged ({error}); remove it, and the same command makes it again"
            ) from error

    def write(self, path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
        """Store the arrays of a cell."""
        buffer = io.BytesIO()
        plain: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in arrays.items()}
        np.savez_compressed(buffer, **plain)
        provenance.write_whole(path, buffer.getvalue())


@contextlib.contextmanager
def opened(folder: pathlib.Path, settings: dict[str, Any]) -> Iterator[Store]:
    """Open a directory and lock it against other processes.

    Args:
      folder: created if missing.
      settings: those that all of its cells share, ready for JSON.

    Raises:
      RunError: it has other settings, or another process uses it.
      OSError: it cannot be written.
    """
    (folder / _CELLS).mkdir(parents=True, exist_ok=True)
    with files.exclusive(folder):
        files.sweep(folder)
        path = folder / _SETTINGS
        if path.exists():
            _check_settings(path, settings)
        else:
            provenance.write_whole(path, json.dumps(settings, indent=1, sort_keys=True) + "\n")
        yield Store(folder)


def _check_settings(path: pathlib.Path, settings: dict[str, Any]) -> None:
    try:
        there = json.loads(path.read_text())
        assert isinstance(there, dict)
    except (ValueError, AssertionError) as error:
        raise errors.RunError(f"{path}: need the settings of a benchmark; got none") from error
    ours = json.loads(json.dumps(settings))
    differing = [
        f"{name}={ours.get(name)!r} (there {there.get(name)!r})"
        for name in sorted(ours.keys() | there.keys())
        if ours.get(name) != there.get(name)
    ]
    if differing:
        raise errors.RunError(
            f"--out: {path.parent} has results with other settings: {'; '.join(differing)}; "
            "need the same settings, or another directory"
        )
