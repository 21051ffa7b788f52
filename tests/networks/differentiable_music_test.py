"""Differentiable MUSIC: sources of exact covariances, derivatives by finite differences."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import candidate_search, search_grid
from ris_jax.networks import differentiable_music
from ris_jax.physics import arrays, linear

WAVELENGTH, SPACING, ROWS = 0.3, 0.15, 6
SOURCES = 3
REGION = search_grid.SearchRegion(0.8, 0.5, 0.0, 2.2)
POSITIONS = np.asarray(arrays.planar_array(ROWS, ROWS, SPACING))
UNIT = search_grid.resolution(POSITIONS, wavelength=WAVELENGTH, wavefront="spherical")
SHAPE = search_grid.natural_shape(REGION, UNIT)
CELL = (REGION.upper - REGION.lower) / np.array(SHAPE)
TRUTH = np.array([[-0.41, 0.13, 0.9], [0.37, -0.22, 0.35], [0.05, 0.31, 1.6]])


@jax.jit
def steering(points):
    """Unit-norm vectors [P, N] in the precision of the points."""
    vectors = arrays.steering(
        arrays.unit_from_cosines(points[:, 0], points[:, 1]),
        points[:, 2],
        jnp.asarray(POSITIONS, points.dtype),
        wavelength=WAVELENGTH,
    )
    return arrays.normalized(vectors)


@functools.cache
def grid_vectors(dtype, shape):
    """Points of the grid and the conjugates of their steering vectors."""
    points = jnp.asarray(search_grid.grid_points(REGION, shape), dtype)
    return points, steering(points).conj()


@functools.partial(jax.jit, static_argnames="shape")
def _soft_peaks(factor, num_sources, points, conjugates, shape):
    limits = tuple(jnp.asarray(end, points.dtype) for end in (REGION.lower, REGION.upper))
    space = search_grid.SearchSpace(points, *limits, shape)
    parts, unit = linear.parts(conjugates.T), jnp.asarray(UNIT, points.dtype)
    grid = candidate_search.Grid(
        space, unit, jnp.asarray(POSITIONS), WAVELENGTH, "spherical", None, parts
    )
    return differentiable_music.soft_peaks(factor, num_sources, grid, steering, limits, SOURCES)


def soft_peaks(factor, num_sources, shape=SHAPE):
    vectors = grid_vectors(str(factor.real.dtype), shape)
    return _soft_peaks(factor, jnp.asarray(num_sources), *vectors, shape)


@functools.cache
def exact_factor(dtype):
    """Factor of three sources of different power, with mixed columns and two weak extra ones."""
    random = np.random.default_rng(0)
    vectors = np.asarray(steering(jnp.asarray(TRUTH, dtype))).T * np.array([1.0, 0.3, 0.6])
    mixed = vectors @ np.linalg.qr(random.normal(size=(3, 3)))[0]
    rest = random.normal(size=(2, len(POSITIONS), 2)) @ np.array([1.0, 1j])
    return np.concatenate([mixed, 1e-3 * rest.T], axis=1)


def in_order_of_truth(coordinates):
    distance = np.linalg.norm((TRUTH[:, None] - coordinates) / UNIT, axis=-1)
    return coordinates[np.argmin(distance, axis=1)]


class SoftPeaksTest(parameterized.TestCase):
    def test_exact_covariance(self):
        """Errors are below one grid cell, most far below."""
        found = soft_peaks(jnp.asarray(exact_factor("f4"), "c8"), 3)
        off = np.abs(in_order_of_truth(np.asarray(found.coordinates)) - TRUTH) / CELL
        self.assertLess(off.max(), 0.5)
        self.assertLess(np.median(off), 0.25)
        np.testing.assert_array_equal(found.active, np.ones(3))

    def test_scale_and_mixing_of_columns_do_not_matter(self):
        random, factor = np.random.default_rng(1), exact_factor("f4")
        turn = np.linalg.qr(random.normal(size=(5, 5)))[0]
        straight = soft_peaks(jnp.asarray(factor, "c8"), 3)
        turned = soft_peaks(jnp.asarray(30.0 * factor @ turn, "c8"), 3)
        chex.assert_trees_all_close(turned.coordinates, straight.coordinates, atol=2e-3)

    def test_number_of_sources_is_limited(self):
        found = soft_peaks(jnp.asarray(exact_factor("f4"), "c8"), 1)
        np.testing.assert_array_equal(found.active, [1.0, 0.0, 0.0])
        strongest = np.asarray(found.coordinates)[0]
        self.assertLess(np.abs((strongest - TRUTH[0]) / CELL).max(), 1.0)

    def test_windows_end_at_the_region(self):
        """A source at the edge; a coordinate with one cell keeps its value."""
        factor = np.asarray(steering(jnp.array([[0.79, 0.0, 0.0]])).T)
        shape = (*SHAPE[:2], 1)
        found = soft_peaks(factor, 1, shape)
        point = np.asarray(found.coordinates)[0]
        self.assertTrue(np.all(point <= REGION.upper) and np.all(point >= REGION.lower))
        self.assertAlmostEqual(float(point[2]), float(REGION.upper[2]) / 2, delta=1e-5)

    def test_derivatives_match_finite_differences(self):
        """Derivatives pass window, projector and Gram matrix of an inexact covariance."""
        with jax.enable_x64(True):
            random = np.random.default_rng(2)
            noise = 0.05 * random.normal(size=(2, len(POSITIONS), 5, 2)) @ np.array([1.0, 1j])
            factor = jnp.asarray(exact_factor("f8") + noise[0])
            direction = jnp.asarray(noise[1])
            weight = jnp.asarray(random.normal(size=(3, 3)))

            def along(step):
                found = soft_peaks(factor + step * direction, 3)
                return jnp.sum(weight * found.coordinates)

            step = 1e-5
            expected = float((along(step) - along(-step)) / (2 * step))
            backward = float(jax.grad(along)(0.0))
            forward = float(jax.jvp(along, (0.0,), (1.0,))[1])
        self.assertGreater(abs(expected), 1e-4)
        np.testing.assert_allclose([forward, backward], expected, rtol=1e-6)

    @parameterized.parameters(0, 1)
    def test_derivatives_are_finite_for_deficient_covariances(self, columns):
        """A zero covariance, and one with fewer columns than sources."""
        factor = np.zeros((len(POSITIONS), 3), "c8")
        factor[:, :columns] = exact_factor("f4")[:, :columns]

        def total(factor):
            return jnp.sum(soft_peaks(factor, 3).coordinates)

        chex.assert_tree_all_finite(jax.value_and_grad(total)(jnp.asarray(factor)))


if __name__ == "__main__":
    absltest.main()
