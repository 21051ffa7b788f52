"""Metrics against scenes by hand, the axioms of a metric, brute force and simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.accuracy import metrics
from ris_jax.physics import arrays, scenes

DEGREE = np.pi / 180


def scene(*points):
    """Return one scene of sources (azimuth [deg], elevation [deg], range [m])."""
    values = np.array(points, float).reshape(-1, 3)
    angles = values[:, :2] * DEGREE
    return metrics.Sources(
        angles[None, :, 0], angles[None, :, 1], values[None, :, 2], np.array([len(values)])
    )


def boresight(*ranges):
    """Return one scene of sources on the z axis: distances are differences of ranges."""
    return scene(*((0, 0, source_range) for source_range in ranges))


def random_scenes(seed, batch=60, most=4):
    """Draw dense scenes of 0 ... most sources in random slots, padding NaN."""
    random = np.random.default_rng(seed)
    num_sources = random.integers(0, most + 1, batch)
    fields = [
        random.uniform(low, high, (batch, most)) for low, high in ((-1, 1), (-0.5, 0.5), (0.5, 4))
    ]
    padding = np.arange(most) >= num_sources[:, None]
    return metrics.Sources(*(np.where(padding, np.nan, x) for x in fields), num_sources)


def permuted(batch, seed=0):
    """Permute the sources of each scene."""
    random = np.random.default_rng(seed)
    order = np.tile(np.arange(batch.azimuth.shape[1]), (len(batch.num_sources), 1))
    for row, count in zip(order, batch.num_sources, strict=True):
        row[:count] = random.permutation(count)
    fields = (np.take_along_axis(values, order, axis=1) for values in batch[:3])
    return metrics.Sources(*fields, batch.num_sources)


def partial_assignments(rows, columns):
    """Yield every set of disjoint pairs, including the empty set."""
    for size in range(min(rows, columns) + 1):
        for chosen in itertools.combinations(range(rows), size):
            for partners in itertools.permutations(range(columns), size):
                yield list(zip(chosen, partners, strict=True))


def positions(batch):
    """Return Cartesian positions by the package's definition of the angles, float64."""
    with jax.enable_x64(True):
        return np.asarray(arrays.direction(*batch[:2])) * batch.source_range[..., None]


class SourcesTest(parameterized.TestCase):
    def test_simulated_truth(self):
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

    def test_no_sources(self):
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
        with self.assertRaisesRegex(ValueError, "equal numbers of scenes; got 60 and 1"):
            metrics.gospa(random_scenes(0), scene())


class DistanceTest(parameterized.TestCase):
    def test_positions_of_the_array_frame(self):
        """The angles follow `arrays.direction`."""
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
        """At 60 degrees of elevation an azimuth error counts half; arccos would round to zero."""
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

    def test_padding_is_ignored(self):
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
        ((), (3, 5, 8), 0.0, 6.0, 0.0),  # c^2 / 2 per miss
        ((3, 5), (), 0.0, 0.0, 4.0),
        ((), (), 0.0, 0.0, 0.0),
        ((3.5, 6), (7, 3, 1), 1.25, 2.0, 0.0),
        ((np.inf,), (np.inf, 3), 0.0, 4.0, 2.0),  # a plane wave matches no source
    )
    def test_by_hand(self, estimate, truth, localisation, missed, false):
        result = metrics.gospa(boresight(*estimate), boresight(*truth), cutoff=2.0)
        expected = (localisation, missed, false)
        np.testing.assert_allclose(np.ravel(result[1:]), expected, atol=1e-12)
        np.testing.assert_allclose(result.total, [np.sqrt(sum(expected))])

    def test_order_one(self):
        """Order one gives 0.5 + 1.5 m, and 3 / 2 m for each of two misses."""
        result = metrics.gospa(boresight(3.5, 5.5), boresight(3, 7, 20, 30), cutoff=3, order=1)
        np.testing.assert_allclose(np.ravel(result), [5, 2, 3, 0])

    @parameterized.product(cutoff=(0.3, 1.5, 50.0), order=(1.0, 2.0, 3.0))
    def test_brute_force(self, cutoff, order):
        """The result is the least cost over all sets of disjoint pairs."""
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
        (np.array([[1]]), "not padding"),
        (np.array([[-2]]), "not padding"),
    )
    def test_refuses(self, matches, message):
        estimate = boresight(3, 4)._replace(num_sources=np.array([1]))
        with self.assertRaisesRegex(ValueError, message):
            metrics.matched_errors(estimate, boresight(3), matches)


