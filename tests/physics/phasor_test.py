"""Phases in turns, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.physics import phasor


class CosineAndSineTest(parameterized.TestCase):
    @parameterized.parameters((np.float32, 1e-6), (np.float64, 2e-13))
    def test_against_numpy(self, dtype, tolerance):
        """Many turns are exact, because only the phase is rounded."""
        turns = np.random.default_rng(0).uniform(-300, 300, 4000).astype(dtype)
        exact = 2 * np.pi * (turns.astype(float) - np.round(turns))
        with jax.enable_x64(dtype == np.float64):
            cosine, sine = jax.jit(phasor.cosine_and_sine)(turns)
            self.assertEqual(cosine.dtype, dtype)
        np.testing.assert_allclose(cosine, np.cos(exact), atol=tolerance)
        np.testing.assert_allclose(sine, np.sin(exact), atol=tolerance)

    def test_derivative(self):
        """The derivative of the cosine is -2 pi sine, that of the sine 2 pi cosine."""
        with jax.enable_x64(True):
            turns = jnp.linspace(-1.3, 1.4, 40)
            for index, sign in ((0, -1), (1, 1)):
                slope = jax.vmap(jax.grad(lambda t, i=index: phasor.cosine_and_sine(t)[i]))(turns)
                other = phasor.cosine_and_sine(turns)[1 - index]
                np.testing.assert_allclose(slope, sign * 2 * np.pi * other, atol=1e-10)


if __name__ == "__main__":
    absltest.main()
