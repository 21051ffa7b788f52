"""Cost of a first start: CPU seconds of whole processes, and seconds to the first printed line.

  python experiments/cold_start.py
  python experiments/cold_start.py --only=localize,doctor --package=/path/to/another/checkout

Each command runs as a separate process in a temporary directory: once without a compilation cache,
once to fill an empty cache, once with the full cache. CPU seconds are user and system time of the
process and its children. The first line is wall time; measure it on a quiet machine.
`benchmark` and `evaluate` are stopped after their first line.

Results (28 November 2026; x86_64, 2 cores under heavy load, Python 3.11.7, jax 0.10.2).
Before, at 431a069, without a package cache: a second start cost the same. `tune` is from the
report of the problem, not from this script.

                          CPU s, no cache   CPU s, cache   first line
  localize                           30.6           30.6       40.3 s
  localize_network                   19.1           19.1       45.6 s
  train                             109.7          109.7       18.9 s
  doctor                            166.8          166.8        0.7 s
  tune                                355            355            -
  report                             48.4           48.4       72.9 s
  simulate                           10.9           10.9       16.5 s
  import                              1.3            1.3        1.6 s
  benchmark                             -              -        6.7 s
  evaluate                              -              -       19.1 s
  first batch                        28.0
  second batch size                  28.3
  second wavelength                  28.3

After (29 November 2026, 15:15; no other work, but slower cores than in the morning: `import` took
0.9 instead of 0.7 CPU seconds):

                          CPU s, no cache   CPU s, cache   first line
  localize                           12.5            5.3        0.1 s
  localize_network                   16.3            5.6        0.1 s
  train                              39.0           21.2        0.1 s
  doctor                             28.7           11.0        0.1 s
  tune                               77.1           29.3        0.4 s
  report                             56.6           28.9        0.2 s
  simulate                            2.5            1.3        0.1 s
  import                              0.9            0.9        0.1 s
  benchmark                             -              -        0.1 s
  evaluate                              -              -        0.2 s
  first batch                         9.4
  second batch size                   0.5
  second wavelength                   0.7

The same on 30 November 2026, with fewer searches for reference cycles, eager calls as one program
and faster tracing, on cores that are slower (a Python loop takes 1.6 to 1.9 times as long as on 28
November):

                          CPU s, no cache   CPU s, cache   first line
  localize                           10.8            3.8        0.2 s
  localize_network                   10.6            3.8        0.1 s
  train                              27.5           13.1        0.1 s
  doctor                             22.4            7.6        0.1 s
  simulate                            2.7            1.3        0.2 s
  import                              0.9            0.9        0.1 s
  first batch                        10.1
  second batch size                   0.5
  second wavelength                   0.7

`report` locates sources for its position errors. In the morning, without them, it took 20.2 and
11.5.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from absl import app, flags

_ONLY = flags.DEFINE_list("only", None, "rows to measure; the default is all")
_PACKAGE = flags.DEFINE_string(
    "package", str(pathlib.Path(__file__).parents[1]), "checkout of the package to measure"
)
_MODES = flags.DEFINE_list("modes", ["none", "warm"], "none: no cache; warm: a full cache")

_TINY = [
    "--set=training.epochs=1", "--set=training.steps_per_epoch=2",
    "--set=training.validation_scenes=128",
]  # fmt: skip

# In order of dependence: outputs of one are inputs of later ones. OUT is a new directory each time.
COMMANDS = {
    "localize": ["localize", "--data=recordings.npz", "--out=OUT/positions.csv"],
    "localize_network": [
        "localize", "--data=recordings.npz", "--out=OUT/positions.csv", "--pretrained=default",
    ],
    "train": ["train", "--workdir=OUT/run", "--epochs=1", "--steps_per_epoch=2"],
    "doctor": ["doctor"],
    "tune": ["tune", "--workdir=OUT/search", "--trials=2", *_TINY],
    "report": ["report", "--workdir=run"],
    "simulate": [
        "simulate", "--out=OUT/records", "--num_train=64", "--num_val=64", "--num_test=64",
    ],
    "import": ["import", "--data=recordings.npz", "--out=OUT/records"],
}  # fmt: skip
FIRST_LINE_ONLY = {
    "benchmark": ["benchmark", "--suite=overall", "--num_scenes=8", "--out=OUT/benchmark"],
    "evaluate": ["evaluate", "--estimator=maximum_likelihood", "--num_scenes=8", "--out=OUT/e"],
}  # fmt: skip
IN_ONE_PROCESS = ("first batch", "second batch size", "second wavelength")

# Eight scenes of the default system.
_RECORDINGS = """
import ris_jax
import jax, numpy as np
from ris_jax import config
from ris_jax.accuracy import metrics
from ris_jax.data.recordings import containers
from ris_jax.physics import arrays, scenes
config = config.Config()
batch = jax.device_get(jax.jit(lambda k: scenes.sample_scenes(k, config, 8))(jax.random.key(0)))
truth = {name: getattr(batch.truth, name) for name in metrics.Sources._fields}
containers.save("recordings.npz", truth | {
    "snapshots": batch.measurement.snapshots, "channel": batch.measurement.channel,
    "codes": batch.measurement.codes, "wavelength": config.system.wavelength,
    "element_positions": np.asarray(arrays.element_positions(config.system)),
    "snr_db": batch.truth.snr_db,
})
"""
_PYTHON = """
import ris_jax
import jax, pathlib, time
from ris_jax.data.recordings import reader
found = reader.read(pathlib.Path("recordings.npz"))
batch = reader.measurement_of(found)
def cost(scenes, wavelength):
    began = time.process_time()
    measured = jax.tree.map(lambda x: x[:scenes], batch)
    jax.block_until_ready(ris_jax.localize(measured, found.positions, wavelength=wavelength))
    print(time.process_time() - began, flush=True)
