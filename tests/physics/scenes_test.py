"""Drawn scenes, simulated snapshots and hardware impairments against NumPy."""

import dataclasses
import functools
import hashlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases import small
from cases.small import jit, with_values

from ris_jax import config as config_lib
from ris_jax.physics import arrays, codebooks, scenes

WAVELENGTH = 0.3
SMALL = small.configuration(small.SYSTEM, scene__max_sources=3)
# A separated pair, so that the signals are identifiable, and one padded source.
PAIR = scenes.Truth(
    azimuth=jnp.array([-0.6, 0.4, 0.0]),
    elevation=jnp.array([0.2, -0.3, 0.0]),
    source_range=jnp.array([1.0, 2.0, 10.0]),
    amplitude=jnp.array([1.0, 0.5, 0.0]),
    num_sources=jnp.array(2),
    snr_db=jnp.array(10.0),
)
NOISELESS = 200.0  # [dB]
DRAWS = 200


@functools.partial(jit, static_argnames="config")
def simulate_many(snr_db, config):
    """Simulate the pair of sources repeatedly, with new draws of all else."""

    def one(key):
        return scenes.simulate(key, PAIR._replace(snr_db=snr_db), config).measurement

    return jax.vmap(one)(jax.random.split(jax.random.key(0), DRAWS))


@functools.partial(jit, static_argnames="config")
def scenes_at(key, indices, config):
    return scenes.scenes_at(key, indices, config)


@functools.partial(jit, static_argnames="scene")
def sample_truths(scene):
    keys = jax.random.split(jax.random.key(0), 2000)
    return jax.vmap(lambda key: scenes.sample_truth(key, scene))(keys)


def steering_oracle(truth, positions):
    """Return A = [g_k a(p_k)] of one scene from geometry, float64, [N, K]."""
    azimuth, elevation, radius = (
        np.asarray(part, float)[:, None]
        for part in (truth.azimuth, truth.elevation, truth.source_range)
    )
    points = radius * np.hstack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    distance = np.linalg.norm(points[:, None] - positions[None], axis=-1)
    phase = -2 * np.pi / WAVELENGTH * (distance - radius)
    amplitude = np.asarray(truth.amplitude)[:, None] * radius / distance
    return (amplitude * np.exp(1j * phase)).T / len(positions) ** 0.5


def assert_same(found, expected):
    """Compare up to rounding, which depends on the compiled program."""
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=3e-6)


class TruthTest(parameterized.TestCase):
    def test_limits(self):
        scene = config_lib.SceneConfig(
            min_sources=2, max_sources=4, azimuth_max_deg=40.0, elevation_max_deg=10.0,
            range_min=1.0, range_max=3.0, snr_min_db=-2.0, snr_max_db=7.0)  # fmt: skip
        truth = jax.tree.map(np.asarray, sample_truths(scene))
        chex.assert_shape(truth.azimuth, (2000, 4))
        self.assertEqual(set(truth.num_sources), {2, 3, 4})
        active = np.arange(4) < truth.num_sources[:, None]
        chex.assert_trees_all_equal(np.asarray(scenes.active_sources(truth)), active.astype("f4"))
        for values, low, high in (
            (np.rad2deg(truth.azimuth[active]), -40.0, 40.0),
            (np.rad2deg(truth.elevation[active]), -10.0, 10.0),
            (truth.source_range[active], 1.0, 3.0),
            (truth.snr_db, -2.0, 7.0),
        ):
            margin = 0.01 * (high - low)  # such a gap in 2000 uniform draws has probability e^-20
            self.assertBetween(values.min(), low - 1e-4, low + margin)
            self.assertBetween(values.max(), high - margin, high + 1e-4)
            deviation = (high - low) / 12**0.5
            self.assertAlmostEqual(values.mean(), (low + high) / 2, delta=4 * deviation / 2000**0.5)

    def test_padding(self):
        truth = jax.tree.map(np.asarray, sample_truths(config_lib.SceneConfig()))
        padding = np.arange(5) >= truth.num_sources[:, None]
        self.assertGreater(padding.sum(), 0)
        self.assertEqual(np.abs(truth.amplitude[padding]).max(), 0.0)
        chex.assert_tree_all_finite(truth)
        system = dataclasses.replace(SMALL.system, wavefront="spherical_phase")  # norm 1
        matrix = scenes.steering_matrix(truth, arrays.element_positions(system), system)
        columns = np.asarray(matrix).swapaxes(1, 2)
        self.assertEqual(np.abs(columns[padding]).max(), 0.0)
        chex.assert_trees_all_close(
            np.linalg.norm(columns, axis=-1), truth.amplitude, rtol=1e-5, atol=1e-7
        )

    @parameterized.parameters("inverse_square", "none")
    def test_path_loss(self, path_loss):
        truth = jax.tree.map(np.asarray, sample_truths(config_lib.SceneConfig(path_loss=path_loss)))
        active = truth.amplitude > 0
        self.assertEqual(active.sum(), truth.num_sources.sum())
        power = truth.amplitude[active] ** 2
        expected = truth.source_range[active] ** -2 if path_loss == "inverse_square" else 1.0
        chex.assert_trees_all_close(power, np.broadcast_to(expected, power.shape), rtol=1e-5)


