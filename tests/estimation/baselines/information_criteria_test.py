"""Information criteria on simulated covariances, and on eigenvalues without noise."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation.baselines import information_criteria

ELEMENTS, SCENES = 10, 200
CRITERIA = {
    "mdl": information_criteria.minimum_description_length,
    "aic": information_criteria.akaike,
}


@functools.partial(jax.jit, static_argnames=("criterion", "num_samples", "max_sources"))
def count(eigenvalues, *, criterion, num_samples, max_sources=None):
    return CRITERIA[criterion](eigenvalues, num_samples, max_sources=max_sources)


def eigenvalues(sources, num_samples, power=10.0, elements=ELEMENTS, seed=0):
    """Return eigenvalues of sample covariances in unit white noise, [SCENES, elements]."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        parts = random.normal(size=(2, SCENES, *shape))
        return (parts[0] + 1j * parts[1]) / 2**0.5

    directions = np.linalg.qr(normal(elements, elements))[0][..., :sources]
    signals = np.sqrt(power) * directions @ normal(sources, num_samples)
    snapshots = signals + normal(elements, num_samples)
    covariance = snapshots @ snapshots.swapaxes(1, 2).conj() / num_samples
    return np.linalg.eigvalsh(covariance).astype("f4")


def oracle(values, num_samples, penalty):
    """Compute Eqs. (17), (19) of Wax & Kailath in float64, for num_samples >= N."""
    values = np.sort(values.astype(float))[::-1]
    size = len(values)
    costs = []
    for k in range(size):
        tail = values[k:]
        ratio = np.exp(np.mean(np.log(tail))) / np.mean(tail)
        costs.append(-np.log(ratio) * (size - k) * num_samples + penalty * k * (2 * size - k))
    return int(np.argmin(costs))


class CriteriaTest(parameterized.TestCase):
    @parameterized.product(criterion=("mdl", "aic"), num_samples=(15, 100))
    def test_formula(self, criterion, num_samples):
        """Sources are weak, so that results differ between scenes."""
        values = eigenvalues(2, num_samples, power=0.8)
        penalty = 0.5 * np.log(num_samples) if criterion == "mdl" else 1.0
        expected = [oracle(row, num_samples, penalty) for row in values]
        self.assertGreater(len(set(expected)), 1)
        result = count(values, criterion=criterion, num_samples=num_samples)
        chex.assert_trees_all_equal(np.asarray(result), np.array(expected, result.dtype))

    @parameterized.parameters(0, 1, 3, 5)
    def test_strong_sources(self, sources):
        values = eigenvalues(sources, 200)
        description = count(values, criterion="mdl", num_samples=200)
        self.assertGreater(float(jnp.mean(description == sources)), 0.99)
        akaike = count(values, criterion="aic", num_samples=200)
        self.assertGreater(float(jnp.mean(akaike == sources)), 0.7)
        self.assertGreaterEqual(int(akaike.min()), sources)

    def test_consistency(self):
        """Errors of MDL vanish with more snapshots; AIC has a constant false-alarm rate."""
        share = {}
        for criterion in CRITERIA:
            for num_samples in (20, 2000):
                values = eigenvalues(3, num_samples, power=1.0)
                found = count(values, criterion=criterion, num_samples=num_samples)
                share[criterion, num_samples] = float(jnp.mean(found == 3))
        self.assertLess(share["mdl", 20], 0.5)
        self.assertEqual(share["mdl", 2000], 1.0)
        self.assertLess(share["aic", 2000], 0.97)

    @parameterized.product(criterion=("mdl", "aic"), sources=(0, 1, 3))
    def test_fewer_snapshots_than_elements(self, criterion, sources):
        """12 snapshots of 48 elements, with the eigenvalues of both matrices."""
        values = eigenvalues(sources, 12, power=40.0, elements=48)
        found = count(values, criterion=criterion, num_samples=12)
        right = float(jnp.mean(found == sources))
        self.assertGreater(right, 0.97 if criterion == "mdl" else 0.7)
        gram = 12 / 48 * values[:, -12:]
        again = count(gram, criterion=criterion, num_samples=48)
        chex.assert_trees_all_equal(found, again)

    @parameterized.product(criterion=("mdl", "aic"), num_samples=(4, 10, 1000))
    def test_no_noise(self, criterion, num_samples):
        """Zeros, ties, negative rounding, no power, exact eigenvalues."""
        values = np.zeros((6, ELEMENTS), "f4")
        values[0, :2] = 3.0, 1e-3
        values[1] = [2.0, 2.0, *[1e-9] * 8]
        values[2] = [1.0, 0.5, *[-1e-8] * 8]
        values[4] = 1.0
        values[5, :3] = 1e-30
        result = count(values, criterion=criterion, num_samples=num_samples)
        chex.assert_trees_all_equal(np.asarray(result), np.array([2, 2, 2, 0, 0, 3]))

    @parameterized.product(criterion=("mdl", "aic"), scale=(1e-20, 1e20))
    def test_order_and_scale(self, criterion, scale):
        values = eigenvalues(2, 50, power=1.0)
        shuffled = np.random.default_rng(0).permuted(values, axis=1) * np.float32(scale)
        options = {"criterion": criterion, "num_samples": 50}
        chex.assert_trees_all_equal(count(values, **options), count(shuffled, **options))

    @parameterized.product(criterion=("mdl", "aic"), most=(0, 2, 99))
    def test_at_most(self, criterion, most):
        values = eigenvalues(4, 200)[:6].reshape(2, 3, ELEMENTS)
        result = count(values, criterion=criterion, num_samples=200, max_sources=most)
        chex.assert_shape(result, (2, 3))
        self.assertEqual(int(result.min()), min(most, 4))

    @parameterized.parameters("mdl", "aic")
    def test_errors(self, criterion):
        with self.assertRaisesRegex(ValueError, "num_samples >= 1; got 0"):
            CRITERIA[criterion](jnp.ones(4), 0)
        with self.assertRaisesRegex(ValueError, "max_sources >= 0; got -1"):
            CRITERIA[criterion](jnp.ones(4), 10, max_sources=-1)


if __name__ == "__main__":
    absltest.main()
