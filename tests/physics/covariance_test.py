"""Low-rank covariances against dense NumPy matrices, and the derivative of projectors."""

import functools
import pathlib
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.test_util import check_grads

import ris_jax
from ris_jax import config as config_lib
from ris_jax.physics import covariance as cov

BATCH, ELEMENTS, RANK = 3, 7, 2


def complex_normal(*shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")


def low_rank(seed=0, rank=RANK):
    """Draw random covariances with loading, also as dense float64 matrices."""
    factor = complex_normal(BATCH, ELEMENTS, rank, seed=seed)
    loading = np.random.default_rng(seed).random(BATCH).astype("f4")
    matrix = factor.astype(complex) @ factor.swapaxes(1, 2).conj().astype(complex)
    matrix += loading[:, None, None] * np.eye(ELEMENTS)
    return cov.LowRankCovariance(jnp.asarray(factor), jnp.asarray(loading)), matrix


def dense_traces(matrices):
    return np.trace(matrices, axis1=1, axis2=2).real


class LowRankTest(parameterized.TestCase):
    def assert_dense(self, covariance, expected):
        dense = np.asarray(jax.jit(cov.dense)(covariance))
        chex.assert_trees_all_close(dense, expected.astype("c8"), atol=1e-5, rtol=1e-5)

    def test_dense(self):
        self.assert_dense(*low_rank())

    def test_from_matrix(self):
        matrix = low_rank()[1]
        self.assert_dense(cov.LowRankCovariance.from_matrix(matrix), matrix)
        indefinite = np.diag([2.0, 1.0, -1.0]).astype("c8")
        expected = np.diag([2.0, 1.0, 0.0])[None]
        self.assert_dense(cov.LowRankCovariance.from_matrix(indefinite[None]), expected)

    def test_from_snapshots(self):
        snapshots = complex_normal(BATCH, 5, ELEMENTS)
        expected = np.einsum("bln,blm->bnm", snapshots, snapshots.conj()) / 5
        self.assert_dense(cov.LowRankCovariance.from_snapshots(snapshots), expected)

    def test_trace(self):
        covariance, matrix = low_rank()
        chex.assert_trees_all_close(
            jax.jit(cov.trace)(covariance), dense_traces(matrix).astype("f4"), rtol=1e-5
        )

    def test_trace_normalize(self):
        covariance, matrix = low_rank()
        expected = ELEMENTS * matrix / dense_traces(matrix)[:, None, None]
        self.assert_dense(jax.jit(cov.trace_normalize)(covariance), expected)

    def test_from_factor(self):
        factor = complex_normal(BATCH, ELEMENTS, RANK)
        matrix = factor @ factor.swapaxes(1, 2).conj()
        expected = ELEMENTS * matrix / dense_traces(matrix)[:, None, None]
        self.assert_dense(jax.jit(cov.from_factor)(factor), expected)

    def test_load(self):
        covariance, matrix = low_rank()
        amount = np.array([0.0, 0.5, 2.0], "f4")
        expected = matrix + amount[:, None, None] * np.eye(ELEMENTS)
        self.assert_dense(jax.jit(cov.load)(covariance, amount), expected)

    def test_shrink(self):
        covariance, matrix = low_rank()
        weight = np.array([0.0, 0.3, 1.0], "f4")
        target = dense_traces(matrix)[:, None, None] / ELEMENTS * np.eye(ELEMENTS)
        share = weight[:, None, None]
        self.assert_dense(
            jax.jit(cov.shrink)(covariance, weight), (1 - share) * matrix + share * target
        )

    @parameterized.parameters(0.0, 0.3, 1.0)
    def test_blend(self, weight):
        """Blended factors can have different ranks."""
        (predicted, left), (sample, right) = low_rank(0), low_rank(1, rank=4)
        blended = jax.jit(cov.blend, static_argnums=2)(predicted, sample, weight)
        self.assert_dense(blended, (1 - weight) * left + weight * right)

    def test_inner(self):
        (left, left_dense), (right, right_dense) = low_rank(0), low_rank(1, rank=4)
        expected = dense_traces(left_dense @ right_dense).astype("f4")
        chex.assert_trees_all_close(jax.jit(cov.inner)(left, right), expected, rtol=1e-5)

    def test_sample_covariance(self):
        fields = complex_normal(BATCH, ELEMENTS, 5)
        outer = np.einsum("bic,bjc->bij", fields, fields.conj())
        expected = outer / 5
        chex.assert_trees_all_close(
            np.asarray(jax.jit(cov.sample_covariance)(fields)), expected, atol=1e-5
        )

    def test_forward_backward(self):
        factor = complex_normal(BATCH, ELEMENTS, RANK)
        matrix = factor @ factor.swapaxes(1, 2).conj()
        exchange = np.eye(ELEMENTS)[::-1]
        expected = (matrix + exchange @ matrix.conj() @ exchange) / 2
        both = np.asarray(jax.jit(cov.forward_backward)(factor))
        chex.assert_shape(both, (BATCH, ELEMENTS, 2 * RANK))
        chex.assert_trees_all_close(
            both @ both.swapaxes(1, 2).conj(), expected.astype("c8"), atol=1e-5
        )

    def test_zero_stays_zero(self):
        def normalized(factor):
            covariance = cov.from_factor(factor)
            return jnp.sum(jnp.abs(covariance.factor)) + covariance.loading, covariance

        zero = jnp.zeros((ELEMENTS, RANK), "c8")
        (value, covariance), gradient = jax.jit(jax.value_and_grad(normalized, has_aux=True))(zero)
        self.assertEqual(float(value), 0.0)
        chex.assert_tree_all_finite((covariance, gradient))


class EffectiveCovarianceTest(parameterized.TestCase):
    @parameterized.parameters((0.0, 10.0), (0.4, 10.0), (0.4, 1e-9), (0.4, 1e9))
    def test_normalise_blend_shrink(self, blend, snr):
        """The weight of the identity is shrinkage / SNR, at most one half."""
        predicted, sample = complex_normal(ELEMENTS, 2), complex_normal(ELEMENTS, 3, seed=1)

        def normalized(factor):
            matrix = factor.astype(complex) @ factor.conj().T
            return ELEMENTS * matrix / np.trace(matrix).real

        share = min(0.2 / snr, 0.5)
        blended = (1 - blend) * normalized(predicted) + blend * normalized(sample)
        expected = (1 - share) * blended + share * np.eye(ELEMENTS)
        config = config_lib.CovarianceConfig(blend=blend, shrinkage=0.2)
        effective = jax.jit(cov.effective_covariance, static_argnums=3)
        result = effective(predicted, 100 * sample, jnp.float32(snr), config)
        chex.assert_trees_all_close(np.asarray(cov.dense(result)), expected.astype("c8"), atol=1e-5)
        self.assertAlmostEqual(float(cov.trace(result)), ELEMENTS, places=4)

    def test_gradient_reaches_the_prediction_only(self):
        config = config_lib.CovarianceConfig(blend=0.5)

        @functools.partial(jax.grad, argnums=(0, 1))
        def gradient(predicted, sample):
            result = cov.effective_covariance(predicted, sample, jnp.float32(10.0), config)
            return jnp.sum(jnp.abs(cov.dense(result) - jnp.eye(ELEMENTS)) ** 2)

        predicted, sample = complex_normal(ELEMENTS, 2), complex_normal(ELEMENTS, 3, seed=1)
        to_prediction, to_sample = jax.jit(gradient)(predicted, sample)
        chex.assert_tree_all_finite(to_prediction)
        self.assertGreater(float(jnp.linalg.norm(to_prediction)), 1e-2)
        chex.assert_trees_all_equal(to_sample, jnp.zeros_like(sample))


class SafeEighTest(parameterized.TestCase):
    def test_hermitian_part(self):
        matrix = complex_normal(BATCH, 5, 5)
        values, vectors = jax.jit(cov.safe_eigh)(matrix)
        hermitian = (matrix + matrix.swapaxes(1, 2).conj()) / 2
        chex.assert_trees_all_close(
            np.asarray(values), np.linalg.eigvalsh(hermitian), atol=1e-5, rtol=1e-5
        )
        rebuilt = (vectors * values[:, None, :]) @ np.asarray(vectors).swapaxes(1, 2).conj()
        chex.assert_trees_all_close(np.asarray(rebuilt), hermitian, atol=1e-5)

    @parameterized.parameters(cov.JITTER, 0.1)
    def test_jitter_enters_the_matrix_and_leaves_the_eigenvalues(self, jitter):
        matrix = np.diag([1.0, 2.0, 6.0]).astype("c8")
        matrix[0, 1] = 0.5  # not Hermitian
        with mock.patch.object(jnp.linalg, "eigh", wraps=jnp.linalg.eigh) as eigh:
            values, _ = cov.safe_eigh(matrix, jitter=jitter)
        hermitian = (matrix + matrix.conj().T) / 2
        ((decomposed,), _) = eigh.call_args
        expected = hermitian + 3.0 * jitter * np.eye(3)
        chex.assert_trees_all_close(np.asarray(decomposed), expected.astype("c8"), rtol=1e-6)
        chex.assert_trees_all_close(
            np.asarray(values), np.linalg.eigvalsh(hermitian).astype("f4"), rtol=1e-5
        )

    def test_only_this_module_calls_eigh(self):
        package = pathlib.Path(ris_jax.__file__).parent
        calling = [p.name for p in package.rglob("*.py") if "jnp.linalg.eig" in p.read_text()]
        self.assertEqual(calling, ["covariance.py"])


def overlap(estimate, truth, rank):
    return cov.projector_overlap(estimate, truth, jnp.asarray(rank))[0]


def principal_projector(factor, rank):
    """Return the projector from the dense eigendecomposition of F F^H, float64."""
    vectors = np.linalg.eigh(factor.astype(complex) @ factor.conj().T)[1][:, -rank:]
    return vectors @ vectors.conj().T


class ProjectorTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 3)
    def test_projector(self, rank):
        factor = complex_normal(ELEMENTS, 3)
        inverse = jax.jit(cov.gram_pseudo_inverse)(factor.conj().T @ factor, jnp.asarray(rank))
        projector = factor @ np.asarray(inverse) @ factor.conj().T
        expected = principal_projector(factor, rank).astype("c8")
        chex.assert_trees_all_close(projector, expected, atol=1e-5)

    def test_overlap(self):
        """Each scene of the batch has a different rank."""
        estimate, truth = complex_normal(3, ELEMENTS, 3), complex_normal(3, ELEMENTS, 3, seed=1)
        result, dimension = jax.jit(cov.projector_overlap)(estimate, truth, jnp.array([1, 2, 3]))
        expected = [
            np.trace(principal_projector(e, k) @ principal_projector(t, k)).real
            for e, t, k in zip(estimate, truth, (1, 2, 3), strict=True)
        ]
        chex.assert_trees_all_close(result, np.array(expected, "f4"), atol=1e-5)
        chex.assert_trees_all_close(dimension, np.array([1.0, 2.0, 3.0], "f4"), atol=1e-5)

    def test_weak_sources_count(self):
        """The powers differ by 26 dB, as between 0.5 m and 10 m."""
        truth = complex_normal(ELEMENTS, 3) * np.array([1.0, 0.05, 0.2], "f4")
        mixed = truth @ complex_normal(3, 3, seed=1)  # the same subspace, other columns
        self.assertAlmostEqual(float(jax.jit(overlap)(mixed, truth, 3)), 3.0, delta=1e-3)

    def test_dimension_of_coinciding_sources(self):
        column = complex_normal(ELEMENTS, 1)
        truth = np.concatenate([column, column], axis=1)
        result, dimension = jax.jit(cov.projector_overlap)(truth, truth, jnp.asarray(2))
        chex.assert_trees_all_close((result, dimension), (np.ones((), "f4"),) * 2, atol=1e-4)

    def test_shapes_must_agree(self):
        with self.assertRaisesRegex(ValueError, r"one shape; got \(7, 2\) and \(7, 3\)"):
            overlap(complex_normal(7, 2), complex_normal(7, 3), 2)

    @parameterized.named_parameters(
        ("full_rank", 3, "random"),
        ("noise_directions", 2, "random"),
        ("one_direction", 1, "random"),
        ("signal_eigenvalues_tie", 3, "orthonormal"),
        ("noise_eigenvalues_tie", 1, "orthonormal_noise"),
    )
    def test_derivative(self, rank, kind):
        """Finite differences in float64; a projector with a gap is smooth."""
        factor = complex_normal(ELEMENTS, 3).astype(complex)
        if kind != "random":
            factor = np.linalg.qr(factor)[0]
        if kind == "orthonormal_noise":
            factor = factor * np.array([2.0, 1.0, 1.0])
        with jax.enable_x64(True):
            truth = jnp.asarray(complex_normal(ELEMENTS, 3, seed=1), "c16")

            def of_parts(real, imaginary):
                return overlap(jax.lax.complex(real, imaginary), truth, rank)

            parts = jnp.asarray(factor.real), jnp.asarray(factor.imag)
            check_grads(jax.jit(of_parts), parts, order=1, rtol=1e-5, atol=1e-6)

    @parameterized.parameters(
        "coinciding", "zero", "rank_one", "all_eigenvalues_tie", "padding", "tiny", "huge"
    )
    def test_derivative_is_finite(self, kind):
        """Derivatives are finite even for ties across the gap."""
        factor = complex_normal(ELEMENTS, 3)
        factor = {
            "coinciding": factor[:, [0, 0, 1]],
            "zero": 0 * factor,
            "rank_one": factor[:, [0, 0, 0]] * np.array([1.0, 2.0, -0.5], "f4"),
            "all_eigenvalues_tie": np.eye(ELEMENTS, 3, dtype="c8"),
            "padding": factor * np.array([1.0, 0.0, 0.0], "f4"),
            "tiny": factor * np.float32(1e-8),
            "huge": factor * np.float32(1e8),
        }[kind]
        truth = complex_normal(ELEMENTS, 3, seed=1)
        for rank in (1, 2, 3):
            value, gradient = jax.jit(jax.value_and_grad(overlap))(factor, truth, rank)
            chex.assert_tree_all_finite((value, gradient))
            self.assertBetween(float(value), -1e-4, rank + 1e-4)


if __name__ == "__main__":
    absltest.main()
