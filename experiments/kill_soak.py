r"""Does a run that is killed again and again end bit for bit like one that was never killed?

Trains a tiny configuration once without interruption, and once more to see that two such runs
agree. Then runs the same command in fresh work directories, kills its process group with SIGKILL
at seeded random moments, some of them aimed inside the save of a checkpoint, starts it again after
every kill, and compares the `epoch` rows of metrics.jsonl, all fields, with those of the
uninterrupted run.

  python experiments/kill_soak.py --kills=20

Cost: 6 minutes on two busy cores; no GPU.
Gave (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2, orbax-checkpoint 0.12.8; seed
0): 20 kills over 9 runs of 12 epochs, 9 while orbax was writing, 8 between its files and their
hashes, 3 while training, at epochs 2 to 11: every run bit-identical to the uninterrupted one, all
fields. An earlier pass of the same day with other moments also hit start-up and the removal of an
old checkpoint: 20 kills over 3 runs, bit-identical.
"""

import collections
import os
import pathlib
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import NamedTuple

from absl import app, flags

from ris_jax.training import record

_KILLS = flags.DEFINE_integer("kills", 20, "how many times to kill", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of the moments")
_FOLDER = flags.DEFINE_string("folder", None, "where the runs go; a temporary folder if not given")

_SETTINGS = (
    "system.rows=4",
    "system.columns=4",
    "system.num_antennas=4",
    "system.num_snapshots=6",
    "scene.max_sources=2",
    "model.width=16",
    "model.depth=1",
    "model.num_heads=2",
    "model.dropout=0.1",
    "optimizer.accumulation=3",  # does not divide an epoch: checkpoints hold half-filled windows
    "training.epochs=12",
    "training.steps_per_epoch=4",
    "training.batch_size=8",
    "training.validation_scenes=16",
    "training.log_every=2",
)
_TIMEOUT = 600.0  # [s], of a single process
_SAVE_SECONDS = 0.3  # how long after the first sign of a save a kill may come


class Kill(NamedTuple):
    """One kill, as it came out."""

    run: int
    moment: float  # [s] since the process started
    phase: str
    epoch: int  # of the newest checkpoint that counts


def _start(workdir: pathlib.Path) -> subprocess.Popen:
    """Starts the command that is the same every time, in a process group of its own."""
    command = [sys.executable, "-m", "ris_jax", "train", f"--workdir={workdir}"]
    command += [f"--set={setting}" for setting in _SETTINGS]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compilation_cache"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with (workdir.parent / f"{workdir.name}.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def _finish(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    if process.wait(_TIMEOUT) != 0:
        log = (workdir.parent / f"{workdir.name}.log").read_text()
        raise SystemExit(f"the run in {workdir} failed:\n{log[-4000:]}")


def _names(workdir: pathlib.Path) -> set[str]:
    try:
        return set(os.listdir(workdir / "checkpoints"))
    except FileNotFoundError:
        return set()


def _without_manifest(names: set[str]) -> set[int]:
    return {int(n) for n in names if n.isdigit() and f"{n}.sha256.json" not in names}


def _newest(names: set[str]) -> int:
    """The newest checkpoint that counts; 0: there is none."""
    return max((int(n) for n in names if n.isdigit() and f"{n}.sha256.json" in names), default=0)


def _is_saving(names: set[str]) -> bool:
    return any("orbax-checkpoint-tmp" in name for name in names)


def _leftovers(names: set[str]) -> bool:
    return _is_saving(names) or bool(_without_manifest(names))


def _times_under_way(workdir: pathlib.Path) -> int:
    """How many processes of a run have come as far as its first or next epoch, by what they say."""
    log = workdir.parent / f"{workdir.name}.log"
    text = log.read_text() if log.exists() else ""
    return text.count("before training: ") + text.count("going on after epoch ")


def _phase(names: set[str]) -> str:
    """What a killed process that was under way was doing, by what it left."""
    unfinished = _without_manifest(names)
    if unfinished and max(unfinished) > _newest(names):
        return "saving: hashes"
    if _is_saving(names):
        return "saving: orbax"
    return "saving: removing an old one" if unfinished else "training"


def _wait_for(
    aim: str, process: subprocess.Popen, workdir: pathlib.Path, delay: float, after: int
) -> None:
    """Returns when the moment to kill has come, or the process has ended.

    Args:
      aim: `any time`, or inside a save: `orbax` writing its files, `hashes` not there yet.
      process: what will be killed.
      workdir: of the run.
      delay: [s], since the start, or since the first sign of a save.
      after: the checkpoint after which a save is aimed at.
    """
    deadline = time.monotonic() + (delay if aim == "any time" else _TIMEOUT)
    while process.poll() is None and time.monotonic() < deadline:
        names = _names(workdir)
        if _newest(names) >= after:
            if aim == "orbax" and _is_saving(names):
                time.sleep(delay)
                return
            if aim == "hashes" and max(_without_manifest(names), default=0) > _newest(names):
                return
        time.sleep(0.0 if aim == "hashes" else 0.002)


def _kill_once(rng: random.Random, run: int, workdir: pathlib.Path, duration: float) -> Kill | None:
    """Starts the command and kills it; None if it ended before the moment came."""
    aim = rng.choices(["any time", "orbax", "hashes"], [0.4, 0.4, 0.2])[0]
    delay = rng.uniform(0.2, duration) if aim == "any time" else rng.uniform(0.0, _SAVE_SECONDS)
    after = _newest(_names(workdir)) + rng.randrange(4)
    under_way_before = _times_under_way(workdir)
    process = _start(workdir)
    began = time.monotonic()
    try:
        # What the kill before left inside a save is no sign of a save: wait until it is swept.
        while process.poll() is None and aim != "any time" and _leftovers(_names(workdir)):
            time.sleep(0.002)
        _wait_for(aim, process, workdir, delay, after)
        if process.poll() is not None:
            _finish(process, workdir)
            return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    moment, names = time.monotonic() - began, _names(workdir)
    under_way = _times_under_way(workdir) > under_way_before
    phase = _phase(names) if under_way else "start"
    return Kill(run, moment, phase, _newest(names))


def _uninterrupted(workdir: pathlib.Path) -> tuple[list[dict], float]:
    began = time.monotonic()
    _finish(_start(workdir), workdir)
    return record.epoch_rows(workdir), time.monotonic() - began


def _report_difference(expected: list[dict], found: list[dict]) -> bool:
    """Prints what differs; returns whether anything does."""
    if len(expected) != len(found):
        print(f"  {len(expected)} epochs expected, {len(found)} found")
    different = expected != found
    for here, there in zip(expected, found, strict=False):
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                print(f"  epoch {here['epoch']}: {name} {here.get(name)!r} != {there.get(name)!r}")
    return different


def _soak(folder: pathlib.Path) -> int:
    """Runs the study; returns the number of runs that differ."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("jax", "orbax-checkpoint"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"{versions}")  # fmt: skip
    expected, cold = _uninterrupted(folder / "reference")
    again, duration = _uninterrupted(folder / "control")
    print(f"uninterrupted: {cold:.1f} s compiling, {duration:.1f} s from the compilation cache")
    failures = int(_report_difference(expected, again))
    rng = random.Random(_SEED.value)
    kills: list[Kill] = []
    run, finished = 0, 0
    print("kill  run  moment [s]  newest checkpoint  phase", flush=True)
    while len(kills) < _KILLS.value:
        run += 1
        workdir = folder / f"run{run}"
        while len(kills) < _KILLS.value:
            kill = _kill_once(rng, run, workdir, duration)
            if kill is None:
                break
            kills.append(kill)
            print(f"{len(kills):4d}  {kill.run:3d}  {kill.moment:10.2f}  {kill.epoch:17d}  "
                  f"{kill.phase}", flush=True)  # fmt: skip
        else:
            _finish(_start(workdir), workdir)
        finished += 1
        different = _report_difference(expected, record.epoch_rows(workdir))
        failures += different
        print(f"      run {run} finished: {'DIFFERENT' if different else 'identical'}", flush=True)
    phases = collections.Counter(kill.phase for kill in kills)
    print("; ".join(f"{phase}: {count}" for phase, count in sorted(phases.items())))
    verdict = "bit-identical" if not failures else f"{failures} DIFFER"
    print(f"{len(kills)} kills over {finished} runs of {len(expected)} epochs: {verdict}")
    return failures


def main(argv: list[str]) -> None:
    """Runs the study in a folder that stays if one was given."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, please; got {argv[1:]}")
    if _FOLDER.value:
        folder = pathlib.Path(_FOLDER.value).resolve()
        folder.mkdir(parents=True)  # of an earlier soak: an error, its runs would be read as ours
        sys.exit(min(_soak(folder), 1))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(min(_soak(pathlib.Path(folder)), 1))


if __name__ == "__main__":
    app.run(main)
