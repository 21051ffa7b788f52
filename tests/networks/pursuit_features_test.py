"""Input features: least squares in NumPy float64, and invariances."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases import small
from cases.small import jit

from ris_jax.estimation import likelihood, refinement
from ris_jax.networks import pursuit_features
from ris_jax.physics import scenes

SIGNALS = ("constant", "independent")
SOURCES, CANDIDATES, BATCH = 3, 4, 5
SMALL = small.configuration(
    small.SYSTEM,
    scene__max_sources=SOURCES,
    scene__min_sources=SOURCES,
    model__candidates=CANDIDATES,
)
POINTS = np.array([[-0.6, 0.1, 0.9], [0.1, -0.3, 1.6], [0.6, 0.3, 0.4]], "f4")
LINE = tuple((0.15 * i, 0.0, 0.0) for i in range(16))
with_values = functools.partial(small.with_values, SMALL)


@functools.partial(jit, static_argnames="config")
def described(config, measurement, coordinates, active):
    """Return pursuit states with sources at given coordinates and fitted amplitudes."""
    context = pursuit_features.search_context(config)

    def one(scene):
        observation = likelihood.observe(scene, config.system.source_signal)
        fit = refinement.refine(context.problem, observation, coordinates, active, 0)
        return pursuit_features.describe(context, observation, fit, scene.noise_variance)

    return jax.vmap(one)(measurement)


@functools.cache
def measured(config):
    draw = jit(scenes.sample_scenes, static_argnums=(1, 2))
    return draw(scenes.stream_key(0, "train"), config, BATCH).measurement


def describe(config=SMALL, measurement=None, active=(1, 1, 1), points=POINTS):
    measurement = measured(config) if measurement is None else measurement
    return described(config, measurement, jnp.asarray(points), jnp.asarray(active, "f4"))


def steering(points):
    """Return r / |p - q| exp(-j k (|p - q| - r)) / sqrt(N) of the 4 x 4 array, [K, N]."""
    axis = 0.15 * (np.arange(4) - 1.5)
    positions = np.array([(x, y, 0.0) for y in axis for x in axis])
    u, w, inverse_range = np.asarray(points, float).T
    unit = np.stack([u, w, np.sqrt(1 - u**2 - w**2)], axis=-1)
    distance = np.linalg.norm((unit / inverse_range[:, None])[:, None] - positions, axis=-1)
    phase = -2 * np.pi / 0.3 * (distance - 1 / inverse_range[:, None])
    return np.exp(1j * phase) / (distance * inverse_range[:, None]) / 4.0


def unit_steering(points):
    """Return `steering` scaled to norm one."""
    vectors = steering(points)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Scene:
    """One scene in NumPy: data [T, R], images [T, R, K] and their least squares."""

    def __init__(self, measurement, index, source_signal):
        parts = jax.tree.map(lambda leaf: np.asarray(leaf[index], complex), measurement)
        self.noise = parts.noise_variance.real
        self.operator = np.einsum("mn,ln->lmn", parts.channel, parts.codes)
        self.data = parts.snapshots
        if source_signal == "constant":
            self.operator = self.operator.reshape(1, -1, 16)
            self.data = self.data.reshape(1, -1)

    def images(self, points):
        return np.einsum("trn,kn->trk", self.operator, steering(points))

    def residual(self, points, data=None):
        data = self.data if data is None else data
        fits = [
            b @ np.linalg.lstsq(b, y, rcond=None)[0] if b.size else 0 * y
            for y, b in zip(data, self.images(points), strict=True)
        ]
        return data - np.array(fits)

    def amplitudes(self, points):
        images = self.images(points)
        return np.array(
            [np.linalg.lstsq(b, y, rcond=None)[0] for y, b in zip(self.data, images, strict=True)]
        )

    def explained(self, points):
        return energy(self.data) - energy(self.residual(points))

    def fields(self, points):
        """Return matched fields of the residual, [T, N]."""
        return np.einsum("trn,tr->tn", self.operator.conj(), self.residual(points))


def energy(data):
    return np.sum(np.abs(data) ** 2)


def level(energy_, noise):
    return np.log(energy_ / noise + 1e-3)


class FeaturesTest(parameterized.TestCase):
    """Features for two of three sources, and for all three."""

    def cases(self, source_signal):
        config = with_values(system__source_signal=source_signal)
        measurement = measured(config)
        for active in ((1, 0, 1), (1, 1, 1)):
            state = jax.tree.map(np.asarray, describe(config, measurement, active))
            points = POINTS[np.array(active) > 0]
            for index in range(BATCH):
                one = jax.tree.map(lambda leaf, i=index: leaf[i], state)
                yield Scene(measurement, index, source_signal), one, points, np.array(active) > 0

    @parameterized.parameters(*SIGNALS)
    def test_candidates(self, source_signal):
        """The first candidate is the maximum of the matched filter; its explained energy."""
        low, high = np.array([-0.8988, -0.5393, 0.0]), np.array([0.8988, 0.5393, 2.2])
        grid = pursuit_features.search_context(SMALL).grid
        for scene, state, points, _ in self.cases(source_signal):
            spectrum = energy_by_column(scene.fields(points) @ unit_steering(grid.points).conj().T)
            chex.assert_trees_all_equal(state.candidates[0], grid.points[np.argmax(spectrum)])
            features = state.candidate_features
            places = (state.candidates - (low + high) / 2) / ((high - low) / 2)
            np.testing.assert_allclose(features[:, :3], places, atol=2e-3)
            left = scene.residual(points)
            residual = energy(left)
            for candidate, row in zip(state.candidates, features, strict=True):
                image = scene.images(candidate[None])[..., 0]
                kept = np.sum(np.abs(scene.residual(points, image)) ** 2, axis=1)
                whole = np.sum(np.abs(image) ** 2, axis=1)
                gain = scene.explained(np.vstack([points, candidate])) - scene.explained(points)
                if (kept < 1e-3 * whole).any():  # a snapshot in which it is ambiguous
                    kept = np.maximum(kept, 1e-3 * whole)
                    gain = np.sum(np.abs(np.sum(image.conj() * left, axis=1)) ** 2 / kept)
                np.testing.assert_allclose(row[3], level(gain, scene.noise), atol=5e-3)
                share = gain / max(residual, scene.noise)
                np.testing.assert_allclose(row[4], share, atol=1e-3)
                np.testing.assert_allclose(row[5], level(np.mean(kept / whole), 1.0), atol=1e-3)

    @parameterized.parameters(*SIGNALS)
    def test_neighbours(self, source_signal):
        """Matched-filter outputs of the 26 neighbouring cells relative to the candidate."""
        grid = pursuit_features.search_context(SMALL).grid
        cells = np.array(list(np.ndindex(grid.shape)))
        self.assertEqual(grid.shape[2], 1)  # so that there are none along 1/r
        offsets = [np.array(d) - 1 for d in np.ndindex(3, 3, 3) if d != (1, 1, 1)]
        for scene, state, points, _ in self.cases(source_signal):
            matched = scene.fields(points) @ unit_steering(grid.points).conj().T
            for candidate, row in zip(state.candidates, state.candidate_features, strict=True):
                own = int(np.argmin(np.linalg.norm(grid.points - candidate, axis=1)))
                wanted = np.zeros(26, complex)
                for number, offset in enumerate(offsets):
                    there = np.flatnonzero(np.all(cells == cells[own] + offset, axis=1))
                    if there.size:
                        wanted[number] = np.vdot(matched[:, own], matched[:, there[0]])
                wanted /= energy(matched[:, own])
                scale = max(1.0, np.abs(wanted).max())
                np.testing.assert_allclose(row[6:32], wanted.real, atol=2e-3 * scale)
                np.testing.assert_allclose(row[32:], wanted.imag, atol=2e-3 * scale)

    @parameterized.parameters(*SIGNALS)
    def test_sources(self, source_signal):
        """Energy lost without each source, its own energy, and its curvature."""
        low, high = np.array([-0.8988, -0.5393, 0.0]), np.array([0.8988, 0.5393, 2.2])
        unit = np.asarray(pursuit_features.search_context(SMALL).grid.unit)
        for scene, state, points, present in self.cases(source_signal):
            features = state.source_features
            chex.assert_trees_all_equal(features[~present], np.zeros_like(features[~present]))
            amplitudes = scene.amplitudes(points)
            for number, row in enumerate(features[present]):
                place = points[number]
                scaled = (place - (low + high) / 2) / ((high - low) / 2)
                np.testing.assert_allclose(row[:3], scaled, atol=2e-3)
                others = np.delete(points, number, axis=0)
                marginal = scene.explained(points) - scene.explained(others)
                np.testing.assert_allclose(row[3], level(marginal, scene.noise), atol=5e-3)
                alone = scene.images(place[None])[..., 0] * amplitudes[:, number, None]
                np.testing.assert_allclose(row[4], level(energy(alone), scene.noise), atol=5e-3)
                for axis, step in enumerate(1e-5 * np.eye(3)):
                    ahead = scene.images((place + step)[None])
                    behind = scene.images((place - step)[None])
                    slope = (ahead - behind)[..., 0] / 2e-5 * amplitudes[:, number, None]
                    sharp = energy(scene.residual(points, slope)) * unit[axis] ** 2
                    np.testing.assert_allclose(row[5 + axis], level(sharp, scene.noise), atol=5e-3)

    @parameterized.parameters(*SIGNALS)
    def test_scene(self, source_signal):
        """Power, and the residual relative to the noise."""
        amplitudes = 1 if source_signal == "constant" else 6
        for scene, state, points, _ in self.cases(source_signal):
            count = len(points)
            freedom = 24 - count * (amplitudes + 1.5)
            ratio = energy(scene.residual(points)) / scene.noise / freedom
            wanted = [
                level(energy(scene.data) / 24, scene.noise),
                np.log(ratio + 1e-3),
                (ratio - 1) * np.sqrt(24) / 5,
                count / SOURCES,
            ]
            np.testing.assert_allclose(
                state.scene_features, np.clip(wanted, -20, 20), rtol=1e-3, atol=2e-3
            )

    @parameterized.parameters(*SIGNALS)
    def test_overlaps(self, source_signal):
        """Correlation of images: 1 with itself, 0 with padding."""
        for scene, state, _, present in self.cases(source_signal):
            images = scene.images(np.vstack([POINTS, state.candidates]))
            images = images * np.append(present, np.ones(CANDIDATES))
            gram = np.abs(np.einsum("trp,trq->pq", images.conj(), images))
            norm = np.sqrt(np.maximum(np.diag(gram), 1e-30))
            np.testing.assert_allclose(state.overlaps, gram / norm[:, None] / norm, atol=1e-4)
            chex.assert_trees_all_close(state.overlaps, state.overlaps.T, atol=1e-5)
            there = np.append(present, np.ones(CANDIDATES)).astype("f4")
            chex.assert_trees_all_close(np.diag(state.overlaps), there, atol=1e-5)
            self.assertGreaterEqual(state.overlaps.min(), 0.0)
            self.assertLessEqual(state.overlaps.max(), 1.0 + 1e-5)


def energy_by_column(fields):
    return np.sum(np.abs(fields) ** 2, axis=0)


class InvarianceTest(parameterized.TestCase):
    def assert_same(self, found, wanted):
        """Compare features, which are of order one to ten."""
        chex.assert_trees_all_equal(found.candidates, wanted.candidates)
        chex.assert_trees_all_close(found, wanted, rtol=2e-3, atol=2e-3)

    @parameterized.product(source_signal=SIGNALS, scale=(1e-3, 1e3))
    def test_unit_of_the_recording(self, source_signal, scale):
        config = with_values(system__source_signal=source_signal)
        measurement = measured(config)
        scaled = measurement._replace(
            snapshots=scale * measurement.snapshots,
            noise_variance=scale**2 * measurement.noise_variance,
        )
        self.assert_same(describe(config, scaled), describe(config, measurement))

    @parameterized.product(source_signal=SIGNALS, scale=(1e-2, 1e2))
    def test_scale_of_the_channel(self, source_signal, scale):
        """A channel twice as strong is equivalent to sources half as strong."""
        config = with_values(system__source_signal=source_signal)
        measurement = measured(config)
        scaled = measurement._replace(channel=scale * measurement.channel)
        self.assert_same(describe(config, scaled), describe(config, measurement))

    @parameterized.parameters(*SIGNALS)
    def test_absent_sources_change_nothing(self, source_signal):
        """Their coordinates have no effect, even equal to others."""
        config = with_values(system__source_signal=source_signal)
        wanted = describe(config, active=(1, 0, 1))
        for place in (POINTS[0], POINTS[2], [0.0, 0.0, 0.0]):
            points = np.stack([POINTS[0], place, POINTS[2]])
            chex.assert_trees_all_equal(describe(config, active=(1, 0, 1), points=points), wanted)

    def test_order_of_sources(self):
        order = np.array([2, 0, 1])
        wanted, found = describe(), describe(points=POINTS[order])
        both = np.append(order, SOURCES + np.arange(CANDIDATES))
        wanted = wanted._replace(
            source_features=wanted.source_features[:, order],
            overlaps=wanted.overlaps[:, both][:, :, both],
        )
        self.assert_same(found, wanted)


class CornersTest(parameterized.TestCase):
    """Every feature is finite for any fit and any data."""

    def assert_finite(self, config, measurement=None):
        for active in ((0, 0, 0), (1, 1, 1), (0, 1, 0)):
            chex.assert_tree_all_finite(describe(config, measurement, active))
        coinciding = describe(config, measurement, points=np.tile(POINTS[:1], (3, 1)))
        chex.assert_tree_all_finite(coinciding)

    @parameterized.named_parameters(
        ("spherical", {}),
        ("independent", {"system__source_signal": "independent"}),
        ("plane_waves", {"system__wavefront": "planar"}),
        ("a_line", {"system__element_positions": LINE}),
        # Three sources have more parameters than these samples.
        ("few_samples", {"system__num_antennas": 1, "system__num_snapshots": 4}),
    )
    def test_systems(self, values):
        self.assert_finite(with_values(**values))

    @parameterized.parameters(*SIGNALS)
    def test_zero_data(self, source_signal):
        config = with_values(system__source_signal=source_signal)
        measurement = measured(config)
        silent = measurement._replace(snapshots=0.0 * measurement.snapshots)
        self.assert_finite(config, silent)
        nothing = silent._replace(noise_variance=jnp.zeros(BATCH))
        self.assert_finite(config, nothing)

    @parameterized.parameters(*SIGNALS)
    def test_no_noise(self, source_signal):
        config = with_values(system__source_signal=source_signal)
        self.assert_finite(config, measured(config)._replace(noise_variance=jnp.zeros(BATCH)))

    def test_fewer_cells_than_candidates(self):
        """The grid of a small array is coarse."""
        config = with_values(
            system__rows=2, system__columns=2, system__num_snapshots=4, model__candidates=12
        )
        self.assert_finite(config)


class SearchContextTest(absltest.TestCase):
    def test_constants_of_a_configuration(self):
        """The same object is returned while tracing, without tracers."""
        outside, inside = pursuit_features.search_context(SMALL), []

        @jax.jit
        def traced(x):
            inside.append(pursuit_features.search_context(SMALL))
            return x * inside[0].grid.points

        chex.assert_shape(traced(1.0), outside.grid.points.shape)
        self.assertIs(inside[0], outside)

    def test_sizes(self):
        context = pursuit_features.search_context(SMALL)
        self.assertEqual((context.samples, context.amplitudes, context.candidates), (24, 1, 4))
        config = with_values(system__source_signal="independent")
        self.assertEqual(pursuit_features.search_context(config).amplitudes, 6)

    def test_step_is_zero_for_unresolved_coordinates(self):
        flat = pursuit_features.search_context(with_values(system__wavefront="planar"))
        self.assertEqual(float(flat.grid.unit[2]), np.inf)
        self.assertEqual(float(flat.step[2]), 0.0)
        chex.assert_trees_all_equal(flat.step[:2], flat.grid.unit[:2])


if __name__ == "__main__":
    absltest.main()
