"""Damaged directories: records, and runs with their checkpoints."""

import contextlib
import io
import json
import pathlib
import random
import shutil
from typing import Any
from unittest import mock

import fuzz_cases
import fuzz_damage
import fuzz_recordings
import jax
import numpy as np

from ris_jax import config as config_lib
from ris_jax.data.records import conversion, record_dataset, record_format
from ris_jax.training import loop
from ris_jax.training import progress as progress_lib
from ris_jax.training import state as state_lib
from ris_jax.training.saving import checkpoint, manifest, metrics_log

_FRACTIONS = conversion.Fractions(0.3, 0.2)


def _without_training(state: state_lib.TrainState, *_: object) -> state_lib.TrainState:
    return state


class _Stopped(Exception):
    """Stops an import that is to be resumed."""


class Records(fuzz_cases.Surface):
    """Directories of records, read for training, or resumed by `import`."""

    name = "records"

    def __init__(self, home: pathlib.Path):
        """Import four files of recordings, once completely and once half of them."""
        self._source, self._whole, self._begun = home / "source", home / "whole", home / "begun"
        self._source.mkdir(parents=True)
        for number in range(4):
            arrays = fuzz_recordings.recordings_arrays(seed=number)
            np.savez(self._source / f"{number}.npz", **arrays)  # pyright: ignore[reportArgumentType]
        self._config = config_lib.Config()
        self._convert(self._whole)
        done = iter(range(2))

        def stop_after_two(_):
            if next(done):
                raise _Stopped

        with contextlib.suppress(_Stopped):
            self._convert(self._begun, progress=stop_after_two)
        self._scenes = self._digests(self._whole)

    def _convert(self, folder: pathlib.Path, **options: Any) -> None:
        conversion.convert(self._source, folder, self._config, _FRACTIONS, **options)

    def _digests(self, folder: pathlib.Path, skip_damaged: bool = False) -> list[bytes]:
        """Return the hash of every readable scene, computed from its content."""
        dataset = record_dataset.open_dataset(folder, skip_damaged=skip_damaged)
        found = []
        for split in dataset.splits.values():
            batch = split.gather(np.arange(len(split)))
            if batch.codes.shape[1:] != (3, 6) or len(batch.codes) not in (1, len(split)):
                raise AssertionError(f"codes {batch.codes.shape}")
            found += [digest.tobytes() for digest in record_format.digests_of(batch.scenes)]
        return found

    def case(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        """Change a file, sometimes with its hash and that of the index, to reach later checks."""
        going_on = rng.random() < 0.4
        shutil.copytree(self._begun if going_on else self._whole, place)
        hidden = rng.random() < 0.6
        what = self._hidden_damage(rng, place) if hidden else self._open_damage(rng, place)
        skipping = rng.random() < 0.3
        skip = ("--skip_damaged",) if skipping else ()
        if going_on:
            shares = [
                f"--{n}_fraction={v}" for n, v in zip(("val", "test"), _FRACTIONS, strict=True)
            ]
            command = ("import", f"--data={self._source}", f"--out={place}", *shares)
        else:
            command = ("train", f"--workdir={place}.run", f"--data={place}", "--batch_size=0")

        def run() -> str:
            if going_on:
                self._convert(place)
            found = self._digests(place, skip_damaged=skipping)
            if hidden:  # with recomputed hashes any scenes are valid
                return ""
            allowed = set(self._scenes)
            if len(set(found)) != len(found) or not set(found) <= allowed:
                return "scenes that were not written, or twice"
            return "" if skipping or set(found) == allowed else "scenes are lost without a message"

        return fuzz_cases.Case(what, run, (str(place), "batch_size"), (*command, *skip))

    def _open_damage(self, rng: random.Random, place: pathlib.Path) -> str:
        paths = fuzz_cases.files_in(place)
        victim = rng.choice([place / record_format.INDEX_NAME, *paths])
        if rng.random() < 0.3:
            return fuzz_cases.misplace(rng, victim, paths)
        other = rng.choice(paths).read_bytes()
        what, data = fuzz_damage.damaged_bytes(rng, victim.read_bytes(), other)
        victim.write_bytes(data)
        return f"{victim.name}: {what}"

    def _hidden_damage(self, rng: random.Random, place: pathlib.Path) -> str:
        path = place / record_format.INDEX_NAME
        values = json.loads(path.read_bytes())
        del values["sha256"]
        if rng.random() < 0.5:
            what, values = fuzz_damage.damaged_json(rng, values)
        else:
            shard = rng.choice(values["shards"])
            part = rng.choice(record_format.PARTS)
            victim = place / f"{shard['name']}.{part}.npy"
            what, data = _damaged_npy(rng, victim)
            victim.write_bytes(data)
            written = record_format.file_of(victim)
            shard["files"][part] = {"bytes": written.bytes, "sha256": written.sha256}
            what = f"{victim.name}, hash recomputed: {what}"
        if isinstance(values, dict):
            values["sha256"] = record_format._checksum(values)
        path.write_text(json.dumps(values))
        return what


def _damaged_npy(rng: random.Random, path: pathlib.Path) -> tuple[str, bytes]:
    kind = rng.randrange(3)
    if kind == 0:
        return fuzz_damage.damaged_bytes(rng, path.read_bytes())
    array = np.load(path)
    if kind == 1:
        return fuzz_damage.npy_with_odd_header(rng, array)
    if array.dtype.names:
        field = rng.choice(array.dtype.names)
        what, array[field] = fuzz_damage.with_odd_values(rng, array[field])
        return f"{field}: {what}", fuzz_damage.npy_bytes(array)
    what, array = fuzz_damage.damaged_array(rng, array)
    return what, fuzz_damage.npy_bytes(array)


_TINY = {
    "system.rows": 2,
    "system.columns": 3,
    "system.num_antennas": 2,
    "system.num_snapshots": 3,
    "scene.max_sources": 2,
    "model.rounds": 1,
    "model.candidates": 4,
    "model.iterations": 1,
    "model.width": 8,
    "model.depth": 1,
    "model.num_heads": 1,
    "training.epochs": 2,
    "training.steps_per_epoch": 2,
    "training.batch_size": 4,
    "training.validation_scenes": 4,
}


_STRANGE_NAMES = (
    "3", "-1", "x", "007", "1e3", "²", "99999999999999999999", "descriptor", "3.sha256.json",
    "3.orbax-checkpoint-tmp-0", "2.orbax-checkpoint-tmp-1",
)  # fmt: skip


class Runs(fuzz_cases.Surface):
    """Directories of runs that are resumed: configuration, rows and checkpoints."""

    name = "checkpoints"

    def __init__(self, home: pathlib.Path):
        """Save two epochs of an untrained network, for speed."""
        self._home = home / "run"
        self._home.mkdir(parents=True)
        self._config = config_lib.override(config_lib.Config(), _TINY)
        first = state_lib.create_train_state(self._config)
        checkpoint.save_config(self._home, self._config)
        checkpoints = checkpoint.Checkpoints(self._home, keep=2)
        self._states = [first]
        with metrics_log.Recorder(self._home, 0, 0, 4) as recorder:
            progress, state = progress_lib.Progress(), first
            for epoch in (1, 2):
                state = state.replace(
                    step=state.step + 2,
                    params=jax.tree.map(lambda leaf: leaf * 1.5 + 1e-3, state.params),
                )
                self._states.append(state)
                progress = progress.after(epoch, 1.0 / epoch, None)
                recorder.row("microbatch", 2 * epoch, {"epoch": epoch, "microbatch": 2 * epoch})
                recorder.row("epoch", 2 * epoch, {"epoch": epoch, "val_nmse": 1.0 / epoch})
                checkpoints.save(state, epoch, progress.to_json(), 1.0 / epoch)
        shutil.rmtree(self._home / "tensorboard")

    def case(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        """Damage one file of the run, sometimes with its hash in the manifest."""
        shutil.copytree(self._home, place)
        hidden = rng.random() < 0.6
        paths = [path for path in fuzz_cases.files_in(place) if path.name != ".lock"]
        steps = [place / "checkpoints" / epoch for epoch in ("1", "2", "2")]
        inside = fuzz_cases.files_in(rng.choice(steps))
        rows = rng.random() < 0.1
        if rows:
            what = self._rows_damage(rng, place / metrics_log.METRICS_NAME)
        elif rng.random() < 0.1:
            what = self._strange_names(rng, place / "checkpoints")
        else:
            victim = rng.choice(inside if hidden else paths)
            what = self._damage(rng, victim, paths)
        if hidden:
            self._hash_anew(place / "checkpoints")
        defaults = config_lib.flatten(config_lib.to_dict(config_lib.Config()))
        values = config_lib.flatten(config_lib.to_dict(self._config))
        settings = [f"--set={k}={json.dumps(v)}" for k, v in values.items() if v != defaults[k]]

        def run() -> str:
            output = io.StringIO()
            with (
                contextlib.redirect_stdout(output),
                mock.patch.object(state_lib, "create_train_state", return_value=self._states[0]),
                mock.patch.object(loop, "_run", _without_training),
            ):
                state = loop.train(self._config, place)
            return self._problem(state, hidden)

        names = (
            str(place),
            "checkpoint of epoch",
            checkpoint.CONFIG_NAME,
            metrics_log.METRICS_NAME,
        )
        return fuzz_cases.Case(what, run, names, ("train", f"--workdir={place}", *settings))

    def _problem(self, state: state_lib.TrainState, hidden: bool) -> str:
        leaves, tree = jax.tree.flatten(state)
        if tree != jax.tree.structure(self._states[0]):
            return "a state of another structure"
        layouts = [
            [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(s)]
            for s in (state, self._states[0])
        ]
        if layouts[0] != layouts[1]:
            return "a state of another layout"
        same = any(
            all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in
                zip(leaves, jax.tree.leaves(known), strict=True))
            for known in self._states
        )  # fmt: skip
        return "" if hidden or same else "a state that was never saved"

    def _damage(self, rng: random.Random, victim: pathlib.Path, paths: list[pathlib.Path]) -> str:
        if rng.random() < 0.25:
            return fuzz_cases.misplace(rng, victim, paths)
        data = victim.read_bytes()
        try:
            values = json.loads(data)
        except ValueError:
            values = None
        if values is not None and rng.random() < 0.7:
            what, data = fuzz_damage.json_text(rng, values)
        else:
            what, data = fuzz_damage.damaged_bytes(rng, data, rng.choice(paths).read_bytes())
        victim.write_bytes(data)
        return f"{'/'.join(victim.parts[-3:])}: {what}"

    def _rows_damage(self, rng: random.Random, path: pathlib.Path) -> str:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        what, rows = fuzz_damage.damaged_json(rng, rows)
        lines = rows if isinstance(rows, list) else [rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        if rng.random() < 0.2:
            what, data = fuzz_damage.damaged_bytes(rng, path.read_bytes())
            path.write_bytes(data)
        return f"{path.name}: {what}"

    def _strange_names(self, rng: random.Random, folder: pathlib.Path) -> str:
        name = rng.choice(_STRANGE_NAMES)
        kind = rng.choice(["a file", "a folder", "a copy of 2", "renamed 2"])
        path = folder / name
        if kind == "a file":
            path.write_bytes(b"x")
        elif kind == "a folder":
            path.mkdir(exist_ok=True)
        elif kind == "a copy of 2":
            shutil.copytree(folder / "2", path, dirs_exist_ok=True)
        else:
            (folder / "2").rename(path)
        return f"{name} is {kind}"

    def _hash_anew(self, folder: pathlib.Path) -> None:
        for written in sorted(folder.glob("*.sha256.json")):
            step = folder / written.name.partition(".")[0]
            if not step.is_dir():
                continue
            with contextlib.suppress(ValueError, OSError):
                values = json.loads(written.read_bytes())
                if isinstance(values, dict):
                    values["files"] = {
                        str(path.relative_to(step)): manifest.sha256(path)
                        for path in fuzz_cases.files_in(step)
                    }
                    written.write_text(json.dumps(values))
