"""Pure training step: metrics, purity, learning."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import small

from ris_jax import config as config_lib
from ris_jax.physics import scenes
from ris_jax.training import evaluation, loop, optimizer
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib


@functools.partial(small.jit, static_argnums=(1, 2))
def _scenes(first: jax.Array, size: int, config: config_lib.Config) -> scenes.Scene:
    return scenes.scenes_at(scenes.stream_key(0, "train"), first + jnp.arange(size), config)


def _batch(config: config_lib.Config, number: int, size: int | None = None) -> scenes.Scene:
    """Return a microbatch of the stream; runs that differ in their training share it."""
    size = size or config.training.batch_size
    simulated = {name: getattr(config, name) for name in ("system", "scene", "impairments")}
    simulated = dataclasses.replace(config_lib.Config(), **simulated)
    return _scenes(jnp.asarray(number * size), size, simulated)


def _with(config: config_lib.Config, **values) -> config_lib.Config:
    return config_lib.override(config, {k.replace("__", "."): v for k, v in values.items()})


def _spoil(batch: scenes.Scene, value: float) -> scenes.Scene:
    snapshots = batch.measurement.snapshots.at[0, 0, 0].set(value)
    return batch._replace(measurement=batch.measurement._replace(snapshots=snapshots))


def test_terms_sum_to_the_loss_and_all_metrics_are_present(tiny_config):
    state = state_lib.create_train_state(tiny_config)
    _, metrics = step_lib.train_step(state, _batch(tiny_config, 0))
    terms = [value for name, value in metrics.items() if name.startswith("loss_")]
    assert len(terms) == 4
    np.testing.assert_allclose(sum(terms), metrics["loss"], rtol=1e-6)
    wanted = {
        "loss", "finite", "grad_norm_backbone", "grad_norm_head", "clip_ratio", "lr_backbone",
        "lr_head", "update_applied", "microbatch", "update", "skipped", "param_delta_norm",
    }  # fmt: skip
    assert wanted <= set(metrics)
    chex.assert_tree_all_finite(metrics)
    assert float(metrics["lr_head"]) == pytest.approx(4 * float(metrics["lr_backbone"]))


@pytest.mark.full
def test_the_default_program_is_small():
    """Its compile time grows with its length: 9.2 CPU seconds for 8637 lines."""
    state = state_lib.create_train_state(config_lib.Config())
    batch = jax.eval_shape(lambda step: step_lib.draw_batch(state.config, step), state.step)
    lowered = step_lib.keeping_step.lower(step_lib.for_program(state), batch)
    assert len(lowered.as_text().splitlines()) <= 9000


def test_static_paths_are_refused(tiny_config):
    config = _with(tiny_config, scene__static_path_db=0.0)
    with pytest.raises(config_lib.ConfigError, match=r"scene.static_path_db: expected null"):
        step_lib.prepare(_batch(config, 0), config)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_initial_parameters_of_a_key(tiny_config, make_key):
    """Without a key, it is derived from the seed; the rest of the state has no randomness."""
    default = state_lib.create_train_state(tiny_config)
    same = jax.random.fold_in(make_key(tiny_config.training.seed), 0)
    given, other = (
        state_lib.create_train_state(tiny_config, key=key) for key in (same, make_key(7))
    )
    chex.assert_trees_all_equal(given, default)
    kernels = [jax.tree.leaves(state.params) for state in (default, other)]
    assert any(not np.array_equal(*pair) for pair in zip(*kernels, strict=True))
    chex.assert_trees_all_equal(other.opt_state, default.opt_state)


def test_step_traces_once(tiny_config):
    step_lib.keeping_step.clear_cache()
    state = state_lib.create_train_state(tiny_config)
    for number in range(3):
        state, _ = step_lib.train_step(state, _batch(tiny_config, number))
    assert step_lib.keeping_step.num_compiled() == 1


def test_runs_that_differ_in_numbers_share_the_program(tiny_config):
    """Rates, decay, limits, weights, seed and length are data, and are used."""
    other = _with(
        tiny_config,
        optimizer__learning_rate=1e-3,
        optimizer__head_multiplier=2.0,
        optimizer__weight_decay=0.1,
        optimizer__clip_norm=0.5,
        optimizer__ema_decay=0.9,
        optimizer__warmup_fraction=0.5,
        optimizer__final_fraction=0.5,
        loss__covariance=0.5,
        loss__offset=2.0,
        training__seed=1,
        training__epochs=3,
    )
    step_lib.keeping_step.clear_cache()
    rows = {}
    for config in (tiny_config, other):
        state = state_lib.create_train_state(config)
        state = state.replace(params=state_lib.create_train_state(tiny_config).params)
        next_state, rows[config] = step_lib.train_step(state, _batch(tiny_config, 0))
        assert next_state.config == config
    assert step_lib.keeping_step.num_compiled() == 1
    ours, theirs = rows[tiny_config], rows[other]
    np.testing.assert_allclose(theirs["loss_covariance"], 0.5 * ours["loss_covariance"], rtol=1e-5)
    np.testing.assert_allclose(
        theirs["loss_offset"] / 2.0, ours["loss_offset"] / tiny_config.loss.offset, rtol=1e-5
    )
    np.testing.assert_allclose(theirs["loss_count"], ours["loss_count"], rtol=1e-5)
    # Warmup takes half of 18 updates: the first rate is a ninth of the peak.
    np.testing.assert_allclose(theirs["lr_backbone"], 1e-3 / 9, rtol=1e-5)
    np.testing.assert_allclose(theirs["lr_head"], 2e-3 / 9, rtol=1e-5)
    assert theirs["clip_ratio"] < ours["clip_ratio"]


def test_step_is_pure(tiny_config):
    """Equal arguments give equal results, and the arguments do not change."""
    config = _with(tiny_config, optimizer__accumulation=2)
    state, _ = step_lib.train_step(state_lib.create_train_state(config), _batch(config, 0))
    before = jax.device_get(state)
    first, second = (step_lib.train_step(state, _batch(config, 1)) for _ in range(2))
    chex.assert_trees_all_equal(jax.device_get(state), before)
    chex.assert_trees_all_equal(first, second)
    assert bool(first[1]["update_applied"])
    assert int(first[0].step) == int(state.step) + 1


@pytest.mark.full
def test_an_epoch_moves_no_scenes_between_host_and_device(tiny_config):
    state = state_lib.create_train_state(tiny_config)
    state, _ = step_lib.train_step(state, step_lib.draw_batch(tiny_config, state.step))
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed"):
        step_lib.draw_batch(tiny_config, np.int32(1))  # the guard must detect this transfer
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = step_lib.train_step(state, step_lib.draw_batch(tiny_config, state.step))
    assert int(state.step) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_microbatch_is_skipped_whole_and_its_loss_returned(tiny_config, bad):
    config = _with(tiny_config, optimizer__accumulation=2)
    good = [_batch(config, n) for n in range(2)]
    middle, _ = step_lib.train_step(state_lib.create_train_state(config), good[0])
    after_bad, metrics = step_lib.train_step(middle, _spoil(_batch(config, 5), bad))
    assert not np.isfinite(metrics["loss"])
    assert int(metrics["skipped"]) == 1
    assert not bool(metrics["update_applied"])
    for name in ("params", "ema_params"):
        chex.assert_trees_all_equal(getattr(after_bad, name), getattr(middle, name))
    chex.assert_trees_all_equal(after_bad.opt_state.inner_state, middle.opt_state.inner_state)
    with_bad, applied = step_lib.train_step(after_bad, good[1])
    without, _ = step_lib.train_step(middle, good[1])
    assert bool(applied["update_applied"])
    assert int(applied["skipped_in_a_row"]) == 0
    chex.assert_trees_all_equal(with_bad.params, without.params)


@pytest.mark.full
@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_four_microbatches_of_32_are_one_batch_of_128(tiny_config, method):
    config = _with(
        tiny_config,
        optimizer__method=method,
        optimizer__learning_rate=1e-3,
        training__batch_size=32,
    )
    whole = _batch(config, 0, 128)
    one, _ = step_lib.train_step(state_lib.create_train_state(config), whole)
    state = state_lib.create_train_state(_with(config, optimizer__accumulation=4))
    for number in range(4):
        part = jax.tree.map(lambda x, n=number: x[32 * n : 32 * (n + 1)], whole)
        state, metrics = step_lib.train_step(state, part)
        assert bool(metrics["update_applied"]) == (number == 3)
    # AdamW's first step is the sign of the gradient, which rounding can change.
    chex.assert_trees_all_close(state.params, one.params, atol=2e-5)


def test_last_window_of_an_epoch_is_the_mean_of_its_microbatches(tiny_config):
    """7 microbatches of 8 scenes with accumulation 4: the second update is that of 24 scenes."""
    config = _with(
        tiny_config,
        optimizer__accumulation=4,
        optimizer__learning_rate=1e-3,
        training__steps_per_epoch=7,
    )
    state = state_lib.create_train_state(config)
    parts = [_batch(config, number) for number in range(7)]
    rows, after_first = [], state
    for number, part in enumerate(parts):
        state, metrics = step_lib.train_step(state, part)
        rows.append(jax.device_get(metrics))
        after_first = state if number == 3 else after_first
    assert [int(row["update"]) for row in rows] == [0, 0, 0, 1, 1, 1, 2]
    assert rows[-1]["lr_backbone"] == pytest.approx(
        float(optimizer.learning_rate(state.hyper.optimizer, "backbone", jnp.asarray(1)))
    )
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts[4:])
    # The same state before a microbatch that is the last of its epoch.
    expected, metrics = step_lib.train_step(after_first.replace(step=jnp.asarray(6)), whole)
    assert bool(metrics["update_applied"])
    chex.assert_trees_all_close(state.params, expected.params, atol=2e-5)
    chex.assert_trees_all_close(state.ema_params, expected.ema_params, atol=2e-5)


def test_average_moves_with_updates_only(tiny_config):
    config = _with(tiny_config, optimizer__accumulation=2)
    start = state_lib.create_train_state(config)
    middle, _ = step_lib.train_step(start, _batch(config, 0))
    chex.assert_trees_all_equal(middle.ema_params, start.ema_params)
    after, _ = step_lib.train_step(middle, _batch(config, 1))
    start, after = jax.device_get((start, after))
    # After the first update the average keeps (1 + 1) / (10 + 1) of its value.
    expected = jax.tree.map(lambda e, p: e + (9 / 11) * (p - e), start.ema_params, after.params)
    chex.assert_trees_all_close(after.ema_params, expected, atol=1e-6)


@pytest.mark.full
def test_dropout_changes_the_step_and_is_a_function_of_step(tiny_config):
    config = _with(tiny_config, model__dropout=0.5)
    state = state_lib.create_train_state(config)
    batch = _batch(config, 0)
    losses = [
        float(step_lib.train_step(s, batch)[1]["loss"])
        for s in (state, state, state.replace(step=1))
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.full
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_losses_float32(tiny_config):
    config = _with(tiny_config, model__compute_dtype="bfloat16")
    state, metrics = step_lib.train_step(state_lib.create_train_state(config), _batch(config, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32
    reference = step_lib.train_step(
        state_lib.create_train_state(tiny_config), _batch(tiny_config, 0)
    )[1]["loss"]
    # Rounding changes a few decisions of an untrained network.
    assert float(metrics["loss"]) == pytest.approx(float(reference), rel=0.1)
    assert float(metrics["loss"]) != float(reference)


def test_gradients_reach_every_parameter(tiny_config):
    state = state_lib.create_train_state(tiny_config)
    assert loop.dead_parameters(state, _batch(tiny_config, 0)) == []


def test_non_finite_gradients_are_not_dead(tiny_config):
    state = state_lib.create_train_state(tiny_config)
    assert loop.dead_parameters(state, _spoil(_batch(tiny_config, 0), np.nan)) == []


@pytest.mark.full
def test_a_dead_parameter_is_named(tiny_config):
    """Without its loss term the count head has no gradient."""
    config = _with(tiny_config, loss__count=0.0)
    state = state_lib.create_train_state(config)
    dead = loop.dead_parameters(state, _batch(config, 0))
    assert len(dead) == 2
    assert all("head_count" in path for path in dead)


@pytest.mark.full
def test_one_batch_is_learned(tiny_config):
    """All scores and counts are learned; the covariance is that of the maximum likelihood."""
    config = _with(
        tiny_config,
        scene__snr_min_db=5.0,
        training__fixed_scenes=8,
        training__epochs=1,
        training__steps_per_epoch=200,
        model__width=32,
        optimizer__weight_decay=0.0,
    )
    state = state_lib.create_train_state(config)
    rows = []
    for _ in range(200):
        state, metrics = step_lib.train_step(state, step_lib.draw_batch(config, state.step))
        rows.append(jax.device_get(metrics))
    assert rows[0]["loss_existence"] > 1.0
    assert rows[0]["nmse"] > 0.5
    for name in ("existence", "offset", "count"):
        assert rows[-1][f"loss_{name}"] < 2e-3, name
    # The error of the fit due to noise remains: eight scenes at 5 to 20 dB, 16 elements.
    assert rows[-1]["nmse"] < 0.2


def test_fixed_scenes_occur_once_per_pass(tiny_config):
    config = _with(tiny_config, training__fixed_scenes=20)  # 20 = 2.5 microbatches of 8
    azimuths = np.concatenate(
        [step_lib.draw_batch(config, jnp.asarray(n)).truth.azimuth[:, 0] for n in range(5)]
    )
    first, second = np.sort(azimuths[:20]), np.sort(azimuths[20:])
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == 20
    assert not np.array_equal(azimuths[:20], azimuths[20:])


def test_validation_and_training_share_the_score(tiny_config):
    """`eval_step` with the initial parameters equals the loss of a training step."""
    state = state_lib.create_train_state(tiny_config)
    batch = _batch(tiny_config, 0)
    scores = step_lib.eval_step(
        state, *jax.jit(step_lib.prepare, static_argnums=1)(batch, tiny_config)
    ).scores
    _, metrics = step_lib.train_step(state, batch)
    for name in ("loss", "nmse", "loss_covariance", "loss_existence", "loss_offset", "loss_count"):
        np.testing.assert_allclose(np.mean(scores[name]), metrics[name], rtol=1e-5)


def test_yardsticks(tiny_config):
    heldout = evaluation.draw_heldout(tiny_config, "validation", 20)
    scores = evaluation.yardsticks(tiny_config, heldout)
    chex.assert_shape(list(scores.values()), (20,))
    unshrunk = dataclasses.replace(
        tiny_config, covariance=config_lib.CovarianceConfig(shrinkage=0.0)
    )
    exact = evaluation.yardsticks(unshrunk, evaluation.draw_heldout(unshrunk, "validation", 20))
    np.testing.assert_allclose(exact["shrunk_truth_nmse"], 0.0, atol=1e-5)
    assert np.mean(scores["shrunk_truth_nmse"]) > 0


def test_the_best_constant_is_optimal(tiny_config):
    """Moving the constant in any direction raises its score on the training scenes."""
    heldout = evaluation.draw_heldout(tiny_config, "train", evaluation.CONSTANT_SCENES)
    constant = evaluation.best_constant(heldout)

    def score(matrix):
        parts = [evaluation._yardsticks(tiny_config, matrix, t) for _, t in heldout.batches]
        return np.mean(np.concatenate([p["constant_nmse"] for p in parts]), dtype=np.float64)

    best = score(constant)
    for seed in range(3):
        step = np.random.default_rng(seed).normal(size=constant.shape) * 0.05
        assert score(constant + (step + step.T) / 2) > best


def test_constant_outputs_have_no_variance(tiny_config):
    """One scene is repeated as input for all scenes."""
    state = state_lib.create_train_state(tiny_config)
    heldout = evaluation.draw_heldout(tiny_config, "validation", 24)
    varied = evaluation.evaluate(state, heldout).output_variance_ratio
    first = jax.tree.map(lambda leaf: leaf[:1], heldout.batches[0][0])
    same = [
        (jax.tree.map(lambda one, all_: jnp.broadcast_to(one, all_.shape), first, inputs), target)
        for inputs, target in heldout.batches
    ]
    constant = evaluation.evaluate(state, heldout._replace(batches=same)).output_variance_ratio
    assert abs(constant) < 1e-4
    assert varied > 1e-3


def test_counters(tiny_config):
    config = _with(tiny_config, optimizer__accumulation=2)
    state = state_lib.create_train_state(config)
    for number in range(5):
        state, _ = step_lib.train_step(state, _batch(config, number))
    counters = optimizer.counters(state.opt_state)
    assert (int(counters.updates), int(counters.skipped)) == (2, 0)
