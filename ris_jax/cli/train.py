"""Trains a network on simulated scenes or on records, from the newest good checkpoint on.

Example:
  ris-jax train --workdir=runs/quickstart
  ris-jax train --workdir=runs/wide --preset=reference --set=model.width=192 --dropout=0.1
  ris-jax train --workdir=runs/stored --data=records
  ris-jax train --workdir=runs/best --config=runs/tune/best.json

Writes config.json, metrics.jsonl, tensorboard/, checkpoints/ and figures/ into the work directory.
The same command, given again, goes on where it stopped, bit for bit. Records (`simulate`, `import`)
say what the system is; all of them are checked before the first step.

All devices that JAX sees share every microbatch. Several processes, on one machine or on several
with a common work directory, each get the same command; of SLURM, Kubernetes, Open MPI, Cloud TPU
it is known who they are, elsewhere one says it:
  ris-jax train --workdir=runs/wide --distributed
  ris-jax train --workdir=runs/wide --coordinator=host0:5000 --num_processes=2 --process_id=0
"""

import contextlib
import os
import pathlib
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
settings.define_skip_damaged(FLAGS)
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
flags.DEFINE_bool(
    "distributed", False, "join the processes of a job that a cluster's manager has started",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string("coordinator", None, "host:port of the first process", flag_values=FLAGS)
flags.DEFINE_integer("num_processes", None, "processes of the run", flag_values=FLAGS)
flags.DEFINE_integer("process_id", None, "which of them this is, from 0", flag_values=FLAGS)
flags.DEFINE_bool(
    "shard_optimizer", False, "share the optimizer's state out among the devices",
    flag_values=FLAGS,
)  # fmt: skip

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
    settings.require_data(FLAGS)
    with _together():
        # The processes that share the run must be joined before anything asks for devices.
        dataset = settings.dataset(FLAGS) if FLAGS.data else None
        _train(configuration(dataset), pathlib.Path(FLAGS.workdir), dataset)
    return 0


def _train(config: config_lib.Config, workdir: pathlib.Path, dataset: "Dataset | None") -> None:
    from ris_jax.reports import figures
    from ris_jax.training import devices, loop, processes

    began = time.monotonic()
    placement = devices.all_devices(shard_optimizer=FLAGS.shard_optimizer)
    loop.train(config, workdir, dataset, placement=placement)
    if processes.is_first():
        path = figures.save_loss_curves(workdir)
        print(f"done in {time.monotonic() - began:.0f} s; loss curves: {path}")


def _together() -> contextlib.AbstractContextManager[None]:
    """The processes that the flags speak of, joined; nothing where they speak of none."""
    who = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if not FLAGS.distributed and who == (None, None, None):
        return contextlib.nullcontext()
    # The service between the processes tells of a lost one in pages; before JAX is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from ris_jax.training import processes

    return processes.joined(*who)
