"""Proposals for another source: position and explained energy by least squares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import candidate_search, likelihood, refinement, search_grid, source_number
from ris_jax.physics import arrays, scenes

SIGNALS = ("constant", "independent")
WAVELENGTH = 0.3
LENGTH = ANTENNAS = 8
SOURCES, BATCH = 3, 8
POSITIONS = np.asarray(arrays.planar_array(6, 6, 0.15), float)
ELEMENTS = len(POSITIONS)
REGION, GRID = search_grid.SearchRegion(), (14, 8, 5)
# Compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


def steering(points):
    """r / |p - q| exp(-j k (|p - q| - r)) / sqrt(N), [..., N], in NumPy."""
    u, w, inverse_range = np.moveaxis(points, -1, 0)
    inverse_range = np.maximum(inverse_range, 1e-6)  # of a plane wave
    square = u**2 + w**2  # below the horizon: just above it
    shrink = np.sqrt(np.minimum(1.0, (1.0 - 1e-6) / np.maximum(square, 1e-6)))
    u, w = u * shrink, w * shrink
    unit = np.stack([u, w, np.sqrt(1 - u**2 - w**2)], axis=-1)
    places = unit / inverse_range[..., None]
    distance = np.linalg.norm(places[..., None, :] - POSITIONS, axis=-1)
    phase = -2 * np.pi / WAVELENGTH * (distance - 1 / inverse_range[..., None])
    return np.exp(1j * phase) / (distance * inverse_range[..., None]) / np.sqrt(ELEMENTS)


def observe(points, source_signal, seed=0, noise_variance=0.0):
    """Simulate sources of unit power at points [B, K, 3]; complex64."""
    random = np.random.default_rng(seed)
    count = points.shape[1]
    channel = complex_normal(random, BATCH, ANTENNAS, ELEMENTS)
    codes = np.exp(0.25j * np.pi * random.integers(0, 8, (BATCH, LENGTH, ELEMENTS)))
    signals = complex_normal(random, BATCH, LENGTH, count)
    if source_signal == "constant":
        signals = np.exp(2j * np.pi * random.random((BATCH, 1, count))) * np.ones((1, LENGTH, 1))
    clean = (codes * (signals @ steering(points))) @ channel.swapaxes(1, 2)
    noise = np.sqrt(noise_variance) * complex_normal(random, *clean.shape)
    return scenes.Measurement(
        *(np.asarray(part, "c8") for part in (clean + noise, channel, codes)), np.ones(BATCH, "f4")
    )


def draw(seed):
    """Draw three positions at least a beam apart, in three thirds of the view, [B, 3, 3]."""
    random = np.random.default_rng(seed)
    third = np.argsort(random.random((BATCH, 3)), axis=1) - 1
    u = 0.55 * third + random.uniform(-0.1, 0.1, (BATCH, 3))
    w, inverse_range = random.uniform(-0.4, 0.4, (BATCH, 3)), random.uniform(0.3, 1.8, (BATCH, 3))
    return np.stack([u, w, inverse_range], axis=-1)


def explained(measurement, index, points, source_signal):
    """Return the energy that least squares explains by sources at points [K, 3]."""
    snapshots, channel, codes = (np.asarray(part[index], complex) for part in measurement[:3])
    basis = np.einsum("mn,ln,kn->lmk", channel, codes, steering(np.asarray(points, float)))
    if source_signal == "constant":
        snapshots, basis = snapshots.reshape(1, -1), basis.reshape(1, -1, len(points))
    return sum(
        np.linalg.norm(b @ np.linalg.lstsq(b, y, rcond=None)[0]) ** 2
        for y, b in zip(snapshots, basis, strict=True)
    )


@functools.cache
def metric_unit():
    points = jnp.asarray(search_grid.grid_points(REGION, (8, 6, 4)))
    jets = jax.jit(jet)(points)
    metric = jax.jit(source_number.metric_tensor)(jets)
    return 1 / np.sqrt(np.asarray(metric).mean(axis=0).diagonal())


def jet(points):
    return arrays.steering_jet(points, jnp.asarray(POSITIONS, "f4"), wavelength=WAVELENGTH)


@functools.partial(jit, static_argnames="source_signal")
def propose(measurement, held_points, active, place, unit, source_signal):
    """Return three proposals next to fitted sources [B, 3, 3], and the value of the fit."""
    setting = refinement.RefinementProblem(jet, REGION.lower, REGION.upper)
    space = search_grid.search_space(REGION, GRID, "spherical")
    positions = jnp.asarray(POSITIONS, "f4")
    grid = candidate_search.grid_of(
        space, unit, positions, wavelength=WAVELENGTH, wavefront="spherical"
    )

    def one(scene, held_points, active, place):
        observation = likelihood.observe(scene, source_signal)
        fit = refinement.refine(setting, observation, held_points, active, 0)
        held = refinement.background(observation, fit)
        fields = likelihood.matched_fields(observation, held.residual)
        points = candidate_search.find_peaks(grid, fields[None], 6)[0]
        propose = functools.partial(
            candidate_search.propose_source, setting, grid, observation, held
        )
        source, elsewhere = propose(jnp.full(3, jnp.inf), points), propose(place, points)
        pair = candidate_search.propose_pair(setting, grid, observation, held, place)
        return source, elsewhere, pair, held.value

    return jax.vmap(one)(measurement, held_points, active, place)


def run(measurement, held_points, place, source_signal):
    """Run with fitted sources at points [B, K, 3]."""
    count = held_points.shape[1]
    padded = np.concatenate([held_points, np.zeros((BATCH, SOURCES - count, 3))], axis=1)
    active = np.tile(np.arange(SOURCES) < count, (BATCH, 1))
    result = propose(
        measurement, *(np.asarray(part, "f4") for part in (padded, active, place, metric_unit())),
        source_signal,
    )  # fmt: skip
    return jax.tree.map(np.asarray, result)


class SourceTest(parameterized.TestCase):
    @parameterized.product(source_signal=SIGNALS, held=(0, 1, 2))
    def test_finds_the_missing_source(self, source_signal, held):
        """Without noise, the error is at most a fifth of a unit."""
        places = draw(seed=held)[:, : held + 1]
        measurement = observe(places, source_signal)
        source, _, _, _ = run(measurement, places[:, :held], places[:, 0], source_signal)
        offset = (source.coordinates - places[:, held]) / metric_unit()
        self.assertLess(np.linalg.norm(offset, axis=-1).max(), 0.2)

    def test_between_the_points_of_the_grid(self):
        """One step reduces the distance to the source ten times."""
        places = draw(seed=8)[:, :1]
        found = run(observe(places, "constant"), places[:, :0], places[:, 0], "constant")
        points = np.asarray(search_grid.grid_points(REGION, GRID))
        apart = (points - places) / metric_unit()
        nearest = np.linalg.norm(apart, axis=-1).min(axis=1)
        offset = (found[0].coordinates - places[:, 0]) / metric_unit()
        self.assertLess(np.mean(np.linalg.norm(offset, axis=-1)), 0.1 * np.mean(nearest))

    @parameterized.parameters(*SIGNALS)
    def test_gain(self, source_signal):
        """With noise, the gain is the increase in explained energy."""
        places = draw(seed=3)[:, :2]
        measurement = observe(places, source_signal, noise_variance=0.5)
        source, _, _, _ = run(measurement, places[:, :1], places[:, 0], source_signal)
        for index in range(BATCH):
            with_it = np.stack([places[index, 0], source.coordinates[index]])
            gain = explained(measurement, index, with_it, source_signal) - explained(
                measurement, index, places[index, :1], source_signal
            )
            np.testing.assert_allclose(source.gain[index], gain, rtol=2e-3)
        self.assertTrue(np.all(source.coordinates >= REGION.lower))
        self.assertTrue(np.all(source.coordinates <= REGION.upper))


class ElsewhereTest(parameterized.TestCase):
    @parameterized.parameters(*SIGNALS)
    def test_another_place(self, source_signal):
        """The source is at the excluded position, so the next best is proposed."""
        places = draw(seed=4)[:, :2]
        places[:, 1, 0] = np.clip(places[:, 1, 0], -0.6, 0.6)
        measurement = observe(places, source_signal, noise_variance=0.1)
        _, elsewhere, _, _ = run(measurement, places[:, :1], places[:, 1], source_signal)
        distance = np.linalg.norm((elsewhere.coordinates - places[:, 1]) / metric_unit(), axis=-1)
        self.assertGreater(distance.min(), 1.5)
        for index in range(BATCH):
            both = np.stack([places[index, 0], elsewhere.coordinates[index]])
            gain = explained(measurement, index, both, source_signal) - explained(
                measurement, index, places[index, :1], source_signal
            )
            np.testing.assert_allclose(elsewhere.gain[index], gain, rtol=2e-3)

    @parameterized.parameters(*SIGNALS)
    def test_finds_the_other_source(self, source_signal):
        """The error is below 1.5 units, about the size of a cell."""
        places = draw(seed=5)[:, :2]
        measurement = observe(places, source_signal)
        wrong = draw(seed=5)[:, 2]
        _, elsewhere, _, _ = run(measurement, places[:, :1], wrong, source_signal)
        offset = (elsewhere.coordinates - places[:, 1]) / metric_unit()
        self.assertLess(np.linalg.norm(offset, axis=-1).max(), 1.5)


class PairTest(parameterized.TestCase):
    @parameterized.product(source_signal=SIGNALS, held=(0, 1))
    def test_two_sources_nearer_than_a_beam(self, source_signal, held):
        """A pair explains more than the best single source; the gain is that of least squares."""
        middle = draw(seed=6)[:, 0]
        middle[:, 0], middle[:, 1] = 0.3 * middle[:, 0], 0.3 * middle[:, 1]
        offset = 0.6 * metric_unit() * np.array([1.0, 0.0, 0.0])  # half a beam is about 1.4 units
        far = np.array([0.75, 0.3, 0.8])
        places = np.stack([middle - offset, middle + offset, np.tile(far, (BATCH, 1))], axis=1)
        measurement = observe(places[:, : 2 + held], source_signal, noise_variance=0.01)
        source, _, pair, _ = run(measurement, places[:, 2 : 2 + held], middle, source_signal)
        self.assertTrue(np.all(pair.gain > source.gain))
        for index in range(BATCH):
            others = places[index, 2 : 2 + held]
            both = np.concatenate([others, pair.coordinates[index]])
            gain = explained(measurement, index, both, source_signal)
            if held:
                gain -= explained(measurement, index, others, source_signal)
            np.testing.assert_allclose(pair.gain[index], gain, rtol=5e-3)

    def test_stays_within_the_limits(self):
        places = draw(seed=7)[:, :1]
        corner = np.tile(REGION.upper * [0.9, 0.99, 1.0], (BATCH, 1))
        _, _, pair, _ = run(observe(places, "constant"), places[:, :0], corner, "constant")
        self.assertTrue(np.all(pair.coordinates >= REGION.lower))
        self.assertTrue(np.all(pair.coordinates <= REGION.upper))
        self.assertTrue(np.all(np.isfinite(pair.gain)))


class ReceivedPowerTest(parameterized.TestCase):
    """Few samples of constant signals: a snapshot of four antennas."""

    def received(self, antennas, source_signal="constant", length=1):
        """Return channel, grid and power of two scenes."""
        random = np.random.default_rng(5)
        channel = complex_normal(random, 2, antennas, ELEMENTS).astype("c8")
        scene = scenes.Measurement(
            np.zeros((2, length, antennas), "c8"), channel,
            np.ones((2, length, ELEMENTS), "c8"), np.ones(2),
        )  # fmt: skip
        space = search_grid.search_space(REGION, GRID, "spherical")
        grid = candidate_search.grid_of(
            space, jnp.asarray(metric_unit(), "f4"), jnp.asarray(POSITIONS, "f4"),
            wavelength=WAVELENGTH, wavefront="spherical",
        )  # fmt: skip
        observed = likelihood.observe_batch(scene, source_signal)
        power = candidate_search.received_power(grid, observed.operator, observed)
        return channel, grid, power

    def test_is_that_of_unit_vectors(self):
        channel, grid, power = self.received(4)
        vectors = steering(np.asarray(grid.points, float))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        expected = np.sum(np.abs(channel @ vectors.T) ** 2, axis=1)
        visible = np.sum(np.asarray(grid.points)[:, :2] ** 2, axis=1) < 1
        np.testing.assert_allclose(power[:, visible], expected[:, visible], rtol=1e-3)

    def test_source_in_a_weak_direction_is_the_highest_peak(self):
        """Without noise, no other point explains as much energy (Cauchy-Schwarz)."""
        channel, grid, power = self.received(4)
        shape = np.array(grid.shape)
        cells = np.stack(np.meshgrid(*(np.arange(1, n - 1) for n in shape), indexing="ij"), -1)
        cells = np.ravel_multi_index(cells.reshape(-1, 3).T, grid.shape)
        cells = cells[np.asarray(power)[0, cells] < 0.6 * np.median(power[0])]
        vectors = np.asarray(grid.conjugates).conj()[cells]
        fields = (vectors @ channel[0].T @ channel[0].conj())[:, None]
        find = jax.jit(functools.partial(candidate_search.find_peaks, grid, count=1))
        peaks = find(fields, power=power[:1])[:, 0]
        size = (REGION.upper - REGION.lower) / shape
        apart = np.abs((peaks - grid.points[cells]) / size)
        self.assertGreater(len(cells), 20)
        self.assertLess(np.max(apart), 0.51)  # interpolated between cells
        others = np.abs((find(fields)[:, 0] - grid.points[cells]) / size).max(axis=1)
        self.assertGreater(np.mean(others > 1), 0.3)

    @parameterized.parameters((40, "constant", 1), (33, "constant", 1), (4, "independent", 3))
    def test_is_not_needed(self, *scenes):
        self.assertIsNone(self.received(*scenes)[2])


if __name__ == "__main__":
    absltest.main()
