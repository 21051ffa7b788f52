"""Surrogate covariance: zero loss at the truth, gradients, training."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import localization, presets
from ris_jax.networks import losses, pretrained, subspace_network
from ris_jax.physics import arrays, scenes
from ris_jax.training import loop
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

_SMALL = {
    "system.rows": 5,
    "system.columns": 5,
    "system.num_antennas": 6,
    "system.num_snapshots": 6,
    "scene.max_sources": 2,
    "scene.min_sources": 2,
    "scene.snr_min_db": 20.0,
    "model.width": 16,
    "model.depth": 1,
    "model.columns": 6,
    "training.epochs": 1,
    "training.steps_per_epoch": 120,
    "training.batch_size": 16,
}


@pytest.fixture(scope="module")
def config():
    return config_lib.override(presets.preset("subspace_network"), _SMALL)


@pytest.fixture
def state(config):
    """A new state for each test, because a training step donates its arrays."""
    return state_lib.create_train_state(config)


@pytest.fixture(scope="module")
def batch(config):
    return scenes.sample_scenes(scenes.stream_key(0, "mine"), config, 16)


@pytest.fixture(scope="module")
def prepared(config, batch):
    return jax.jit(step_lib.prepare, static_argnums=1)(batch, config)


def test_loss_at_the_truth_is_zero_for_any_mixing(config, prepared):
    """True steering vectors, mixed by any matrix; positions within the error of the grid."""
    target = prepared[1]
    vectors = target.factor @ np.random.default_rng(0).normal(size=(2, 4)).astype("c8")
    truth = losses.Prediction(
        factor=7.0 * vectors,
        count_logits=1e3 * jax.nn.one_hot(target.num_sources - 1, 2),
        coordinates=target.coordinates,
        existence=target.active,
        decisions=None,
    )
    terms = jax.jit(subspace_network.loss_terms, static_argnums=2)(truth, target, config)
    assert set(terms) == {"subspace", "position", "count"}
    chex.assert_trees_all_close(
        (terms["subspace"], terms["count"]), (jnp.zeros(16),) * 2, atol=1e-4
    )
    assert np.median(terms["position"] / config.loss.position) < 0.3  # of a resolution


def test_target_holds_the_signal_subspace(config, batch, prepared):
    """The basis is orthonormal and contains the true steering vectors."""
    factor = np.asarray(prepared[1].factor)
    gram = factor.swapaxes(1, 2).conj() @ factor
    chex.assert_trees_all_close(gram, np.broadcast_to(np.eye(2, dtype="c8"), gram.shape), atol=1e-4)
    positions = arrays.element_positions(config.system)
    truth = np.asarray(scenes.steering_matrix(batch.truth, positions, config.system))
    left = truth - factor @ (factor.swapaxes(1, 2).conj() @ truth)
    assert np.abs(left).max() < 1e-3


@pytest.mark.full
def test_all_parameters_learn(state, batch):
    assert loop.dead_parameters(state, batch) == []


def test_scenes_are_independent_and_phases_do_not_matter(config, state, batch):
    """A scene gives the same result alone; a common phase does not change the covariance."""
    predict = jax.jit(lambda params, m: state_lib.predict(state.graphdef, params, m))
    whole = predict(state.params, batch.measurement)
    turned = batch.measurement._replace(snapshots=batch.measurement.snapshots * np.exp(0.7j))
    half = jax.tree.map(lambda leaf: leaf[::-1], turned)
    other = jax.tree.map(lambda leaf: leaf[::-1], predict(state.params, half))
    chex.assert_trees_all_close(other.factor, whole.factor, atol=1e-4)
    chex.assert_shape(whole.factor, (16, 25, config.model.columns))
    chex.assert_tree_all_finite(whole)


@pytest.mark.full
def test_training_lowers_the_loss(config):
    """Updates on one batch lower the loss; a non-finite microbatch changes nothing."""
    state = state_lib.create_train_state(config)
    batch = step_lib.draw_batch(config, state.step)
    first = last = None
    for _ in range(config.total_updates - 1):
        state, last = step_lib.train_step(state, batch)
        first = first or jax.device_get(last)
    assert first is not None
    assert last["loss"] < 0.4 * first["loss"], (first, last)
    assert last["loss_subspace"] < 0.4 * first["loss_subspace"], (first, last)
    np.testing.assert_allclose(last["nmse"], 2.0 * last["loss_subspace"], rtol=1e-3)
    before = jax.device_get(state.params)
    snapshots = batch.measurement.snapshots.at[0, 0, 0].set(jnp.nan)
    bad = batch._replace(measurement=batch.measurement._replace(snapshots=snapshots))
    state, metrics = step_lib.train_step(state, bad)
    assert int(metrics["skipped"]) == 1
    chex.assert_trees_all_equal(before, jax.device_get(state.params))


@pytest.mark.full
def test_the_estimator_is_music_on_the_covariance_of_the_network(config, state, batch):
    network = pretrained.Network(config, state.params)
    positions = np.asarray(arrays.element_positions(config.system))
    options = localization.options_of(config) | {"network": network, "num_sources": 2}
    found = localization.localize(batch.measurement, positions, estimator="auto", **options)
    by_music = localization.localize(batch.measurement, positions, estimator="music", **options)
    chex.assert_trees_all_equal(found, by_music)
    phases = options | {"wavefront": "spherical_phase"}  # within the tolerance
    localization.localize(batch.measurement, positions, estimator="auto", **phases)


def test_serves_its_own_array_only(config, state, batch):
    network = pretrained.Network(config, state.params)
    positions = np.asarray(arrays.element_positions(config.system))
    options = localization.options_of(config) | {"network": network, "num_sources": 2}
    refused = {
        "positions: need the 25 of its training": {"positions": positions[:, [1, 0, 2]] * 1.5},
        "wavelength: need 0.3": {"wavelength": 0.2},
        "wavefront: need spherical": {"wavefront": "planar"},
        "source_signal: need constant": {"source_signal": "independent"},
    }
    for message, changed in refused.items():
        with pytest.raises(config_lib.ConfigError, match=message):
            localization.localize(
                batch.measurement, **({"positions": positions} | options | changed)
            )


@pytest.mark.parametrize(
    ("kind", "estimator", "needed"),
    [
        ("subspace_network", "network", "learned_pursuit"),
        ("learned_pursuit", "subspace_network", "subspace_network"),
    ],
)
def test_wrong_architecture_for_an_estimator(config, batch, kind, estimator, needed):
    model = dataclasses.replace(config.model, architecture=kind)
    loss = config.loss if kind == "subspace_network" else config_lib.LossConfig()
    network = pretrained.Network(dataclasses.replace(config, model=model, loss=loss), None)
    with pytest.raises(
        config_lib.ConfigError, match=f"network: need a {needed} for .*got '{kind}'"
    ):
        localization.localize(
            batch.measurement,
            np.asarray(arrays.element_positions(config.system)),
            wavelength=0.3,
            estimator=estimator,
            network=network,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.existence": 1.0},
            "loss.existence: need 0 with model.architecture=subspace_network",
        ),
        ({"model.columns": 1}, "model.columns: need max_sources=2 or more; got 1"),
        ({"model.architecture": "x"}, "model.architecture: need one of learned_pursuit"),
        (
            {"model.architecture": "learned_pursuit"},
            "loss.subspace: need 0 with model.architecture=learned_pursuit",
        ),
    ],
)
def test_configurations_refused(config, changes, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.override(config, changes)
