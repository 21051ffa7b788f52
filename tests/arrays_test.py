"""Steering vectors against plain geometry in NumPy float64."""

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

from ris_jax import arrays
from ris_jax import config as config_lib

WAVELENGTH = 0.3
WAVEFRONTS = ("spherical", "fresnel", "parabolic", "planar")


def grid_oracle(rows=12, columns=12, spacing=0.15, centered=True):
    """Element positions written out, x fastest; uncentred offsets are -6 ... 5 for 12."""
    x0 = (columns - 1) / 2 if centered else columns // 2
    y0 = (rows - 1) / 2 if centered else rows // 2
    return np.array(
        [((c - x0) * spacing, (r - y0) * spacing, 0.0) for r in range(rows) for c in range(columns)]
    )


def steering_oracle(azimuth, elevation, source_range, positions, wavefront):
    """exp(-j k (distance - r)) / sqrt(N) for one source, float64, from the definition."""
    unit = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    along, square = positions @ unit, np.sum(positions**2, axis=1)
    difference = {
        "spherical": np.linalg.norm(source_range * unit - positions, axis=1) - source_range,
        "fresnel": -along + square / (2 * source_range) - along**2 / (2 * source_range),
        "parabolic": -along + square / (2 * source_range),
        "planar": -along,
    }[wavefront]
    return np.exp(-2j * np.pi / WAVELENGTH * difference) / np.sqrt(len(positions))


def field_of_view(count, seed=0):
    """Sources uniform in the default limits: +-60 degrees, +-30 degrees, 0.5 to 10 m."""
    random = np.random.default_rng(seed)
    low, high = np.array([-np.pi / 3, -np.pi / 6, 0.5]), np.array([np.pi / 3, np.pi / 6, 10.0])
    return (low + (high - low) * random.random((count, 3))).T


@functools.partial(jax.jit, static_argnames="wavefront")
def steer(azimuth, elevation, source_range, positions, wavefront="spherical"):
    return arrays.steering_vector(
        azimuth, elevation, source_range, positions, wavelength=WAVELENGTH, wavefront=wavefront
    )


class PositionsTest(parameterized.TestCase):
    @parameterized.parameters((12, 12, True), (12, 12, False), (3, 5, True), (4, 5, False))
    def test_grid(self, rows, columns, centered):
        grid = arrays.planar_array(rows, columns, 0.15, centered=centered)
        chex.assert_trees_all_close(grid, grid_oracle(rows, columns, 0.15, centered), atol=1e-6)

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
        chex.assert_trees_all_close(np.linalg.norm(result, axis=-1), np.ones(100), atol=1e-5)

    def test_batch_axes(self):
        positions = jnp.asarray(grid_oracle(2, 3))
        chex.assert_shape(steer(*jnp.ones((3, 4, 5)), positions), (4, 5, 6))

    def test_nearer_element_leads(self):
        """The element on the source's side has the shorter path, hence the positive phase."""
        positions = jnp.array([[-0.05, 0.0, 0.0], [0.05, 0.0, 0.0]])
        phase = jnp.angle(steer(jnp.array(0.5), jnp.array(0.0), jnp.array(3.0), positions))
        self.assertLess(phase[0], 0.0)
        self.assertGreater(phase[1], 0.0)

    def test_planar_is_the_far_limit(self):
        """The second-order phase falls as 1/r, so ten times farther is ten times closer."""
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
        """Median |a^H a'| of the exact and the parabolic vector, from DESIGN section 2."""
        azimuth, elevation, _ = map(jnp.asarray, field_of_view(2000))
        source_ranges, positions = jnp.full(2000, source_range), jnp.asarray(grid_oracle())
        exact = steer(azimuth, elevation, source_ranges, positions)
        parabolic = steer(azimuth, elevation, source_ranges, positions, wavefront="parabolic")
        correlation = jnp.abs(jnp.sum(exact.conj() * parabolic, axis=-1))
        self.assertAlmostEqual(float(jnp.median(correlation)), median, delta=0.03)

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
        """Inverse range zero is an inner point of `path_difference`, not a singular one."""
        with jax.enable_x64(True):
            positions = jnp.asarray(grid_oracle(2, 2))
            unit = arrays.direction(jnp.float64(0.4), jnp.float64(-0.2))

            def difference(inverse_range):
                return arrays.path_difference(unit, inverse_range, positions)

            check_grads(jax.jit(difference), (jnp.float64(0.0),), order=1, rtol=1e-5, atol=1e-6)


class ReferenceShardsTest(absltest.TestCase):
    """Our steering vectors against covariances that the reference pipeline wrote.

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
        """Energy of each vector in the signal subspace, and correlation of R with its fit."""
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

    def test_their_geometry(self):
        """Measured: energy 0.977 to 1.0; correlation at least 0.977, median 0.995."""
        energies, correlations = self.compare("parabolic", centered=False)
        self.assertGreater(energies.min(), 0.97)
        self.assertGreater(correlations.min(), 0.97)
        self.assertGreater(np.median(correlations), 0.99)

    def test_other_geometries_are_worse(self):
        """Measured medians: centred 0.78, fresnel 0.79, spherical 0.75, planar 0.24."""
        for wavefront, centered in (
            ("parabolic", True), ("fresnel", False), ("spherical", False), ("planar", False)
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
