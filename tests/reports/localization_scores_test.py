"""Scores of positions by hand, and of an efficient estimator."""

import csv

import numpy as np
import pytest
from absl.testing import absltest

from ris_jax.accuracy import metrics, statistics
from ris_jax.estimation.estimate import Estimate
from ris_jax.reports import localization_scores

DEGREE = np.pi / 180


def make_estimate(azimuth_deg, elevation_deg, source_range, num_sources, deviations=(1, 1, 1)):
    """Return an estimate with equal uncorrelated deviations [deg, deg, m]."""
    azimuth = np.asarray(azimuth_deg, float) * DEGREE
    variance = (np.array(deviations) * [DEGREE, DEGREE, 1.0]) ** 2
    return Estimate(
        azimuth=azimuth,
        elevation=np.broadcast_to(np.asarray(elevation_deg, float) * DEGREE, azimuth.shape),
        source_range=np.broadcast_to(np.asarray(source_range, float), azimuth.shape),
        power=np.ones(azimuth.shape),
        num_sources=np.array(num_sources),
        covariance=np.broadcast_to(np.diag(variance), (*azimuth.shape, 3, 3)),
        noise_variance=np.ones(len(azimuth)),
    )


def make_truth(*args):
    return metrics.sources(make_estimate(*args))


def rows_of(scores, **options):
    return {row["scenes_of"]: row for row in localization_scores.score_rows(scores, **options)}


# Three scenes: (0 and 30 degrees, found 1 degree off and missed), (10, found 2 degrees off and 3 m
# too far), (no source, one false).
TRUTH = make_truth([[0, 30], [10, 0], [0, 0]], 0, [[0.5, 3], [5, 1], [1, 1]], [2, 1, 0])
ESTIMATE = make_estimate(
    [[1, 0], [8, 0], [5, 0]], 0, [[0.5, 1], [8, 1], [1, 1]], [1, 1, 1], (1, 1, 1)
)
SNR_DB = np.array([-5.0, 20.0, 3.0])


class ByHandTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        deviations = np.array([0.5 * DEGREE, DEGREE, 2.0])
        covariance = np.broadcast_to(np.diag(deviations**2), (3, 2, 3, 3)).copy()
        covariance[0, 1, 2, 2] = np.inf  # the missed source's range is not identifiable
        self.scores = localization_scores.score(
            ESTIMATE, TRUTH, snr_db=SNR_DB, bound_covariance=covariance
        )
        self.rows = rows_of(self.scores, snr_limits_db=(-5.0, 20.0))

    def test_groups(self):
        self.assertEqual(
            list(self.rows),
            ["all", "K = 0", "K = 1", "K = 2", "-5 to 0 dB", "0 to 5 dB", "15 to 20 dB",
             "r = 0 to 1 m", "r = 2 to 4 m", "r = 4 to 8 m", "20 to 40 deg apart"],
        )  # fmt: skip
        for kind in ("count", "snr"):
            rows = [row for row in self.rows.values() if row["kind"] == kind]
            self.assertEqual(sum(row["scenes"] for row in rows), 3)
            self.assertEqual(sum(row["sources"] for row in rows), 3)

    def test_summary(self):
        """Errors of 1 and 2 degrees; an efficient estimator has a median of 0.674 x 0.5 degrees."""
        lines = localization_scores.summary(list(self.rows.values())).splitlines()
        self.assertLessEqual(max(map(len, lines)), 100)
        self.assertEqual([line.split()[0] for line in lines[3:]], ["all", "K", "K", "K"])
        self.assertEqual(lines[4].split()[:5], ["K", "=", "0", "1", "-"])  # no source to find
        whole = lines[3].split()
        self.assertEqual(whole[:4], ["all", "3", "66.7%", "33.3%"])
        self.assertEqual(whole[4:7], ["1.5", "/", "0.337"])

    def test_counts(self):
        row = self.rows["all"]
        self.assertEqual((row["scenes"], row["sources"]), (3, 3))
        self.assertAlmostEqual(row["detected"], 2 / 3)
        self.assertEqual(
            (row["detected_lower"], row["detected_upper"]), statistics.binomial_interval(2, 3)
        )
        self.assertAlmostEqual(row["false_per_scene"], 1 / 3)
        self.assertAlmostEqual(row["count_right"], 1 / 3)
        # Missed: 30 degrees, and 5 m (3 m off: also false). 2 m^2 each.
        self.assertAlmostEqual(row["gospa_missed_m2"], 4 / 3)
        self.assertAlmostEqual(row["gospa_false_m2"], 4 / 3)
        off = 2 * 0.5 * np.sin(DEGREE / 2)
        self.assertAlmostEqual(row["gospa_localisation_m2"], off**2 / 3)
        total = (np.sqrt(off**2 + 2) + 2 + np.sqrt(2)) / 3
        self.assertAlmostEqual(row["gospa_m"], total)
        # 1 degree is inside an ellipsoid of deviation 1, 3 m and 2 degrees are not.
        self.assertEqual(row["inside_ellipse"], 0.5)

    def test_positions(self):
        """Two sources are found, one at 0.5 m with 1 degree, one at 5 m with 2 degrees and 3 m."""
        row = self.rows["all"]
        near = 2 * 0.5 * np.sin(DEGREE / 2)
        far = np.sqrt(25 + 64 - 80 * np.cos(2 * DEGREE))
        self.assertAlmostEqual(row["position_median_m"], (near + far) / 2)
        bounds = [np.sqrt((r * DEGREE) ** 2 * (0.25 + 1) + 4) for r in (0.5, 5.0)]
        self.assertAlmostEqual(row["position_bound_m"], np.mean(bounds), places=5)
        self.assertAlmostEqual(self.rows["K = 1"]["rmspe_deg"], np.sqrt((2**2 + 0) / 2), places=5)

    def test_errors(self):
        row = self.rows["all"]
        self.assertAlmostEqual(row["azimuth_rmse_deg"], np.sqrt((1 + 4) / 2))
        self.assertAlmostEqual(row["azimuth_median_deg"], 1.5)
        self.assertAlmostEqual(row["azimuth_rms_bound_deg"], 0.5)
        self.assertAlmostEqual(row["azimuth_median_bound_deg"], 0.5)
        expected = 0.5 * statistics.EFFICIENT_MEDIAN
        self.assertAlmostEqual(row["azimuth_efficient_median_deg"], expected)
        # Errors of 2 and 4 deviations and a missed source: mean square 10, median 4.
        self.assertAlmostEqual(row["azimuth_efficiency"], 0.1)
        self.assertAlmostEqual(row["azimuth_ratio"], 4.0)
        self.assertAlmostEqual(row["range_rmse_m"], 3 / np.sqrt(2))
        # The missed source has no bound of its range: errors of 0 and 1.5 deviations.
        self.assertAlmostEqual(row["range_ratio"], 0.75)

    def test_subsets_of_the_sources(self):
        """Groups by range split the sources of a scene, so they have no count scores."""
        row = self.rows["r = 0 to 1 m"]
        self.assertEqual((row["scenes"], row["sources"], row["detected"]), (1, 1, 1.0))
        self.assertTrue(
            np.isnan([row["gospa_m"], row["count_right"], row["false_per_scene"]]).all()
        )
        self.assertEqual(self.rows["r = 2 to 4 m"]["detected"], 0.0)
        self.assertTrue(np.isnan(self.rows["r = 2 to 4 m"]["azimuth_rmse_deg"]))
        self.assertEqual(self.rows["r = 2 to 4 m"]["azimuth_ratio"], np.inf)

    def test_scenes_without_a_source(self):
        row = self.rows["K = 0"]
        self.assertEqual((row["scenes"], row["sources"], row["false_per_scene"]), (1, 0, 1.0))
        self.assertTrue(np.isnan(row["detected"]))

    def test_tables(self):
        rows = list(self.rows.values())
        text = localization_scores.as_text(rows)
        self.assertEqual(text.count("scenes_of"), 4)
        self.assertIn("azimuth of the sources found [deg]", text)
        self.assertNotIn("nan", text)
        parsed = list(csv.DictReader(localization_scores.as_csv(rows).splitlines()))
        self.assertEqual(tuple(parsed[0]), localization_scores.HEADER)
        self.assertEqual(float(parsed[0]["azimuth_median_deg"]), rows[0]["azimuth_median_deg"])
        latex = localization_scores.as_latex(rows)
        self.assertEqual(latex.count(r"\begin{tabular}"), 4)
        self.assertNotIn("&  &", latex)


