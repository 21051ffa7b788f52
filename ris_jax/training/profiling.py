"""Where the time of a run goes: seconds of each part, and a trace of some microbatches.

In the first epoch of a start the host waits for the device around every call that is timed, so that
no part's time is counted as another's; what is computed stays the same. Later epochs run as ever.
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

from ris_jax import scenes
from ris_jax.data import files
from ris_jax.training import processes, sources
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

FOLDER = "profile"
COMPILATION = "compilation"  # what `timed` is told of a first step that is no part of an epoch
_NUMBERS = "profile.json"
_UNTRACED = 3  # microbatches before the trace: compilation is over
_TRACED = 5


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a run, in an epoch after compilation."""

    name: str
    calls: int  # an epoch
    seconds_a_call: float

    @property
    def seconds(self) -> float:
        """Of an epoch."""
        return self.calls * self.seconds_a_call


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a profile found."""

    parts: list[Part]
    compilation_seconds: float  # of the first step and microbatch, beyond what the others take
    device: str
    # Of one compiled step, as XLA counts them; None where it does not.
    step_flops: float | None
    step_bytes: float | None  # read and written
    argument_bytes: int | None  # state and scenes
    temporary_bytes: int | None
    operations: list[tuple[str, float]]  # of the trace: name and share of the time of all


class _Moment(NamedTuple):
    """A microbatch; seconds of a clock."""

    waited: float  # the step before it has ended
    began: float
    drawn: float


class Profile:
    """Takes times and a trace; `source` and `timed` are for `observers.Observers`."""

    def __init__(self, workdir: pathlib.Path, log_every: int):
        """Measures nothing yet.

        Args:
          workdir: gets a folder `profile`.
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
        """The same scenes; drawing them is timed."""
        return _Timed(source, self)

    def timed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns; the host waits for it anyway."""
        self._end_trace()
        began = time.perf_counter()
        result = function(*arguments)
        self._seconds.setdefault(name, []).append(time.perf_counter() - began)
        self._epoch_over |= bool(self._moments) and name != COMPILATION
        return result

    def draw(self, source: sources.Source, state: state_lib.TrainState) -> scenes.Scene:
        """The next microbatch; in the first epoch, when the step before it has ended."""
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
        # The first scenes are drawn once more before all steps: the later time counts.
        self._moments[step] = _Moment(waited, began, time.perf_counter())
        if self._shapes is None:
            self._shapes = jax.tree.map(_shape, (state, batch))
        return batch

    def _begin_trace(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # the calls of the interpreter would fill the trace
        jax.profiler.start_trace(
            self.folder, create_perfetto_trace=processes.is_first(), profiler_options=options
        )
        self._tracing = True

    def _end_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def finish(self) -> Measured | None:
        """What was found, also written to `profile/profile.json`; None where nothing was trained.

        Raises:
          OSError: it cannot be written.
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
        if processes.is_first():
            self.folder.mkdir(exist_ok=True)
            with files.replacing(self.folder / _NUMBERS) as path:
                path.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
        return found

    def _parts(self) -> tuple[list[Part], float]:
        """Means over the microbatches after the first that were not traced."""
        steps = sorted(self._moments)
        moments = [self._moments[step] for step in steps]
        drawing = np.array([moment.drawn - moment.began for moment in moments])
        # Of the last one, what comes after it has other things in it.
        between = np.array([after.waited - at.drawn for at, after in itertools.pairwise(moments)])
        # The first one compiles, and a trace costs time.
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
            later = seconds[1:] or seconds  # the first may compile
            if name != COMPILATION:
                parts.append(Part(name, 1, float(np.mean(later))))
        first = [float(drawing[0] + between[0]) - a_draw - a_step]
        first += [seconds - a_step for seconds in self._seconds.get(COMPILATION, [])]
        return parts, sum(max(seconds, 0.0) for seconds in first)


class _Timed:
    """A source whose draws a profile watches."""

    def __init__(self, source: sources.Source, profile: Profile):
        self._source, self._profile = source, profile
        self.heldout, self.position = source.heldout, source.position
        self.restore = source.restore

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """The next microbatch."""
        return self._profile.draw(self._source, state)


def read(workdir: pathlib.Path) -> Measured | None:
    """What the last profile of a run found; None where there is none."""
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
    """XLA's count of a step's operations and bytes, and its plan of the memory."""
    state, batch = shapes
    compiled = step_lib.donating_step.lower(step_lib.for_program(state), batch).compile()
    cost = compiled.cost_analysis() or {}
    return {name: value for name, value in cost.items() if value > 0}, compiled.memory_analysis()


def operations(folder: pathlib.Path, most: int = 8) -> list[tuple[str, float]]:
    """The operations that took longest in the newest trace of a folder.

    Args:
      folder: that `jax.profiler` wrote to.
      most: how many are named.

    Returns:
      Program and operation, and its share of the time of all; what others take within an
      operation is theirs. The longest first; none without a trace.
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
    """Start [ns], end [ns] and name of the operations of a thread or a stream."""
    found = []
    for event in line.events:
        stats = dict(event.stats)
        if "hlo_op" in stats:
            name = f"{stats.get('hlo_module', '?')}: {stats['hlo_op']}"
            found.append((event.start_ns, event.start_ns + event.duration_ns, name))
    return found


def _add_own_time(events: list[tuple[float, float, str]], seconds: dict[str, float]) -> None:
    """Adds to each name the time of its events less that of the events within them [s]."""
    around: list[tuple[float, str]] = []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            seconds[around[-1][1]] -= (end - start) * 1e-9
        seconds[name] = seconds.get(name, 0.0) + (end - start) * 1e-9
        around.append((end, name))
