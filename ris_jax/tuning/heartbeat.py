"""Heartbeats: the worker of a trial increments a counter in the storage; others read it.

A trial is lost if its counter is constant for some time on the observer's own monotonic clock.
Optuna's own heartbeat and retry miss a worker that is killed before its first heartbeat or before
it queues a retry (`tests/tuning/optuna_heartbeat_test.py`).
"""

import threading
import time
from collections.abc import Callable, Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

BEAT = "beat"  # attribute of a trial
MISSED_BEATS = 4  # after which a trial is lost


class Heartbeat:
    """Heartbeat of a trial while it is trained. Use as a context manager."""

    def __init__(self, trial: optuna.Trial, seconds: float):
        """Start a heartbeat every `seconds` when the context is entered."""
        self._trial, self._seconds = trial, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Heartbeat":
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
                return  # taken over by another worker; the next report to the storage raises
            except Exception as error:  # storage unreachable: it may come back in time
                print(f"warning: the heartbeat could not be written: {type(error).__name__}")
            self._ended.wait(self._seconds)


class Watch:
    """Monitor of other workers' heartbeats."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic):
        """Treat a trial as lost if its counter is constant for `patience` seconds of `clock`."""
        self._patience, self._clock = patience, clock
        self._counters: dict[int, tuple[int, float]] = {}  # trial: counter, time of its last change

    def lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the running trials whose workers send no heartbeat."""
        now, running = self._clock(), [t for t in trials if t.state is TrialState.RUNNING]
        counters = {}
        for trial in running:
            beat = trial.user_attrs.get(BEAT, 0)
            before, since = self._counters.get(trial.number, (beat, now))
            counters[trial.number] = (beat, since if before == beat else now)
        self._counters = counters
        return [t for t in running if now - counters[t.number][1] > self._patience]
