"""Speed of simulator, training step, estimators and localisation of files, and its scaling.

Compile time is separate. The table also has operations and bytes of a scene (`operations.cost`) and
their fractions of the machine's peak rates.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ris_jax import compilation, localization
from ris_jax import config as config_lib
from ris_jax.accuracy import statistics
from ris_jax.benchmarks import draw, operations, store, suites
from ris_jax.benchmarks.accuracy import BenchmarkPlan
from ris_jax.benchmarks.suites import Cell
from ris_jax.data.recordings import containers, reader
from ris_jax.estimation import matching_pursuit, maximum_likelihood, search_grid
from ris_jax.estimation.baselines.catalogue import METHODS
from ris_jax.networks import network_start as network_lib
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, source_table, tables
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

_SECONDS = 2.0  # of every measurement
_SIMULATOR, _TRAINING, _FILES = "simulator", "training step", "files to positions"
_FACTORS = (0.5, 2.0)
HEADER = (
    "stage", "N", "L", "K", "grid", "batch", "scenes_per_second", "scenes_per_second_lower",
    "scenes_per_second_upper", "scenes_per_core_second", "compile_seconds", "operations_per_scene",
    "bytes_per_scene", "share_of_matrix_rate", "share_of_copy_rate",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TimedCase:
    """A stage and the sizes at which it is measured."""

    stage: str
    config: config_lib.Config
    batch: int
    num_sources: int | None = None  # of every scene; None: as configured
    grid: tuple[int, int, int] | None = None  # of the search; None: that of the array
    varies: str = ""  # the size that differs from the configuration

    @property
    def cells(self) -> tuple[int, int, int]:
        """Return the cells of the search grid."""
        system = self.config.system
        return self.grid or search_grid.search_shape(
            arrays.element_positions(system),
            search_grid.region_of(self.config.scene),
            wavelength=system.wavelength,
            wavefront=system.wavefront,
        )

    @property
    def sizes(self) -> dict[str, Any]:
        """Return the sizes as table columns."""
        system, scene = self.config.system, self.config.scene
        span = sorted({scene.min_sources, scene.max_sources})
        return {
            "N": system.num_elements,
            "L": system.num_snapshots,
            "K": self.num_sources or " to ".join(map(str, span)),
            "grid": "x".join(map(str, self.cells)),
            "batch": self.batch,
        }


class Built(NamedTuple):
    """A stage ready to be timed."""

    call: Callable[[], Any]
    cost: operations.Cost
    compile_seconds: float
    close: Callable[[], Any] = lambda: None  # called after the timing


def stages(plan: BenchmarkPlan) -> Iterator[TimedCase]:
    """Yield every stage at the configured sizes."""
    for stage in (_SIMULATOR, _TRAINING, *plan.estimators, _FILES):
        yield TimedCase(stage, plan.config, plan.batch_size)


def growth(plan: BenchmarkPlan) -> Iterator[TimedCase]:
    """Yield simulator, training step and blind estimators at half and twice each size."""
    counting = [name for name in plan.estimators if METHODS[name].counts]
    for stage in (_SIMULATOR, _TRAINING, *counting):
        base = TimedCase(stage, plan.config, plan.batch_size)
        yield base
        for factor in _FACTORS:
            yield from _resized(base, factor)
        if stage in counting:  # the others process all places, used or not
            for count in sorted({1, plan.config.scene.max_sources}):
                yield dataclasses.replace(base, num_sources=count, varies="K")


CASES = {"throughput": stages, "growth": growth}


def _resized(base: TimedCase, factor: float) -> Iterator[TimedCase]:
    """Yield the case at a multiple of N, of L, of the batch and, if there is one, of the grid."""
    system = base.config.system
    longer = max(int(system.num_snapshots * factor), 2)
    if system.element_positions is None:
        wider = max(int(system.rows * factor), 1)
        yield dataclasses.replace(
            base, config=config_lib.override(base.config, {"system.rows": wider}), varies="N"
        )
    yield dataclasses.replace(
        base,
        config=config_lib.override(base.config, {"system.num_snapshots": longer}),
        varies="L",
    )
    batch = max(int(base.batch * factor**2), 1)
    yield dataclasses.replace(base, batch=batch, varies="batch")
    if base.stage == "maximum_likelihood":
        finer = (max(int(base.cells[0] * factor), 2), *base.cells[1:])
        yield dataclasses.replace(base, grid=finer, varies="grid")


def _compiled(function: Any, *arguments: Any) -> tuple[Any, operations.Cost, float]:
    """Compile a jitted function for its arguments, with the compiler options of the package.

    Returns:
      The program, its cost and the time to compile it.
    """
    began = time.perf_counter()
    # Options of programs within another one do not count: give them to the outermost.
    compiled = function.lower(*arguments).compile(compiler_options=compilation.compiler_options())
    spent = time.perf_counter() - began
    return compiled, operations.cost(function, compiled, *arguments), spent


def _drawn(case: TimedCase) -> draw.Draw:
    """Draw the scenes of an estimator; the number of places is constant."""
    count = case.num_sources
    changes = () if count is None else tuple(suites.sources(count).items())
    return draw.draw(case.config, Cell(case.stage, 0.0, changes), case.batch)


def _simulator(case: TimedCase, plan: BenchmarkPlan) -> Built:
    key = scenes.stream_key(case.config.training.seed, "throughput")
    places = jnp.arange(case.batch)
    function = jax.jit(lambda first: scenes.scenes_at(key, first + places, case.config))
    compiled, cost, spent = _compiled(function, jnp.asarray(0))
    return Built(lambda: compiled(jnp.asarray(0)), cost, spent)


def _batch(case: TimedCase) -> scenes.Scene:
    draw_batch = jax.jit(lambda key: scenes.sample_scenes(key, case.config, case.batch))
    return draw_batch(scenes.stream_key(case.config.training.seed, "throughput"))


def _training(case: TimedCase, plan: BenchmarkPlan) -> Built:
    state = step_lib.for_program(state_lib.create_train_state(case.config))
    batch = _batch(case)
    compiled, cost, spent = _compiled(step_lib.donating_step, state, batch)

    def call():
        nonlocal state  # which is donated
        state, metrics = compiled(state, batch)
        return metrics["loss"]

    return Built(call, cost, spent)


def _estimator(case: TimedCase, plan: BenchmarkPlan) -> Built:
    """Build an estimator on the device, blind if possible; without copies to and from the host."""
    drawn, options = _drawn(case), localization.options_of(case.config)
    measurement = jax.tree.map(jnp.asarray, drawn.measurement)
    positions = arrays.element_positions(case.config.system)
    if case.stage == "maximum_likelihood":
        search = matching_pursuit.SearchOptions(grid=case.cells)
        function = jax.jit(
            lambda m: maximum_likelihood.maximum_likelihood(m, positions, options=search, **options)
        )
        compiled, cost, spent = _compiled(function, measurement)
        found = float(np.mean(np.asarray(compiled(measurement).num_sources)))
        counted = case.batch * operations.search_operations(case.config, search, found)
        return Built(lambda: compiled(measurement), cost._replace(operations=counted), spent)
    if case.stage == "network":
        network = plan.network_of(case.stage)
        assert network is not None  # the command has loaded it
        waves = (options["wavelength"], options["wavefront"], options["source_signal"])
        network = network.for_array(measurement, positions, *waves)
        function = jax.jit(
            lambda m: network_lib.network_start(m, positions, network, None, **options)
        )
    else:
        counts = np.asarray(drawn.truth.num_sources)
        arguments = {"estimator": case.stage, "num_sources": counts}
        arguments["network"] = plan.network_of(case.stage)
        # Traced, it might be unknown, and the search would estimate it.
        noise = np.asarray(drawn.measurement.noise_variance)
        function = jax.jit(
            lambda m: localization.localize(
                m._replace(noise_variance=noise), positions, **arguments, **options
            )
        )
    compiled, cost, spent = _compiled(function, measurement)
    return Built(lambda: compiled(measurement), cost, spent)


def _files(case: TimedCase, plan: BenchmarkPlan) -> Built:
    """Build blind localisation from a recordings file to a table of positions, as in `localize`."""
    drawn, system = _drawn(case), case.config.system
    folder = tempfile.TemporaryDirectory()
    path = pathlib.Path(folder.name) / "recordings.npz"
    containers.save(
        path,
        {
            **{name: np.asarray(getattr(drawn.measurement, name))
               for name in ("snapshots", "channel", "codes")},
            "wavelength": system.wavelength,
            "element_positions": np.asarray(arrays.element_positions(system)),
            "snr_db": np.asarray(drawn.truth.snr_db),
        },
    )  # fmt: skip
    network = plan.network_of("network")

    def call():
        found = reader.read(path)
        estimate = localization.localize_in_chunks(
            reader.measurement_of(found), found.positions, estimator="auto", network=network,
            chunk_size=case.batch, **localization.options_of(case.config),
        )  # fmt: skip
        rows = source_table.source_rows(estimate, np.arange(case.batch))
        return tables.as_csv(source_table.HEADER, rows)

    began = time.perf_counter()
    call()
    spent = time.perf_counter() - began
    return Built(call, operations.Cost(np.nan, np.nan), spent, folder.cleanup)


def measure(case: TimedCase, plan: BenchmarkPlan, ceilings: operations.Ceilings) -> dict[str, Any]:
    """Measure a row of `HEADER`.

    Args:
      case: the stage and its sizes.
      plan: has the network.
      ceilings: peak rates of the machine.
    """
    build = {_SIMULATOR: _simulator, _TRAINING: _training, _FILES: _files}
    built = build.get(case.stage, _estimator)(case, plan)
    try:
        timing = operations.timed(built.call, _SECONDS)
    finally:
        built.close()
    mean, (low, high) = timing.seconds.mean(), statistics.mean_interval(timing.seconds)
    return {"stage": case.stage} | case.sizes | {
        "scenes_per_second": case.batch / mean,
        "scenes_per_second_lower": case.batch / high,
        "scenes_per_second_upper": case.batch / low if low > 0 else np.inf,
        "scenes_per_core_second": case.batch / timing.core_seconds,
        "compile_seconds": built.compile_seconds,
        "operations_per_scene": built.cost.operations / case.batch,
        "bytes_per_scene": built.cost.bytes_moved / case.batch,
        "share_of_matrix_rate": built.cost.operations / mean / ceilings.operations,
        "share_of_copy_rate": built.cost.bytes_moved / mean / ceilings.bytes_per_second,
    }  # fmt: skip


def rows_of(
    suite: str,
    plan: BenchmarkPlan,
    where: store.Store,
    progress: Callable[[int], Any],
    report: Callable[[str], Any] = lambda _: None,
) -> tuple[list[dict[str, Any]], operations.Ceilings]:
    """Return all rows and the machine's rates; stored results are from the same machine.

    Args:
      suite: one of `CASES`.
      plan: estimators, batch and configuration.
      where: the directory.
      progress: called once per row.
      report: called with a line of text for each row.
    """
    machine = {"machine": provenance.machine(), "versions": provenance.versions()}
    path = where.path("ceilings", machine)
    found = where.read(path)
    if found is None:
        found = {n: np.asarray(v) for n, v in operations.ceilings(_SECONDS)._asdict().items()}
        where.write(path, found)
    ceilings = operations.Ceilings(*(float(found[n]) for n in operations.Ceilings._fields))
    rows, cases = [], list(CASES[suite](plan))
    for number, case in enumerate(cases, start=1):
        began = time.monotonic()
        key = machine | {
            "case": case.sizes | {"stage": case.stage, "varies": case.varies},
            "config": config_lib.to_dict(case.config),
            "network": plan.name_of("network" if case.stage == _FILES else case.stage),
        }
        path = where.path(f"throughput-{case.stage.replace(' ', '_')}", key)
        stored = where.read(path)
        if stored is None:
            row = measure(case, plan, ceilings)
            where.write(path, row)
        else:
            row = {name: stored[name].item() for name in HEADER}
        rows.append(row | {"varies": case.varies})
        progress(1)
        spent = time.monotonic() - began
        report(f"{suite}, stage {number} of {len(cases)}, {case.stage}: {spent:.1f} s")
    return rows, ceilings
