"""Who looks on while a run trains; nothing that they do changes it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ris_jax.training import evaluation as evaluation_lib
from ris_jax.training import sources


class Look(NamedTuple):
    """What there is to see before the first step, as epoch 0, and after each epoch."""

    epoch: int
    evaluation: evaluation_lib.Evaluation
    heldout: evaluation_lib.Heldout  # the same scenes every time


def _no_figures(look: Look) -> Mapping[str, bytes]:
    del look
    return {}


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    del name
    return function(*arguments)


def _as_it_is(source: sources.Source) -> sources.Source:
    return source


@dataclasses.dataclass(frozen=True)
class Observers:
    """What the loop offers to others.

    Attributes:
      figures: draws figures, PNG by name, whenever that is worth while; every process asks.
      timed: calls a function with arguments and returns what it returns, under the name of what
        it is: "evaluation", "figures", "checkpoint".
      source: wraps where the scenes of the run come from.
    """

    figures: Callable[[Look], Mapping[str, bytes]] = _no_figures
    timed: Callable[..., Any] = _call
    source: Callable[[sources.Source], sources.Source] = _as_it_is
