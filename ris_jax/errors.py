"""User errors: the command line prints them as one line and exits with 1."""

import signal

_LONGEST = 200  # characters of an external value in a message
_LONGEST_REASON = 300  # characters of another library's error message


def brief(text: object) -> str:
    """Return text on one line of limited length, for a message."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def first_line(error: BaseException) -> str:
    """Return the start of another library's error message, for the end of a message."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(text) <= _LONGEST_REASON:
        return text
    half = _LONGEST_REASON // 2
    return f"{text[:half]} ... {text[-half:]}"


class RunError(RuntimeError):
    """A run cannot continue; the message has the reason and what is saved."""


class TrainingLostError(RunError):
    """Training failed because of its configuration, such as too high a learning rate."""


class OutOfMemoryError(RunError):
    """A device is out of memory; the message suggests sizes that fit."""


class Interrupted(KeyboardInterrupt):
    """A signal requested the end. `status` is the exit status that shells and schedulers expect."""

    def __init__(self, number: int, saved: str = ""):
        """Create the message of an interruption.

        Args:
          number: of the signal.
          saved: end of the message, with the position and what was saved; may be empty.
        """
        super().__init__(f"stopped by {signal.Signals(number).name}{saved}")
        self.saved = saved
        self.status = 128 + number
