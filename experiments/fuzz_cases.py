"""Cases of `fuzz.py`: the damage, the call, and the classification of its result."""

import abc
import pathlib
import random
import re
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags

from ris_jax import config as config_lib
from ris_jax import errors

# Errors that the command line prints as one line, with an exit status of 1 or 2.
OWN_ERRORS = (config_lib.ConfigError, errors.RunError, OSError, flags.Error)
RIGHT, REFUSED, WRONG = "right", "refused", "WRONG"
_LONGEST_LINE = 5000  # characters


class Case(NamedTuple):
    """One damaged input."""

    what: str  # description of the damage
    run: Callable[[], str]  # reads the input; returns the error of the result, or ""
    names: tuple[str, ...]  # a message must contain one of these: the file, or the field
    command: tuple[str, ...]  # of `ris-jax`, with the same input


class Classification(NamedTuple):
    """Result of a case."""

    kind: str  # RIGHT, REFUSED or WRONG
    text: str  # the message, or the error


class Surface(abc.ABC):
    """Inputs of one kind; intact ones are in a directory."""

    name: str

    @abc.abstractmethod
    def case(self, rng: random.Random, place: pathlib.Path) -> Case:
        """Damage a copy of an intact input.

        Args:
          rng: source of all randomness.
          place: a directory that does not exist yet, for the files of the case.
        """


def classify(case: Case) -> Classification:
    """Run a case and return its classification."""
    try:
        problem = case.run()
    except OWN_ERRORS as error:
        return _classify_message(case, error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "ris_jax" in frame.filename
        ]
        at = own[-1] if own else place
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Classification(
            WRONG, f"{text} (at {pathlib.Path(at.filename).name}:{at.lineno}, {at.name})"
        )
    return Classification(WRONG, problem) if problem else Classification(RIGHT, "")


def _classify_message(case: Case, error: Exception) -> Classification:
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_LINE:
        return Classification(WRONG, f"a message of {len(text)} characters: {text[:200]}")
    if "MemoryError" in text:
        return Classification(WRONG, f"more memory is requested than the input holds: {text[:300]}")
    if not any(name in text for name in case.names):
        return Classification(WRONG, f"names none of {', '.join(case.names)[:200]}: {text[:300]}")
    return Classification(REFUSED, text)


def classify_command(case: Case, status: int, complaint: str) -> Classification:
    """Classify a command: one line and a status of 1 or 2, or a result.

    Args:
      case: of the command.
      status: its exit status.
      complaint: its standard error.
    """
    reports = re.compile("(skipped|warning): ")
    lines = [line for line in complaint.splitlines() if not reports.match(line)]
    if "Traceback" in complaint or status not in (0, 1, 2):
        return Classification(WRONG, f"status {status}: {complaint[-1000:]}")
    if len(lines) != (status > 0):
        return Classification(
            WRONG, f"status {status} with {len(lines)} lines: {complaint[-1000:]}"
        )
    if status and not any(name in lines[0] for name in case.names):
        return Classification(WRONG, f"names none of {', '.join(case.names)[:200]}: {lines[0]}")
    return Classification(REFUSED if status else RIGHT, complaint.strip())


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return all files of a directory, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def misplace(rng: random.Random, victim: pathlib.Path, others: Sequence[pathlib.Path]) -> str:
    """Remove a file, swap it with another, or replace it; return a description."""
    kind = rng.choice(["removed", "swapped", "copied over", "a folder", "a dangling link", "twice"])
    other = rng.choice(others)
    if kind == "swapped" and other != victim:
        content = victim.read_bytes()
        victim.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "copied over":
        victim.write_bytes(other.read_bytes())
    elif kind == "twice":
        number = rng.randrange(10)
        victim.with_name(f"{number:05d}{''.join(victim.suffixes)}").write_bytes(victim.read_bytes())
    else:
        victim.unlink()
        if kind == "a folder":
            victim.mkdir()
        elif kind == "a dangling link":
            victim.symlink_to("nowhere")
    return f"{victim.name} {kind}"
