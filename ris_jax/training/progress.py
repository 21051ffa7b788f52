"""How far a run is, and what its microbatches add up to; saved with every checkpoint.

Sums are exact: no stop on the way changes the last bit of a mean.
"""

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import dacite

from ris_jax import config as config_lib


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts and sums over some microbatches. Sums are fractions, in which nothing is rounded."""

    microbatches: int = 0
    finite: int = 0
    updates: int = 0
    loss: Fraction | None = Fraction(0)  # over the finite ones; None: a value was not finite
    nmse: Fraction | None = Fraction(0)  # likewise

    def plus(self, metrics: Mapping[str, Any]) -> "Tally":
        """With one microbatch more; a skipped one counts, and its loss does not."""
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
        """Of the finite microbatches; NaN where there are none."""
        return self._mean(self.loss)

    def epoch_row(self) -> dict[str, Any]:
        """What an epoch's row says of its training scenes."""
        return {
            "train_loss": self._mean(self.loss),
            "train_nmse": self._mean(self.nmse),
            "microbatches": self.microbatches,
            "updates": self.updates,
            "skipped": self.microbatches - self.finite,
        }

    def _mean(self, total: Fraction | None) -> float:
        return math.nan if total is None or not self.finite else float(total) / self.finite

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which `Progress.from_json` makes the same tally."""
        sums = {name: getattr(self, name) for name in ("loss", "nmse")}
        return dataclasses.asdict(self) | {
            name: None if total is None else str(total) for name, total in sums.items()
        }


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows of the run so far; saved with every checkpoint."""

    epoch: int = 0  # finished ones
    best_epoch: int = 0
    best_val_nmse: float = math.inf
    data: dict[str, Any] | None = None  # where in the records; None: scenes are simulated
    so_far: Tally = Tally()  # the microbatches of the epoch that is not finished
    window: Tally = Tally()  # those of them that no row of metrics.jsonl tells of yet

    def plus(self, metrics: dict[str, Any]) -> "Progress":
        """The progress after one microbatch more."""
        both = {"so_far": self.so_far.plus(metrics), "window": self.window.plus(metrics)}
        return dataclasses.replace(self, **both)

    def after(self, epoch: int, val_nmse: float, data: dict[str, Any] | None) -> "Progress":
        """The progress once `epoch` has ended with `val_nmse`, the next scenes being at `data`."""
        if val_nmse < self.best_val_nmse:
            return Progress(epoch, epoch, val_nmse, data)
        return Progress(epoch, self.best_epoch, self.best_val_nmse, data)

    def at(self, data: dict[str, Any] | None) -> "Progress":
        """With the place in the records."""
        return dataclasses.replace(self, data=data)

    def microbatches(self, training: config_lib.TrainingConfig) -> int:
        """How many the run has behind it."""
        return self.epoch * training.steps_per_epoch + self.so_far.microbatches

    def place(self, training: config_lib.TrainingConfig) -> str:
        """In words: ``epoch 3 of 8``, ``microbatch 17 of 50 in epoch 4 of 8``."""
        if self.so_far.microbatches == 0:
            return f"epoch {self.epoch} of {training.epochs}"
        return (
            f"microbatch {self.so_far.microbatches} of {training.steps_per_epoch} in epoch "
            f"{self.epoch + 1} of {training.epochs}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which `from_json` makes the same progress."""
        tallies = {name: getattr(self, name).to_json() for name in ("so_far", "window")}
        return dataclasses.asdict(self) | tallies

    @classmethod
    def from_json(cls, values: Any) -> "Progress":
        """The progress of `to_json`.

        Raises:
          ValueError: these are other values.
        """
        try:
            return dacite.from_dict(
                cls, values, dacite.Config(strict=True, type_hooks={Fraction: Fraction})
            )
        # dacite lets out what a value that is no object, or no fraction, makes of it.
        except (dacite.DaciteError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(str(error)) from error


def _added(total: Fraction | None, value: float) -> Fraction | None:
    return None if total is None or not math.isfinite(value) else total + Fraction(value)
