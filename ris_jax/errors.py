"""Failures that a user can act on: the command line prints them as one line and exits with 1."""


class RunError(RuntimeError):
    """A run that cannot go on; the message says why and what is safe."""


class TrainingLostError(RunError):
    """Training that its own configuration has ruined, such as by too high a learning rate."""
