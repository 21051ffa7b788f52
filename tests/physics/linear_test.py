"""Elimination in array operations against NumPy in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.physics import linear

SIZES = (1, 3, 4, 16)  # up to 3 unrolled
BATCH = (2, 3)


@jax.jit
def everything(matrix, right):
    return (
        linear.solve_positive(matrix, right),
        linear.inverse_positive(matrix),
        linear.log_determinant_positive(matrix),
    )


def random_array(random, *shape, dtype):
    real = random.normal(size=shape)
    return (
        real + 1j * random.normal(size=shape) if np.issubdtype(dtype, np.complexfloating) else real
    )


def positive_definite(size, dtype, seed=0):
    """Draw matrices of condition number 10 to 40 and right sides, [2, 3, size, ...] float64."""
    random = np.random.default_rng(seed)
    factor = random_array(random, *BATCH, size, 2 * size + 2, dtype=dtype)
    return factor @ factor.conj().swapaxes(-1, -2), random_array(
        random, *BATCH, size, 2, dtype=dtype
    )


def expected(matrix, right):
    return np.linalg.solve(matrix, right), np.linalg.inv(matrix), np.linalg.slogdet(matrix)[1]


def rank_one(size, dtype, seed=1):
    vectors = random_array(np.random.default_rng(seed), *BATCH, size, dtype=dtype)
    return vectors[..., :, None] * vectors[..., None, :].conj()


class LinearTest(parameterized.TestCase):
    @parameterized.product(size=SIZES, dtype=(np.float32, np.complex64))
    def test_matches_numpy(self, size, dtype):
        matrix, right = positive_definite(size, dtype)
        result = everything(jnp.asarray(matrix, dtype), jnp.asarray(right, dtype))
        for found, wanted in zip(result, expected(matrix, right), strict=True):
            self.assertEqual(found.shape, wanted.shape)
            chex.assert_trees_all_close(
                np.asarray(found, wanted.dtype), wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max()
            )
        self.assertEqual(result[0].dtype, dtype)
        self.assertEqual(result[2].dtype, np.float32)

    @parameterized.product(size=(2, 5), dtype=(np.float64, np.complex128))
    def test_double_precision(self, size, dtype):
        with jax.enable_x64(True):
            matrix, right = positive_definite(size, dtype)
            result = everything(jnp.asarray(matrix), jnp.asarray(right))
            chex.assert_trees_all_close(result, expected(matrix, right), rtol=1e-10)

    def test_scale(self):
        """There is no absolute threshold: rows of very different scale are solved."""
        matrix, right = positive_definite(4, np.complex64)
        scale = np.array([1e-6, 1.0, 1e3, 1e-2])
        matrix = matrix * scale[:, None] * scale
        found = everything(jnp.asarray(matrix, "c8"), jnp.asarray(right, "c8"))[0]
        wanted = np.linalg.solve(matrix, right)
        chex.assert_trees_all_close(found * scale[:, None], wanted * scale[:, None], rtol=1e-3)

    @parameterized.product(size=(2, 3, 7), dtype=(np.float32, np.complex64))
    def test_singular_is_large_and_finite(self, size, dtype):
        matrix = jnp.asarray(rank_one(size, dtype), dtype)
        right = jnp.ones((*BATCH, size, 2), dtype)
        solution, inverse, log_determinant = everything(matrix, right)
        chex.assert_tree_all_finite((solution, inverse, log_determinant))
        self.assertGreater(np.abs(inverse).max(axis=(-1, -2)).min(), 1e3)
        full = np.linalg.slogdet(rank_one(size, dtype) + np.eye(size))[1]
        self.assertTrue(np.all(log_determinant < full - 8.0 * (size - 1)))

    @parameterized.parameters(2, 7)
    def test_coinciding_rows(self, size):
        """Gram matrix of copies of one unit vector with phases."""
        phases = np.exp(1j * np.arange(size))
        matrix = jnp.asarray(np.broadcast_to(np.outer(phases, phases.conj()), (*BATCH, size, size)))
        found = everything(matrix.astype("c8"), jnp.ones((*BATCH, size, 2), "c8"))
        chex.assert_tree_all_finite(found)

    def test_zero_matrix_is_finite(self):
        zero = jnp.zeros((*BATCH, 3, 3), "c8")
        chex.assert_tree_all_finite(everything(zero, jnp.ones((*BATCH, 3, 2), "c8")))

    @parameterized.parameters(3, 7)
    def test_no_lapack(self, size):
        """Two simultaneous LAPACK calls of one program can deadlock on a CPU (jaxlib 0.10)."""
        arguments = jnp.ones((2, size, size), "c8"), jnp.ones((2, size, 1), "c8")
        text = everything.lower(*arguments).compile().as_text()
        self.assertIn("ENTRY", text)
        self.assertNotIn("custom-call", text)

    def test_gradient(self, size=4):
        """The gradient of a scalar of all three results equals finite differences in NumPy."""
        with jax.enable_x64(True):
            random = np.random.default_rng(3)
            start, right = (part[0, 0] for part in positive_definite(size, np.complex128))
            change = random_array(random, size, size, dtype=np.complex128)
            change = change + change.conj().T
            weights = random_array(random, 2, size, size, dtype=np.complex128)

            def summary(parts, multiply_sum):
                solution, inverse, log_determinant = parts
                return (
                    multiply_sum(solution * weights[0][:, :2]).real
                    + multiply_sum(inverse * weights[1]).real
                    + log_determinant
                )

            along = functools.partial(self._along, start, change, right)
            slope = jax.jit(jax.grad(lambda t: summary(along(t, everything), jnp.sum)))(0.0)
            step = 1e-5
            difference = [
                summary(along(t, lambda m, r: expected(m, r)), np.sum) for t in (step, -step)
            ]
            np.testing.assert_allclose(
                slope, (difference[0] - difference[1]) / (2 * step), rtol=1e-6
            )

    @staticmethod
    def _along(start, change, right, t, function):
        return function(start + t * change, right)


if __name__ == "__main__":
    absltest.main()
