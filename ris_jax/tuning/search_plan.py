"""Settings that all workers of a search share; kept in the storage."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning

from ris_jax import config as config_lib
from ris_jax.tuning import space as space_lib

Objective = Literal["val_nmse", "val_loss", "val_count_accuracy"]
Pruner = Literal["median", "none"]


def in_present_terms(stored: dict[str, Any]) -> dict[str, Any]:
    """Return `SearchPlan.to_dict` of an earlier version in the present format, if readable."""
    try:
        base = config_lib.from_stored(stored["base"])
    except (KeyError, config_lib.ConfigError):
        return stored
    return stored | {"base": config_lib.to_stored(base)}


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """Settings of a search."""

    base: config_lib.Config
    space: space_lib.Space
    study: str = "ris_jax"
    objective: Objective = (
        "val_nmse"  # at the epoch with the lowest val_nmse, whose network is kept
    )
    pruner: Pruner = "median"
    prune_after: int = 1  # epochs that every trial runs
    startup_trials: int = 5  # drawn at random and never pruned
    heartbeat: int = 30  # [s] between heartbeats of a trial

    def __post_init__(self):
        for name, allowed in (("objective", Objective), ("pruner", Pruner)):
            if getattr(self, name) not in get_args(allowed):
                known, got = ", ".join(get_args(allowed)), getattr(self, name)
                raise config_lib.ConfigError(f"--{name}: need one of {known}; got {got!r}")
        weights = sorted(name for name in self.space if name.startswith("loss."))
        if self.objective == "val_loss" and weights:
            raise config_lib.ConfigError(
                f"--objective: val_loss cannot be compared between trials with different "
                f"{', '.join(weights)}; need another objective, or a search space without them"
            )
        space_lib.check(self.space, self.base)

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Direction of improvement of the objective."""
        return "maximize" if self.objective == "val_count_accuracy" else "minimize"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["base"] = config_lib.to_stored(self.base)
        plain["space"] = space_lib.to_dict(self.space)
        return json.loads(json.dumps(plain))

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Create the pruner: it ends a trial that is worse than the median of earlier trials."""
        if self.pruner == "none":
            return optuna.pruners.NopPruner()
        return optuna.pruners.MedianPruner(
            n_startup_trials=self.startup_trials, n_warmup_steps=self.prune_after
        )

    def make_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Create the sampler of one place from the seed, the place's number and earlier trials.

        A sampler shared by all places would draw other values after a restart.
        """
        seed = int(np.random.SeedSequence((self.base.training.seed, number)).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=self.startup_trials,
                multivariate=False,
                constant_liar=True,  # avoid the values that other workers are trying
            )

    def configuration(self, values: Mapping[str, Any]) -> config_lib.Config:
        """Return the configuration of a trial.

        Raises:
          ConfigError: the values do not fit together.
        """
        return config_lib.override(self.base, dict(values))
