"""Rate of a run and its remaining time, from the times of its microbatches."""

import datetime
import time
from collections.abc import Callable

from ris_jax import config as config_lib

_SECONDS_BETWEEN_LINES = 10.0


class RunClock:
    """Clock of a training loop. Call `begin` before each epoch and `add` after microbatches.

    The first microbatches of a process are not timed, because they may include compilation.
    """

    def __init__(
        self, training: config_lib.TrainingConfig, clock: Callable[[], float] = time.monotonic
    ):
        """Start with `training`, a run's; `clock` returns seconds."""
        self._training, self._clock = training, clock
        self._mark: float | None = None  # time of the last microbatch; None: nothing is timed yet
        self._seconds, self._timed = 0.0, 0  # of timed microbatches
        self._pause_seconds, self._pauses = 0.0, 0  # validation and checkpoint between two epochs
        self._last_line: float | None = None

    def begin(self) -> None:
        """Begin an epoch: the time since the last microbatch was a pause."""
        if self._mark is not None:
            now = self._clock()
            self._pause_seconds += now - self._mark
            self._pauses += 1
            self._mark = now

    def add(self, microbatches: int) -> None:
        """Count microbatches that are finished now."""
        now = self._clock()
        if self._mark is not None:
            self._seconds, self._timed = (
                self._seconds + now - self._mark,
                self._timed + microbatches,
            )
        self._mark = now

    def due(self) -> bool:
        """Return whether it is time for another line; True about every ten seconds."""
        now = self._clock()
        if self._last_line is not None and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def line(self, done: int, loss: float) -> str:
        """Describe the run after `done` microbatches: step, loss, rate and remaining time.

        Rate and remaining time are omitted until they are known.
        """
        training = self._training
        total = training.epochs * training.steps_per_epoch
        epoch = -(-done // training.steps_per_epoch)
        text = f"epoch {epoch}, step {done} of {total}: loss {loss:.4f}"
        if not self._timed or not self._seconds:
            return text
        rate = self._timed / self._seconds
        left = (total - done) / rate + (training.epochs - epoch) * self._pause()
        remaining = datetime.timedelta(seconds=round(left))
        return f"{text}, {rate * training.batch_size:.0f} scenes/s, {remaining} left"

    def _pause(self) -> float:
        return self._pause_seconds / self._pauses if self._pauses else 0.0
