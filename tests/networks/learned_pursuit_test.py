"""Learned pursuit: updates, convergence, and independent scenes in the queue."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from cases import small
from cases.small import jit, with_values
from flax import nnx

from ris_jax.estimation import likelihood, refinement
from ris_jax.networks import learned_pursuit, losses, pursuit_features, scorer
from ris_jax.physics import arrays, scenes
from ris_jax.training import loop
from ris_jax.training import state as state_lib

BATCH = 40  # more than two rounds of the queue
SOURCES, CANDIDATES = 2, 4
SMALL = small.configuration(
    small.SYSTEM,
    scene__max_sources=SOURCES,
    # The whole search region is in front of the array.
    scene__azimuth_max_deg=30.0,
    scene__elevation_max_deg=15.0,
    model__candidates=CANDIDATES,
    model__width=16,
    model__depth=1,
    model__num_heads=2,
)


@functools.cache
def drawn(config, batch=4):
    """Draw scenes of a configuration."""
    draw = jit(scenes.sample_scenes, static_argnums=(1, 2))
    return draw(scenes.stream_key(0, "train"), config, batch)


def model_of(config):
    return learned_pursuit.LearnedPursuit(config, rngs=nnx.Rngs(0))


@functools.partial(jit, static_argnums=0)
def _predict(graphdef, params, measurement):
    return nnx.merge(graphdef, params, copy=True)(measurement)


def predict(config, measurement):
    return _predict(*nnx.split(model_of(config), nnx.Param), measurement)


class PredictionTest(parameterized.TestCase):
    @parameterized.parameters(
        {},
        {"system__source_signal": "independent", "model__rounds": 1, "scene__max_sources": 3},
    )
    def test_shapes_and_dtypes(self, **values):
        self.check_shapes(**values)

    @pytest.mark.full
    def test_shapes_and_dtypes_of_bfloat16(self):
        self.check_shapes(model__compute_dtype="bfloat16")

    def check_shapes(self, **values):
        config = with_values(SMALL, **values)
        sources = config.scene.max_sources
        prediction = predict(config, drawn(config).measurement)
        chex.assert_shape(prediction.factor, (4, 16, sources))
        chex.assert_shape(prediction.count_logits, (4, sources))
        chex.assert_shape(prediction.coordinates, (4, sources, 3))
        chex.assert_shape(prediction.existence, (4, sources))
        decision, rounds = prediction.decisions, config.model.rounds + 1
        chex.assert_shape(decision.sources, (rounds, 4, sources, 3))
        chex.assert_shape([decision.active, decision.keep], (rounds, 4, sources))
        chex.assert_shape(decision.add, (rounds, 4, CANDIDATES))
        chex.assert_shape([decision.candidates, decision.offset], (rounds, 4, CANDIDATES, 3))
        chex.assert_type(prediction.factor, jnp.complex64)
        chex.assert_type(jax.tree.leaves(prediction._replace(factor=())), jnp.float32)
        chex.assert_tree_all_finite(prediction)

    def test_first_round_has_no_sources(self):
        prediction = predict(SMALL, drawn(SMALL).measurement)
        active = prediction.decisions.active
        chex.assert_trees_all_equal(active[0], jnp.zeros_like(active[0]))
        # One candidate is always tried, whatever its score.
        self.assertGreaterEqual(float(jnp.min(jnp.sum(active[1:], axis=2))), 1.0)
        last = jax.tree.map(lambda leaf: leaf[-1], prediction.decisions)
        unit = pursuit_features.resolution(SMALL.system)
        chex.assert_trees_all_close(last.sources * unit, prediction.coordinates, atol=1e-5)
        chex.assert_trees_all_close(
            prediction.existence, jax.nn.sigmoid(last.keep) * last.active, atol=1e-6
        )

    def test_factor_matches_the_sources(self):
        """F F^H is the sum of power, existence probability and a a^H."""
        batch = drawn(SMALL).measurement
        prediction = predict(SMALL, batch)
        positions = np.asarray(arrays.element_positions(SMALL.system), float)
        for index in range(4):
            there = np.asarray(prediction.decisions.active[-1, index]) > 0
            u, w, rho = np.asarray(prediction.coordinates[index], float)[there].T
            unit = np.stack([u, w, np.sqrt(1 - u**2 - w**2)], axis=-1)
            radius = 1 / np.maximum(rho, 1e-6)[:, None]  # of a plane wave
            distance = np.linalg.norm((radius * unit)[:, None] - positions, axis=-1)
            vectors = np.exp(-2j * np.pi / 0.3 * (distance - radius)) / 4.0  # [K, N]
            vectors *= radius / distance
            operator = np.einsum(
                "mn,ln->lmn", np.asarray(batch.channel[index]), np.asarray(batch.codes[index])
            ).reshape(-1, 16)
            basis = operator @ vectors.T
            data = np.asarray(batch.snapshots[index], complex).ravel()
            fitted = np.abs(np.linalg.lstsq(basis, data, rcond=None)[0]) ** 2
            noise = float(batch.noise_variance[index])
            excess = noise * np.diag(np.linalg.inv(basis.conj().T @ basis)).real
            weight = np.maximum(fitted - excess, 0.1 * fitted)
            weight = weight * np.asarray(prediction.existence[index])[there]
            wanted = (vectors.T * weight) @ vectors.conj()
            factor = np.asarray(prediction.factor[index])
            found = factor @ factor.conj().T
            np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())

    def test_factor_has_a_gradient_without_sources(self):
        """The square root has an infinite slope at zero."""
        model = model_of(SMALL)
        batch = drawn(SMALL).measurement

        @jit
        def gradient(coordinates, active, existence):
            observation = likelihood.observe_batch(batch, "constant")
            fit = model._refine(observation, learned_pursuit.Update(coordinates, active, None))

            def total(existence):
                factor = model.factor(observation, fit, existence, batch.noise_variance)
                return jnp.sum(jnp.abs(factor) ** 2)

            return jax.grad(total)(existence)

        places = jnp.tile(jnp.array([[0.4, 0.1, 0.5], [-0.4, 0.1, 0.5]]), (4, 1, 1))
        active = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
        existence = jnp.array([[0.5, 1.0], [0.5, 0.0], [0.0, 0.0], [0.0, 1.0]])
        found = gradient(places, active, existence)
        chex.assert_tree_all_finite(found)
        self.assertTrue(bool(jnp.all((found > 0) == (existence > 0))))


class GradientTest(absltest.TestCase):
    @pytest.mark.full
    def test_reaches_every_parameter(self):
        """Eight scenes have missing, correct and false sources."""
        state = state_lib.create_train_state(SMALL)
        self.assertEqual(loop.dead_parameters(state, drawn(SMALL, batch=8)), [])


def scores_of(keep, add, offset=0.0):
    """Scores of one scene."""
    keep, add = jnp.asarray([keep], jnp.float32), jnp.asarray([add], jnp.float32)
    return scorer.CandidateScores(
        keep, add, jnp.full((*add.shape, 3), offset), jnp.zeros_like(keep)
    )


class UpdateTest(parameterized.TestCase):
    """One scene with three slots for sources and four candidates."""

    CONFIG = with_values(
        SMALL, scene__max_sources=3, scene__azimuth_max_deg=60.0, scene__elevation_max_deg=30.0
    )
    SOURCES = np.array([[-0.6, 0.0, 0.1], [0.0, 0.3, 0.2], [0.6, -0.3, 0.3]], "f4")
    CANDIDATES = np.array(
        [[-0.5, 0.4, 1.0], [-0.2, -0.4, 1.1], [0.2, 0.4, 1.2], [0.5, -0.1, 1.3]], "f4"
    )

    def _decide(self, scores, active=(0, 0, 0)):
        """Return the sources of the update as rows, and whether the set changes."""
        update = self._updated(scores, active)
        there = np.asarray(update.active[0]) > 0
        coordinates = np.asarray(update.coordinates[0])
        chex.assert_trees_all_equal(coordinates[~there], np.zeros_like(coordinates[~there]))
        return coordinates[there], bool(update.changes[0])

    def _updated(self, scores, active=(0, 0, 0)):
        active = jnp.asarray([active], jnp.float32)
        fit = refinement.SourceFit(self.SOURCES[None], active, None, None, None)
        state = pursuit_features.PursuitState(
            jnp.asarray(self.CANDIDATES[None]), None, None, None, None
        )
        return _update(self.CONFIG, fit, state, scores)

    def test_adds_probable_candidates(self):
        """The most probable come first."""
        found, changes = self._decide(scores_of([9.0] * 3, [0.1, -0.1, 5.0, -5.0]))
        chex.assert_trees_all_close(found, self.CANDIDATES[[2, 0]])
        self.assertTrue(changes)

    def test_free_slots_limit_additions(self):
        found, _ = self._decide(scores_of([9.0] * 3, [1.0, 4.0, 3.0, 2.0]))
        chex.assert_trees_all_close(found, self.CANDIDATES[[1, 2, 3]])

    def test_kept_sources_precede_candidates(self):
        """The scores of the candidates do not matter."""
        scores = scores_of([-1.4, 0.0, 0.0], [9.0, 9.0, -9.0, 10.0])
        found, changes = self._decide(scores, (1, 1, 0))
        chex.assert_trees_all_close(found, np.stack([*self.SOURCES[[1, 0]], self.CANDIDATES[3]]))
        self.assertTrue(changes)

    def test_all_slots_taken(self):
        """A candidate without a free slot changes nothing."""
        found, changes = self._decide(scores_of([2.0, 1.0, 0.0], [9.0] * 4), (1, 1, 1))
        chex.assert_trees_all_close(found, self.SOURCES)
        self.assertFalse(changes)

    def test_converges(self):
        found, changes = self._decide(scores_of([2.0, 9.0, 0.0], [-0.1] * 4), (1, 0, 1))
        chex.assert_trees_all_close(found, self.SOURCES[[0, 2]])
        self.assertFalse(changes)

    def test_drops_false_sources(self):
        found, changes = self._decide(scores_of([-1.6, 9.0, -1.4], [-9.0] * 4), (1, 0, 1))
        chex.assert_trees_all_close(found, self.SOURCES[[2]])
        self.assertTrue(changes)

    def test_tries_the_best_candidate_without_sources(self):
        """Refinement needs at least one source."""
        for active in ((0, 0, 0), (1, 1, 1)):
            found, changes = self._decide(scores_of([-9.0] * 3, [-5.0, -3.0, -4.0, -9.0]), active)
            chex.assert_trees_all_close(found, self.CANDIDATES[[1]])
            self.assertTrue(changes)

    @parameterized.parameters(0.5, -0.5, 100.0, -100.0)
    def test_moves_by_the_offset(self, offset):
        """Offsets are in units of resolution and limited by `REACH` and the region."""
        context = pursuit_features.search_context(self.CONFIG)
        wanted = self.CANDIDATES[[3]] + np.clip(offset, -losses.REACH, losses.REACH) * np.asarray(
            context.step
        )
        wanted = np.clip(wanted, context.problem.lower, context.problem.upper)
        found, _ = self._decide(scores_of([9.0] * 3, [-9.0, -9.0, -9.0, 9.0], offset))
        chex.assert_trees_all_close(found, wanted, atol=1e-6)

    def test_no_gradient(self):
        def total(add, offset):
            scores = scores_of([9.0] * 3, [0.0] * 4)._replace(add=add, offset=offset)
            return jnp.sum(self._updated(scores).coordinates)

        gradients = jax.grad(total, argnums=(0, 1))(jnp.ones((1, 4)), jnp.ones((1, 4, 3)))
        for gradient in gradients:
            chex.assert_trees_all_equal(gradient, jnp.zeros_like(gradient))


@functools.partial(jax.jit, static_argnums=0)
def _update(config, fit, state, scores):
    return learned_pursuit.LearnedPursuit._update(_Configured(config), fit, state, scores)


class _Configured:
    """Attributes of a model that an update needs."""

    def __init__(self, config):
        self.config = config


class Oracle(nnx.Module):
    """Scorer by energy: it adds the best candidate if its energy is high enough.

    `rules`: least energy over the noise's that a source brings, the same of one that stays, and
    whether it changes its mind for ever.
    """

    def __init__(self):
        self.rules = nnx.Param(jnp.zeros(3))

    def __call__(self, state, active, *, rngs=None):
        least, stays, restless = self.rules[...]
        gain = state.candidate_features[..., 3]  # logarithms
        best = gain == jnp.max(gain, axis=1, keepdims=True)
        add = jnp.where(best & (gain > least), 5.0, -5.0)
        keep = jnp.where(state.source_features[..., 3] > stays, 5.0, -5.0)
        return scorer.CandidateScores(
            keep=jnp.where(restless > 0, -5.0, keep),
            add=jnp.where(restless > 0, 5.0 * best, add),
            offset=jnp.zeros((*add.shape, 3)),
            count_logits=jnp.zeros_like(active),
        )


# Pairs are more than a beam apart; after four iterations a fit still moves slightly.
PAIRS = with_values(
    SMALL,
    model__iterations=4, scene__min_sources=2, scene__azimuth_max_deg=60.0,
    scene__elevation_max_deg=30.0)  # fmt: skip


@functools.cache
def oracle_pursuit():
    model = model_of(PAIRS)
    model.judge = Oracle()
    graphdef, params = nnx.split(model, nnx.Param)

    @jit
    def pursue(rules, measurement):
        model = nnx.merge(graphdef, jax.tree.map(lambda _: rules, params))
        observation = likelihood.observe_batch(measurement, "constant")
        return model.pursue(observation, measurement.noise_variance)

    return pursue


@functools.partial(jit, static_argnums=1)
def simulate_pairs(azimuths, snr_db):
    """Simulate two equal sources at 1.5 m and 1.2 m in every scene."""

    def one(key, azimuth):
        truth = scenes.Truth(
            azimuth=azimuth,
            elevation=jnp.array([0.25, -0.25]),
            source_range=jnp.array([1.5, 1.2]),
            amplitude=jnp.ones(2),
            num_sources=jnp.array(2),
            snr_db=jnp.array(snr_db),
        )
        return scenes.simulate(key, truth, PAIRS).measurement

    return jax.vmap(one)(jax.random.split(jax.random.key(0), len(azimuths)), azimuths)


def pairs(snr_db):
    """Return a batch of pairs, and their coordinates (u, w, 1/r), [B, 2, 3]."""
    random = np.random.default_rng(0)
    azimuths = np.array([-0.6, 0.6]) + random.uniform(-0.2, 0.2, (BATCH, 2))
    u = np.sin(azimuths) * np.cos(0.25)
    w = np.broadcast_to(np.sin([0.25, -0.25]), u.shape)
    rho = np.broadcast_to([1 / 1.5, 1 / 1.2], u.shape)
    with jax.default_matmul_precision("highest"):
        return simulate_pairs(jnp.asarray(azimuths, "f4"), snr_db), np.stack([u, w, rho], axis=-1)


SOUND = np.array([4.0, 4.0, 0.0], "f4")


class PursueTest(absltest.TestCase):
    def test_separated_sources_without_noise(self):
        """Correct scores add one source per step and give correct positions."""
        measurement, places = pairs(snr_db=80.0)
        found = oracle_pursuit()(SOUND, measurement)
        chex.assert_trees_all_equal(found.fit.active, jnp.ones((BATCH, 2)))
        self.assertFalse(bool(jnp.any(found.update.changes)))
        chex.assert_trees_all_close(
            found.existence, jnp.full((BATCH, 2), jax.nn.sigmoid(5.0)), atol=1e-6
        )
        coordinates = np.asarray(found.fit.coordinates)
        order = np.argsort(coordinates[..., 0], axis=1)[..., None]
        error = np.abs(np.take_along_axis(coordinates, order, axis=1) - places)
        np.testing.assert_array_less(error.max(axis=(0, 1)), [1e-3, 1e-3, 1e-2])

    @pytest.mark.full
    def test_a_scene_does_not_depend_on_its_batch(self):
        """Two sources need two steps per scene, so the queue takes three rounds."""
        measurement, _ = pairs(snr_db=20.0)
        whole = oracle_pursuit()(SOUND, measurement)
        self.assertGreater(int(jnp.sum(jnp.all(whole.fit.active > 0, axis=1))), 32)
        order = np.random.default_rng(1).permutation(BATCH)
        shuffled = oracle_pursuit()(SOUND, jax.tree.map(lambda x: x[order], measurement))
        self.assert_same(shuffled, jax.tree.map(lambda x: x[order], whole))
        few = np.array([BATCH - 1, 0, 7])
        part = oracle_pursuit()(SOUND, jax.tree.map(lambda x: x[few], measurement))
        self.assert_same(part, jax.tree.map(lambda x: x[few], whole))

    def assert_same(self, found, wanted):
        chex.assert_trees_all_equal(found.fit.active, wanted.fit.active)
        chex.assert_trees_all_equal(found.update.changes, wanted.update.changes)
        # Rounding depends on the batch size, and the likelihood is flat along 1/r.
        chex.assert_trees_all_close(
            found.fit.coordinates, wanted.fit.coordinates, atol=2e-3, rtol=1e-3
        )
        chex.assert_trees_all_close(found.existence, wanted.existence, atol=1e-5)
        chex.assert_trees_all_close(found.fit.local.value, wanted.fit.local.value, rtol=1e-4)

    def test_unconverged_scenes_do_not_affect_others(self):
        """At low SNR no source is kept, so the best candidate is tried repeatedly."""
        measurement, _ = pairs(snr_db=20.0)
        deaf = measurement._replace(noise_variance=1e6 * measurement.noise_variance)
        even = np.arange(BATCH) % 2 == 0
        mixed = measurement._replace(
            noise_variance=jnp.where(even, deaf.noise_variance, measurement.noise_variance)
        )
        sound, restless, both = (oracle_pursuit()(SOUND, m) for m in (measurement, deaf, mixed))
        self.assertTrue(bool(jnp.all(both.update.changes == even)))
        for found, wanted in ((sound, ~even), (restless, even)):
            self.assert_same(
                jax.tree.map(lambda leaf, mine=wanted: leaf[mine], both),
                jax.tree.map(lambda leaf, mine=wanted: leaf[mine], found),
            )

    def test_ends_without_convergence(self):
        """After the maximum number of steps, sources are present and the scenes are flagged."""
        measurement, _ = pairs(snr_db=20.0)
        found = oracle_pursuit()(np.array([4.0, 4.0, 1.0], "f4"), measurement)
        self.assertTrue(bool(jnp.all(found.update.changes)))
        chex.assert_tree_all_finite(found.fit.coordinates)
        self.assertGreaterEqual(float(jnp.min(jnp.sum(found.fit.active, axis=1))), 1.0)


if __name__ == "__main__":
    absltest.main()
