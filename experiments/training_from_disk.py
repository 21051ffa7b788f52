"""Rate of training from disk, compared with training on scenes held on the device.

The same step has three sources: simulated scenes held on the device, new simulated scenes for every
microbatch, and stored scenes, shuffled and prefetched as in `train --data`. The three alternate in
one process, each first in every third round, so that other load affects them equally. Compilation
is excluded. The last table is without the step: the rate of scenes from disk onto the device, which
limits the rate of a faster step.

  python experiments/training_from_disk.py --folder=records --rounds=6 --microbatches=8

Cost: one minute on two free cores, half of it compilation; no GPU.
Results (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2, grain 0.2.18), at raised
priority with a load of 20 to 27 processes waiting for the two cores, with the default
configuration, microbatches of 64 and 102 400 stored scenes; median [least, most] of six rounds of
eight microbatches:

     scenes     microbatches/s               of held           core s each               of held
  ----------------------------------------------------------------------------------------------
       held  4.93 [4.55, 5.84]  1.000 [1.000, 1.000]  0.238 [0.219, 0.262]  1.000 [1.000, 1.000]
  simulated  4.40 [3.91, 5.50]  0.872 [0.739, 1.180]  0.259 [0.235, 0.303]  0.933 [0.746, 1.014]
  from disk  4.61 [4.41, 4.82]  0.964 [0.761, 1.023]  0.248 [0.234, 0.263]  0.974 [0.885, 1.011]

           no step               scenes/s           scenes/core s    ms a microbatch
  ----------------------------------------------------------------------------------
  into host memory  78501 [28254, 111225]  107459 [63772, 133442]  0.84 [0.58, 2.27]
   onto the device   28801 [18845, 33882]    31448 [25154, 34949]  2.23 [1.89, 3.40]

From disk, the rate is 96 % by wall time and 97 % by core time; the spread is as large as the
difference. Without a step a microbatch takes 2.2 ms, compared with 217 ms for the step. Two thirds
of that are the copy onto the device and the extraction of the fields there.
"""

import itertools
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import NamedTuple

import ris_jax  # noqa: F401  Before jax: it sets the process's BLAS and pool threads.

# isort: split
import jax
import jax.numpy as jnp
from absl import app, flags, logging

from ris_jax import config as config_lib
from ris_jax.cli import common_flags
from ris_jax.data.records import record_dataset, simulation
from ris_jax.physics import scenes
from ris_jax.reports import tables
from ris_jax.training import sources
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices

_FOLDER = flags.DEFINE_string("folder", None, "directory of records; simulated by default")
_ROUNDS = flags.DEFINE_integer("rounds", 6, "turns per source", lower_bound=1)
_MICROBATCHES = flags.DEFINE_integer("microbatches", 12, "microbatches per turn", lower_bound=1)
common_flags.define(flags.FLAGS)

_HELD, _ANEW, _STORED = "held", "simulated", "from disk"
_HELD_BATCHES = 8
_FEW_SCENES = 8192
_ALONE = 20  # number of turns without a step

Draw = Callable[[state_lib.TrainState], scenes.Scene]


class Turn(NamedTuple):
    """Wall time and core time of a turn, over all threads [s]."""

    clock: float
    cores: float


def held(config: config_lib.Config) -> Draw:
    """Return microbatches of the simulator, drawn once."""
    batches = [step_lib.draw_batch(config, jnp.asarray(n)) for n in range(_HELD_BATCHES)]
    turn = itertools.cycle(jax.block_until_ready(batches))
    return lambda _: next(turn)


def train(
    state: state_lib.TrainState, draw: Draw, count: int
) -> tuple[state_lib.TrainState, list[float]]:
    """Train on some microbatches; fetch their metrics together, as the training loop does."""
    pending = []
    for _ in range(count):
        state, metrics = step_lib.train_step(state, draw(state))
        pending.append(metrics["loss"])
    return state, [loss.item() for loss in jax.device_get(pending)]


def timed(call: Callable[[], object]) -> Turn:
    """Time one turn."""
    clock, cores = time.perf_counter(), time.process_time()
    call()
    return Turn(time.perf_counter() - clock, time.process_time() - cores)


