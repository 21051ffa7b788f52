"""Progress of a run and sums over its microbatches; saved with every checkpoint."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import dacite

from ris_jax import config as config_lib


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts and sums over microbatches."""

    microbatches: int = 0
    finite: int = 0
    updates: int = 0
    loss: float | None = 0.0  # over finite microbatches; None: a value was not finite
    nmse: float | None = 0.0  # as `loss`

    def plus(self, metrics: Mapping[str, Any]) -> "Tally":
        """Add one microbatch; a skipped one is counted without its loss."""
        counted = dataclasses.replace(
            self,
            microbatches=self.microbatches + 1,
            finite=self.finite + bool(metrics["finite"]),
            updates=self.updates + bool(metrics["update_applied"]),
        )
        if not metrics["finite"]:
            return counted
        return dataclasses.replace(
            counted,
            loss=_added(self.loss, metrics["loss"]),
            nmse=_added(self.nmse, metrics["nmse"]),
        )

    @property
    def mean_loss(self) -> float:
        """Return the mean loss of the finite microbatches; NaN without any."""
        return self._mean(self.loss)

    def epoch_row(self) -> dict[str, Any]:
        """Return the training fields of an epoch's row."""
        return {
            "train_loss": self._mean(self.loss),
            "train_nmse": self._mean(self.nmse),
            "microbatches": self.microbatches,
            "updates": self.updates,
            "skipped": self.microbatches - self.finite,
        }

    def _mean(self, total: float | None) -> float:
        return math.nan if total is None or not self.finite else total / self.finite


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of the loop; saved with every checkpoint."""

    epoch: int = 0  # finished epochs
    best_epoch: int = 0
    best_val_nmse: float = math.inf
    data: dict[str, Any] | None = None  # position in the records; None: simulated scenes
    so_far: Tally = Tally()  # microbatches of the unfinished epoch
    window: Tally = Tally()  # those not yet in a row of metrics.jsonl

    def plus(self, metrics: dict[str, Any]) -> "Progress":
        """Return the progress after one more microbatch."""
        both = {"so_far": self.so_far.plus(metrics), "window": self.window.plus(metrics)}
        return dataclasses.replace(self, **both)

    def after(self, epoch: int, val_nmse: float, data: dict[str, Any] | None) -> "Progress":
        """Return the progress after `epoch` with its `val_nmse`; the next scenes are at `data`."""
        if val_nmse < self.best_val_nmse:
            return Progress(epoch, epoch, val_nmse, data)
        return Progress(epoch, self.best_epoch, self.best_val_nmse, data)

    def at(self, data: dict[str, Any] | None) -> "Progress":
        """Return the progress with another position in the records."""
        return dataclasses.replace(self, data=data)

    def microbatches(self, training: config_lib.TrainingConfig) -> int:
        """Return the number of finished microbatches of the run."""
        return self.epoch * training.steps_per_epoch + self.so_far.microbatches

    def place(self, training: config_lib.TrainingConfig) -> str:
        """Describe it: ``epoch 3 of 8``, ``microbatch 17 of 50 in epoch 4 of 8``."""
        if self.so_far.microbatches == 0:
            return f"epoch {self.epoch} of {training.epochs}"
        return (
            f"microbatch {self.so_far.microbatches} of {training.steps_per_epoch} in epoch "
            f"{self.epoch + 1} of {training.epochs}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` restores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Progress":
        """Restore the progress from the values of `to_json`.

        Raises:
          ValueError: the values are invalid.
        """
        try:
            return dacite.from_dict(
                cls, values, dacite.Config(strict=True, type_hooks={float: _number})
            )
        # dacite passes on any exception of an invalid object or number.
        except (dacite.DaciteError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(str(error)) from error


def _added(total: float | None, value: float) -> float | None:
    return None if total is None or not math.isfinite(value) else total + value


def _number(value: Any) -> Any:
    """Convert a sum of an earlier version, ``3/8``, to a float; return other values unchanged."""
    if not isinstance(value, str):
        return value
    numerator, _, denominator = value.partition("/")
    return int(numerator) / int(denominator or 1)
