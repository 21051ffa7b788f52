"""Summaries against hand calculations, SciPy and simulation."""

import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from ris_jax.accuracy import statistics


class SummaryTest(parameterized.TestCase):
    def test_missed_sources_are_left_out(self):
        errors = np.array([[3, np.nan], [-4, -5]])
        self.assertAlmostEqual(statistics.root_mean_square(errors), np.sqrt(50 / 3))
        self.assertEqual(statistics.median_absolute(errors), 4.0)

    @parameterized.parameters(statistics.root_mean_square, statistics.median_absolute)
    def test_empty(self, summary):
        self.assertTrue(np.isnan(summary(np.array([]))))
        self.assertTrue(np.isnan(summary(np.array([[np.nan]]))))
        self.assertEqual(summary(np.array([np.inf, -np.inf, np.nan])), np.inf)


class EfficiencyTest(parameterized.TestCase):
    def test_by_hand(self):
        """e^2/var = 1, 4, 1, 0: mean 1.5, deviation sqrt(3), standard error sqrt(3)/2."""
        result = statistics.efficiency(np.array([2.0, 6, -1, 0]), np.array([4.0, 9, 1, 5]))
        self.assertAlmostEqual(result.ratio, 1 / 1.5)
        half = 1.959963984540054 * np.sqrt(3) / 2  # above the mean: no upper limit
        np.testing.assert_allclose(result.ratio_interval, (1 / (1.5 + half), np.inf))
        self.assertEqual(result.median_ratio, 1.0)
        self.assertEqual((result.count, result.missed), (4, 0))

    def test_upper_limit(self):
        """Scores 1, 3, 1, 3, ...: mean 2, deviation sqrt(n / (n - 1)), n = 50."""
        result = statistics.efficiency(np.sqrt(np.tile([1.0, 3.0], 25)), np.ones(50))
        half = 1.959963984540054 / 7
        np.testing.assert_allclose(result.ratio_interval, (1 / (2 + half), 1 / (2 - half)))

    def test_coverage_of_the_intervals(self):
        """For an efficient Gaussian estimator, 1 and 0.674 are inside in 95 % of 400 runs."""
        random = np.random.default_rng(0)
        inside = np.zeros(2)
        for _ in range(400):
            variances = 10.0 ** random.uniform(-4, 2, 300)
            result = statistics.efficiency(random.normal(0, np.sqrt(variances)), variances)
            inside += [
                result.ratio_interval[0] <= 1 <= result.ratio_interval[1],
                result.median_interval[0] <= 0.67449 <= result.median_interval[1],
            ]
        # Three standard errors of 0.95 in 400 runs: 0.033; the median is conservative.
        self.assertBetween(inside[0] / 400, 0.917, 0.983)
        self.assertBetween(inside[1] / 400, 0.917, 0.99)

    def test_an_estimator_off_by_two(self):
        """Twice the standard deviation gives a quarter of the ratio and twice the median."""
        errors = 2 * np.random.default_rng(0).normal(size=4000)
        result = statistics.efficiency(errors, np.ones(4000))
        self.assertBetween(0.25, *result.ratio_interval)
        self.assertBetween(2 * statistics.EFFICIENT_MEDIAN, *result.median_interval)
        self.assertLess(np.ptp(result.ratio_interval), 0.05)

    @parameterized.parameters((6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61))
    def test_ranks_of_the_median_interval(self, count, lower, upper):
        """Conover, Practical Nonparametric Statistics: the usual table of order statistics."""
        scores = np.random.default_rng(0).permutation(count) + 1.0
        result = statistics.efficiency(scores, np.ones(count))
        self.assertEqual(result.median_interval, (lower, upper))

    def test_few_values_have_infinite_intervals(self):
        result = statistics.efficiency(np.arange(1.0, 6), np.ones(5))
        self.assertEqual(result.median_interval, (0.0, np.inf))
        result = statistics.efficiency(np.array([2.0]), np.ones(1))
        self.assertEqual((result.ratio, result.ratio_interval), (0.25, (0.0, np.inf)))

    def test_missed_and_not_identifiable(self):
        """Two missed sources count as infinite in the median; unbounded ones are omitted."""
        errors = np.array([1, np.nan, -2, np.inf, 3, 4, np.nan])
        variances = np.array([1, 1, 1, 1, 1, np.inf, np.nan])
        result = statistics.efficiency(errors, variances)
        self.assertEqual((result.count, result.missed), (5, 2))
        self.assertEqual(result.median_ratio, 3.0)  # of 1, 2, 3, inf, inf
        self.assertAlmostEqual(result.ratio, 3 / 14)
        most_missed = statistics.efficiency(errors[:2], variances[:2])
        self.assertEqual(most_missed.median_ratio, np.inf)

    @parameterized.parameters(([], []), ([1.0], [np.inf]), ([np.nan], [np.nan]))
    def test_empty(self, errors, variances):
        result = statistics.efficiency(np.array(errors), np.array(variances))
        self.assertEqual((result.count, result.missed), (0, 0))
        values = (result.ratio, *result.ratio_interval, result.median_ratio)
        self.assertTrue(np.isnan([*values, *result.median_interval]).all())

    def test_all_missed(self):
        result = statistics.efficiency(np.full(9, np.nan), np.ones(9))
        self.assertTrue(np.isnan([result.ratio, *result.ratio_interval]).all())
        self.assertEqual((result.median_ratio, result.median_interval), (np.inf, (np.inf, np.inf)))

    def test_no_error_at_all(self):
        result = statistics.efficiency(np.zeros(9), np.ones(9))
        self.assertEqual((result.ratio, result.median_ratio), (np.inf, 0.0))

    @parameterized.parameters(
        ([1.0, 2.0], [1.0], r"one shape; got \(2,\) and \(1,\)"),
        ([1.0], [0.0], "above zero; got 0.0"),
        ([1.0], [-1.0], "above zero"),
    )
    def test_refuses(self, errors, variances, message):
        with self.assertRaisesRegex(ValueError, message):
            statistics.efficiency(np.array(errors), np.array(variances))


