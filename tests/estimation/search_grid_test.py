"""Search region, grid order, and peaks against NumPy."""

import functools
import itertools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases import simulator

from ris_jax import config as config_lib
from ris_jax.data.recordings import host_steering
from ris_jax.estimation import search_grid

SHAPES = ((5, 4, 3), (1, 1, 1), (1, 4, 2), (2, 2, 2))


@functools.partial(jax.jit, static_argnames=("shape", "count"))
def peaks(spectrum, shape, count):
    return search_grid.local_maxima(spectrum, shape), *search_grid.highest_peaks(
        spectrum, shape, count
    )


def brute_force_maxima(spectrum, shape):
    """Compare every cell with its 26 neighbours."""
    result = np.full(shape, -np.inf)
    cube = spectrum.reshape(shape)
    for cell in np.ndindex(shape):
        around = [tuple(np.add(cell, offset)) for offset in itertools.product((-1, 0, 1), repeat=3)]
        inside = [c for c in around if all(0 <= i < n for i, n in zip(c, shape, strict=True))]
        if all(cube[c] <= cube[cell] for c in inside):
            result[cell] = cube[cell]
    return result.ravel()


class SearchRegionTest(parameterized.TestCase):
    @parameterized.product(name=("u_max", "w_max"), value=(1.0, -0.3, float("nan")))
    def test_cosines(self, name, value):
        with self.assertRaisesRegex(
            config_lib.ConfigError, rf"region.{name}: need 0 <= value < 1; got {value!r}"
        ):
            search_grid.SearchRegion(**{name: value})

    @parameterized.parameters(
        (-0.1, 2.0), (1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0),
        (0.0, float("nan")),
    )  # fmt: skip
    def test_inverse_range(self, low, high):
        with self.assertRaisesRegex(
            config_lib.ConfigError, f"inverse_range.*got {low!r} and {high!r}"
        ):
            search_grid.SearchRegion(inverse_range_min=low, inverse_range_max=high)

    def test_limits(self):
        region = search_grid.SearchRegion(0.8, 0.4, 0.1, 1.5)
        chex.assert_trees_all_equal(region.lower, np.array([-0.8, -0.4, 0.1], "f4"))
        chex.assert_trees_all_equal(region.upper, np.array([0.8, 0.4, 1.5], "f4"))
        self.assertEqual(hash(region), hash(search_grid.SearchRegion(0.8, 0.4, 0.1, 1.5)))

    @parameterized.parameters((60, 30, 0.5), (10, 5, 2.0), (80, 85, 0.2), (89.9, 89.9, 0.5))
    def test_region_of_a_configuration(self, azimuth_deg, elevation_deg, range_min):
        """All sources of the simulator are inside, also at infinity."""
        scene = config_lib.SceneConfig(
            azimuth_max_deg=azimuth_deg, elevation_max_deg=elevation_deg, range_min=range_min
        )
        region = search_grid.region_of(scene)
        random = np.random.default_rng(0)
        azimuth, elevation = np.deg2rad([[azimuth_deg], [elevation_deg]]) * random.uniform(
            -1, 1, (2, 1000)
        )
        azimuth[:4], elevation[:4] = np.deg2rad(
            [[azimuth_deg, -azimuth_deg, 0, 0], [0, 0, elevation_deg, -elevation_deg]]
        )
        u, w = np.sin(azimuth) * np.cos(elevation), np.sin(elevation)
        edge = 2e-4 if azimuth_deg > 89 else 0.0  # the horizon is outside
        self.assertGreaterEqual(region.u_max, np.abs(u).max() - edge)
        self.assertGreaterEqual(region.w_max, np.abs(w).max() - edge)
        self.assertEqual(region.inverse_range_min, 0.0)
        self.assertGreater(region.inverse_range_max, 1 / range_min)

    def test_default_is_the_default_scene(self):
        region, default = (
            search_grid.region_of(config_lib.SceneConfig()),
            search_grid.SearchRegion(),
        )
        for found, wanted in ((region.lower, default.lower), (region.upper, default.upper)):
            chex.assert_trees_all_close(found, wanted, atol=2e-3)


