"""Flags that name a configuration, and lists that take time: what several commands share."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

from ris_jax import config as config_lib
from ris_jax import presets


def define(values: flags.FlagValues) -> None:
    """Adds --preset and --set to a command's flags."""
    flags.DEFINE_enum(
        "preset", "quickstart", presets.NAMES, "what to start from", flag_values=values
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "any configuration field, as section.field=value with a JSON value; may be repeated",
        flag_values=values,
    )


def _setting(text: str) -> tuple[str, object]:
    """`section.field=value` as a pair; a value that is not JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise config_lib.ConfigError(f"--set: need section.field=value; got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def configuration(values: flags.FlagValues, given: Mapping[str, Any]) -> config_lib.Config:
    """The configuration that --preset, --set and a command's own flags describe.

    Args:
      values: flags with those of `define`.
      given: dotted names of fields and their values; they win over --set.
    """
    chosen = dict(_setting(text) for text in values.set) | dict(given)
    return config_lib.override(presets.preset(values.preset), chosen)


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """A bar on standard error, where that is a terminal; gives what tells it of progress."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit="scene", disable=None, dynamic_ncols=True) as bar:
        yield bar.update
