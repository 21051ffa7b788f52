"""Targets of `kill_soak.py`: commands that write to a directory, and inspection of their files.

Each `Target` is one command line. The files that a killed process left show its last phase.
"""

import abc
import collections
import json
import os
import pathlib
from typing import Any

import numpy as np

from ris_jax.data.records import record_format
from ris_jax.training.saving import metrics_log

START, ENDING = "starting", "ending"
_WRITING_SHARD, _UNLISTED = "writing a shard", "between shards and index"
_WRITING_INDEX, _READING = "writing the index", "between shards"
_ORBAX, _HASHES = "saving: orbax", "saving: hashes"
_REMOVING, _STEPS = "saving: removing an old one", "steps and validation"

SYSTEM = (
    "system.rows=4",
    "system.columns=4",
    "system.num_antennas=4",
    "system.num_snapshots=6",
    "scene.max_sources=2",
)
_TRAINING = (
    "model.rounds=1",
    "model.candidates=4",
    "model.iterations=1",
    "model.width=16",
    "model.depth=1",
    "model.num_heads=2",
    "model.dropout=0.1",
    "optimizer.accumulation=3",  # does not divide an epoch: its last window is partial
    "training.epochs=12",
    "training.steps_per_epoch=4",
    "training.batch_size=8",
    "training.validation_scenes=16",
    "training.log_every=2",
)


