"""Steering vectors against geometry in NumPy float64."""

import functools
import os
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized
from jax.test_util import check_grads

from ris_jax import config as config_lib
from ris_jax.physics import arrays

WAVELENGTH = 0.3
WAVEFRONTS = ("spherical", "spherical_phase", "fresnel", "parabolic", "planar")


def grid_oracle(rows=12, columns=12, spacing=0.15, centered=True):
    """Return element positions, x fastest; uncentred offsets are -6 ... 5 for 12."""
    x0 = (columns - 1) / 2 if centered else columns // 2
    y0 = (rows - 1) / 2 if centered else rows // 2
    return np.array(
        [((c - x0) * spacing, (r - y0) * spacing, 0.0) for r in range(rows) for c in range(columns)]
    )


def steering_oracle(azimuth, elevation, source_range, positions, wavefront):
    """Return r / d exp(-j k (d - r)) / sqrt(N) for one source, float64, from the definition.

    Only `spherical` has the factor r / d.
    """
    unit = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    along, square = positions @ unit, np.sum(positions**2, axis=1)
    distance = np.linalg.norm(source_range * unit - positions, axis=1)
    amplitude = source_range / distance if wavefront == "spherical" else 1.0
    difference = {
        "spherical": distance - source_range,
        "spherical_phase": distance - source_range,
        "fresnel": -along + square / (2 * source_range) - along**2 / (2 * source_range),
        "parabolic": -along + square / (2 * source_range),
        "planar": -along,
    }[wavefront]
    return amplitude * np.exp(-2j * np.pi / WAVELENGTH * difference) / np.sqrt(len(positions))


def field_of_view(count, seed=0):
    """Draw sources in the default limits: +-60 degrees, +-30 degrees, 0.5 to 10 m."""
    random = np.random.default_rng(seed)
    low, high = np.array([-np.pi / 3, -np.pi / 6, 0.5]), np.array([np.pi / 3, np.pi / 6, 10.0])
    return (low + (high - low) * random.random((count, 3))).T


@functools.partial(jax.jit, static_argnames="wavefront")
def steer(azimuth, elevation, source_range, positions, wavefront="spherical"):
    return arrays.steering_vector(
        azimuth, elevation, source_range, positions, wavelength=WAVELENGTH, wavefront=wavefront
    )


def search_points(count, seed=5):
    """Draw (u, w, 1/r) in front of the array, with a plane wave, [count, 3]."""
    random = np.random.default_rng(seed)
    points = np.stack(
        [random.uniform(low, high, count) for low, high in ((-0.8, 0.8), (-0.5, 0.5), (0.05, 2.0))],
        axis=-1,
    )
    points[0, 2] = 0.0
    return points


@jax.jit
def coordinates_and_back(azimuth, elevation, source_range):
    points = arrays.to_coordinates(azimuth, elevation, source_range)
    return points, arrays.from_coordinates(points)


@jax.jit
def angles_and_back(points):
    angles = arrays.from_coordinates(points)
    return angles, arrays.to_coordinates(*angles)


@functools.partial(jax.jit, static_argnames="wavefront")
def steering_jet(points, positions, wavefront="spherical"):
    return arrays.steering_jet(points, positions, wavelength=WAVELENGTH, wavefront=wavefront)


class PositionsTest(parameterized.TestCase):
    @parameterized.parameters((12, 12, True), (12, 12, False), (3, 5, True), (4, 5, False))
    def test_grid(self, rows, columns, centered):
        grid = arrays.planar_array(rows, columns, 0.15, centered=centered)
        chex.assert_trees_all_close(grid, grid_oracle(rows, columns, 0.15, centered), atol=1e-6)

    def test_spacing_may_be_traced(self):
        """Positions are proportional to the spacing, also inside a program."""
        slope = jax.jit(jax.jacobian(lambda spacing: arrays.planar_array(3, 5, spacing)))(0.15)
        chex.assert_trees_all_close(slope, grid_oracle(3, 5, 1.0), atol=1e-6)

    def test_configuration(self):
        system = config_lib.SystemConfig(
            num_snapshots=6, rows=2, columns=3, spacing=0.1, centered=False
        )
        expected = grid_oracle(2, 3, 0.1, centered=False)
        chex.assert_trees_all_close(arrays.element_positions(system), expected, atol=1e-6)

    def test_explicit_positions(self):
        rows = ((0.0, 0.1, 0.2), (1.0, -1.0, 0.5))
        positions = arrays.element_positions(
            config_lib.SystemConfig(element_positions=rows, num_snapshots=2)
        )
        chex.assert_trees_all_close(positions, np.array(rows), atol=1e-7)

    def test_direction(self):
        """Azimuth turns towards +x, elevation towards +y, boresight is +z."""
        azimuth = jnp.array([0.0, jnp.pi / 2, 0.3])
        elevation = jnp.array([0.0, 0.0, jnp.pi / 2])
        expected = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
        chex.assert_trees_all_close(arrays.direction(azimuth, elevation), expected, atol=1e-6)


