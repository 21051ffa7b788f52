"""Search space: a table of configuration fields and the values that each may take."""

import dataclasses
import json
import math
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ris_jax import config as config_lib
from ris_jax import errors

if TYPE_CHECKING:
    import optuna


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; integers if the field is an integer."""

    low: float
    high: float
    log: bool = False  # uniform in the logarithm
    step: float | None = None  # from `low`; None: any number, or every integer


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values."""

    choices: tuple[Any, ...]


_MOST_STEPS = 10**9  # from low to high

Space = Mapping[str, Range | Choice]

DEFAULT: Space = types.MappingProxyType(
    {
        "optimizer.learning_rate": Range(3e-3, 1e-1, log=True),
        "optimizer.head_multiplier": Range(1.0, 8.0, log=True),
        "optimizer.weight_decay": Range(1e-6, 1e-1, log=True),
        "optimizer.warmup_fraction": Range(0.0, 0.2),
        "model.width": Choice((32, 64, 96, 128)),
        "model.depth": Range(1, 6),
        # loss.covariance is fixed: gradient clipping removes a common factor of all weights.
        "loss.existence": Range(0.3, 3.0, log=True),
        "loss.offset": Range(0.01, 1.0, log=True),
        "loss.count": Range(0.01, 1.0, log=True),
    }
)

# Fields that change the task, or the length of a trial, cannot be tuned.
_SECTIONS = ("model", "covariance", "loss", "optimizer")
_FIELDS = ("training.batch_size",)


def _require(condition: bool, name: str, needed: str, got: Any) -> None:
    if not condition:
        raise config_lib.ConfigError(
            f"search space: {errors.brief(name)}: need {needed}; got {errors.brief(repr(got))}"
        )


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, int):
        return abs(value) <= sys.maxsize  # range of integers that Optuna draws from
    return math.isfinite(value) and (not whole or value.is_integer())


def _parse_range(name: str, values: dict[str, Any], whole: bool) -> Range:
    known = [field.name for field in dataclasses.fields(Range)]
    unknown = sorted(values.keys() - known)
    _require(not unknown, name, "choices, or " + ", ".join(known), ", ".join(unknown))
    _require({"low", "high"} <= values.keys(), name, "low and high", ", ".join(values) or "neither")
    kind = "an integer" if whole else "a finite number"
    for key in ("low", "high", "step"):
        value = values.get(key)
        if key != "step" or value is not None:
            _require(_is_number(value, whole), f"{name}: {key}", kind, value)
    found = Range(**values)
    _require(isinstance(found.log, bool), f"{name}: log", "true or false", found.log)
    _require(found.low < found.high, name, "low < high", f"{found.low} and {found.high}")
    _require(not found.log or found.low > 0, f"{name}: low", "above zero with log", found.low)
    if found.step is not None:
        _require(found.step > 0, f"{name}: step", "a value above zero", found.step)
        _require(not found.log, f"{name}: step", "none with log", found.step)
        # Otherwise Optuna would lower `high` with a warning.
        steps = (found.high - found.low) / found.step
        divides = steps <= _MOST_STEPS and math.isclose(steps, max(round(steps), 1))
        _require(divides, f"{name}: step", "a divisor of high - low", found.step)
    cast = int if whole else float
    step = None if found.step is None else cast(found.step)
    return Range(cast(found.low), cast(found.high), found.log, step)


def _parse_field(name: str, values: Any, whole: bool | None) -> Range | Choice:
    _require(isinstance(values, dict), name, "an object with low and high, or with choices", values)
    if "choices" not in values:
        _require(whole is not None, name, "choices, because it is no number", ", ".join(values))
        return _parse_range(name, values, bool(whole))
    _require(len(values) == 1, name, "choices only", ", ".join(sorted(values)))
    choices = values["choices"]
    _require(isinstance(choices, list) and choices != [], name, "a list of choices", choices)
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in choices)
    _require(plain, name, "choices that are numbers, text, true, false or null", choices)
    return Choice(tuple(choices))


def _whole(name: str, fields: Mapping[str, Any]) -> bool | None:
    """Return whether a field is an integer; None if it is not a number."""
    _require(name in fields, name, "a configuration field", name)
    section = name.partition(".")[0]
    tunable = section in _SECTIONS or name in _FIELDS
    allowed = ", ".join([*(f"{section}.*" for section in _SECTIONS), *_FIELDS])
    _require(tunable, name, f"a field of {allowed}", name)
    value = fields[name]
    return None if isinstance(value, (bool, str)) or value is None else isinstance(value, int)


def parse(values: Any) -> Space:
    """Return a search space from plain values: ``{"model.depth": {"low": 1, "high": 4}}``.

    Args:
      values: dotted configuration fields, each with low and high (optionally log or step), or with
        choices.

    Raises:
      ConfigError: a field is unknown or cannot be tuned, or a range is wrong; the field is named.
    """
    _require(isinstance(values, dict) and values != {}, "the table", "fields", values)
    fields = config_lib.flatten(dataclasses.asdict(config_lib.Config()))
    return types.MappingProxyType(
        {name: _parse_field(name, value, _whole(name, fields)) for name, value in values.items()}
    )


def read(path: pathlib.Path) -> Space:
    """Read a search space from a JSON file.

    Raises:
      ConfigError: it is not a search space; the message names the file and the field.
      OSError: it cannot be read.
    """
    try:
        return parse(json.loads(path.read_text()))
    except config_lib.ConfigError as error:
        raise config_lib.ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise config_lib.ConfigError(f"{path}: not JSON: {errors.brief(error)}") from error


def to_dict(space: Space) -> dict[str, Any]:
    """Return plain values that `parse` reads."""
    return json.loads(
        json.dumps({name: dataclasses.asdict(where) for name, where in space.items()})
    )


def check(space: Space, base: config_lib.Config) -> None:
    """Check every field's ends, or choices, in `base`, one field at a time.

    Raises:
      ConfigError: a value gives no valid configuration; the message has the reason.
    """
    for name, where in space.items():
        ends = where.choices if isinstance(where, Choice) else (where.low, where.high)
        for value in ends:
            try:
                config_lib.override(base, {name: value})
            except config_lib.ConfigError as error:
                raise config_lib.ConfigError(
                    f"search space: {name}={errors.brief(repr(value))} is not possible: {error}"
                ) from error


def sample(space: Space, trial: "optuna.Trial") -> dict[str, Any]:
    """Return the values of a trial by field; they are drawn on the first call."""
    found: dict[str, Any] = {}
    for name, where in space.items():
        if isinstance(where, Choice):
            found[name] = trial.suggest_categorical(name, where.choices)
        elif isinstance(where.low, int):
            low, high, step = where.low, int(where.high), int(where.step or 1)
            found[name] = trial.suggest_int(name, low, high, step=step, log=where.log)
        else:
            low, high = where.low, where.high
            found[name] = trial.suggest_float(name, low, high, step=where.step, log=where.log)
    return found
