"""What every estimator makes of the scenes of a cell, kept on disk as it came."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ris_jax import arrays, metrics
from ris_jax import config as config_lib
from ris_jax.benchmarks import draw, store
from ris_jax.benchmarks.suites import Cell
from ris_jax.estimators import localization
from ris_jax.estimators.catalogue import METHODS
from ris_jax.estimators.estimate import Estimate
from ris_jax.networks import Network
from ris_jax.reports import localization_scores, provenance

_TRUTH = ("azimuth", "elevation", "source_range", "num_sources")
_ROUNDS = 5


class NamedNetwork(NamedTuple):
    """A network, and by what name the tables call it."""

    network: Network
    name: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared on which scenes."""

    config: config_lib.Config
    estimators: tuple[str, ...]
    num_scenes: int
    networks: Mapping[str, NamedNetwork] = dataclasses.field(  # of those that need one
        default_factory=dict
    )
    fewer: tuple[tuple[str, int], ...] = ()  # estimators that get so many scenes only
    batch_size: int = 64  # scenes at once
    false_alarm_rate: float = config_lib.DEFAULT_FALSE_ALARM_RATE

    def scenes_of(self, estimator: str) -> int:
        """How many scenes of a cell an estimator gets: the first ones."""
        return min(dict(self.fewer).get(estimator, self.num_scenes), self.num_scenes)

    def network_of(self, estimator: str) -> Network | None:
        """The network that an estimator uses."""
        return self.networks[estimator].network if estimator in self.networks else None

    def name_of(self, estimator: str) -> str:
        """The name of that network; none for no network."""
        return self.networks[estimator].name if estimator in self.networks else ""

    @property
    def settings(self) -> dict[str, Any]:
        """What all cells of a folder share."""
        return store.relevant(self.config) | {
            "num_scenes": self.num_scenes,
            "false_alarm_rate": self.false_alarm_rate,
        }


class Outcome(NamedTuple):
    """One estimator in one cell."""

    estimator: str
    told: bool  # the number of sources
    scores: localization_scores.Scores
    resolved: np.ndarray  # [B] bool


def is_told(cell: Cell, estimator: str) -> bool:
    """Whether an estimator is told the number of sources of a cell."""
    return cell.count == "known" or (cell.count == "own" and not METHODS[estimator].counts)


class Runner:
    """The cells of a plan, from disk where they are there and else made and kept.

    Args:
      plan: what is compared.
      where: the folder.
      progress: is told how many scenes were simulated or localised, or found done.
    """

    def __init__(self, plan: Plan, where: store.Store, progress: Callable[[int], Any]):
        self.plan, self.store, self._progress = plan, where, progress
        self._drawn: tuple[Any, draw.Draw] | None = None

    def _key(self, cell: Cell) -> dict[str, Any]:
        """All that the scenes of a cell depend on."""
        return store.relevant(cell.config(self.plan.config)) | {
            "placement": dataclasses.asdict(cell.placement),
            "places": self.plan.config.scene.max_sources,
            "num_scenes": self.plan.num_scenes,
        }

    def _draw(self, cell: Cell) -> draw.Draw:
        """The scenes of a cell; those of the last one are still there."""
        key = self._key(cell)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, draw.draw(self.plan.config, cell, self.plan.num_scenes)
        return self._drawn[1]

    def truth(self, cell: Cell) -> tuple[metrics.Sources, Float[np.ndarray, "B K 3 3"]]:
        """Sources of a cell's scenes and their bound."""
        path = self.store.path("scenes", self._key(cell))
        found = self.store.read(path)
        if found is None:
            drawn = self._draw(cell)
            found = {name: getattr(drawn.truth, name) for name in _TRUTH} | {"bound": drawn.bound}
            self.store.write(path, found)
        return metrics.Sources(*(found[name] for name in _TRUTH)), found["bound"]

    def _options(self, estimator: str) -> dict[str, Any]:
        return localization.options_of(self.plan.config) | {
            "estimator": estimator,
            "false_alarm_rate": self.plan.false_alarm_rate,
            "network": self.plan.network_of(estimator),
        }

    def localise(self, cell: Cell, estimator: str, count: int, **more: Any) -> Estimate:
        """What an estimator makes of the first scenes of a cell, without a look at the disk."""
        drawn = self._draw(cell)
        measurement = type(drawn.measurement)(*(leaf[:count] for leaf in drawn.measurement))
        return localization.localize_in_chunks(
            measurement,
            np.asarray(arrays.element_positions(self.plan.config.system)),
            num_sources=drawn.truth.num_sources[:count] if is_told(cell, estimator) else None,
            chunk_size=self.plan.batch_size,
            **self._options(estimator),
            **more,
        )

    def _estimator_key(self, cell: Cell, estimator: str) -> dict[str, Any]:
        return self._key(cell) | {
            "estimator": estimator,
            "told": is_told(cell, estimator),
            "scenes": self.plan.scenes_of(estimator),
            "network": self.plan.name_of(estimator),
            "false_alarm_rate": self.plan.false_alarm_rate,
        }

    def outcome(self, cell: Cell, estimator: str) -> Outcome:
        """Scores of an estimator in a cell."""
        count = self.plan.scenes_of(estimator)
        path = self.store.path(estimator, self._estimator_key(cell, estimator))
        found = self.store.read(path)
        if found is None:
            made = self.localise(cell, estimator, count, progress=self._progress)._asdict()
            found = {name: leaf for name, leaf in made.items() if leaf is not None}
            self.store.write(path, found)
        else:
            self._progress(count)
        estimate = Estimate(**{name: jnp.asarray(leaf) for name, leaf in found.items()})
        sources, bound = self.truth(cell)
        truth = metrics.Sources(*(leaf[:count] for leaf in sources))
        scores = localization_scores.score(estimate, truth, bound_covariance=bound[:count])
        resolved = metrics.resolved(estimate, truth)
        return Outcome(estimator, is_told(cell, estimator), scores, resolved)

    def seconds(self, cell: Cell, estimator: str) -> Float[np.ndarray, "rounds"]:
        """Time of a scene [s] in rounds over the first scenes of a cell, compilation apart."""
        count = min(self.plan.scenes_of(estimator), 2 * self.plan.batch_size)
        key = self._estimator_key(cell, estimator) | {
            "batch_size": self.plan.batch_size,
            "machine": provenance.machine(),
            "rounds": _ROUNDS,
        }
        path = self.store.path(f"seconds-{estimator}", key)
        found = self.store.read(path)
        if found is None:
            self.localise(cell, estimator, count)  # compiles
            spent = []
            for _ in range(_ROUNDS):
                began = time.perf_counter()
                self.localise(cell, estimator, count)
                spent.append((time.perf_counter() - began) / count)
            found = {"seconds": spent}
            self.store.write(path, found)
        return np.asarray(found["seconds"])
