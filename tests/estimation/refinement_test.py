"""Joint refinement and residuals without a source, against NumPy float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import likelihood, refinement, search_grid
from ris_jax.physics import arrays, scenes

SIGNALS = ("constant", "independent")
WAVELENGTH = 0.3
LENGTH = ANTENNAS = 8
SOURCES, BATCH = 3, 6
POSITIONS = np.asarray(arrays.planar_array(6, 6, 0.15), float)
ELEMENTS = len(POSITIONS)
REGION = search_grid.SearchRegion()
POINTS = np.array([[-0.5, 0.1, 0.9], [0.1, -0.3, 1.6], [0.6, 0.3, 0.4]])
# Compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


def steering(points):
    """r / |p - q| exp(-j k (|p - q| - r)) / sqrt(N), [K, N], in NumPy."""
    u, w, inverse_range = points.T
    inverse_range = np.maximum(inverse_range, 1e-6)  # of a plane wave
    unit = np.stack([u, w, np.sqrt(1 - u**2 - w**2)], axis=-1)
    places = unit / inverse_range[:, None]
    distance = np.linalg.norm(places[:, None] - POSITIONS, axis=-1)
    phase = -2 * np.pi / WAVELENGTH * (distance - 1 / inverse_range[:, None])
    return np.exp(1j * phase) / (distance * inverse_range[:, None]) / np.sqrt(ELEMENTS)


@functools.cache
def batch(source_signal, noise_variance=0.0, seed=0):
    """Simulate sources of unit power at `POINTS`, [B, ...] complex64."""
    random = np.random.default_rng(seed)
    channel = complex_normal(random, BATCH, ANTENNAS, ELEMENTS)
    codes = np.exp(0.25j * np.pi * random.integers(0, 8, (BATCH, LENGTH, ELEMENTS)))
    if source_signal == "constant":
        signals = np.exp(2j * np.pi * random.random((BATCH, 1, SOURCES)))
        signals = np.broadcast_to(signals, (BATCH, LENGTH, SOURCES))
    else:
        signals = complex_normal(random, BATCH, LENGTH, SOURCES)
    clean = (codes * (signals @ steering(POINTS))) @ channel.swapaxes(1, 2)
    noise = np.sqrt(noise_variance) * complex_normal(random, *clean.shape)
    return scenes.Measurement(
        *(np.asarray(part, "c8") for part in (clean + noise, channel, codes)), np.ones(BATCH, "f4")
    )


def groups(measurement, index, points, source_signal):
    """Return data [T, R] and images [T, R, K] of one scene, float64."""
    snapshots, channel, codes = (np.asarray(part[index], complex) for part in measurement[:3])
    basis = np.einsum("mn,ln,kn->lmk", channel, codes, steering(points))
    if source_signal == "constant":
        return snapshots.reshape(1, -1), basis.reshape(1, -1, len(points))
    return snapshots, basis


def least_squares(data, basis):
    """Return explained energy, residual [T, R] and amplitudes [T, K]."""
    fitted = [np.linalg.lstsq(b, y, rcond=None)[0] for y, b in zip(data, basis, strict=True)]
    explained = np.einsum("trk,tk->tr", basis, fitted)
    return np.sum(np.abs(explained) ** 2), data - explained, np.array(fitted)


def setting(source_signal):
    jet = functools.partial(
        arrays.steering_jet, positions=jnp.asarray(POSITIONS, "f4"), wavelength=WAVELENGTH
    )
    return refinement.RefinementProblem(jet, REGION.lower, REGION.upper)


def fits_of(measurement, starts, active, source_signal, iterations):
    def one(scene, start):
        observation = likelihood.observe(scene, source_signal)
        fit = refinement.refine(setting(source_signal), observation, start, active, iterations)
        return fit, observation

    return jax.vmap(one)(measurement, starts)


refine = jit(fits_of, static_argnames=("source_signal", "iterations"))


@functools.partial(jit, static_argnames="source_signal")
def backgrounds(measurement, active, new_points, source_signal):
    """Return backgrounds without each source and with all, and products of new images."""
    fits, observations = fits_of(
        measurement, jnp.tile(POINTS, (BATCH, 1, 1)), active, source_signal, iterations=0
    )

    def one(observation, fit, left_out):
        kept = jnp.arange(SOURCES) != left_out
        held = refinement.background(observation, fit, kept)
        vectors = setting(source_signal).jet(new_points)[:, 0]
        new = likelihood.images(observation, vectors)
        products = refinement.projected_products(held, new)
        return held, products, likelihood.against(held.images.left, held.residual)

    over_sources = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(over_sources, in_axes=(0, 0, None))(observations, fits, jnp.arange(-1, SOURCES))


@functools.partial(jit, static_argnames="iterations")
def integrate(measurement, noise_variance, iterations):
    fits, observations = fits_of(
        measurement, jnp.tile(POINTS, (BATCH, 1, 1)), jnp.ones(SOURCES), "independent", iterations=4
    )
    run = functools.partial(refinement.integrate_amplitudes, setting("independent"))
    return fits, jax.vmap(lambda o, f: run(o, f, noise_variance, iterations))(observations, fits)


@functools.partial(jit, static_argnames="source_signal")
def powers(measurement, active, noise_variance, source_signal):
    """Return powers of fits at the true positions."""
    fits, observations = fits_of(
        measurement, jnp.tile(POINTS, (BATCH, 1, 1)), active, source_signal, iterations=0
    )
    run = jax.vmap(refinement.signal_power, in_axes=(0, 0, None))
    return run(observations, fits, noise_variance)


class RefineTest(parameterized.TestCase):
    @parameterized.parameters(*SIGNALS)
    def test_no_iterations(self, source_signal):
        """Without iterations the fit is least squares at the starts."""
        measurement = batch(source_signal, 0.5)
        starts = np.tile(POINTS + 0.03, (BATCH, 1, 1)).astype("f4")
        fit, observation = refine(measurement, starts, np.ones(SOURCES, "f4"), source_signal, 0)
        chex.assert_trees_all_equal(np.asarray(fit.coordinates), starts)
        for index in range(BATCH):
            data, basis = groups(measurement, index, POINTS + 0.03, source_signal)
            value, residual, amplitudes = least_squares(data, basis)
            np.testing.assert_allclose(fit.local.value[index], value, rtol=1e-4)
            np.testing.assert_allclose(fit.local.amplitudes[index], amplitudes, atol=1e-3)
            if source_signal == "independent":
                np.testing.assert_allclose(fit.residual[index], residual, atol=2e-3)
            else:
                explained = observation.data[index] - fit.residual[index]
                back = np.einsum("mn,ln->lmn", measurement.channel[index], measurement.codes[index])
                back = (data - residual)[0] @ back.reshape(-1, ELEMENTS).conj()
                np.testing.assert_allclose(explained[0], back, atol=1e-4 * np.abs(back).max())

    @parameterized.parameters(*SIGNALS)
    def test_finds_the_truth(self, source_signal):
        """Refinement from a fifth of a beam away, without noise, in any order."""
        measurement, random = batch(source_signal), np.random.default_rng(1)
        starts = POINTS + random.uniform(-0.06, 0.06, (BATCH, SOURCES, 3))
        starts = np.clip(starts, REGION.lower, REGION.upper).astype("f4")
        order = np.array([2, 0, 1])
        fit, observation = refine(
            measurement, starts[:, order], np.ones(SOURCES, "f4"), source_signal, 12
        )
        wanted = np.broadcast_to(POINTS[order], starts.shape)
        np.testing.assert_allclose(fit.coordinates, wanted, atol=2e-3)
        np.testing.assert_allclose(fit.local.value, observation.energy, rtol=1e-4)

    @parameterized.parameters(*SIGNALS)
    def test_absent_sources_are_kept(self, source_signal):
        measurement, active = batch(source_signal, 0.5), np.array([1.0, 0.0, 1.0], "f4")
        starts = np.tile(POINTS + 0.03, (BATCH, 1, 1)).astype("f4")
        fit, _ = refine(measurement, starts, active, source_signal, 12)
        np.testing.assert_array_equal(fit.coordinates[:, 1], starts[:, 1])
        np.testing.assert_array_equal(fit.local.amplitudes[..., 1], 0.0)
        for part in fit.images:
            np.testing.assert_array_equal(part[:, :, 1], 0.0)
        start_fit, _ = refine(measurement, starts, active, source_signal, 0)
        self.assertTrue(np.all(fit.local.value > start_fit.local.value))

    def test_limits(self):
        """Noise moves sources at the edge beyond the region."""
        measurement = batch("constant", 5.0)
        starts = np.tile([[0.89, 0.0, 0.0], [0.0, 0.53, 2.2], [-0.9, -0.54, 0.0]], (BATCH, 1, 1))
        fit, _ = refine(measurement, starts.astype("f4"), np.ones(SOURCES, "f4"), "constant", 12)
        self.assertTrue(np.all(fit.coordinates >= REGION.lower))
        self.assertTrue(np.all(fit.coordinates <= REGION.upper))
        chex.assert_tree_all_finite(fit)

    @parameterized.parameters(*SIGNALS)
    def test_no_sources(self, source_signal):
        """The result equals refinement with all slots empty."""
        measurement = batch(source_signal, 0.5)
        starts = np.zeros((BATCH, SOURCES, 3), "f4")
        wanted, observation = refine(measurement, starts, np.zeros(SOURCES, "f4"), source_signal, 3)
        found = jit(jax.vmap(lambda scene: refinement.no_sources(scene, SOURCES)))(observation)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
        chex.assert_trees_all_close(found, wanted, atol=0.0)


class BackgroundTest(parameterized.TestCase):
    @parameterized.product(source_signal=SIGNALS, absent=(None, 0))
    def test_is_least_squares_without_the_source(self, source_signal, absent):
        measurement = batch(source_signal, 0.5)
        active = np.ones(SOURCES, "f4")
        if absent is not None:
            active[absent] = 0.0
        new = np.array([[0.3, 0.2, 0.5], [-0.2, 0.0, 1.0]])
        held, (products, matched), across = backgrounds(
            measurement, active, new.astype("f4"), source_signal
        )
        chex.assert_shape(held.value, (BATCH, SOURCES + 1))
        scale = float(np.abs(held.residual).max())
        np.testing.assert_allclose(across, np.zeros(across.shape), atol=2e-5 * scale * ELEMENTS)
        for index, column in np.ndindex(BATCH, SOURCES + 1):
            left_out = column - 1
            kept = [k for k in range(SOURCES) if k not in (absent, left_out)]
            data, basis = groups(measurement, index, POINTS[kept], source_signal)
            value, residual, _ = least_squares(data, basis)
            np.testing.assert_allclose(held.value[index, column], value, rtol=1e-4)
            if source_signal == "independent":
                np.testing.assert_allclose(held.residual[index, column], residual, atol=2e-3)
            fresh = groups(measurement, index, new, source_signal)[1]
            over = np.array([b @ np.linalg.lstsq(b, f, rcond=None)[0]
                             for b, f in zip(basis, fresh, strict=True)])  # fmt: skip
            gram = np.einsum("trp,trq->tpq", fresh.conj(), fresh - over)
            np.testing.assert_allclose(
                products[index, column], gram, atol=1e-4 * np.abs(gram).max()
            )
            wanted = np.einsum("trp,tr->tp", fresh.conj(), residual)
            np.testing.assert_allclose(
                matched[index, column], wanted, atol=1e-4 * np.abs(wanted).max()
            )

    @parameterized.parameters(*SIGNALS)
    def test_inverse_gram(self, source_signal):
        measurement = batch(source_signal, 0.5)
        held = backgrounds(
            measurement, np.ones(SOURCES, "f4"), POINTS[:1].astype("f4"), source_signal
        )[0]
        for index in range(BATCH):
            basis = groups(measurement, index, POINTS, source_signal)[1]
            wanted = np.linalg.inv(np.einsum("trk,trl->tkl", basis.conj(), basis))
            np.testing.assert_allclose(
                held.inverse_gram[index, 0], wanted, atol=1e-4 * np.abs(wanted).max()
            )


class SignalPowerTest(parameterized.TestCase):
    @parameterized.parameters(*SIGNALS)
    def test_fitted_less_noise(self, source_signal):
        variance, active = 2.0, np.array([1.0, 0.0, 1.0], "f4")
        measurement = batch(source_signal, variance)
        found = powers(measurement, active, jnp.float32(variance), source_signal)
        floored = powers(measurement, active, jnp.float32(1e6), source_signal)
        np.testing.assert_array_equal(found[:, 1], 0.0)
        for index in range(BATCH):
            data, basis = groups(measurement, index, POINTS[active > 0], source_signal)
            raw = np.mean(np.abs(least_squares(data, basis)[2]) ** 2, axis=0)
            inverse = np.linalg.inv(np.einsum("trk,trl->tkl", basis.conj(), basis))
            excess = variance * np.mean(np.einsum("tkk->tk", inverse).real, axis=0)
            wanted = np.maximum(raw - excess, 0.1 * raw)
            np.testing.assert_allclose(found[index, active > 0], wanted, rtol=2e-3)
            np.testing.assert_allclose(floored[index, active > 0], 0.1 * raw, rtol=2e-3)

    def test_unbiased(self):
        """Noise adds at least a tenth to the fitted power of unit sources."""
        variance, seeds = 6.0, 200
        found = [
            powers(
                batch("constant", variance, seed),
                np.ones(SOURCES, "f4"),
                jnp.float32(variance),
                "constant",
            )
            for seed in range(seeds)
        ]
        found = np.concatenate(found).reshape(-1, SOURCES)
        error = np.std(found, axis=0) / np.sqrt(len(found))
        np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - 1.0), 4 * error)
        np.testing.assert_array_less(4 * error, 0.09)  # so that the noise is visible


class IntegrateAmplitudesTest(absltest.TestCase):
    def test_maximum_of_the_gaussian_likelihood(self):
        """With fixed powers and noise variance, no step from the result raises the likelihood."""
        variance = 2.0
        measurement = batch("independent", variance)
        fitted, found = integrate(measurement, jnp.float32(variance), 25)
        chex.assert_tree_all_finite(found)
        self.assertGreater(np.abs(found.coordinates - fitted.coordinates).max(), 1e-3)
        for index in range(BATCH):
            start = np.asarray(fitted.coordinates[index], float)
            data, basis = groups(measurement, index, start, "independent")
            amplitudes = least_squares(data, basis)[2]
            inverse = np.linalg.inv(np.einsum("trk,trl->tkl", basis.conj(), basis))
            raw = np.mean(np.abs(amplitudes) ** 2, axis=0)
            excess = variance * np.mean(np.einsum("tkk->tk", inverse).real, axis=0)
            power = np.maximum(raw - excess, 0.1 * raw)

            def score(points, index=index, power=power):
                total = 0.0
                for y, b in zip(*groups(measurement, index, points, "independent"), strict=True):
                    covariance = (b * power) @ b.conj().T + variance * np.eye(len(y))
                    total -= np.linalg.slogdet(covariance)[1]
                    total -= (y.conj() @ np.linalg.solve(covariance, y)).real
                return total

            end = np.asarray(found.coordinates[index], float)
            best = score(end)
            self.assertGreaterEqual(best, score(start))
            for axis, source, sign in np.ndindex(3, SOURCES, 2):
                moved = end.copy()
                moved[source, axis] += (2 * sign - 1) * (0.02 if axis < 2 else 0.05)
                if REGION.lower[axis] < moved[source, axis] < REGION.upper[axis]:
                    self.assertLess(score(moved), best + 1e-3)


if __name__ == "__main__":
    absltest.main()
