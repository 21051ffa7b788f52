"""What a run writes for people and programs: metrics.jsonl, TensorBoard events, lines, a bar."""

import json
import math
import os
import pathlib
import sys
import time
from typing import Any

METRICS_NAME = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 10.0
_FULLY_LOGGED_MICROBATCHES = 3


def _plain(value: Any) -> Any:
    """A JSON value; what is not finite becomes null, which every reader understands."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """All whole rows of `metrics.jsonl`; a last line that was cut short is left out."""
    path = workdir / METRICS_NAME
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def epoch_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of finished epochs."""
    return [row for row in read_rows(workdir) if row["kind"] == "epoch"]


class Recorder:
    """Appends rows, draws the bar, prints lines. Use as a context manager."""

    def __init__(self, workdir: pathlib.Path, epochs_done: int, total_microbatches: int):
        """Opens the run's records and drops rows of epochs that will be run again.

        Args:
          workdir: the run's folder.
          epochs_done: epochs that the restored checkpoint has behind it.
          total_microbatches: of the whole run, for the bar.
        """
        from tensorboardX import SummaryWriter  # slow to import

        self._path = workdir / METRICS_NAME
        kept = [row for row in read_rows(workdir) if row["epoch"] <= epochs_done]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(self._path)
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"))
        self._bar = None
        self._last_line = -math.inf
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_microbatches, unit="mb", dynamic_ncols=True)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()
        if self._bar is not None:
            self._bar.close()

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def row(self, kind: str, position: int, values: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl and its numbers to TensorBoard."""
        row = {"kind": kind} | {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self._events.add_scalar(f"{kind}/{name}", value, position)

    def sync(self) -> None:
        """Waits until the rows are on disk: a checkpoint must not be ahead of them."""
        os.fsync(self._file.fileno())

    def full_log(self, metrics: dict[str, Any]) -> None:
        """The first microbatches in the form that users of the reference know."""
        number = metrics["microbatch"]
        if number > _FULLY_LOGGED_MICROBATCHES:
            return
        rates = f"{metrics['lr_backbone']:.2e}, {metrics['lr_head']:.2e}"
        self.line(f"[OPT] step {metrics['update']} / batch {number} LRs=[{rates}]")
        self.line(
            f"[GRAD] backbone={metrics['grad_norm_backbone']:.3e} "
            f"head={metrics['grad_norm_head']:.3e} ok={metrics['finite']}"
        )

    def advance(self, microbatches: int, epoch: int, loss: float) -> None:
        """Moves the bar, or prints a line now and then where there is no terminal."""
        if self._bar is not None:
            self._bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", refresh=False)
            self._bar.update(microbatches)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.line(f"epoch {epoch} loss {loss:.4f}")
