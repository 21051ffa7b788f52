"""Training state: one immutable pytree, an argument and a result of every step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from ris_jax import config as config_lib
from ris_jax import losses, scenes
from ris_jax.models import learned_pursuit
from ris_jax.training import optimizer


class TrainState(struct.PyTreeNode):
    """Everything that changes while training, and the static definition of what is trained."""

    step: Int[Array, ""]  # microbatches seen: also the data position
    params: Any
    ema_params: Any  # moving average over updates; what validation and inference use
    opt_state: optax.OptState
    config: config_lib.Config = struct.field(pytree_node=False)
    graphdef: Any = struct.field(pytree_node=False)
    tx: optax.GradientTransformation = struct.field(pytree_node=False)


@functools.cache
def _optimizer(config: config_lib.Config) -> optax.GradientTransformation:
    """One optimizer object for a configuration: another would make `jax.jit` trace again."""
    return optimizer.create_optimizer(config.optimizer, config.total_updates)


@functools.cache
def _shapes(config: config_lib.Config) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: _model(config, jax.random.key(0))), nnx.Param)


def graphdef(config: config_lib.Config) -> Any:
    """The network's definition without its parameters."""
    return _shapes(config)[0]


def parameter_shapes(config: config_lib.Config) -> Any:
    """The network's parameters as shapes and types."""
    return _shapes(config)[1]


def _model(config: config_lib.Config, key: jax.Array) -> learned_pursuit.LearnedPursuit:
    return learned_pursuit.LearnedPursuit(config, rngs=nnx.Rngs(params=key))


def create_train_state(config: config_lib.Config) -> TrainState:
    """The state before the first step, a function of the configuration alone.

    Args:
      config: the run.

    Returns:
      A `TrainState`; its parameters come from `config.training.seed`. It is committed to the first
      device, as a restored one is: otherwise the two would compile the step twice.
    """
    return jax.device_put(_initial_state(config), jax.devices()[0])


@functools.partial(jax.jit, static_argnums=0)
def _initial_state(config: config_lib.Config) -> TrainState:
    key = jax.random.fold_in(jax.random.key(config.training.seed), 0)
    params = nnx.split(_model(config, key), nnx.Param)[1]
    tx = _optimizer(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        config=config,
        graphdef=graphdef(config),
        tx=tx,
    )


def predict(
    graphdef: Any,
    params: Any,
    features: scenes.Measurement,
    *,
    rngs: nnx.Rngs | None = None,
) -> losses.Prediction:
    """The network's output for a batch of features, as a pure function of its parameters."""
    return nnx.merge(graphdef, params, copy=True)(features, rngs=rngs)
