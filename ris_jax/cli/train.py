"""Trains a network on simulated scenes or on records, from the newest good checkpoint on.

Example:
  ris-jax train --workdir=runs/quickstart
  ris-jax train --workdir=runs/wide --preset=reference --set=model.width=192 --dropout=0.1
  ris-jax train --workdir=runs/stored --data=records
  ris-jax train --workdir=runs/best --config=runs/tune/best.json

Writes config.json, metrics.jsonl, tensorboard/, checkpoints/ and figures/ into the work directory.
The same command, given again, goes on where it stopped, bit for bit. Records (`simulate`, `import`)
say what the system is; all of them are checked before the first step.
"""

import pathlib
import sys
import time
from typing import TYPE_CHECKING

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import settings

if TYPE_CHECKING:
    from ris_jax.data.record_dataset import Dataset

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of the run", flag_values=FLAGS)
flags.DEFINE_string(
    "data", None, "folder of records; without, scenes are simulated", flag_values=FLAGS
)
flags.DEFINE_bool(
    "skip_damaged", False, "leave damaged shards of --data out, instead of stopping",
    flag_values=FLAGS,
)  # fmt: skip
settings.define(FLAGS)
settings.define_config(FLAGS)
flags.DEFINE_integer("epochs", None, "epochs", flag_values=FLAGS)
flags.DEFINE_integer("steps_per_epoch", None, "microbatches an epoch", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", None, "scenes a microbatch", flag_values=FLAGS)
flags.DEFINE_integer("accumulation", None, "microbatches an update", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", None, "peak rate of the backbone", flag_values=FLAGS)
flags.DEFINE_float("dropout", None, "dropout of the network", flag_values=FLAGS)
flags.DEFINE_integer("seed", None, "root of all randomness", flag_values=FLAGS)
flags.DEFINE_string("compute_dtype", None, "float32 or bfloat16", flag_values=FLAGS)

_FIELDS = {
    "epochs": "training.epochs",
    "steps_per_epoch": "training.steps_per_epoch",
    "batch_size": "training.batch_size",
    "accumulation": "optimizer.accumulation",
    "learning_rate": "optimizer.learning_rate",
    "dropout": "model.dropout",
    "seed": "training.seed",
    "compute_dtype": "model.compute_dtype",
}


def configuration(dataset: "Dataset | None" = None) -> config_lib.Config:
    """The configuration that the flags describe, of the system that the records are of."""
    given = {
        field: FLAGS[flag].value for flag, field in _FIELDS.items() if FLAGS[flag].value is not None
    }
    return settings.configuration(FLAGS, given, settings.fields_of(dataset))


def run() -> int:
    """Runs the command; returns the exit status."""
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the folder of the run, none given")
    if FLAGS.skip_damaged and not FLAGS.data:
        raise config_lib.ConfigError("--skip_damaged: goes with --data; none given")
    dataset = _dataset(pathlib.Path(FLAGS.data)) if FLAGS.data else None
    config = configuration(dataset)
    from ris_jax.reports import figures
    from ris_jax.training import loop

    workdir = pathlib.Path(FLAGS.workdir)
    began = time.monotonic()
    loop.train(config, workdir, dataset)
    path = figures.save_loss_curves(workdir)
    print(f"done in {time.monotonic() - began:.0f} s; loss curves: {path}")
    return 0


def _dataset(folder: pathlib.Path) -> "Dataset":
    """The records, all of them checked."""
    from ris_jax.data import record_dataset, records

    total = records.require_index(folder).num_bytes
    with settings.progress(total, "checking records", "B") as progress:
        dataset = record_dataset.open_dataset(
            folder, skip_damaged=FLAGS.skip_damaged, progress=progress
        )
    for problem in dataset.skipped:
        print(f"skipped: {problem}", file=sys.stderr)
    counts = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    print(f"{folder}: {counts} scenes; {len(dataset.skipped)} damaged shards skipped", flush=True)
    return dataset
