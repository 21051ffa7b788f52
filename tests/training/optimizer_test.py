"""Optimizer nest on small problems with results by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.small import jit

from ris_jax import config as config_lib
from ris_jax.training import optimizer

_PARAMS = {
    "head_a": {"kernel": np.ones((2, 2), "f4")},
    "blocks": {"kernel": np.full((2, 3), 2.0, "f4")},
}


def _config(**fields) -> config_lib.OptimizerConfig:
    defaults = {"method": "adamw", "learning_rate": 0.1, "clip_norm": 1e6}
    return config_lib.OptimizerConfig(**defaults | fields)


def _gradients(value: float):
    return jax.tree.map(lambda p: np.full(p.shape, value, p.dtype), _PARAMS)


def _layout(config=None):
    return optimizer.layout(_PARAMS, (config or _config()).method)


def _create(config, total_updates=10):
    """Create the nest for trees, packed before it and unpacked after it."""
    layout, hyper = _layout(config), optimizer.hyperparameters(config, total_updates)
    nest = optimizer.create_optimizer(config, layout)

    def update(grads, state, params, **extra):
        grads, params = layout.pack(grads), layout.pack(params)
        packed, state = nest.update(grads, state, params, hyper=hyper, **extra)
        return layout.unpack(packed), state

    return optax.GradientTransformationExtraArgs(
        lambda params: nest.init(layout.pack(params)), update
    )


def _run(tx, gradients, **extra):
    """Return parameters and state after each of a sequence of gradients, under jit.

    Every other argument of the update is also a sequence.
    """

    @jit
    def step(params, state, grads, extra):
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    params, state = _PARAMS, jit(tx.init)(_PARAMS)
    history = [(params, state)]
    for number, grads in enumerate(gradients):
        now = {name: values[number] for name, values in extra.items()}
        params, state = step(params, state, grads, now)
        history.append((params, state))
    return history


def test_groups_follow_the_module_name():
    groups = optimizer.parameter_groups(_PARAMS)
    assert groups == {"head_a": {"kernel": "head"}, "blocks": {"kernel": "backbone"}}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_microbatch_in_a_window_leaves_everything_bit_identical(bad):
    tx = _create(_config(accumulation=3), total_updates=10)
    with_bad = _run(tx, [_gradients(1.0), _gradients(bad), _gradients(2.0), _gradients(6.0)])
    without = _run(tx, [_gradients(1.0), _gradients(2.0), _gradients(6.0)])
    (params_before, state_before), (params_after, state_after) = with_bad[1], with_bad[2]
    # Bit-identical: parameters, moments, schedule counts and the accumulator.
    chex.assert_trees_all_equal(params_after, params_before)
    chex.assert_trees_all_equal(state_after.inner_state, state_before.inner_state)
    progress = optimizer.counters(state_after)
    assert int(progress.skipped) == 1
    assert int(progress.skipped_in_a_row) == 1
    # The window's update is the mean of its three finite microbatches.
    chex.assert_trees_all_equal(with_bad[-1][0], without[-1][0])
    assert int(optimizer.counters(with_bad[-1][1]).updates) == 1


def test_update_is_the_mean_of_the_window():
    accumulated = _run(
        _create(_config(accumulation=3), 10),
        [_gradients(1.0), _gradients(2.0), _gradients(6.0)],
    )
    at_once = _run(_create(_config(accumulation=1), 10), [_gradients(3.0)])
    chex.assert_trees_all_close(accumulated[-1][0], at_once[-1][0], rtol=1e-6)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_partial_window_is_the_mean_of_its_microbatches(method):
    """7 microbatches with accumulation 4 make the updates of their two means."""
    tx = _create(_config(method=method, accumulation=4), 10)
    values = [1.0, 5.0, 2.0, 4.0, 1.0, 2.0, 6.0]
    history = _run(tx, map(_gradients, values), epoch_ends=[False] * 6 + [True])
    updates = [int(optimizer.counters(state).updates) for _, state in history]
    assert updates == [0, 0, 0, 0, 1, 1, 1, 2]
    means = _run(_create(_config(method=method), 10), [_gradients(3.0), _gradients(3.0)])
    chex.assert_trees_all_close(history[4][0], means[1][0], rtol=1e-6)
    chex.assert_trees_all_close(history[7][0], means[2][0], rtol=1e-6)
    # The next window starts empty.
    multi = history[7][1].inner_state
    assert int(multi.mini_step) == 0
    chex.assert_trees_all_equal(multi.acc_grads, jax.tree.map(jnp.zeros_like, multi.acc_grads))


def test_partial_window_stays_open_if_the_last_microbatch_is_non_finite():
    tx = _create(_config(accumulation=3), 10)
    gradients = [_gradients(value) for value in (1.0, np.nan, 2.0, 6.0)]
    history = _run(tx, gradients, epoch_ends=[False, True, False, False])
    chex.assert_trees_all_equal(history[2][1].inner_state, history[1][1].inner_state)
    whole = _run(tx, [gradients[0], *gradients[2:]], epoch_ends=[False] * 3)
    chex.assert_trees_all_equal(history[-1][0], whole[-1][0])
    assert int(optimizer.counters(history[-1][1]).updates) == 1


def test_the_other_nesting_order_stalls():
    """With apply_if_finite inside, the NaN never leaves the accumulator: 0 * NaN is NaN."""
    stalls = optax.MultiSteps(
        optax.apply_if_finite(optax.sgd(0.1), 2**31 - 1), 2
    ).gradient_transformation()
    good = [_gradients(1.0)] * 6
    history = _run(stalls, [_gradients(np.nan), *good])
    chex.assert_trees_all_equal(history[-1][0], _PARAMS)
    ours = _create(_config(accumulation=2), 10)
    moved = _run(ours, [_gradients(np.nan), *good])[-1][0]
    assert not np.allclose(moved["blocks"]["kernel"], _PARAMS["blocks"]["kernel"])


def test_optax_would_apply_a_bad_update_past_its_limit():
    """The limit is therefore unreachable, and the loop counts instead."""
    naive = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=2)
    params = _run(naive, [_gradients(np.nan)] * 3)[-1][0]
    assert np.isnan(params["blocks"]["kernel"]).all()
    ours = _create(_config(), 10)
    chex.assert_trees_all_equal(_run(ours, [_gradients(np.nan)] * 30)[-1][0], _PARAMS)


def test_schedule_warms_up_from_above_zero_and_ends_low():
    config = _config(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.01)
    hyper = optimizer.hyperparameters(config, 100)
    # Warmup of 10 updates: 0.1, 0.2, ..., 1.0; then a cosine down to 1 % of the peak.
    rates = np.array(optimizer.learning_rate(hyper, "backbone", jnp.arange(101)))
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-5)
    np.testing.assert_allclose(rates[10 + 45], 0.01 + 0.99 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(rates[100], 0.01, rtol=1e-5)
    head = optimizer.learning_rate(hyper, "head", jnp.array(3))
    np.testing.assert_allclose(head, config.head_multiplier * rates[3], rtol=1e-6)


@pytest.mark.parametrize("total_updates", [1, 2, 3])
def test_schedule_of_very_short_runs_is_finite_and_positive(total_updates):
    hyper = optimizer.hyperparameters(_config(), total_updates)
    rates = np.array(optimizer.learning_rate(hyper, "head", jnp.arange(total_updates)))
    assert np.isfinite(rates).all()
    assert (rates > 0).all()


def test_schedule_counts_updates_not_microbatches():
    """Adam's first update has size learning rate, whatever the gradient."""
    config = _config(accumulation=4, learning_rate=1.0, warmup_fraction=0.5, weight_decay=0.0)
    tx = _create(config, total_updates=4)
    history = _run(tx, [_gradients(1.0)] * 8)
    kernels = np.array([h[0]["blocks"]["kernel"][0, 0] for h in history])
    # Warmup over two updates: rates 0.5 and 1, each applied once in four microbatches.
    np.testing.assert_allclose(kernels, [2.0] * 4 + [1.5] * 4 + [0.5], rtol=1e-4)