class Target(abc.ABC):
    """One command that is killed and started again until it ends."""

    aims: tuple[str, ...] = ()  # phases too short to be hit by chance

    def __init__(self, name: str, *arguments: str):
        """Create a target with its name in the table.

        Args:
          name: of the target.
          arguments: of `ris-jax`, without the output directory.
        """
        self.name, self.arguments = name, arguments

    def command(self, folder: pathlib.Path) -> list[str]:
        """Return the command line, the same for every start."""
        return ["ris-jax", *self.arguments, f"{self.folder_flag}={folder}"]

    folder_flag = "--out"

    @abc.abstractmethod
    def done(self, folder: pathlib.Path) -> int:
        """Return the number of finished units; a kill never reduces it."""

    @abc.abstractmethod
    def phase(self, folder: pathlib.Path, log: pathlib.Path, since: float, begun: int) -> str:
        """Return the current or last phase of a process.

        Args:
          folder: its output directory.
          log: output of all processes of this directory.
          since: its start time, as file times.
          begun: length of the log at the start [bytes].
        """

    @abc.abstractmethod
    def differences(self, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
        """List the differences from the directory of the uninterrupted command, one per line."""


class Training(Target):
    """Target `train`: the rows of all epochs must be identical, to the last bit."""

    aims = (_ORBAX, _HASHES, _REMOVING)
    folder_flag = "--workdir"

    def __init__(self, name: str, *arguments: str):
        settings = (f"--set={setting}" for setting in (*SYSTEM, *_TRAINING))
        super().__init__(name, "train", *settings, *arguments)

    def done(self, folder: pathlib.Path) -> int:
        """Return the newest checkpoint with hashes."""
        names = _names(folder / "checkpoints")
        return max(
            (int(n) for n in names if n.isdigit() and f"{n}.sha256.json" in names), default=0
        )

    def phase(self, folder: pathlib.Path, log: pathlib.Path, since: float, begun: int) -> str:
        """Return the phase from the names of checkpoints, after leftovers were removed."""
        text = log.read_bytes()[begun:] if log.exists() else b""  # not started yet
        if b"before training: " not in text and b"resuming after epoch " not in text:
            return START
        names = _names(folder / "checkpoints")
        unfinished = {int(n) for n in names if n.isdigit() and f"{n}.sha256.json" not in names}
        if unfinished and max(unfinished) > self.done(folder):
            return _HASHES
        if any("orbax-checkpoint-tmp" in name for name in names):
            return _ORBAX
        if unfinished:
            return _REMOVING
        return ENDING if b"epoch 12/12" in text else _STEPS

    def differences(self, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
        """List different fields of `epoch` rows, and missing or duplicate epochs."""
        ours, theirs = metrics_log.epoch_rows(found), metrics_log.epoch_rows(expected)
        lines = [] if len(ours) == len(theirs) else [f"{len(theirs)} epochs, got {len(ours)}"]
        for here, there in zip(ours, theirs, strict=False):
            lines += [
                f"epoch {there['epoch']}: {name} {there.get(name)!r}, got {here.get(name)!r}"
                for name in sorted(here.keys() | there.keys())
                if here.get(name) != there.get(name)
            ]
        return lines


class Writing(Target):
    """Targets `simulate` and `import`: every scene exactly once, and identical files."""

    aims = (_WRITING_SHARD, _UNLISTED, _WRITING_INDEX)

    def __init__(self, name: str, *arguments: str):
        super().__init__(name, *arguments)
        self._known: tuple[pathlib.Path, int, Any] | None = None

    def _index(self, folder: pathlib.Path) -> dict[str, Any]:
        """Return the index, read again if it was replaced."""
        path = folder / record_format.INDEX_NAME
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return {"units": [], "complete": False}
        if self._known is None or self._known[:2] != (path, changed):
            self._known = (path, changed, json.loads(path.read_bytes()))
        return self._known[2]

    def done(self, folder: pathlib.Path) -> int:
        """Return the number of units in the index."""
        return len(self._index(folder)["units"])

    def phase(self, folder: pathlib.Path, log: pathlib.Path, since: float, begun: int) -> str:
        """Return the phase from partial files and files newer than the index."""
        if _changed(folder / ".lock") < since:
            return START
        if self._index(folder)["complete"]:
            return ENDING
        files = [path for split in record_format.SPLITS for path in _paths(folder / split)]
        fresh = [path for path in files if _changed(path) >= since]
        if any(path.name.endswith(".partial") for path in fresh):
            return _WRITING_SHARD
        half = [
            path for path in _paths(folder) if path.name.startswith(f".{record_format.INDEX_NAME}")
        ]
        if any(_changed(path) >= since for path in half):
            return _WRITING_INDEX
        listed_at = max(_changed(folder / record_format.INDEX_NAME), since)
        return _UNLISTED if any(_changed(path) > listed_at for path in fresh) else _READING

    def differences(self, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
        """List lost and duplicate scenes by content hash, then different files."""
        ours, theirs = _scenes(found), _scenes(expected)
        lost, foreign = theirs.keys() - ours.keys(), ours.keys() - theirs.keys()
        twice = [scene for scene, count in ours.items() if count > 1]
        lines = [
            f"{len(which)} scenes {what}"
            for what, which in (("lost", lost), ("foreign", foreign), ("there twice", twice))
            if which
        ]
        here, there = _contents(found), _contents(expected)
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                lines.append(f"file {name} differs, or is in one of them only")
        return lines


def _names(folder: pathlib.Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder / name for name in _names(folder)]


def _changed(path: pathlib.Path) -> float:
    """Return when a file was last written; a missing file counts as never."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _scenes(folder: pathlib.Path) -> collections.Counter[bytes]:
    """Count every scene by a hash of its measurement, computed from the content."""
    counts: collections.Counter[bytes] = collections.Counter()
    for shard in record_format.require_index(folder).shards:
        scenes = np.asarray(record_format.load(folder, shard, "scenes"))
        counts.update(digest.tobytes() for digest in record_format.digests_of(scenes))
    return counts


def _contents(folder: pathlib.Path) -> dict[str, str]:
    """Return the hash of every file, listed in the index or not."""
    return {
        str(path.relative_to(folder)): record_format.file_of(path).sha256
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def number_of_scenes(folder: pathlib.Path) -> int:
    """Return the number of scenes in a directory of records; 0 for other directories."""
    if not (folder / record_format.INDEX_NAME).exists():
        return 0
    return sum(_scenes(folder).values())


def write_shards(folder: pathlib.Path, files: int, scenes: int) -> None:
    """Write shards of random numbers as the reference does, some scenes duplicate or unusable.

    Args:
      folder: output directory.
      files: number of files.
      scenes: scenes per file.
    """
    random = np.random.default_rng(0)
    folder.mkdir()
    before: dict[str, np.ndarray] = {}
    for number in range(files):
        shard = {
            "y": random.normal(size=(scenes, 3, 2, 2)),
            "H_full": random.normal(size=(scenes, 2, 144, 2)),
            "codes": random.normal(size=(scenes, 3, 144, 2)),
            "ptr": random.uniform(0.1, 0.5, size=(scenes, 15)),
            "K": random.integers(1, 6, size=scenes),
            "snr": random.uniform(0.0, 20.0, size=scenes),
        }
        _spoil(shard, before, "y")
        np.savez(folder / f"{number:03d}.npz", **shard)  # pyright: ignore[reportArgumentType]
        before = shard


def write_recordings(folder: pathlib.Path, files: int, scenes: int) -> None:
    """Write recordings of 3 x 3 elements; see `write_shards`."""
    random = np.random.default_rng(1)

    def gaussian(*shape):
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    folder.mkdir()
    before: dict[str, np.ndarray] = {}
    positions = np.array([[x, y, 0.0] for y in range(3) for x in range(3)]) * 0.15
    codes = gaussian(5, 9)
    for number in range(files):
        found = {
            "snapshots": gaussian(scenes, 5, 4),
            "channel": gaussian(scenes, 4, 9),
            "codes": codes,
            "wavelength": np.array(0.3),
            "element_positions": positions,
            "snr_db": random.uniform(0.0, 20.0, size=scenes),
            "num_sources": random.integers(0, 3, size=scenes),
            "azimuth": random.uniform(-1.0, 1.0, size=(scenes, 2)),
            "elevation": random.uniform(-0.5, 0.5, size=(scenes, 2)),
            "source_range": random.uniform(0.5, 10.0, size=(scenes, 2)),
        }
        _spoil(found, before, "snapshots")
        np.savez(folder / f"{number:03d}.npz", **found)  # pyright: ignore[reportArgumentType]
        before = found


def _spoil(found: dict[str, np.ndarray], before: dict[str, np.ndarray], measured: str) -> None:
    """Make the first scene a duplicate from the previous file and the last one unusable."""
    scenes = len(found[measured])
    for name, array in before.items():
        if array.shape[:1] == (scenes,) and array is not found[name]:
            found[name][0] = array[1]
    found[measured][-1, 0, 0] = np.nan
