"""One trial: a run of the trainer in a folder of its own, told to the storage epoch by epoch."""

import pathlib
from typing import Any

import jax
import optuna

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training import loop, record
from ris_jax.training import state as state_lib
from ris_jax.tuning import accounts
from ris_jax.tuning import plan as plan_lib
from ris_jax.tuning import space as space_lib

FOLDER = "trials"
_MOST_PROGRAMS = 4  # whose compilations are kept at a time; a process has room for dozens


class Failed(Exception):
    """A trial whose configuration cannot be trained; that is a result. The message says why."""


def folder(workdir: pathlib.Path, number: int) -> pathlib.Path:
    """The run of a place of the search."""
    return workdir / FOLDER / f"{number:04d}"


def _program(config: config_lib.Config) -> tuple[config_lib.Config, int]:
    """What the programs of a trial are compiled for; trials that share it compile once."""
    return state_lib.program_config(config), config.training.batch_size


_programs: set[tuple[config_lib.Config, int]] = set()  # that JAX holds compiled in this process


def _make_room(config: config_lib.Config) -> None:
    """Drop all compiled programs when a process would hold those of too many configurations."""
    program = _program(config)
    if program not in _programs and len(_programs) >= _MOST_PROGRAMS:
        jax.clear_caches()
        _programs.clear()
    _programs.add(program)


class _Reports:
    """Tells the storage of every epoch once, in order, after its row and checkpoint are on disk."""

    def __init__(self, trial: optuna.Trial, plan: plan_lib.Plan, path: pathlib.Path):
        self._trial, self._plan, self._path = trial, plan, path
        self._epochs = 0  # that the storage knows of

    def __call__(self) -> None:
        """Reports the epochs that are new.

        Raises:
          TrialPruned: the trial is not worth more epochs.
        """
        for row in record.epoch_rows(self._path):
            if row["epoch"] <= self._epochs:
                continue
            self._epochs, value = row["epoch"], row.get(self._plan.objective)
            if value is None:  # not finite
                continue
            self._trial.report(value, self._epochs)
            if self._epochs < self._plan.base.training.epochs and self._trial.should_prune():
                raise optuna.TrialPruned


def _value(plan: plan_lib.Plan, rows: list[dict[str, Any]]) -> float:
    """The objective in the epoch whose network `evaluate` uses."""
    usable = [row for row in rows if None not in (row.get("val_nmse"), row.get(plan.objective))]
    if not usable:
        raise Failed(f"no epoch has a finite {plan.objective}")
    return min(usable, key=lambda row: row["val_nmse"])[plan.objective]


def _in_words(values: dict[str, Any]) -> str:
    numbers = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in values.items()}
    return " ".join(f"{name}={value}" for name, value in numbers.items())


def run(trial: optuna.Trial, plan: plan_lib.Plan, number: int, workdir: pathlib.Path) -> float:
    """Trains a trial, from its newest checkpoint if an earlier attempt has left one.

    Args:
      trial: of the study, running.
      plan: of the search.
      number: of its place, which names the folder.
      workdir: of the search.

    Returns:
      The objective.

    Raises:
      TrialPruned: it was not worth more epochs.
      Failed: its configuration cannot be trained.
      RunError: the run cannot be read or written; that says nothing about the configuration.
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
    report()  # what an earlier attempt has done; its worker may have died before telling
    _make_room(config)
    try:
        # A worker that was taken for dead may only have been asleep, and still train there.
        loop.train(config, path, after_epoch=report, wait=True)
    except (errors.TrainingLostError, errors.OutOfMemoryError) as error:
        raise Failed(str(error)) from error
    report()
    return _value(plan, record.epoch_rows(path))


def fail(trial: optuna.Trial, reason: str) -> None:
    """Marks a trial so that it counts as failed for a reason, and is not tried again."""
    trial.set_user_attr(accounts.FAILURE, reason)


def leave(trial: optuna.Trial) -> None:
    """Marks a trial whose worker is asked to stop; to begin it again is no retry."""
    trial.set_user_attr(accounts.LEFT, True)