class SimulateTest(parameterized.TestCase):
    @parameterized.parameters(
        ("constant", {}),
        ("constant", {"system__centered": False}),
        ("independent", {"system__codebook": "random"}),
    )
    def test_snapshots_match_the_model(self, source_signal, system):
        """y_l = H diag(c_l) A s_l: least squares with the NumPy operator has no residual."""
        config = with_values(SMALL, system__source_signal=source_signal, **system)
        measured = jax.tree.map(np.asarray, simulate_many(NOISELESS, config))
        origin = 1.5 if config.system.centered else 2
        axis = (np.arange(4) - origin) * 0.15
        positions = np.array([(x, y, 0.0) for y in axis for x in axis])
        matrix = steering_oracle(PAIR, positions)[:, :2]
        for y, channel, codes, _ in zip(*measured, strict=True):
            blocks = np.array([channel @ np.diag(code) @ matrix for code in codes])  # [L, M, 2]
            if source_signal == "constant":
                signal = np.linalg.lstsq(blocks.reshape(-1, 2), y.ravel(), rcond=None)[0]
                chex.assert_trees_all_close(np.abs(signal), np.ones(2), atol=1e-3)
                signals = np.tile(signal, (6, 1))
            else:
                signals = np.array(
                    [np.linalg.lstsq(b, v, rcond=None)[0] for b, v in zip(blocks, y, strict=True)]
                )
            clean = np.einsum("lmk,lk->lm", blocks, signals)
            self.assertLess(np.linalg.norm(y - clean), 1e-4 * np.linalg.norm(y))

    @parameterized.parameters(-5.0, 0.0, 20.0)
    def test_snr(self, snr_db):
        """Noise power is as requested within four standard errors, 1 / sqrt(samples)."""
        clean = np.asarray(simulate_many(NOISELESS, SMALL).snapshots)
        noisy = simulate_many(snr_db, SMALL)
        asked = np.mean(np.abs(clean) ** 2, axis=(1, 2)) * 10 ** (-snr_db / 10)
        chex.assert_trees_all_close(noisy.noise_variance, asked, rtol=1e-4)
        noise = np.abs(np.asarray(noisy.snapshots) - clean) ** 2 / asked[:, None, None]
        self.assertAlmostEqual(noise.mean(), 1.0, delta=4 / noise.size**0.5)

    @parameterized.parameters("constant", "independent")
    def test_signals(self, source_signal):
        draw = jit(scenes.source_signals, static_argnums=(1, 2, 3))
        signals = np.asarray(draw(jax.random.key(0), 2000, 2, source_signal))
        chex.assert_shape(signals, (2000, 2))
        if source_signal == "constant":
            chex.assert_trees_all_equal(signals, np.tile(signals[:1], (2000, 1)))
            chex.assert_trees_all_close(np.abs(signals), np.ones((2000, 2)), atol=1e-6)
        else:
            tolerance = 4 / 2000**0.5
            covariance = signals.T @ signals.conj() / 2000
            chex.assert_trees_all_close(covariance, np.eye(2, dtype="c8"), atol=tolerance)

    def test_measurement_shapes(self):
        batch = jax.eval_shape(lambda: scenes.sample_scenes(jax.random.key(0), SMALL, 2))
        chex.assert_shape(batch.measurement.snapshots, (2, 6, 4))
        chex.assert_shape(batch.measurement.channel, (2, 4, 16))
        chex.assert_shape(batch.measurement.codes, (2, 6, 16))
        chex.assert_shape(batch.measurement.noise_variance, (2,))
        chex.assert_shape(batch.truth.azimuth, (2, 3))


