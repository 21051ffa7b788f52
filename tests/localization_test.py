"""`localize`: options, chunks and scale of every estimator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.estimation import batches, maximum_likelihood
from ris_jax.estimation.baselines import catalogue, names
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.physics import arrays, scenes

SCENES = 5
# Errors are at least half a cell, also after smoothing over sub-surfaces.
COARSE = ("modified_music", "orthogonal_matching_pursuit", "sparse_bayesian_learning")


def make_config(source_signal="constant"):
    return config_lib.override(
        config_lib.Config(),
        {
            "system.rows": 6,
            "system.columns": 6,
            "system.num_antennas": 8,
            "system.num_snapshots": 8,
            "system.source_signal": source_signal,
            "scene.max_sources": 1,
            "scene.range_min": 1.0,
            "scene.range_max": 2.0,
            "scene.snr_min_db": 40.0,
            "scene.snr_max_db": 40.0,
        },
    )


@functools.cache
def make_scenes(source_signal="constant"):
    config = make_config(source_signal)
    return jax.jit(lambda key: scenes.sample_scenes(key, config, SCENES))(jax.random.key(0))


POSITIONS = np.asarray(arrays.element_positions(make_config().system))


def fake_likelihood(calls, sources=2):
    """Replace maximum likelihood: powers follow the data, counts the arguments."""

    def maximum_likelihood(measurement, positions, **options):
        calls.append(options)
        batch = measurement.snapshots.shape[0]
        count = options["num_sources"]
        count = jnp.full(batch, sources if count is None else count, int)
        noise = jnp.mean(jnp.abs(measurement.snapshots) ** 2, axis=(1, 2))
        power = noise / jnp.mean(jnp.abs(measurement.channel) ** 2, axis=(1, 2))
        places = jnp.zeros((batch, options["max_sources"]))
        return Estimate(
            places,
            places,
            places + 1.0,
            places + power[:, None],
            count,
            jnp.zeros((*places.shape, 3, 3)),
            noise,
        )

    return maximum_likelihood


def options(**changes):
    """Return options without the check of the model, which explains every poor fit at length."""
    return {"wavelength": 0.3, "max_sources": 2, "check": False} | changes


class Case(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.calls = []
        self.enterContext(
            absltest.mock.patch.object(
                maximum_likelihood, "maximum_likelihood", fake_likelihood(self.calls), create=True
            )
        )


class FlagsTest(Case):
    def test_eager_traced_and_in_chunks(self):
        """Inside `jax.jit` only the flags differ, because nothing can be checked."""
        measurement = make_scenes().measurement
        given = options(check=True)
        localize = functools.partial(localization.localize, positions=POSITIONS, **given)
        eager, traced = localize(measurement), jax.jit(localize)(measurement)
        self.assertEqual(traced.flags.tolist(), [Flag.NOT_CHECKED] * SCENES)
        self.assertEqual(eager.flags.shape, (SCENES,))
        self.assertFalse(np.any(eager.flags & Flag.NOT_CHECKED))
        np.testing.assert_array_equal(eager.num_sources, traced.num_sources)
        chunks = localization.localize_in_chunks(
            jax.device_get(measurement), POSITIONS, chunk_size=2, **given
        )
        # Causes follow from all scenes of a call, flags from one scene.
        doubts = Flag.UNITS - 1
        np.testing.assert_array_equal(chunks.flags & doubts, eager.flags & doubts)

    def test_without_a_check(self):
        found = localization.localize(make_scenes().measurement, POSITIONS, **options())
        self.assertEqual(found.flags.tolist(), [Flag.NOT_CHECKED] * SCENES)

    @parameterized.parameters(
        ({"num_sources": None, "max_sources": 8}, "max_sources: expected less than M=8 antennas"),
        ({"num_sources": 8, "max_sources": 9}, "num_sources: expected less than M=8 antennas"),
    )
    def test_independent_signals_need_more_antennas_than_sources(self, changes, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            localization.localize(
                make_scenes("independent").measurement,
                POSITIONS,
                wavelength=0.3,
                source_signal="independent",
                **changes,
            )
        self.assertEmpty(self.calls)


class OptionsTest(Case):
    @parameterized.parameters(
        ({"estimator": "esprit"}, "estimator: need one of auto, maximum_likelihood, .*'esprit'"),
        ({"max_sources": 0}, "max_sources: need 1 or more; got 0"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate: need 0 < value < 1; got 0.0"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate"),
        ({"false_alarm_rate": float("nan")}, "false_alarm_rate"),
        ({"num_sources": 3}, "num_sources: need 0 to max_sources=2; got 3"),
        ({"num_sources": -1}, "num_sources: .*got -1"),
        ({"num_sources": np.array([1, 3])}, "num_sources: .*got '1 to 3'"),
        ({"num_sources": 1.0}, "num_sources: need integers"),
        ({"num_sources": np.array([1, 2])}, r"num_sources: need one number or \[5\]"),
        ({"max_sources": 36}, r"max_sources: need less than min\(N, L M\) = 36; got 36"),
        ({"wavelength": 0.0}, "wavelength: need a length above zero; got 0.0"),
    )
    def test_refuses(self, changes, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            localization.localize(make_scenes().measurement, POSITIONS, **options(**changes))
        self.assertEmpty(self.calls)

    @parameterized.parameters("auto", "maximum_likelihood")
    def test_likelihood_gets_all_options(self, name):
        given = options(
            wavefront="fresnel", source_signal="independent", num_sources=1, false_alarm_rate=0.1
        )
        localization.localize(make_scenes().measurement, POSITIONS, estimator=name, **given)
        (call,) = self.calls
        del given["check"]  # after the estimate
        counts = given.pop("num_sources") * (np.arange(8) < SCENES)  # the batch is filled up to 8
        np.testing.assert_array_equal(call["num_sources"], counts)
        self.assertEqual({name: call[name] for name in given}, given)
        self.assertEqual(call["region"].u_max, 0.9)

    @parameterized.parameters("music", "mvdr")
    def test_plane_waves_have_no_range(self, name):
        """For maximum likelihood see maximum_likelihood_test, NoiselessTest."""
        measurement = make_scenes().measurement
        found = localization.localize(
            measurement, POSITIONS, estimator=name, **options(wavefront="planar", num_sources=1)
        )
        np.testing.assert_array_equal(found.num_sources, np.ones(SCENES))
        np.testing.assert_array_equal(found.source_range, np.full((SCENES, 2), np.inf))


class SubspaceTest(Case):
    @parameterized.parameters(
        ("music", "constant"),
        ("mvdr", "independent"),
        ("orthogonal_matching_pursuit", "constant"),
        ("sparse_bayesian_learning", "constant"),
    )
    def test_finds_one_source(self, name, source_signal):
        self.check_one_source(name, source_signal)

    @pytest.mark.full
    def test_modified_music_finds_one_source(self):
        self.check_one_source("modified_music", "constant")

    def check_one_source(self, name, source_signal):
        scene = make_scenes(source_signal)
        found = localization.localize(
            scene.measurement,
            POSITIONS,
            estimator=name,
            **options(num_sources=1, source_signal=source_signal),
        )
        self.assertEmpty(self.calls)
        np.testing.assert_array_equal(found.num_sources, np.ones(SCENES))
        # Independent signals: each snapshot measures 8 of the 36 dimensions of its field.
        tolerance = 0.02 if source_signal == "constant" else 0.3
        if name in COARSE:
            tolerance = 0.05
        for field in ("azimuth", "elevation"):
            error = getattr(found, field)[:, 0] - getattr(scene.truth, field)[:, 0]
            self.assertLess(np.median(np.abs(error)), tolerance)
        self.assertTrue(np.all(np.isinf(np.diagonal(found.covariance, axis1=2, axis2=3))))
        noise = scene.measurement.noise_variance
        np.testing.assert_allclose(found.noise_variance, noise, rtol=1e-5)
        # The power of the other estimators is sensitive to errors of a steering vector.
        rtol = {"music": 0.1, "modified_music": 0.2}.get(name)
        if rtol is not None:
            power = np.square(scene.truth.amplitude[:, 0])
            np.testing.assert_allclose(found.power[:, 0], power, rtol=rtol)

    def test_count_from_the_likelihood(self):
        found = localization.localize(
            make_scenes().measurement, POSITIONS, estimator="music", **options()
        )
        self.assertLen(self.calls, 1)
        self.assertTrue(np.all(np.isin(found.num_sources, (1, 2))))

    def test_unknown_noise_from_the_likelihood(self):
        measurement = make_scenes().measurement
        unknown = measurement._replace(noise_variance=np.full(SCENES, np.nan, np.float32))
        found = localization.localize(
            unknown, POSITIONS, estimator="music", **options(num_sources=1)
        )
        self.assertLen(self.calls, 1)
        np.testing.assert_array_equal(found.num_sources, np.ones(SCENES))
        power = np.mean(np.abs(measurement.snapshots) ** 2, axis=(1, 2))
        np.testing.assert_allclose(found.noise_variance, power, rtol=1e-4)


class ScaleTest(Case):
    @parameterized.parameters((1e-12, 1.0), (1.0, 1e-15), (1e12, 1e-8))
    def test_units_of_snapshots_and_channel(self, snapshots, channel):
        """Power scales with the square of their ratio, noise with the square of the unit."""
        measurement = make_scenes().measurement
        scaled = measurement._replace(
            snapshots=measurement.snapshots * snapshots, channel=measurement.channel * channel
        )
        before, after = (
            localization.localize(m, POSITIONS, **options()) for m in (measurement, scaled)
        )
        with np.errstate(all="raise"):
            factor = np.float64(snapshots / channel) ** 2
            np.testing.assert_allclose(after.power, before.power * factor, rtol=1e-4)
            noise = np.float64(before.noise_variance) * snapshots**2
            np.testing.assert_allclose(after.noise_variance, noise, rtol=1e-4)

    def test_zero_snapshots_stay_finite(self):
        measurement = make_scenes().measurement
        silent = measurement._replace(snapshots=jnp.zeros_like(measurement.snapshots))
        found = localization.localize(silent, POSITIONS, **options())
        np.testing.assert_array_equal(found.power, np.zeros((SCENES, 2)))


class SizesTest(Case):
    @parameterized.product(total=(1, 3, 8, 20, 64, 70), known=(False, True))
    def test_sizes(self, total, known):
        """Few shapes are compiled; padding scenes have no energy and no sources."""
        shapes, variances = [], []

        def compute(measurement, counts):
            shapes.append(len(measurement.snapshots))
            variances.append(np.asarray(measurement.noise_variance))
            silent = ~np.any(np.asarray(measurement.snapshots), axis=(1, 2))
            self.assertEqual(counts is None, not known)
            if known:
                np.testing.assert_array_equal(np.asarray(counts), np.where(silent, 0, 2))
            return measurement.noise_variance, jnp.where(silent, -1, 7)

        scene = jax.tree.map(
            lambda leaf: jnp.resize(leaf, (total, *leaf.shape[1:])), make_scenes().measurement
        )
        scene = scene._replace(noise_variance=jnp.arange(total, dtype=jnp.float32))
        numbers, sevens = batches.in_sizes(compute, scene, 2 if known else None)
        np.testing.assert_array_equal(numbers, np.arange(total))
        np.testing.assert_array_equal(sevens, np.full(total, 7))
        self.assertContainsSubset(shapes, batches.SIZES)
        self.assertLen(shapes, -(-total // 64))

    def test_unchanged_while_tracing(self):
        @jax.jit
        def run(measurement):
            return batches.in_sizes(lambda m, _: m.snapshots, measurement, None)

        self.assertEqual(run(make_scenes().measurement).shape[0], SCENES)


class ChunksTest(Case):
    @parameterized.parameters(1, 2, 3, 5, 64)
    def test_any_size_gives_the_same(self, size):
        shapes, sizes = [], []

        @jax.jit
        def compute(part):
            shapes.append(part.shape)
            return part * 2, part.sum(axis=1)

        given = np.arange(10.0, dtype=np.float32).reshape(5, 2)
        doubled, sums = batches.in_chunks(compute, given, chunk_size=size, progress=sizes.append)
        np.testing.assert_array_equal(doubled, given * 2)
        np.testing.assert_array_equal(sums, given.sum(axis=1))
        self.assertIsInstance(doubled, np.ndarray)
        self.assertEqual(shapes, [(min(size, 5), 2)])  # one compilation
        self.assertEqual(sum(sizes), 5)

    @parameterized.parameters((0, 1), (3, 0))
    def test_refuses(self, scene_count, size):
        with self.assertRaisesRegex(ValueError, f"got {scene_count} and {size}"):
            batches.in_chunks(lambda part: part, np.zeros((scene_count, 2)), chunk_size=size)

    @parameterized.parameters((None,), (1,), (np.array([0, 1, 2, 1, 2]),))
    def test_counts_are_split_with_their_scenes(self, counts):
        measurement = jax.device_get(make_scenes().measurement)
        found = localization.localize_in_chunks(
            measurement, POSITIONS, num_sources=counts, chunk_size=2, **options()
        )
        expected = np.broadcast_to(2 if counts is None else counts, SCENES)
        np.testing.assert_array_equal(found.num_sources, expected)
        self.assertEqual(found.azimuth.shape, (SCENES, 2))
        power = np.mean(np.abs(measurement.snapshots) ** 2, axis=(1, 2))
        np.testing.assert_allclose(found.noise_variance, power, rtol=1e-5)

    @parameterized.parameters(
        (np.array([1, 1, 1, 1, 7]), "got '1 to 7'"),
        (np.array([1, 1, 1, 1]), r"need one number or \[5\]"),
    )
    def test_checks_the_counts_of_all_scenes_at_once(self, counts, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            localization.localize_in_chunks(
                make_scenes().measurement,
                POSITIONS,
                num_sources=counts,
                chunk_size=2,
                **options(),
            )
        self.assertEmpty(self.calls)

    def test_every_name_has_a_line_of_help(self):
        self.assertEqual(list(names.SUMMARIES), list(catalogue.METHODS))

    def test_a_baseline_of_centred_grids_needs_one(self):
        with self.assertRaisesRegex(config_lib.ConfigError, "positions: need a grid centred"):
            localization.localize(
                make_scenes().measurement, POSITIONS + 0.1, estimator="modified_music", **options()
            )
        self.assertEmpty(self.calls)

    def test_a_baseline_of_the_snapshots_takes_no_network(self):
        with self.assertRaisesRegex(config_lib.ConfigError, "network: need none for this"):
            localization.localize(
                make_scenes().measurement, POSITIONS, estimator="orthogonal_matching_pursuit",
                network=object(), **options(num_sources=1),
            )  # fmt: skip

    def test_shapes_are_checked_for_every_estimator(self):
        measurement = make_scenes().measurement
        short = measurement._replace(codes=measurement.codes[..., :-1])
        for name in localization.ESTIMATORS:
            with self.assertRaisesRegex(config_lib.ConfigError, "codes: need .*36.; got .*35."):
                localization.localize(short, POSITIONS, estimator=name, **options(num_sources=1))


if __name__ == "__main__":
    absltest.main()
