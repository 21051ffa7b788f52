"""Extension of a run by more epochs."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp

from ris_jax import config as config_lib
from ris_jax.training import optimizer
from ris_jax.training.processes import distributed
from ris_jax.training.saving import checkpoint


class Extension(NamedTuple):
    """A run before and after its extension; the configurations differ in the epochs only."""

    before: config_lib.Config
    after: config_lib.Config

    def line(self, done: int) -> str:
        """Describe the extension after `done` microbatches: epochs and learning rate."""
        old, new = (_learning_rate(config, done) for config in self)
        return (
            f"extending the run from {self.before.training.epochs} to "
            f"{self.after.training.epochs} epochs: the learning rate changes from {old:.2e} to "
            f"{new:.2e}, the value of the longer schedule at this step"
        )


def _learning_rate(config: config_lib.Config, done: int) -> float:
    """Return the learning rate of the backbone after a number of microbatches."""
    per_epoch = config.total_updates // config.training.epochs
    epochs, rest = divmod(done, config.training.steps_per_epoch)
    updates = epochs * per_epoch + rest // config.optimizer.accumulation
    hyper = optimizer.hyperparameters(config.optimizer, config.total_updates)
    return float(optimizer.learning_rate(hyper, "backbone", jnp.asarray(updates)))


def extend(config: config_lib.Config, workdir: pathlib.Path) -> Extension | None:
    """Store a larger number of epochs in a locked work directory; all processes call this.

    Args:
      config: the run, equal to that of the directory but for the epochs.
      workdir: its work directory.

    Returns:
      None if the number of epochs is the same.

    Raises:
      ConfigError: the run in the directory has more epochs.
    """
    stored = checkpoint.load_config(workdir) or config
    before, after = stored.training.epochs, config.training.epochs
    if before > after:
        raise config_lib.ConfigError(
            f"{workdir}: need the {before} epochs of the run in it, or more (--epochs); got {after}"
        )
    distributed.wait("epochs read")
    if before == after:
        return None
    if distributed.is_first():
        checkpoint.save_config(workdir, config)
    return Extension(stored, config)
