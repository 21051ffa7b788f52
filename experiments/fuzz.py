r"""Fuzz test: damaged inputs must give a right result or one clear error line.

A case is a number; it determines surface and damage, together with the seed. The inputs are records
(read for training, or resumed by `import`), runs with their checkpoints, configurations (files,
--set, search spaces) and recordings (.npz, HDF5, MATLAB v7.3, the reference's shards). Bytes and
structure are damaged. If hashes would detect the damage, they are mostly recomputed, so that later
checks are reached. Each case has one result:

* right: the data are those that were written or, if this cannot be known, are valid;
* refused: one of the errors that the command line prints as one line, with file or field;
* wrong: everything else, such as another exception, a warning, a process that dies, more than one
  minute, or memory for more than the input holds.

  python experiments/fuzz.py --cases=10500 --commands=100
  python experiments/fuzz.py --only=1234      # repeat one case with full output

--commands is the number of refused cases that are then passed to `ris-jax` itself. It must end with
one line on standard error, no traceback, and status 1 or 2.

Cost: 3 minutes of one core for every 1000 cases; no GPU.
Results (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2, numpy 2.4.6, h5py 3.16.0;
seed 0; 13 minutes, with two other programs running):

| surface | cases | right | refused | wrong |
|---|---|---|---|---|
| configurations | 4725 | 432 | 4293 | 0 |
| recordings | 3675 | 707 | 2968 | 0 |
| records | 1575 | 453 | 1122 | 0 |
| checkpoints | 525 | 470 | 55 | 0 |
| all | 10500 | 2062 | 8438 | 0 |

In two cases (5061, 7571) the damaging code failed first; it was fixed and they were run again.
3612 earlier cases had found 13 wrong ones, which have been fixed; each has a test.
"""

import collections
import json
import multiprocessing
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import metadata
from typing import Any

import fuzz_cases
from absl import app, flags

_CASES = flags.DEFINE_integer("cases", 10_500, "number of cases", lower_bound=1)
_FIRST = flags.DEFINE_integer("first", 0, "number of the first case", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "seed of all cases")
_ONLY = flags.DEFINE_integer("only", None, "number of a single case")
_COMMANDS = flags.DEFINE_integer("commands", 100, "refused cases for the command line")
_WORKERS = flags.DEFINE_integer("workers", 1, "processes", lower_bound=1)
_LOG = flags.DEFINE_string("log", None, "file of all classifications, one JSON object per line")

_SECONDS = 60  # limit per case; the machine may be busy
_MEMORY = 4 << 30  # limit [bytes] above the use before the first case
# Order within twenty cases: cheap surfaces are more frequent.
_TURNS = ("configurations",) * 9 + ("recordings",) * 7 + ("records",) * 3 + ("checkpoints",)


def surface_of(number: int) -> str:
    """Return the surface of a case."""
    return _TURNS[number % len(_TURNS)]


def surfaces(home: pathlib.Path) -> dict[str, fuzz_cases.Surface]:
    """Create all surfaces, by name; intact inputs are written to the directory."""
    import fuzz_configurations
    import fuzz_folders
    import fuzz_recordings

    found = [
        fuzz_configurations.Configurations(home / "configurations"),
        fuzz_recordings.Recordings(home / "recordings"),
        fuzz_folders.Records(home / "records"),
        fuzz_folders.Runs(home / "runs"),
    ]
    return {surface.name: surface for surface in found}


def make_case(
    known: dict[str, fuzz_cases.Surface], seed: int, number: int, place: pathlib.Path
) -> tuple[str, fuzz_cases.Case]:
    """Return a case by its number, and the name of its surface."""
    name = surface_of(number)
    return name, known[name].case(random.Random(f"{seed} {number}"), place)


