"""Train a network on simulated scenes or on records; resume from the newest intact checkpoint.

Example:
  ris-jax train --workdir=runs/quickstart
  ris-jax train --workdir=runs/wide --preset=reference --set=model.width=192 --dropout=0.1
  ris-jax train --workdir=runs/stored --data=records
  ris-jax train --workdir=runs/best --config=runs/tune/best.json
  ris-jax train --workdir=runs/quickstart --epochs=4      (extends the first one)

Writes config.json, metrics.jsonl, run.log, tensorboard/, checkpoints/, figures/ and report.html
into the work directory. `tensorboard --logdir=DIR/tensorboard` shows the scalars and, ten times per
run, spectra, a map and the calibration of the number of sources. The page is written at the end
(`--nofigures`: no figures and no page). --profile reports the time of each part of an epoch and
writes a trace into profile/. The same command resumes an interrupted run, bit for bit. SIGTERM and
Ctrl-C end it after the current microbatch, with a checkpoint in interrupted/ (exit status 143 and
130). A run is extended by the same command with a larger --epochs; the learning rate then follows
the longer schedule. Progress lines have the step, the rate and the remaining time of the run.

Records (`simulate`, `import`) define the system; all are checked before the first step.

All devices that JAX finds share every microbatch. Several processes, on one machine or on several
with a common work directory, each get the same command. SLURM, Kubernetes, Open MPI and Cloud TPU
define the processes; elsewhere, give them:
  ris-jax train --workdir=runs/wide --distributed
  ris-jax train --workdir=runs/wide --coordinator=host0:5000 --num_processes=2 --process_id=0
"""

import contextlib
import dataclasses
import pathlib
import time
from typing import TYPE_CHECKING

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

if TYPE_CHECKING:
    from ris_jax.data.records.record_dataset import Dataset
    from ris_jax.training.callbacks import Callbacks
    from ris_jax.training.profiling import Profile

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "directory of the run", flag_values=FLAGS)
flags.DEFINE_string(
    "data", None, "directory of records; default: scenes are simulated", flag_values=FLAGS
)
common_flags.define_skip_damaged(FLAGS)
common_flags.define(FLAGS)
common_flags.define_config(FLAGS)
flags.DEFINE_integer(
    "epochs", None, "epochs; a larger number extends a finished run", flag_values=FLAGS
)
flags.DEFINE_integer("steps_per_epoch", None, "microbatches an epoch", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", None, "scenes a microbatch", flag_values=FLAGS)
flags.DEFINE_integer(
    "accumulation",
    None,
    "microbatches an update; the last update of an epoch is the mean of those left",
    flag_values=FLAGS,
)
flags.DEFINE_float("learning_rate", None, "peak rate of the backbone", flag_values=FLAGS)
flags.DEFINE_float("dropout", None, "dropout of the network", flag_values=FLAGS)
flags.DEFINE_integer("seed", None, "random seed", flag_values=FLAGS)
flags.DEFINE_string("compute_dtype", None, "float32 or bfloat16", flag_values=FLAGS)
flags.DEFINE_bool(
    "distributed", False, "join the processes of a job started by a cluster manager",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string("coordinator", None, "host:port of the first process", flag_values=FLAGS)
flags.DEFINE_integer("num_processes", None, "processes of the run", flag_values=FLAGS)
flags.DEFINE_integer("process_id", None, "number of this process, from 0", flag_values=FLAGS)
flags.DEFINE_bool(
    "shard_optimizer", False, "shard the optimizer's state over the devices",
    flag_values=FLAGS,
)  # fmt: skip

flags.DEFINE_bool(
    "figures", True, "draw figures for TensorBoard, and the report page at the end",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
    "profile", False, "report the time of each part, and trace some microbatches", flag_values=FLAGS
)

COMPILES = "about 40 s, once per configuration"

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
    """Return the configuration of the flags, with the system of the records."""
    given = {
        field: FLAGS[flag].value for flag, field in _FIELDS.items() if FLAGS[flag].value is not None
    }
    return common_flags.configuration(FLAGS, given, common_flags.fields_of(dataset))


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the directory of the run, none given")
    common_flags.require_data(FLAGS)
    if not FLAGS.data:
        configuration()
    return f"training in {FLAGS.workdir} on {FLAGS.data or 'simulated scenes'}"


def run() -> int:
    """Run the command; return the exit status."""
    with _together():
        # The processes of the run must be joined before the first use of a device.
        dataset = common_flags.dataset(FLAGS) if FLAGS.data else None
        _train(configuration(dataset), pathlib.Path(FLAGS.workdir), dataset)
    return 0


def _train(config: config_lib.Config, workdir: pathlib.Path, dataset: "Dataset | None") -> None:
    from ris_jax.training import loop
    from ris_jax.training.processes import devices, distributed

    began = time.monotonic()
    placement = devices.all_devices(shard_optimizer=FLAGS.shard_optimizer)
    profile = _profile(config, workdir)
    watching = _callbacks(config, profile)
    loop.train(config, workdir, dataset, placement=placement, watching=watching)
    seconds = f"done in {time.monotonic() - began:.0f} s"
    if profile is not None:
        _tell_profile(profile)
    if FLAGS.figures:
        from ris_jax.reports.run import run_page, training_curves

        # All processes score, one writes.
        report = run_page.gather(workdir, config, run_page.held_out(config, dataset, placement))
        if distributed.is_first():
            curves, path = training_curves.save_loss_curves(workdir), workdir / run_page.NAME
            run_page.write(report, path)
            print(f"{seconds}; report: {path}; loss curves: {curves}")
    elif distributed.is_first():
        print(seconds)


def _profile(config: config_lib.Config, workdir: pathlib.Path) -> "Profile | None":
    """Return the profiler, if requested."""
    if not FLAGS.profile:
        return None
    from ris_jax.training import profiling

    return profiling.Profile(workdir, config.training.log_every)


def _callbacks(config: config_lib.Config, profile: "Profile | None") -> "Callbacks":
    """Return the callbacks of the run."""
    from ris_jax.training import callbacks

    watching = callbacks.Callbacks()
    if profile is not None:
        watching = callbacks.Callbacks(timed=profile.timed, source=profile.source)
    if not FLAGS.figures:
        return watching
    from ris_jax.reports.run import run_figures

    return dataclasses.replace(watching, figures=run_figures.watcher(config))


def _tell_profile(profile: "Profile") -> None:
    """Print the profile and the path of the trace, in the first process."""
    from ris_jax.reports.run import profile_table
    from ris_jax.training.processes import distributed

    found = profile.finish()
    if not distributed.is_first():
        return
    if found is None:
        print("profile: no epoch was left to train, so nothing was measured")
        return
    print(profile_table.as_text(found))
    print(profile_table.how_to_look(profile.folder))


def _together() -> contextlib.AbstractContextManager[None]:
    """Join the processes that the flags describe; do nothing without such flags."""
    who = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if not FLAGS.distributed and who == (None, None, None):
        return contextlib.nullcontext()
    from ris_jax.training.processes import distributed

    return distributed.joined(*who)
