"""Records of a run: metrics.jsonl, run.log, TensorBoard events, a progress bar."""

import contextlib
import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ris_jax import errors, files

METRICS_NAME = "metrics.jsonl"
LOG_NAME = "run.log"
WARNING = "warning: "
_STARTED = "started after epoch "
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_FLUSHES = 30.0  # of TensorBoard events
_FULLY_LOGGED_MICROBATCHES = 3


def _plain(value: Any) -> Any:
    """Convert to a JSON value; non-finite numbers become null, which every reader accepts."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _counted(row: dict[str, Any]) -> bool:
    """Return whether the epoch and microbatch of a row are whole numbers."""
    return all(isinstance(row.get(name, 0), int) for name in ("epoch", "microbatch")) and (
        "epoch" in row
    )


def read_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Read the complete rows of `metrics.jsonl`; a truncated line is skipped."""
    path = workdir / METRICS_NAME
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, or not text
            continue
        if isinstance(row, dict) and isinstance(row.get("kind"), str) and _counted(row):
            rows.append(row)
    return rows


def epoch_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Read the rows of finished epochs."""
    return [row for row in read_rows(workdir) if row["kind"] == "epoch"]


class LogLine(NamedTuple):
    """A line of `run.log`."""

    when: str  # ISO 8601, in UTC
    text: str


def read_log(workdir: pathlib.Path) -> list[LogLine]:
    """Read the lines printed in all starts of a run; empty without a log."""
    path = workdir / LOG_NAME
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    return [LogLine(when, text) for when, space, text in (x.partition(" ") for x in lines) if space]


def starts(log: list[LogLine]) -> list[int]:
    """Return the number of finished epochs at each start of a run."""
    texts = [line.text.removeprefix(_STARTED) for line in log if line.text.startswith(_STARTED)]
    return [int(text) for text in texts if text.isdecimal()]


def warnings(log: list[LogLine]) -> list[LogLine]:
    """Return the warnings of a run."""
    return [line for line in log if line.text.startswith(WARNING)]


class _Events:
    """TensorBoard scalars and images, written in the calling thread.

    `tensorboardX.SummaryWriter` writes in its own thread. On a full disk that thread ends, and the
    run blocks when the queue is full.
    """

    def __init__(self, folder: pathlib.Path, next_position: int):
        """Open a new event file.

        Args:
          folder: directory of the run's events.
          next_position: events of earlier files from here on are hidden, because they are repeated.
        """
        from tensorboardX.event_file_writer import EventsWriter  # slow to import
        from tensorboardX.proto import event_pb2, summary_pb2

        folder.mkdir(exist_ok=True)
        event: Any = event_pb2  # generated code without names for type checkers
        summary: Any = summary_pb2
        self._event, self._summary = event.Event, summary.Summary
        # TensorBoard reads files by name. After "events.out", the prefix of earlier versions.
        number = len(list(folder.glob("events*")))
        self._writer = EventsWriter(str(folder / f"events.start{number:05d}"))
        self._last_flush = -math.inf
        start = event.SessionLog(status=event.SessionLog.START)
        self._write(step=next_position, session_log=start)

    def _write(self, **fields: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **fields))

    def scalars(self, values: Mapping[str, float], position: int) -> None:
        """Write one number per name; they are flushed periodically."""
        pairs = [self._summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        self._write(step=position, summary=self._summary(value=pairs))
        if time.monotonic() - self._last_flush > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def images(self, pictures: Mapping[str, bytes], position: int) -> None:
        """Write one PNG per name."""
        values = []
        for name, png in pictures.items():
            # The first chunk of every PNG holds its size.
            width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
            image = self._summary.Image(
                width=width, height=height, colorspace=4, encoded_image_string=png
            )
            values.append(self._summary.Value(tag=name, image=image))
        self._write(step=position, summary=self._summary(value=values))

    def flush(self) -> None:
        """Wait until the events are on disk."""
        self._last_flush = time.monotonic()
        self._writer.flush()

    def close(self) -> None:
        """Close the file, also if its last events cannot be written.

        Raises:
          OSError: they cannot be written.
        """
        try:
            self._writer.close()
        except OSError:
            # `EventsWriter.close` then leaves its file open; closing that reports the same error.
            with contextlib.suppress(OSError):
                self._writer._py_recordio_writer.close()
            raise


def _is_behind(row: dict[str, Any], epochs_done: int, microbatches_done: int) -> bool:
    """Return whether the part of a run that a row describes is not repeated."""
    if row["kind"] == "microbatch":
        return row.get("microbatch", math.inf) <= microbatches_done
    return row["epoch"] <= epochs_done


class Recorder:
    """Writer of rows, log lines and the progress bar. Use as a context manager."""

    def __init__(
        self,
        workdir: pathlib.Path,
        epochs_done: int,
        microbatches_done: int,
        total_microbatches: int,
    ):
        """Open the run's records and drop rows that will be repeated.

        Args:
          workdir: work directory of the run.
          epochs_done: finished epochs of the restored checkpoint.
          microbatches_done: finished microbatches of the whole run; 0: a new run.
          total_microbatches: of the whole run, for the bar.

        Raises:
          RunError: the records cannot be written.
        """
        self._path = workdir / METRICS_NAME
        kept = [
            row
            for row in read_rows(workdir)
            if microbatches_done and _is_behind(row, epochs_done, microbatches_done)
        ]
        done = max((row.get("microbatch", 0) for row in kept), default=-1)
        try:
            with files.replacing(self._path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            self._file = self._path.open("a")
            self._log = (workdir / LOG_NAME).open("a")
            self._events = _Events(workdir / "tensorboard", done + 1)
        except OSError as error:
            raise self._unwritable(error) from error
        self._bar = None
        self._last_line = -math.inf
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_microbatches, unit="mb", dynamic_ncols=True)
        self._note(f"{_STARTED}{epochs_done}")
        missing = epochs_done - sum(row["kind"] == "epoch" for row in kept)
        if missing > 0:
            self.line(f"{WARNING}{METRICS_NAME} lacks the rows of {missing} finished epochs")

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        for stream in (self._file, self._log, self._events):
            try:
                stream.close()
            except OSError as error:
                if kind is None:
                    raise self._unwritable(error) from error
                # Otherwise the pending exception is more informative.

    def _unwritable(self, error: OSError) -> errors.RunError:
        return errors.RunError(
            f"{self._path.name} or the events beside it cannot be written to "
            f"{self._path.parent}: {files.described(error)}; the last checkpoint is intact"
        )

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one, and write it to the log."""
        self._note(text)
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def _note(self, text: str) -> None:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            self._log.write(f"{when} {' '.join(text.splitlines())}\n")
            self._log.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def row(self, kind: str, position: int, values: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl and its numbers to TensorBoard."""
        row = {"kind": kind} | {name: _plain(value) for name, value in values.items()}
        numbers = {
            f"{kind}/{name}": value
            for name, value in row.items()
            if isinstance(value, (int, float))
        }
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            self._events.scalars(numbers, position)
        except OSError as error:
            raise self._unwritable(error) from error

    def images(self, pictures: Mapping[str, bytes], position: int) -> None:
        """Add figures, PNG by name, to TensorBoard; the caller syncs."""
        if not pictures:
            return
        try:
            self._events.images(pictures, position)
        except OSError as error:
            raise self._unwritable(error) from error

    def sync(self) -> None:
        """Wait until the rows are on disk: a checkpoint must not be ahead of them."""
        try:
            os.fsync(self._file.fileno())
            self._events.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def full_log(self, metrics: dict[str, Any]) -> None:
        """Print the first microbatches in the format of the reference code."""
        number = metrics["microbatch"]
        if number > _FULLY_LOGGED_MICROBATCHES:
            return
        rates = f"{metrics['lr_backbone']:.2e}, {metrics['lr_head']:.2e}"
        step = metrics["update"] + (not metrics["update_applied"])  # the pending update
        self.line(f"[OPT] step {step} / batch {number} LRs=[{rates}]")
        self.line(
            f"[GRAD] backbone={metrics['grad_norm_backbone']:.3e} "
            f"head={metrics['grad_norm_head']:.3e} ok={metrics['finite']}"
        )

    def skip(self, microbatches: int) -> None:
        """Advance the bar past the microbatches of earlier starts."""
        if self._bar is not None:
            self._bar.update(microbatches)

    def advance(self, microbatches: int, epoch: int, loss: float) -> None:
        """Advance the bar, or print a line periodically without a terminal."""
        if self._bar is not None:
            self._bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", refresh=False)
            self._bar.update(microbatches)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.line(f"epoch {epoch} loss {loss:.4f}")


class Silent(Recorder):
    """Recorder without output, for all processes but the first."""

    def __init__(self):
        """Open nothing."""

    def __exit__(self, *_: object) -> None:
        """Close nothing."""

    def line(self, text: str) -> None:
        """Print nothing."""

    def row(self, kind: str, position: int, values: dict[str, Any]) -> None:
        """Append nothing."""

    def images(self, pictures: Mapping[str, bytes], position: int) -> None:
        """Add nothing."""

    def sync(self) -> None:
        """Wait for nothing."""

    def skip(self, microbatches: int) -> None:
        """Move no bar."""

    def advance(self, microbatches: int, epoch: int, loss: float) -> None:
        """Move no bar."""
