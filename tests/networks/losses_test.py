"""Loss identities: zero at the truth, invariant to scale and order, finite at every corner."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax.networks import losses

SOURCES, CANDIDATES, ELEMENTS, BATCH = 3, 4, 6, 6
NAMES = ("covariance", "existence", "offset", "count")
ALL_TERMS = config_lib.LossConfig(covariance=1.0, existence=0.7, offset=0.5, count=0.3)
NO_BLEND = config_lib.CovarianceConfig()
BLEND = config_lib.CovarianceConfig(blend=0.3)
SURE = 1e3  # logit whose cross-entropy is zero in float32


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")


def drawn_target(batch=BATCH, sources=SOURCES, seed=0):
    """Draw scenes of 1 ... K_max sources, 8 units apart; padding lies on the first source."""
    random = np.random.default_rng(seed)
    num_sources = 1 + np.arange(batch) % sources
    active = (np.arange(sources) < num_sources[:, None]).astype("f4")
    cells = np.stack([random.permutation(64)[:sources] for _ in range(batch)])
    coordinates = 8.0 * np.stack(np.unravel_index(cells, (4, 4, 4)), axis=-1).astype("f4")
    coordinates = np.where(active[..., None] > 0, coordinates, coordinates[:, :1])
    factor = complex_normal(random, batch, ELEMENTS, sources) * active[:, None]
    snr_db = np.linspace(0.0, 30.0, batch, dtype="f4")
    target = losses.Target(
        factor=factor,
        sample_factor=complex_normal(random, batch, ELEMENTS, 2),
        snr=10.0 ** (snr_db / 10.0),
        snr_db=snr_db,
        coordinates=coordinates,
        active=active,
        num_sources=num_sources,
    )
    return jax.device_put(target)


def true_decision(target, fitted, ghosts, seed=0):
    """Return the correct decision for an estimate with true and false sources.

    There is a candidate at every source, fitted or not, and one at an empty location.

    Args:
      target: the truth.
      fitted: [K] bool, True for fitted sources.
      ghosts: fill the other slots with false estimates.
      seed: of the errors.
    """
    random = np.random.default_rng(seed)
    active, places = np.asarray(target.active) > 0, np.asarray(target.coordinates)
    nowhere = -100.0 - 8.0 * np.arange(active.shape[-1] + 1)[:, None]
    fitted = active & np.asarray(fitted)
    missing = active & ~fitted
    away = random.uniform(-0.8, 0.8, places.shape)  # less than SAME
    sources = np.where(fitted[..., None], places + away, nowhere[:-1])
    offset = random.uniform(-0.8, 0.8, (*active.shape[:-1], active.shape[-1] + 1, 3))
    candidates = np.where(active[..., None], places - offset[..., :-1, :], nowhere[:-1])
    last = np.broadcast_to(nowhere[-1], (*active.shape[:-1], 1, 3))
    add = np.where(missing, SURE, -SURE)
    decision = losses.Decision(
        sources=sources,
        active=fitted | ghosts,
        keep=np.where(fitted, SURE, -SURE),
        candidates=np.concatenate([candidates, last], axis=-2),
        add=np.concatenate([add, np.full_like(add[..., :1], -SURE)], axis=-1),
        offset=offset,
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, "f4"), decision)


def stacked(*decisions):
    """Stack the decisions of all rounds, as in a prediction."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *decisions)


def rounds_of(prediction):
    """Return the decisions of a prediction, one per round."""
    decisions = prediction.decisions
    return [jax.tree.map(lambda leaf, n=n: leaf[n], decisions) for n in range(len(decisions.keep))]


def perfect(target):
    """Return the true prediction, after a round without sources and one with some."""
    sources = target.active.shape[-1]
    classes = jax.nn.one_hot(target.num_sources - 1, sources)
    return losses.Prediction(
        factor=target.factor,
        count_logits=SURE * (2.0 * classes - 1.0),
        coordinates=target.coordinates,
        existence=target.active,
        decisions=stacked(
            true_decision(target, False, ghosts=False),
            true_decision(target, np.arange(sources) % 2 == 0, ghosts=True, seed=1),
        ),
    )


