"""Profile of a run: seconds per part, and a trace of some microbatches.

In the first epoch of a run the host waits for the device around every timed call, so that times
do not overlap. The computed values stay the same. Later epochs run without these waits.
"""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ris_jax import files
from ris_jax.physics import scenes
from ris_jax.training import sources
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import distributed

FOLDER = "profile"
COMPILATION = "compilation"  # name passed to `timed` for a first step outside an epoch
_NUMBERS = "profile.json"
_UNTRACED = 3  # microbatches before the trace, so that compilation is excluded
_TRACED = 5


@dataclasses.dataclass(frozen=True)
class Part:
    """Time of a part of a run, in an epoch after compilation."""

    name: str
    calls: int  # per epoch
    seconds_a_call: float

    @property
    def seconds(self) -> float:
        """Seconds per epoch."""
        return self.calls * self.seconds_a_call


@dataclasses.dataclass(frozen=True)
class Measured:
    """Results of a profile."""

    parts: list[Part]
    compilation_seconds: float  # of the first step and microbatch, in excess of the others
    device: str
    # Of one compiled step, from XLA's cost analysis; None if not available.
    step_flops: float | None
    step_bytes: float | None  # read and written
    argument_bytes: int | None  # state and scenes
    temporary_bytes: int | None
    operations: list[tuple[str, float]]  # of the trace: name and fraction of the total time


class _Moment(NamedTuple):
    """Timestamps of a microbatch [s]."""

    waited: float  # end of the previous step
    began: float
    drawn: float


class Profile:
    """Timer and tracer of a run; `source` and `timed` are for `callbacks.Callbacks`."""

    def __init__(self, workdir: pathlib.Path, log_every: int):
        """Create a profile without measurements.

        Args:
          workdir: gets a directory `profile`.
          log_every: microbatches between rows of `metrics.jsonl`.
        """
        self.folder = workdir / FOLDER
        self._log_every = log_every
        self._moments: dict[int, _Moment] = {}
        self._traced: list[int] = []
        self._tracing = self._epoch_over = False
        self._shapes: Any = None
        self._seconds: dict[str, list[float]] = {}

    def source(self, source: sources.Source) -> sources.Source:
        """Return a source of the same scenes that times the drawing."""
        return _Timed(source, self)

    def timed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Time a call and return its result, for which the host waits anyway."""
        self._end_trace()
        began = time.perf_counter()
        result = function(*arguments)
        self._seconds.setdefault(name, []).append(time.perf_counter() - began)
        self._epoch_over |= bool(self._moments) and name != COMPILATION
        return result

    def draw(self, source: sources.Source, state: state_lib.TrainState) -> scenes.Scene:
        """Draw the next microbatch; in the first epoch, after the previous step has ended."""
        if self._epoch_over:
            return source.draw(state)
        jax.block_until_ready(state)
        waited, step = time.perf_counter(), int(state.step)
        if len(self._moments) == _UNTRACED:
            self._begin_trace()
        elif len(self._traced) == _TRACED:
            self._end_trace()
        if self._tracing:
            self._traced.append(step)
        began = time.perf_counter()
        batch = jax.block_until_ready(source.draw(state))
        # The first scenes are drawn once more before all steps: the later time is used.
        self._moments[step] = _Moment(waited, began, time.perf_counter())
        if self._shapes is None:
            self._shapes = jax.tree.map(_shape, (state, batch))
        return batch

    def _begin_trace(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python calls would fill the trace
        jax.profiler.start_trace(
            self.folder, create_perfetto_trace=distributed.is_first(), profiler_options=options
        )
        self._tracing = True

    def _end_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def finish(self) -> Measured | None:
        """Return the results and write them to `profile/profile.json`; None without training.

        Raises:
          OSError: the file cannot be written.
        """
        self._end_trace()
        if len(self._moments) < 2:
            return None
        parts, compilation = self._parts()
        cost, memory = _analysis(self._shapes)
        found = Measured(
            parts=parts,
            compilation_seconds=compilation,
            device=jax.devices()[0].device_kind,
            step_flops=cost.get("flops"),
            step_bytes=cost.get("bytes accessed"),
            argument_bytes=getattr(memory, "argument_size_in_bytes", None),
            temporary_bytes=getattr(memory, "temp_size_in_bytes", None),
            operations=operations(self.folder),
        )
        if distributed.is_first():
            self.folder.mkdir(exist_ok=True)
            with files.replacing(self.folder / _NUMBERS) as path:
                path.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
        return found

    def _parts(self) -> tuple[list[Part], float]:
        """Return means over the untraced microbatches after the first."""
        steps = sorted(self._moments)
        moments = [self._moments[step] for step in steps]
        drawing = np.array([moment.drawn - moment.began for moment in moments])
        # The time after the last one includes other work.
        between = np.array([after.waited - at.drawn for at, after in itertools.pairwise(moments)])
        # The first one includes compilation, and tracing takes time.
        usual = np.array([step not in self._traced for step in steps])
        usual[0] = False
        usual |= ~usual.any()
        ends = (np.array(steps[:-1]) + 1) % self._log_every == 0
        stepping = between[usual[:-1] & ~ends]
        a_step = float(np.mean(stepping if stepping.size else between))
        beyond = between[usual[:-1] & ends] - a_step
        a_row = max(float(np.mean(beyond)), 0.0) if beyond.size else 0.0
        a_draw = float(np.mean(drawing[usual]))
        count = len(steps)
        parts = [
            Part("drawing scenes", count, a_draw),
            Part("forward, backward and optimizer", count, a_step),
            Part("host: rows, events, lines", -(-count // self._log_every), a_row),
        ]
        for name, seconds in self._seconds.items():
            later = seconds[1:] or seconds  # the first may include compilation
            if name != COMPILATION:
                parts.append(Part(name, 1, float(np.mean(later))))
        first = [float(drawing[0] + between[0]) - a_draw - a_step]
        first += [seconds - a_step for seconds in self._seconds.get(COMPILATION, [])]
        return parts, sum(max(seconds, 0.0) for seconds in first)


class _Timed:
    """Source whose draws are timed."""

    def __init__(self, source: sources.Source, profile: Profile):
        self._source, self._profile = source, profile
        self.heldout, self.constant = source.heldout, source.constant
        self.position, self.restore = source.position, source.restore

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """Draw the next microbatch."""
        return self._profile.draw(self._source, state)


def read(workdir: pathlib.Path) -> Measured | None:
    """Return the last profile of a run; None if there is none."""
    try:
        values = json.loads((workdir / FOLDER / _NUMBERS).read_text())
        parts = [Part(**part) for part in values["parts"]]
        named = [(str(name), float(share)) for name, share in values["operations"]]
        return Measured(**values | {"parts": parts, "operations": named})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _shape(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _analysis(shapes: Any) -> tuple[dict[str, float], Any]:
    """Return XLA's cost analysis of a step and its memory plan."""
    state, batch = shapes
    compiled = step_lib.donating_step.lower(step_lib.for_program(state), batch).compile()
    cost = compiled.cost_analysis() or {}
    return {name: value for name, value in cost.items() if value > 0}, compiled.memory_analysis()