class GridTest(absltest.TestCase):
    def test_axes_are_cell_centres(self):
        region = search_grid.SearchRegion(0.8, 0.4, 0.0, 2.0)
        u, w, inverse_range = search_grid.axes_of(region, (4, 1, 2))
        np.testing.assert_allclose(u, [-0.6, -0.2, 0.2, 0.6], atol=1e-6)
        np.testing.assert_allclose(w, [0.0], atol=1e-6)
        np.testing.assert_allclose(inverse_range, [0.5, 1.5], atol=1e-6)

    def test_points_run_over_the_last_axis_first(self):
        region, shape = search_grid.SearchRegion(), (3, 4, 5)
        axes, points = search_grid.axes_of(region, shape), search_grid.grid_points(region, shape)
        self.assertEqual(points.shape, (60, 3))
        self.assertEqual(points.dtype, np.float32)
        for flat, cell in enumerate(np.ndindex(shape)):
            wanted = [axis[index] for axis, index in zip(axes, cell, strict=True)]
            np.testing.assert_array_equal(points[flat], wanted)

    def test_space_of_a_region(self):
        region, shape = search_grid.SearchRegion(0.8, 0.4, 0.1, 2.0), (3, 4, 5)
        space = search_grid.search_space(region, shape, "spherical")
        self.assertEqual(space.shape, shape)
        np.testing.assert_allclose(space.points, search_grid.grid_points(region, shape), atol=1e-6)
        np.testing.assert_array_equal(space.lower, region.lower)
        np.testing.assert_array_equal(space.upper, region.upper)

    def test_space_of_plane_waves(self):
        """Plane waves have one cell at 1/r = 0, even outside the region."""
        region, shape = search_grid.SearchRegion(0.8, 0.4, 0.1, 2.0), (3, 4, 5)
        space = search_grid.search_space(region, shape, "planar")
        self.assertEqual(space.shape, (3, 4, 1))
        directions = search_grid.grid_points(region, (3, 4, 1))[:, :2]
        np.testing.assert_allclose(space.points[:, :2], directions, atol=1e-6)
        np.testing.assert_array_equal(space.points[:, 2], np.zeros(12))
        np.testing.assert_allclose(space.lower, [-0.8, -0.4, 0.0])
        np.testing.assert_allclose(space.upper, [0.8, 0.4, 0.0])


class ResolutionTest(parameterized.TestCase):
    WAVELENGTH = 0.3

    def resolution(self, positions, wavefront="spherical"):
        return search_grid.resolution(positions, wavelength=self.WAVELENGTH, wavefront=wavefront)

    def plane(self, count, spacing):
        axis = spacing * np.arange(count)
        return np.array([(x, y, 0.0) for y in axis for x in axis])

    @parameterized.parameters("spherical", "fresnel", "parabolic")
    def test_square_array(self, wavefront):
        """n x n elements at spacing d: x is uniform on n values, x^2 + y^2 sums two squares.

        With m = n^2 - 1: var(x) = d^2 m / 12, var(x^2) = d^4 m (n^2 - 4) / 180 about the middle.
        """
        count, spacing = 12, 0.15
        m = count**2 - 1
        across = spacing * np.sqrt(m / 12)
        bending = 0.5 * spacing**2 * np.sqrt(2 * m * (count**2 - 4) / 180)
        wanted = self.WAVELENGTH / (2 * np.pi * np.array([across, across, bending]))
        found = self.resolution(self.plane(count, spacing), wavefront)
        np.testing.assert_allclose(found, wanted, rtol=1e-10)

    def test_does_not_depend_on_the_origin(self):
        positions = self.plane(4, 0.1)
        found = self.resolution(positions + np.array([3.0, -2.0, 1.0]))
        np.testing.assert_allclose(found, self.resolution(positions), rtol=1e-9)

    def test_a_line_resolves_one_direction_only(self):
        along = np.array([(0.1 * i, 0.0, 0.0) for i in range(14)])
        u, w, inverse_range = self.resolution(along)
        self.assertTrue(np.isfinite([u, inverse_range]).all())
        self.assertEqual(w, np.inf)
        self.assertEqual(self.resolution(along[:, [1, 0, 2]])[0], np.inf)

    def test_plane_waves_have_no_range(self):
        found = self.resolution(self.plane(4, 0.1), "planar")
        self.assertTrue(np.isfinite(found[:2]).all())
        self.assertEqual(found[2], np.inf)

    def test_correlation_falls_over_a_unit(self):
        """After a step of one unit the correlation is about exp(-1/2).

        A hundredth of a unit gives 1 - (1/2) 1e-4, the phase variance over the elements.
        """
        positions = self.plane(12, 0.15) - 0.15 * 5.5
        unit = self.resolution(positions)
        for axis in range(2):
            phase = 2 * np.pi / self.WAVELENGTH * positions[:, axis] * 0.01 * unit[axis]
            left = np.abs(np.mean(np.exp(1j * phase)))
            self.assertAlmostEqual(left, 1 - 0.5e-4, delta=1e-8)