def random_decision(target, seed=0):
    """Draw sources and candidates near the true ones, some within the matching distance."""
    random = np.random.default_rng(seed)
    places = np.asarray(target.coordinates)
    batch, sources = places.shape[:2]
    candidates = sources + 1
    near = random.integers(0, sources, (batch, candidates))
    decision = losses.Decision(
        sources=places + 1.2 * random.normal(size=places.shape),
        active=random.random((batch, sources)) < 0.7,
        keep=random.normal(size=(batch, sources)),
        candidates=np.take_along_axis(places, near[..., None], axis=1)
        + 1.2 * random.normal(size=(batch, candidates, 3)),
        add=random.normal(size=(batch, candidates)),
        offset=random.normal(size=(batch, candidates, 3)),
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, "f4"), decision)


def random_prediction(target, seed=0):
    random = np.random.default_rng(seed)
    batch, sources = target.active.shape
    return losses.Prediction(
        factor=jnp.asarray(complex_normal(random, batch, ELEMENTS, sources)),
        count_logits=jnp.asarray(random.normal(size=(batch, sources)), "f4"),
        coordinates=target.coordinates,
        existence=target.active,
        decisions=stacked(random_decision(target, seed), random_decision(target, seed + 1)),
    )


@functools.partial(jax.jit, static_argnames=("weights", "covariance"))
def loss_terms(prediction, target, weights=ALL_TERMS, covariance=NO_BLEND):
    return losses.loss_terms(prediction, target, weights, covariance)


@jax.jit
def value_and_gradients(prediction, target):
    """Return the sum of every term, with a blended covariance as well, and its gradient."""

    def sums(prediction):
        terms = losses.loss_terms(prediction, target, ALL_TERMS, NO_BLEND)
        only = config_lib.LossConfig(covariance=1.0, existence=0.0, offset=0.0, count=0.0)
        blended = losses.loss_terms(prediction, target, only, BLEND)["covariance"]
        return jax.tree.map(jnp.sum, terms | {"blended": blended})

    values, backward = jax.vjp(sums, prediction)
    chosen = {name: {other: jnp.float32(name == other) for other in values} for name in values}
    return values, {name: backward(choice) for name, choice in chosen.items()}


match = jax.jit(losses.match)
labels = jax.jit(losses.labels)


def numpy_match(estimate, estimated, truth, true):
    """Match the pairs of a scene within the matching distance, nearest first."""
    pairs = [
        (np.linalg.norm(estimate[row].astype(float) - truth[column]), row, column)
        for row in np.flatnonzero(estimated)
        for column in np.flatnonzero(true)
    ]
    rows, columns = set(), set()
    for distance, row, column in sorted(pairs):
        if distance < losses.SAME and row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
    return rows, columns


def numpy_labels(decision, coordinates, active):
    """Return the labels of a scene's decision, source by source."""
    real, explained = numpy_match(decision.sources, decision.active, coordinates, active)
    claims = {}
    for source in set(np.flatnonzero(active)) - explained:
        away = coordinates[source].astype(float) - decision.candidates
        distance = np.linalg.norm(away, axis=-1)
        nearest = int(np.argmin(distance))
        if distance[nearest] < losses.REACH:
            claims.setdefault(nearest, []).append((distance[nearest], source, away[nearest]))
    return real, {candidate: min(claim)[2] for candidate, claim in claims.items()}


