"""Test for another source against closed forms and Monte Carlo in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from ris_jax.estimation import search_grid, source_number
from ris_jax.physics import arrays

WAVELENGTH = 0.3
WAVENUMBER = 2 * np.pi / WAVELENGTH


@functools.partial(jax.jit, static_argnames="wavefront")
def metric_at(points, positions, wavefront):
    jets = arrays.steering_jet(points, positions, wavelength=WAVELENGTH, wavefront=wavefront)
    return source_number.metric_tensor(jets)


probability = jax.jit(source_number.false_alarm_probability, static_argnames="amplitudes")
volumes_of = jax.jit(source_number.intrinsic_volumes)
statistic = jax.jit(source_number.statistic, static_argnames=("samples", "amplitudes"))


class MetricTest(parameterized.TestCase):
    @parameterized.parameters("spherical", "spherical_phase", "fresnel", "parabolic", "planar")
    def test_linear_array(self, wavefront):
        """At boresight the metric is the covariance of the phases k x u and -k x^2 / 2r."""
        x = np.array([-0.4, -0.1, 0.05, 0.3, 0.45])
        positions = np.stack([x, 0 * x, 0 * x], axis=-1)
        found = metric_at(jnp.zeros((1, 3)), jnp.asarray(positions, "f4"), wavefront)[0]
        quadratic = 0.0 if wavefront == "planar" else 0.5 * x**2
        slopes = WAVENUMBER * np.stack([-x, 0 * x, 0 * x + quadratic])
        np.testing.assert_allclose(found, np.cov(slopes, bias=True), rtol=1e-4, atol=1e-4)

    def test_plane_waves_anywhere(self):
        """The phases are linear in u and w, so the metric is equal in all directions."""
        random = np.random.default_rng(0)
        positions = random.uniform(-0.5, 0.5, (9, 3)) * [1, 1, 0]
        points = random.uniform(-0.6, 0.6, (5, 3))
        found = metric_at(jnp.asarray(points, "f4"), jnp.asarray(positions, "f4"), "planar")
        wanted = WAVENUMBER**2 * np.cov(positions.T, bias=True)
        np.testing.assert_allclose(found, np.broadcast_to(wanted, (5, 3, 3)), rtol=1e-3, atol=1e-3)

    def test_is_the_loss_of_correlation(self):
        """1 - |a(p)^H a(p + d)|^2 = d^T g d + O(d^3) for unit vectors, in float64."""
        with jax.enable_x64(True):
            random = np.random.default_rng(1)
            positions = jnp.asarray(random.uniform(-0.4, 0.4, (8, 3)))
            point, move = np.array([0.3, -0.2, 0.8]), 1e-5 * random.normal(size=3)
            points = jnp.asarray(np.stack([point, point + move, point - move]))
            metric = np.asarray(metric_at(points[:1], positions, "spherical"))[0]
            jets = jax.jit(functools.partial(arrays.steering_jet, wavelength=WAVELENGTH))(
                points, positions
            )
            vectors = np.asarray(jets)[:, 0]
            self.assertGreater(np.abs(np.linalg.norm(vectors, axis=1) - 1).min(), 5e-4)
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        lost = 1 - np.abs(vectors[1:].conj() @ vectors[0]) ** 2
        np.testing.assert_allclose(lost.mean(), move @ metric @ move, rtol=1e-4)


class VolumesTest(absltest.TestCase):
    def test_box(self):
        """A constant metric scales the box to edges 2 * 3, 1 * 4 and 0.5 * 5."""
        metric = np.broadcast_to(np.diag([4.0, 1.0, 0.25]), (7, 3, 3)).astype("f4")
        found = volumes_of(metric, jnp.array([3.0, 4.0, 5.0]))
        np.testing.assert_allclose(found, [1.0, 12.5, 6 * 4 + 4 * 2.5 + 6 * 2.5, 60.0], rtol=1e-5)

    def test_volume_of_a_skew_metric(self):
        random = np.random.default_rng(2)
        factor = random.normal(size=(50, 3, 3))
        metric = factor @ factor.swapaxes(1, 2)
        found = volumes_of(jnp.asarray(metric, "f4"), jnp.array([1.0, 2.0, 0.5]))
        wanted = np.sqrt(np.linalg.det(metric)).mean()
        np.testing.assert_allclose(found[3], wanted, rtol=1e-4)

    def test_scale(self):
        """A box of twice the size has 2, 4, 8 times the length, area, volume."""
        metric = np.random.default_rng(3).normal(size=(20, 3, 3))
        metric = jnp.asarray(metric @ metric.swapaxes(1, 2), "f4")
        extent, powers = jnp.array([0.5, 1.0, 2.0]), 2.0 ** np.arange(4)
        once = volumes_of(metric, extent)
        np.testing.assert_allclose(volumes_of(metric, 2 * extent), once * powers, rtol=1e-5)
        np.testing.assert_allclose(volumes_of(4 * metric, extent), once * powers, rtol=1e-5)


class FalseAlarmTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 8, 16)
    def test_one_place(self, amplitudes):
        """Half a chi-squared variable has two degrees of freedom per amplitude."""
        levels = np.linspace(2 * amplitudes + 2.01, 2 * amplitudes + 60, 50)
        found = probability(jnp.asarray(levels, "f4"), amplitudes, jnp.array([1.0, 0, 0, 0]))
        np.testing.assert_allclose(found, scipy.stats.gamma.sf(levels, amplitudes), rtol=2e-3)

    @parameterized.product(
        amplitudes=(1, 4, 16), volumes=([1, 0, 0, 0], [1, 6, 9, 4], [1, 60, 900, 4000])
    )
    def test_monotone(self, amplitudes, volumes):
        levels = jnp.linspace(0.0, 150.0, 2000)
        found = np.asarray(probability(levels, amplitudes, jnp.array(volumes, float)))
        chex.assert_tree_all_finite(found)
        self.assertTrue(np.all((found >= 0) & (found <= 1)))
        self.assertTrue(np.all(found[levels < amplitudes] == 1.0))
        self.assertLessEqual(np.max(np.diff(found)), 1e-6)
        self.assertLess(found[-1], 1e-8)

    def test_extremes(self):
        """Values of non-finite scenes, and of scenes without noise."""
        levels = jnp.array([-1.0, 0.0, 1e-30, 1e3, 1e6])
        found = probability(levels, 2, jnp.array([1.0, 10.0, 30.0, 20.0]))
        np.testing.assert_array_equal(found[:3], 1.0)
        np.testing.assert_allclose(found[3:], 0.0, atol=1e-20)
        self.assertFalse(probability(jnp.array(jnp.nan), 2, jnp.ones(4)) < 1.0)

    @parameterized.parameters(1, 4)
    def test_monte_carlo(self, amplitudes):
        """Estimate the rate at which noise exceeds a level in a region of a few cells."""
        positions = np.asarray(arrays.planar_array(4, 4, 0.15))
        region = search_grid.SearchRegion(0.5, 0.3, 0.0, 1.5)
        shape, draws = (17, 11, 6), 6000
        extent = region.upper - region.lower
        # Cell corners, including the faces of the region.
        axes = [
            np.linspace(low, high, count)
            for low, high, count in zip(region.lower, region.upper, shape, strict=True)
        ]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        u, w, inverse_range = points.T
        unit = np.stack([u, w, np.sqrt(1 - u**2 - w**2)], axis=-1)
        relative = unit - inverse_range[:, None] * positions[:, None]  # |p - q| / r, [N, G, 3]
        square = np.sum(positions**2, axis=1)[:, None]
        distance = np.linalg.norm(relative, axis=-1)
        path = (inverse_range * square - 2 * positions @ unit.T) / (distance + 1)
        vectors = np.exp(-1j * WAVENUMBER * path) / distance
        vectors = (vectors / np.linalg.norm(vectors, axis=0)).astype("c8")
        random = np.random.default_rng(4)
        highest = np.empty(draws)
        for first in range(0, draws, 1000):
            noise = random.normal(size=(2, amplitudes, 1000, 16)).astype("f4") / np.sqrt(2)
            field = np.abs((noise[0] + 1j * noise[1]) @ vectors) ** 2
            highest[first : first + 1000] = field.sum(axis=0).max(axis=1)
        metric = metric_at(
            jnp.asarray(search_grid.grid_points(region, (8, 6, 4))),
            jnp.asarray(positions, "f4"),
            "spherical",
        )
        volumes = volumes_of(metric, jnp.asarray(extent))
        levels = np.linspace(2 * amplitudes + 2.1, 2 * amplitudes + 20, 60)
        formula = np.asarray(probability(jnp.asarray(levels, "f4"), amplitudes, volumes))
        share = np.mean(highest[:, None] > levels, axis=0)
        compared = (share > 0.01) & (share < 0.2)
        self.assertGreater(np.sum(compared), 5)
        error = np.sqrt(share * (1 - share) / draws)
        np.testing.assert_array_less(
            np.abs(formula - share)[compared], (3 * error + 0.2 * formula)[compared]
        )


class StatisticTest(parameterized.TestCase):
    def test_exponential(self):
        """T = 1, one fixed position, no sources: exactly exponential, also for few samples."""
        random = np.random.default_rng(5)
        samples = 6
        data = random.normal(size=(4000, samples)) + 1j * random.normal(size=(4000, samples))
        energy = np.sum(np.abs(data) ** 2, axis=1)
        found = statistic(
            jnp.asarray(energy, "f4"),
            jnp.asarray(energy - np.abs(data[:, 0]) ** 2, "f4"),
            jnp.zeros(4000),
            samples=samples,
            amplitudes=1,
        )
        self.assertGreater(scipy.stats.kstest(np.asarray(found), "expon").pvalue, 1e-3)

    @parameterized.parameters((4, 6), (8, 8))
    def test_bartlett(self, amplitudes, antennas):
        """T amplitudes: mean and variance are T, those of half a chi-squared variable."""
        random = np.random.default_rng(6)
        shape = (20000, amplitudes, antennas)
        data = random.normal(size=shape) + 1j * random.normal(size=shape)
        energy = np.sum(np.abs(data) ** 2, axis=(1, 2))
        found = statistic(
            jnp.asarray(energy, "f4"),
            jnp.asarray(energy - np.sum(np.abs(data[:, :, 0]) ** 2, axis=1), "f4"),
            jnp.zeros(20000),
            samples=amplitudes * antennas,
            amplitudes=amplitudes,
        )
        found = np.asarray(found, float)
        error = np.sqrt(amplitudes / 20000)
        np.testing.assert_allclose(found.mean(), amplitudes, atol=3.3 * error)
        np.testing.assert_allclose(found.var(), amplitudes, rtol=0.1)

    def test_fitted_sources(self):
        """n = LM - K (T + 3/2), less (T + 1) / 2."""
        found = statistic(jnp.full(3, np.e), jnp.ones(3), jnp.arange(3.0), samples=60, amplitudes=4)
        np.testing.assert_allclose(found, 60 - np.arange(3) * 5.5 - 2.5, rtol=1e-5)

    def test_extremes(self):
        """No energy, no explained energy, all energy explained, rising residual."""
        before = jnp.array([0.0, 1.0, 1.0, 1.0])
        after = jnp.array([0.0, 1.0, 0.0, 1.1])
        found = statistic(before, after, jnp.zeros(4), samples=20, amplitudes=1)
        chex.assert_tree_all_finite(found)
        np.testing.assert_array_equal(found[jnp.array([0, 1, 3])], 0.0)
        self.assertGreater(found[2], 100.0)


if __name__ == "__main__":
    absltest.main()
