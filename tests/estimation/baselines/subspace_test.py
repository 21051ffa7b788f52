"""MUSIC and MVDR: spectra against dense NumPy algebra, and peaks at the truth."""

import functools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.baselines import spectral_search, subspace
from ris_jax.physics import arrays, scenes
from ris_jax.physics import covariance as cov

WAVELENGTH, SPACING = 0.3, 0.15
ROWS = COLUMNS = 8
ELEMENTS, SOURCES, BATCH = ROWS * COLUMNS, 3, 8
POSITIONS = arrays.planar_array(ROWS, COLUMNS, SPACING)
# Its corners lie beyond the horizon.
REGION = search_grid.SearchRegion(0.95, 0.6, 0.0, 2.2)
GRID = (24, 14, 6)
METHODS = {"music": subspace.music, "mvdr": subspace.mvdr}
# Compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(jit, static_argnames=("method", "wavefront"))
def _localize(covariance, num_sources, positions, method, wavefront):
    return METHODS[method](
        covariance,
        num_sources,
        positions,
        wavelength=WAVELENGTH,
        wavefront=wavefront,
        max_sources=SOURCES,
        region=REGION,
        grid=GRID,
    )


def localize(covariance, num_sources, positions=POSITIONS, *, method, wavefront="spherical"):
    """Localize without default arguments, which would compile once more."""
    return _localize(covariance, num_sources, positions, method=method, wavefront=wavefront)


music_spectrum = jax.jit(subspace.music_spectrum)
mvdr_spectrum = jax.jit(subspace.mvdr_spectrum)


@functools.partial(jax.jit, static_argnames="wavefront")
def steering_matrix(truth, wavefront="spherical"):
    system = config_lib.SystemConfig(wavefront=wavefront)
    return scenes.steering_matrix(truth, POSITIONS, system)


