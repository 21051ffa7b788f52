"""Loss identities: zero at the truth, blind to scale and order, finite at every corner."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from ris_jax import arrays, losses, scenes
from ris_jax import config as config_lib

SOURCES, BATCH = 5, 16
SYSTEM = config_lib.SystemConfig(rows=5, columns=6)
SCENE = config_lib.SceneConfig(max_sources=SOURCES)
ALL_TERMS = config_lib.LossConfig(
    covariance=1.0, auxiliary=0.7, subspace=0.5, position=0.3, count=0.2
)
NO_BLEND = config_lib.CovarianceConfig()
BLEND = config_lib.CovarianceConfig(blend=0.3)
CERTAIN = 40.0  # logit of the right count: its cross-entropy is e^-40


def make_target(truth, sample_factor=None):
    """What the losses compare with, for a batch of truths."""
    factor = scenes.steering_matrix(truth, arrays.element_positions(SYSTEM), SYSTEM)
    return losses.Target(
        factor=factor,
        sample_factor=jnp.sum(factor, axis=-1, keepdims=True)
        if sample_factor is None
        else sample_factor,
        snr=10.0 ** (truth.snr_db / 10.0),
        snr_db=truth.snr_db,
        parameters=losses.normalized_parameters(truth, SCENE),
        active=scenes.active_sources(truth),
        num_sources=truth.num_sources,
    )


def drawn_target(batch=BATCH):
    keys = jax.random.split(jax.random.key(0), batch)
    return make_target(jax.vmap(lambda key: scenes.sample_truth(key, SCENE))(keys))


def perfect(target):
    """The prediction that is the truth."""
    return losses.Prediction(
        factor=target.factor,
        count_logits=CERTAIN * jax.nn.one_hot(target.num_sources - 1, SOURCES),
        parameters=target.parameters,
    )


def random_prediction(batch=BATCH, seed=0):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.normal(size=shape).astype("f4")

    elements = SYSTEM.num_elements
    return losses.Prediction(
        factor=jnp.asarray(
            normal(batch, elements, SOURCES) + 1j * normal(batch, elements, SOURCES)
        ),
        count_logits=jnp.asarray(normal(batch, SOURCES)),
        parameters=jnp.asarray(normal(batch, SOURCES, 3)),
    )


@functools.partial(jax.jit, static_argnames=("weights", "covariance"))
def loss_terms(prediction, target, weights=ALL_TERMS, covariance=NO_BLEND):
    return losses.loss_terms(prediction, target, weights, covariance)


@functools.partial(jax.jit, static_argnames="covariance")
def value_and_gradients(prediction, target, covariance):
    """Every term's values, and the gradient of each term's sum on its own."""

    def total(prediction, name):
        terms = losses.loss_terms(prediction, target, ALL_TERMS, covariance)
        return jnp.sum(terms[name]), terms

    results = {
        name: jax.value_and_grad(total, has_aux=True)(prediction, name)
        for name in ("covariance", "auxiliary", "subspace", "position", "count")
    }
    return results["covariance"][0][1], {name: result[1] for name, result in results.items()}


class IdentitiesTest(parameterized.TestCase):
    def test_truth_scores_zero(self):
        target = drawn_target()
        zeros = {
            name: np.zeros(BATCH, "f4")
            for name in ("covariance", "auxiliary", "subspace", "position", "count")
        }
        chex.assert_trees_all_close(loss_terms(perfect(target), target), zeros, atol=1e-5)

    def test_truth_scores_zero_when_blended_with_itself(self):
        target = drawn_target()
        target = target._replace(sample_factor=3.0 * target.factor)
        terms = loss_terms(perfect(target), target, covariance=BLEND)
        chex.assert_trees_all_close(terms["covariance"], np.zeros(BATCH, "f4"), atol=1e-5)

    def test_terms_see_what_is_wrong(self):
        """A random prediction is far from zero in every term, in every scene."""
        for name, term in loss_terms(random_prediction(), drawn_target()).items():
            self.assertGreater(float(jnp.min(term)), 0.01, name)

    @parameterized.parameters(1e-4, 1e4, -1.0, 1j)
    def test_common_scale(self, scale):
        """Of the predicted factor, of the snapshots' factor and of the true one."""
        target, prediction = drawn_target(), random_prediction()
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

    def test_order_of_sources(self):
        target, prediction = drawn_target(), random_prediction()
        expected = loss_terms(prediction, target)
        order = np.array([3, 0, 4, 1, 2])
        shuffled_target = target._replace(
            factor=target.factor[..., order],
            parameters=target.parameters[:, order],
            active=target.active[:, order],
        )
        shuffled_prediction = prediction._replace(
            factor=prediction.factor[..., order], parameters=prediction.parameters[:, order]
        )
        for result in (
            loss_terms(prediction, shuffled_target),
            loss_terms(shuffled_prediction, target),
        ):
            chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-5)

    def test_normalized_parameters(self):
        """Limits map to -1 and 1: azimuth +-60, elevation +-30 degrees, 0.5 m is 1, 10 m is -1."""
        truth = scenes.Truth(
            azimuth=jnp.deg2rad(jnp.array([-60.0, 60.0])),
            elevation=jnp.deg2rad(jnp.array([30.0, -30.0])),
            source_range=jnp.array([0.5, 10.0]),
            amplitude=jnp.ones(2), num_sources=jnp.array(2), snr_db=jnp.array(0.0))  # fmt: skip
        expected = np.array([[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]], "f4")
        result = losses.normalized_parameters(truth, SCENE)
        chex.assert_trees_all_close(result, expected, atol=1e-5)


