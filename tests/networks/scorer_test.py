"""Scorer: invariance to order and to padding."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from flax import nnx

from ris_jax import config as config_lib
from ris_jax.networks import pursuit_features, scorer

SOURCES, CANDIDATES, BATCH = 3, 5, 4
SMALL = config_lib.override(
    config_lib.Config(),
    {
        "scene.max_sources": SOURCES,
        "model.candidates": CANDIDATES,
        "model.width": 16,
        "model.depth": 2,
        "model.num_heads": 2,
    },
)
HALF = config_lib.override(SMALL, {"model.compute_dtype": "bfloat16"})
DROPOUT = config_lib.override(SMALL, {"model.dropout": 0.5})
ACTIVE = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], "f4")


@functools.cache
def build(config):
    return nnx.split(scorer.Scorer(config, rngs=nnx.Rngs(0)), nnx.Param)


@functools.partial(jax.jit, static_argnums=0)
def apply(graphdef, params, state, active, dropout_key=None):
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    return nnx.merge(graphdef, params, copy=True)(state, active, rngs=rngs)


def scores_of(state, active=ACTIVE, config=SMALL, dropout_seed=None):
    key = None if dropout_seed is None else jax.random.key(dropout_seed)
    return apply(*build(config), state, jnp.asarray(active), key)


def random_state(seed=0):
    random = np.random.default_rng(seed)
    tokens = SOURCES + CANDIDATES
    overlaps = random.uniform(size=(BATCH, tokens, tokens))
    overlaps = (overlaps + overlaps.swapaxes(1, 2)) / 2
    state = pursuit_features.PursuitState(
        candidates=random.normal(size=(BATCH, CANDIDATES, 3)),
        candidate_features=random.normal(
            size=(BATCH, CANDIDATES, pursuit_features.CANDIDATE_FEATURES)
        ),
        source_features=random.normal(size=(BATCH, SOURCES, pursuit_features.SOURCE_FEATURES)),
        scene_features=random.normal(size=(BATCH, pursuit_features.SCENE_FEATURES)),
        overlaps=overlaps,
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, "f4"), state)


def reordered(state, sources, candidates):
    """Permute sources and candidates of a pursuit state."""
    both = np.append(sources, SOURCES + candidates)
    return pursuit_features.PursuitState(
        candidates=state.candidates[:, candidates],
        candidate_features=state.candidate_features[:, candidates],
        source_features=state.source_features[:, sources],
        scene_features=state.scene_features,
        overlaps=state.overlaps[:, both][:, :, both],
    )


def change(left, right):
    """Return the largest change of each score, [B]."""
    return [
        np.abs(np.asarray(a - b)).reshape(BATCH, -1).max(axis=1)
        for a, b in zip(left, right, strict=True)
    ]


class ScoresTest(parameterized.TestCase):
    def test_shapes(self):
        scores = scores_of(random_state())
        chex.assert_shape(scores.keep, (BATCH, SOURCES))
        chex.assert_shape(scores.add, (BATCH, CANDIDATES))
        chex.assert_shape(scores.offset, (BATCH, CANDIDATES, 3))
        chex.assert_shape(scores.count_logits, (BATCH, SOURCES))
        chex.assert_type(list(scores), jnp.float32)
        chex.assert_tree_all_finite(scores)

    @pytest.mark.full
    def test_bfloat16(self):
        """Computation is in bfloat16; parameters and scores are float32."""
        state = random_state()
        exact, coarse = scores_of(state), scores_of(state, config=HALF)
        chex.assert_type(list(coarse), jnp.float32)
        for leaf in jax.tree.leaves(build(HALF)[1]):
            chex.assert_type(leaf, jnp.float32)
        for right, wrong in zip(exact, coarse, strict=True):
            error = float(jnp.linalg.norm(wrong - right) / jnp.linalg.norm(right))
            self.assertBetween(error, 1e-5, 0.05)

    def test_every_feature_matters(self):
        state = random_state()
        wanted = scores_of(state)
        for name in ("candidate_features", "source_features", "scene_features", "overlaps"):
            other = state._replace(**{name: 0.5 * getattr(state, name)})
            for part in change(scores_of(other), wanted):
                self.assertGreater(part[0], 5e-6, name)  # float32 rounds at 1e-7

    def test_scenes_of_a_batch_are_independent(self):
        state, order = random_state(), np.array([2, 0, 3, 1])
        flipped = scores_of(jax.tree.map(lambda leaf: leaf[order], state), ACTIVE[order])
        wanted = jax.tree.map(lambda leaf: leaf[order], scores_of(state))
        chex.assert_trees_all_close(flipped, wanted, atol=1e-5)

    def test_every_parameter_has_a_gradient(self):
        graphdef, params = build(SMALL)
        state, active = random_state(), jnp.asarray(ACTIVE)

        @jax.jit
        @jax.grad
        def gradient(params):
            scores = nnx.merge(graphdef, params, copy=True)(state, active)
            return sum(jnp.sum((leaf - 1.0) ** 2) for leaf in scores)

        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
            self.assertGreater(float(jnp.max(jnp.abs(leaf))), 0.0, jax.tree_util.keystr(path))


class OrderTest(absltest.TestCase):
    def test_of_candidates(self):
        """The scores of the candidates are permuted; the others do not change."""
        state, order = random_state(), np.array([3, 0, 4, 2, 1])
        wanted = scores_of(state)
        wanted = wanted._replace(add=wanted.add[:, order], offset=wanted.offset[:, order])
        found = scores_of(reordered(state, np.arange(SOURCES), order))
        chex.assert_trees_all_close(found, wanted, atol=1e-5)

    def test_of_sources(self):
        state, order = random_state(), np.array([2, 0, 1])
        wanted = scores_of(state)
        wanted = wanted._replace(keep=wanted.keep[:, order])
        found = scores_of(reordered(state, order, np.arange(CANDIDATES)), ACTIVE[:, order])
        chex.assert_trees_all_close(found, wanted, atol=1e-5)


class AbsentSourcesTest(absltest.TestCase):
    def test_padding_has_no_influence(self):
        """The scenes lack source 1, or all but source 2; their features are arbitrary."""
        state = random_state()
        absent = np.concatenate([ACTIVE == 0, np.zeros((BATCH, CANDIDATES), bool)], axis=1)
        pairs = absent[:, :, None] | absent[:, None, :]
        other = state._replace(
            source_features=jnp.where(ACTIVE[..., None] == 0, 7.0, state.source_features),
            overlaps=jnp.where(pairs, 0.9, state.overlaps),
        )
        wanted, found = scores_of(state), scores_of(other)
        present = ACTIVE > 0
        chex.assert_trees_all_close(found.keep[present], wanted.keep[present], atol=1e-6)
        chex.assert_trees_all_close(found[1:], wanted[1:], atol=1e-6)

    def test_present_sources_have_influence(self):
        state = random_state()
        everywhere = np.ones_like(ACTIVE)
        for part in change(scores_of(state, everywhere)[1:], scores_of(state)[1:]):
            self.assertEqual(part[0], 0.0)  # all sources are present in this scene
            self.assertGreater(part[1:].min(), 1e-5)


class DropoutTest(absltest.TestCase):
    def gap(self, first_seed, second_seed):
        state = random_state()
        first = scores_of(state, config=DROPOUT, dropout_seed=first_seed)
        second = scores_of(state, config=DROPOUT, dropout_seed=second_seed)
        return max(part.max() for part in change(first, second))

    def test_draws_differ(self):
        self.assertGreater(self.gap(0, 1), 1e-4)
        self.assertGreater(self.gap(0, None), 1e-4)
        self.assertEqual(self.gap(0, 0), 0.0)

    def test_off_without_rngs(self):
        """Without rngs the scores equal those of a network without dropout."""
        state = random_state()
        found = scores_of(state, config=DROPOUT)
        chex.assert_trees_all_close(found, scores_of(state), atol=1e-6)
        chex.assert_trees_all_equal(found, scores_of(state, config=DROPOUT))

    def test_needs_a_dropout_stream(self):
        model = nnx.merge(*build(DROPOUT), copy=True)
        with self.assertRaisesRegex(Exception, "dropout"):
            jax.eval_shape(
                lambda: model(random_state(), jnp.asarray(ACTIVE), rngs=nnx.Rngs(other=0))
            )


if __name__ == "__main__":
    absltest.main()
