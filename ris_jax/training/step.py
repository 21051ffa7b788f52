"""Pure steps: one microbatch of training, one batch of evaluation.

`train_step` returns the loss of every microbatch; no Python branch or loop can drop one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Complex, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.networks import architectures, losses, pursuit_features
from ris_jax.physics import arrays, linear, measurement, scenes
from ris_jax.physics import covariance as cov
from ris_jax.training import optimizer
from ris_jax.training import state as state_lib
from ris_jax.training.processes import devices

Metrics = dict[str, Float[Array, "..."]]


def prepare(
    batch: scenes.Scene, config: config_lib.Config
) -> tuple[scenes.Measurement, losses.Target]:
    """Return the network input and the target of a batch, for training and validation.

    Raises:
      ConfigError: the scenes have a static path.
    """
    truth, system = batch.truth, config.system
    if config.scene.static_path_db is not None:
        raise config_lib.ConfigError(
            "scene.static_path_db: expected null for a network; found "
            f"{config.scene.static_path_db}; train without it: `localize` removes the path first"
        )

    def from_snapshots(scene):
        fields = measurement.field_estimates(scene, system.source_signal)
        return fields, measurement.signal_to_noise(scene)

    fields, snr = jax.vmap(from_snapshots)(batch.measurement)
    factor = scenes.steering_matrix(truth, arrays.element_positions(system), system)
    coordinates = arrays.to_coordinates(truth.azimuth, truth.elevation, truth.source_range)
    factor, fields = (
        architectures.of(config).compared(part, truth.num_sources, config)
        for part in (factor, fields)
    )
    target = losses.Target(
        factor=factor,
        sample_factor=fields,
        snr=snr,
        snr_db=truth.snr_db,
        coordinates=coordinates / pursuit_features.resolution(system),
        active=scenes.active_sources(truth),
        num_sources=truth.num_sources,
    )
    return batch.measurement, target


def covariance_scores(
    prediction: losses.Prediction, target: losses.Target, config: config_lib.Config
) -> dict[str, Float[Array, "B"]]:
    """Return the NMSE of the network's covariance and of the effective covariance.

    For a subspace network, whose covariance is a surrogate, the projectors on the signal subspaces
    are compared instead.
    """
    truth, factor = cov.from_factor(target.factor), _compared(prediction, target, config)
    effective = cov.effective_covariance(
        factor, target.sample_factor, target.snr, config.covariance
    )
    return {
        "nmse": losses.covariance_nmse(cov.from_factor(factor), truth),
        "effective_nmse": losses.covariance_nmse(effective, truth),
    }


def _compared(
    prediction: losses.Prediction, target: losses.Target, config: config_lib.Config
) -> Complex[Array, "B N K"]:
    return architectures.of(config).compared(prediction.factor, target.num_sources, config)


def _ema_memory(decay: Float[Array, ""], updates: Int[Array, ""]) -> Float[Array, ""]:
    """Return the decay of the moving average, which grows with the updates up to `decay`."""
    return jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))


def _loss_terms(
    state: state_lib.TrainState, prediction: losses.Prediction, target: losses.Target
) -> dict[str, Float[Array, "B"]]:
    """Return the weighted loss terms; the program has unit weights, the state holds the values."""
    config = architectures.program_config(state.config)
    terms = architectures.of(config).loss_terms(prediction, target, config)
    return {name: state.hyper.loss[name] * term for name, term in terms.items()}


def batch_loss(
    state: state_lib.TrainState,
    params: Any,
    features: scenes.Measurement,
    target: losses.Target,
    dropout_key: jax.Array | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of a batch and its logged values: weighted terms and plain NMSE."""
    config = state.config
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    prediction = state_lib.predict(state.graphdef, params, features, rngs=rngs)
    terms = _loss_terms(state, prediction, target)
    nmse = covariance_scores(prediction, target, config)["nmse"]
    logged = {f"loss_{name}": jnp.mean(term) for name, term in terms.items()}
    return sum(logged.values(), jnp.zeros(())), logged | {"nmse": jnp.mean(nmse)}


