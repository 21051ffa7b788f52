"""Metrics against hand-worked scenes, the axioms of a metric, brute force and simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from ris_jax import arrays, metrics, scenes

DEGREE = np.pi / 180


def scene(*points):
    """One scene of sources (azimuth [deg], elevation [deg], range [m])."""
    values = np.array(points, float).reshape(-1, 3)
    angles = values[:, :2] * DEGREE
    return metrics.Sources(
        angles[None, :, 0], angles[None, :, 1], values[None, :, 2], np.array([len(values)])
    )


def boresight(*ranges):
    """One scene of sources on the z axis, where distances are differences of ranges."""
    return scene(*((0, 0, source_range) for source_range in ranges))


def random_scenes(seed, batch=60, most=4):
    """Crowded scenes of 0 ... most sources in random slots, padding NaN."""
    random = np.random.default_rng(seed)
    num_sources = random.integers(0, most + 1, batch)
    fields = [
        random.uniform(low, high, (batch, most)) for low, high in ((-1, 1), (-0.5, 0.5), (0.5, 4))
    ]
    padding = np.arange(most) >= num_sources[:, None]
    return metrics.Sources(*(np.where(padding, np.nan, x) for x in fields), num_sources)


def permuted(batch, seed=0):
    """The same scenes with their sources in another order."""
    random = np.random.default_rng(seed)
    order = np.tile(np.arange(batch.azimuth.shape[1]), (len(batch.num_sources), 1))
    for row, count in zip(order, batch.num_sources, strict=True):
        row[:count] = random.permutation(count)
    fields = (np.take_along_axis(values, order, axis=1) for values in batch[:3])
    return metrics.Sources(*fields, batch.num_sources)


def partial_assignments(rows, columns):
    """Every set of disjoint pairs, the empty one included."""
    for size in range(min(rows, columns) + 1):
        for chosen in itertools.combinations(range(rows), size):
            for partners in itertools.permutations(range(columns), size):
                yield list(zip(chosen, partners, strict=True))


def positions(batch):
    """Cartesian positions by the package's one definition of the angles, float64."""
    with jax.enable_x64(True):
        return np.asarray(arrays.direction(*batch[:2])) * batch.source_range[..., None]


class SourcesTest(parameterized.TestCase):
    def test_of_a_simulated_truth(self):
        zeros = jnp.zeros((2, 3))
        truth = scenes.Truth(zeros, zeros, zeros + 2, zeros, jnp.array([1, 3]), jnp.zeros(2))
        result = metrics.sources(truth)
        for values in result[:3]:
            self.assertEqual(values.dtype, np.float64)
        np.testing.assert_array_equal(
            result.source_range, [[2, np.nan, np.nan], [2, 2, 2]], strict=True
        )
        np.testing.assert_array_equal(result.num_sources, [1, 3])

    def test_the_argument_is_not_changed(self):
        given = scene((1, 2, 3), (4, 5, 6))._replace(num_sources=np.array([1]))
        metrics.sources(given)
        self.assertTrue(np.isfinite(given.azimuth).all())

    def test_no_sources_at_all(self):
        self.assertEqual(metrics.sources(scene()).azimuth.shape, (1, 0))

    @parameterized.parameters(
        ("azimuth", np.zeros(2), r"azimuth: need \[B, K\].*\(2,\)"),
        ("elevation", np.zeros((1, 3)), r"elevation: .*\(1, 3\) and \(1, 2\)"),
        ("source_range", np.ones((2, 2)), "source_range: need"),
        ("num_sources", np.array([1, 1]), r"num_sources: need \[1\] integers; got \(2,\)"),
        ("num_sources", np.array([1.0]), "num_sources: .*float64"),
        ("num_sources", np.array([3]), r"num_sources: need 0 ... 2; got 3"),
        ("num_sources", np.array([-1]), "num_sources: need 0"),
        ("azimuth", np.array([[0, np.nan]]), r"azimuth: .*finite; got nan at \(0, 1\)"),
        ("elevation", np.array([[np.inf, 0]]), r"elevation: .*finite; got inf at \(0, 0\)"),
        ("source_range", np.array([[1, np.nan]]), "source_range: .*above zero; got nan"),
        ("source_range", np.array([[0.0, 1]]), "source_range: .*above zero; got 0.0"),
    )
    def test_refuses(self, field, value, message):
        given = scene((1, 2, 3), (4, 5, 6))._replace(**{field: value})
        with self.assertRaisesRegex(ValueError, message):
            metrics.sources(given)

    def test_batches_must_agree(self):
        with self.assertRaisesRegex(ValueError, "as many scenes; got 60 and 1"):
            metrics.gospa(random_scenes(0), scene())


