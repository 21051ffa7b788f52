"""Filter standard error: drop JAX's output when it aborts a process that lost another.

JAX's coordination service aborts the remaining processes and prints a long stack trace. This
program reads their standard error and prints one line instead. `distributed` starts it by its
path, so that it imports nothing and starts at once.
"""

import sys
from typing import BinaryIO

_ABORTS = b"Terminating process because the JAX distributed service detected fatal errors"
_OURS = b"ris-jax: "


def relay(source: BinaryIO, sink: BinaryIO, last_word: str) -> None:
    """Copy lines until the source ends.

    Args:
      source: standard error of a process.
      sink: destination; after an abort only lines of this package pass.
      last_word: printed at the end after an abort, if no line of this package passed.
    """
    aborted = told = False
    for line in source:
        aborted |= _ABORTS in line
        ours = line.startswith(_OURS)
        told |= ours
        if ours or not aborted:
            sink.write(line)
            sink.flush()
    if aborted and not told:
        sink.write(_OURS + last_word.encode() + b"\n")
        sink.flush()


if __name__ == "__main__":
    relay(sys.stdin.buffer, sys.stderr.buffer, sys.argv[1])