cost(8, 0.3)
cost(5, 0.3)
cost(8, 0.31)
"""


class Cost(NamedTuple):
    """Cost of one process."""

    cpu: float  # user and system [s]
    first_line: float  # wall time [s]; infinite without output
    lines: list[str]


def _run(command: list[str], folder: pathlib.Path, cache: pathlib.Path | None, stop: bool) -> Cost:
    """Run a Python process; `stop` ends it after its first line.

    Raises:
      RuntimeError: it failed.
    """
    ours = ("JAX_", "XDG_CACHE_HOME", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env["PYTHONPATH"] = _PACKAGE.value
    if cache is None:
        env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    env["XDG_CACHE_HOME"] = str(cache or folder / "none")
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        first_line = time.monotonic() - began if lines[0] else float("inf")
        if stop:
            process.send_signal(signal.SIGTERM)
        lines += process.stdout.readlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode and not stop:
            raise RuntimeError(f"{' '.join(command)}: {errors.read()}")
    return Cost(usage.ru_utime + usage.ru_stime, first_line, [line.strip() for line in lines])


def _measure(
    name: str, folder: pathlib.Path, cache: pathlib.Path | None, *, stop: bool = False
) -> Cost:
    """Run a command of the package with outputs in a new directory."""
    out = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix="out"))
    words = [word.replace("OUT", out.name) for word in (COMMANDS | FIRST_LINE_ONLY)[name]]
    cost = _run(["-m", "ris_jax", *words], folder, cache, stop)
    with contextlib.suppress(OSError):
        (out / "run").rename(folder / "run")  # for `report`; the first one stays
    return cost


def _with(mode: str, name: str, folder: pathlib.Path) -> Cost:
    """Measure one command in one mode; a cache is filled first."""
    if mode == "none":
        return _measure(name, folder, None)
    cache = folder / f"cache_{name}"
    _measure(name, folder, cache)
    return _measure(name, folder, cache)


def main(argv: list[str]) -> None:
    """Print a row per command when it is measured."""
    del argv
    wanted = _ONLY.value or [*COMMANDS, *FIRST_LINE_ONLY, "python"]
    with tempfile.TemporaryDirectory() as text:
        folder = pathlib.Path(text)
        _run(["-c", _RECORDINGS], folder, None, False)
        if "report" in wanted and "train" not in wanted:
            _measure("train", folder, None)
        columns = "".join(f"{mode:>10}" for mode in _MODES.value)
        print(f"{'CPU s, by cache':<20}{columns}{'first line':>14}", flush=True)
        for name in wanted:
            if name in COMMANDS:
                costs = [_with(mode, name, folder) for mode in _MODES.value]
                cells = "".join(f"{cost.cpu:>10.1f}" for cost in costs)
                lines = min(cost.first_line for cost in costs)
                print(f"{name:<20}{cells}{lines:>12.1f} s", flush=True)
            elif name in FIRST_LINE_ONLY:
                cost = _measure(name, folder, None, stop=True)
                print(f"{name:<20}{'':>{10 * len(_MODES.value)}}{cost.first_line:>12.1f} s")
            elif name == "python":
                found = _run(["-c", _PYTHON], folder, None, False).lines
                for what, seconds in zip(IN_ONE_PROCESS, found, strict=True):
                    print(f"{what:<20}{float(seconds):>10.1f}", flush=True)


if __name__ == "__main__":
    app.run(main)
