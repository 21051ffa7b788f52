"""Sparse Bayesian learning: published case, stationary point, scenes of the package."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import search_grid
from ris_jax.estimation.baselines import grid_dictionary, sparse_bayesian
from ris_jax.physics import arrays, scenes

ROWS, COLUMNS, SOURCES, BATCH = 6, 8, 3, 4
GRID = (12, 8, 4)
POSITIONS = arrays.planar_array(ROWS, COLUMNS, 0.15)
learn_powers = jax.jit(sparse_bayesian.learn_powers, static_argnames="steps")


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8") / 2**0.5


def paper_scene(random, snapshots=50, noise_variance=1.0, sensors=20):
    """Simulate Gerstoft et al. (2016): sources at -3, 2, 75 degrees with 12, 22, 20 dB."""
    angles = np.arange(-90, 90.5, 0.5)
    phases = np.pi * np.outer(np.sin(np.deg2rad(angles)), np.arange(sensors))
    atoms = np.exp(-1j * phases).astype("c8")
    places = np.searchsorted(angles, [-3, 2, 75])
    amplitudes = 10 ** (np.array([12, 22, 20]) / 20)
    signals = amplitudes * np.exp(2j * np.pi * random.random((snapshots, 3)))
    noise = noise_variance**0.5 * complex_normal(random, snapshots, sensors)
    data = (signals @ atoms[places] + noise).astype("c8")
    return angles, atoms[None], data[None], places


class PaperTest(parameterized.TestCase):
    def test_three_sources(self):
        """Angles on the grid and their powers are found."""
        angles, atoms, data, places = paper_scene(np.random.default_rng(0))
        power = np.asarray(learn_powers(atoms, data, jnp.asarray(1.0)))
        found = np.sort(np.argsort(-power)[:3])
        np.testing.assert_array_equal(angles[found], [-3, 2, 75])
        np.testing.assert_allclose(10 * np.log10(power[places]), [12, 22, 20], atol=1.0)
        # The residual contains no source.
        self.assertLess(np.sort(power)[-4], 0.05 * power[places[0]])

    def test_stationary_point_of_the_likelihood(self):
        """The evidence is stationary for nonzero powers: sum |b C^-1 y|^2 = sum b C^-1 b."""
        _, atoms, data, _ = paper_scene(np.random.default_rng(1), snapshots=8)
        steps = sparse_bayesian.PowerIterations(whole=300, kept=64, pruned=600)
        power = np.asarray(learn_powers(atoms, data, jnp.asarray(1.0), steps=steps), float)
        atoms, data = np.asarray(atoms[0], complex), np.asarray(data[0], complex)
        covariance = np.eye(20) + np.einsum("g,gd,ge->de", power, atoms, atoms.conj())
        inverse = np.linalg.inv(covariance)
        found = np.sum(np.abs(data @ inverse.T @ atoms.conj().T) ** 2, axis=0)
        own = len(data) * np.einsum("gd,de,ge->g", atoms.conj(), inverse, atoms).real
        strong = power > 1e-2 * power.max()
        self.assertBetween(strong.sum(), 3, 8)
        np.testing.assert_allclose(found[strong] / own[strong], 1.0, atol=0.05)

    def test_a_shared_dictionary_is_one_for_each(self):
        _, atoms, data, _ = paper_scene(np.random.default_rng(2), snapshots=4)
        steps = sparse_bayesian.PowerIterations(whole=4, kept=64, pruned=4)
        shared = learn_powers(atoms, data, jnp.asarray(1.0), steps=steps)
        each = np.repeat(atoms, 4, axis=0), np.swapaxes(data, 0, 1)
        copies = learn_powers(*each, jnp.asarray(1.0), steps=steps)
        np.testing.assert_allclose(shared, copies, rtol=1e-2, atol=1e-3 * np.max(shared))

    def test_forms_for_small_and_large_matrices_agree(self):
        """Gauss-Jordan up to 32 rows and Cholesky beyond agree; zero rows change nothing."""
        _, atoms, data, _ = paper_scene(np.random.default_rng(2), snapshots=4)
        steps = sparse_bayesian.PowerIterations(whole=4, kept=64, pruned=4)
        small = learn_powers(atoms, data, jnp.asarray(1.0), steps=steps)
        wide = [np.pad(part, ((0, 0), (0, 0), (0, 20))) for part in (atoms, data)]
        large = learn_powers(*wide, jnp.asarray(1.0), steps=steps)
        np.testing.assert_allclose(small, large, rtol=2e-2, atol=1e-3 * np.max(small))


@functools.partial(jax.jit, static_argnames=("signal", "wavefront"))
def locate(measurement, num_sources, signal, wavefront="spherical"):
    return sparse_bayesian.sparse_bayesian_learning(
        measurement, num_sources, POSITIONS, wavelength=0.3, wavefront=wavefront,
        source_signal=signal, max_sources=SOURCES, grid=GRID,
        steps=sparse_bayesian.PowerIterations(8, 48, 30),
    )  # fmt: skip


def on_the_grid(signal, snapshots, antennas):
    """Simulate scenes of one to three sources on the grid, at high SNR."""
    random = np.random.default_rng(0)
    atoms = grid_dictionary.atoms_of(
        POSITIONS, search_grid.SearchRegion(), GRID, wavelength=0.3, wavefront="spherical"
    )
    points = np.asarray(atoms.points)
    vectors = np.asarray(atoms.vectors * jnp.sqrt(atoms.squared_norms)[:, None])
    cube = np.arange(len(points)).reshape(atoms.shape)
    channel = complex_normal(random, BATCH, antennas, ROWS * COLUMNS)
    codes = np.exp(2j * np.pi * random.random((BATCH, snapshots, ROWS * COLUMNS))).astype("c8")
    count = 1 + np.arange(BATCH) % SOURCES
    indices = np.stack(
        [cube[[1, 6, 10], random.integers(1, 7, 3), random.integers(0, 4, 3)]
         for _ in range(BATCH)]
    )  # fmt: skip
    amplitudes = np.array([1.0, 0.8, 0.6]) * (np.arange(SOURCES) < count[:, None])
    signals = complex_normal(random, BATCH, snapshots, SOURCES)
    if signal == "constant":
        signals[:] = signals[:, :1] / np.abs(signals[:, :1])
    field = np.einsum("blk,bk,bkn->bln", signals, amplitudes, vectors[indices])
    clean = np.einsum("bmn,bln->blm", channel, codes * field)
    noise_variance = 1e-3 * np.mean(np.abs(clean) ** 2, axis=(1, 2))
    noise = noise_variance[:, None, None] ** 0.5 * complex_normal(random, *clean.shape)
    received = (clean + noise).astype("c8")
    measurement = scenes.Measurement(received, channel, codes, noise_variance.astype("f4"))
    return jax.tree.map(jnp.asarray, measurement), count, points[indices], amplitudes


class LocateTest(parameterized.TestCase):
    @parameterized.parameters(
        ("constant", 10, 8), ("constant", 6, 7), ("independent", 16, 12)
    )  # more samples than elements; fewer; a field for each snapshot
    def test_finds_sources_on_the_grid(self, signal, snapshots, antennas):
        measurement, count, points, amplitudes = on_the_grid(signal, snapshots, antennas)
        found = locate(measurement, jnp.asarray(count), signal)
        np.testing.assert_array_equal(found.num_sources, count)
        azimuth, elevation, _ = arrays.from_coordinates(jnp.asarray(points))
        for field, true in (("azimuth", azimuth), ("elevation", elevation)):
            for scene in range(BATCH):
                wanted = np.sort(np.asarray(true)[scene, : count[scene]])
                got = np.sort(np.asarray(getattr(found, field))[scene, : count[scene]])
                np.testing.assert_allclose(got, wanted, atol=1e-4)
        if signal == "constant":
            power = -np.sort(-(amplitudes**2), axis=1)
            np.testing.assert_allclose(found.power, power, atol=0.15)


class RefusesTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"num_sources": jnp.ones(2, int)}, "num_sources"),
        ({"max_sources": 0}, "max_sources >= 1"),
        ({"grid": (3, 0, 1)}, "three counts"),
    )
    def test_arguments(self, changes, message):
        measurement, count, _, _ = on_the_grid("constant", 6, 7)
        arguments = {"num_sources": jnp.asarray(count), "positions": POSITIONS} | changes
        with self.assertRaisesRegex(ValueError, message):
            sparse_bayesian.sparse_bayesian_learning(measurement, wavelength=0.3, **arguments)


if __name__ == "__main__":
    absltest.main()