def take_turns(config: config_lib.Config, ways: dict[str, Draw]) -> Iterator[dict[str, Turn]]:
    """Compile, then yield the turns of each round."""
    state = state_lib.create_train_state(config, devices.one_device())

    def turn(name, count):
        nonlocal state
        state, _ = train(state, ways[name], count)

    for name in ways:
        turn(name, 2)
    print("compiled", flush=True)
    names = list(ways)
    for number in range(_ROUNDS.value):
        order = names[number % len(names) :] + names[: number % len(names)]
        yield {name: timed(lambda name=name: turn(name, _MICROBATCHES.value)) for name in order}


def spread(values: list[float], digits: int) -> str:
    """Format the median, minimum and maximum."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def training_rows(rounds: list[dict[str, Turn]]) -> list[tuple[str, ...]]:
    """Return rates by wall and core time, and relative to scenes held on the device."""
    count = _MICROBATCHES.value
    rows = []
    for name in rounds[0]:
        turns, beside = [r[name] for r in rounds], [r[_HELD] for r in rounds]
        pairs = list(zip(beside, turns, strict=True))
        rows.append(
            (
                name,
                spread([count / turn.clock for turn in turns], 2),
                spread([ours.clock / turn.clock for ours, turn in pairs], 3),
                spread([turn.cores / count for turn in turns], 3),
                spread([ours.cores / turn.cores for ours, turn in pairs], 3),
            )
        )
    return sorted(rows, key=lambda row: [_HELD, _ANEW, _STORED].index(row[0]))


def alone(config: config_lib.Config, dataset: record_dataset.Dataset) -> list[tuple[str, ...]]:
    """Measure scenes from disk into host memory, and onto the device, without a step."""
    size, count = config.training.batch_size, _ALONE * _MICROBATCHES.value
    batches = record_dataset.batches(dataset.split("train"), size, seed=0)
    placement = devices.one_device()

    def to_host():
        for _ in range(count):
            next(batches)

    def to_device():
        for _ in range(count):
            jax.block_until_ready(sources.as_scene(next(batches), placement))

    rows = []
    for name, call in (("into host memory", to_host), ("onto the device", to_device)):
        call()
        turns = [timed(call) for _ in range(_ROUNDS.value)]
        by_clock, by_cores = zip(*turns, strict=True)
        rows.append(
            (
                name,
                spread([size * count / clock for clock in by_clock], 0),
                spread([size * count / cores for cores in by_cores], 0),
                spread([clock / count * 1e3 for clock in by_clock], 2),
            )
        )
    return rows


def main(_) -> None:
    """Measure and print both tables."""
    logging.set_verbosity(logging.ERROR)  # grain and JAX log through absl
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or temporary)
        if not _FOLDER.value:
            config = common_flags.configuration(flags.FLAGS, {})
            counts = {"train": _FEW_SCENES, "validation": 1024}
            simulation.simulate(config, folder, counts, shard_scenes=4096)
        dataset = record_dataset.open_dataset(folder)
        config = common_flags.configuration(flags.FLAGS, {}, common_flags.fields_of(dataset))
        placement = devices.one_device()
        ways = {
            _HELD: held(config),
            _ANEW: sources.Simulated(config, placement).draw,
            _STORED: sources.Stored(config, dataset, placement).draw,
        }
        print(
            f"{os.cpu_count()} cores, {platform.machine()}, {jax.devices()[0].device_kind}, Python "
            f"{platform.python_version()}, jax {jax.__version__}, grain "
            f"{metadata.version('grain')}; load {os.getloadavg()[0]:.1f}\nmicrobatches of "
            f"{config.training.batch_size}, {len(dataset.split('train'))} stored scenes; "
            f"{_ROUNDS.value} rounds of {_MICROBATCHES.value} microbatches; median [least, most]",
            flush=True,
        )
        rounds = list(take_turns(config, ways))
        header = ("scenes", "microbatches/s", "of held", "core s each", "of held")
        print(tables.as_text(header, training_rows(rounds)), flush=True)
        header = ("no step", "scenes/s", "scenes/core s", "ms a microbatch")
        print(tables.as_text(header, alone(config, dataset)))
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app.run(main)