def test_finite_gradients_that_would_overflow_their_mean_count_as_bad():
    huge = _gradients(3e38)
    assert not bool(optimizer.gradients_finite(huge))
    # Their squares overflow; clipping by such a norm would silently zero the update.
    assert not bool(optimizer.gradients_finite(_gradients(1e20)))
    assert bool(optimizer.gradients_finite(_gradients(1e15)))
    assert not bool(optimizer.gradients_finite(_gradients(np.nan)))


def test_clip_ratio_is_that_of_the_window_mean():
    config = _config(accumulation=2, clip_norm=1.0)
    tx = _create(config, 10)
    state = _run(tx, [_gradients(1.0)])[-1][1]
    # The mean of 1 and 3 is 2 on 10 entries: norm 2 sqrt(10).
    hyper = optimizer.hyperparameters(config, 10)
    ratio = optimizer.clip_ratio(state, _layout().pack(_gradients(3.0)), hyper)
    np.testing.assert_allclose(ratio, 1 / (2 * np.sqrt(10)), rtol=1e-6)


def test_group_norms():
    norms = optimizer.group_norms(_layout().pack(_gradients(2.0)))
    np.testing.assert_allclose(norms["head"], 2 * np.sqrt(4), rtol=1e-6)
    np.testing.assert_allclose(norms["backbone"], 2 * np.sqrt(6), rtol=1e-6)