class StaticPathTest(parameterized.TestCase):
    @parameterized.parameters(-10.0, 20.0)
    def test_one_vector_of_the_configured_power(self, power_db):
        without = config_lib.override(config_lib.Config(), {"scene.snr_min_db": 20.0})
        config = config_lib.override(without, {"scene.static_path_db": power_db})
        plain, found = (scenes.sample_scenes(jax.random.key(0), c, 3) for c in (without, config))
        chex.assert_trees_all_equal(plain.truth, found.truth)
        chex.assert_trees_all_close(plain.measurement[1:], found.measurement[1:], rtol=1e-5)
        path = np.asarray(found.measurement.snapshots - plain.measurement.snapshots)
        np.testing.assert_allclose(
            path, path[:, :1] * np.ones((16, 1)), atol=1e-4 * abs(path).max()
        )
        snr = 10 ** (np.asarray(plain.truth.snr_db) / 10)
        clean = np.asarray(plain.measurement.noise_variance) * snr
        expected = clean * 10 ** (power_db / 10)
        np.testing.assert_allclose(np.mean(np.abs(path) ** 2, (1, 2)), expected, rtol=1e-3)

    def test_needs_constant_signals(self):
        changes = {"scene.static_path_db": 0.0, "system.source_signal": "independent"}
        with self.assertRaisesRegex(config_lib.ConfigError, "scene.static_path_db: need null"):
            config_lib.override(config_lib.Config(), changes)


class ImpairmentsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"position_jitter": 0.0075},),
        ({"phase_error": 0.2},),
        ({"amplitude_error_db": 1.0},),
        ({"dead_fraction": 0.2},),
        ({"beta_min": 0.3},),
    )
    def test_only_the_snapshots_change(self, impairments):
        """Data given to the estimator are nominal; only the snapshots have the mismatch."""
        names = {f"impairments__{name}": value for name, value in impairments.items()}
        ideal = simulate_many(NOISELESS, SMALL)
        impaired = simulate_many(NOISELESS, with_values(SMALL, **names))
        chex.assert_trees_all_equal(ideal.channel, impaired.channel)
        chex.assert_trees_all_equal(ideal.codes, impaired.codes)
        chex.assert_trees_all_close(impaired.codes[0], codebooks.codebook(SMALL.system), atol=1e-6)
        change = jnp.linalg.norm(impaired.snapshots - ideal.snapshots)
        self.assertGreater(change / jnp.linalg.norm(ideal.snapshots), 0.03)

    def test_channel_error(self):
        """Only the channel estimate has an error, of the requested power."""
        ideal = simulate_many(NOISELESS, SMALL)
        impaired = simulate_many(NOISELESS, with_values(SMALL, impairments__channel_error=0.1))
        assert_same(ideal.snapshots, impaired.snapshots)
        chex.assert_trees_all_equal(ideal.codes, impaired.codes)
        error = np.abs(impaired.channel - ideal.channel) ** 2
        self.assertAlmostEqual(error.mean(), 0.1, delta=4 * 0.1 / error.size**0.5)

    def test_every_impairment_has_a_case(self):
        tested = {"position_jitter", "phase_error", "amplitude_error_db", "dead_fraction",
                  "beta_min", "channel_error"}  # fmt: skip
        shape = {"beta_phase", "beta_exponent"}  # of the curve that beta_min enables
        names = {field.name for field in dataclasses.fields(config_lib.ImpairmentConfig)}
        self.assertEqual(names, tested | shape | {"varied"})  # VariedImpairmentsTest