class SteeringVectorTest(parameterized.TestCase):
    @parameterized.product(wavefront=WAVEFRONTS, array=("centered", "uncentered", "volume"))
    def test_matches_geometry(self, wavefront, array):
        positions = {
            "centered": grid_oracle(),
            "uncentered": grid_oracle(centered=False),
            "volume": np.random.default_rng(1).uniform(-0.4, 0.4, (40, 3)),
        }[array]
        sources = field_of_view(100)
        result = steer(*map(jnp.asarray, sources), jnp.asarray(positions), wavefront=wavefront)
        expected = np.array([steering_oracle(*s, positions, wavefront) for s in sources.T])
        chex.assert_trees_all_close(np.asarray(result), expected, atol=1e-5, rtol=0)
        norms = np.linalg.norm(expected, axis=-1)
        chex.assert_trees_all_close(np.linalg.norm(result, axis=-1), norms, rtol=1e-5)
        if wavefront != "spherical":
            chex.assert_trees_all_close(norms, np.ones(100), atol=1e-9)

    def test_batch_axes(self):
        positions = jnp.asarray(grid_oracle(2, 3))
        chex.assert_shape(steer(*jnp.ones((3, 4, 5)), positions), (4, 5, 6))

    def test_nearer_element_leads(self):
        """The element nearer to the source has the shorter path and a positive phase."""
        positions = jnp.array([[-0.05, 0.0, 0.0], [0.05, 0.0, 0.0]])
        phase = jnp.angle(steer(jnp.array(0.5), jnp.array(0.0), jnp.array(3.0), positions))
        self.assertLess(phase[0], 0.0)
        self.assertGreater(phase[1], 0.0)

    def test_planar_is_the_far_limit(self):
        """The second-order phase falls as 1/r: ten times the range, a tenth of the error."""
        azimuth, elevation, _ = map(jnp.asarray, field_of_view(50))
        positions = jnp.asarray(grid_oracle())
        planar = steer(azimuth, elevation, jnp.ones(50), positions, wavefront="planar")
        gaps = []
        for source_range in (100.0, 1000.0, np.inf):
            spherical = steer(azimuth, elevation, jnp.full(50, source_range), positions)
            gaps.append(float(jnp.max(jnp.abs(spherical - planar)) * 12))
        self.assertAlmostEqual(gaps[0] / gaps[1], 10.0, delta=0.5)
        self.assertLess(gaps[2], 1e-5)

    @parameterized.parameters((0.5, 0.30), (1.0, 0.58), (2.0, 0.86), (5.0, 0.98))
    def test_parabolic_differs_near(self, source_range, median):
        """Compare the median |a^H a'| of exact and parabolic phases over the field of view.

        The numbers are from a sketch older than this package, without common code.
        """
        azimuth, elevation, _ = map(jnp.asarray, field_of_view(2000))
        source_ranges, positions = jnp.full(2000, source_range), jnp.asarray(grid_oracle())
        exact = steer(azimuth, elevation, source_ranges, positions, wavefront="spherical_phase")
        parabolic = steer(azimuth, elevation, source_ranges, positions, wavefront="parabolic")
        correlation = jnp.abs(jnp.sum(exact.conj() * parabolic, axis=-1))
        self.assertAlmostEqual(float(jnp.median(correlation)), median, delta=0.03)

    def test_amplitude(self):
        """4 m ahead of a 3 m offset the distance is 5 m: 4/5 of the amplitude at the origin."""
        positions = jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
        source = jnp.array(0.0), jnp.array(0.0), jnp.array(4.0)
        for wavefront, expected in (("spherical", 0.8), ("spherical_phase", 1.0)):
            moduli = np.sqrt(2) * np.abs(steer(*source, positions, wavefront=wavefront))
            chex.assert_trees_all_close(moduli, np.array([1.0, expected]), atol=1e-6)

    def test_source_on_an_element(self):
        """Vector, jet and derivatives are finite there; the modulus is limited to 1000."""
        positions = jnp.asarray(grid_oracle())
        x, y, _ = grid_oracle()[5]
        source_range = np.hypot(x, y)
        point = jnp.asarray([x / source_range, y / source_range, 1 / source_range])
        jet = steering_jet(point, positions)
        chex.assert_tree_all_finite(jet)
        self.assertAlmostEqual(float(np.abs(jet[0]).max()) * 12, 1000.0, delta=0.1)
        slopes = jax.jit(jax.jacfwd(lambda point: steering_jet(point, positions)[0]))(point)
        chex.assert_tree_all_finite(slopes)

    @parameterized.parameters(*WAVEFRONTS)
    def test_norm(self, wavefront):
        points, positions = jnp.asarray(search_points(20)), jnp.asarray(grid_oracle())
        vectors = steering_jet(points, positions, wavefront=wavefront)[:, 0]
        found = arrays.squared_norm(points, positions, wavefront=wavefront)
        chex.assert_trees_all_close(found, np.sum(np.abs(vectors) ** 2, axis=1), rtol=1e-5)
        unit = np.linalg.norm(arrays.normalized(vectors), axis=1)
        chex.assert_trees_all_close(unit, np.ones(20, "f4"), rtol=1e-5)
        self.assertAlmostEqual(float(found[0]), 1.0, delta=1e-5)
        chex.assert_trees_all_close(
            arrays.normalized(jnp.zeros((2, 3), "c8")), np.zeros((2, 3), "c8")
        )

    @parameterized.parameters(*WAVEFRONTS)
    def test_gradients(self, wavefront):
        with jax.enable_x64(True):
            positions = jnp.asarray(np.random.default_rng(2).uniform(-0.3, 0.3, (5, 3)))

            def parts(*source):
                vector = steer(*source, positions, wavefront=wavefront)
                return vector.real, vector.imag

            for source in field_of_view(3, seed=3).T:
                check_grads(parts, tuple(map(jnp.float64, source)), order=1, rtol=1e-5, atol=1e-6)

    def test_gradient_of_a_plane_wave(self):
        """Inverse range zero is a regular point of `path_difference`."""
        with jax.enable_x64(True):
            positions = jnp.asarray(grid_oracle(2, 2))
            unit = arrays.direction(jnp.float64(0.4), jnp.float64(-0.2))

            def difference(inverse_range):
                return arrays.path_difference(unit, inverse_range, positions)

            check_grads(jax.jit(difference), (jnp.float64(0.0),), order=1, rtol=1e-5, atol=1e-6)


