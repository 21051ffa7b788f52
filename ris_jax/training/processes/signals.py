"""SIGTERM and Ctrl-C during training: the run ends between two microbatches.

Schedulers and pre-emptible machines send SIGTERM shortly before they stop a job, often to one
of several processes only. JAX then notifies the others and finds a microbatch that none of them
has begun; this costs microseconds per microbatch. A single process only checks a flag.
"""

import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from ris_jax import errors

_AGAIN = b"\nris-jax: stopping after this microbatch; Ctrl-C once more ends at once\n"


class StopSignal:
    """Signal handler for training. Use as a context manager, in the main thread."""

    def __init__(self):
        """Create a handler; it is inactive until the context is entered."""
        self._together = jax.process_count() > 1
        self._signal: int | None = None
        self._asked = 0
        self._before = {}

    def __enter__(self) -> "StopSignal":
        # With several processes JAX handles SIGTERM and notifies the others.
        mine = (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            for number in mine:
                if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
            if sys.stderr.isatty():
                os.write(2, _AGAIN)  # not print(): the signal may interrupt a print
        self._signal = self._signal or number
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(self) -> bool:
        """Return whether to stop here.

        With several processes, each must call this equally often; all get the same answer, True
        once.
        """
        if not self._together:
            return self._signal is not None
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def error(self, saved: str) -> errors.Interrupted:
        """Return the exception to raise once the state is saved; `saved` ends its message."""
        return errors.Interrupted(self._signal or signal.SIGTERM, saved)