class IdentitiesTest(parameterized.TestCase):
    def test_truth_scores_zero(self):
        target = drawn_target()
        zeros = dict.fromkeys(NAMES, np.zeros(BATCH, "f4"))
        chex.assert_trees_all_close(loss_terms(perfect(target), target), zeros, atol=1e-5)

    def test_truth_scores_zero_when_blended_with_itself(self):
        target = drawn_target()
        target = target._replace(sample_factor=3.0 * target.factor)
        terms = loss_terms(perfect(target), target, covariance=BLEND)
        chex.assert_trees_all_close(terms["covariance"], np.zeros(BATCH, "f4"), atol=1e-5)

    @parameterized.parameters(*NAMES)
    def test_each_error_changes_one_term(self, wrong):
        """An error changes its own term in every scene, and no other term."""
        target = drawn_target()
        prediction = perfect(target)

        def everywhere(change):
            return prediction._replace(decisions=stacked(*map(change, rounds_of(prediction))))

        changed = {
            "covariance": lambda: prediction._replace(factor=random_prediction(target).factor),
            "existence": lambda: everywhere(lambda d: d._replace(keep=-d.keep, add=-d.add)),
            "offset": lambda: everywhere(lambda d: d._replace(offset=d.offset + 1.0)),
            "count": lambda: prediction._replace(
                count_logits=jnp.roll(prediction.count_logits, 1, axis=-1)
            ),
        }[wrong]()
        terms = dict(loss_terms(changed, target))
        self.assertGreater(float(jnp.min(terms.pop(wrong))), 0.01)
        zeros = dict.fromkeys(terms, np.zeros(BATCH, "f4"))
        chex.assert_trees_all_close(terms, zeros, atol=1e-5)

    @parameterized.parameters(1e-4, 1e4, -1.0, 1j)
    def test_common_scale(self, scale):
        """A common scale of the predicted, the sample and the true factor has no effect."""
        target = drawn_target()
        prediction = random_prediction(target)
        expected = loss_terms(prediction, target, covariance=BLEND)
        scale = jnp.asarray(scale, "c8")
        scaled_prediction = prediction._replace(factor=scale * prediction.factor)
        scaled_target = target._replace(
            factor=scale * target.factor, sample_factor=scale * target.sample_factor
        )
        for result in (
            loss_terms(scaled_prediction, target, covariance=BLEND),
            loss_terms(prediction, scaled_target, covariance=BLEND),
        ):
            chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-5)

    @parameterized.parameters("truth", "estimate", "candidates")
    def test_order(self, shuffled):
        target = drawn_target()
        prediction = random_prediction(target)
        expected = loss_terms(prediction, target)
        order, other = np.array([2, 0, 1]), np.array([3, 0, 2, 1])
        if shuffled == "truth":
            target = target._replace(
                factor=target.factor[..., order],
                coordinates=target.coordinates[:, order],
                active=target.active[:, order],
            )

        def change(decision):
            if shuffled == "estimate":
                names, index = ("sources", "active", "keep"), order
            else:
                names, index = ("candidates", "add", "offset"), other
            return decision._replace(**{name: getattr(decision, name)[:, index] for name in names})

        if shuffled != "truth":
            prediction = prediction._replace(decisions=stacked(*map(change, rounds_of(prediction))))
        if shuffled == "estimate":
            prediction = prediction._replace(factor=prediction.factor[..., order])
        result = loss_terms(prediction, target)
        chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-5)


class CovarianceNmseTest(absltest.TestCase):
    def test_matches_dense(self):
        """Without shrinkage the term is the NMSE of the covariances."""
        target = drawn_target()
        prediction = random_prediction(target)

        def normalized(factor):
            factor = np.asarray(factor, complex)
            matrix = factor @ factor.swapaxes(1, 2).conj()
            return matrix / np.trace(matrix, axis1=1, axis2=2)[:, None, None]

        estimate, truth = normalized(prediction.factor), normalized(target.factor)
        expected = (
            np.linalg.norm(estimate - truth, axis=(1, 2)) ** 2
            / np.linalg.norm(truth, axis=(1, 2)) ** 2
        )
        bare = config_lib.CovarianceConfig(shrinkage=0.0)
        result = loss_terms(prediction, target, covariance=bare)["covariance"]
        chex.assert_trees_all_close(result, expected.astype("f4"), rtol=1e-4)


class CountTest(absltest.TestCase):
    def test_cross_entropy(self):
        """-log softmax of class K - 1, by hand."""
        logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]], "f4")
        expected = [np.log(np.exp([1.0, 2.0, 0.5]).sum()) - 2.0, np.log(3.0)]
        result = jax.jit(losses.count_cross_entropy)(logits, jnp.array([2, 3]))
        chex.assert_trees_all_close(result, np.array(expected, "f4"), rtol=1e-5)


