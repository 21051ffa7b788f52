"""Operations and sizes that are timed, and the time from a file to positions."""

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.benchmarks import accuracy, operations, speed_report, throughput
from ris_jax.estimation.estimate import Estimate


def plan_of(config, estimators=("maximum_likelihood", "music")):
    return accuracy.BenchmarkPlan(config, estimators, num_scenes=4, batch_size=4)


def test_growth_covers_every_size():
    plan = plan_of(config_lib.Config())
    cases = list(throughput.growth(plan))
    assert {case.varies for case in cases} == {"", "N", "L", "K", "grid", "batch"}
    assert {case.stage for case in cases} == {"simulator", "training step", "maximum_likelihood"}
    sizes = [(case.stage, *case.sizes.values()) for case in cases]
    assert len(set(sizes)) == len(sizes)
    base = next(case for case in cases if case.stage == "simulator").sizes
    grown = [c.sizes for c in cases if c.stage == "simulator" and c.varies == "N"]
    assert [size["N"] / base["N"] for size in grown] == [0.5, 2.0]
    assert [case.stage for case in throughput.stages(plan)] == [
        "simulator", "training step", "maximum_likelihood", "music", "files to positions"
    ]  # fmt: skip


@pytest.mark.full
def test_from_a_file_to_positions(config, monkeypatch):
    """Noise and number of sources are unknown; the rate follows from the time."""
    calls = []

    def localize(measurement, positions, **options):
        calls.append((measurement, options))
        places = np.ones((len(measurement.snapshots), options["max_sources"]))
        covariance = np.broadcast_to(np.eye(3), (*places.shape, 3, 3))
        counts = np.ones(len(places), int)
        return Estimate(places, places, places, places, counts, covariance, places[:, 0])

    monkeypatch.setattr(localization, "localize", localize)
    monkeypatch.setattr(throughput, "_SECONDS", 0.0)
    case = throughput.TimedCase("files to positions", config, 4)
    row = throughput.measure(case, plan_of(config), operations.Ceilings(1.0, 1.0))
    assert set(row) == set(throughput.HEADER)
    assert len(calls) == 5  # one compiles, one warms up, three are timed
    assert calls[0][1]["num_sources"] is None
    assert calls[0][0].snapshots.shape == (4, 4, 4)
    assert row["scenes_per_second"] > 0
    assert np.isnan(row["operations_per_scene"])
    header, (cells,) = speed_report.table([row])
    assert len(header) == len(cells)
    assert cells[0] == "files to positions"
    assert cells[-1] == "-"


@pytest.mark.parametrize("growing", [False, True])
def test_figures(growing):
    plan = plan_of(config_lib.Config())
    cases = throughput.growth(plan) if growing else throughput.stages(plan)
    numbers = dict.fromkeys(throughput.HEADER[6:], 2.0)
    rows = [{"stage": case.stage, "varies": case.varies} | case.sizes | numbers for case in cases]
    figure = speed_report.figure(rows)
    assert len(figure.axes) == (5 if growing else 1)
    labels = {axes.get_xlabel() for axes in figure.axes}
    assert labels == (set(speed_report._AXES.values()) if growing else {"scenes/s"})
