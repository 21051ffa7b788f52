r"""Does any damaged input get anything but a right result or one clear line?

Every case is a number: surface and damage follow from it and the seed. Records (read for training,
or gone on with by `import`), runs with their checkpoints, configurations (files, --set, search
spaces) and recordings (.npz, HDF5, MATLAB v7.3, the reference's shards) are damaged in their bytes
and in their structure; where hashes would find it, the hashes are made anew in most cases, so that
what lies deeper is reached. Right is a result that is what was written, or, where nobody can know,
one that can be computed with; refused is one of the errors that the command line turns into a line,
naming file or field. Anything else counts as wrong: another exception, a warning, a process that
dies, more than a minute, memory for what the input does not hold.

  python experiments/fuzz.py --cases=10500 --commands=100
  python experiments/fuzz.py --only=1234      # one case again, told in full

--commands is how many of the refused ones are then given to `ris-jax` itself, which must end with
one line on standard error, no traceback, and status 1 or 2.

Cost: 3 minutes of one core for every 1000 cases; no GPU.
Gave (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2, numpy 2.4.6, h5py 3.16.0;
seed 0; 13 minutes beside two other programs):

| surface | cases | right | refused | wrong |
|---|---|---|---|---|
| configurations | 4725 | 432 | 4293 | 0 |
| recordings | 3675 | 707 | 2968 | 0 |
| records | 1575 | 453 | 1122 | 0 |
| checkpoints | 525 | 470 | 55 | 0 |
| all | 10500 | 2062 | 8438 | 0 |

Two cases (5061, 7571) first ended in the damaging itself, which was mended, and were run again.
3612 cases before that had found 13 wrong ones, which have been mended; each has a test.
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

_CASES = flags.DEFINE_integer("cases", 10_500, "how many", lower_bound=1)
_FIRST = flags.DEFINE_integer("first", 0, "the number of the first case", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "of all cases")
_ONLY = flags.DEFINE_integer("only", None, "the number of a single case")
_COMMANDS = flags.DEFINE_integer("commands", 100, "cases that the command line is given, too")
_WORKERS = flags.DEFINE_integer("workers", 1, "processes", lower_bound=1)
_LOG = flags.DEFINE_string("log", None, "file of all verdicts, one JSON object a line")

_SECONDS = 60  # of a case; the machine may be busy with others
_MEMORY = 4 << 30  # bytes more than before the first case
# Of twenty cases, in turn: the cheap ones are more.
_TURNS = ("configurations",) * 9 + ("recordings",) * 7 + ("records",) * 3 + ("checkpoints",)


def surface_of(number: int) -> str:
    """The surface of a case."""
    return _TURNS[number % len(_TURNS)]


def surfaces(home: pathlib.Path) -> dict[str, fuzz_cases.Surface]:
    """All that is fuzzed, by name; whole inputs are written to the folder."""
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
    """A case by its number, and the name of its surface."""
    name = surface_of(number)
    return name, known[name].case(random.Random(f"{seed} {number}"), place)


def run_case(
    known: dict[str, fuzz_cases.Surface], seed: int, number: int, place: pathlib.Path
) -> dict[str, Any]:
    """Runs a case in a folder that is removed afterwards."""
    name, case = make_case(known, seed, number, place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            verdict = fuzz_cases.judge(case)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {"number": number, "surface": name, "what": case.what, **verdict._asdict()}


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {_SECONDS} s")


def _work(connection: Any, seed: int, home: pathlib.Path) -> None:
    """A worker: answers numbers of cases with what came of them."""
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
    """A process that runs cases one after the other, and what it is at."""

    def __init__(self, seed: int):
        context = multiprocessing.get_context("spawn")  # threads of JAX do not survive a fork
        self._home = pathlib.Path(tempfile.mkdtemp())
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, seed, self._home), daemon=True)
        self._process.start()
        theirs.close()
        if self.connection.recv() != "ready":
            raise SystemExit("a worker does not begin")
        self.number: int | None = None
        self._since = 0.0

    def give(self, number: int) -> None:
        """Has a case begun."""
        self.number, self._since = number, time.monotonic()
        self.connection.send(number)

    def take(self) -> dict[str, Any] | None:
        """What came of the case; None while it is at work."""
        number, text = self.number, ""
        try:
            if self.connection.poll(0.05):
                self.number = None
                return self.connection.recv()
        except EOFError:
            self._process.join()
            text = f"the process died ({self._process.exitcode})"
        if time.monotonic() - self._since > 2 * _SECONDS:
            text = "hangs, and hears no signal"
        if not text:
            return None
        self.end()
        return {"number": number, "surface": surface_of(number or 0), "what": "",
                "kind": fuzz_cases.WRONG, "text": text}  # fmt: skip

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self.number = None
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether it can be given a case."""
        return self._process.is_alive()


def _all_cases(numbers: list[int]) -> list[dict[str, Any]]:
    """What came of every case, in any order."""
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


def _commands(results: list[dict[str, Any]], count: int) -> list[tuple[int, fuzz_cases.Verdict]]:
    """What `ris-jax` itself says to some of the refused cases, of all surfaces alike."""
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
            verdict = fuzz_cases.judge_command(case, run.returncode, run.stderr)
            found.append((number, verdict))
            if verdict.kind == fuzz_cases.WRONG:
                print(f"command of {number} ({case.what}): {verdict.text}", flush=True)
    return found


def _report(results: list[dict[str, Any]]) -> int:
    """Prints the table; returns how many are wrong."""
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
    """Runs the study."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, please; got {argv[1:]}")
    began = time.monotonic()
    last = _FIRST.value + _CASES.value
    numbers = list(range(_FIRST.value, last)) if _ONLY.value is None else [_ONLY.value]
    results = _all_cases(numbers)
    wrong = _report(results)
    if _COMMANDS.value and _ONLY.value is None:
        found = _commands(results, _COMMANDS.value)
        bad = sum(verdict.kind == fuzz_cases.WRONG for _, verdict in found)
        print(f"{len(found)} of the refused ones as commands: {bad} wrong")
        wrong += bad
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    app.run(main)