class MatchTest(parameterized.TestCase):
    @parameterized.parameters((4, 3), (2, 5), (1, 1))
    def test_greedy(self, rows, columns):
        """Sources compete in 200 crowded scenes with empty slots."""
        random = np.random.default_rng(rows)
        estimate = random.uniform(0.0, 4.0, (200, rows, 3)).astype("f4")
        truth = random.uniform(0.0, 4.0, (200, columns, 3)).astype("f4")
        estimated = (random.random((200, rows)) < 0.8).astype("f4")
        true = (random.random((200, columns)) < 0.8).astype("f4")
        found, explained = map(np.asarray, match(estimate, estimated, truth, true))
        counts = set()
        for scene in range(200):
            expected = numpy_match(estimate[scene], estimated[scene], truth[scene], true[scene])
            result = set(np.flatnonzero(found[scene])), set(np.flatnonzero(explained[scene]))
            self.assertEqual(result, expected, scene)
            counts.add(len(expected[0]))
        self.assertEqual(counts, set(range(min(rows, columns) + 1)))

    def test_one_to_one_nearest_first(self):
        """The estimate at 1 is nearer to 1.5, so 0 and the estimate at 3.6 stay unmatched."""
        estimate, truth = np.zeros((2, 2, 3), "f4")
        estimate[:, 0], truth[:, 0] = [1.0, 3.6], [0.0, 1.5]
        found, explained = match(estimate, np.ones(2), truth, np.ones(2))
        chex.assert_trees_all_equal(found, np.array([True, False]))
        chex.assert_trees_all_equal(explained, np.array([False, True]))

    @parameterized.parameters((0.0, True), (0.999, True), (1.0, False), (1.001, False))
    def test_gate(self, share, expected):
        """A distance of exactly `SAME` does not match."""
        estimate = np.array([[0.0, share * losses.SAME, 0.0]], "f4")
        result = match(estimate, np.ones(1), np.zeros((1, 3), "f4"), np.ones(1))
        self.assertEqual((bool(result[0][0]), bool(result[1][0])), (expected, expected))

    def test_empty(self):
        places = np.zeros((2, 3), "f4")
        for left, right in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
            found, explained = match(places, np.full(2, left), places, np.full(2, right))
            self.assertFalse(bool(jnp.any(found)) or bool(jnp.any(explained)))


class LabelsTest(parameterized.TestCase):
    def test_random_decisions(self):
        """Labels match a loop over sources; some candidates are nearest to two."""
        target = drawn_target(batch=200)
        crowded = np.random.default_rng(0).uniform(0.0, 5.0, (200, SOURCES, 3)).astype("f4")
        target = target._replace(coordinates=jnp.asarray(crowded))
        decision = random_decision(target)
        result = jax.tree.map(np.asarray, labels(decision, target))
        parts = jax.tree.map(np.asarray, (decision, target.coordinates, target.active))
        sizes = set()
        for scene in range(200):
            real, added = numpy_labels(*jax.tree.map(lambda leaf: leaf[scene], parts))  # noqa: B023
            self.assertEqual(set(np.flatnonzero(result.keep[scene])), real, scene)
            self.assertEqual(set(np.flatnonzero(result.add[scene])), set(added), scene)
            for candidate, offset in added.items():
                found = result.offset[scene, candidate]
                chex.assert_trees_all_close(found, offset.astype("f4"), atol=1e-5)
            sizes.add(len(added))
        self.assertGreaterEqual(sizes, {0, 1, 2})

    def scene(self, truth, sources, candidates):
        """Return a scene on a line: first coordinates, None for empty slots."""

        def places(values):
            line = np.array([0.0 if value is None else value for value in values], "f4")
            there = np.array([value is not None for value in values], "f4")
            return np.pad(line[:, None], [(0, 0), (0, 2)]), there

        target = jax.tree.map(lambda leaf: leaf[0], drawn_target(batch=1, sources=len(truth)))
        coordinates, active = places(truth)
        target = target._replace(coordinates=coordinates, active=active)
        fitted, there = places(sources)
        offered, _ = places(candidates)
        decision = losses.Decision(
            fitted, there, np.zeros_like(there), offered, np.zeros(len(offered)), 0.0 * offered
        )
        return labels(decision, target)

    def test_two_missing_sources_share_a_candidate(self):
        """It moves to the nearer one in any order; the other gets none."""
        for truth in ((1.5, -1.0), (-1.0, 1.5)):
            result = self.scene(truth, (None, None), (0.0, 5.0))
            chex.assert_trees_all_equal(result.add, np.array([1.0, 0.0], "f4"))
            chex.assert_trees_all_close(result.offset[0], np.array([-1.0, 0.0, 0.0], "f4"))

    @parameterized.parameters((0.999, 1.0), (1.0, 0.0), (1.001, 0.0))
    def test_reach(self, share, expected):
        """A distance of exactly `REACH` is too far."""
        result = self.scene((share * losses.REACH,), (None,), (0.0, -1.0))
        chex.assert_trees_all_equal(result.add, np.array([expected, 0.0], "f4"))

    def test_explained_sources_need_no_candidate(self):
        """A candidate at a fitted source is wrong; an empty slot there explains nothing."""
        result = self.scene((0.0, 8.0), (1.0, None), (0.0, 8.0))
        chex.assert_trees_all_equal(result.keep, np.array([1.0, 0.0], "f4"))
        chex.assert_trees_all_equal(result.add, np.array([0.0, 1.0], "f4"))

    def test_padding_needs_no_candidate(self):
        """Empty slots of the truth are at 0."""
        result = self.scene((8.0, None), (0.5, None), (0.0, 6.0))
        chex.assert_trees_all_equal(result.keep, np.zeros(2, "f4"))
        chex.assert_trees_all_equal(result.add, np.array([0.0, 1.0], "f4"))

    def test_a_source_is_explained_once(self):
        """The second of two estimates of one source is false."""
        result = self.scene((0.0, 8.0), (1.0, -0.5), (4.0,))
        chex.assert_trees_all_equal(result.keep, np.array([0.0, 1.0], "f4"))