def train_step(
    state: state_lib.TrainState, batch: scenes.Scene
) -> tuple[state_lib.TrainState, Metrics]:
    """Train on one microbatch in one compiled program; arguments are not modified.

    A microbatch with a non-finite loss or gradient leaves parameters, moments, counts and the
    gradient accumulator bit-identical. Its loss is returned, and it is counted as skipped.

    An update is the mean of `optimizer.accumulation` microbatches. An epoch ends after every
    `training.steps_per_epoch` microbatches; a window that is not full ends with it.

    Args:
      state: from `create_train_state` or from a step.
      batch: scenes with leading axis B.

    Returns:
      The next state, and the metrics of this microbatch: `loss`, the weighted terms
      ``loss_<term>`` that sum to it, `nmse` (unweighted, the network's own covariance), `finite`,
      ``grad_norm_<group>``, `clip_ratio`, ``lr_<group>``, `update_applied`, `microbatch`, `update`,
      `skipped`, `skipped_in_a_row`, `param_delta_norm` (zero when no update was applied),
      `params_finite` (False if the update overflows in spite of finite gradients).
    """
    next_state, metrics = keeping_step(for_program(state), batch)
    return next_state.replace(config=state.config), metrics


def train_step_in_place(
    state: state_lib.TrainState, batch: scenes.Scene
) -> tuple[state_lib.TrainState, Metrics]:
    """Run `train_step` in a loop: the given state is donated and its memory reused."""
    next_state, metrics = donating_step(for_program(state), batch)
    return next_state.replace(config=state.config), metrics


def for_program(state: state_lib.TrainState) -> state_lib.TrainState:
    """Return the state with the configuration shared by all runs of its program."""
    return state.replace(config=architectures.program_config(state.config))


def _microbatch(
    state: state_lib.TrainState, batch: scenes.Scene
) -> tuple[state_lib.TrainState, Metrics]:
    config = state.config
    features, target = prepare(batch, config)
    key = jax.random.fold_in(scenes.stream_key(state.hyper.seed, "dropout"), state.step)
    dropout_key = key if config.model.dropout > 0 else None

    def loss_fn(params):
        return batch_loss(state, params, features, target, dropout_key)

    (loss, logged), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    hyper, packed = state.hyper.optimizer, optimizer.layout(state.params, config.optimizer.method)
    grads = packed.pack(grads)
    finite = jnp.isfinite(loss) & optimizer.gradients_finite(grads)
    norms = optimizer.group_norms(grads)
    clip_ratio = optimizer.clip_ratio(state.opt_state, grads, hyper)
    before = optimizer.counters(state.opt_state)
    # Mark a non-finite loss as non-finite gradients for optax.
    marked = jax.tree.map(lambda g: jnp.where(finite, g, jnp.nan), grads)
    epoch_ends = (state.step + 1) % state.hyper.steps_per_epoch == 0
    updates: Any
    updates, opt_state = state.tx.update(
        marked, state.opt_state, packed.pack(state.params), hyper=hyper, epoch_ends=epoch_ends
    )
    params = optax.apply_updates(state.params, packed.unpack(updates))
    after = optimizer.counters(opt_state)
    applied = after.updates > before.updates
    kept = jnp.where(applied, _ema_memory(hyper.ema_decay, after.updates), 1.0)
    ema_params = jax.tree.map(
        lambda ema, p: ema + (1.0 - kept) * (p - ema), state.ema_params, params
    )
    rates = optimizer.learning_rates(hyper, before.updates)
    delta = optax.tree.norm(updates)
    metrics = (
        {"loss": loss}
        | logged
        | {"finite": finite, "clip_ratio": clip_ratio}
        | {f"grad_norm_{group}": norm for group, norm in norms.items()}
        | {f"lr_{group}": rate for group, rate in rates.items()}
        | {
            "update_applied": applied,
            "microbatch": state.step + 1,
            "update": after.updates,
            "skipped": after.skipped,
            "skipped_in_a_row": after.skipped_in_a_row,
            "param_delta_norm": delta,
            "params_finite": jnp.isfinite(optax.tree.norm(packed.pack(params))),
        }
    )
    next_state = state.replace(
        step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
    )
    # Keep the sharding of the state; XLA could otherwise change it.
    next_state = jax.lax.with_sharding_constraint(next_state, state_lib.shardings(next_state))
    return next_state, metrics


keeping_step = compilation.Program(_microbatch)
donating_step = compilation.Program(_microbatch, donate_argnums=(0,))


