"""Compilation progress of a command: a line on a terminal, and a summary at the end."""

import sys
import threading
import time

import jax
from tqdm import tqdm

_PROGRAM = "/jax/core/compile/backend_compile_duration"
# JAX reports each start as a scalar, and each end as a time span. They nest.
_PHASES = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    _PROGRAM,
)
_FROM_CACHE = "/jax/compilation_cache/cache_hits"
_SECONDS_BETWEEN_LINES = 0.5
_SECONDS_UNTIL_A_LINE = 1.0
_SECONDS_WORTH_A_SUMMARY = 1.0


class Observer:
    """Counter of compiled programs and their total time. Use as a context manager.

    The time has tracing, lowering and compiling, or reading from the compilation cache. Nested
    traces count once. On a terminal, a line on standard error shows that the process compiles.
    """

    def __init__(self, expected: str):
        """Start observing when the context is entered.

        Args:
          expected: expected time, such as "about 20 s, once per array".
        """
        self.programs, self.from_cache, self.seconds = 0, 0, 0.0
        self._expected = expected
        self._lock = threading.Lock()
        self._open: dict[int, list[float]] = {}  # start times of each thread's open events
        self._left = threading.Event()
        self._line: tqdm | None = None

    def __enter__(self) -> "Observer":
        jax.monitoring.register_scalar_listener(self._begin)
        jax.monitoring.register_event_time_span_listener(self._end)
        jax.monitoring.register_event_listener(self._count)
        if sys.stderr.isatty():
            threading.Thread(target=self._show, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        jax.monitoring.unregister_scalar_listener(self._begin)
        jax.monitoring.unregister_event_time_span_listener(self._end)
        jax.monitoring.unregister_event_listener(self._count)
        with self._lock:
            self._clear()

    def summary(self) -> str:
        """Return number of programs and seconds; empty if too short to report."""
        if self.seconds < _SECONDS_WORTH_A_SUMMARY:
            return ""
        cached = f", {self.from_cache} from the cache" if self.from_cache else ""
        return f"compiled in {self.seconds:.0f} s ({self.programs} programs{cached})"

    def _begin(self, event: str, value: float | int, **_: str | int) -> None:
        del value  # wall time
        if event in _PHASES:
            with self._lock:
                self._open.setdefault(threading.get_ident(), []).append(time.monotonic())

    def _end(self, event: str, *_: float, **__: object) -> None:
        if event not in _PHASES:
            return
        with self._lock:
            self.programs += event == _PROGRAM
            thread = threading.get_ident()
            starts = self._open.get(thread)
            if not starts:  # started before the context
                return
            began = starts.pop()
            if not starts:
                del self._open[thread]
                self.seconds += time.monotonic() - began
                self._clear()

    def _count(self, event: str, **_: object) -> None:
        if event == _FROM_CACHE:
            with self._lock:
                self.from_cache += 1

    def _show(self) -> None:
        """Update the line while the process compiles."""
        while not self._left.wait(_SECONDS_BETWEEN_LINES):
            with self._lock:
                began = min((starts[0] for starts in self._open.values()), default=None)
                if began is None or time.monotonic() - began < _SECONDS_UNTIL_A_LINE:
                    continue
                if self._line is None:
                    self._line = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True)
                spent = self.seconds + time.monotonic() - began
                self._line.set_description_str(f"compiling, {self._expected}: {spent:.0f} s")

    def _clear(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