class EfficientErrorsTest(parameterized.TestCase):
    """Errors of an efficient estimator with varying standard deviations."""

    def test_one_deviation(self):
        share = statistics.efficient_share(np.array([0, 2.0, 3.92, 1e9]), np.array([2.0]))
        np.testing.assert_allclose(share, [0, 0.682689, 0.95, 1], atol=1e-5)
        median = statistics.efficient_median(np.array([2.0, 2.0]))
        self.assertAlmostEqual(median, 2 * statistics.EFFICIENT_MEDIAN)

    def test_against_simulation(self):
        random = np.random.default_rng(0)
        deviations = 10.0 ** random.uniform(-2, 1, 500)
        errors = np.abs(random.normal(size=(400, 500)) * deviations)
        median = statistics.efficient_median(deviations)
        # 200 000 draws: the fraction below has a standard error of 0.0011.
        self.assertAlmostEqual(np.mean(errors < median), 0.5, delta=0.005)
        share = statistics.efficient_share(np.array([median, 1.0]), deviations)
        np.testing.assert_allclose(share, [0.5, np.mean(errors < 1.0)], atol=0.005)

    def test_non_finite_entries_are_left_out(self):
        deviations = np.array([[1.0, np.inf], [np.nan, 1.0]])
        median = statistics.efficient_median(deviations)
        self.assertAlmostEqual(median, statistics.EFFICIENT_MEDIAN)

    def test_empty(self):
        self.assertTrue(np.isnan(statistics.efficient_median(np.array([np.inf]))))
        self.assertTrue(np.isnan(statistics.efficient_share(np.ones(2), np.array([]))).all())


