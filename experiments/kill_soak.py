r"""Soak test: repeatedly killed commands must give the results of uninterrupted ones.

Every target runs twice without interruption, and both runs must agree. Targets are `train` on
simulated and on stored scenes, `simulate`, and `import` of the reference's shards and of
recordings, with some duplicate and some unusable scenes. Then the same commands run in new
directories. They are killed with SIGKILL at seeded random times and started again. Many kills are
during the writing of a checkpoint, a shard or an index. For `train`, all fields of the
`epoch` rows of metrics.jsonl are compared. For the others, the hash of every scene, recomputed from
its content, and of every file are compared.

  python experiments/kill_soak.py --kills=220 --folder=soak

If the study itself is stopped, the same command resumes it in that directory. Processes are forked
from one that has imported all modules, because imports take most of the time.

Results (23 November 2026; x86_64, 2 cores shared with other programs, Python 3.11.7, jax 0.10.2,
orbax-checkpoint 0.12.8, grain 0.2.18; seed 0), with --kills=210: 210 kills, 56 runs, no errors.

| target | kills | runs | compared in each | outcome |
|---|---|---|---|---|
| train | 16 | 5 | 12 epochs | identical |
| train, stored | 18 | 7 | 12 epochs | identical |
| simulate | 56 | 14 | 3700 scenes | identical |
| import, shards | 65 | 15 | 601 scenes | identical |
| import | 55 | 15 | 1515 scenes | identical |

Of the 34 kills of `train`, 9 were during orbax writes, 7 between its files and their hashes,
3 during the removal of an old checkpoint, 13 in steps and validation, 2 at the start. Of the 176
others, 69 were between a shard and the index that lists it, 55 between shards, 26 in a shard, 16
in the index, 10 at the start. The study was stopped and resumed twice. `train` alone, in an
earlier version: 20 kills over 9 runs, identical.
"""

import collections
import fcntl
import json
import multiprocessing
import os
import pathlib
import platform
import random
import shutil
import sys
import tempfile
import time
from importlib import metadata
from multiprocessing.process import BaseProcess
from typing import Any

import kill_targets
from absl import app, flags

from ris_jax.cli import main as main_command

# isort: split
# Imported for the forked processes; JAX has no threads before its first computation.
import grain  # noqa: F401
import jax
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import tensorboardX  # noqa: F401
import tqdm  # noqa: F401

from ris_jax.data.records import conversion, simulation  # noqa: F401
from ris_jax.reports.run import training_curves  # noqa: F401
from ris_jax.training import loop  # noqa: F401

