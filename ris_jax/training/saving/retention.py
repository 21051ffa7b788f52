"""Retention of checkpoints: one per epoch, and one within an epoch after a signal.

A checkpoint within an epoch has its own directory, `interrupted`, and is numbered by its
microbatch. It is removed once an epoch's checkpoint has advanced further. The best and the newest
checkpoints never depend on it.
"""

import pathlib
import shutil
from typing import Any

from ris_jax import config as config_lib
from ris_jax.training import state as state_lib
from ris_jax.training.processes import distributed
from ris_jax.training.saving import checkpoint

EPOCHS, WITHIN = "checkpoints", "interrupted"


def any_in(workdir: pathlib.Path) -> bool:
    """Return whether a directory has a checkpoint, complete or partial."""
    return any(any((workdir / name).glob("*")) for name in (EPOCHS, WITHIN))


class RunCheckpoints:
    """Checkpoints of a run, of finished epochs and within an epoch."""

    def __init__(self, workdir: pathlib.Path, training: config_lib.TrainingConfig):
        """Open the checkpoints; every process must call each method together."""
        self._workdir, self._steps_per_epoch = workdir, training.steps_per_epoch
        self._epochs = checkpoint.Checkpoints(workdir, training.keep_checkpoints)

    def _within(self) -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(self._workdir, 1, folder=WITHIN, unit="microbatch")

    def restore_newest(
        self, template: state_lib.TrainState
    ) -> tuple[checkpoint.Restored | None, list[str]]:
        """Restore the newest intact checkpoint, with a warning for each damaged one.

        Raises:
          ConfigError, RunError: as `checkpoint.Checkpoints.restore_newest`.
        """
        warnings = []
        if distributed.agreed((self._workdir / WITHIN).is_dir()):
            within = self._within()
            if within.newest() > self._epochs.newest() * self._steps_per_epoch:
                restored, warnings = within.restore_newest(template)
                if restored is not None:
                    return restored, warnings
            self._drop_within()
        restored, more = self._epochs.restore_newest(template)
        return restored, [*warnings, *more]

    def save_epoch(
        self, state: state_lib.TrainState, epoch: int, progress: dict[str, Any], val_nmse: float
    ) -> None:
        """Write a finished epoch's checkpoint and drop the one within the epoch.

        Raises:
          RunError: as `checkpoint.Checkpoints.save`.
        """
        self._epochs.save(state, epoch, progress, val_nmse)
        self._drop_within()

    def save_within(
        self, state: state_lib.TrainState, microbatch: int, progress: dict[str, Any]
    ) -> None:
        """Write a checkpoint between two microbatches, unless it exists.

        Raises:
          RunError: as `checkpoint.Checkpoints.save`.
        """
        if microbatch == self._epochs.newest() * self._steps_per_epoch:
            return
        within = self._within()
        if within.newest() < microbatch:
            within.save(state, microbatch, progress, float("inf"))

    def _drop_within(self) -> None:
        """Remove the checkpoint within an epoch; no process reads it until removal is complete."""
        if distributed.is_first() and (self._workdir / WITHIN).is_dir():
            for manifest in (self._workdir / WITHIN).glob("*.json"):
                manifest.unlink(missing_ok=True)
            shutil.rmtree(self._workdir / WITHIN, ignore_errors=True)