class WithoutBoundTest(absltest.TestCase):
    def test_columns_of_the_bound_are_empty(self):
        rows = rows_of(localization_scores.score(ESTIMATE, TRUTH))
        self.assertFalse(any(label.endswith("dB") for label in rows))  # and there is no SNR
        row = rows["all"]
        self.assertAlmostEqual(row["azimuth_median_deg"], 1.5)
        for name in ("rms_bound_deg", "efficient_median_deg", "efficiency", "ratio"):
            self.assertTrue(np.isnan(row[f"azimuth_{name}"]), name)

    def test_snr_of_the_data_makes_the_bins(self):
        scores = localization_scores.score(ESTIMATE, TRUTH, snr_db=np.array([1.2, 1.2, 1.2]))
        labels = [label for label in rows_of(scores) if label.endswith("dB")]
        self.assertLen(labels, 1)
        self.assertEqual(rows_of(scores)[labels[0]]["scenes"], 3)

    def test_infinite_estimates(self):
        """A plane wave has an infinite range error, which the RMSE omits."""
        estimate = ESTIMATE._replace(source_range=np.array([[np.inf, 1], [5.5, 1], [1, 1]]))
        row = rows_of(localization_scores.score(estimate, TRUTH))["all"]
        self.assertAlmostEqual(row["range_rmse_m"], 0.5)
        self.assertEqual(row["range_median_m"], np.inf)

    def test_one_place(self):
        truth = make_truth([[0.0]], 0, 2.0, [1])
        estimate = make_estimate([[0.0]], 0, 2.0, [1])
        rows = rows_of(localization_scores.score(estimate, truth))
        self.assertFalse(any(label.endswith("apart") for label in rows))
        self.assertEqual(rows["all"]["gospa_m"], 0.0)


def test_efficient_estimator():
    """Errors drawn from the bound give ratio 1, 0.674, 95 % inside, and equal medians."""
    random = np.random.default_rng(0)
    batch = 4000
    deviations = np.array([0.1 * DEGREE, 0.2 * DEGREE, 0.3]) * random.uniform(0.2, 3, (batch, 1, 1))
    truth = make_truth(np.zeros((batch, 1)), 0, 20.0, np.ones(batch, int))
    errors = random.normal(size=(batch, 1, 3)) * deviations
    covariance = deviations[..., None] ** 2 * np.eye(3)
    estimate = make_estimate(np.zeros((batch, 1)), 0, 20.0, np.ones(batch, int))._replace(
        azimuth=errors[..., 0],
        elevation=errors[..., 1],
        source_range=20 + errors[..., 2],
        covariance=covariance.astype(np.float32),
    )
    scores = localization_scores.score(estimate, truth, bound_covariance=covariance)
    row = rows_of(scores)["all"]
    assert row["detected"] == 1.0
    assert row["inside_ellipse"] == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / batch))
    for name, unit, _ in localization_scores.PARAMETERS:
        assert row[f"{name}_efficiency"] == pytest.approx(1, abs=4 * np.sqrt(2 / batch))
        assert row[f"{name}_ratio_lower"] < 0.6745 < row[f"{name}_ratio_upper"]
        assert row[f"{name}_rmse_{unit}"] == pytest.approx(
            row[f"{name}_rms_bound_{unit}"], rel=0.06
        )
        assert row[f"{name}_median_{unit}"] == pytest.approx(
            row[f"{name}_efficient_median_{unit}"], rel=0.08
        )


if __name__ == "__main__":
    absltest.main()
