"""What `kill_soak.py` kills: commands that write to a folder, and what is to be seen of them there.

Each `Target` is one command line. What a process was doing when it died is told by what it left.
"""

import abc
import collections
import json
import os
import pathlib
from typing import Any

import numpy as np

from ris_jax.data import records
from ris_jax.training import record

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
    """One command, killed and started again until it has ended."""

    aims: tuple[str, ...] = ()  # phases that last too short to be met by chance

    def __init__(self, name: str, *arguments: str):
        """Names it, as the table does.

        Args:
          name: of the target.
          arguments: of `ris-jax`, all but the folder that is written.
        """
        self.name, self.arguments = name, arguments

    def command(self, folder: pathlib.Path) -> list[str]:
        """The command line that is the same every time."""
        return ["ris-jax", *self.arguments, f"{self.folder_flag}={folder}"]

    folder_flag = "--out"

    @abc.abstractmethod
    def done(self, folder: pathlib.Path) -> int:
        """How much of the work counts as done; never less after a kill."""

    @abc.abstractmethod
    def phase(self, folder: pathlib.Path, log: pathlib.Path, since: float, begun: int) -> str:
        """What a process is doing, or was when it died.

        Args:
          folder: that it writes.
          log: what all processes of this folder have printed.
          since: when it was started, as files' times are told.
          begun: length of the log at that moment, bytes.
        """

    @abc.abstractmethod
    def differences(self, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
        """What is not as in the folder of the command that was never killed, one line each."""


class Training(Target):
    """`train`: the rows of all epochs must be the same, to the last bit."""

    aims = (_ORBAX, _HASHES, _REMOVING)
    folder_flag = "--workdir"

    def __init__(self, name: str, *arguments: str):
        settings = (f"--set={setting}" for setting in (*SYSTEM, *_TRAINING))
        super().__init__(name, "train", *settings, *arguments)

    def done(self, folder: pathlib.Path) -> int:
        """The newest checkpoint that has its hashes."""
        names = _names(folder / "checkpoints")
        return max(
            (int(n) for n in names if n.isdigit() and f"{n}.sha256.json" in names), default=0
        )

    def phase(self, folder: pathlib.Path, log: pathlib.Path, since: float, begun: int) -> str:
        """By the names among the checkpoints, once what the kill before left has been swept."""
        said = log.read_bytes()[begun:] if log.exists() else b""  # not begun yet
        if b"before training: " not in said and b"going on after epoch " not in said:
            return START
        names = _names(folder / "checkpoints")
        unfinished = {int(n) for n in names if n.isdigit() and f"{n}.sha256.json" not in names}
        if unfinished and max(unfinished) > self.done(folder):
            return _HASHES
        if any("orbax-checkpoint-tmp" in name for name in names):
            return _ORBAX
        if unfinished:
            return _REMOVING
        return ENDING if b"epoch 12/12" in said else _STEPS

    def differences(self, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
        """Fields of `epoch` rows, and epochs that are missing or there twice."""
        ours, theirs = record.epoch_rows(found), record.epoch_rows(expected)
        lines = [] if len(ours) == len(theirs) else [f"{len(theirs)} epochs, got {len(ours)}"]
        for here, there in zip(ours, theirs, strict=False):
            lines += [
                f"epoch {there['epoch']}: {name} {there.get(name)!r}, got {here.get(name)!r}"
                for name in sorted(here.keys() | there.keys())
                if here.get(name) != there.get(name)
            ]
        return lines


class Writing(Target):
    """`simulate` and `import`: every scene must be there once, and every file the same."""

    aims = (_WRITING_SHARD, _UNLISTED, _WRITING_INDEX)

    def __init__(self, name: str, *arguments: str):
        super().__init__(name, *arguments)
        self._known: tuple[pathlib.Path, int, Any] | None = None

    def _index(self, folder: pathlib.Path) -> dict[str, Any]:
        """The index, read again when it has been replaced."""
        path = folder / records.INDEX_NAME
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return {"units": [], "complete": False}
        if self._known is None or self._known[:2] != (path, changed):
            self._known = (path, changed, json.loads(path.read_bytes()))
        return self._known[2]

    def done(self, folder: pathlib.Path) -> int:
        """Units that the index lists."""
        return len(self._index(folder)["units"])

    def phase(self, folder: pathlib.Path, log: pathlib.Path, since: float, begun: int) -> str:
        """By half-written files, and files that are newer than the index."""
        if _changed(folder / ".lock") < since:
            return START
        if self._index(folder)["complete"]:
            return ENDING
        files = [path for split in records.SPLITS for path in _paths(folder / split)]
        fresh = [path for path in files if _changed(path) >= since]
        if any(path.name.endswith(".partial") for path in fresh):
            return _WRITING_SHARD
        half = [path for path in _paths(folder) if path.name.startswith(f".{records.INDEX_NAME}")]
        if any(_changed(path) >= since for path in half):
            return _WRITING_INDEX
        listed_at = max(_changed(folder / records.INDEX_NAME), since)
        return _UNLISTED if any(_changed(path) > listed_at for path in fresh) else _READING

    def differences(self, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
        """Scenes lost and there twice, by a hash of their content; then files, byte by byte."""
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
    """When a file was last written; never, if it is not there (any more)."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _scenes(folder: pathlib.Path) -> collections.Counter[bytes]:
    """How often every scene is there, by a hash of what was measured, made from the content."""
    counts: collections.Counter[bytes] = collections.Counter()
    for shard in records.require_index(folder).shards:
        scenes = np.asarray(records.load(folder, shard, "scenes"))
        counts.update(digest.tobytes() for digest in records.digests_of(scenes))
    return counts


def _contents(folder: pathlib.Path) -> dict[str, str]:
    """The hash of every file, whether the index lists it or not."""
    return {
        str(path.relative_to(folder)): records.file_of(path).sha256
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def number_of_scenes(folder: pathlib.Path) -> int:
    """All scenes of a folder of records; none where it is another folder."""
    if not (folder / records.INDEX_NAME).exists():
        return 0
    return sum(_scenes(folder).values())


def write_shards(folder: pathlib.Path, files: int, scenes: int) -> None:
    """Shards as the reference writes them, of random numbers; some scenes twice, some unusable.

    Args:
      folder: to write to.
      files: how many.
      scenes: in each.
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
    """Recordings of 3 x 3 elements; see `write_shards`."""
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
    """Makes the first scene one of the file before and the last one unusable."""
    scenes = len(found[measured])
    for name, array in before.items():
        if array.shape[:1] == (scenes,) and array is not found[name]:
            found[name][0] = array[1]
    found[measured][-1, 0, 0] = np.nan