class CovarianceNmseTest(absltest.TestCase):
    def test_matches_dense(self):
        target, prediction = drawn_target(), random_prediction()

        def normalized(factor):
            factor = np.asarray(factor, complex)
            matrix = factor @ factor.swapaxes(1, 2).conj()
            return matrix / np.trace(matrix, axis1=1, axis2=2)[:, None, None]

        estimate, truth = normalized(prediction.factor), normalized(target.factor)
        expected = (
            np.linalg.norm(estimate - truth, axis=(1, 2)) ** 2
            / np.linalg.norm(truth, axis=(1, 2)) ** 2
        )
        result = loss_terms(prediction, target)["auxiliary"] / ALL_TERMS.auxiliary
        chex.assert_trees_all_close(result, expected.astype("f4"), rtol=1e-4)


class CountTest(absltest.TestCase):
    def test_cross_entropy(self):
        """-log softmax of class K - 1, by hand."""
        logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]], "f4")
        expected = [np.log(np.exp([1.0, 2.0, 0.5]).sum()) - 2.0, np.log(3.0)]
        result = jax.jit(losses.count_cross_entropy)(logits, jnp.array([2, 3]))
        chex.assert_trees_all_close(result, np.array(expected, "f4"), rtol=1e-5)


class CornersTest(parameterized.TestCase):
    """Every corner of the domain has a finite value and gradient, term by term."""

    def truth(self, **fields):
        """Three separated sources of five, changed by `fields`."""
        padded = jnp.arange(SOURCES) < fields.get("num_sources", 3)
        base = scenes.Truth(
            azimuth=jnp.linspace(-1.0, 1.0, SOURCES),
            elevation=jnp.linspace(0.5, -0.5, SOURCES),
            source_range=jnp.linspace(0.6, 9.0, SOURCES),
            amplitude=jnp.where(padded, 1.0 / jnp.linspace(0.6, 9.0, SOURCES), 0.0),
            num_sources=jnp.array(3),
            snr_db=jnp.array(10.0),
        )
        changed = {name: jnp.asarray(value) for name, value in fields.items()}
        return jax.tree.map(lambda leaf: leaf[None], base._replace(**changed))

    def assert_finite(self, prediction, target):
        for covariance in (NO_BLEND, BLEND):
            terms, gradients = value_and_gradients(prediction, target, covariance)
            chex.assert_tree_all_finite((terms, gradients))

    @parameterized.named_parameters(
        ("one_source", {"num_sources": 1}),
        ("all_sources", {"num_sources": SOURCES}),
        ("nearest", {"source_range": jnp.full(SOURCES, SCENE.range_min)}),
        ("farthest", {"source_range": jnp.full(SOURCES, SCENE.range_max)}),
        ("plane_waves", {"source_range": jnp.full(SOURCES, jnp.inf)}),
        ("coinciding", dict.fromkeys(scenes.Truth._fields[:4], jnp.ones(SOURCES))),
        ("boresight", {"azimuth": jnp.zeros(SOURCES), "elevation": jnp.zeros(SOURCES)}),
        ("least_snr", {"snr_db": SCENE.snr_min_db}),
        ("greatest_snr", {"snr_db": SCENE.snr_max_db}),
        ("only_noise", {"snr_db": -300.0}),
        ("no_noise", {"snr_db": 300.0}),
        ("silent_sources", {"amplitude": jnp.zeros(SOURCES)}),
        ("one_silent_source", {"amplitude": jnp.array([1.0, 0.0, 0.5, 0.0, 0.0])}),
    )  # fmt: skip
    def test_truth(self, fields):
        target = make_target(self.truth(**fields))
        for prediction in (perfect(target), random_prediction(1)):
            self.assert_finite(prediction, target)

    @parameterized.parameters("zero", "rank_one", "one_element", "tiny", "huge")
    def test_prediction(self, kind):
        prediction = random_prediction(1)
        factor = {
            "zero": 0.0 * prediction.factor,
            "rank_one": jnp.repeat(prediction.factor[..., :1], SOURCES, axis=-1),
            "one_element": prediction.factor.at[:, 1:].set(0.0),
            "tiny": 1e-8 * prediction.factor,
            "huge": 1e8 * prediction.factor,
        }[kind]
        prediction = prediction._replace(factor=factor)
        self.assert_finite(prediction, make_target(self.truth()))

    def test_zero_snapshots(self):
        target = make_target(self.truth(), jnp.zeros((1, SYSTEM.num_elements, 1), "c8"))
        self.assert_finite(random_prediction(1), target)

    def test_coinciding_estimates(self):
        prediction = random_prediction(1)
        prediction = prediction._replace(parameters=jnp.zeros_like(prediction.parameters))
        self.assert_finite(prediction, make_target(self.truth()))

    def test_confident_and_wrong(self):
        prediction = random_prediction(1)._replace(
            count_logits=1e4 * jax.nn.one_hot(jnp.array([4]), SOURCES)
        )
        self.assert_finite(prediction, make_target(self.truth()))