class NaturalShapeTest(absltest.TestCase):
    REGION = search_grid.SearchRegion(0.9, 0.45, 0.0, 2.0)

    def test_cells_are_nine_tenths_of_a_unit_or_less(self):
        unit = np.array([0.1, 0.2, 0.7])
        # 1.8 / 0.09 = 20, 0.9 / 0.18 = 5, 2 / 0.63 = 3.17; the limits are float32: 20 may be 21.
        shape = search_grid.natural_shape(self.REGION, unit * (1 + 1e-6))
        self.assertEqual(shape, (20, 5, 4))
        self.assertEqual({type(count) for count in shape}, {int})
        self.assertEqual(search_grid.natural_shape(self.REGION, unit * (1 - 1e-3)), (21, 6, 4))

    def test_one_cell_for_unresolved_coordinates(self):
        shape = search_grid.natural_shape(self.REGION, np.array([0.1, np.inf, np.inf]))
        self.assertEqual(shape[1:], (1, 1))
        self.assertEqual(search_grid.natural_shape(self.REGION, np.full(3, 100.0)), (1, 1, 1))


def spiral(count, width):
    """Return elements on a spiral, a few wavelengths apart, [N, 3]."""
    number = np.arange(count)
    radius, angle = 0.5 * width * np.sqrt(number / (count - 1)), 2.4 * number
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], axis=-1)


def ring(count, radius):
    """Return elements on a circle, which does not resolve ranges at boresight, [N, 3]."""
    angle = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)


