"""The checkpoints of a run: one an epoch, and one within an epoch where a signal ended it.

What is within an epoch has a folder of its own, `interrupted`, and is named by its microbatch. It
goes as soon as an epoch's checkpoint has come further; the best and the newest never depend on it.
"""

import pathlib
import shutil
from typing import Any

from ris_jax import config as config_lib
from ris_jax.training import checkpoint, processes
from ris_jax.training import state as state_lib

EPOCHS, WITHIN = "checkpoints", "interrupted"


def any_in(workdir: pathlib.Path) -> bool:
    """Whether a folder has a checkpoint, or what is left of one."""
    return any(any((workdir / name).glob("*")) for name in (EPOCHS, WITHIN))


class Saves:
    """Writes a run's checkpoints, and finds the newest one of either kind."""

    def __init__(self, workdir: pathlib.Path, training: config_lib.TrainingConfig):
        """Opens them; of several processes all must do this, and everything else here, at once."""
        self._workdir, self._steps_per_epoch = workdir, training.steps_per_epoch
        self._epochs = checkpoint.Checkpoints(workdir, training.keep_checkpoints)

    def _within(self) -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(self._workdir, 1, folder=WITHIN, unit="microbatch")

    def restore_newest(
        self, template: state_lib.TrainState
    ) -> tuple[checkpoint.Restored | None, list[str]]:
        """The newest checkpoint that is whole, and a warning for each one passed over.

        Raises:
          ConfigError, RunError: as `checkpoint.Checkpoints.restore_newest`.
        """
        warnings = []
        if processes.agreed((self._workdir / WITHIN).is_dir()):
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
        """Writes a finished epoch's checkpoint; what was within an epoch is superseded.

        Raises:
          RunError: as `checkpoint.Checkpoints.save`.
        """
        self._epochs.save(state, epoch, progress, val_nmse)
        self._drop_within()

    def save_within(
        self, state: state_lib.TrainState, microbatch: int, progress: dict[str, Any]
    ) -> None:
        """Writes a checkpoint between two microbatches of the run, unless there is one.

        Raises:
          RunError: as `checkpoint.Checkpoints.save`.
        """
        if microbatch == self._epochs.newest() * self._steps_per_epoch:
            return
        within = self._within()
        if within.newest() < microbatch:
            within.save(state, microbatch, progress, float("inf"))

    def _drop_within(self) -> None:
        """Removes it; nobody may read what is half removed."""
        if processes.is_first() and (self._workdir / WITHIN).is_dir():
            for manifest in (self._workdir / WITHIN).glob("*.json"):
                manifest.unlink(missing_ok=True)
            shutil.rmtree(self._workdir / WITHIN, ignore_errors=True)
