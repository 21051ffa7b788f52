"""Spatial smoothing against a mean over sub-arrays, and with coherent sources."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ris_jax.estimation.baselines import smoothing, subspace
from ris_jax.physics import arrays
from ris_jax.physics import covariance as cov

WAVELENGTH, SPACING = 0.3, 0.15
SHAPE, WINDOW = (7, 9), (5, 6)
POSITIONS = arrays.planar_array(*SHAPE, SPACING)
smooth = jax.jit(smoothing.smooth, static_argnums=(1, 2))
centred_window = jax.jit(smoothing.centred_window, static_argnums=(1, 2))


def complex_normal(*shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")


def coherent():
    """Return two coherent plane waves a beam apart: field [1, N, 1], azimuths, elevations."""
    azimuth, elevation = np.array([0.2, 0.0], "f4"), np.array([0.1, 0.1], "f4")
    vectors = arrays.steering_vector(
        azimuth, elevation, np.full(2, np.inf, "f4"), POSITIONS, wavelength=WAVELENGTH
    )
    return jnp.sum(vectors * jnp.array([[1.0], [0.6j]]), axis=0)[None, :, None], azimuth, elevation


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def music(factor, positions):
    covariance = cov.LowRankCovariance(factor, jnp.zeros(1))
    return subspace.music(
        covariance,
        jnp.array([2]),
        positions,
        wavelength=WAVELENGTH,
        wavefront="planar",
        max_sources=2,
        grid=(16, 10, 1),
    )


def rank(factor):
    """Return the number of singular values above rounding."""
    values = np.linalg.svd(np.asarray(factor[0]), compute_uv=False)
    return int(np.sum(values > 1e-4 * values[0]))


class SmoothTest(parameterized.TestCase):
    @parameterized.parameters((SHAPE, WINDOW), (SHAPE, SHAPE), (SHAPE, (1, 1)), ((4, 3), (2, 3)))
    def test_mean_over_shifts(self, shape, window):
        """Smoothing equals a mean of masked dense covariances."""
        factor = complex_normal(2, shape[0] * shape[1], 3)
        dense = factor @ factor.swapaxes(1, 2).conj()
        number = np.arange(shape[0] * shape[1]).reshape(shape)
        parts = []
        for y in range(shape[0] - window[0] + 1):
            for x in range(shape[1] - window[1] + 1):
                chosen = number[y : y + window[0], x : x + window[1]].ravel()
                parts.append(dense[:, chosen][:, :, chosen])
        smoothed = smooth(factor, shape, window)
        chex.assert_shape(smoothed, (2, window[0] * window[1], 3 * len(parts)))
        result = cov.dense(cov.LowRankCovariance(smoothed, jnp.zeros(2)))
        chex.assert_trees_all_close(np.asarray(result), np.mean(parts, axis=0), atol=1e-5)

    @pytest.mark.full
    def test_coherent_sources(self):
        """MUSIC resolves them only with smoothing."""
        factor, azimuth, elevation = coherent()
        self.assertEqual(rank(factor), 1)
        smoothed = smooth(factor, SHAPE, WINDOW)
        self.assertEqual(rank(smoothed), 2)
        window = centred_window(POSITIONS, SHAPE, WINDOW)
        with_smoothing, without = music(smoothed, window), music(factor, POSITIONS)
        self.assertEqual(int(with_smoothing.num_sources[0]), 2)
        chex.assert_trees_all_close(with_smoothing.azimuth[0], azimuth, atol=1e-3)
        chex.assert_trees_all_close(with_smoothing.elevation[0], elevation, atol=1e-3)
        chex.assert_trees_all_close(
            with_smoothing.power[0], np.array([1.0, 0.36], "f4") * 30 / 63, rtol=1e-2
        )
        error = np.abs(np.asarray(without.azimuth[0]) - azimuth)
        self.assertGreater(np.rad2deg(error.max()), 1.0)

    def test_forward_backward_doubles_the_phases(self):
        """Two shifts along one axis separate two sources, forward and backward four."""
        field = complex_normal(1, 24, 1)
        once = smooth(field, (1, 24), (1, 23))
        twice = smooth(cov.forward_backward(field), (1, 24), (1, 23))
        self.assertEqual((rank(once), rank(twice)), (2, 4))

    @parameterized.parameters((smoothing.smooth,), (smoothing.centred_window,))
    def test_errors(self, function):
        values = jnp.ones((12, 3))
        for shape, window, message in (
            ((3, 5), (2, 2), "rows \\* columns = N; got 3 x 5 and N=12"),
            ((3, 4), (4, 2), "1 x 1 to 3 x 4; got 4 x 2"),
            ((3, 4), (2, 5), "got 2 x 5"),
            ((3, 4), (0, 2), "got 0 x 2"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                function(values, shape, window)


class CentredWindowTest(parameterized.TestCase):
    @parameterized.parameters(WINDOW, (5, 7), (1, 1), SHAPE)
    def test_is_the_centred_array(self, rows, columns):
        chex.assert_trees_all_close(
            centred_window(POSITIONS, SHAPE, (rows, columns)),
            arrays.planar_array(rows, columns, SPACING),
            atol=1e-6,
        )

    def test_keeps_the_centre_of_the_array(self):
        away = np.array([1.0, -2.0, 3.0], "f4")
        chex.assert_trees_all_close(
            centred_window(POSITIONS + away, SHAPE, WINDOW),
            arrays.planar_array(*WINDOW, SPACING) + away,
            atol=1e-6,
        )


if __name__ == "__main__":
    absltest.main()