def operations(folder: pathlib.Path, most: int = 8) -> list[tuple[str, float]]:
    """Return the longest operations in the newest trace of a directory.

    Args:
      folder: directory written by `jax.profiler`.
      most: maximum number of operations.

    Returns:
      Program and operation, and its fraction of the total time, the longest first. Nested
      operations count for themselves. Empty without a trace.
    """
    traces = sorted(folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda p: p.parent.name)
    if not traces:
        return []
    seconds: dict[str, float] = {}
    for plane in jax.profiler.ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            _add_own_time(_operations_of(line), seconds)
    total = sum(seconds.values())
    longest = sorted(seconds.items(), key=lambda pair: -pair[1])[:most]
    return [(name, value / total) for name, value in longest if total > 0]


def _operations_of(line: Any) -> list[tuple[float, float, str]]:
    """Return start [ns], end [ns] and name of the operations of a thread or stream."""
    found = []
    for event in line.events:
        stats = dict(event.stats)
        if "hlo_op" in stats:
            name = f"{stats.get('hlo_module', '?')}: {stats['hlo_op']}"
            found.append((event.start_ns, event.start_ns + event.duration_ns, name))
    return found


def _add_own_time(events: list[tuple[float, float, str]], seconds: dict[str, float]) -> None:
    """Add to each name the time of its events without that of nested events [s]."""
    around: list[tuple[float, str]] = []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            seconds[around[-1][1]] -= (end - start) * 1e-9
        seconds[name] = seconds.get(name, 0.0) + (end - start) * 1e-9
        around.append((end, name))
