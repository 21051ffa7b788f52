"""One trial: a training run in its own directory, reported to the storage after every epoch."""

import pathlib
from typing import Any

import jax
import optuna

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.networks import architectures
from ris_jax.training import loop
from ris_jax.training.saving import metrics_log
from ris_jax.tuning import search_plan as search_plan_lib
from ris_jax.tuning import space as space_lib

FOLDER = "trials"
_MOST_PROGRAMS = 4  # kept compiled at a time; a process has room for dozens


class Failed(Exception):
    """The configuration of a trial cannot be trained, for the reason in the message."""


def folder(workdir: pathlib.Path, number: int) -> pathlib.Path:
    """Return the directory of the run of a place."""
    return workdir / FOLDER / f"{number:04d}"


def _program(config: config_lib.Config) -> tuple[config_lib.Config, int]:
    """Return the key of a trial's compiled programs; trials with equal keys compile once."""
    return architectures.program_config(config), config.training.batch_size


_programs: set[tuple[config_lib.Config, int]] = set()  # compiled in this process


def _make_room(config: config_lib.Config) -> None:
    """Drop all compiled programs if a process would hold those of too many configurations."""
    program = _program(config)
    if program not in _programs and len(_programs) >= _MOST_PROGRAMS:
        jax.clear_caches()
        _programs.clear()
    _programs.add(program)


class _Reports:
    """Report each epoch to the storage once, in order, after its row and checkpoint are on disk."""

    def __init__(self, trial: optuna.Trial, plan: search_plan_lib.SearchPlan, path: pathlib.Path):
        self._trial, self._plan, self._path = trial, plan, path
        self._epochs = 0  # already reported

    def __call__(self) -> None:
        """Report the new epochs.

        Raises:
          TrialPruned: the trial is pruned.
        """
        for row in metrics_log.epoch_rows(self._path):
            if row["epoch"] <= self._epochs:
                continue
            self._epochs, value = row["epoch"], row.get(self._plan.objective)
            if value is None:  # not finite
                continue
            self._trial.report(value, self._epochs)
            if self._epochs < self._plan.base.training.epochs and self._trial.should_prune():
                raise optuna.TrialPruned


def _value(plan: search_plan_lib.SearchPlan, rows: list[dict[str, Any]]) -> float:
    """Return the objective at the epoch whose network `evaluate` uses."""
    usable = [row for row in rows if None not in (row.get("val_nmse"), row.get(plan.objective))]
    if not usable:
        raise Failed(f"no epoch has a finite {plan.objective}")
    return min(usable, key=lambda row: row["val_nmse"])[plan.objective]


def _in_words(values: dict[str, Any]) -> str:
    numbers = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in values.items()}
    return " ".join(f"{name}={value}" for name, value in numbers.items())


def run(
    trial: optuna.Trial, plan: search_plan_lib.SearchPlan, number: int, workdir: pathlib.Path
) -> float:
    """Train a trial; resume from the newest checkpoint if an earlier attempt has left one.

    Args:
      trial: of the study, running.
      plan: of the search.
      number: of its place, which names the directory.
      workdir: of the search.

    Returns:
      The objective.

    Raises:
      TrialPruned: the trial is pruned.
      Failed: its configuration cannot be trained.
      RunError: the run cannot be read or written, which is no fault of the configuration.
    """
    trial.study.sampler = plan.make_sampler(number)
    values = space_lib.sample(plan.space, trial)
    print(f"trial {number}: {_in_words(values)}", flush=True)
    try:
        config = plan.configuration(values)
    except config_lib.ConfigError as error:
        raise Failed(str(error)) from error
    path = folder(workdir, number)
    report = _Reports(trial, plan, path)
    report()  # epochs of an earlier attempt; its worker may have died before reporting them
    _make_room(config)
    try:
        # A worker that counts as dead may only have been suspended, and still train there.
        loop.train(config, path, after_epoch=report, wait=True)
    except (errors.TrainingLostError, errors.OutOfMemoryError) as error:
        raise Failed(str(error)) from error
    report()
    return _value(plan, metrics_log.epoch_rows(path))
