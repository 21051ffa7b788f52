"""Failures that a user can act on: the command line prints them as one line and exits with 1."""

_LONGEST = 200  # characters of a value that came from outside, in a message


def brief(text: object) -> str:
    """Text on one line of limited length, for a message."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


class RunError(RuntimeError):
    """A run that cannot go on; the message says why and what is safe."""


class TrainingLostError(RunError):
    """Training that its own configuration has ruined, such as by too high a learning rate."""
