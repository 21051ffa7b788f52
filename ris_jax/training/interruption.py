"""SIGTERM and Ctrl-C while a run trains: it ends between two microbatches, all processes at one.

Schedulers and pre-emptible machines send SIGTERM some time before they pull the plug, often to one
process of several only. JAX passes the notice on to the others and finds a microbatch that none of
them has begun; that costs some microseconds a microbatch. One process alone looks at a flag.
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


class Interruption:
    """Takes signals while training runs. Use as a context manager, in the main thread."""

    def __init__(self):
        """Nothing is taken before the context is entered."""
        self._together = jax.process_count() > 1
        self._signal: int | None = None
        self._asked = 0
        self._before = {}

    def __enter__(self) -> "Interruption":
        # Of several processes SIGTERM belongs to JAX, which tells the others.
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
                os.write(2, _AGAIN)  # a handler must not print: print may be what it interrupts
        self._signal = self._signal or number
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(self) -> bool:
        """Whether to stop here.

        Of several processes each must ask equally often; they get the same answer, and yes once.
        """
        if not self._together:
            return self._signal is not None
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def error(self, saved: str) -> errors.Interrupted:
        """What to raise when all is saved; `saved` says where and ends the sentence."""
        return errors.Interrupted(self._signal or signal.SIGTERM, saved)
