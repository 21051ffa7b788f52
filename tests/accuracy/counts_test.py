"""Counts and their scores against hand-worked scenes."""

import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.accuracy import counts


class CountTest(parameterized.TestCase):
    def test_confusion(self):
        true, estimated = np.array([1, 1, 2, 2, 2]), np.array([1, 2, 2, 2, 0])
        expected = [[0, 0, 0], [0, 1, 1], [1, 0, 2]]
        np.testing.assert_array_equal(counts.confusion_matrix(true, estimated, 2), expected)
        self.assertAlmostEqual(counts.accuracy(true, estimated), 3 / 5)

    def test_no_scenes(self):
        none = np.zeros(0, int)
        self.assertTrue(np.isnan(counts.accuracy(none, none)))
        np.testing.assert_array_equal(counts.confusion_matrix(none, none, 1), np.zeros((2, 2)))

    @parameterized.parameters(
        ([1, 3], [1, 1], "num_true: need 0 ... 2"),
        ([1, 1], [1, 3], "num_estimated: need 0 ... 2"),
        ([1, 1], [1], r"num_estimated: need \[2\]"),
        ([1.0], [1], "integers"),
    )
    def test_confusion_refuses(self, true, estimated, message):
        with self.assertRaisesRegex(ValueError, message):
            counts.confusion_matrix(np.array(true), np.array(estimated), 2)

    @parameterized.parameters(([1, 1], [1]), ([[1]], [[1]]))
    def test_accuracy_refuses(self, true, estimated):
        with self.assertRaisesRegex(ValueError, "twice"):
            counts.accuracy(np.array(true), np.array(estimated))


if __name__ == "__main__":
    absltest.main()
