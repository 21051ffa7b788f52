"""Signs of life: who trains a trial counts in the storage, and who sees no counting takes it over.

No clocks are compared: a trial is lost when its count has stood still for a while of the
observer's own monotonic clock. So it is found, too, when its worker died before the first sign,
and wrong clocks, or such as jump, do no harm.
"""

import threading
import time
from collections.abc import Callable, Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

BEAT = "beat"  # attribute of a trial
MISSED_BEATS = 4  # after which a trial is lost


class Pulse:
    """Counts in a trial while it is trained. Use as a context manager."""

    def __init__(self, trial: optuna.Trial, seconds: float):
        """Counts every so many seconds, from when the context is entered."""
        self._trial, self._seconds = trial, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        beat = 0
        while not self._ended.is_set():
            beat += 1
            try:
                self._trial.set_user_attr(BEAT, beat)
            except UpdateFinishedTrialError:
                return  # taken over; the next report to the storage says so, too
            except Exception as error:  # the storage is away: it may come back in time
                print(f"warning: no sign of life could be written: {type(error).__name__}")
            self._ended.wait(self._seconds)


class Watch:
    """What an observer has seen of other workers' trials."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic):
        """Calls a trial lost whose count stands still for `patience` seconds of `clock`."""
        self._patience, self._clock = patience, clock
        self._seen: dict[int, tuple[int, float]] = {}  # trial: its count, and since when

    def lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running trials whose workers give no sign of life."""
        now, running = self._clock(), [t for t in trials if t.state is TrialState.RUNNING]
        seen = {}
        for trial in running:
            beat = trial.user_attrs.get(BEAT, 0)
            before, since = self._seen.get(trial.number, (beat, now))
            seen[trial.number] = (beat, since if before == beat else now)
        self._seen = seen
        return [t for t in running if now - seen[t.number][1] > self._patience]