_KILLS = flags.DEFINE_integer("kills", 220, "number of kills", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the kill times")
_FOLDER = flags.DEFINE_string("folder", None, "directory of the runs; temporary by default")

_TIMEOUT = 900.0  # [s], of a single process
_SECONDS_INTO = 0.02  # maximum delay of an aimed kill after its phase has begun
# Percentage of the kills per target.
_SHARES = {"train": 10, "train, stored": 10, "simulate": 27, "import, shards": 27, "import": 26}


def _targets(folder: pathlib.Path) -> dict[str, kill_targets.Target]:
    """Return the targets; the directories of data are created on the first call."""
    shards, recordings = folder / "shards", folder / "recordings"
    sources = (
        (shards, kill_targets.write_shards, 12),
        (recordings, kill_targets.write_recordings, 40),
    )
    for source, write, scenes in sources:
        if not source.exists():
            partial = source.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            write(partial, files=60, scenes=scenes)
            partial.rename(source)
    stored = folder / "simulate-reference"
    system = [f"--set={setting}" for setting in kill_targets.SYSTEM]
    sizes = ["--num_train=3000", "--num_val=500", "--num_test=200", "--shard_scenes=64"]
    found = [
        kill_targets.Training("train"),
        kill_targets.Training("train, stored", f"--data={stored}"),
        kill_targets.Writing("simulate", "simulate", *system, *sizes),
        kill_targets.Writing("import, shards", "import", f"--data={shards}"),
        kill_targets.Writing("import", "import", f"--data={recordings}"),
    ]
    return {target.name: target for target in found}


def _command(command: list[str], log: pathlib.Path, folder: pathlib.Path) -> None:
    """Run the command line program in a process that is to be killed."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    jax.config.update("jax_compilation_cache_dir", str(folder / "compilation_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    status = main_command.main(command)
    sys.stdout.flush()
    os._exit(status)


class Soak:
    """A study in a directory; `events.jsonl` has one line per event."""

    def __init__(self, folder: pathlib.Path):
        """Open the directory, or resume the study in it."""
        self._folder = folder
        self._path = folder / "events.jsonl"
        self._targets = _targets(folder)
        text = self._path.read_text() if self._path.exists() else ""
        self._events = [json.loads(line) for line in text.splitlines()]
        drawn = random.Random(_SEED.value)
        names, shares = list(_SHARES), list(_SHARES.values())
        self._schedule = drawn.choices(names, shares, k=_KILLS.value)
        request = {"event": "study", "seed": _SEED.value, "machine": _machine()}
        if not self._events:
            self._note(**request)
        if self._events[0] != request:
            raise SystemExit(f"{folder}: holds a study of {self._events[0]}; got {request}")

    def _note(self, **event: Any) -> None:
        self._events.append(event)
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def _of(self, kind: str, target: str | None = None) -> list[dict[str, Any]]:
        found = [event for event in self._events if event["event"] == kind]
        return [event for event in found if target in (None, event["target"])]

    def _place(self, target: kill_targets.Target, run: int | str) -> pathlib.Path:
        return self._folder / f"{target.name.replace(', ', '-')}-{run}"

    def _start(self, target: kill_targets.Target, place: pathlib.Path) -> BaseProcess:
        """Start the command."""
        arguments = (target.command(place), place.with_suffix(".log"), self._folder)
        process = multiprocessing.get_context("fork").Process(target=_command, args=arguments)
        process.start()
        return process

    def _require_success(self, process: BaseProcess, place: pathlib.Path) -> None:
        process.join(_TIMEOUT)
        if process.exitcode != 0:
            process.kill()
            text = place.with_suffix(".log").read_text()
            raise SystemExit(f"{place}: the command failed:\n{text[-4000:]}")

    def references(self) -> None:
        """Run every target twice without interruption, for the reference and the duration."""
        for name in sorted(self._targets, key=lambda name: name != "simulate"):
            target = self._targets[name]
            if self._of("reference", name):
                continue
            places = [self._place(target, which) for which in ("reference", "control")]
            for place in places:
                shutil.rmtree(place, ignore_errors=True)  # left by a study that was stopped here
                began = time.monotonic()
                self._require_success(self._start(target, place), place)
                seconds = time.monotonic() - began  # of the second run, with a compilation cache
            for line in (found := target.differences(*places)):
                print(f"  {name}: two uninterrupted runs differ: {line}")
            scenes = kill_targets.number_of_scenes(places[0])
            self._note(event="reference", target=name, seconds=seconds, scenes=scenes,
                       units=target.done(places[0]), differences=len(found))  # fmt: skip
            print(f"{name}: {seconds:.1f} s, {target.done(places[0])} units", flush=True)

    def _kill_once(self, target: kill_targets.Target, place: pathlib.Path) -> dict | None:
        """Start the command and kill it; None if it ended before the kill."""
        rng = random.Random(f"{_SEED.value} {target.name} {len(self._events)}")
        reference = self._of("reference", target.name)[0]
        aim = rng.choice([None, *target.aims])
        moment = rng.uniform(0.2, reference["seconds"])
        before = target.done(place)
        after = before + rng.randrange(1 + reference["units"] // 6)
        delay = rng.choice([0.0, rng.uniform(0.0, _SECONDS_INTO)])
        log = place.with_suffix(".log")
        since, begun = time.time(), log.stat().st_size if log.exists() else 0
        process = self._start(target, place)
        began = time.monotonic()
        try:
            while process.is_alive() and time.monotonic() - began < _TIMEOUT:
                if aim is None:
                    come = time.monotonic() - began >= moment
                else:
                    come = target.done(place) >= after
                    come = come and target.phase(place, log, since, begun) == aim
                if come:
                    time.sleep(delay)
                    break
                time.sleep(0.0005)
            if not process.is_alive():
                self._require_success(process, place)
                return None
        finally:
            if process.is_alive():
                process.kill()
                process.join()
        return {
            "moment": round(time.monotonic() - began, 3),
            "phase": target.phase(place, log, since, begun),
            "done": target.done(place),
            "lost": max(before - target.done(place), 0),
        }

    def _finish(self, target: kill_targets.Target, run: int, place: pathlib.Path) -> None:
        """Compare a finished run with the reference."""
        found = target.differences(self._place(target, "reference"), place)
        self._note(event="finished", target=target.name, run=run, differences=len(found),
                   lines=found[:20])  # fmt: skip
        print(
            f"      {target.name}, run {run}: {'DIFFERENT' if found else 'identical'}", flush=True
        )
        for line in found[:20]:
            print(f"        {line}", flush=True)
        if not found:
            shutil.rmtree(place)

    def kill(self) -> None:
        """Kill until the number is reached, then finish every run."""
        for name in self._schedule[len(self._of("kill")) :]:
            target, event = self._targets[name], None
            while event is None:
                run = 1 + len(self._of("finished", name))
                place = self._place(target, run)
                event = self._kill_once(target, place)
                if event is None:
                    self._finish(target, run, place)
                    continue
                self._note(event="kill", target=name, run=run, **event)
                print(f"{len(self._of('kill')):4d}  {name}, run {run}, after {event['moment']:.2f} "
                      f"s, {event['done']} done: {event['phase']}", flush=True)  # fmt: skip
        for target in self._targets.values():
            run = 1 + len(self._of("finished", target.name))
            place = self._place(target, run)
            if place.exists():
                self._require_success(self._start(target, place), place)
                self._finish(target, run, place)

    def report(self) -> int:
        """Print the table; return the number of errors."""
        print(f"{self._events[0]['machine']}; seed {_SEED.value}")
        wrong = 0
        print("| target | kills | while | runs | compared in each | outcome |\n"
              "|---|---|---|---|---|---|")  # fmt: skip
        for name in _SHARES:
            kills, finished = self._of("kill", name), self._of("finished", name)
            reference = self._of("reference", name)[0]
            phases = collections.Counter(event["phase"] for event in kills)
            named = ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
            scenes = reference["scenes"]
            compared = f"{scenes} scenes" if scenes else f"{reference['units']} epochs"
            bad = sum(event["differences"] > 0 for event in [reference, *finished])
            bad += sum(event["lost"] > 0 for event in kills)
            outcome = f"{bad} WRONG" if bad else "identical"
            wrong += bad
            print(f"| {name} | {len(kills)} | {named} | {len(finished)} | {compared} | {outcome} |")
        print(f"{len(self._of('kill'))} kills, {len(self._of('finished'))} runs: "
              f"{wrong or 'no'} errors")  # fmt: skip
        return wrong


def _machine() -> str:
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("jax", "orbax-checkpoint", "grain"))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{versions}"
    )


def _run(folder: pathlib.Path) -> int:
    with (folder / ".lock").open("w") as lock:  # inherited by children that outlive this process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{folder}: another study is running; wait for it") from None
        soak = Soak(folder)
        soak.references()
        soak.kill()
        return soak.report()


def main(argv: list[str]) -> None:
    """Run the study in a directory, which is kept if it was given."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only; got {argv[1:]}")
    if _FOLDER.value:
        folder = pathlib.Path(_FOLDER.value).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(min(_run(folder), 1))
    with tempfile.TemporaryDirectory() as name:
        sys.exit(min(_run(pathlib.Path(name)), 1))


if __name__ == "__main__":
    app.run(main)