class SearchShapeTest(parameterized.TestCase):
    REGION = search_grid.SearchRegion()
    WAVE: ClassVar = {"wavelength": 0.1, "wavefront": "spherical"}

    @parameterized.named_parameters(
        ("square", simulator.plane(12, 12, 0.05)),
        ("long", simulator.plane(64, 4, 0.05)),
        ("large", simulator.plane(24, 24, 0.05)),
        ("spiral", spiral(48, 1.5)),
        ("ring", ring(64, 0.5)),
        ("deep", simulator.plane(8, 8, 0.05) + [0, 0, 0.1] * (np.arange(64)[:, None] % 5)),
    )
    def test_every_source_is_near_a_grid_point(self, positions):
        """Check the squared correlation with the best neighbouring point; median and 10 %."""
        shape = search_grid.search_shape(positions, self.REGION, **self.WAVE)
        random = np.random.default_rng(0)
        sources = np.stack(
            [random.uniform(-60, 60, 60), random.uniform(-30, 30, 60), random.uniform(0.5, 9, 60)],
            axis=-1,
        )
        far = 1 / sources[:, 2:]
        points = np.concatenate([simulator.directions(sources)[:, :2], far], axis=1)
        size = (self.REGION.upper - self.REGION.lower) / shape
        cell = np.floor((points - self.REGION.lower) / size)
        best = np.zeros(len(points))
        for offset in itertools.product((-1, 0, 1), repeat=3):
            near = np.clip(cell + offset, 0, np.array(shape) - 1)
            near = self.REGION.lower + (near + 0.5) * size
            vectors = [host_steering.steering(p, positions, wavelength=0.1) for p in (points, near)]
            vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
            product = np.abs(np.sum(vectors[0].conj() * vectors[1], axis=1)) ** 2
            best = np.maximum(best, product)
        self.assertGreater(np.median(best), 0.85)
        self.assertGreater(np.quantile(best, 0.1), 0.75)

    def test_the_default_array(self):
        positions = simulator.plane(12, 12, 0.15)
        shape = search_grid.search_shape(
            positions, self.REGION, wavelength=0.3, wavefront="spherical"
        )
        self.assertEqual(shape, (28, 16, 9))
        flat = search_grid.search_shape(positions, self.REGION, wavelength=0.3, wavefront="planar")
        self.assertEqual(flat, (28, 16, 1))

    @parameterized.parameters((12, "spherical"), (24, "planar"))
    def test_similar_wavelengths_share_a_shape(self, width, wavefront):
        """One shape for a rung of the ladder; shorter wavelengths never have fewer cells."""
        positions = simulator.plane(width, width, 0.15)
        shapes = [
            search_grid.search_shape(
                positions, self.REGION, wavelength=wavelength, wavefront=wavefront
            )
            for wavelength in (0.326, 0.31, 0.3, np.float32(0.299792458), 0.29, 0.28)
        ]
        self.assertLen(set(shapes[:4]), 1)
        for longer, shorter in itertools.pairwise(shapes):
            self.assertTrue(all(np.array(shorter) >= longer))
        self.assertGreater(np.prod(shapes[-1]), np.prod(shapes[0]))

    def test_wider_cells(self):
        fine, wide = (
            search_grid.search_shape(
                simulator.plane(12, 12, 0.05), self.REGION, cell=cell, **self.WAVE
            )
            for cell in (0.5, 1.0)
        )
        self.assertGreater(np.prod(fine), 5 * np.prod(wide))

    def test_too_many_cells(self):
        with self.assertRaisesRegex(
            config_lib.ConfigError, "positions: expected an array with .* cells"
        ):
            search_grid.search_shape(simulator.plane(64, 64, 5.0), self.REGION, **self.WAVE)

    def test_traced_positions(self):
        def shape(positions):
            return search_grid.search_shape(positions, self.REGION, **self.WAVE)[0]

        with self.assertRaisesRegex(config_lib.ConfigError, "positions: expected concrete"):
            jax.jit(shape)(simulator.plane(4, 4))


class PeaksTest(parameterized.TestCase):
    @parameterized.parameters(*SHAPES)
    def test_local_maxima(self, *shape):
        """Integers give plateaus, in which every cell is a maximum."""
        random = np.random.default_rng(1)
        spectra = np.concatenate(
            [random.random((10, *shape)), random.integers(0, 4, (10, *shape))]
        ).reshape(20, -1)
        spectra = spectra.astype("f4")
        count = min(4, spectra.shape[1])
        maxima, values, indices = peaks(jnp.asarray(spectra), shape, count)
        wanted = np.array([brute_force_maxima(spectrum, shape) for spectrum in spectra])
        chex.assert_trees_all_equal(np.asarray(maxima, float), wanted)
        chex.assert_trees_all_equal(np.asarray(values, float), -np.sort(-wanted, axis=1)[:, :count])
        chex.assert_trees_all_equal(
            np.take_along_axis(wanted, np.asarray(indices), axis=1), np.asarray(values, float)
        )

    def test_fewer_peaks_than_requested(self):
        spectrum = -np.sum((np.stack(np.indices((5, 4, 3)), -1) - [3, 1, 2]) ** 2, -1)
        spectrum = jnp.asarray(spectrum.ravel(), "f4")
        _, values, indices = peaks(spectrum, (5, 4, 3), 3)
        self.assertEqual(int(indices[0]), 3 * 12 + 1 * 3 + 2)
        np.testing.assert_array_equal(values, [0.0, -np.inf, -np.inf])

    def test_two_batch_axes(self):
        spectra = np.random.default_rng(2).random((2, 3, 60)).astype("f4")
        maxima, values, _ = peaks(jnp.asarray(spectra), (5, 4, 3), 2)
        self.assertEqual(maxima.shape, (2, 3, 60))
        wanted = brute_force_maxima(spectra[1, 2], (5, 4, 3))
        np.testing.assert_array_equal(maxima[1, 2], wanted)
        np.testing.assert_array_equal(values[1, 2], -np.sort(-wanted)[:2])


if __name__ == "__main__":
    absltest.main()