class DistanceTest(parameterized.TestCase):
    def test_positions_of_the_array_frame(self):
        """The angles mean what `arrays.direction` says they mean."""
        estimate, truth = random_scenes(0), random_scenes(1)
        expected = np.linalg.norm(
            positions(estimate)[:, :, None] - positions(truth)[:, None], axis=-1
        )
        result = metrics.position_distance(estimate, truth)
        np.testing.assert_allclose(result, np.nan_to_num(expected, nan=np.inf), atol=1e-12)

    def test_directions_of_the_array_frame(self):
        ones = [
            batch._replace(source_range=np.ones_like(batch.azimuth))
            for batch in (random_scenes(0), random_scenes(1))
        ]
        cosines = np.einsum("bic,bjc->bij", *map(positions, ones))
        result = metrics.direction_distance(*ones)
        np.testing.assert_allclose(
            result, np.nan_to_num(np.arccos(cosines), nan=np.inf), atol=1e-10
        )

    @parameterized.parameters(1e-3, 1e-6, 1e-9, 1e-12)
    def test_small_angles(self, angle_deg):
        """At 60 degrees of elevation azimuth counts half; arccos would round to zero."""
        for moved, weight in (((angle_deg, 60, 2), 0.5), ((0, angle_deg, 2), 1.0)):
            start = (0, 60, 2) if weight < 1 else (0, 0, 2)
            angle = metrics.direction_distance(scene(moved), scene(start)).item()
            distance = metrics.position_distance(scene(moved), scene(start)).item()
            np.testing.assert_allclose(angle, weight * angle_deg * DEGREE, rtol=1e-9)
            np.testing.assert_allclose(distance, 2 * angle, rtol=1e-9)

    def test_opposite_directions(self):
        self.assertAlmostEqual(
            metrics.direction_distance(scene((0, 0, 1)), scene((180, 0, 1))).item(), np.pi
        )

    @parameterized.parameters((np.inf, 2), (2, np.inf), (np.inf, np.inf))
    def test_plane_waves(self, estimated, true):
        estimate, truth = boresight(estimated), boresight(true)
        self.assertEqual(metrics.position_distance(estimate, truth).item(), np.inf)
        self.assertEqual(metrics.direction_distance(estimate, truth).item(), 0.0)

    def test_padding_is_infinitely_far(self):
        estimate = boresight(1, 2)._replace(num_sources=np.array([1]))
        for distance in (metrics.position_distance, metrics.direction_distance):
            result = distance(estimate, boresight(1))
            np.testing.assert_array_equal(result, [[[0], [np.inf]]])


def assign_one(distance, **options):
    distance = np.array(distance, float)
    return metrics.assign(
        distance[None], np.array([len(distance)]), np.array([distance.shape[1]]), **options
    )[0].tolist()