class DecisionLossTest(absltest.TestCase):
    def label(self, **fields):
        keep, add = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0, 0.0])
        return losses.Labels(keep, add, jnp.zeros((CANDIDATES, 3)))._replace(**fields)

    def decision(self, **fields):
        decision = jax.tree.map(lambda leaf: 0.0 * leaf[0], random_decision(drawn_target(1)))
        return decision._replace(**fields)

    def test_existence_by_hand(self):
        """log 2 at probability 1/2, log(1 + e) for a wrong logit of 1; empty slots do not count."""
        decision = self.decision(
            active=jnp.array([1.0, 1.0, 0.0]),
            keep=jnp.array([0.0, 1.0, 5.0]),
            add=jnp.array([0.0, 0.0, 0.0, 1.0]),
        )
        expected = (4 * np.log(2.0) + 2 * np.log(1.0 + np.e)) / SOURCES
        result = jax.jit(losses.existence_cross_entropy)(decision, self.label())
        self.assertAlmostEqual(float(result), expected, places=5)

    def test_offset_by_hand(self):
        """Huber: 0.5^2 / 2 + (3 - 1/2); offsets of wrong candidates do not count."""
        offset = jnp.full((CANDIDATES, 3), 7.0).at[1].set(jnp.array([0.5, -3.0, 0.0]))
        result = jax.jit(losses.offset_error)(self.decision(offset=offset), self.label())
        self.assertAlmostEqual(float(result), (0.125 + 2.5) / SOURCES, places=5)


