"""Removal of a static path: an orthonormal basis of the complement of the all-ones vector."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.physics import scenes, static_path


def complex_normal(random, *shape):
    return random.normal(size=shape) + 1j * random.normal(size=shape)


class WithoutMeanTest(parameterized.TestCase):
    @parameterized.parameters(2, 3, 16, 101)
    def test_basis_is_orthonormal_and_excludes_ones(self, length):
        basis = static_path.without_mean(np.eye(length))
        np.testing.assert_allclose(basis @ basis.T, np.eye(length - 1), atol=1e-14)
        np.testing.assert_allclose(basis @ np.ones(length), 0.0, atol=1e-13)

    @parameterized.parameters(np.complex64, np.complex128)
    def test_kind_and_precision_are_kept(self, kind):
        rows = complex_normal(np.random.default_rng(0), 3, 5, 2).astype(kind)
        found = static_path.without_mean(rows)
        self.assertIsInstance(found, np.ndarray)
        self.assertEqual((found.shape, found.dtype), ((3, 4, 2), np.dtype(kind)))
        np.testing.assert_allclose(
            static_path.without_mean(jnp.asarray(rows)), found.astype(np.complex64), atol=1e-6
        )


class RemoveStaticPathTest(absltest.TestCase):
    def test_surface_part_follows_the_codes(self):
        random = np.random.default_rng(0)
        channel, codes = complex_normal(random, 2, 3, 7), complex_normal(random, 2, 6, 7)
        field, path = complex_normal(random, 2, 1, 7), 1e3 * complex_normal(random, 2, 1, 3)

        def received(codes):
            return (codes * field) @ np.swapaxes(channel, 1, 2)

        given = scenes.Measurement(received(codes) + path, channel, codes, np.ones(2))
        found = static_path.remove_static_path(given)
        np.testing.assert_allclose(found.snapshots, received(found.codes), atol=1e-10)
        self.assertEqual(found.codes.shape, (2, 5, 7))
        self.assertIs(found.channel, channel)


class MeanFractionTest(absltest.TestCase):
    def test_known_codes(self):
        code = np.exp(1j * np.arange(4.0))
        self.assertAlmostEqual(static_path.mean_fraction(np.stack([code, code])), 1.0)
        self.assertAlmostEqual(static_path.mean_fraction(np.stack([code, -code])), 0.0)
        beams = np.exp(2j * np.pi * np.outer(np.arange(4), np.arange(8)) / 8)
        self.assertAlmostEqual(static_path.mean_fraction(beams), 1 / 4)


if __name__ == "__main__":
    absltest.main()
