"""Callbacks of the training loop; they do not change the run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ris_jax.training import evaluation as evaluation_lib
from ris_jax.training import sources


class CallbackData(NamedTuple):
    """Data passed to callbacks after each epoch."""

    epoch: int
    evaluation: evaluation_lib.Evaluation
    heldout: evaluation_lib.Heldout  # the same scenes every time


def _no_figures(look: CallbackData) -> Mapping[str, bytes]:
    del look
    return {}


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    del name
    return function(*arguments)


def _as_it_is(source: sources.Source) -> sources.Source:
    return source


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Callbacks that the training loop calls.

    Attributes:
      figures: draws figures, PNG by name, when useful; called in every process.
      timed: calls a function with arguments and returns its result, under a name:
        "evaluation", "figures", "checkpoint".
      source: wraps the source of the run's scenes.
    """

    figures: Callable[[CallbackData], Mapping[str, bytes]] = _no_figures
    timed: Callable[..., Any] = _call
    source: Callable[[sources.Source], sources.Source] = _as_it_is
