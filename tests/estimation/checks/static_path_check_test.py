"""Test for a static path: false-alarm rate, power, strength and cost."""

import numpy as np
from absl.testing import absltest, parameterized
from cases import simulator

from ris_jax.estimation.checks import alternatives, residual_analysis, static_path_check
from ris_jax.estimation.flags import Flag

SOURCES = np.array([[20.0, 10.0, 2.0], [-30.0, -5.0, 4.0]])
POSITIONS = simulator.plane(6, 6)


def surface(random, length, antennas):
    channel = simulator.gaussian(random, antennas, len(POSITIONS)) / np.sqrt(antennas)
    return channel, np.exp(2j * np.pi * random.random((length, len(POSITIONS))))


def reading(random, channel, codes, *, sources=SOURCES, static_db=None, snr_db=20.0):
    vectors = simulator.spherical(POSITIONS, sources, simulator.WAVELENGTH)
    signals = np.exp(2j * np.pi * random.random(len(sources)))
    snapshots = simulator.received(random, signals @ vectors, channel, codes, snr_db, static_db)
    return alternatives.Reading(
        snapshots, channel, codes, POSITIONS, "constant", "spherical", static_path=True
    )


def results(random, channel, codes, scenes, **options):
    """Tests of scenes that are fitted at the true positions."""
    vectors = simulator.spherical(POSITIONS, SOURCES, simulator.WAVELENGTH)
    seen = residual_analysis.images(vectors, channel, codes)
    found = static_path_check.untested(scenes)
    for number in range(scenes):
        snapshots = reading(random, channel, codes, **options).snapshots
        fitted = residual_analysis.fit(snapshots, seen, constant=True)
        found.ratio[number], found.chance[number] = static_path_check.mean_test(fitted)
    return found


class MeanTestTest(parameterized.TestCase):
    @parameterized.parameters((8, 8), (24, 1), (3, 16))
    def test_false_alarm_rate(self, length, antennas):
        """Known positions leave the dimensions of `dof` and 3 more: the test is conservative."""
        random = np.random.default_rng(0)
        found = results(random, *surface(random, length, antennas), 1000)
        for rate in (0.5, 0.1, 0.01):
            share = np.mean(found.chance < rate)
            # Three deviations beyond the rate; the true positions cost 3 dimensions of about 50.
            self.assertLess(share, 1.6 * rate + 3 * np.sqrt(rate * (1 - rate) / 1000))
            self.assertGreater(share, 0.6 * rate - 3 * np.sqrt(rate * (1 - rate) / 1000))

    @parameterized.parameters(1, 8, 64)
    def test_calls_without_a_path_keep_it(self, size):
        random = np.random.default_rng(1)
        channel, codes = surface(random, 8, 8)
        found = results(random, channel, codes, 960)
        for start in range(0, 960, size):
            part = slice(start, start + size)
            call = static_path_check.MeanTest(found.ratio[part], found.chance[part])
            self.assertFalse(static_path_check.is_present(call, codes))

    def test_a_path_at_the_noise_is_found(self):
        random = np.random.default_rng(0)
        found = results(random, *surface(random, 16, 16), 20, static_db=-20.0)
        self.assertLess(found.chance.max(), 1e-6)
        np.testing.assert_allclose(found.ratio.mean(), 1 + 16, rtol=0.1)

    def test_equal_codes_and_single_codes_are_not_tested(self):
        random = np.random.default_rng(0)
        channel, codes = surface(random, 4, 8)
        single = results(random, channel, codes[:1], 1)
        self.assertTrue(np.isnan([*single.ratio, *single.chance]).all())
        # The images of two sources are static paths: 6 of 8 dimensions remain.
        equal = results(random, channel, np.repeat(codes[:1], 4, axis=0), 300)
        self.assertBetween(np.mean(equal.chance < 0.1), 0.03, 0.2)


class IsPresentTest(parameterized.TestCase):
    CODES = np.exp(2j * np.pi * np.random.default_rng(0).random((16, 36)))

    def present(self, ratio, chance, codes=CODES):
        test = static_path_check.MeanTest(np.array(ratio), np.array(chance))
        return static_path_check.is_present(test, codes)

    def test_one_scene_or_all_together(self):
        self.assertTrue(self.present([1.0, 9.0], [0.5, 1e-9]))
        self.assertTrue(self.present([2.5] * 10, [1e-3] * 10))
        self.assertFalse(self.present([2.5] * 2, [1e-2] * 2))

    def test_a_path_that_costs_less_than_its_removal_stays(self):
        self.assertFalse(self.present([1.5] * 100, [1e-3] * 100))

    def test_codes_with_a_large_mean_need_a_stronger_path(self):
        switched = (np.random.default_rng(0).random((16, 36)) < 0.5).astype(complex)
        self.assertFalse(self.present([9.0], [1e-9], switched))
        self.assertTrue(self.present([90.0], [1e-9], switched))

    def test_untested_scenes(self):
        self.assertFalse(self.present([np.nan], [np.nan]))
        self.assertTrue(self.present([np.nan, 9.0], [np.nan, 1e-9]))


def jets_of(sources):
    """Steering vectors and their derivatives by central differences in (u, w, 1/r)."""
    step = 1e-5
    units = simulator.directions(sources)
    points = np.stack([units[:, 0], units[:, 1], 1 / sources[:, 2]], -1)

    def vectors(points):
        u, w, rho = points.T
        elevation = np.arcsin(w)
        azimuth = np.arcsin(u / np.cos(elevation))
        places = np.stack([np.degrees(azimuth), np.degrees(elevation), 1 / rho], -1)
        return simulator.spherical(POSITIONS, places, simulator.WAVELENGTH)

    slopes = [(vectors(points + e) - vectors(points - e)) / (2 * step) for e in step * np.eye(3)]
    return np.stack([vectors(points), *slopes], axis=1)


class MeasuredTest(parameterized.TestCase):
    @parameterized.parameters(-10.0, 0.0, 30.0)
    def test_strength(self, static_db):
        random = np.random.default_rng(0)
        scene = reading(random, *surface(random, 16, 16), static_db=static_db)
        strength, loss = static_path_check.measured(scene, jets_of(SOURCES))
        self.assertAlmostEqual(strength, static_db, delta=0.5)
        self.assertAlmostEqual(loss, 10 * np.log10(16 / 15), delta=0.3)

    def test_without_sources(self):
        random = np.random.default_rng(0)
        scene = reading(random, *surface(random, 8, 8), static_db=0.0)
        strength, loss = static_path_check.measured(scene, jets_of(SOURCES)[:0])
        self.assertEqual(strength, np.inf)
        self.assertTrue(np.isnan(loss))

    def test_cost_of_codes_that_differ_in_one_element_only(self):
        random = np.random.default_rng(0)
        channel, codes = surface(random, 16, 16)
        codes = np.repeat(codes[:1], 16, axis=0) * (1 + 0.1 * simulator.gaussian(random, 16, 36))
        scene = reading(random, channel, codes, static_db=0.0)
        self.assertGreater(static_path_check.measured(scene, jets_of(SOURCES))[1], 10.0)


class FlagsTest(absltest.TestCase):
    def test_removed_and_costly(self):
        found = absltest.mock.Mock(
            static_path_db=np.array([np.nan, 3.0, -np.inf]),
            static_path_loss_db=np.array([np.nan, 4.0, 0.3]),
        )
        expected = [0, Flag.STATIC_PATH | Flag.CODE_MEAN, Flag.STATIC_PATH]
        self.assertEqual(static_path_check.flags_of(found).tolist(), expected)


if __name__ == "__main__":
    absltest.main()
