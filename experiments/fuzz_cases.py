"""A case of `fuzz.py`: what is damaged, what is then called, and the verdict on what comes back."""

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

# What the command line turns into one line and an exit status of 1 or 2.
OWN_ERRORS = (config_lib.ConfigError, errors.RunError, OSError, flags.Error)
RIGHT, REFUSED, WRONG = "right", "refused", "WRONG"
_LONGEST_LINE = 5000  # characters


class Case(NamedTuple):
    """One damaged input."""

    what: str  # the damage
    run: Callable[[], str]  # reads the input; what is wrong with the result, or nothing
    names: tuple[str, ...]  # a message must have one of these: the file, or the field
    command: tuple[str, ...]  # of `ris-jax`, that reads the same


class Verdict(NamedTuple):
    """What came of a case."""

    kind: str  # RIGHT, REFUSED or WRONG
    text: str  # the message, or what is wrong


class Surface(abc.ABC):
    """Inputs of one kind, whole ones of which are in a folder."""

    name: str

    @abc.abstractmethod
    def case(self, rng: random.Random, place: pathlib.Path) -> Case:
        """Damages a copy of a whole input.

        Args:
          rng: decides everything.
          place: a folder that is not there yet; whatever the case needs goes into it.
        """


def judge(case: Case) -> Verdict:
    """Runs a case."""
    try:
        problem = case.run()
    except OWN_ERRORS as error:
        return _judge_message(case, error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "ris_jax" in frame.filename
        ]
        at = own[-1] if own else place
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Verdict(
            WRONG, f"{text} (at {pathlib.Path(at.filename).name}:{at.lineno}, {at.name})"
        )
    return Verdict(WRONG, problem) if problem else Verdict(RIGHT, "")


def _judge_message(case: Case, error: Exception) -> Verdict:
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_LINE:
        return Verdict(WRONG, f"a message of {len(text)} characters: {text[:200]}")
    if "MemoryError" in text:
        return Verdict(WRONG, f"memory is asked for that the input does not hold: {text[:300]}")
    if not any(name in text for name in case.names):
        return Verdict(WRONG, f"names none of {', '.join(case.names)[:200]}: {text[:300]}")
    return Verdict(REFUSED, text)


def judge_command(case: Case, status: int, complaint: str) -> Verdict:
    """The verdict on a command: one line and a status of 1 or 2, or a result.

    Args:
      case: that the command is of.
      status: its exit status.
      complaint: what it wrote to standard error.
    """
    told = re.compile("(skipped|warning): ")
    lines = [line for line in complaint.splitlines() if not told.match(line)]
    if "Traceback" in complaint or status not in (0, 1, 2):
        return Verdict(WRONG, f"status {status}: {complaint[-1000:]}")
    if len(lines) != (status > 0):
        return Verdict(WRONG, f"status {status} with {len(lines)} lines: {complaint[-1000:]}")
    if status and not any(name in lines[0] for name in case.names):
        return Verdict(WRONG, f"names none of {', '.join(case.names)[:200]}: {lines[0]}")
    return Verdict(REFUSED if status else RIGHT, complaint.strip())


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files of a folder, in an order that is always the same."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def misplace(rng: random.Random, victim: pathlib.Path, others: Sequence[pathlib.Path]) -> str:
    """Removes a file, swaps it with another, puts something else in its place; tells what."""
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
