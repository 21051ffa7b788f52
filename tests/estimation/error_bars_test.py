"""Error bars from the curvature of the likelihood, against the Cramér-Rao bound."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ris_jax.accuracy import bounds
from ris_jax.estimation import error_bars, likelihood, refinement, search_grid
from ris_jax.physics import arrays, scenes

WAVELENGTH = 0.3
LENGTH = ANTENNAS = 8
SOURCES, BATCH = 3, 24
POSITIONS = np.asarray(arrays.planar_array(6, 6, 0.15))
ELEMENTS = len(POSITIONS)
REGION = search_grid.SearchRegion()
NOISE = np.float32(0.3)


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


def draw(seed):
    """Draw coordinates (u, w, 1/r) at least a beam apart, [B, K, 3]."""
    random = np.random.default_rng(seed)
    third = np.argsort(random.random((BATCH, SOURCES)), axis=1) - 1
    u = 0.55 * third + random.uniform(-0.1, 0.1, (BATCH, SOURCES))
    w = random.uniform(-0.4, 0.4, (BATCH, SOURCES))
    inverse_range = random.uniform(0.4, 1.8, (BATCH, SOURCES))
    return np.stack([u, w, inverse_range], axis=-1).astype("f4")


def simulate(points, wavefront, seed=0):
    """Simulate constant signals of modulus 0.5 to 2 at the points."""
    random = np.random.default_rng(seed)
    channel = complex_normal(random, BATCH, ANTENNAS, ELEMENTS)
    codes = np.exp(0.25j * np.pi * random.integers(0, 8, (BATCH, LENGTH, ELEMENTS)))
    vectors = arrays.steering_jet(
        jnp.asarray(points), jnp.asarray(POSITIONS), wavelength=WAVELENGTH, wavefront=wavefront
    )
    modulus = random.uniform(0.5, 2.0, (BATCH, SOURCES))
    signals = modulus * np.exp(2j * np.pi * random.random((BATCH, SOURCES)))
    field = np.einsum("bk,bkn->bn", signals, np.asarray(vectors)[:, :, 0])
    clean = (codes * field[:, None]) @ channel.swapaxes(1, 2)
    noise = np.sqrt(NOISE) * complex_normal(random, *clean.shape)
    return scenes.Measurement(
        *(np.asarray(part, "c8") for part in (clean + noise, channel, codes)),
        np.full(BATCH, NOISE),
    )


@functools.partial(jax.jit, static_argnames="wavefront")
def both(measurement, points, active, shares, wavefront):
    """Return error bars and bound of sources with fractions of the power, [B, K, 3, 3] each."""
    wave = {"wavelength": WAVELENGTH, "wavefront": wavefront}
    positions = jnp.asarray(POSITIONS)
    jet = functools.partial(arrays.steering_jet, positions=positions, **wave)
    setting = refinement.RefinementProblem(jet, REGION.lower, REGION.upper)

    def one(scene, points, active, shares):
        observation = likelihood.observe(scene, "constant")
        fit = refinement.refine(setting, observation, points, active, 0)
        inverse = refinement.background(observation, fit).inverse_gram
        inverse = jnp.diagonal(inverse[0]).real
        amplitudes = fit.local.amplitudes[0]
        power = shares * jnp.abs(amplitudes) ** 2
        found = error_bars.covariance(fit, power, inverse, scene.noise_variance)
        signals = jnp.where(active > 0, jnp.sqrt(shares) * amplitudes, 0.0)
        wanted = bounds.cramer_rao_bound(
            scene,
            *arrays.from_coordinates(fit.coordinates),
            jnp.broadcast_to(signals, (LENGTH, SOURCES)),
            positions,
            source_signal="constant",
            **wave,
        )
        return found, wanted.covariance

    return jax.vmap(one)(measurement, points, active, shares)


def scene_of(wavefront, seed=0):
    points = draw(seed)
    return simulate(points, wavefront, seed), points


class CovarianceTest(parameterized.TestCase):
    def assert_close(self, found, wanted):
        """Compare to one per cent of the standard deviations."""
        found, wanted = np.asarray(found, float), np.asarray(wanted, float)
        deviation = np.sqrt(np.diagonal(wanted, axis1=-2, axis2=-1))
        scale = deviation[..., :, None] * deviation[..., None, :]
        finite = np.isfinite(scale)
        np.testing.assert_array_equal(np.isfinite(found) & finite, finite)
        error = np.abs(found - wanted)[finite] / scale[finite]
        np.testing.assert_array_less(error, 0.01)

    @parameterized.product(wavefront=("spherical", "fresnel", "parabolic"), share=(1.0, 0.4))
    def test_equals_the_bound(self, wavefront, share):
        measurement, points = scene_of(wavefront)
        active = np.ones((BATCH, SOURCES), "f4")
        found, wanted = both(measurement, points, active, share * active, wavefront)
        chex.assert_shape(found, (BATCH, SOURCES, 3, 3))
        chex.assert_tree_all_finite((found, wanted))
        np.testing.assert_allclose(found, np.swapaxes(found, -1, -2), rtol=1e-3, atol=1e-9)
        self.assert_close(found, wanted)

    def test_plane_waves_have_no_range(self):
        measurement, points = scene_of("planar")
        points[..., 2] = 0.0
        active = np.ones((BATCH, SOURCES), "f4")
        found, wanted = both(measurement, points, active, active, "planar")
        np.testing.assert_array_equal(found[..., 2, 2], np.inf)
        np.testing.assert_array_equal(found[..., 2, :2], 0.0)
        np.testing.assert_array_equal(found[..., :2, 2], 0.0)
        self.assert_close(found[..., :2, :2], wanted[..., :2, :2])

    def test_infinitely_far(self):
        """For spherical waves from infinity, 1/r has a finite bound, the range does not."""
        measurement, points = scene_of("spherical")
        points[:, 0, 2] = 0.0
        active = np.ones((BATCH, SOURCES), "f4")
        found, wanted = both(measurement, points, active, active, "spherical")
        np.testing.assert_array_equal(found[:, 0, 2, 2], np.inf)
        self.assert_close(found[:, 0, :2, :2], wanted[:, 0, :2, :2])
        self.assert_close(found[:, 1:], wanted[:, 1:])

    @pytest.mark.full
    def test_coinciding_sources(self):
        """Two coinciding sources have infinite error bars; the third has its bound."""
        measurement, points = scene_of("spherical")
        points[:, 1] = points[:, 0]
        active = np.ones((BATCH, SOURCES), "f4")
        found, wanted = both(measurement, points, active, active, "spherical")
        infinite = np.where(np.eye(3, dtype=bool), np.inf, 0.0)
        np.testing.assert_array_equal(found[:, :2], np.broadcast_to(infinite, (BATCH, 2, 3, 3)))
        self.assertTrue(np.all(np.isfinite(found[:, 2])))
        self.assertTrue(np.all(np.isinf(wanted[:, :2, 0, 0])))

    def test_padding(self):
        """An absent source has infinite error bars and does not affect the others."""
        measurement, points = scene_of("spherical")
        active = np.tile(np.array([1.0, 0.0, 1.0], "f4"), (BATCH, 1))
        found, wanted = both(measurement, points, active, np.ones_like(active), "spherical")
        infinite = np.where(np.eye(3, dtype=bool), np.inf, 0.0)
        np.testing.assert_array_equal(found[:, 1], np.broadcast_to(infinite, (BATCH, 3, 3)))
        self.assert_close(found[:, ::2], wanted[:, ::2])
        points[:, 1] = 0.0
        moved, _ = both(measurement, points, active, np.ones_like(active), "spherical")
        np.testing.assert_allclose(moved[:, ::2], found[:, ::2], rtol=1e-4)

    def test_no_power(self):
        """A source without power has infinite error bars and does not affect the others."""
        measurement, points = scene_of("spherical")
        active = np.ones((BATCH, SOURCES), "f4")
        shares = np.tile(np.array([1.0, 0.0, 1.0], "f4"), (BATCH, 1))
        found, _ = both(measurement, points, active, shares, "spherical")
        np.testing.assert_array_equal(np.diagonal(found[:, 1], axis1=1, axis2=2), np.inf)
        self.assertTrue(np.all(np.isfinite(found[:, ::2])))

    def test_grows_with_the_noise(self):
        measurement, points = scene_of("spherical")
        active = np.ones((BATCH, SOURCES), "f4")
        found, _ = both(measurement, points, active, active, "spherical")
        louder = measurement._replace(noise_variance=4 * measurement.noise_variance)
        doubled, _ = both(louder, points, active, active, "spherical")
        np.testing.assert_allclose(doubled, 4 * found, rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
