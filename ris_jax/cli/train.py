"""Trains a network on scenes simulated on the device, from the newest good checkpoint on.

Example:
  ris-jax train --workdir=runs/quickstart
  ris-jax train --workdir=runs/wide --preset=reference --set=model.width=192 --dropout=0.1
  ris-jax train --workdir=runs/best --config=runs/tune/best.json

Writes config.json, metrics.jsonl, tensorboard/, checkpoints/ and figures/ into the work directory.
The same command, given again, goes on where it stopped, bit for bit.
"""

import pathlib
import time

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import settings

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of the run", flag_values=FLAGS)
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


def configuration() -> config_lib.Config:
    """The configuration that the flags describe."""
    given = {
        field: FLAGS[flag].value for flag, field in _FIELDS.items() if FLAGS[flag].value is not None
    }
    return settings.configuration(FLAGS, given)


def run() -> int:
    """Runs the command; returns the exit status."""
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the folder of the run, none given")
    config = configuration()
    from ris_jax.reports import figures
    from ris_jax.training import loop

    workdir = pathlib.Path(FLAGS.workdir)
    began = time.monotonic()
    loop.train(config, workdir)
    path = figures.save_loss_curves(workdir)
    print(f"done in {time.monotonic() - began:.0f} s; loss curves: {path}")
    return 0
