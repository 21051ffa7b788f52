"""Training state: one immutable pytree, an argument and a result of every step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from ris_jax import config as config_lib
from ris_jax import losses, scenes
from ris_jax.models import architectures
from ris_jax.training import devices, optimizer


class TrainState(struct.PyTreeNode):
    """Everything that changes while training, and the static definition of what is trained."""

    step: Int[Array, ""]  #: microbatches seen: also the data position
    params: Any
    ema_params: Any  #: moving average over updates; what validation and inference use
    opt_state: optax.OptState
    hyper: optimizer.Hyperparameters
    config: config_lib.Config = struct.field(pytree_node=False)
    graphdef: Any = struct.field(pytree_node=False)
    tx: optax.GradientTransformationExtraArgs = struct.field(pytree_node=False)
    placement: devices.Placement = struct.field(pytree_node=False)


@functools.cache
def _optimizer(config: config_lib.Config) -> optax.GradientTransformationExtraArgs:
    """One optimizer object for a configuration: another would make `jax.jit` trace again."""
    packed = optimizer.layout(parameter_shapes(config), config.optimizer.method)
    return optimizer.create_optimizer(config.optimizer, packed)


@functools.cache
def _shapes(config: config_lib.Config) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: _model(config, jax.random.key(0))), nnx.Param)


def graphdef(config: config_lib.Config) -> Any:
    """The network's definition without its parameters."""
    return _shapes(config)[0]


def parameter_shapes(config: config_lib.Config) -> Any:
    """The network's parameters as shapes and types."""
    return _shapes(config)[1]


def _model(config: config_lib.Config, key: jax.Array) -> Any:
    return architectures.of(config).module(config, rngs=nnx.Rngs(params=key))


def create_train_state(
    config: config_lib.Config, placement: devices.Placement | None = None
) -> TrainState:
    """The state before the first step, a function of the configuration alone.

    Args:
      config: the run.
      placement: where it lives, and where its steps are computed; one device if not given.

    Returns:
      A `TrainState`; its parameters come from `config.training.seed`. It is committed to its
      devices, as a restored one is: otherwise the two would compile the step twice.
    """
    return _maker(config, placement or devices.one_device())()


@functools.cache
def _maker(config: config_lib.Config, placement: devices.Placement) -> Callable[[], TrainState]:
    make = functools.partial(_initial_state, config, placement)
    return jax.jit(make, out_shardings=shardings(jax.eval_shape(make)))


def shardings(state: TrainState) -> TrainState:
    """Where every array of a state lives, in the place of the array."""
    placement = state.placement
    everywhere = jax.tree.map(lambda _: placement.replicated, state)
    return everywhere.replace(
        opt_state=jax.tree.map(lambda leaf: placement.optimizer(leaf.shape), state.opt_state)
    )


def _initial_state(config: config_lib.Config, placement: devices.Placement) -> TrainState:
    key = jax.random.fold_in(jax.random.key(config.training.seed), 0)
    params = nnx.split(_model(config, key), nnx.Param)[1]
    tx = _optimizer(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(optimizer.layout(params, config.optimizer.method).pack(params)),
        hyper=optimizer.hyperparameters(config.optimizer, config.total_updates),
        config=config,
        graphdef=graphdef(config),
        tx=tx,
        placement=placement,
    )


def predict(
    graphdef: Any,
    params: Any,
    features: scenes.Measurement,
    *,
    rngs: nnx.Rngs | None = None,
) -> losses.Prediction:
    """The network's output for a batch, as a pure function of its parameters.

    Args:
      graphdef: of a `TrainState`.
      params: of the same state, `params` or `ema_params`.
      features: a batch of B scenes with known noise variance.
      rngs: randomness of dropout; None predicts without.

    Returns:
      A `Prediction` with leading axis B.
    """
    return nnx.merge(graphdef, params, copy=True)(features, rngs=rngs)