class SetDistanceTest(parameterized.TestCase):
    @parameterized.parameters(5, 8)
    def test_best_assignment(self, sources):
        """Permutations up to 6 sources, the Hungarian algorithm beyond, against SciPy's."""
        random = np.random.default_rng(sources)
        estimate, truth = random.normal(size=(2, 20, sources, 3)).astype("f4")
        counts = random.integers(1, sources + 1, 20)
        active = (np.arange(sources) < counts[:, None]).astype("f4")
        expected = []
        for guesses, places, count in zip(estimate, truth, counts, strict=True):
            cost = np.mean((guesses[:, None] - places[None, :count]) ** 2, axis=-1)
            expected.append(cost[scipy.optimize.linear_sum_assignment(cost)].mean())
        result = jax.jit(losses.set_distance)(estimate, truth, active)
        chex.assert_trees_all_close(result, np.array(expected, "f4"), rtol=1e-5)
        gradient = jax.jit(jax.grad(lambda e: jnp.sum(losses.set_distance(e, truth, active))))
        chex.assert_tree_all_finite(gradient(estimate))

    @parameterized.parameters(5, 8)
    def test_no_number_passes_through(self, sources):
        """optax's Hungarian algorithm never ends on a NaN cost; ours says that it was one."""
        estimate = np.random.default_rng(0).normal(size=(20, sources, 3)).astype("f4")
        truth, active = estimate[:, ::-1].copy(), np.ones((20, sources), "f4")
        estimate[0, 1, 2] = np.nan
        estimate[1] = np.inf
        result = np.asarray(jax.jit(losses.set_distance)(estimate, truth, active))
        self.assertFalse(np.isfinite(result[:2]).any())
        chex.assert_trees_all_close(result[2:], np.zeros(18, "f4"), atol=1e-6)

    def test_padding_costs_nothing(self):
        estimate = jnp.zeros((1, 5, 3))
        truth = jnp.zeros((1, 5, 3)).at[:, 2:].set(100.0)
        active = jnp.array([[1.0, 1.0, 0.0, 0.0, 0.0]])
        self.assertEqual(float(jax.jit(losses.set_distance)(estimate, truth, active)[0]), 0.0)
        self.assertEqual(float(losses.set_distance(estimate, truth, 0 * active)[0]), 0.0)


class LossTermsTest(parameterized.TestCase):
    def test_sum_is_linear_in_the_weights(self):
        target, prediction = drawn_target(), random_prediction()
        terms = loss_terms(prediction, target)
        ones = loss_terms(prediction, target, config_lib.LossConfig(1.0, 1.0, 1.0, 1.0, 1.0))
        total = sum(getattr(ALL_TERMS, name) * term for name, term in ones.items())
        chex.assert_trees_all_close(sum(terms.values()), total, rtol=1e-5)
        chex.assert_shape(list(terms.values()), (BATCH,))

    @parameterized.parameters("covariance", "auxiliary", "subspace", "position", "count")
    def test_weight_zero_leaves_out(self, name):
        """One term alone, then all but that one."""
        target, prediction = drawn_target(), random_prediction()
        names = ("covariance", "auxiliary", "subspace", "position", "count")

        def terms(**weights):
            weights = config_lib.LossConfig(**dict.fromkeys(names, 0.0) | weights)
            return set(
                jax.eval_shape(lambda: losses.loss_terms(prediction, target, weights, NO_BLEND))
            )

        self.assertEqual(terms(**{name: 1.0}), {name})
        others = {other: 1.0 for other in names if other != name}
        self.assertEqual(terms(**others), set(others))


if __name__ == "__main__":
    absltest.main()