class CornersTest(parameterized.TestCase):
    """Value and gradient of every term are finite at every corner of the domain."""

    def assert_finite(self, prediction, target):
        chex.assert_tree_all_finite(value_and_gradients(prediction, target))

    @parameterized.parameters(1, SOURCES)
    def test_number_of_sources(self, sources):
        """A single slot, and scenes of one to K_max sources."""
        target = drawn_target(sources=sources)
        zeros = np.zeros(BATCH, "f4")
        for prediction in (perfect(target), random_prediction(target)):
            self.assert_finite(prediction, target)
        for term in loss_terms(perfect(target), target).values():
            chex.assert_trees_all_close(term, zeros, atol=1e-5)

    @parameterized.parameters(
        "coinciding", "no_power", "one_power", "no_snapshots", "no_source", "only_noise", "no_noise"
    )
    def test_truth(self, kind):
        target = drawn_target()
        zeros = jnp.zeros_like(target.active)
        target = target._replace(
            **{
                "coinciding": {
                    "coordinates": jnp.zeros_like(target.coordinates),
                    "factor": jnp.repeat(target.factor[..., :1], SOURCES, axis=-1),
                    "active": zeros + 1.0,
                },
                "no_power": {"factor": jnp.zeros_like(target.factor)},
                "one_power": {"factor": target.factor.at[..., 1:].set(0.0)},
                "no_snapshots": {"sample_factor": jnp.zeros_like(target.sample_factor)},
                "no_source": {"active": zeros, "factor": jnp.zeros_like(target.factor)},
                "only_noise": {"snr": np.full(BATCH, 1e-30, "f4")},
                "no_noise": {"snr": np.full(BATCH, 1e30, "f4")},
            }[kind]
        )
        for prediction in (perfect(target), random_prediction(target)):
            self.assert_finite(prediction, target)

    @parameterized.parameters("zero", "rank_one", "one_element", "tiny", "huge")
    def test_factor(self, kind):
        target = drawn_target()
        prediction = random_prediction(target)
        factor = {
            "zero": 0.0 * prediction.factor,
            "rank_one": jnp.repeat(prediction.factor[..., :1], SOURCES, axis=-1),
            "one_element": prediction.factor.at[:, 1:].set(0.0),
            "tiny": 1e-8 * prediction.factor,
            "huge": 1e8 * prediction.factor,
        }[kind]
        self.assert_finite(prediction._replace(factor=factor), target)

    @parameterized.parameters("coinciding", "on_the_truth", "no_estimate", "far", "sure_and_wrong")
    def test_decisions(self, kind):
        target = drawn_target()
        prediction = random_prediction(target)

        def change(decision):
            none = jnp.zeros_like(decision.active)
            places = jnp.zeros_like(decision.sources), jnp.zeros_like(decision.candidates)
            on = jnp.concatenate([target.coordinates, target.coordinates[:, :1]], axis=1)
            return decision._replace(
                **{
                    "coinciding": {"sources": places[0], "candidates": places[1]},
                    "on_the_truth": {"sources": target.coordinates, "candidates": on},
                    "no_estimate": {"active": none, "sources": places[0]},
                    "far": {"sources": places[0] + 1e6, "candidates": places[1] + 1e6},
                    "sure_and_wrong": {
                        "keep": 1e4 * decision.keep,
                        "add": 1e4 * decision.add,
                        "offset": 1e4 * decision.offset,
                    },
                }[kind]
            )

        prediction = prediction._replace(decisions=stacked(*map(change, rounds_of(prediction))))
        if kind == "sure_and_wrong":
            wrong = jnp.roll(jax.nn.one_hot(target.num_sources - 1, SOURCES), 1, axis=-1)
            prediction = prediction._replace(count_logits=1e4 * wrong)
        self.assert_finite(prediction, target)


class LossTermsTest(parameterized.TestCase):
    def test_sum_is_linear_in_the_weights(self):
        target = drawn_target()
        prediction = random_prediction(target)
        terms = loss_terms(prediction, target)
        self.assertEqual(set(terms), set(NAMES))
        ones = loss_terms(prediction, target, config_lib.LossConfig(1.0, 1.0, 1.0, 1.0))
        total = sum(getattr(ALL_TERMS, name) * term for name, term in ones.items())
        chex.assert_trees_all_close(sum(terms.values()), total, rtol=1e-5)
        chex.assert_shape(list(terms.values()), (BATCH,))

    def test_terms_average_over_rounds(self):
        """Existence and offset are means over the rounds."""
        target = drawn_target()
        prediction = random_prediction(target)
        both = loss_terms(prediction, target)
        single = [
            loss_terms(prediction._replace(decisions=stacked(decision)), target)
            for decision in rounds_of(prediction)
        ]
        for name in ("existence", "offset"):
            expected = (single[0][name] + single[1][name]) / 2.0
            chex.assert_trees_all_close(both[name], expected, rtol=1e-5)

    @parameterized.parameters(*NAMES)
    def test_terms_of_weight_zero_are_not_computed(self, name):
        """A term does not read the inputs of the other terms."""
        target = drawn_target()
        prediction = random_prediction(target)

        def without(*names):
            """Return the prediction without the inputs that only these terms read."""
            fields = {"existence": ("keep", "add"), "offset": ("offset",)}
            blank = {field: None for other in names for field in fields.get(other, ())}
            return prediction._replace(
                factor=None if "covariance" in names else prediction.factor,
                count_logits=None if "count" in names else prediction.count_logits,
                decisions=prediction.decisions._replace(**blank),
            )

        others = [other for other in NAMES if other != name]
        for kept, left_out in (([name], others), (others, [name])):
            weights = config_lib.LossConfig(**{other: float(other in kept) for other in NAMES})
            terms = loss_terms(without(*left_out), target, weights)
            full = loss_terms(prediction, target, config_lib.LossConfig(1.0, 1.0, 1.0, 1.0))
            self.assertEqual(set(terms), set(kept))
            chex.assert_trees_all_close(terms, {k: full[k] for k in kept}, rtol=1e-5)

    def test_a_single_class_has_no_loss(self):
        target = drawn_target(sources=1)
        self.assertNotIn("count", loss_terms(random_prediction(target), target))


