r"""How fast are records written, checked and read, how large is a scene, does memory stay flat?

Writes records of the default system, reads every scene back and compares it with its hash, and
runs the batches that training reads: shuffled, prefetched, in order of no file. Times reading from
disk into host memory, and from disk onto the device as training does.

  python experiments/stored_data.py --scenes=100000 --figure=docs/stored_data.png

Cost: 4 minutes on two busy cores, 2.1 GB of disk; no GPU.
Gave (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2, grain 0.2.18) beside other work
that kept ten to twelve processes waiting for the two cores: 102 048 scenes, 2.10 GB, 20 593 bytes
a scene (the reference: 370 kB); every scene read back was what its digest says; private memory 528
MB after the first tenth of three passes onto the device, at most 533 MB after it:

                  stage    scenes/s  scenes/core s
  ------------------------------------------------
     simulate and write    875.0019      2269.3188
  check before training  18828.6529     55074.2011
      read back by hash   7708.3275     26665.9914
        batches to host  30214.7972     95790.3576
  batches to the device  25588.2794     36949.2928

The last column divides by the processor time used, not by the clock. A quiet machine has not been
measured yet: 50 000 scenes/s by the clock are not shown by this run, only 96 000 a second of one
core.
"""

import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata

import ris_jax  # noqa: F401  Before jax: it sets the process's BLAS and pool threads.

# isort: split
import jax
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax.data import record_dataset, records, simulation
from ris_jax.reports import tables
from ris_jax.training import devices, sources

_SCENES = flags.DEFINE_integer("scenes", 100_000, "scenes to train on", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "scenes a batch", lower_bound=1)
_PASSES = flags.DEFINE_integer("passes", 3, "how often all scenes are read", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", None, "the records; a temporary folder if not given")
_FIGURE = flags.DEFINE_string("figure", None, "memory over the passes, .png")

_SAMPLES = 100  # of memory, a pass


def private_memory() -> float:
    """What the process holds that is no page of a file [MB]."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def read_back(folder: pathlib.Path) -> int:
    """Compares every scene with its digest; returns how many there are."""
    total = 0
    for shard in records.require_index(folder).shards:
        found = records.digests_of(records.load(folder, shard, "scenes"))
        if not np.array_equal(found, records.load(folder, shard, "digests")):
            raise ValueError(f"{shard.name}: a scene is not what its digest says")
        total += len(found)
    return total


def passes(dataset: record_dataset.Dataset, *, on_device: bool) -> Iterator[float]:
    """Reads all scenes again and again; yields the memory [MB] now and then."""
    split = dataset.split("train")
    batches = record_dataset.batches(split, _BATCH.value, seed=0)
    count = _PASSES.value * len(split) // _BATCH.value
    between = max(len(split) // _BATCH.value // _SAMPLES, 1)
    for number in range(1, count + 1):
        batch = next(batches)
        if on_device:
            jax.block_until_ready(sources.as_scene(batch, devices.one_device()))
        if number % between == 0 or number == count:
            yield private_memory()


def draw_memory(memory: list[float], path: pathlib.Path) -> None:
    """Private memory over the passes."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.0, 2.6), layout="constrained")
    axes.plot(np.linspace(0, _PASSES.value, len(memory)), memory)
    axes.set(xlabel="passes over the records", ylabel="private memory [MB]", ylim=(0, None))
    figure.savefig(path, dpi=150)


class Stopwatch:
    """Rates by the clock, and by the time that the cores worked, which load leaves alone."""

    def __init__(self):
        self.rows: list[tuple[str, float, float]] = []
        self._began = time.perf_counter(), time.process_time()

    def row(self, name: str, scenes: int) -> None:
        """Ends a stage."""
        clock, cores = (
            now - then
            for now, then in zip(
                (time.perf_counter(), time.process_time()), self._began, strict=True
            )
        )
        self.rows.append((name, scenes / clock, scenes / cores))
        self._began = time.perf_counter(), time.process_time()


def main(_) -> None:
    """Measures every row and prints the table."""
    config, watch = config_lib.Config(), Stopwatch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or temporary)
        counts = {"train": _SCENES.value, "validation": 1024, "test": 1024}
        index = simulation.simulate(config, folder, counts, shard_scenes=4096)
        total = sum(counts.values())
        watch.row("simulate and write", total)
        dataset = record_dataset.open_dataset(folder)
        watch.row("check before training", total)
        watch.row("read back by hash", read_back(folder))
        memory: list[float] = []
        for name, on_device in (("batches to host", False), ("batches to the device", True)):
            memory = list(passes(dataset, on_device=on_device))
            watch.row(name, _PASSES.value * len(dataset.split("train")))
        print(
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
            f"jax {jax.__version__}, grain {metadata.version('grain')}; load "
            f"{os.getloadavg()[0]:.1f}\n{total} scenes, {index.num_bytes / 1e9:.2f} GB, "
            f"{index.num_bytes / total:.0f} bytes a scene; batches of {_BATCH.value}, "
            f"{_PASSES.value} passes; private memory after the first tenth "
            f"{memory[len(memory) // 10]:.0f} MB, most after it "
            f"{max(memory[len(memory) // 10 :]):.0f} MB, in the end {memory[-1]:.0f} MB"
        )
        print(tables.as_text(("stage", "scenes/s", "scenes/core s"), watch.rows))
        if _FIGURE.value:
            draw_memory(memory, pathlib.Path(_FIGURE.value))


if __name__ == "__main__":
    app.run(main)