def run_case(
    known: dict[str, fuzz_cases.Surface], seed: int, number: int, place: pathlib.Path
) -> dict[str, Any]:
    """Run a case in a directory that is removed afterwards."""
    name, case = make_case(known, seed, number, place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = fuzz_cases.classify(case)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {"number": number, "surface": name, "what": case.what, **result._asdict()}


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {_SECONDS} s")


def _work(connection: Any, seed: int, home: pathlib.Path) -> None:
    """Run a worker: receive case numbers, send results."""
    known = surfaces(home)
    signal.signal(signal.SIGALRM, _too_long)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    connection.send("ready")
    while True:
        number = connection.recv()
        signal.alarm(_SECONDS)
        found = run_case(known, seed, number, home / f"case{number}")
        signal.alarm(0)
        connection.send(found)


class _Worker:
    """A process that runs cases, and its current case."""

    def __init__(self, seed: int):
        context = multiprocessing.get_context("spawn")  # threads of JAX do not survive a fork
        self._home = pathlib.Path(tempfile.mkdtemp())
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, seed, self._home), daemon=True)
        self._process.start()
        theirs.close()
        if self.connection.recv() != "ready":
            raise SystemExit("a worker process did not start")
        self.number: int | None = None
        self._since = 0.0

    def give(self, number: int) -> None:
        """Start a case."""
        self.number, self._since = number, time.monotonic()
        self.connection.send(number)

    def take(self) -> dict[str, Any] | None:
        """Return the result of the case; None while it runs."""
        number, text = self.number, ""
        try:
            if self.connection.poll(0.05):
                self.number = None
                return self.connection.recv()
        except EOFError:
            self._process.join()
            text = f"the process died ({self._process.exitcode})"
        if time.monotonic() - self._since > 2 * _SECONDS:
            text = "hangs and ignores signals"
        if not text:
            return None
        self.end()
        return {"number": number, "surface": surface_of(number or 0), "what": "",
                "kind": fuzz_cases.WRONG, "text": text}  # fmt: skip

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self.number = None
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Return whether the worker can take a case."""
        return self._process.is_alive()


def _all_cases(numbers: list[int]) -> list[dict[str, Any]]:
    """Return the results of all cases, in any order."""
    waiting, found = numbers[::-1], []
    workers = [_Worker(_SEED.value) for _ in range(min(_WORKERS.value, len(numbers)))]
    with open(_LOG.value or os.devnull, "w") as log:
        while len(found) < len(numbers):
            for place, worker in enumerate(workers):
                if worker.number is None and waiting:
                    if not worker.alive:
                        workers[place] = worker = _Worker(_SEED.value)
                    worker.give(waiting.pop())
                result = worker.take() if worker.number is not None else None
                if result is None:
                    continue
                found.append(result)
                print(json.dumps(result), file=log, flush=True)
                if result["kind"] == fuzz_cases.WRONG or len(numbers) == 1:
                    print(f"{result['number']} {result['surface']} ({result['what']}): "
                          f"{result['kind']} {result['text']}", flush=True)  # fmt: skip
    for worker in workers:
        worker.end()
    return found


def _commands(
    results: list[dict[str, Any]], count: int
) -> list[tuple[int, fuzz_cases.Classification]]:
    """Run `ris-jax` on some of the refused cases, evenly over all surfaces."""
    refused = [result for result in results if result["kind"] == fuzz_cases.REFUSED]
    rng, numbers = random.Random(_SEED.value), []
    for name in dict.fromkeys(_TURNS):
        some = [result["number"] for result in refused if result["surface"] == name]
        numbers += rng.sample(some, min(len(some), count // len(set(_TURNS))))
    found = []
    with tempfile.TemporaryDirectory() as name:
        known = surfaces(pathlib.Path(name))
        for number in numbers:
            _, case = make_case(known, _SEED.value, number, pathlib.Path(name) / f"case{number}")
            command = [sys.executable, "-m", "ris_jax", *case.command]
            run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            result = fuzz_cases.classify_command(case, run.returncode, run.stderr)
            found.append((number, result))
            if result.kind == fuzz_cases.WRONG:
                print(f"command of {number} ({case.what}): {result.text}", flush=True)
    return found


def _report(results: list[dict[str, Any]]) -> int:
    """Print the table; return the number of wrong cases."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("jax", "numpy", "h5py"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"{versions}; seed {_SEED.value}")  # fmt: skip
    counts = collections.Counter((result["surface"], result["kind"]) for result in results)
    kinds = (fuzz_cases.RIGHT, fuzz_cases.REFUSED, fuzz_cases.WRONG)
    print(f"| surface | cases | {' | '.join(kinds)} |\n|---|---|---|---|---|")
    for name in [*dict.fromkeys(_TURNS)]:
        row = [counts[name, kind] for kind in kinds]
        print(f"| {name} | {sum(row)} | {' | '.join(map(str, row))} |")
    row = [sum(counts[name, kind] for name in set(_TURNS)) for kind in kinds]
    print(f"| all | {sum(row)} | {' | '.join(map(str, row))} |")
    return row[-1]


def main(argv: list[str]) -> None:
    """Run the study."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only; got {argv[1:]}")
    began = time.monotonic()
    last = _FIRST.value + _CASES.value
    numbers = list(range(_FIRST.value, last)) if _ONLY.value is None else [_ONLY.value]
    results = _all_cases(numbers)
    wrong = _report(results)
    if _COMMANDS.value and _ONLY.value is None:
        found = _commands(results, _COMMANDS.value)
        bad = sum(result.kind == fuzz_cases.WRONG for _, result in found)
        print(f"{len(found)} of the refused cases as commands: {bad} wrong")
        wrong += bad
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    app.run(main)