def draw_batch(config: config_lib.Config, step: Array) -> scenes.Scene:
    """Draw the training scenes of microbatch `step` on the devices that hold `step`.

    With `fixed_scenes`, that many scenes are repeated, reshuffled for every pass; otherwise every
    scene is new. Each device draws its part.
    """
    training = config.training
    relevant = training.seed, training.batch_size, training.fixed_scenes
    return draw_scenes(config, devices.batch_beside(step), *_position(*relevant, step))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _position(
    seed: int, batch_size: int, fixed_scenes: int, step: Array
) -> tuple[jax.Array, Int[Array, "B"]]:
    """Return the key of the training scenes and the scene indices of a microbatch."""
    position = step * batch_size + jnp.arange(batch_size)
    if fixed_scenes:
        order_key = scenes.stream_key(seed, "order")

        def order(one_pass):
            key = jax.random.fold_in(order_key, one_pass)
            return jax.random.permutation(key, fixed_scenes)

        # A microbatch spans at most two passes.
        first = position[0] // fixed_scenes
        orders = jnp.stack([order(first), order(first + 1)])
        position = orders[position // fixed_scenes - first, position % fixed_scenes]
    return scenes.stream_key(seed, "train"), position


def draw_scenes(
    config: config_lib.Config,
    sharding: jax.sharding.NamedSharding | None,
    key: jax.Array,
    indices: Int[Array, "B"],
) -> scenes.Scene:
    """Draw scenes of a stream; one program for all streams of a run.

    Args:
      config: of the scenes.
      sharding: of the batch over devices, which hold key and indices; None for one device.
      key: of the stream.
      indices: [B] scene indices.
    """
    drawn = config_lib.Config(config.system, config.scene, config.impairments)
    return _draw_scenes(drawn, sharding, key, indices)


@compilation.program(static_argnames=("config", "sharding"))
def _draw_scenes(config, sharding, key, indices):
    return devices.split(scenes.scenes_at(key, indices, config), sharding)


def prepared(
    batch: scenes.Scene, config: config_lib.Config
) -> tuple[scenes.Measurement, losses.Target]:
    """Run `prepare` as a compiled program, on the devices of the batch."""
    return _prepared(batch, architectures.program_config(config))


_prepared = compilation.Program(prepare, static_argnames=("config",))


class Moments(NamedTuple):
    """Sums over a batch from which the variance of covariances across inputs follows."""

    predicted: Complex[Array, "N N"]
    predicted_power: Float[Array, ""]
    true: Complex[Array, "N N"]
    true_power: Float[Array, ""]


class Evaluated(NamedTuple):
    """Results for a batch of held-out scenes."""

    scores: Metrics  # of every scene
    moments: Moments
    prediction: losses.Prediction  # without `decisions`


def eval_step(
    state: state_lib.TrainState, features: scenes.Measurement, target: losses.Target
) -> Evaluated:
    """Return loss, terms and scores of every scene of a batch, with the averaged parameters.

    Args:
      state: not changed.
      features: of B scenes, from `prepare`.
      target: of the same scenes.

    Returns:
      The prediction, the moments, and [B] each: `loss`, ``loss_<term>``, `nmse`,
      `effective_nmse`, `count_correct`, `count_confidence` (the probability of the most probable
      count).
    """
    return scoring_step(for_program(state), features, target)


@compilation.program()
def scoring_step(
    state: state_lib.TrainState, features: scenes.Measurement, target: losses.Target
) -> Evaluated:
    """Compiled program of `eval_step`."""
    config = state.config
    prediction = state_lib.predict(state.graphdef, state.ema_params, features)
    count = 1 + jnp.argmax(prediction.count_logits, axis=-1)
    terms = _loss_terms(state, prediction, target)
    scores = covariance_scores(prediction, target, config)
    predicted = cov.from_factor(_compared(prediction, target, config))
    true = cov.from_factor(target.factor)
    moments = Moments(
        _outer_sum(predicted.factor),
        jnp.sum(cov.inner(predicted, predicted)),
        _outer_sum(true.factor),
        jnp.sum(cov.inner(true, true)),
    )
    scores = (
        {"loss": sum(terms.values(), jnp.zeros(()))}
        | {f"loss_{name}": term for name, term in terms.items()}
        | scores
        | {"count_correct": (count == target.num_sources).astype(jnp.float32)}
        | {"count_confidence": jnp.max(jax.nn.softmax(prediction.count_logits), axis=-1)}
    )
    return Evaluated(scores, moments, prediction._replace(decisions=None))


def _outer_sum(factor: Complex[Array, "B N K"]) -> Complex[Array, "N N"]:
    return linear.einsum("bnk,bmk->nm", factor, factor.conj())
