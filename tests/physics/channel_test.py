"""Moments and rank of the surface-to-base-station channel."""

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.physics import arrays, channel

ANTENNAS, ELEMENTS, DRAWS = 4, 12, 2000


@jax.jit
def draw(rician_factor):
    positions = arrays.planar_array(3, 4, 0.15)

    def one(key):
        return channel.rician_channel(
            key, positions, num_antennas=ANTENNAS, wavelength=0.3, rician_factor=rician_factor
        )

    return jax.vmap(one)(jax.random.split(jax.random.key(0), DRAWS))


class ComplexNormalTest(absltest.TestCase):
    def test_circular_with_unit_variance(self):
        """The tolerance is four standard errors of 1e5 samples, 1 / sqrt(1e5) per moment."""
        samples = np.asarray(jax.jit(channel.complex_normal, static_argnums=1)(
            jax.random.key(0), (100000,)))  # fmt: skip
        tolerance = 4 / 100000**0.5
        self.assertAlmostEqual(abs(samples.mean()), 0.0, delta=tolerance)
        self.assertAlmostEqual((np.abs(samples) ** 2).mean(), 1.0, delta=tolerance)
        self.assertAlmostEqual(abs((samples**2).mean()), 0.0, delta=tolerance * 2**0.5)


class RicianChannelTest(parameterized.TestCase):
    def assert_mean(self, samples, expected):
        """Check a mean over channels within four standard errors of the samples."""
        error = samples.std() / len(samples) ** 0.5
        self.assertAlmostEqual(samples.mean(), expected, delta=4 * error + 1e-5)

    @parameterized.parameters(0.0, 0.0035, 0.07, 0.5, 2.0, 10.0)
    def test_power_and_rician_factor(self, factor):
        r"""With w = K/(K+1): E|h|^2 = 1 and E|h|^4 = w^2 + 4w(1-w) + 2(1-w)^2 = 2 - w^2."""
        channels = np.asarray(draw(factor))
        chex.assert_shape(channels, (DRAWS, ANTENNAS, ELEMENTS))
        power = np.abs(channels.astype(complex)) ** 2
        weight = factor / (factor + 1.0)
        self.assert_mean(power.mean(axis=(1, 2)), 1.0)
        self.assert_mean((power**2).mean(axis=(1, 2)), 2.0 - weight**2)

    def test_line_of_sight_is_rank_one(self):
        singular_values = np.linalg.svd(np.asarray(draw(1e10)[:20]), compute_uv=False)
        self.assertLess((singular_values[:, 1] / singular_values[:, 0]).max(), 1e-4)
        chex.assert_trees_all_close(np.abs(draw(1e10)[:20]), np.ones((20, 4, 12)), atol=1e-4)

    def test_scattering_has_full_rank(self):
        self.assertTrue((np.linalg.matrix_rank(np.asarray(draw(0.0)[:20])) == ANTENNAS).all())

    def test_line_of_sight_is_within_its_sector(self):
        """Phase steps along x and y are k d u and k d w, |u| <= sin 60, |w| <= sin 30; pi sin 60
        along the base station."""
        channels = np.asarray(draw(1e10)).reshape(DRAWS, ANTENNAS, 3, 4)

        def steps(axis):
            low, high = np.take(channels, 0, axis), np.take(channels, 1, axis)
            return np.abs(np.angle(high * low.conj())).max()

        self.assertLess(steps(1), np.pi * np.sin(np.pi / 3) + 1e-3)
        self.assertLess(steps(2), np.pi * 0.5 + 1e-3)
        self.assertLess(steps(3), np.pi * np.sin(np.pi / 3) + 1e-3)
        self.assertGreater(steps(3), 2.0)

    def test_keys_matter(self):
        first, second = np.asarray(draw(1.0)[:2])
        self.assertGreater(np.abs(first - second).max(), 0.1)


if __name__ == "__main__":
    absltest.main()
