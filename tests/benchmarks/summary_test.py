"""Scores of a cell from known errors and bounds, and their figures."""

import numpy as np
import pytest

from ris_jax.accuracy import metrics
from ris_jax.benchmarks import bundle, figures, summary
from ris_jax.benchmarks.accuracy import Outcome
from ris_jax.benchmarks.suites import SUITES
from ris_jax.estimation.estimate import Estimate
from ris_jax.reports import localization_scores

SCENES = 40


def outcome(azimuth_errors, *, missed=0, sigma=0.01, estimator="music"):
    """One source per scene at boresight, 3 m away; the first `missed` scenes have no estimate."""
    size = len(azimuth_errors)
    column = np.zeros((size, 1))
    truth = metrics.Sources(column, column, column + 3.0, np.ones(size, int))
    counts = np.where(np.arange(size) < missed, 0, 1)
    covariance = np.broadcast_to(np.diag([sigma**2, sigma**2, 0.25]), (size, 1, 3, 3))
    azimuth = np.asarray(azimuth_errors, float)[:, None]
    estimate = Estimate(azimuth, column, column + 3.5, column + 1, counts, covariance, column[:, 0])
    scores = localization_scores.score(estimate, truth, bound_covariance=covariance)
    return Outcome(estimator, True, scores, metrics.resolved(estimate, truth))


def test_errors_of_twice_the_bound_are_six_decibels_above():
    row = summary.summarise(outcome([0.02, -0.02] * (SCENES // 2)))
    assert set(row) == set(summary.HEADER)
    np.testing.assert_allclose(row["azimuth_rmse_deg"], np.rad2deg(0.02))
    np.testing.assert_allclose(row["azimuth_bound_deg"], np.rad2deg(0.01))
    np.testing.assert_allclose(row["azimuth_above_bound_db"], 20 * np.log10(2))
    # All squares are equal, so resampled scenes give the same value.
    np.testing.assert_allclose(row["azimuth_above_bound_db_lower"], 20 * np.log10(2))
    np.testing.assert_allclose(row["azimuth_median_ratio"], 2.0)
    np.testing.assert_allclose(
        (row["range_rmse_m"], row["range_above_bound_db"]), (0.5, 0.0), atol=1e-9
    )
    np.testing.assert_allclose((row["gospa_m"], row["false_per_scene"]), (0.5, 0.0), rtol=1e-2)
    assert row["detected"] == row["resolved"] == row["count_right"] == 1.0


def test_missed_sources_count():
    row = summary.summarise(outcome([0.0] * SCENES, missed=SCENES // 4))
    assert row["detected"] == row["resolved"] == row["count_right"] == 0.75
    assert row["detected_lower"] < 0.75 < row["detected_upper"]
    # c^2 / 2 = 2 m^2 each, and half a metre for the others.
    np.testing.assert_allclose(row["gospa_m"], 0.25 * np.sqrt(2) + 0.75 * 0.5)
    assert row["gospa_m_lower"] < row["gospa_m"] < row["gospa_m_upper"]


def test_no_sources_found_gives_nan():
    row = summary.summarise(outcome([0.0] * 4, missed=4))
    assert np.isnan(row["azimuth_rmse_deg"])
    assert np.isnan(row["azimuth_above_bound_db_lower"])
    assert row["azimuth_median_ratio"] == np.inf


def test_predicted_errors_are_of_the_same_sources():
    """Errors of the first scenes have no prediction; missed sources count nowhere."""
    found = outcome([0.02] * SCENES, missed=SCENES // 4)
    predicted = np.full((SCENES, 1, 3), 0.03)
    predicted[: SCENES // 4] = 1.0  # missed
    predicted[-SCENES // 4 :] = np.inf
    row = summary.summarise(found._replace(predicted=predicted))
    assert set(row) == {*summary.HEADER, *summary.PREDICTED}
    np.testing.assert_allclose(row["azimuth_predicted_deg"], np.rad2deg(0.03))
    np.testing.assert_allclose(row["range_predicted_m"], 0.03)
    np.testing.assert_allclose(row["predicted"], 2 / 3)
    row = summary.summarise(found._replace(predicted=np.full((SCENES, 1, 3), np.nan)))
    assert np.isnan(row["azimuth_predicted_deg"])
    assert row["predicted"] == 0.0


def rows_of(suite, values, predicted=0.02):
    """Two estimators at the given places of the axis."""
    generator = np.random.default_rng(0)
    rows = []
    for value, series in values:
        for estimator in ("maximum_likelihood", "music"):
            found = outcome(0.01 * generator.normal(size=SCENES), estimator=estimator)
            if suite.mismatch:
                found = found._replace(predicted=np.full((SCENES, 1, 3), predicted))
            who = (f"{value:g}", value, series, estimator, estimator == "music")
            times = dict.fromkeys(bundle._TIMES, 2.0)
            rows.append(dict(zip(bundle._WHO, who, strict=True)) | summary.summarise(found) | times)
    return rows


@pytest.mark.parametrize("name", ["two_sources", "impairments", "heat_map", "runtime"])
def test_every_figure_has_the_bound_and_every_table_has_intervals(name, tmp_path):
    suite = SUITES[name]
    rows = rows_of(suite, [(v, s) for s in ((1.0, 2.0) if name == "heat_map" else (None,))
                           for v in (0.0, 5.0)])  # fmt: skip
    figure = figures.DRAWING[suite.figure](suite, rows)
    texts = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    if name == "heat_map":
        assert any("above\nthe bound [dB]" in text for text in texts)
    else:
        assert any("Cramér-Rao bound" in text for text in texts)
        assert any("music, K known" in text for text in texts)
    paths = bundle.write_suite(tmp_path, suite, rows, "seed: 3\nmachine: mine")
    assert {path.suffix for path in paths} == {".csv", ".tex", ".png", ".pdf"}
    for path in paths[:2]:
        text = path.read_text()
        assert "seed: 3" in text
        assert "machine: mine" in text
        assert "bound" in text
    latex = paths[1].read_text()
    assert "azimuth\\_above\\_bound\\_db" in latex
    assert "1 [0.912, 1]" in latex  # Clopper-Pearson of 40 of 40


def test_table_of_predicted_errors():
    suite = SUITES["impairments"]
    text = bundle.predictions(rows_of(suite, [(0.0, None)]))
    assert "azimuth RMSE [deg] | predicted | bound" in text
    assert " 1.15 |" in text  # 0.02 rad
    assert "misspecified bound of all sources" in text
    text = bundle.predictions(rows_of(suite, [(0.0, None)], np.nan))
    assert "only for constant signals" in text
    assert bundle.header_of(suite)[-4:] == summary.PREDICTED
    assert bundle.header_of(SUITES["snr"]) == bundle.HEADER


def test_distance_from_bound():
    rows = rows_of(SUITES["two_sources"], [(0.0, None), (5.0, None)])
    line = bundle.distance_from_bound(rows, "maximum_likelihood")
    worst = max(r["azimuth_above_bound_db"] for r in rows if r["estimator"] != "music")
    assert f"at most {max(worst, 0.0):.2f} dB" in line
    for row in rows:
        row["resolved"] = 0.9
    assert "at most 90%" in bundle.distance_from_bound(rows, "music")