def places(batch, sources, seed=0):
    """Draw positions in units of resolution, far from each other."""
    random = np.random.default_rng(seed)
    cells = np.stack([random.permutation(64)[:sources] for _ in range(batch)])
    return 8.0 * np.stack(np.unravel_index(cells, (4, 4, 4)), axis=-1).astype("f4")


class PositionErrorTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.truth = places(6, 4)
        self.true = (np.arange(4) < np.array([[1], [2], [3], [4], [4], [0]])).astype("f4")
        self.error = jax.jit(losses.position_error)

    def test_zero_at_the_truth_in_any_order(self):
        order = [2, 0, 3, 1]
        value = self.error(self.truth[:, order], self.true[:, order], self.truth, self.true)
        chex.assert_trees_all_close(value, np.zeros(6, "f4"))

    def test_best_of_all_pairings(self):
        """The result matches a search over all orders for ambiguous estimates."""
        random = np.random.default_rng(1)
        truth = random.normal(size=(20, 4, 3)).astype("f4")
        estimate = random.normal(size=(20, 4, 3)).astype("f4")
        every = np.ones((20, 4), "f4")
        squares = np.sum((truth[:, :, None] - estimate[:, None]) ** 2, axis=-1)
        squares = np.minimum(squares, losses.REACH**2)
        orders = np.array(list(itertools.permutations(range(4))))
        means = squares[:, np.arange(4), orders].mean(axis=-1)
        expected = np.sqrt(means.min(axis=1))
        chex.assert_trees_all_close(self.error(estimate, every, truth, every), expected, rtol=1e-5)

    def test_missed_source_counts_as_reach(self):
        """One source has an error of 0.3, one is missed: sqrt((0.09 + REACH^2) / 2)."""
        truth, true = self.truth[1:2], self.true[1:2]
        found = (np.arange(4) < 1).astype("f4")[None]
        value = self.error(truth + np.array([0.3, 0.0, 0.0], "f4"), found, truth, true)
        expected = np.sqrt((0.09 + losses.REACH**2) / 2)
        chex.assert_trees_all_close(value, np.array([expected], "f4"), rtol=1e-5)

    def test_derivatives_are_finite(self):
        """At the truth, far away, and without sources."""
        for estimate in (self.truth, self.truth + 50.0):
            slope = jax.jit(
                jax.grad(lambda e: jnp.sum(self.error(e, self.true, self.truth, self.true)))
            )
            chex.assert_trees_all_close(slope(estimate), np.zeros_like(estimate))


class SubspaceMissedTest(absltest.TestCase):
    def test_fraction_of_dimensions(self):
        """An estimate with one of two orthonormal directions misses half."""
        basis = np.linalg.qr(complex_normal(np.random.default_rng(0), ELEMENTS, 3))[0]
        truth = np.concatenate([basis[:, :2], np.zeros((ELEMENTS, 1), "c8")], axis=1)
        missed = jax.jit(losses.subspace_missed)
        for estimate, expected in ((basis[:, [1, 0]], 0.0), (basis[:, 1:], 0.5)):
            mixed = estimate @ np.array([[3.0, 1.0, 2.0], [0.0, 0.1, 1.0]], "c8")
            value = missed(mixed, truth, np.array(2))
            self.assertAlmostEqual(float(value), expected, delta=1e-4)


if __name__ == "__main__":
    absltest.main()