class AssignTest(parameterized.TestCase):
    @parameterized.parameters(
        ([[1, 5], [5, 1]], [0, 1]),
        ([[5, 1], [1, 5]], [1, 0]),
        ([[0, 3], [3, 4]], [0, 1]),  # squares: 16 against 18
        ([[0, 3], [3, 4.5]], [1, 0]),  # 20.25 against 18
        ([[2], [1]], [1]),
        ([[2, 1]], [-1, 0]),
        ([[0, 0], [0, np.inf]], [1, 0]),  # as many pairs as possible
        ([[1, np.inf], [np.inf, np.inf]], [0, -1]),
        ([[np.inf, np.inf]], [-1, -1]),
        ([[1e-9, 2e-9, 1e300], [2e-9, 1e-9, np.inf], [np.inf, 1, 1e300]], [0, 1, 2]),
    )
    def test_by_hand(self, distance, expected):
        self.assertEqual(assign_one(distance), expected)

    @parameterized.parameters(
        ([[1, 2], [2, 9]], 3.0, [1, 0]),  # both at 2: 8, against 1 + 9
        ([[1, 2.5], [2.5, 9]], 3.0, [0, -1]),  # 12.5 against 10
        ([[3]], 3.0, [-1]),
        ([[2.999]], 3.0, [0]),
        ([[1e200, np.inf]], 1e-3, [-1, -1]),
    )
    def test_cutoff(self, distance, cutoff, expected):
        self.assertEqual(assign_one(distance, cutoff=cutoff), expected)

    def test_order(self):
        """4 against 5 for sums, 16 against 12.5 for squares."""
        distance = [[0, 2.5], [2.5, 4]]
        self.assertEqual(assign_one(distance, order=1), [0, 1])
        self.assertEqual(assign_one(distance, order=2), [1, 0])

    def test_padding_is_not_looked_at(self):
        distance = np.array([[[7.0, np.nan], [np.nan, 0.0]]])
        one = np.array([1])
        np.testing.assert_array_equal(metrics.assign(distance, one, one), [[0, -1]])
        np.testing.assert_array_equal(metrics.assign(distance, 0 * one, one), [[-1, -1]])

    def test_no_scenes(self):
        none = np.zeros(0, int)
        self.assertEqual(metrics.assign(np.zeros((0, 2, 3)), none, none).shape, (0, 3))

    @parameterized.parameters(
        (np.zeros((2, 2)), [2], {}, r"distance: need \[B, K_est, K_true\]"),
        (np.zeros((1, 2, 2)), [3], {}, "num_estimated: need 0 ... 2"),
        (np.zeros((1, 3, 2)), [3], {}, "num_true: need 0 ... 2"),
        (np.zeros((1, 2, 2)), [2], {"cutoff": 0.0}, "cutoff > 0"),
        (np.zeros((1, 2, 2)), [2], {"cutoff": np.nan}, "cutoff > 0"),
        (np.zeros((1, 2, 2)), [2], {"order": 0.5}, "order >= 1"),
        (np.full((1, 2, 2), np.nan), [2], {}, "zero or more.*nan.*scene 0"),
        (np.full((1, 2, 2), -1.0), [2], {}, "zero or more"),
    )
    def test_refuses(self, distance, count, options, message):
        with self.assertRaisesRegex(ValueError, f"(?s){message}"):
            metrics.assign(distance, np.array(count), np.array(count), **options)


