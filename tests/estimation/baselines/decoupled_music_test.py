"""Modified and reduced-dimension MUSIC: exact covariances, aliases, sub-surfaces, invariants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.baselines import decoupled_music, subspace, symmetric_arrays
from ris_jax.physics import arrays
from ris_jax.physics import covariance as cov

# Half a wavelength: directions are ambiguous, and the range search resolves them.
WAVELENGTH, SPACING = 0.3, 0.15
SHAPE, SOURCES, BATCH = (8, 9), 3, 4
REGION = search_grid.SearchRegion(0.9, 0.54, 0.0, 1.0)
METHODS = {
    "modified": decoupled_music.modified_music,
    "reduced": decoupled_music.reduced_dimension_music,
}
# Compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


POSITIONS = arrays.planar_array(*SHAPE, SPACING)
LAYOUT = symmetric_arrays.GridLayout(*SHAPE, SPACING)


@functools.partial(jit, static_argnames=("method", "sub_surface"))
def locate(factor, num_sources, method, sub_surface=None):
    return METHODS[method](
        cov.LowRankCovariance(factor, jnp.zeros(factor.shape[0])),
        num_sources,
        POSITIONS,
        wavelength=WAVELENGTH,
        wavefront="fresnel",
        max_sources=SOURCES,
        region=REGION,
        sub_surface=sub_surface,
        grid=(32, 20, 24),
    )


def draw(seed=0):
    """Draw sources [B, K] at least a beam apart: azimuth, elevation, range, power."""
    random = np.random.default_rng(seed)
    third = np.argsort(random.random((BATCH, SOURCES)), axis=1)
    u = random.uniform(-0.12, 0.12, (BATCH, SOURCES)) + 0.53 * (third - 1)
    w = random.uniform(-0.4, 0.4, (BATCH, SOURCES))
    elevation = np.arcsin(w)
    azimuth = np.arcsin(u / np.cos(elevation))
    source_range = random.uniform(1.5, 4.0, (BATCH, SOURCES))
    power = np.broadcast_to([1.0, 0.6, 0.3], (BATCH, SOURCES))
    return azimuth, elevation, source_range, power


def steering(truth):
    azimuth, elevation, source_range, _ = (jnp.asarray(part, "f4") for part in truth)
    return arrays.steering_vector(
        azimuth, elevation, source_range, POSITIONS,
        wavelength=WAVELENGTH, wavefront="fresnel",
    )  # fmt: skip


def factor_of(truth):
    """Return the factor of the covariance of uncorrelated sources, [B, N, K]."""
    return jnp.swapaxes(steering(truth) * np.sqrt(truth[3])[..., None], 1, 2)


class ExactCovarianceTest(parameterized.TestCase):
    def test_anti_diagonal_is_independent_of_the_range(self):
        """v_n = 1/N sum_k P_k exp(2 j k u_k q_n) for any ranges."""
        truth = draw()
        found = decoupled_music.anti_diagonal(factor_of(truth))
        azimuth, elevation, _, power = truth
        unit = [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.zeros_like(azimuth)]
        along = np.einsum("cbk,nc->bkn", np.array(unit), np.asarray(POSITIONS, float))
        waves = np.exp(2j * 2 * np.pi / WAVELENGTH * along)
        expected = np.einsum("bk,bkn->bn", power, waves) / np.prod(SHAPE)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @parameterized.parameters(*METHODS)
    def test_peaks_at_the_truth(self, method):
        truth = draw()
        found = locate(factor_of(truth), np.full(BATCH, SOURCES), method)
        np.testing.assert_array_equal(found.num_sources, SOURCES)
        # Sources are in order of power.
        np.testing.assert_allclose(found.azimuth, truth[0], atol=2e-3)
        np.testing.assert_allclose(found.elevation, truth[1], atol=2e-3)
        np.testing.assert_allclose(found.source_range, truth[2], rtol=0.05)
        np.testing.assert_allclose(found.power, truth[3], rtol=0.02)

    @parameterized.parameters(*METHODS)
    def test_invariants(self, method):
        """Scale of the covariance, reversed array, number of sources."""
        factor, count = factor_of(draw(1)), np.arange(BATCH) % (SOURCES + 1)
        found = locate(factor, count, method)
        np.testing.assert_array_equal(found.num_sources, count)
        scaled = locate(2e-3 * factor, count, method)
        np.testing.assert_allclose(scaled.azimuth, found.azimuth, atol=1e-4)
        np.testing.assert_allclose(scaled.power, 4e-6 * found.power, rtol=1e-3)
        whole = np.full(BATCH, SOURCES)
        upright = locate(factor, whole, method)
        turned = locate(jnp.flip(factor, axis=1), whole, method)
        np.testing.assert_allclose(turned.azimuth, -upright.azimuth, atol=2e-3)
        np.testing.assert_allclose(turned.elevation, -upright.elevation, atol=2e-3)
        np.testing.assert_allclose(turned.source_range, upright.source_range, rtol=0.05)

    @pytest.mark.full
    def test_sub_surfaces_resolve_coherent_sources(self):
        """Rank one gives only the strongest of three sources; smoothing gives nearly all."""
        truth = draw(2)
        phases = np.exp(2j * np.pi * np.random.default_rng(0).random((BATCH, SOURCES)))
        amplitudes = (np.sqrt(truth[3]) * phases).astype("c8")
        field = jnp.einsum("bk,bkn->bn", amplitudes, steering(truth))
        found = locate(field[..., None], np.full(BATCH, SOURCES), "reduced", sub_surface=(6, 6))
        distance = np.abs(np.asarray(found.azimuth)[:, None] - truth[0][..., None])
        self.assertLess(np.median(distance.min(axis=-1)), np.deg2rad(6))


class LayoutTest(parameterized.TestCase):
    @parameterized.parameters((3, 4), (1, 5), (5, 1))
    def test_layout_from_positions(self, rows, columns):
        positions = np.asarray(arrays.planar_array(rows, columns, 0.1))
        layout = symmetric_arrays.layout_of(positions)
        self.assertEqual(layout.shape, (rows, columns))
        self.assertAlmostEqual(layout.spacing, 0.1, places=6)

    @parameterized.parameters(
        lambda p: p[:-1],
        lambda p: p[::-1],
        lambda p: p + np.array([0.05, 0, 0]),
        lambda p: p * np.array([1, 2, 1]),
        lambda p: p + np.array([0, 0, 0.1]),
        lambda p: p[:1],
        lambda p: np.random.default_rng(0).normal(size=p.shape),
    )
    def test_refuses_other_arrays(self, change):
        positions = change(np.asarray(arrays.planar_array(3, 4, 0.1)))
        with self.assertRaisesRegex(config_lib.ConfigError, "positions: need a grid centred"):
            symmetric_arrays.layout_of(positions)

    @parameterized.parameters((0.075, 0.9, 0), (0.15, 0.4, 0), (0.15, 0.9, 1), (0.3, 0.9, 2))
    def test_aliases_cover_the_region(self, spacing, u_max, steps):
        region = search_grid.SearchRegion(u_max, 0.2)
        layout = symmetric_arrays.GridLayout(8, 8, spacing)
        found = symmetric_arrays.aliases(region, layout, WAVELENGTH)
        period = WAVELENGTH / (2 * spacing)
        np.testing.assert_allclose(found[:, 0], period * np.arange(-steps, steps + 1), atol=1e-6)
        np.testing.assert_array_equal(found[:, 1], 0)
        self.assertLessEqual(
            symmetric_arrays.one_period(region, layout, WAVELENGTH).u_max, 0.55 * period + 1e-9
        )


class RefusesTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"layout": symmetric_arrays.GridLayout(8, 8, 0.1)}, "layout of 72 elements; got 8 x 8"),
        ({"sub_surface": (9, 3)}, "sub-surface within 8 x 9; got 9 x 3"),
        ({"sub_surface": (0, 3)}, "sub-surface"),
        ({"grid": (2, 2, 2)}, "cells or more"),
        ({"max_sources": 0}, "max_sources >= 1"),
    )
    def test_arguments(self, changes, message):
        covariance = cov.LowRankCovariance(jnp.ones((1, 72, 1), "c8"), jnp.zeros(1))
        arguments = {"layout": LAYOUT, "wavelength": 0.3} | changes
        for method in METHODS.values():
            with self.assertRaisesRegex(ValueError, message):
                method(covariance, jnp.ones(1, int), POSITIONS, **arguments)


class SignalBasisTest(parameterized.TestCase):
    @parameterized.parameters(4, 12)
    def test_spans_the_signal_subspace(self, columns):
        random = np.random.default_rng(0)
        factor = random.normal(size=(2, 8, columns)) + 1j * random.normal(size=(2, 8, columns))
        basis = cov.signal_basis(jnp.asarray(factor, "c8"), jnp.array([2, 3]), 3)
        for one, basis_of, rank in zip(factor, np.asarray(basis), (2, 3), strict=True):
            left = np.linalg.svd(one)[0][:, :rank]
            projector = basis_of @ basis_of.conj().T
            np.testing.assert_allclose(projector, left @ left.conj().T, atol=1e-5)


class AgainstMusicTest(absltest.TestCase):
    def test_range_equals_that_of_music(self):
        """At the true direction both spectra are equal."""
        truth = draw(3)
        factor = factor_of(truth)
        found = locate(factor, np.full(BATCH, SOURCES), "modified")
        spectrum = jit(
            lambda vectors: subspace.music_spectrum(
                cov.LowRankCovariance(factor, jnp.zeros(BATCH)), jnp.full(BATCH, SOURCES), vectors
            )
        )
        estimate = np.asarray(found.azimuth), np.asarray(found.elevation), found.source_range
        vectors = steering((*estimate, truth[3])).reshape(BATCH * SOURCES, -1)
        heights = np.asarray(spectrum(vectors)).reshape(BATCH, BATCH, SOURCES)
        self.assertGreater(np.min(heights[np.arange(BATCH), np.arange(BATCH)]), 1e2)


if __name__ == "__main__":
    absltest.main()
