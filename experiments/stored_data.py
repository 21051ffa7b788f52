r"""Stored records: rates of writing, checking and reading, size of a scene, memory over time.

The script writes records of the default system, reads every scene back and compares it with its
hash. It reads the batches of training: shuffled over files and prefetched. It times reading into
host memory, first with an empty page cache, and onto the device as in training. Then it trains on
every scene once, and plots the memory of both.

  python experiments/stored_data.py --figure=docs/stored_data.png
  python experiments/stored_data.py --folder=records --set=model.rounds=1 --set=model.iterations=1 \
    --set=model.candidates=6 --set=model.width=32 --set=model.depth=1     (a small network)

Cost: with the small network 5 minutes of one core, 2.3 GB of disk; no GPU.
Results (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2, grain 0.2.18): 110 592
scenes, 2.28 GB, 20 593 bytes per scene (the reference: 370 kB); every scene matched its digest. The
machine was under load; priority was raised except for the last two rows. Load is the number of
processes waiting for the two cores. The rate per core second uses processor time, not the
clock. Rows are from three runs: writing, training, and the others.

                        stage  scenes/s  scenes/core s  load
  ----------------------------------------------------------
           simulate and write      3300              -    15
        check before training     65000          58000    27
            read back by hash     32000          33000    27
  batches to host, first pass     32000          85000    26
              batches to host     71000         102000    26
        batches to the device     20000          35000    26
              train one epoch       211            586    23

The first pass waits for the disk (0.7 GB/s here). Two reading threads needed 3.1 s of core
time instead of 1.2 with one, and 6.8 s instead of 3.0 in the later passes: copying holds the
interpreter lock.

Private memory over three passes of reading: 186 to 204 MB after the first tenth. Over an epoch of
1600 microbatches, then with two reading threads: 1605 to 1735 MB after the first tenth, 1672 MB
at the end. The small network (15 346 parameters) went from a validation NMSE of 2.63 to 0.057 (the
best constant 0.97, the snapshots 1.26). The default network was not trained on these records.
"""

import contextlib
import os
import pathlib
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import ris_jax  # noqa: F401  Before jax: it sets the process's BLAS and pool threads.

# isort: split
import grain  # noqa: F401  Slow to import, and not what is timed.
import jax
import numpy as np
from absl import app, flags, logging

from ris_jax import config as config_lib
from ris_jax.cli import common_flags
from ris_jax.data.records import record_dataset, record_format, simulation
from ris_jax.reports import tables
from ris_jax.training import loop, sources
from ris_jax.training.processes import devices
from ris_jax.training.saving import metrics_log

