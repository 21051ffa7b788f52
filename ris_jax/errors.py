"""Failures that a user can act on: the command line prints them as one line and exits with 1."""

import signal

_LONGEST = 200  # characters of a value that came from outside, in a message
_LONGEST_REASON = 300  # characters of what another library says of a failure


def brief(text: object) -> str:
    """Text on one line of limited length, for a message."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def first_line(error: BaseException) -> str:
    """What another library says of a failure, for the end of a message."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(text) <= _LONGEST_REASON:
        return text
    half = _LONGEST_REASON // 2
    return f"{text[:half]} ... {text[-half:]}"


class RunError(RuntimeError):
    """A run that cannot go on; the message says why and what is safe."""


class TrainingLostError(RunError):
    """Training that its own configuration has ruined, such as by too high a learning rate."""


class OutOfMemoryError(RunError):
    """A device that has no room for what was asked of it; the message says what would fit."""


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end. `status` is the exit status that shells and schedulers expect."""

    def __init__(self, number: int, saved: str = ""):
        """Says what stopped it.

        Args:
          number: of the signal.
          saved: where it stopped and what was saved, to end the sentence; empty: wherever it was.
        """
        super().__init__(f"stopped by {signal.Signals(number).name}{saved}")
        self.saved = saved
        self.status = 128 + number