class GospaTest(parameterized.TestCase):
    @parameterized.parameters(
        ((3,), (3,), 0.0, 0.0, 0.0),
        ((4,), (3,), 1.0, 0.0, 0.0),
        ((5,), (3,), 0.0, 2.0, 2.0),  # at the cutoff: a miss and a false estimate
        ((4, 9), (3,), 1.0, 0.0, 2.0),
        ((), (3, 5, 8), 0.0, 6.0, 0.0),  # c^2 / 2 a miss
        ((3, 5), (), 0.0, 0.0, 4.0),
        ((), (), 0.0, 0.0, 0.0),
        ((3.5, 6), (7, 3, 1), 1.25, 2.0, 0.0),
        ((np.inf,), (np.inf, 3), 0.0, 4.0, 2.0),  # a plane wave is near nothing
    )
    def test_by_hand(self, estimate, truth, localisation, missed, false):
        result = metrics.gospa(boresight(*estimate), boresight(*truth), cutoff=2.0)
        expected = (localisation, missed, false)
        np.testing.assert_allclose(np.ravel(result[1:]), expected, atol=1e-12)
        np.testing.assert_allclose(result.total, [np.sqrt(sum(expected))])

    def test_order_one(self):
        """0.5 + 1.5 m, and 3 / 2 m for each of two misses."""
        result = metrics.gospa(boresight(3.5, 5.5), boresight(3, 7, 20, 30), cutoff=3, order=1)
        np.testing.assert_allclose(np.ravel(result), [5, 2, 3, 0])

    @parameterized.product(cutoff=(0.3, 1.5, 50.0), order=(1.0, 2.0, 3.0))
    def test_brute_force(self, cutoff, order):
        """The definition: the least cost over all sets of disjoint pairs."""
        estimate, truth = random_scenes(0), random_scenes(1)
        distance = np.linalg.norm(
            positions(estimate)[:, :, None] - positions(truth)[:, None], axis=-1
        )
        expected = [
            min(
                sum(pairs[i, j] ** order for i, j in chosen)
                + cutoff**order / 2 * (rows + columns - 2 * len(chosen))
                for chosen in partial_assignments(rows, columns)
            )
            for pairs, rows, columns in zip(
                distance, estimate.num_sources, truth.num_sources, strict=True
            )
        ]
        result = metrics.gospa(estimate, truth, cutoff=cutoff, order=order)
        np.testing.assert_allclose(result.total**order, expected, atol=1e-9)
        parts = result.localisation + result.missed + result.false
        np.testing.assert_allclose(result.total**order, parts, atol=1e-9)

    def test_identity(self):
        truth = random_scenes(0)
        np.testing.assert_allclose(metrics.gospa(permuted(truth), truth).total, 0, atol=1e-7)

    def test_symmetry(self):
        forward = metrics.gospa(random_scenes(0), random_scenes(1))
        backward = metrics.gospa(random_scenes(1), random_scenes(0))
        np.testing.assert_allclose(forward.total, backward.total, rtol=1e-12)
        np.testing.assert_allclose(forward.missed, backward.false)
        np.testing.assert_allclose(forward.false, backward.missed)

    @parameterized.product(cutoff=(0.3, 1.5, 50.0), order=(1.0, 2.0))
    def test_triangle_inequality(self, cutoff, order):
        one, two, three = (random_scenes(seed, batch=300) for seed in range(3))

        def total(estimate, truth):
            return metrics.gospa(estimate, truth, cutoff, order).total

        slack = total(one, two) + total(two, three) - total(one, three)
        self.assertGreater(slack.min(), -1e-9)

    def test_order_of_the_sources(self):
        estimate, truth = random_scenes(0), random_scenes(1)
        expected = metrics.gospa(estimate, truth)
        result = metrics.gospa(permuted(estimate, 1), permuted(truth, 2))
        for left, right in zip(result, expected, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-12)

    @parameterized.parameters((np.inf, 2, "finite cutoff"), (-1, 2, "cutoff"), (1, np.inf, "order"))
    def test_refuses(self, cutoff, order, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.gospa(boresight(1), boresight(1), cutoff, order)


class MatchedErrorsTest(parameterized.TestCase):
    def test_by_hand(self):
        estimate = scene((-179, 0, 3), (10, 20, 5))
        truth = scene((10, 21, 4), (179, 0, 2), (0, 0, 1))
        errors = metrics.matched_errors(estimate, truth, np.array([[1, 0, -1]]))
        nan = np.nan
        np.testing.assert_allclose(errors.azimuth, [[0, 2 * DEGREE, nan]], atol=1e-12)
        np.testing.assert_allclose(errors.elevation, [[-DEGREE, 0, nan]], atol=1e-12)
        np.testing.assert_allclose(errors.source_range, [[1, 1, nan]])
        # Law of cosines: 25 + 16 - 40 cos 1 deg, 9 + 4 - 12 cos 2 deg.
        squares = [41 - 40 * np.cos(DEGREE), 13 - 12 * np.cos(2 * DEGREE), nan]
        np.testing.assert_allclose(errors.position**2, [squares])

    def test_padding(self):
        truth = boresight(3, 4)._replace(num_sources=np.array([1]))
        errors = metrics.matched_errors(boresight(3, 4), truth, np.array([[1, 0]]))
        np.testing.assert_array_equal(np.isnan(errors), [[[False, True]]] * 4)
        self.assertEqual(errors.position[0, 0], 1.0)

    def test_nothing_estimated(self):
        errors = metrics.matched_errors(scene(), boresight(3), np.array([[-1]]))
        self.assertTrue(np.isnan(errors).all())

    @parameterized.parameters((np.inf, 2, np.inf), (2, np.inf, -np.inf), (np.inf, np.inf, 0))
    def test_plane_waves(self, estimated, true, expected):
        errors = metrics.matched_errors(boresight(estimated), boresight(true), np.array([[0]]))
        self.assertEqual(errors.source_range.item(), expected)
        self.assertEqual(errors.position.item(), np.inf)

    @parameterized.parameters(
        (np.array([0]), r"matches: need \(1, 1\) int; got \(1,\)"),
        (np.array([[0.0]]), "matches: .*float64"),
        (np.array([[1]]), "no padding"),
        (np.array([[-2]]), "no padding"),
    )
    def test_refuses(self, matches, message):
        estimate = boresight(3, 4)._replace(num_sources=np.array([1]))
        with self.assertRaisesRegex(ValueError, message):
            metrics.matched_errors(estimate, boresight(3), matches)


class DetectionTest(parameterized.TestCase):
    @parameterized.parameters(
        ([(4.9, 0, 1)], [(0, 0, 9)], [0], 0),  # range plays no part
        ([(5.1, 0, 1)], [(0, 0, 1)], [-1], 1),
        ([(0, -5.1, 1)], [(0, 0, 1)], [-1], 1),
        ([(4.9, 4.9, 1)], [(0, 0, 1)], [0], 0),  # a box, not a circle
        ([(-179, 0, 1)], [(179, 0, 1)], [0], 0),
        ([(4.5, 0, 1), (8.5, 0, 1)], [(0, 0, 1), (4, 0, 1)], [0, 1], 0),  # two before one close
        ([(1, 0, 1), (3, 0, 1)], [(2.9, 0, 1), (1.1, 0, 1)], [1, 0], 0),
        ([(1, 0, 1), (1, 0, 1)], [(1, 0, 1)], None, 1),  # one source is found once
        ([], [(1, 0, 1)], [-1], 0),
        ([(1, 0, 1)], [], [], 1),
    )
    def test_by_hand(self, estimate, truth, matches, false_alarms):
        result = metrics.detection(scene(*estimate), scene(*truth))
        if matches is not None:
            self.assertEqual(result.matches[0].tolist(), matches)
        self.assertEqual(result.detected.tolist(), (result.matches >= 0).tolist())
        self.assertEqual(result.false_alarms.tolist(), [false_alarms])

    def test_gate(self):
        result = metrics.detection(scene((2, 0, 1)), scene((0, 0, 1)), gate_rad=1 * DEGREE)
        self.assertFalse(result.detected.any())

    def test_padding_is_not_detected(self):
        truth = boresight(1, 1)._replace(num_sources=np.array([1]))
        result = metrics.detection(truth, truth)
        np.testing.assert_array_equal(result.detected, [[True, False]])
        self.assertEqual(result.false_alarms.tolist(), [0])

    def test_rates(self):
        """3 of 5 sources; 0, 2, 1 and 0 false estimates."""
        result = metrics.Detection(
            detected=np.array([[True, True], [True, False], [False, False], [False, False]]),
            matches=np.zeros((4, 2), int),
            false_alarms=np.array([0, 2, 1, 0]),
            num_true=np.array([2, 1, 2, 0]),
        )
        self.assertAlmostEqual(metrics.detection_rate(result), 0.6)
        self.assertAlmostEqual(metrics.false_alarms_per_scene(result), 0.75)
        self.assertAlmostEqual(metrics.false_alarm_rate(result), 0.5)

    def test_rates_of_nothing(self):
        nothing = random_scenes(0, batch=0)
        result = metrics.detection(nothing, nothing)
        for rate in (
            metrics.detection_rate,
            metrics.false_alarms_per_scene,
            metrics.false_alarm_rate,
        ):
            self.assertTrue(np.isnan(rate(result)))
        self.assertTrue(np.isnan(metrics.detection_rate(metrics.detection(scene(), scene()))))

    @parameterized.parameters(0.0, -1.0, np.nan)
    def test_refuses(self, gate):
        with self.assertRaisesRegex(ValueError, "gate_rad"):
            metrics.detection(scene(), scene(), gate_rad=gate)


class CountTest(parameterized.TestCase):
    def test_confusion(self):
        true, estimated = np.array([1, 1, 2, 2, 2]), np.array([1, 2, 2, 2, 0])
        expected = [[0, 0, 0], [0, 1, 1], [1, 0, 2]]
        np.testing.assert_array_equal(metrics.confusion_matrix(true, estimated, 2), expected)
        self.assertAlmostEqual(metrics.count_accuracy(true, estimated), 3 / 5)

    def test_no_scenes(self):
        none = np.zeros(0, int)
        self.assertTrue(np.isnan(metrics.count_accuracy(none, none)))
        np.testing.assert_array_equal(metrics.confusion_matrix(none, none, 1), np.zeros((2, 2)))

    @parameterized.parameters(
        ([1, 3], [1, 1], "num_true: need 0 ... 2"),
        ([1, 1], [1, 3], "num_estimated: need 0 ... 2"),
        ([1, 1], [1], r"num_estimated: need \[2\]"),
        ([1.0], [1], "integers"),
    )
    def test_confusion_refuses(self, true, estimated, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.confusion_matrix(np.array(true), np.array(estimated), 2)

    @parameterized.parameters(([1, 1], [1]), ([[1]], [[1]]))
    def test_accuracy_refuses(self, true, estimated):
        with self.assertRaisesRegex(ValueError, "twice"):
            metrics.count_accuracy(np.array(true), np.array(estimated))


class SummaryTest(parameterized.TestCase):
    def test_missed_sources_are_left_out(self):
        errors = np.array([[3, np.nan], [-4, -5]])
        self.assertAlmostEqual(metrics.root_mean_square(errors), np.sqrt(50 / 3))
        self.assertEqual(metrics.median_absolute(errors), 4.0)

    @parameterized.parameters(metrics.root_mean_square, metrics.median_absolute)
    def test_of_nothing(self, summary):
        self.assertTrue(np.isnan(summary(np.array([]))))
        self.assertTrue(np.isnan(summary(np.array([[np.nan]]))))
        self.assertEqual(summary(np.array([np.inf, -np.inf, np.nan])), np.inf)


class RmspeTest(parameterized.TestCase):
    @parameterized.parameters(
        ([(3, 4, 1)], [(0, 0, 9)], np.sqrt((9 + 16) / 2)),
        ([(-179, 0, 1)], [(179, 0, 1)], np.sqrt(4 / 2)),  # periodic
        ([(10, 0, 1), (0, 0, 1)], [(2, 0, 1), (10, 0, 1)], np.sqrt(4 / 4)),
        ([(0, 0, 1)], [(0, 0, 1), (50, 0, 1)], np.sqrt(90**2 / 2)),  # a miss is not free
        ([(0, 0, 1), (50, 0, 1)], [(0, 0, 1)], np.sqrt(90**2 / 2)),
        ([], [(0, 0, 1)], 90),
        ([], [], np.nan),
    )
    def test_by_hand(self, estimate, truth, expected_deg):
        result = metrics.rmspe(scene(*estimate), scene(*truth))
        np.testing.assert_allclose(result, [expected_deg * DEGREE], rtol=1e-9)

    def test_penalty(self):
        result = metrics.rmspe(scene(), scene((0, 0, 1)), penalty=0.25)
        np.testing.assert_allclose(result, [0.25])
        with self.assertRaisesRegex(ValueError, "penalty"):
            metrics.rmspe(scene(), scene(), penalty=-1)

    def test_every_permutation(self):
        """The published definition, for equal counts."""
        random = np.random.default_rng(0)
        angles = random.uniform(-np.pi, np.pi, (2, 2, 20, 3))
        batches = [
            metrics.Sources(*batch, np.ones((20, 3)), np.full(20, 3))  # of a scene: 3 sources
            for batch in angles
        ]

        def error(order):
            difference = angles[0][..., list(order)] - angles[1]
            return np.sqrt(np.mean(np.angle(np.exp(1j * difference)) ** 2, axis=(0, -1)))

        expected = np.min([error(order) for order in itertools.permutations(range(3))], axis=0)
        np.testing.assert_allclose(metrics.rmspe(*batches), expected)


class EfficiencyTest(parameterized.TestCase):
    def test_by_hand(self):
        """e^2/var = 1, 4, 1, 0: mean 1.5, deviation sqrt(3), standard error sqrt(3)/2."""
        result = metrics.efficiency(np.array([2.0, 6, -1, 0]), np.array([4.0, 9, 1, 5]))
        self.assertAlmostEqual(result.ratio, 1 / 1.5)
        half = 1.959963984540054 * np.sqrt(3) / 2  # above the mean: no upper limit
        np.testing.assert_allclose(result.ratio_interval, (1 / (1.5 + half), np.inf))
        self.assertEqual(result.median_ratio, 1.0)
        self.assertEqual((result.count, result.missed), (4, 0))

    def test_upper_limit(self):
        """Scores 1, 3, 1, 3, ...: mean 2, deviation sqrt(n / (n - 1)), n = 50."""
        result = metrics.efficiency(np.sqrt(np.tile([1.0, 3.0], 25)), np.ones(50))
        half = 1.959963984540054 / 7
        np.testing.assert_allclose(result.ratio_interval, (1 / (2 + half), 1 / (2 - half)))

    def test_coverage_of_the_intervals(self):
        """An efficient Gaussian estimator: 1 and 0.674, each inside in about 95 % of 400 runs."""
        random = np.random.default_rng(0)
        inside = np.zeros(2)
        for _ in range(400):
            variances = 10.0 ** random.uniform(-4, 2, 300)
            result = metrics.efficiency(random.normal(0, np.sqrt(variances)), variances)
            inside += [
                result.ratio_interval[0] <= 1 <= result.ratio_interval[1],
                result.median_interval[0] <= 0.67449 <= result.median_interval[1],
            ]
        # Three standard errors of a share of 0.95 in 400 runs: 0.033; the median's is conservative.
        self.assertBetween(inside[0] / 400, 0.917, 0.983)
        self.assertBetween(inside[1] / 400, 0.917, 0.99)

    def test_an_estimator_off_by_two(self):
        """Twice the standard deviation: a quarter of the ratio, twice the median."""
        errors = 2 * np.random.default_rng(0).normal(size=4000)
        result = metrics.efficiency(errors, np.ones(4000))
        self.assertBetween(0.25, *result.ratio_interval)
        self.assertBetween(2 * metrics.EFFICIENT_MEDIAN, *result.median_interval)
        self.assertLess(np.ptp(result.ratio_interval), 0.05)

    @parameterized.parameters((6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61))
    def test_ranks_of_the_median_interval(self, count, lower, upper):
        """Conover, Practical Nonparametric Statistics: the usual table of order statistics."""
        scores = np.random.default_rng(0).permutation(count) + 1.0
        result = metrics.efficiency(scores, np.ones(count))
        self.assertEqual(result.median_interval, (lower, upper))

    def test_few_bound_nothing(self):
        result = metrics.efficiency(np.arange(1.0, 6), np.ones(5))
        self.assertEqual(result.median_interval, (0.0, np.inf))
        result = metrics.efficiency(np.array([2.0]), np.ones(1))
        self.assertEqual((result.ratio, result.ratio_interval), (0.25, (0.0, np.inf)))

    def test_missed_and_not_identifiable(self):
        """Two missed of five: infinite in the median; no bound: as if it were not there."""
        errors = np.array([1, np.nan, -2, np.inf, 3, 4, np.nan])
        variances = np.array([1, 1, 1, 1, 1, np.inf, np.nan])
        result = metrics.efficiency(errors, variances)
        self.assertEqual((result.count, result.missed), (5, 2))
        self.assertEqual(result.median_ratio, 3.0)  # of 1, 2, 3, inf, inf
        self.assertAlmostEqual(result.ratio, 3 / 14)
        most_missed = metrics.efficiency(errors[:2], variances[:2])
        self.assertEqual(most_missed.median_ratio, np.inf)

    @parameterized.parameters(([], []), ([1.0], [np.inf]), ([np.nan], [np.nan]))
    def test_of_nothing(self, errors, variances):
        result = metrics.efficiency(np.array(errors), np.array(variances))
        self.assertEqual((result.count, result.missed), (0, 0))
        values = (result.ratio, *result.ratio_interval, result.median_ratio)
        self.assertTrue(np.isnan([*values, *result.median_interval]).all())

    def test_all_missed(self):
        result = metrics.efficiency(np.full(9, np.nan), np.ones(9))
        self.assertTrue(np.isnan([result.ratio, *result.ratio_interval]).all())
        self.assertEqual((result.median_ratio, result.median_interval), (np.inf, (np.inf, np.inf)))

    def test_no_error_at_all(self):
        result = metrics.efficiency(np.zeros(9), np.ones(9))
        self.assertEqual((result.ratio, result.median_ratio), (np.inf, 0.0))

    @parameterized.parameters(
        ([1.0, 2.0], [1.0], r"one shape; got \(2,\) and \(1,\)"),
        ([1.0], [0.0], "above zero; got 0.0"),
        ([1.0], [-1.0], "above zero"),
    )
    def test_refuses(self, errors, variances, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.efficiency(np.array(errors), np.array(variances))


class CoverageTest(parameterized.TestCase):
    @parameterized.parameters((1, 1.959963984540054), (2, np.sqrt(-2 * np.log(0.05))))
    def test_edge(self, dimension, radius):
        """Standard normal: 1.96 on the line; in the plane the radius is Rayleigh's."""
        errors = np.zeros((2, dimension))
        errors[:, 0] = radius - 1e-9, radius + 1e-9
        unit = np.tile(np.eye(dimension), (2, 1, 1))
        self.assertEqual(metrics.ellipse_coverage(errors, unit).share, 0.5)

    def test_gaussian_errors(self):
        """Correlated errors whose units differ by five decades; 4 standard errors of 4000."""
        random = np.random.default_rng(0)
        mixing = random.normal(size=(4000, 3, 3)) * np.array([1e-3, 1e-3, 1e2])[:, None]
        errors = np.einsum("nij,nj->ni", mixing, random.normal(size=(4000, 3)))
        covariance = mixing @ mixing.swapaxes(1, 2)
        for level in (0.5, 0.95):
            share, lower, upper = metrics.ellipse_coverage(errors, covariance, level)
            self.assertAlmostEqual(share, level, delta=4 * np.sqrt(level * (1 - level) / 4000))
            self.assertEqual((lower, upper), metrics.binomial_interval(round(share * 4000), 4000))
        overconfident = metrics.ellipse_coverage(errors, covariance / 4)
        self.assertLess(overconfident.upper, 0.7)

    def test_what_is_not_finite_is_left_out(self):
        errors = np.array([[0.0], [np.nan], [0.0], [9.0]])
        covariance = np.array([1.0, 1.0, np.inf, 1.0]).reshape(4, 1, 1)
        self.assertEqual(metrics.ellipse_coverage(errors, covariance).share, 0.5)

    def test_of_nothing(self):
        result = metrics.ellipse_coverage(np.zeros((0, 2)), np.zeros((0, 2, 2)))
        self.assertTrue(np.isnan(result).all())

    @parameterized.parameters(
        (np.zeros(2), np.eye(2), 0.95, r"need \[n, d\]"),
        (np.zeros((1, 2)), np.ones((1, 3, 3)), 0.95, r"\(1, 2\) and \(1, 3, 3\)"),
        (np.zeros((1, 2)), np.eye(2)[None], 1.0, "level: .*got 1.0"),
        (np.zeros((1, 2)), np.ones((1, 2, 2)) - 2, 0.95, "positive definite"),
    )
    def test_refuses(self, errors, covariance, level, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.ellipse_coverage(errors, covariance, level)


class BinomialIntervalTest(parameterized.TestCase):
    @parameterized.parameters((0, 10), (10, 10), (3, 10), (97, 100), (1, 1), (500, 10000))
    def test_against_scipy(self, successes, trials):
        for level in (0.8, 0.95):
            expected = scipy.stats.binomtest(successes, trials).proportion_ci(level, "exact")
            np.testing.assert_allclose(
                metrics.binomial_interval(successes, trials, level), (expected.low, expected.high)
            )

    def test_no_success(self):
        """Upper limit x with (1 - x)^n = 2.5 %."""
        np.testing.assert_allclose(metrics.binomial_interval(0, 10), (0, 1 - 0.025**0.1))

    def test_no_trials(self):
        self.assertTrue(np.isnan(metrics.binomial_interval(0, 0)).all())

    @parameterized.parameters((3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.0), (1, 2, 1.0))
    def test_refuses(self, successes, trials, level):
        with self.assertRaisesRegex(ValueError, "need 0 <= successes <= trials"):
            metrics.binomial_interval(successes, trials, level)


if __name__ == "__main__":
    absltest.main()
