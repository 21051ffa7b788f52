"""Manifest of a checkpoint: the hash of every file, and the score.

A manifest is ``<step>.sha256.json`` in the directory that holds the step; it is written last.
A checkpoint without one is ignored.
"""

import hashlib
import json
import math
import pathlib

from ris_jax import errors, files


def path_of(root: pathlib.Path, step: int) -> pathlib.Path:
    """Return the path of a step's manifest."""
    return root / f"{step}.sha256.json"


def write(root: pathlib.Path, step: int, val_nmse: float) -> None:
    """Hash the files of a step and write the manifest atomically."""
    values = {
        "val_nmse": val_nmse if math.isfinite(val_nmse) else None,
        "files": {name: sha256(path) for name, path in _files(root, step)},
    }
    with files.replacing(path_of(root, step)) as partial:
        partial.write_text(json.dumps(values, indent=0))


def damage(root: pathlib.Path, step: int) -> str:
    """Describe the damage to a step's files; empty if they are intact."""
    path = path_of(root, step)
    try:
        hashes = dict(json.loads(path.read_text())["files"])
    except FileNotFoundError:
        return "writing it was interrupted (no hashes)"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return f"{path.name} cannot be read"
    there = dict(_files(root, step))
    for name, expected in hashes.items():
        if name not in there:
            return f"file {name} is missing"
        try:
            found = sha256(there[name])
        except OSError as error:
            return f"file {name} cannot be read: {errors.first_line(error)}"
        if found != expected:
            return f"file {name} has changed since it was written"
    return ""


def val_nmse(root: pathlib.Path, step: int) -> float:
    """Return the score of a step; infinite if unknown or not finite."""
    try:
        value = float(json.loads(path_of(root, step).read_text())["val_nmse"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf
    # NaN compares false with everything and would be taken as the best.
    return value if math.isfinite(value) else math.inf


def sha256(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(root: pathlib.Path, step: int) -> list[tuple[str, pathlib.Path]]:
    folder = root / str(step)
    return [
        (str(path.relative_to(folder)), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