class VariedImpairmentsTest(parameterized.TestCase):
    """Severity of all impairments, drawn for every scene."""

    BAD = config_lib.ImpairmentConfig(
        phase_error=0.3, amplitude_error_db=2.0, dead_fraction=0.3, beta_min=0.2
    )

    def respond(self, severity, impairments=BAD):
        codes = codebooks.codebook(SMALL.system)
        key = jax.random.key(0)
        response = jit(codebooks.hardware_response, static_argnums=2)
        return np.asarray(response(key, codes, impairments, severity))

    def test_severity_of_zero_is_ideal_hardware(self):
        codes = np.asarray(codebooks.codebook(SMALL.system))
        chex.assert_trees_all_close(self.respond(0.0), codes, atol=1e-6)

    def test_severity_of_one_is_the_configured_hardware(self):
        whole = jit(codebooks.hardware_response, static_argnums=2)(
            jax.random.key(0), codebooks.codebook(SMALL.system), self.BAD
        )
        chex.assert_trees_all_close(self.respond(1.0), np.asarray(whole), rtol=1e-6)  # rounding

    @parameterized.parameters(0.25, 0.5)
    def test_severity_scales_the_impairments(self, severity):
        """Severity scales deviations, dead elements and losses."""
        less = config_lib.ImpairmentConfig(
            phase_error=0.3 * severity, amplitude_error_db=2.0 * severity,
            dead_fraction=0.3 * severity, beta_min=1.0 - 0.8 * severity)  # fmt: skip
        expected = self.respond(1.0, less)
        chex.assert_trees_all_close(self.respond(severity), expected, atol=1e-6)

    def test_severity_differs_between_scenes(self):
        """Channel errors have the configured relative power times severity squared."""
        values = {"impairments__channel_error": 0.1}
        ideal = simulate_many(NOISELESS, SMALL)
        varied = simulate_many(NOISELESS, with_values(SMALL, impairments__varied=True, **values))
        whole = simulate_many(NOISELESS, with_values(SMALL, **values))
        error, full = (
            np.linalg.norm(found.channel - ideal.channel, axis=(1, 2)) for found in (varied, whole)
        )
        severity = error / full
        self.assertLen(np.unique(severity), DRAWS)
        # Uniform from 0 to 1: a gap of 0.05 at an end of 200 draws has probability e^-10.
        self.assertBetween(severity.min(), 0.0, 0.05)
        self.assertBetween(severity.max(), 0.95, 1.0 + 1e-3)
        self.assertAlmostEqual(severity.mean(), 0.5, delta=4 * (1 / 12 / DRAWS) ** 0.5)
        assert_same(varied.snapshots, ideal.snapshots)

    def test_impairments_of_a_scene_share_a_severity(self):
        """The effect of the jitter grows with the channel error."""
        config = with_values(
            SMALL, impairments__varied=True, impairments__channel_error=0.1,
            impairments__position_jitter=0.0075)  # fmt: skip
        ideal, varied = simulate_many(NOISELESS, SMALL), simulate_many(NOISELESS, config)
        channel_error = np.linalg.norm(varied.channel - ideal.channel, axis=(1, 2))
        heard = np.linalg.norm(varied.snapshots - ideal.snapshots, axis=(1, 2)) / np.linalg.norm(
            ideal.snapshots, axis=(1, 2)
        )
        self.assertGreater(np.corrcoef(channel_error, heard)[0, 1], 0.8)

    def test_no_impairments_to_vary(self):
        varied = simulate_many(NOISELESS, with_values(SMALL, impairments__varied=True))
        chex.assert_trees_all_close(varied, simulate_many(NOISELESS, SMALL), rtol=1e-5, atol=1e-6)

    def test_severity_does_not_change_other_draws(self):
        """Varied scenes have the same draws, with scaled errors."""
        config = with_values(SMALL, impairments__channel_error=0.1)
        ideal = simulate_many(NOISELESS, SMALL)
        whole = simulate_many(NOISELESS, config)
        varied = simulate_many(NOISELESS, with_values(config, impairments__varied=True))
        assert_same(varied.snapshots, ideal.snapshots)
        share = np.asarray((varied.channel - ideal.channel) / (whole.channel - ideal.channel))
        severity = np.median(share.real, axis=(1, 2), keepdims=True)
        self.assertBetween(severity.min(), 0.0, 1.0)
        # Errors are differences of numbers of size one.
        error = np.abs(whole.channel - ideal.channel)
        difference = np.abs(share - severity) * error
        self.assertLess(difference.max(), 1e-5)

    def test_ideal_hardware_costs_no_draw(self):
        """A scene without impairments draws one block of random numbers."""

        def calls(config):
            jaxpr = jax.make_jaxpr(lambda key: scenes.simulate(key, PAIR, config))(
                jax.random.key(0)
            )
            return str(jaxpr).count("random_bits")

        self.assertEqual(calls(SMALL), 1)
        self.assertGreater(calls(with_values(SMALL, impairments__phase_error=0.1)), 1)