class CoverageTest(parameterized.TestCase):
    @parameterized.parameters((1, 1.959963984540054), (2, np.sqrt(-2 * np.log(0.05))))
    def test_edge(self, dimension, radius):
        """The edge is 1.96 in one dimension and a Rayleigh quantile in two."""
        errors = np.zeros((2, dimension))
        errors[:, 0] = radius - 1e-9, radius + 1e-9
        unit = np.tile(np.eye(dimension), (2, 1, 1))
        self.assertEqual(statistics.ellipse_coverage(errors, unit).share, 0.5)

    def test_gaussian_errors(self):
        """Correlated errors have units that differ by five decades; 4 standard errors of 4000."""
        random = np.random.default_rng(0)
        mixing = random.normal(size=(4000, 3, 3)) * np.array([1e-3, 1e-3, 1e2])[:, None]
        errors = np.einsum("nij,nj->ni", mixing, random.normal(size=(4000, 3)))
        covariance = mixing @ mixing.swapaxes(1, 2)
        for level in (0.5, 0.95):
            share, lower, upper = statistics.ellipse_coverage(errors, covariance, level)
            self.assertAlmostEqual(share, level, delta=4 * np.sqrt(level * (1 - level) / 4000))
            self.assertEqual(
                (lower, upper), statistics.binomial_interval(round(share * 4000), 4000)
            )
        overconfident = statistics.ellipse_coverage(errors, covariance / 4)
        self.assertLess(overconfident.upper, 0.7)

    def test_non_finite_entries_are_left_out(self):
        errors = np.array([[0.0], [np.nan], [0.0], [9.0]])
        covariance = np.array([1.0, 1.0, np.inf, 1.0]).reshape(4, 1, 1)
        self.assertEqual(statistics.ellipse_coverage(errors, covariance).share, 0.5)

    def test_empty(self):
        result = statistics.ellipse_coverage(np.zeros((0, 2)), np.zeros((0, 2, 2)))
        self.assertTrue(np.isnan(result).all())

    @parameterized.parameters(
        (np.zeros(2), np.eye(2), 0.95, r"need \[n, d\]"),
        (np.zeros((1, 2)), np.ones((1, 3, 3)), 0.95, r"\(1, 2\) and \(1, 3, 3\)"),
        (np.zeros((1, 2)), np.eye(2)[None], 1.0, "level: .*got 1.0"),
        (np.zeros((1, 2)), np.ones((1, 2, 2)) - 2, 0.95, "positive definite"),
    )
    def test_refuses(self, errors, covariance, level, message):
        with self.assertRaisesRegex(ValueError, message):
            statistics.ellipse_coverage(errors, covariance, level)


class CalibrationTest(parameterized.TestCase):
    @parameterized.parameters(1, 10, 15)
    def test_perfectly_calibrated(self, bins):
        """With perfect calibration the rest is chance: per bin the mean modulus of a Gaussian.

        A bin of n entries adds sqrt(2 / pi) sqrt(sum c (1 - c)) / N; of 15 bins the mean of the
        sum is below 4 standard errors sqrt(bins * 0.25 / N).
        """
        random, size = np.random.default_rng(0), 40_000
        confidence = random.uniform(0.2, 1.0, size)
        right = random.random(size) < confidence
        found = statistics.expected_calibration_error(confidence, right, bins)
        self.assertBetween(found, 0.0, 4 * np.sqrt(bins * 0.25 / size))

    def test_overconfident(self):
        right = np.arange(10) < 5
        self.assertEqual(statistics.expected_calibration_error(np.ones(10), right), 0.5)

    def test_by_hand(self):
        """Two bins: |0.1 + 0.3 - 1| = 0.6 and |0.6 + 0.9 - 1| = 0.5, over four."""
        confidence, right = np.array([0.1, 0.3, 0.6, 0.9]), np.array([True, False, False, True])
        found = statistics.expected_calibration_error(confidence, right, bins=2)
        self.assertAlmostEqual(found, 1.1 / 4)

    def test_bins_by_hand(self):
        """The same four entries, with an empty bin between them."""
        confidence, right = np.array([0.1, 0.3, 0.7, 1.0]), np.array([True, False, False, True])
        found = statistics.reliability(confidence, right, bins=3)
        np.testing.assert_allclose(found.confidence, [0.2, np.nan, 0.85])
        np.testing.assert_allclose(found.right, [0.5, np.nan, 0.5])
        np.testing.assert_array_equal(found.count, [2, 0, 2])

    def test_errors_of_opposite_sign_do_not_cancel(self):
        """One bin is 0.25 too confident, one 0.25 too cautious; a single bin would hide this."""
        confidence = np.repeat([0.25, 0.75], 10)
        right = np.tile([True, False], 10)
        self.assertEqual(statistics.expected_calibration_error(confidence, right, bins=2), 0.25)
        self.assertEqual(statistics.expected_calibration_error(confidence, right, bins=1), 0.0)

    @parameterized.parameters(
        ([], [], r"n > 0; got \(0,\)"),
        ([0.5], [True, False], r"got \(1,\) and \(2,\)"),
        ([[0.5]], [[True]], r"need \[n\] and \[n\]"),
        ([0.5, -0.1], [True, False], "confidence: need probabilities"),
        ([0.5, 1.1], [True, False], "confidence: need probabilities"),
        ([0.5, float("nan")], [True, False], "confidence: need probabilities"),
    )
    def test_refuses(self, confidence, right, message):
        with self.assertRaisesRegex(ValueError, message):
            statistics.expected_calibration_error(np.array(confidence), np.array(right))