def test_muon_matches_optax():
    """Stacked and padded matrices give the result of `optax.contrib.muon` per matrix."""
    random = np.random.default_rng(0)
    shapes = {
        "head_a": {"kernel": (70, 3), "bias": (3,)},
        "blocks": {"kernel": (2, 5, 9), "scale": (2, 5)},
        "embed": {"kernel": (9, 5)},
    }
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731

    def draw():
        return jax.tree.map(
            lambda shape: random.normal(size=shape).astype("f4"), shapes, is_leaf=is_shape
        )

    def apart(tree):
        """Split the stack into two matrices; vectors are unchanged."""
        stack = tree["blocks"]["kernel"]
        return tree | {
            "blocks": {"0": stack[0], "1": stack[1], "scale": tree["blocks"]["scale"].ravel()}
        }

    config = _config(method="muon", learning_rate=0.1, weight_decay=0.1, head_multiplier=1.0)
    params = draw()
    layout, hyper = optimizer.layout(params, "muon"), optimizer.hyperparameters(config, 10)
    nest = optimizer.create_optimizer(config, layout)
    rates = lambda count: optimizer.learning_rate(hyper, "backbone", count)  # noqa: E731
    reference = optax.contrib.muon(rates, weight_decay=0.1)
    state, reference_state = jit(
        lambda params: (nest.init(layout.pack(params)), reference.init(apart(params)))
    )(params)

    @jit
    def both(grads, params, state, reference_state):
        packed, state = nest.update(layout.pack(grads), state, layout.pack(params), hyper=hyper)
        expected, reference_state = reference.update(apart(grads), reference_state, apart(params))
        updates = layout.unpack(packed)
        params = optax.apply_updates(params, updates)
        return apart(updates), expected, params, state, reference_state

    for _ in range(3):
        updates, expected, params, state, reference_state = both(
            draw(), params, state, reference_state
        )
        chex.assert_trees_all_close(updates, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["muon", "adamw"])
def test_packing_is_lossless(method):
    packed = optimizer.layout(_PARAMS, method).pack(_PARAMS)
    chex.assert_trees_all_equal(optimizer.layout(_PARAMS, method).unpack(packed), _PARAMS)