class StreamsTest(absltest.TestCase):
    def digests(self, stream):
        batch = scenes_at(scenes.stream_key(0, stream), jnp.arange(400), SMALL)
        leaves = [np.asarray(leaf) for leaf in (*batch.measurement, *batch.truth)]
        return [
            hashlib.sha256(b"".join(leaf[i].tobytes() for leaf in leaves)).hexdigest()
            for i in range(400)
        ]

    def test_splits_are_disjoint(self):
        """The reference's test scene 7 was its training scene 463."""
        train, validation, test = map(self.digests, ("train", "validation", "test"))
        self.assertLen({*train, *validation, *test}, 1200)
        self.assertEqual(self.digests("train"), train)

    def test_truths_are_disjoint(self):
        """Two of 1200 numbers of 23 bits are equal with probability 8 %, so pairs are compared."""
        streams = ("train", "validation", "test")
        truths = [
            scenes_at(scenes.stream_key(0, name), jnp.arange(400), SMALL).truth for name in streams
        ]
        places = [(truth.azimuth[:, 0], truth.elevation[:, 0]) for truth in truths]
        self.assertLen(np.unique(np.concatenate(places, axis=1), axis=1).T, 1200)

    def test_seeds_differ(self):
        first = scenes_at(scenes.stream_key(0, "train"), jnp.arange(400), SMALL).truth.azimuth
        second = scenes_at(scenes.stream_key(1, "train"), jnp.arange(400), SMALL).truth.azimuth
        self.assertFalse(jnp.any(first[:, 0] == second[:, 0]))

    def test_a_scene_does_not_depend_on_its_batch(self):
        key = scenes.stream_key(0, "train")
        indices = np.array([399, 0, 7, 50])
        whole = scenes_at(key, jnp.arange(400), SMALL)
        expected = jax.tree.map(lambda leaf: leaf[indices], whole)
        part = scenes_at(key, jnp.asarray(indices), SMALL)
        chex.assert_trees_all_equal(part.truth, expected.truth)
        # Only the rounding of products may depend on the batch size.
        chex.assert_trees_all_close(part.measurement, expected.measurement, rtol=1e-4, atol=1e-5)

    def test_sample_scenes_is_the_head_of_the_stream(self):
        key = scenes.stream_key(0, "train")
        head = jit(scenes.sample_scenes, static_argnums=(1, 2))(key, SMALL, 4)
        whole = scenes_at(key, jnp.arange(400), SMALL)
        expected = jax.tree.map(lambda leaf: leaf[:4], whole)
        chex.assert_trees_all_close(head, expected, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    absltest.main()
