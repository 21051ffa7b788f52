"""Passes standard error on, without what JAX prints as it ends a process that lost another.

The service between the processes of a run aborts those that are left, with a page of its own
addresses. This program reads their standard error and says one line instead; `processes` starts it
by its path, so that it needs nothing and is there at once.
"""

import sys
from typing import BinaryIO

_ABORTS = b"Terminating process because the JAX distributed service detected fatal errors"
_OURS = b"ris-jax: "


def relay(source: BinaryIO, sink: BinaryIO, last_word: str) -> None:
    """Copies lines until there are no more.

    Args:
      source: what a process writes.
      sink: where it is to go; after an abort only lines of our own do.
      last_word: said in the end when there was an abort and no line of our own.
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