class DetectionTest(parameterized.TestCase):
    @parameterized.parameters(
        ([(4.9, 0, 1)], [(0, 0, 9)], [0], 0),  # range has no effect
        ([(5.1, 0, 1)], [(0, 0, 1)], [-1], 1),
        ([(0, -5.1, 1)], [(0, 0, 1)], [-1], 1),
        ([(4.9, 4.9, 1)], [(0, 0, 1)], [0], 0),  # a box, not a circle
        ([(-179, 0, 1)], [(179, 0, 1)], [0], 0),
        ([(4.5, 0, 1), (8.5, 0, 1)], [(0, 0, 1), (4, 0, 1)], [0, 1], 0),  # two before one close
        ([(1, 0, 1), (3, 0, 1)], [(2.9, 0, 1), (1.1, 0, 1)], [1, 0], 0),
        ([(1, 0, 1), (1, 0, 1)], [(1, 0, 1)], None, 1),  # one source counts once
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
        """Find 3 of 5 sources, with 0, 2, 1 and 0 false estimates."""
        result = metrics.Detection(
            detected=np.array([[True, True], [True, False], [False, False], [False, False]]),
            matches=np.zeros((4, 2), int),
            false_alarms=np.array([0, 2, 1, 0]),
            num_true=np.array([2, 1, 2, 0]),
        )
        self.assertAlmostEqual(metrics.detection_rate(result), 0.6)
        self.assertAlmostEqual(metrics.false_alarms_per_scene(result), 0.75)
        self.assertAlmostEqual(metrics.false_alarm_rate(result), 0.5)

    def test_rates_of_empty_scenes(self):
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


class RmspeTest(parameterized.TestCase):
    @parameterized.parameters(
        ([(3, 4, 1)], [(0, 0, 9)], np.sqrt((9 + 16) / 2)),
        ([(-179, 0, 1)], [(179, 0, 1)], np.sqrt(4 / 2)),  # periodic
        ([(10, 0, 1), (0, 0, 1)], [(2, 0, 1), (10, 0, 1)], np.sqrt(4 / 4)),
        ([(0, 0, 1)], [(0, 0, 1), (50, 0, 1)], np.sqrt(90**2 / 2)),  # a miss has a penalty
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
        """Compare with the published definition, for equal counts."""
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


class ResolvedTest(parameterized.TestCase):
    TRUTH = scene((0, 0, 2), (4, 0, 3))  # 4 degrees apart: each within 2 degrees

    @parameterized.parameters(
        ((scene((4.1, 0, 9), (-1.9, 0, 1)),), True),  # any order, any range
        ((scene((0, 0, 2), (1.9, 0, 3)),), False),  # as near to one as to the other
        ((scene((0, 0, 2)),), False),
        ((scene((0, 0, 2), (4, 0, 3), (30, 0, 3)),), False),  # a false alarm
        ((scene((0, 0, 2), (0.1, 0, 3)),), False),
    )
    def test_pairs(self, estimate, expected):
        self.assertEqual(metrics.resolved(*estimate, self.TRUTH).tolist(), [expected])

    def test_gate_of_one_source(self):
        """Without a near neighbour the gate decides; an empty scene is resolved."""
        for truth, estimate, expected in (
            (scene((0, 0, 2)), scene((4.9, 0, 2)), True),
            (scene((0, 0, 2)), scene((5.1, 0, 2)), False),
            (scene((0, 0, 2), (40, 0, 2)), scene((0, 0, 2), (46, 0, 2)), False),
            (scene(), scene(), True),
        ):
            self.assertEqual(metrics.resolved(estimate, truth).tolist(), [expected])

    def test_refuses(self):
        with self.assertRaisesRegex(ValueError, "gate_rad"):
            metrics.resolved(self.TRUTH, self.TRUTH, gate_rad=0.0)


if __name__ == "__main__":
    absltest.main()