class BinomialIntervalTest(parameterized.TestCase):
    @parameterized.parameters((0, 10), (10, 10), (3, 10), (97, 100), (1, 1), (500, 10000))
    def test_against_scipy(self, successes, trials):
        for level in (0.8, 0.95):
            expected = scipy.stats.binomtest(successes, trials).proportion_ci(level, "exact")
            np.testing.assert_allclose(
                statistics.binomial_interval(successes, trials, level),
                (expected.low, expected.high),
            )

    def test_no_success(self):
        """Upper limit x with (1 - x)^n = 2.5 %."""
        np.testing.assert_allclose(statistics.binomial_interval(0, 10), (0, 1 - 0.025**0.1))

    def test_no_trials(self):
        self.assertTrue(np.isnan(statistics.binomial_interval(0, 0)).all())

    @parameterized.parameters((3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.0), (1, 2, 1.0))
    def test_refuses(self, successes, trials, level):
        with self.assertRaisesRegex(ValueError, "need 0 <= successes <= trials"):
            statistics.binomial_interval(successes, trials, level)


class BootstrapTest(parameterized.TestCase):
    def test_against_simulation(self):
        """About 95 % of 300 intervals of skewed means contain the true mean."""
        random = np.random.default_rng(0)
        held = [
            low <= 1.0 <= high
            for low, high in (
                statistics.bootstrap_interval(random.exponential(size=100), resamples=300)
                for _ in range(300)
            )
        ]
        # 95 % minus the known deficit of the percentile bootstrap, within four standard errors.
        self.assertBetween(np.mean(held), 0.88, 0.99)

    def test_near_the_normal_interval_of_a_mean(self):
        values = np.random.default_rng(1).normal(3.0, 1.0, 2000)
        half = 1.96 * values.std() / np.sqrt(2000)
        expected = values.mean() - half, values.mean() + half
        np.testing.assert_allclose(statistics.bootstrap_interval(values), expected, atol=0.01)

    def test_ratio_of_sums(self):
        """With two or no sources per scene, the ratio of the sums is constant."""
        wholes = np.array([0.0, 2.0, 2.0, 0.0] * 5)
        interval = statistics.bootstrap_interval(3 * wholes, wholes)
        np.testing.assert_allclose(interval, (3.0, 3.0))

    def test_empty(self):
        self.assertTrue(np.isnan(statistics.bootstrap_interval(np.zeros(3), np.zeros(3))).all())
        self.assertTrue(np.isnan(statistics.bootstrap_interval(np.zeros(0))).all())

    def test_refuses(self):
        with self.assertRaisesRegex(ValueError, r"need \[B\] and \[B\]"):
            statistics.bootstrap_interval(np.zeros(3), np.ones(2))
        with self.assertRaisesRegex(ValueError, "level"):
            statistics.bootstrap_interval(np.zeros(3), level=1.0)


class MeanIntervalTest(parameterized.TestCase):
    def test_against_scipy(self):
        values = np.array([1.0, 2.0, 4.0, 4.5])
        expected = scipy.stats.t.interval(0.95, 3, loc=values.mean(), scale=scipy.stats.sem(values))
        np.testing.assert_allclose(statistics.mean_interval(values), expected)

    def test_few_values(self):
        self.assertEqual(statistics.mean_interval(np.ones(1)), (-np.inf, np.inf))
        self.assertTrue(np.isnan(statistics.mean_interval(np.zeros(0))).all())

    def test_refuses(self):
        with self.assertRaisesRegex(ValueError, r"need \[n\]"):
            statistics.mean_interval(np.zeros((2, 2)))


if __name__ == "__main__":
    absltest.main()