def truths(seed=0, **fields):
    """Draw one source in half of the scenes and three in the others, at least a beam apart."""
    random = np.random.default_rng(seed)
    count = np.tile([1, SOURCES], BATCH // 2)
    active = np.arange(SOURCES) < count[:, None]
    # A third of the field of view for each, in varying order.
    third = np.argsort(random.random((BATCH, SOURCES)), axis=1)
    azimuth = np.deg2rad(random.uniform(-15, 15, (BATCH, SOURCES)) + 40 * (third - 1))
    source_range = random.uniform(0.6, 4.0, (BATCH, SOURCES))
    drawn = {
        "azimuth": azimuth,
        "elevation": np.deg2rad(random.uniform(-28, 28, (BATCH, SOURCES))),
        "source_range": source_range,
        "amplitude": 1.0 / source_range,
    } | fields
    parts = {name: jnp.asarray(np.where(active, part, 0.0), "f4") for name, part in drawn.items()}
    parts["source_range"] = jnp.where(active, parts["source_range"], 1.0)
    return scenes.Truth(**parts, num_sources=jnp.asarray(count), snr_db=jnp.zeros(BATCH))


def true_covariance(truth, wavefront="spherical", loading=0.0):
    return cov.LowRankCovariance(steering_matrix(truth, wavefront), jnp.full(BATCH, loading, "f4"))


def strongest_first(truth):
    """Sort and pad the truth as an estimate, [B, K] each."""
    truth = jax.tree.map(np.asarray, truth)
    order = np.argsort(-truth.amplitude, axis=1)
    active = np.arange(SOURCES) < truth.num_sources[:, None]
    values = [
        np.take_along_axis(values, order, axis=1)
        for values in (truth.azimuth, truth.elevation, truth.source_range, truth.amplitude**2)
    ]
    return values, active


def complex_normal(*shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")


def steering_grid():
    """Return unit-norm steering vectors of a grid, and its points."""
    points = search_grid.grid_points(REGION, (9, 5, 3))
    points = points[np.sum(points[:, :2] ** 2, axis=1) < 1]
    return np.asarray(arrays.normalized(jax.jit(jets)(points)[:, 0])), points


def jets(points):
    return arrays.steering_jet(points, POSITIONS, wavelength=WAVELENGTH)


class SpectrumTest(parameterized.TestCase):
    @parameterized.parameters((3, 1e-2), (3, 10.0), (70, 1.0))
    def test_mvdr_is_the_full_inverse(self, rank, loading):
        """MVDR equals the dense inverse, also with more columns than elements."""
        vectors, _ = steering_grid()
        factor = complex_normal(2, ELEMENTS, rank)
        covariance = cov.LowRankCovariance(jnp.asarray(factor), jnp.full(2, loading, "f4"))
        wide = factor.astype(complex)
        dense = wide @ wide.swapaxes(1, 2).conj() + loading * np.eye(ELEMENTS)
        explicit = np.einsum("gn,bnm,gm->bg", vectors.conj(), np.linalg.inv(dense), vectors)
        chex.assert_trees_all_close(
            mvdr_spectrum(covariance, vectors), (1 / explicit.real).astype("f4"), rtol=1e-4
        )

    @parameterized.parameters(0, 1, 2, 4)
    def test_music_is_the_noise_subspace(self, rank):
        vectors, _ = steering_grid()
        factor = complex_normal(2, ELEMENTS, 4)
        covariance = cov.LowRankCovariance(jnp.asarray(factor), jnp.ones(2))
        wide = factor.astype(complex)
        noise = np.linalg.eigh(wide @ wide.swapaxes(1, 2).conj())[1][..., : ELEMENTS - rank]
        left = np.sum(np.abs(np.einsum("gn,bnk->bgk", vectors.conj(), noise)) ** 2, axis=-1)
        spectrum = music_spectrum(covariance, jnp.full(2, rank), vectors)
        chex.assert_trees_all_close(spectrum, (1 / left).astype("f4"), rtol=1e-4)

    @parameterized.parameters("music", "mvdr")
    def test_peak_on_the_grid(self, method):
        """The highest point is a corner of the source's cell."""
        truth = truths()
        points = search_grid.grid_points(REGION, GRID)
        visible = np.sum(points[:, :2] ** 2, axis=1) < 1
        self.assertLess(visible.sum(), visible.size)  # or the region has no such corner
        vectors, covariance = jax.jit(jets)(points)[:, 0], true_covariance(truth)
        if method == "music":
            spectrum = music_spectrum(covariance, truth.num_sources, vectors)
        else:
            spectrum = mvdr_spectrum(covariance, vectors)
        best = points[np.argmax(np.where(visible, spectrum, 0.0), axis=1)]
        places = arrays.to_coordinates(truth.azimuth, truth.elevation, truth.source_range)
        cells = (REGION.upper - REGION.lower) / np.array(GRID)
        distance = np.abs(best[:, None] - np.asarray(places)) / cells
        active = np.arange(SOURCES) < np.asarray(truth.num_sources)[:, None]
        nearest = np.where(active, distance.max(axis=2), np.inf).min(axis=1)
        self.assertLess(nearest.max(), 1.0)

    def test_loading_is_raised(self):
        """Without noise the loading is 1e-5 of the mean power."""
        vectors, _ = steering_grid()
        factor = jnp.asarray(complex_normal(ELEMENTS, 2))
        mean = float(jnp.sum(jnp.abs(factor) ** 2)) / ELEMENTS
        without = mvdr_spectrum(cov.LowRankCovariance(factor, jnp.zeros(())), vectors)
        least = mvdr_spectrum(cov.LowRankCovariance(factor, jnp.asarray(1e-5 * mean)), vectors)
        chex.assert_trees_all_close(without, least, rtol=1e-4)

    def test_no_power(self):
        vectors, _ = steering_grid()
        nothing = cov.LowRankCovariance(jnp.zeros((ELEMENTS, 2), "c8"), jnp.zeros(()))
        chex.assert_trees_all_equal(
            music_spectrum(nothing, jnp.asarray(2), vectors), jnp.ones(len(vectors))
        )
        chex.assert_tree_all_finite(mvdr_spectrum(nothing, vectors))

    def test_gradients_are_finite(self):
        """Gradients are finite even for equal eigenvalues."""
        vectors, _ = steering_grid()
        factor = np.eye(ELEMENTS, 3, dtype="c8")

        def total(factor):
            covariance = cov.LowRankCovariance(factor, jnp.zeros(()))
            music = subspace.music_spectrum(covariance, jnp.asarray(2), vectors)
            return jnp.sum(music) + jnp.sum(subspace.mvdr_spectrum(covariance, vectors))

        chex.assert_tree_all_finite(jax.jit(jax.grad(total))(factor))


class CompressTest(parameterized.TestCase):
    @parameterized.parameters((2, 5), (5, 5), (7, 5), (20, 5), (20, 12), (20, 15))
    def test_keeps_the_largest_eigenvalues(self, rank, columns):
        """The largest eigenvalues are kept, the others averaged; the trace is constant."""
        factor = complex_normal(12, rank)
        covariance = cov.LowRankCovariance(jnp.asarray(factor), jnp.asarray(0.5))
        compressed = jax.jit(subspace.compress, static_argnums=1)(covariance, columns)
        values, vectors = np.linalg.eigh(factor.astype(complex) @ factor.conj().T)
        if rank > columns and columns < 12:
            values[:-columns] = values[:-columns].mean()
        expected = (vectors * (values + 0.5)) @ vectors.conj().T
        chex.assert_trees_all_close(
            np.asarray(cov.dense(compressed)), expected.astype("c8"), atol=2e-4
        )
        chex.assert_shape(compressed.factor, (12, min(rank, columns, 12 if rank > columns else 99)))

    def test_no_columns(self):
        covariance = cov.LowRankCovariance(jnp.ones((4, 2), "c8"), jnp.zeros(()))
        with self.assertRaisesRegex(ValueError, "columns >= 1; got 0"):
            subspace.compress(covariance, 0)


class SourcesTest(parameterized.TestCase):
    @parameterized.parameters("spherical", "fresnel", "parabolic", "planar")
    def test_exact_covariance(self, wavefront):
        self.check_exact("music", wavefront)

    def test_exact_covariance_for_mvdr(self):
        self.check_exact("mvdr", "spherical")

    @parameterized.parameters("fresnel", "parabolic", "planar")
    @pytest.mark.full
    def test_other_wavefronts_for_mvdr(self, wavefront):
        self.check_exact("mvdr", wavefront)

    def check_exact(self, method, wavefront):
        truth = truths()
        found = localize(
            true_covariance(truth, wavefront),
            truth.num_sources,
            method=method,
            wavefront=wavefront,
        )
        found = jax.tree.map(np.asarray, found)
        (azimuth, elevation, source_range, power), active = strongest_first(truth)
        chex.assert_trees_all_equal(found.num_sources, np.asarray(truth.num_sources))
        for estimate, true in ((found.azimuth, azimuth), (found.elevation, elevation)):
            self.assertLess(np.rad2deg(np.abs(estimate - true)[active].max()), 0.05)
            self.assertEqual(np.abs(estimate[~active]).max(), 0.0)
        if wavefront == "planar":
            self.assertTrue(np.isinf(found.source_range).all())
        else:
            error = np.abs(1 / found.source_range - 1 / source_range)[active]
            self.assertLess(error.max(), 1e-3)
        self.assertTrue(np.isinf(found.source_range[~active]).all())
        chex.assert_trees_all_close(found.power[active], power[active], rtol=0.02)
        self.assertEqual(found.power[~active].max(), 0.0)
        self.assertTrue((np.diff(found.power, axis=1) <= 0).all())
        bars = np.where(np.eye(3, dtype=bool), np.inf, np.zeros((BATCH, SOURCES, 3, 3)))
        chex.assert_trees_all_equal(found.covariance, bars.astype("f4"))
        chex.assert_trees_all_equal(found.noise_variance, np.zeros(BATCH, "f4"))

    def test_a_matrix_of_one_scene(self):
        """A dense matrix, a number of sources and a list of positions are enough."""
        truth, scene = truths(), BATCH - 1
        expected = localize(true_covariance(truth), truth.num_sources, method="music")
        matrix = cov.dense(true_covariance(truth))[scene]
        found = jit(
            lambda matrix: subspace.music(
                matrix, SOURCES, np.asarray(POSITIONS).tolist(), wavelength=WAVELENGTH,
                max_sources=SOURCES, region=REGION, grid=GRID,
            )
        )(matrix)  # fmt: skip
        chex.assert_shape(found.azimuth, (SOURCES,))
        chex.assert_trees_all_close(found.azimuth, expected.azimuth[scene], atol=1e-3)
        chex.assert_trees_all_close(found.power, expected.power[scene], rtol=1e-2)

    @parameterized.parameters("music", "mvdr")
    def test_within_a_beam(self, method):
        """Two sources share a peak of the grid; their steering vectors correlate by 0.6."""
        azimuth = np.tile([0.1, 0.24, -0.6], (BATCH, 1))
        truth = truths(
            azimuth=azimuth,
            elevation=0.1 + 0 * azimuth,
            source_range=2.0 + 0 * azimuth,
            amplitude=np.tile([1.0, 0.5, 0.7], (BATCH, 1)),
        )
        factor = steering_matrix(truth)[1]
        self.assertGreater(float(jnp.abs(factor[:, 0].conj() @ factor[:, 1])) / 0.5, 0.55)
        found = localize(true_covariance(truth), truth.num_sources, method=method)
        expected = np.tile(np.array([0.1, -0.6, 0.24], "f4"), (BATCH // 2, 1))
        chex.assert_trees_all_close(found.azimuth[1::2], expected, atol=np.deg2rad(0.05))

    @parameterized.parameters("music", "mvdr")
    def test_order_of_elements(self, method):
        truth = truths()
        covariance = true_covariance(truth, loading=1e-3)
        order = np.random.default_rng(0).permutation(ELEMENTS)
        moved = covariance._replace(factor=covariance.factor[:, order])
        left = localize(covariance, truth.num_sources, method=method)
        right = localize(moved, truth.num_sources, POSITIONS[order], method=method)
        chex.assert_trees_all_close(left, right, rtol=1e-3, atol=1e-4)

    @parameterized.product(method=("music", "mvdr"), scale=(1e-5, 1e5))
    def test_scale(self, method, scale):
        truth = truths()
        covariance = true_covariance(truth, loading=1e-3)
        scaled = cov.LowRankCovariance(covariance.factor * scale, covariance.loading * scale**2)
        left = localize(covariance, truth.num_sources, method=method)
        right = localize(scaled, truth.num_sources, method=method)
        expected = left._replace(
            power=left.power * scale**2, noise_variance=left.noise_variance * scale**2
        )
        chex.assert_trees_all_close(right, expected, rtol=1e-3)
        chex.assert_trees_all_close(left.noise_variance, jnp.full(BATCH, 1e-3), rtol=1e-4)

    @parameterized.parameters("music", "mvdr")
    def test_degenerate(self, method):
        """No power, zero sources, coinciding sources, too many sources."""
        truth = truths(azimuth=0.3, elevation=0.1, source_range=2.0, amplitude=1.0)
        covariance = true_covariance(truth)
        count = jnp.array([1, 0, 2, 3, 3, 3, 9, -1])
        silent = jnp.array([1, 1, 1, 1, 1, 0, 1, 1])[:, None, None]
        found = localize(
            covariance._replace(factor=covariance.factor * silent), count, method=method
        )
        none = np.array([1, 5, 7])
        chex.assert_trees_all_equal(found.num_sources[none], jnp.zeros(3, int))
        chex.assert_tree_all_finite((found.azimuth, found.elevation, found.power))
        self.assertTrue(bool(jnp.all(found.source_range > 0)))
        self.assertLessEqual(int(found.num_sources.max()), SOURCES)
        # The common position is found once.
        # MVDR of one noise-free source is flat at its peak: a twentieth of the beamwidth.
        near = jnp.hypot(found.azimuth - 0.3, found.elevation - 0.1) < 5e-3
        some = np.setdiff1d(np.arange(BATCH), none)
        chex.assert_trees_all_equal(jnp.sum(near, axis=1)[some], jnp.ones(len(some), int))

    def test_snapshots(self):
        """Covariances of 40 noisy snapshots at 30 dB have more columns than used directly."""
        self.check_snapshots("music")

    @pytest.mark.full
    def test_snapshots_for_mvdr(self):
        self.check_snapshots("mvdr")

    def check_snapshots(self, method):
        truth = truths(amplitude=1.0)
        signals = complex_normal(BATCH, SOURCES, 40, seed=2) / 2**0.5
        clean = np.asarray(steering_matrix(truth)) @ signals
        noise = complex_normal(*clean.shape, seed=3) * 0.0316 * np.abs(clean).std() / 2**0.5
        covariance = cov.LowRankCovariance(jnp.asarray((clean + noise) / 40**0.5), jnp.zeros(BATCH))
        found = localize(covariance, truth.num_sources, method=method)
        chex.assert_trees_all_equal(found.num_sources, truth.num_sources)
        active = np.asarray(scenes.active_sources(truth)) > 0
        near = np.hypot(
            found.azimuth[:, :, None] - truth.azimuth[:, None],
            found.elevation[:, :, None] - truth.elevation[:, None],
        ) < np.deg2rad(0.5)
        chex.assert_trees_all_equal(near.any(axis=1)[active], np.ones(active.sum(), bool))
        noise_variance = np.mean(np.abs(noise) ** 2)
        if method == "music":
            chex.assert_trees_all_close(
                found.noise_variance, jnp.full(BATCH, noise_variance), rtol=0.2
            )

    def test_beyond_the_horizon(self):
        """Cells beyond the horizon are moved to it, but are not peaks."""
        factor = jax.jit(jets)(np.array([[0.9, 0.56, 0.0]], "f4"))[:, :1].swapaxes(1, 2)
        ridge = spectral_search.Ridge(factor, jnp.ones((1, 1, 1), "c8"), jnp.zeros(1))
        with mock.patch.object(spectral_search, "_ITERATIONS", 0):  # peaks stay on the grid
            peaks = jit(
                functools.partial(
                    spectral_search.search,
                    wavelength=WAVELENGTH,
                    wavefront="spherical",
                    max_sources=SOURCES,
                    region=REGION,
                    grid=GRID,
                )
            )(ridge, jnp.array([SOURCES]), POSITIONS)
        self.assertEqual(float(jnp.sum(peaks.active)), SOURCES)
        self.assertLess(float(jnp.max(jnp.sum(peaks.coordinates[..., :2] ** 2, axis=-1))), 1.0)

    @parameterized.named_parameters(
        ("four_axes", {"factor": (2, 2, 16, 2)}, "need a factor"),
        ("positions", {"positions": (15, 3)}, "need a factor"),
        ("plane_positions", {"positions": (16, 2)}, "need a factor"),
        ("count", {"count": (3,)}, "need num_sources and loading"),
        ("loading", {"loading": ()}, "need num_sources and loading"),
        ("no_sources", {"max_sources": 0}, "max_sources >= 1; got 0"),
        ("flat_grid", {"grid": (9, 9)}, r"three counts.*got \(9, 9\)"),
        ("empty_grid", {"grid": (9, 9, 0)}, r"three counts.*got \(9, 9, 0\)"),
        ("few_cells", {"grid": (3, 1, 9)}, r"4 cells or more.*got \(3, 1, 9\)"),
    )
    def test_errors(self, changes, message):
        options = {"max_sources": 1, "grid": (4, 4, 2)}
        options |= {name: changes[name] for name in options.keys() & changes.keys()}
        shapes = {"factor": (2, 16, 2), "positions": (16, 3), "count": (2,), "loading": (2,)}
        shapes |= {name: changes[name] for name in shapes.keys() & changes.keys()}
        covariance = cov.LowRankCovariance(
            jnp.zeros(shapes["factor"], "c8"), jnp.zeros(shapes["loading"])
        )
        count, positions = jnp.ones(shapes["count"], int), jnp.ones(shapes["positions"])
        for method in METHODS.values():
            with self.assertRaisesRegex(ValueError, message):
                method(covariance, count, positions, wavelength=WAVELENGTH, **options)


if __name__ == "__main__":
    absltest.main()