class CoordinatesTest(parameterized.TestCase):
    def test_round_trip_from_angles(self):
        source = field_of_view(100)
        source[2, :3] = np.inf
        back = coordinates_and_back(*map(jnp.asarray, source))
        chex.assert_trees_all_close(back[1], tuple(source.astype("f4")), rtol=1e-5, atol=1e-6)
        azimuth, elevation, source_range = source
        wanted = [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), 1 / source_range]
        chex.assert_trees_all_close(back[0], np.stack(wanted, -1).astype("f4"), atol=1e-6)
        self.assertTrue(np.all(np.isinf(back[1][2][:3])))

    def test_round_trip_from_coordinates(self):
        points = search_points(50)
        angles, back = angles_and_back(jnp.asarray(points, "f4"))
        chex.assert_trees_all_close(back, points.astype("f4"), atol=1e-6)
        self.assertTrue(np.all(np.abs(angles[0]) < np.pi / 2))

    def test_beyond_the_horizon(self):
        """The nearest valid direction has the same bearing, just above the array's plane."""
        points = np.array([[0.9, 0.8, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [3.0, -4.0, 0.5]])
        unit = jax.jit(arrays.unit_from_cosines)(*jnp.asarray(points[:, :2].T, "f4"))
        bearing = points[:, :2] / np.linalg.norm(points[:, :2], axis=1, keepdims=True)
        chex.assert_trees_all_close(unit[:, :2], bearing.astype("f4"), atol=1e-5)
        chex.assert_trees_all_close(np.linalg.norm(unit, axis=1), np.ones(4), atol=1e-5)
        self.assertTrue(np.all((unit[:, 2] > 0) & (unit[:, 2] < 2e-3)))
        (azimuth, elevation, source_range), _ = angles_and_back(jnp.asarray(points, "f4"))
        chex.assert_tree_all_finite((azimuth, elevation))
        chex.assert_trees_all_close(source_range, np.array([1.0, np.inf, 0.5, 2.0], "f4"))

    def test_unit_vectors_are_continuous_at_the_horizon(self):
        for angle in (0.0, 0.7, 1.5):
            radius = np.sqrt(1 - 1e-6) * np.array([1 - 1e-7, 1 + 1e-7])
            unit = jax.jit(arrays.unit_from_cosines)(
                jnp.asarray(radius * np.cos(angle), "f4"), jnp.asarray(radius * np.sin(angle), "f4")
            )
            chex.assert_trees_all_close(unit[0], unit[1], atol=1e-3)


class SteeringJetTest(parameterized.TestCase):
    @parameterized.parameters(*WAVEFRONTS)
    def test_values_and_derivatives(self, wavefront):
        """Central differences in float64, also for plane waves and 1/r < 0."""
        with jax.enable_x64(True):
            positions = jnp.asarray(np.random.default_rng(4).uniform(-0.4, 0.4, (7, 3)))
            points = search_points(20)
            beyond = [[0.9, 0.8, 1.0], [-1.2, 0.1, 0.0]]
            points = np.concatenate([points, [[0, 0, 0], [0, 0, 1.0]], beyond])
            jet = np.asarray(steering_jet(jnp.asarray(points), positions, wavefront=wavefront))
            step = 1e-6 * np.eye(3)
            moved = [points, *(points + s for s in step), *(points - s for s in step)]
            vectors = np.asarray(
                steering_jet(jnp.asarray(np.stack(moved)), positions, wavefront=wavefront)
            )[:, :, 0]
        chex.assert_shape(jet, (len(points), 4, 7))
        slopes = np.moveaxis(vectors[1:4] - vectors[4:], 0, 1) / 2e-6
        chex.assert_trees_all_close(jet[:, 1:], slopes, atol=1e-7 * np.abs(slopes).max())
        ahead = np.sqrt(1 - np.sum(points[:22, :2] ** 2, axis=1))
        azimuth, elevation = np.arctan2(points[:22, 0], ahead), np.arcsin(points[:22, 1])
        for index in range(22):
            inverse_range = points[index, 2]
            source = azimuth[index], elevation[index]
            if inverse_range == 0.0:
                expected = steering_oracle(*source, 1.0, np.asarray(positions), "planar")
            else:
                expected = steering_oracle(
                    *source, 1 / inverse_range, np.asarray(positions), wavefront
                )
            chex.assert_trees_all_close(jet[index, 0], expected, atol=1e-9)

    def test_float32(self):
        positions, points = grid_oracle(6, 6), search_points(20)
        with jax.enable_x64(True):
            wanted = np.asarray(steering_jet(jnp.asarray(points), jnp.asarray(positions)))
        found = np.asarray(steering_jet(jnp.asarray(points, "f4"), jnp.asarray(positions, "f4")))
        scale = np.abs(wanted).max(axis=(0, 2), keepdims=True)
        self.assertEqual(found.dtype, np.complex64)
        self.assertLess(np.max(np.abs(found - wanted) / scale), 2e-5)

    def test_planar_does_not_depend_on_the_range(self):
        jet = steering_jet(
            jnp.asarray(search_points(5), "f4"), jnp.asarray(grid_oracle(3, 3)), wavefront="planar"
        )
        chex.assert_trees_all_close(jet[:, 3], np.zeros((5, 9), "c8"))

    def test_beyond_the_horizon_is_finite(self):
        random = np.random.default_rng(6)
        points = np.concatenate([random.uniform(-2, 2, (50, 2)), random.random((50, 1))], axis=1)
        points[:4, :2] = [[1.0, 0.0], [0.0, -1.0], [0.6, 0.8], [np.sqrt(1 - 1e-6), 0.0]]
        jet = steering_jet(jnp.asarray(points, "f4"), jnp.asarray(grid_oracle(3, 3)))
        chex.assert_tree_all_finite(jet)
        phases = steering_jet(
            jnp.asarray(points, "f4"), jnp.asarray(grid_oracle(3, 3)), wavefront="spherical_phase"
        )
        chex.assert_tree_all_finite(phases)
        chex.assert_trees_all_close(np.linalg.norm(phases[:, 0], axis=-1), np.ones(50), atol=1e-5)


class ReferenceShardsTest(absltest.TestCase):
    """Steering vectors against covariances of the reference pipeline.

    Its positions were jittered by up to 7.5 mm and its source powers fade, so each covariance is
    rebuilt with powers fitted by non-negative least squares.
    """

    def setUp(self):
        super().setUp()
        beside = pathlib.Path(__file__).parents[2] / "shared" / "reference_shards"
        path = pathlib.Path(os.environ.get("RIS_JAX_REFERENCE_SHARDS", beside))
        path = path / "shard_000.npz" if path.is_dir() else path
        if not path.is_file():
            self.skipTest(f"no reference shard at {path}; set RIS_JAX_REFERENCE_SHARDS")
        shard = np.load(path, allow_pickle=False)
        self.covariances = shard["R"][..., 0] + 1j * shard["R"][..., 1]
        self.num_sources, self.sources = shard["K"], shard["ptr"].reshape(-1, 3, 5)

    def compare(self, wavefront, centered):
        """Return the energy of each vector in the signal subspace, and the correlation of R."""
        positions = arrays.planar_array(12, 12, 0.15, centered=centered)
        parameters = map(jnp.asarray, np.where(self.sources == 0, 1.0, self.sources).swapaxes(0, 1))
        vectors = np.asarray(steer(*parameters, positions, wavefront=wavefront), complex)
        energies, correlations = [], []
        for covariance, sources, vector in zip(
            self.covariances, self.num_sources, vectors, strict=True
        ):
            vector = vector[:sources]
            subspace = np.linalg.eigh(covariance)[1][:, -sources:]
            energies.extend(np.sum(np.abs(vector @ subspace.conj()) ** 2, axis=1))
            outer = np.einsum("ki,kj->kij", vector, vector.conj()).reshape(sources, -1)
            columns = np.concatenate([outer.real, outer.imag], axis=1).T
            target = np.concatenate([covariance.real.ravel(), covariance.imag.ravel()])
            fit = columns @ scipy.optimize.nnls(columns, target)[0]
            correlations.append(fit @ target / np.linalg.norm(fit) / np.linalg.norm(target))
        print(
            f"{wavefront}, {centered=}: energy least {min(energies):.3f}, median "
            f"{np.median(energies):.3f}; correlation least {min(correlations):.3f}, median "
            f"{np.median(correlations):.3f}"
        )
        return np.array(energies), np.array(correlations)

    def test_reference_geometry(self):
        """Measured: energy 0.977 to 1.0; correlation at least 0.977, median 0.995."""
        energies, correlations = self.compare("parabolic", centered=False)
        self.assertGreater(energies.min(), 0.97)
        self.assertGreater(correlations.min(), 0.97)
        self.assertGreater(np.median(correlations), 0.99)

    def test_other_geometries_are_worse(self):
        """Measured medians: centred 0.78, fresnel 0.79, spherical phases 0.75, planar 0.24.

        The reference has the same modulus on all elements.
        """
        for wavefront, centered in (
            ("parabolic", True), ("fresnel", False), ("spherical_phase", False),
            ("planar", False),
        ):  # fmt: skip
            with self.subTest(wavefront=wavefront, centered=centered):
                energies, correlations = self.compare(wavefront, centered)
                self.assertLess(np.median(correlations), 0.85)
                self.assertLess(energies.min(), 0.2)


class ErrorsTest(absltest.TestCase):
    def test_unknown_wavefront(self):
        with self.assertRaisesRegex(ValueError, "wavefront: need one of .*spherical.*got 'cubic'"):
            steer(*jnp.ones(3), jnp.ones((4, 3)), wavefront="cubic")

    def test_positions_axis(self):
        with self.assertRaisesRegex(ValueError, r"\[N, 3\].*\(4, 2\)"):
            steer(*jnp.ones(3), jnp.ones((4, 2)))

    def test_unit_axis(self):
        with self.assertRaisesRegex(ValueError, r"\[\.\.\., 3\].*\(7, 2\)"):
            arrays.path_difference(jnp.ones((7, 2)), jnp.ones(7), jnp.ones((4, 3)))


if __name__ == "__main__":
    absltest.main()
