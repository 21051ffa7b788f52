"""Sufficient statistics of snapshots with equal codes."""

import numpy as np
from absl.testing import absltest

from ris_jax.estimation import snapshot_groups
from ris_jax.physics import scenes

B, M, N = 2, 3, 5


def gaussian(seed, *shape):
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def measurement(codes, snapshots):
    channel = gaussian(0, 1, M, N)
    return scenes.Measurement(snapshots, channel, codes, np.ones(B))


class CompressTest(absltest.TestCase):
    def test_keeps_the_second_moments_of_each_code(self):
        """Two alternating codes, 20 and 4 snapshots, give three weighted rows each."""
        two = gaussian(1, 2, N)
        order = np.array([0] * 10 + [1] * 4 + [0] * 10)
        snapshots = gaussian(2, B, 24, M)
        found, weights = snapshot_groups.compress(measurement(two[order][None], snapshots))
        self.assertEqual(found.snapshots.shape, (B, 6, M))
        self.assertEqual(found.codes.shape, (1, 6, N))
        self.assertAlmostEqual(weights.sum(), 24.0)
        for code, count in enumerate((20, 4)):
            rows = (found.codes[0] == two[code]).all(axis=1)
            self.assertAlmostEqual(weights[rows].sum(), count)
            for scene in range(B):
                wanted = snapshots[scene, order == code]
                kept = found.snapshots[scene, rows]
                np.testing.assert_allclose(kept.T @ kept.conj(), wanted.T @ wanted.conj())

    def test_unchanged_if_little_is_saved(self):
        """Few snapshots, or codes without repetition."""
        for codes in (np.ones((1, 5, N), complex), gaussian(3, 1, 40, N)):
            given = measurement(codes, gaussian(4, B, codes.shape[1], M))
            found, weights = snapshot_groups.compress(given)
            self.assertIs(found, given)
            self.assertIsNone(weights)

    def test_scenes_with_other_codes(self):
        codes = np.ones((B, 40, N), complex)
        given = measurement(codes, gaussian(5, B, 40, M))
        self.assertEqual(snapshot_groups.compress(given)[0].snapshots.shape, (B, M, M))
        codes[1] = -1
        self.assertIsNone(snapshot_groups.compress(given)[1])

    def test_a_non_finite_scene(self):
        snapshots = gaussian(6, B, 40, M)
        good, _ = snapshot_groups.compress(measurement(np.ones((1, 40, N), complex), snapshots))
        snapshots[1, 7, 0] = np.nan
        found, _ = snapshot_groups.compress(measurement(np.ones((1, 40, N), complex), snapshots))
        np.testing.assert_array_equal(found.snapshots[0], good.snapshots[0])
        self.assertTrue(np.isnan(found.snapshots[1]).all())


if __name__ == "__main__":
    absltest.main()
