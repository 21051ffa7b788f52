"""Which elements the tokens read."""

import numpy as np
from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax.models import patches


def random_positions(count, seed=0):
    return tuple(map(tuple, np.random.default_rng(seed).uniform(-0.4, 0.4, (count, 3)).tolist()))


class PatchIndicesTest(parameterized.TestCase):
    @parameterized.product(
        grid=((12, 12), (6, 5), (1, 7), (3, 2), (13, 4)), patch=((4, 2), (3, 3), (1, 1), (5, 4))
    )
    def test_grid_is_covered(self, grid, patch):
        system = config_lib.SystemConfig(num_snapshots=1, rows=grid[0], columns=grid[1])
        model = config_lib.ModelConfig(patch_size=patch[0], patch_stride=patch[1])
        indices = patches.patch_indices(system, model)
        self.assertEqual(set(indices.ravel()), set(range(grid[0] * grid[1])))
        rows, columns = np.divmod(indices, grid[1])
        for axis, length in ((rows, grid[0]), (columns, grid[1])):
            extent = axis.max(axis=1) - axis.min(axis=1) + 1
            self.assertEqual(set(extent), {min(patch[0], length)})  # windows, not strides
        self.assertEqual(indices.shape[1], min(patch[0], grid[0]) * min(patch[0], grid[1]))

    def test_default_tokens(self):
        """12 x 12 elements in 4 x 4 windows with stride 2: 5 x 5 windows."""
        indices = patches.patch_indices(config_lib.SystemConfig(), config_lib.ModelConfig())
        self.assertEqual(indices.shape, (25, 16))

    @parameterized.parameters(1, 5, 16, 30, 61)
    def test_any_array_is_covered(self, count):
        positions = random_positions(count)
        system = config_lib.SystemConfig(element_positions=positions, num_snapshots=1)
        indices = patches.patch_indices(system, config_lib.ModelConfig())
        self.assertEqual(set(indices.ravel()), set(range(count)))
        for window in indices:
            self.assertLen(set(window), min(16, count))

    def test_neighbours_share_a_patch(self):
        """Two clusters ten metres apart: no window of their size holds elements of both."""
        cluster = np.array(random_positions(16))
        positions = np.concatenate([cluster, cluster + 10.0]).tolist()
        system = config_lib.SystemConfig(element_positions=positions, num_snapshots=1)
        for window in patches.patch_indices(system, config_lib.ModelConfig()):
            self.assertLen(set(window // 16), 1)


if __name__ == "__main__":
    absltest.main()
