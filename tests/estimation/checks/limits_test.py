"""Limits of reported coordinates, and undetermined coordinates."""

import math

import numpy as np
from absl.testing import absltest, parameterized
from cases import simulator

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import limits
from ris_jax.estimation.estimate import Estimate


def estimate(azimuth_deg=0.0, elevation_deg=0.0, source_range=3.0, deviations=(0.1, 0.1, 0.01)):
    """Return one scene with one source and one padding slot; deviations in degrees and metres."""
    spread = np.array(deviations) * [math.pi / 180, math.pi / 180, 1]
    return Estimate(
        azimuth=np.float32([[np.radians(azimuth_deg), 0]]),
        elevation=np.float32([[np.radians(elevation_deg), 0]]),
        source_range=np.float32([[source_range, np.inf]]),
        power=np.float32([[1, 0]]),
        num_sources=np.array([1]),
        covariance=np.broadcast_to(np.diag(spread**2), (1, 2, 3, 3)),
        noise_variance=np.float32([0.1]),
    )


LIMITS = limits.Limits(math.radians(60), math.radians(30), 0.5, 10.0)


class LimitsTest(parameterized.TestCase):
    @parameterized.parameters(
        {"azimuth_max": -0.1}, {"elevation_max": 2.0}, {"azimuth_max": math.nan},
        {"range_min": 3.0, "range_max": 2.0}, {"range_max": math.nan}, {"range_min": -1.0},
    )  # fmt: skip
    def test_refuses(self, **changes):
        with self.assertRaisesRegex(config_lib.ConfigError, "limits"):
            limits.Limits(**changes)

    def test_region_of_a_configuration(self):
        region = limits.Limits(math.radians(60), math.radians(30), 0.5).region()
        expected = search_grid.region_of(config_lib.SceneConfig())
        np.testing.assert_allclose(region.lower, expected.lower, rtol=1e-6)
        np.testing.assert_allclose(region.upper, expected.upper, rtol=1e-6)

    def test_no_elevation(self):
        region = limits.Limits(math.radians(60), 0.0, 0.5).region()
        self.assertEqual(region.w_max, 0.0)
        space = search_grid.search_space(region, (4, 5, 6), "spherical")
        self.assertEqual(space.shape, (4, 1, 6))

    @parameterized.parameters(
        ({}, False),
        ({"azimuth_deg": 60.3}, False),  # three deviations: noise
        ({"azimuth_deg": -60.3}, False),
        ({"azimuth_deg": 61.0}, True),
        ({"elevation_deg": -31.0}, True),
        ({"source_range": 0.48}, False),
        ({"source_range": 0.4}, True),
        ({"source_range": 12.0}, True),
        ({"source_range": 12.0, "deviations": (0.1, 0.1, 3.0)}, False),
        ({"source_range": math.inf, "deviations": (0.1, 0.1, math.inf)}, False),
    )
    def test_results_are_within(self, place, beyond):
        found, flagged = limits.apply(estimate(**place), LIMITS)
        self.assertEqual(flagged.tolist(), [beyond])
        self.assertLessEqual(abs(float(found.azimuth[0, 0])), LIMITS.azimuth_max)
        self.assertLessEqual(abs(float(found.elevation[0, 0])), LIMITS.elevation_max)
        self.assertBetween(float(found.source_range[0, 0]), 0.5, 10.0)
        self.assertEqual(found.azimuth.dtype, np.float32)
        self.assertEqual(found.source_range[0, 1], np.inf)  # padding stays

    @parameterized.parameters(
        ({}, False), ({"azimuth_deg": 64.158}, True), ({"elevation_deg": 32.683}, True),
        ({"source_range": 1 / 2.2}, True), ({"source_range": math.inf}, False),
        ({"azimuth_deg": 60.0}, False),
    )  # fmt: skip
    def test_edge_of_the_region(self, place, edge):
        found = limits.on_region_edge(estimate(**place), search_grid.SearchRegion())
        self.assertEqual(found.tolist(), [edge])


class UndeterminedTest(parameterized.TestCase):
    @parameterized.parameters(
        (simulator.line(8), 1),
        (simulator.line(8)[:, [1, 0, 2]], 0),
        (simulator.line(8)[:, [2, 1, 0]], 1),
        (simulator.line(8) + np.array([3.0, 4.0, 0.0]), 1),
        (simulator.plane(4, 2), None),
        (np.zeros((1, 3)), None),
    )
    def test_lines(self, positions, expected):
        self.assertEqual(limits.undetermined_coordinate(positions), expected)

    def test_collapsed(self):
        region = search_grid.SearchRegion()
        self.assertEqual(limits.collapsed(region, 0).u_max, 0.0)
        self.assertEqual(limits.collapsed(region, 1).w_max, 0.0)
        self.assertIs(limits.collapsed(region, None), region)


if __name__ == "__main__":
    absltest.main()
