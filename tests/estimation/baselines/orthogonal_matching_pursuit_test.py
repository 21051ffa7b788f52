"""Orthogonal matching pursuit: published table, sources on the grid, invariants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import likelihood, search_grid
from ris_jax.estimation.baselines import grid_dictionary
from ris_jax.estimation.baselines import orthogonal_matching_pursuit as omp
from ris_jax.physics import arrays, scenes

ROWS, COLUMNS, SOURCES, BATCH = 6, 8, 3, 6
GRID = (12, 8, 4)
REGION = search_grid.SearchRegion()
POSITIONS = arrays.planar_array(ROWS, COLUMNS, 0.15)


@functools.partial(jax.jit, static_argnames=("signal", "wavefront"))
def locate(measurement, num_sources, signal="constant", wavefront="spherical"):
    return omp.orthogonal_matching_pursuit(
        measurement, num_sources, POSITIONS, wavelength=0.3, wavefront=wavefront,
        source_signal=signal, max_sources=SOURCES, grid=GRID,
    )  # fmt: skip


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8") / 2**0.5


def on_the_grid(signal, wavefront="spherical", seed=0):
    """Simulate noiseless scenes of one to three sources at separate grid points."""
    random = np.random.default_rng(seed)
    atoms = grid_dictionary.atoms_of(POSITIONS, REGION, GRID, wavelength=0.3, wavefront=wavefront)
    points = np.asarray(atoms.points)
    vectors = np.asarray(atoms.vectors * jnp.sqrt(atoms.squared_norms)[:, None])
    cube = np.arange(len(points)).reshape(atoms.shape)
    snapshots, antennas, elements = 12, 10, ROWS * COLUMNS
    channel = complex_normal(random, BATCH, antennas, elements)
    codes = np.exp(2j * np.pi * random.random((BATCH, snapshots, elements))).astype("c8")
    count = 1 + np.arange(BATCH) % SOURCES
    # Far apart in u, with decreasing power.
    indices = np.stack(
        [cube[[1, 6, 10], random.integers(0, 8, 3), random.integers(0, cube.shape[2], 3)]
         for _ in range(BATCH)]
    )  # fmt: skip
    amplitudes = np.array([1.0, 0.7, 0.4]) * (np.arange(SOURCES) < count[:, None])
    signals = complex_normal(random, BATCH, snapshots, SOURCES)
    if signal == "constant":
        signals[:] = signals[:, :1] / np.abs(signals[:, :1])
    field = np.einsum("blk,bk,bkn->bln", signals, amplitudes, vectors[indices])
    received = np.einsum("bmn,bln->blm", channel, codes * field)
    measurement = scenes.Measurement(received, channel, codes, np.zeros(BATCH, "f4"))
    power = amplitudes**2 * np.mean(np.abs(signals) ** 2, axis=1)
    return jax.tree.map(jnp.asarray, measurement), jnp.asarray(count), points[indices], power


class PaperTest(absltest.TestCase):
    def test_random_measurements(self):
        """56 Gaussian measurements recover 4 of 256 with 99 %, Tropp & Gilbert (2007), Table I."""
        random = np.random.default_rng(0)
        trials = 400

        def recovered(measurements):
            dictionary = random.normal(size=(trials, 256, measurements)).astype("c8")
            support = np.argsort(random.random((trials, 256)), axis=1)[:, :4]
            data = np.take_along_axis(dictionary, support[..., None], axis=1).sum(axis=1)

            def pursue(dictionary, data):
                images = likelihood.Images(dictionary[None], dictionary[None])
                return omp.pursue(images, data[None], jnp.asarray(4), 4)[0]

            found = jax.jit(jax.vmap(pursue))(dictionary, data)
            return np.mean(np.all(np.sort(found, axis=1) == np.sort(support, axis=1), axis=1))

        # Two standard errors of 99 % in 400 trials are 1 %.
        self.assertGreater(recovered(56), 0.98)
        self.assertLess(recovered(28), 0.7)


class LocateTest(parameterized.TestCase):
    @parameterized.parameters(
        ("constant", "spherical"), ("independent", "spherical"), ("constant", "planar")
    )
    def test_finds_sources_on_the_grid(self, signal, wavefront):
        measurement, count, points, power = on_the_grid(signal, wavefront)
        found = locate(measurement, count, signal, wavefront)
        np.testing.assert_array_equal(found.num_sources, count)
        azimuth, elevation, source_range = arrays.from_coordinates(jnp.asarray(points))
        order = np.argsort(-power, axis=1)
        for name, true, padding in (
            ("azimuth", azimuth, 0.0),
            ("elevation", elevation, 0.0),
            ("source_range", source_range, np.inf),
            ("power", power, 0.0),
        ):
            true = np.where(power > 0, true, padding)
            true = np.take_along_axis(np.asarray(true), order, axis=1)
            np.testing.assert_allclose(getattr(found, name), true, rtol=2e-3, atol=1e-5)
        self.assertTrue(np.isinf(np.diagonal(found.covariance, axis1=2, axis2=3)).all())

    def test_scale_and_phase_do_not_matter(self):
        measurement, count, _, _ = on_the_grid("constant")
        found = locate(measurement, count)
        turned = locate(measurement._replace(snapshots=measurement.snapshots * 3j), count)
        np.testing.assert_array_equal(found.azimuth, turned.azimuth)
        np.testing.assert_allclose(9 * found.power, turned.power, rtol=1e-5)

    def test_zero_sources(self):
        measurement, count, _, _ = on_the_grid("constant")
        found = locate(measurement, 0 * count)
        np.testing.assert_array_equal(found.num_sources, 0)
        np.testing.assert_array_equal(found.power, 0)


class RefusesTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"num_sources": jnp.ones(2, int)}, "num_sources"),
        ({"positions": POSITIONS[1:]}, "positions"),
        ({"max_sources": 0}, "max_sources >= 1"),
        ({"grid": (3, 0, 1)}, "three counts"),
        ({"grid": (3, 2)}, "three counts"),
    )
    def test_shapes(self, changes, message):
        measurement, count, _, _ = on_the_grid("constant")
        arguments = {"num_sources": count, "positions": POSITIONS, "wavelength": 0.3} | changes
        with self.assertRaisesRegex(ValueError, message):
            omp.orthogonal_matching_pursuit(measurement, **arguments)


if __name__ == "__main__":
    absltest.main()