_SCENES = flags.DEFINE_integer("scenes", 102_400, "scenes to train on", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "scenes per batch", lower_bound=1)
_PASSES = flags.DEFINE_integer("passes", 3, "number of passes over all scenes", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", None, "directory of the records; temporary by default")
_TRAIN = flags.DEFINE_bool("train", True, "also train on all scenes once")
common_flags.define(flags.FLAGS)  # of the training
_FIGURE = flags.DEFINE_string("figure", None, "memory over the passes and the epoch, .png")

_SAMPLES = 100  # memory samples per pass
_SECONDS_BETWEEN_SAMPLES = 1.0  # while training

Curve = list[tuple[float, float]]  # position of the sample, and the memory [MB]


def private_memory() -> float:
    """Return the process memory without file pages [MB]."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def read_back(folder: pathlib.Path) -> int:
    """Compare every scene with its digest; return the number of scenes."""
    total = 0
    for shard in record_format.require_index(folder).shards:
        found = record_format.digests_of(record_format.load(folder, shard, "scenes"))
        if not np.array_equal(found, record_format.load(folder, shard, "digests")):
            raise ValueError(f"{shard.name}: a scene does not match its digest")
        total += len(found)
    return total


def forget(folder: pathlib.Path) -> None:
    """Drop the files from the page cache."""
    for path in folder.glob("*/*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def passes(
    dataset: record_dataset.Dataset, number_of_passes: int, *, on_device: bool
) -> Iterator[tuple[float, float]]:
    """Read all scenes repeatedly; yield the pass and the memory [MB] periodically."""
    split = dataset.split("train")
    batches = record_dataset.batches(split, _BATCH.value, seed=0)
    count = number_of_passes * len(split) // _BATCH.value
    between = max(len(split) // _BATCH.value // _SAMPLES, 1)
    for number in range(1, count + 1):
        batch = next(batches)
        if on_device:
            jax.block_until_ready(sources.as_scene(batch, devices.one_device()))
        if number % between == 0 or number == count:
            yield number * _BATCH.value / len(split), private_memory()


@contextlib.contextmanager
def sampled_memory(progress: Callable[[], float]) -> Iterator[Curve]:
    """Sample memory and progress while other code runs."""
    curve: Curve = []
    ended = threading.Event()

    def sample():
        while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
            curve.append((progress(), private_memory()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield curve
    finally:
        ended.set()
        thread.join()


def train(dataset: record_dataset.Dataset, workdir: pathlib.Path) -> Curve:
    """Train one epoch over every scene once; return memory over the fraction done."""
    steps = len(dataset.split("train")) // _BATCH.value
    stored = config_lib.flatten(record_format.stored_config(dataset.config))
    sizes = {
        "training.epochs": 1,
        "training.steps_per_epoch": steps,
        "training.batch_size": _BATCH.value,
    }
    config = common_flags.configuration(flags.FLAGS, sizes, stored)

    def share():
        rows = metrics_log.read_rows(workdir)
        return max((row.get("microbatch", 0) for row in rows), default=0) / steps

    with sampled_memory(share) as curve:
        loop.train(config, workdir, dataset)
    return curve


def description(name: str, curve: Curve) -> str:
    """Describe the memory after compilation, and its range from then on."""
    later = [memory for at, memory in curve if at >= 0.1 * curve[-1][0]]
    return (
        f"{name}: private memory after the first tenth {later[0]:.0f} MB, later "
        f"{min(later):.0f} to {max(later):.0f} MB, at the end {later[-1]:.0f} MB"
    )


def draw_memory(curves: dict[str, Curve], path: pathlib.Path) -> None:
    """Plot private memory over progress, one panel per curve."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(curves), figsize=(3.6 * len(curves), 2.6), layout="constrained", squeeze=False
    )
    for axes, (name, curve) in zip(panels[0], curves.items(), strict=True):
        axes.plot(*zip(*curve, strict=True))
        axes.set(xlabel=name, ylim=(0, None))
    panels[0][0].set_ylabel("private memory [MB]")
    figure.savefig(path, dpi=150)


class Stopwatch:
    """Rates by wall time, and by core time, which is independent of load."""

    def __init__(self):
        self.rows: list[tuple[str, float, float]] = []
        self.restart()

    def restart(self) -> None:
        """Start a stage."""
        self._began = time.perf_counter(), time.process_time()

    def row(self, name: str, scenes: int) -> None:
        """End a stage and start the next one."""
        clock, cores = self._began
        clock, cores = time.perf_counter() - clock, time.process_time() - cores
        self.rows.append((name, scenes / clock, scenes / cores))
        print(
            f"{name}: {clock:.1f} s, {cores:.1f} s of core time, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        self.restart()


def main(_) -> None:
    """Measure every row and print the table."""
    logging.set_verbosity(logging.ERROR)  # orbax logs every step through absl
    config, watch = config_lib.Config(), Stopwatch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or f"{temporary}/records")
        there = (folder / record_format.INDEX_NAME).exists()
        counts = {"train": _SCENES.value, "validation": 4096, "test": 4096}
        index = simulation.simulate(config, folder, counts, shard_scenes=4096)
        total = sum(counts.values())
        watch.row("find existing records" if there else "simulate and write", total)
        dataset = record_dataset.open_dataset(folder)
        watch.row("check before training", total)
        watch.row("read back by hash", read_back(folder))
        curves: dict[str, Curve] = {}
        forget(folder)
        watch.restart()
        for name, count, on_device in (
            ("batches to host, first pass", 1, False),
            ("batches to host", _PASSES.value, False),
            ("batches to the device", _PASSES.value, True),
        ):
            curves["passes of reading"] = list(passes(dataset, count, on_device=on_device))
            watch.row(name, count * len(dataset.split("train")))
        if _TRAIN.value:
            curves["epoch of training"] = train(dataset, pathlib.Path(temporary) / "run")
            watch.row("train one epoch", len(dataset.split("train")))
        print(
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
            f"jax {jax.__version__}, grain {metadata.version('grain')}; load "
            f"{os.getloadavg()[0]:.1f}\n{total} scenes, {index.num_bytes / 1e9:.2f} GB, "
            f"{index.num_bytes / total:.0f} bytes a scene; batches of {_BATCH.value}, "
            f"{_PASSES.value} passes"
        )
        for name, curve in curves.items():
            print(description(name, curve))
        print(tables.as_text(("stage", "scenes/s", "scenes/core s"), watch.rows))
        if _FIGURE.value:
            draw_memory(curves, pathlib.Path(_FIGURE.value))


if __name__ == "__main__":
    app.run(main)
