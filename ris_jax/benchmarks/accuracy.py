"""Estimates of every estimator for the scenes of a cell, cached on disk."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import metrics
from ris_jax.benchmarks import draw, store
from ris_jax.benchmarks.suites import Cell
from ris_jax.estimation.baselines.catalogue import METHODS
from ris_jax.estimation.estimate import Estimate
from ris_jax.networks.pretrained import Network
from ris_jax.physics import arrays
from ris_jax.reports import localization_scores, provenance

_TRUTH = ("azimuth", "elevation", "source_range", "num_sources")
_ROUNDS = 5


class NamedNetwork(NamedTuple):
    """Network and its name in the tables."""

    network: Network
    name: str


@dataclasses.dataclass(frozen=True)
class BenchmarkPlan:
    """Estimators to compare, and the scenes to compare them on."""

    config: config_lib.Config
    estimators: tuple[str, ...]
    num_scenes: int
    networks: Mapping[str, NamedNetwork] = dataclasses.field(  # of the estimators that need one
        default_factory=dict
    )
    fewer: tuple[tuple[str, int], ...] = ()  # estimators that run on fewer scenes, and how many
    batch_size: int = 64  # scenes at once
    false_alarm_rate: float = config_lib.DEFAULT_FALSE_ALARM_RATE

    def scenes_of(self, estimator: str) -> int:
        """Return the number of scenes of a cell for an estimator; it gets the first ones."""
        return min(dict(self.fewer).get(estimator, self.num_scenes), self.num_scenes)

    def network_of(self, estimator: str) -> Network | None:
        """Return the network that an estimator uses."""
        return self.networks[estimator].network if estimator in self.networks else None

    def name_of(self, estimator: str) -> str:
        """Return the name of that network; empty if there is none."""
        return self.networks[estimator].name if estimator in self.networks else ""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that all cells of a directory share."""
        return store.relevant(self.config) | {
            "num_scenes": self.num_scenes,
            "false_alarm_rate": self.false_alarm_rate,
        }


class Outcome(NamedTuple):
    """Results of one estimator in one cell."""

    estimator: str
    count_given: bool  # whether the estimator was given the number of sources
    scores: localization_scores.LocalizationScores
    resolved: np.ndarray  # [B] bool
    predicted: Float[np.ndarray, "B K 3"] | None = None  # root mean square errors, see `draw`


def is_count_given(cell: Cell, estimator: str) -> bool:
    """Return whether the number of sources of a cell is given to an estimator."""
    return cell.count == "known" or (cell.count == "own" and not METHODS[estimator].counts)


class Runner:
    """Results of the cells of a plan, read from disk or computed and stored.

    Args:
      plan: estimators and scenes.
      where: the directory.
      progress: called with the number of scenes simulated, localised or found on disk.
    """

    def __init__(self, plan: BenchmarkPlan, where: store.Store, progress: Callable[[int], Any]):
        self.plan, self.store, self._progress = plan, where, progress
        self._drawn: tuple[Any, draw.Draw] | None = None

    def _key(self, cell: Cell) -> dict[str, Any]:
        """Return everything that the scenes of a cell depend on."""
        return store.relevant(cell.config(self.plan.config)) | {
            "placement": dataclasses.asdict(cell.placement),
            "places": self.plan.config.scene.max_sources,
            "num_scenes": self.plan.num_scenes,
        }

    def _draw(self, cell: Cell) -> draw.Draw:
        """Return the scenes of a cell; those of the last cell are kept."""
        key = self._key(cell)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, draw.draw(self.plan.config, cell, self.plan.num_scenes)
        return self._drawn[1]

    def truth(self, cell: Cell) -> tuple[metrics.Sources, Float[np.ndarray, "B K 3 3"]]:
        """Return the sources of a cell's scenes and their bound."""
        path = self.store.path("scenes", self._key(cell))
        found = self.store.read(path)
        if found is None:
            drawn = self._draw(cell)
            found = {name: getattr(drawn.truth, name) for name in _TRUTH} | {"bound": drawn.bound}
            self.store.write(path, found)
        return metrics.Sources(*(found[name] for name in _TRUTH)), found["bound"]

    def predicted(self, cell: Cell) -> Float[np.ndarray, "B K 3"]:
        """Return errors predicted from each scene's hardware; NaN if they are not covered."""
        path = self.store.path("predicted", self._key(cell))
        found = self.store.read(path)
        if found is None:
            drawn = self._draw(cell)
            errors = np.full((*drawn.truth.azimuth.shape, 3), np.nan)
            if draw.is_predictable(self.plan.config):
                errors = draw.predicted_errors(self.plan.config, cell, drawn)
            found = {"predicted": errors}
            self.store.write(path, found)
        return found["predicted"]

    def _options(self, estimator: str) -> dict[str, Any]:
        return localization.options_of(self.plan.config) | {
            "estimator": estimator,
            "false_alarm_rate": self.plan.false_alarm_rate,
            "network": self.plan.network_of(estimator),
        }

    def localise(self, cell: Cell, estimator: str, count: int, **more: Any) -> Estimate:
        """Run an estimator on the first scenes of a cell, without the cache."""
        drawn = self._draw(cell)
        measurement = type(drawn.measurement)(*(leaf[:count] for leaf in drawn.measurement))
        return localization.localize_in_chunks(
            measurement,
            np.asarray(arrays.element_positions(self.plan.config.system)),
            num_sources=drawn.truth.num_sources[:count]
            if is_count_given(cell, estimator)
            else None,
            chunk_size=self.plan.batch_size,
            **self._options(estimator),
            **more,
        )

    def _estimator_key(self, cell: Cell, estimator: str) -> dict[str, Any]:
        return self._key(cell) | {
            "estimator": estimator,
            "count_given": is_count_given(cell, estimator),
            "scenes": self.plan.scenes_of(estimator),
            "network": self.plan.name_of(estimator),
            "false_alarm_rate": self.plan.false_alarm_rate,
        }

    def outcome(self, cell: Cell, estimator: str, *, mismatch: bool = False) -> Outcome:
        """Return the scores of an estimator in a cell, with predicted errors under mismatch."""
        count = self.plan.scenes_of(estimator)
        path = self.store.path(estimator, self._estimator_key(cell, estimator))
        found = self.store.read(path)
        if found is None:
            made = self.localise(cell, estimator, count, progress=self._progress)._asdict()
            found = {name: leaf for name, leaf in made.items() if leaf is not None}
            self.store.write(path, found)
        else:
            self._progress(count)
        estimate = Estimate(**jax.device_put(found))
        sources, bound = self.truth(cell)
        truth = metrics.Sources(*(leaf[:count] for leaf in sources))
        scores = localization_scores.score(estimate, truth, bound_covariance=bound[:count])
        resolved = metrics.resolved(estimate, truth)
        predicted = self.predicted(cell)[:count] if mismatch else None
        return Outcome(estimator, is_count_given(cell, estimator), scores, resolved, predicted)

    def seconds(self, cell: Cell, estimator: str) -> Float[np.ndarray, "rounds"]:
        """Time per scene [s] in rounds over the first scenes of a cell, without compilation."""
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
