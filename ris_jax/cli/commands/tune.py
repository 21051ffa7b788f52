"""Search for the best hyper-parameters: many runs of `train`, by any number of workers.

Example:
  ris-jax tune --workdir=runs/tune --trials=20 --set=training.epochs=2
  ris-jax train --workdir=runs/best --config=runs/tune/best.json

The same command resumes a search, or starts another worker at the same time; --trials is the total
of all workers. A worker may be killed at any time: any other worker resumes its trial from the last
checkpoint, after SIGTERM or Ctrl-C from the very microbatch. For workers on several machines, use a
PostgreSQL server:
  ris-jax tune --workdir=runs/tune --storage=postgresql://user:password@host/database

Trials that are worse than the median at the same epoch are ended early. --space is a JSON file with
fields and ranges that replace the table in ris_jax/tuning/space.py:
  {"optimizer.learning_rate": {"low": 0.003, "high": 0.1, "log": true},
   "model.depth": {"low": 1, "high": 6}, "model.width": {"choices": [32, 64]}}

Writes trials/NUMBER/ (one run each), trials.csv and best.json into the work directory, and study.db
if no other storage is given. The search starts only if a small network can overfit 32 scenes, as
`ris-jax doctor` checks.
"""

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

if TYPE_CHECKING:
    from sqlalchemy import URL

    from ris_jax.tuning.search_plan import SearchPlan

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "directory of the search", flag_values=FLAGS)
flags.DEFINE_string(
    "storage", None, "URL of the database; default: study.db in --workdir", flag_values=FLAGS
)
flags.DEFINE_string("study", "ris_jax", "name of the search in the storage", flag_values=FLAGS)
flags.DEFINE_string("space", None, "JSON file of fields and ranges", flag_values=FLAGS)
flags.DEFINE_integer(
    "trials", 20, "trials of the search, over all workers", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string(
    "objective", "val_nmse", "val_nmse, val_loss or val_count_accuracy", flag_values=FLAGS
)
flags.DEFINE_string("pruner", "median", "median or none", flag_values=FLAGS)
flags.DEFINE_integer(
    "prune_after", 1, "epochs that every trial runs", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
    "startup_trials", 5, "trials drawn at random, never pruned", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "heartbeat", 30, "seconds between heartbeats of a trial; it is restarted after four missed "
    "ones", lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "retries", 3, "of a trial whose worker is lost", lower_bound=0, flag_values=FLAGS
)
common_flags.define(FLAGS)
common_flags.define_config(FLAGS)

_GATE_NAME = "gate.json"


COMPILES = "about 40 s, once for trials that differ in learning rates and loss weights"


def _plan() -> "SearchPlan":
    """Return the search that the flags describe."""
    base = common_flags.configuration(FLAGS, {})
    from ris_jax.tuning import space

    table = space.read(pathlib.Path(FLAGS.space)) if FLAGS.space else space.DEFAULT
    try:
        from ris_jax.tuning import search_plan
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise config_lib.ConfigError(
            "tune: Optuna is not installed: pip install 'ris-jax[tune]'"
        ) from error
    return search_plan.SearchPlan(
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
    """Return a hash of the package's sources, its numerical dependencies and the machine."""
    from ris_jax.reports import provenance

    root = pathlib.Path(config_lib.__file__).parent
    digest = hashlib.sha256(json.dumps([provenance.versions(), provenance.machine()]).encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_gate(workdir: pathlib.Path) -> None:
    """Check that a small network overfits a few scenes; tuning is useless otherwise.

    The check runs once per installation: the result is stored in the directory.

    Raises:
      RunError: it does not.
    """
    from ris_jax import errors, files
    from ris_jax.cli import doctor_checks

    installation, memory = _installation(), workdir / _GATE_NAME
    try:
        if json.loads(memory.read_text()) == {"passed": installation}:
            return
    except (OSError, ValueError):
        pass
    print("check: a small network overfits 32 scenes (once per installation)", flush=True)
    for what, holds, measured in doctor_checks.learning(doctor_checks.small_config(0)):
        if not holds:
            raise errors.RunError(
                f"the search does not start because training fails: {what}: {measured}; "
                "`ris-jax doctor` checks more"
            )
        print(f"ok    {what}: {measured}", flush=True)
    workdir.mkdir(parents=True, exist_ok=True)
    with files.replacing(memory) as partial:
        partial.write_text(json.dumps({"passed": installation}))


def _url() -> "URL":
    """Return the storage of the flags."""
    from ris_jax.tuning import storage

    default = f"sqlite:///{pathlib.Path(FLAGS.workdir).resolve() / 'study.db'}"
    return storage.parse_url(FLAGS.storage or default)


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the directory of the search, none given")
    _plan()
    _url()
    return f"tuning in {FLAGS.workdir}: {FLAGS.trials} trials"


def run() -> int:
    """Run the command; return the exit status."""
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
