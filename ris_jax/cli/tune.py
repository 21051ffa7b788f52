"""Searches for the best hyper-parameters: many runs of `train`, by any number of workers.

Example:
  ris-jax tune --workdir=runs/tune --trials=20 --set=training.epochs=2
  ris-jax train --workdir=runs/best --config=runs/tune/best.json

Give the same command again to go on, or at the same time for another worker; --trials counts those
of all. A worker may be killed at any time: what it was training goes on from its last checkpoint,
by whoever is there; after SIGTERM or Ctrl-C from the very microbatch. For workers on several
machines give a PostgreSQL server:
  ris-jax tune --workdir=runs/tune --storage=postgresql://user:password@host/database

Trials that do worse than the median at the same epoch are ended early. --space names a JSON file of
other fields and ranges than the table in ris_jax/tuning/space.py:
  {"optimizer.learning_rate": {"low": 0.003, "high": 0.1, "log": true},
   "model.depth": {"low": 1, "high": 6}, "model.width": {"choices": [32, 64]}}

Writes trials/NUMBER/ (a run each), trials.csv and best.json into the work directory, and study.db
where no other storage is given. It begins only where a small network learns 32 scenes by heart, as
`ris-jax doctor` checks.
"""

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import settings

if TYPE_CHECKING:
    from sqlalchemy import URL

    from ris_jax.tuning.plan import Plan

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of the search", flag_values=FLAGS)
flags.DEFINE_string(
    "storage", None, "URL of the database; the default is study.db in --workdir", flag_values=FLAGS
)
flags.DEFINE_string("study", "ris_jax", "name of the search in the storage", flag_values=FLAGS)
flags.DEFINE_string("space", None, "JSON file of fields and ranges", flag_values=FLAGS)
flags.DEFINE_integer(
    "trials", 20, "trials of the search, by all workers", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string(
    "objective", "val_nmse", "val_nmse, val_loss or val_count_accuracy", flag_values=FLAGS
)
flags.DEFINE_string("pruner", "median", "median or none", flag_values=FLAGS)
flags.DEFINE_integer(
    "prune_after", 1, "epochs that every trial gets", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
    "startup_trials", 5, "drawn at random, and not pruned", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "heartbeat", 30, "seconds between signs of life of a trial; without four of them it is "
    "begun again", lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "retries", 3, "of a trial whose worker is lost", lower_bound=0, flag_values=FLAGS
)
settings.define(FLAGS)
settings.define_config(FLAGS)

_GATE_NAME = "gate.json"


COMPILES = "about 40 s, once for trials that differ in learning rates and loss weights"


def _plan() -> "Plan":
    """The search that the flags describe."""
    base = settings.configuration(FLAGS, {})
    from ris_jax.tuning import space

    table = space.read(pathlib.Path(FLAGS.space)) if FLAGS.space else space.DEFAULT
    try:
        from ris_jax.tuning import plan
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise config_lib.ConfigError(
            "tune: Optuna is not installed: pip install 'ris-jax[tune]'"
        ) from error
    return plan.Plan(
        base=base,
        space=table,
        study=FLAGS.study,
        objective=FLAGS.objective,
        pruner=FLAGS.pruner,
        prune_after=FLAGS.prune_after,
        startup_trials=FLAGS.startup_trials,
        heartbeat=FLAGS.heartbeat,
    )


def _installation() -> str:
    """A hash of the package's sources, of what it computes with, and of the machine."""
    from ris_jax.reports import provenance

    root = pathlib.Path(config_lib.__file__).parent
    digest = hashlib.sha256(json.dumps([provenance.versions(), provenance.machine()]).encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_gate(workdir: pathlib.Path) -> None:
    """A small network learns a few scenes by heart; what cannot do that is not worth tuning.

    Checked once for an installation: what passed is remembered in the folder.

    Raises:
      RunError: it does not.
    """
    from ris_jax import errors
    from ris_jax.cli import checks
    from ris_jax.data import files

    installation, memory = _installation(), workdir / _GATE_NAME
    try:
        if json.loads(memory.read_text()) == {"passed": installation}:
            return
    except (OSError, ValueError):
        pass
    print("does a small network learn 32 scenes by heart? (once for an installation)", flush=True)
    for what, holds, measured in checks.learning(checks.small_config(0)):
        if not holds:
            raise errors.RunError(
                f"nothing is tuned, for training itself fails: {what}: {measured}; "
                "`ris-jax doctor` checks more"
            )
        print(f"ok    {what}: {measured}", flush=True)
    workdir.mkdir(parents=True, exist_ok=True)
    with files.replacing(memory) as partial:
        partial.write_text(json.dumps({"passed": installation}))


def _url() -> "URL":
    """The storage that the flags name."""
    from ris_jax.tuning import storage

    default = f"sqlite:///{pathlib.Path(FLAGS.workdir).resolve() / 'study.db'}"
    return storage.parse_url(FLAGS.storage or default)


def announcement() -> str:
    """Checks the flags that need no JAX; returns the first line to print."""
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the folder of the search, none given")
    _plan()
    _url()
    return f"tuning in {FLAGS.workdir}: {FLAGS.trials} trials"


def run() -> int:
    """Runs the command; returns the exit status."""
    workdir, plan, url = pathlib.Path(FLAGS.workdir), _plan(), _url()
    from ris_jax.tuning import search, storage

    check_gate(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with storage.opened(url, plan) as study:
        search.check_folder(study, workdir)
        print(f"study {plan.study!r} in {storage.shown(url)}", flush=True)
        found = search.work(study, plan, workdir, count=FLAGS.trials, retries=FLAGS.retries)
        search.write_results(study, plan, workdir, found)
        best = search.require_best(study, found)
    print(f"{search.describe_best(study, plan, found)}; written: {workdir / search.TABLE_NAME}")
    print(f"train it: ris-jax train --workdir=DIR --config={workdir / search.BEST_NAME} "
          f"(trial {best.number} is that run)")  # fmt: skip
    return 0
