"""A `ris-jax serve` process for measurements and tests."""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_SECONDS_TO_START = 300.0
_SECONDS_TO_STOP = 60.0


class LiveServer(NamedTuple):
    """A running service."""

    address: str  #: http://127.0.0.1:port
    process: subprocess.Popen
    lines: list[str]  #: that it has printed

    def memory(self) -> int:
        """Resident memory of the process [bytes]; Linux."""
        pages = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096


def _collect(process: subprocess.Popen, lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())


@contextlib.contextmanager
def running(channel: pathlib.Path, *arguments: str) -> Iterator[LiveServer]:
    """Start the service on a free port; yield it when it is ready; stop it by SIGTERM.

    Args:
      channel: recordings file of the surface.
      *arguments: further flags.

    Raises:
      RuntimeError: it does not start, or does not end with status 0.
    """
    command = [sys.executable, "-m", "ris_jax", "serve", f"--channel={channel}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    reading = threading.Thread(target=_collect, args=(process, lines), daemon=True)
    reading.start()
    try:
        began = time.monotonic()
        while "ready" not in lines:
            if process.poll() is not None or time.monotonic() - began > _SECONDS_TO_START:
                raise RuntimeError("the service did not start:\n" + "\n".join(lines))
            time.sleep(0.05)
        found = re.search(r"http://[^;\s]+", "\n".join(lines))
        assert found is not None
        yield LiveServer(found[0], process, lines)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_SECONDS_TO_STOP)
        finally:
            process.kill()
        reading.join()
        assert process.stdout is not None
        process.stdout.close()
    if status:
        raise RuntimeError(f"the service ended with status {status}:\n" + "\n".join(lines))


def as_json(snapshots: np.ndarray) -> bytes:
    """Body of a request with the given snapshots."""
    parts = {"real": np.real(snapshots).tolist(), "imag": np.imag(snapshots).tolist()}
    return json.dumps({"snapshots": parts}).encode()
