"""The network: shapes for any geometry, dtypes, dropout, and what its output depends on."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from ris_jax import config as config_lib
from ris_jax import scenes
from ris_jax.models import patch_transformer

BATCH = 3
SMALL = config_lib.override(
    config_lib.Config(), {"model.width": 16, "model.depth": 1, "model.num_heads": 2}
)
OTHER = config_lib.override(
    SMALL,
    {
        "system.rows": 6,
        "system.columns": 5,
        "system.num_antennas": 8,
        "system.num_snapshots": 12,
        "system.source_signal": "independent",
        "scene.max_sources": 3,
    },
)
FREE = config_lib.override(
    OTHER,
    {"system.element_positions": np.random.default_rng(0).uniform(-0.4, 0.4, (30, 3)).tolist()},
)


def random_measurement(config, seed=0):
    """Noise of the right shapes: compiling the simulator is the scenes' test."""
    random = np.random.default_rng(seed)
    system = config.system

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape) + 1j * random.normal(size=shape), "c8")

    codes = normal(BATCH, system.num_snapshots, system.num_elements)
    return scenes.Measurement(
        snapshots=normal(BATCH, system.num_snapshots, system.num_antennas),
        channel=normal(BATCH, system.num_antennas, system.num_elements),
        codes=codes / jnp.abs(codes),
        noise_variance=jnp.full(BATCH, 0.1),
    )


extract = jax.jit(patch_transformer.extract_features, static_argnums=1)


def random_features(config, seed=0):
    return extract(random_measurement(config, seed), config.system.source_signal)


@functools.cache
def build(config, seed=0):
    model = patch_transformer.PatchTransformer(config, rngs=nnx.Rngs(seed))
    return nnx.split(model, nnx.Param)


@functools.partial(jax.jit, static_argnums=0)
def apply(graphdef, params, features, dropout_key=None):
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    return nnx.merge(graphdef, params, copy=True)(features, rngs=rngs)


def predict(config, features, dropout_seed=None):
    key = None if dropout_seed is None else jax.random.key(dropout_seed)
    return apply(*build(config), features, key)


class FeaturesTest(parameterized.TestCase):
    @parameterized.parameters(("constant", 1), ("independent", 12))
    def test_shapes(self, source_signal, columns):
        features = extract(random_measurement(OTHER), source_signal)
        chex.assert_shape(features.fields, (BATCH, 30, columns))
        chex.assert_shape(features.snapshots, (BATCH, 12, 8))
        chex.assert_shape(features.snr, (BATCH,))

    def test_unit_power(self):
        features = random_features(OTHER)
        for part in (features.fields, features.snapshots):
            power = jnp.mean(jnp.abs(part) ** 2, axis=(1, 2))
            chex.assert_trees_all_close(power, jnp.ones(BATCH), rtol=1e-5)

    @parameterized.parameters(1e-3, 1e3)
    def test_the_recordings_unit_does_not_matter(self, scale):
        """The reference's shards hold snapshots times 1000."""
        measurement = random_measurement(OTHER)
        scaled = measurement._replace(
            snapshots=scale * measurement.snapshots,
            noise_variance=scale**2 * measurement.noise_variance,
        )
        expected = extract(measurement, "independent")
        chex.assert_trees_all_close(extract(scaled, "independent"), expected, rtol=1e-3, atol=1e-5)

    def test_silence_is_finite(self):
        silent = random_measurement(OTHER)
        silent = silent._replace(snapshots=jnp.zeros_like(silent.snapshots))
        chex.assert_tree_all_finite(extract(silent, "independent"))


class PatchTransformerTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("default", SMALL), ("other_grid", OTHER), ("explicit_positions", FREE)
    )
    def test_shapes(self, config):
        prediction = predict(config, random_features(config))
        elements, sources = config.system.num_elements, config.scene.max_sources
        chex.assert_shape(prediction.factor, (BATCH, elements, sources))
        chex.assert_shape(prediction.count_logits, (BATCH, sources))
        chex.assert_shape(prediction.parameters, (BATCH, sources, 3))
        chex.assert_tree_all_finite(prediction)
        silent = jnp.min(jnp.sum(jnp.abs(prediction.factor), axis=-1))
        self.assertGreater(float(silent), 0.0)  # every element is written

    @parameterized.parameters("float32", "bfloat16")
    def test_dtypes(self, compute_dtype):
        config = config_lib.override(OTHER, {"model.compute_dtype": compute_dtype})
        features = random_features(config)
        prediction = predict(config, features)
        chex.assert_type([prediction.count_logits, prediction.parameters], jnp.float32)
        chex.assert_type(prediction.factor, jnp.complex64)
        for leaf in jax.tree.leaves(build(config)[1]):
            chex.assert_type(leaf, jnp.float32)
        # The parameters are the same: the outputs differ by bfloat16's 8 bits.
        exact = predict(OTHER, features)
        for result, expected in zip(prediction, exact, strict=True):
            error = jnp.linalg.norm(result - expected) / jnp.linalg.norm(expected)
            self.assertLess(float(error), 0.05)

    def test_output_follows_the_input(self):
        """The reference's network predicted constants."""
        first = predict(OTHER, random_features(OTHER, seed=0))
        second = predict(OTHER, random_features(OTHER, seed=1))
        for left, right in zip(first, second, strict=True):
            self.assertGreater(float(jnp.linalg.norm(left - right) / jnp.linalg.norm(left)), 0.1)

    @parameterized.parameters("fields", "snapshots", "snr")
    def test_output_follows_each_feature(self, name):
        features = random_features(OTHER)
        changed = features._replace(**{name: 2.0 * getattr(features, name)})
        gap = predict(OTHER, features).factor - predict(OTHER, changed).factor
        self.assertGreater(float(jnp.max(jnp.abs(gap))), 1e-4)

    def test_scenes_of_a_batch_do_not_mix(self):
        features = random_features(OTHER)
        flipped = predict(OTHER, jax.tree.map(jnp.flipud, features))
        expected = jax.tree.map(jnp.flipud, predict(OTHER, features))
        chex.assert_trees_all_close(flipped, expected, atol=1e-5)

    def test_same_seed_same_network(self):
        chex.assert_trees_all_equal(build(OTHER)[1], build.__wrapped__(OTHER)[1])

    def test_every_parameter_has_a_gradient(self):
        graphdef, params = build(OTHER)
        features = random_features(OTHER)

        @jax.jit
        @jax.grad
        def gradient(params):
            prediction = nnx.merge(graphdef, params, copy=True)(features)
            return sum(jnp.sum(jnp.abs(leaf - 1.0) ** 2) for leaf in prediction)

        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
            self.assertGreater(float(jnp.max(jnp.abs(leaf))), 0.0, jax.tree_util.keystr(path))


class DropoutTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.config = config_lib.override(OTHER, {"model.dropout": 0.5})
        self.features = random_features(self.config)

    def gap(self, first_seed, second_seed):
        first = predict(self.config, self.features, first_seed).factor
        second = predict(self.config, self.features, second_seed).factor
        return float(jnp.max(jnp.abs(first - second)))

    def test_draws_differ(self):
        self.assertGreater(self.gap(0, 1), 1e-4)
        self.assertGreater(self.gap(0, None), 1e-4)
        self.assertEqual(self.gap(0, 0), 0.0)

    def test_off_without_rngs(self):
        """Validation gives none: the same output as a network without dropout."""
        chex.assert_trees_all_close(
            predict(self.config, self.features), predict(OTHER, self.features), atol=1e-6
        )

    def test_needs_a_dropout_stream(self):
        model = nnx.merge(*build(self.config), copy=True)
        with self.assertRaisesRegex(Exception, "dropout"):
            jax.eval_shape(lambda: model(self.features, rngs=nnx.Rngs(other=0)))


if __name__ == "__main__":
    absltest.main()
