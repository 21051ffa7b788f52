"""The linear measurement and its field estimates against dense NumPy algebra."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.physics import measurement, scenes

# 6 codes and 5 antennas give 30 samples of 12 elements.
CODES, ANTENNAS, ELEMENTS = 6, 5, 12


def random_measurement(noise_variance, *, codes=CODES, seed=0, independent=False):
    """Return a measurement of a random field, the dense operator and the field, all float64."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return (random.normal(size=shape) + 1j * random.normal(size=shape)) / 2**0.5

    channel = normal(ANTENNAS, ELEMENTS)
    phases = np.exp(2j * np.pi * random.random((codes, ELEMENTS)))
    blocks = np.array([channel @ np.diag(code) for code in phases])
    field = normal(codes if independent else 1, ELEMENTS)
    clean = np.einsum("lmn,ln->lm", blocks, np.broadcast_to(field, (codes, ELEMENTS)))
    snapshots = clean + noise_variance**0.5 * normal(codes, ANTENNAS)
    result = scenes.Measurement(snapshots, channel, phases, np.float64(noise_variance))
    single = jax.tree.map(lambda x: jnp.asarray(x, "c8" if np.iscomplexobj(x) else "f4"), result)
    return single, result, blocks, field


def regularisation(exact, blocks):
    """Return sigma^2 / sigma_x^2, with the field power sigma_x^2 from the received power."""
    signal = np.mean(np.abs(exact.snapshots) ** 2) - exact.noise_variance
    gain = np.linalg.norm(blocks) ** 2 / exact.snapshots.size  # received for each unit of sigma_x^2
    return exact.noise_variance * gain / signal


class OperatorTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.single, self.exact, blocks, _ = random_measurement(0.1)
        self.dense = blocks.reshape(-1, ELEMENTS)

    def test_operator(self):
        operator = jax.jit(measurement.operator)(self.single)
        chex.assert_shape(operator, (CODES * ANTENNAS, ELEMENTS))
        chex.assert_trees_all_close(np.asarray(operator), self.dense.astype("c8"), atol=1e-5)

    def test_gram(self):
        expected = (self.dense.conj().T @ self.dense).astype("c8")
        gram = np.asarray(jax.jit(measurement.gram)(self.single.channel, self.single.codes))
        chex.assert_trees_all_close(gram, expected, atol=1e-4)

    def test_gram_of_a_batch_is_exactly_hermitian(self):
        random = np.random.default_rng(1)
        shape = (3, 16, 144)  # the default sizes: products are blocked
        channel = (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")
        codes = np.exp(2j * np.pi * random.random(shape)).astype("c8")
        gram = np.asarray(jax.jit(jax.vmap(measurement.gram))(channel, codes))
        np.testing.assert_array_equal(gram, gram.conj().swapaxes(1, 2))
        exact = [x.astype("c16").conj().swapaxes(1, 2) @ x.astype("c16") for x in (channel, codes)]
        chex.assert_trees_all_close(gram, (exact[0] * exact[1]).astype("c8"), atol=1e-3)

    def test_adjoint(self):
        expected = (self.dense.conj().T @ self.exact.snapshots.ravel()).astype("c8")
        adjoint = np.asarray(jax.jit(measurement.adjoint)(self.single))
        chex.assert_trees_all_close(adjoint, expected, atol=1e-4)

    def test_condition_number(self):
        result = jax.jit(measurement.condition_number)(self.single)
        chex.assert_trees_all_close(float(result), np.linalg.cond(self.dense), rtol=1e-3)

    def test_condition_number_without_full_rank(self):
        single, *_ = random_measurement(0.1, codes=2)  # 10 values of 12 unknowns
        self.assertEqual(float(jax.jit(measurement.condition_number)(single)), np.inf)


class SignalToNoiseTest(absltest.TestCase):
    def snr(self, power, noise_variance):
        single, *_ = random_measurement(0.0)
        scaled = single.snapshots * (power / jnp.mean(jnp.abs(single.snapshots) ** 2)) ** 0.5
        item = single._replace(snapshots=scaled, noise_variance=jnp.float32(noise_variance))
        return float(jax.jit(measurement.signal_to_noise)(item))

    def test_received_less_noise(self):
        self.assertAlmostEqual(self.snr(5.0, 0.5), 9.0, places=4)

    def test_bounded_below(self):
        """The signal power is at least 0.05 of the received power."""
        self.assertAlmostEqual(self.snr(1.0, 1.0), 0.05, places=5)
        self.assertAlmostEqual(self.snr(1.0, 2.0), 0.025, places=5)

    def test_follows_the_drawn_snr(self):
        """The mean of (|y|^2 - sigma^2) / sigma^2 over 300 draws is the SNR of the clean data."""
        estimates, drawn = [], []
        for seed in range(300):
            single, exact, blocks, field = random_measurement(0.5, seed=seed)
            clean = np.einsum("lmn,kn->lm", blocks, field)
            estimates.append(float(jax.jit(measurement.signal_to_noise)(single)))
            drawn.append(np.mean(np.abs(clean) ** 2) / exact.noise_variance)
        difference = np.array(estimates) - drawn
        self.assertAlmostEqual(difference.mean(), 0.0, delta=4 * difference.std() / 300**0.5)


class FieldsTest(parameterized.TestCase):
    @parameterized.parameters(0.01, 1.0, 5.0)
    def test_aperture_field(self, noise_variance):
        single, exact, blocks, _ = random_measurement(noise_variance)
        phi = blocks.reshape(-1, ELEMENTS)
        matrix = phi.conj().T @ phi + regularisation(exact, blocks) * np.eye(ELEMENTS)
        expected = np.linalg.solve(matrix, phi.conj().T @ exact.snapshots.ravel())
        field = np.asarray(jax.jit(measurement.aperture_field)(single))
        chex.assert_shape(field, (ELEMENTS,))
        chex.assert_trees_all_close(field, expected.astype("c8"), atol=2e-4)

    @parameterized.parameters(0.01, 1.0, 5.0)
    def test_snapshot_fields(self, noise_variance):
        """Compare with the other side of the push-through identity, N x N instead of M x M."""
        single, exact, blocks, _ = random_measurement(noise_variance, independent=True)
        loading = regularisation(exact, blocks) * np.eye(ELEMENTS)
        expected = np.array(
            [
                np.linalg.solve(block.conj().T @ block + loading, block.conj().T @ y)
                for block, y in zip(blocks, exact.snapshots, strict=True)
            ]
        )
        fields = np.asarray(jax.jit(measurement.snapshot_fields)(single))
        chex.assert_shape(fields, (ELEMENTS, CODES))
        chex.assert_trees_all_close(fields, expected.T.astype("c8"), atol=2e-4)

    def test_aperture_field_approaches_the_truth(self):
        errors = []
        for noise_variance in (1.0, 1e-2, 1e-4):
            single, _, _, truth = random_measurement(noise_variance)
            field = np.asarray(jax.jit(measurement.aperture_field)(single))
            errors.append(np.linalg.norm(field - truth[0]) ** 2 / np.linalg.norm(truth) ** 2)
        self.assertLess(errors[1], errors[0])
        self.assertLess(errors[2], 1e-4)

    def test_snapshot_fields_explain_the_snapshots(self):
        single, exact, blocks, truth = random_measurement(1e-6, independent=True)
        fields = np.asarray(jax.jit(measurement.snapshot_fields)(single)).T
        explained = np.einsum("lmn,ln->lm", blocks, fields)
        chex.assert_trees_all_close(explained, exact.snapshots, atol=1e-2)
        self.assertLess(np.linalg.norm(fields), np.linalg.norm(truth))  # the minimum-norm solution

    @parameterized.parameters(("constant", 1), ("independent", CODES))
    def test_field_estimates(self, source_signal, columns):
        single, *_ = random_measurement(0.1)
        estimate = jax.jit(measurement.field_estimates, static_argnums=1)
        chex.assert_shape(estimate(single, source_signal), (ELEMENTS, columns))

    @parameterized.parameters(measurement.aperture_field, measurement.snapshot_fields)
    def test_finite_at_the_corners(self, estimate):
        """Corners: zero data, no noise, and fewer samples than unknowns."""
        single, *_ = random_measurement(0.1)
        few, *_ = random_measurement(0.1, codes=1)
        silent = single._replace(snapshots=jnp.zeros_like(single.snapshots))
        for item in (
            silent,
            silent._replace(noise_variance=jnp.float32(0.0)),
            single._replace(noise_variance=jnp.float32(0.0)),
            few,
            few._replace(noise_variance=jnp.float32(0.0)),
        ):
            chex.assert_tree_all_finite(jax.jit(estimate)(item))


if __name__ == "__main__":
    absltest.main()
