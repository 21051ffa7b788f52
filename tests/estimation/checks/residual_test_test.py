"""Residual energy in standard deviations: Monte Carlo, and limits."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import estimate as estimate_lib
from ris_jax.estimation import likelihood, refinement, search_grid
from ris_jax.estimation.checks import residual_test
from ris_jax.physics import arrays, scenes

LENGTH, ANTENNAS, ELEMENTS = 6, 4, 16
SAMPLES = LENGTH * ANTENNAS
WAVELENGTH = 0.3
POSITIONS = np.asarray(arrays.planar_array(4, 4, 0.15))
PLACE = np.array([0.3, -0.2, 0.5], "f4")  # (u, w, 1/r)
REGION = search_grid.SearchRegion()

deviations = jax.jit(residual_test.deviations, static_argnums=2)
inconsistent = jax.jit(residual_test.inconsistent, static_argnums=2)


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


def estimate_of(noise_variance, num_sources):
    """Return an estimate with only the number of sources and the noise variance."""
    batch = len(noise_variance)
    nothing = np.zeros((batch, 1), "f4")
    return estimate_lib.Estimate(
        azimuth=nothing,
        elevation=nothing,
        source_range=nothing,
        power=nothing,
        num_sources=np.full(batch, num_sources, "i4"),
        covariance=np.zeros((batch, 1, 3, 3), "f4"),
        noise_variance=np.asarray(noise_variance, "f4"),
    )


def measurement_of(noise_variance, length=LENGTH):
    """Return a measurement with only shapes and noise variance."""
    batch = len(noise_variance)
    return scenes.Measurement(
        snapshots=np.zeros((batch, length, ANTENNAS), "c8"),
        channel=np.zeros((batch, ANTENNAS, ELEMENTS), "c8"),
        codes=np.zeros((batch, length, ELEMENTS), "c8"),
        noise_variance=np.asarray(noise_variance, "f4"),
    )


def amplitudes_of(source_signal):
    return 1 if source_signal == "constant" else LENGTH


@functools.partial(jax.jit, static_argnames="source_signal")
def residual_energies(measurement, source_signal):
    """Return the residual energy of each scene after refinement near the truth."""
    jet = functools.partial(
        arrays.steering_jet, positions=jnp.asarray(POSITIONS), wavelength=WAVELENGTH
    )
    setting = refinement.RefinementProblem(jet, REGION.lower, REGION.upper)

    def one(scene):
        observation = likelihood.observe(scene, source_signal)
        fit = refinement.refine(setting, observation, jnp.asarray(PLACE)[None], jnp.ones(1), 8)
        return observation.energy - fit.local.value

    return jax.vmap(one)(measurement)


class DeviationsTest(parameterized.TestCase):
    def assert_standard(self, found, left):
        """Check mean 0 and standard deviation 1, within four standard errors."""
        count = len(found)
        # The energy of n complex samples is a sum of 2 n squares: its excess kurtosis is 6 / n.
        spread_error = np.sqrt((2 + 6 / left) / (4 * count))
        self.assertLess(abs(np.mean(found)), 4 / np.sqrt(count))
        self.assertLess(abs(np.std(found) - 1), 4 * spread_error)

    @parameterized.product(num_sources=(0, 1, 2), amplitudes=(1, LENGTH))
    def test_white_noise(self, num_sources, amplitudes):
        """A fit of K sources removes 2 (amplitudes + 1.5) K degrees of freedom."""
        random, batch, variance = np.random.default_rng(num_sources), 8000, 2.5
        taken = int(2 * num_sources * (amplitudes + 1.5))
        left = SAMPLES - taken / 2
        noise = np.sqrt(variance / 2) * random.normal(size=(batch, 2 * SAMPLES - taken))
        estimate = estimate_of(np.sum(noise**2, axis=1) / left, num_sources)
        found = deviations(estimate, measurement_of(np.full(batch, variance)), amplitudes)
        chex.assert_shape(found, (batch,))
        self.assert_standard(np.asarray(found, float), left)

    @parameterized.parameters("constant", "independent")
    def test_of_a_fit(self, source_signal):
        """The residual of a refined strong source has the expected degrees of freedom."""
        random, batch, variance = np.random.default_rng(0), 3000, 0.01
        channel = complex_normal(random, batch, ANTENNAS, ELEMENTS)
        codes = np.exp(0.25j * np.pi * random.integers(0, 8, (batch, LENGTH, ELEMENTS)))
        jet = arrays.steering_jet(jnp.asarray(PLACE), jnp.asarray(POSITIONS), wavelength=WAVELENGTH)
        steering = np.asarray(jet[0])
        signals = np.exp(2j * np.pi * random.random((batch, amplitudes_of(source_signal), 1)))
        clean = (codes * (signals * steering)) @ channel.swapaxes(1, 2)
        noise = np.sqrt(variance) * complex_normal(random, *clean.shape)
        measurement = scenes.Measurement(
            *(np.asarray(part, "c8") for part in (clean + noise, channel, codes)),
            np.full(batch, variance, "f4"),
        )
        amplitudes = amplitudes_of(source_signal)
        left = SAMPLES - (amplitudes + 1.5)
        energies = np.asarray(residual_energies(measurement, source_signal), float)
        found = deviations(estimate_of(energies / left, 1), measurement, amplitudes)
        self.assert_standard(np.asarray(found, float), left)

    def test_units_do_not_matter(self):
        variance = np.array([1e-12, 1.0, 1e12])
        found = deviations(estimate_of(1.3 * variance, 1), measurement_of(variance), 1)
        np.testing.assert_allclose(found, 0.3 * np.sqrt(SAMPLES - 2.5), rtol=1e-5)

    def test_more_unknowns_than_samples(self):
        """Without degrees of freedom, one sample is assumed."""
        variance = np.ones(1)
        found = deviations(estimate_of(1.5 * variance, 4), measurement_of(variance), LENGTH)
        np.testing.assert_allclose(found, 0.5, rtol=1e-6)


class InconsistentTest(absltest.TestCase):
    def test_half_as_much_again(self):
        """With 400 samples, 1.5 times the noise is an excess of 10 standard deviations."""
        variance = np.full(4, 0.1)
        factors = np.array([0.5, 1.0, 1.1, 1.5])
        found = inconsistent(
            estimate_of(factors * variance, 0), measurement_of(variance, length=100), 1
        )
        chex.assert_type(found, bool)
        np.testing.assert_array_equal(found, [False, False, False, True])

    def test_limit(self):
        """With 400 samples, four standard deviations are a fifth of the noise."""
        variance = np.ones(2)
        estimate = estimate_of(np.array([1.19, 1.21]), 0)
        found = inconsistent(estimate, measurement_of(variance, length=100), 1)
        np.testing.assert_array_equal(found, [False, True])

    def test_unknown_noise(self):
        """With unknown noise there is no excess."""
        variance = np.array([np.nan, 1.0])
        estimate = estimate_of(np.array([100.0, np.nan]), 1)
        found = inconsistent(estimate, measurement_of(variance), 1)
        np.testing.assert_array_equal(found, [False, False])
        self.assertTrue(np.all(np.isnan(deviations(estimate, measurement_of(variance), 1))))


if __name__ == "__main__":
    absltest.main()
