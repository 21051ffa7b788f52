"""Training state: one immutable pytree, argument and result of every step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.networks import architectures, losses
from ris_jax.physics import scenes
from ris_jax.training import optimizer
from ris_jax.training.processes import devices


class Hyperparameters(NamedTuple):
    """Fields of a configuration that a step reads as data; runs that differ in them share it."""

    optimizer: optimizer.OptimizerHyperparameters
    loss: dict[str, Array | np.float32]  #: weights of the nonzero terms
    steps_per_epoch: Any  #: microbatches, [], an array or a NumPy number
    seed: Any  #: 32 bits, [], an array or a number of NumPy


class TrainState(struct.PyTreeNode):
    """Arrays that change during training, and the static definition of the model."""

    step: Int[Array, ""]  #: processed microbatches; also the data position
    params: Any
    ema_params: Any  #: moving average over updates, used by validation and inference
    opt_state: optax.OptState  #: of packed parameters, see `ris_jax.training.packing`
    hyper: Hyperparameters
    config: config_lib.Config = struct.field(pytree_node=False)
    graphdef: Any = struct.field(pytree_node=False)
    tx: optax.GradientTransformationExtraArgs = struct.field(pytree_node=False)
    placement: devices.DevicePlacement = struct.field(pytree_node=False)


def hyperparameters(config: config_lib.Config) -> Hyperparameters:
    """Return the hyperparameters of a run, on the host."""
    weights = dataclasses.asdict(config.loss)
    return Hyperparameters(
        optimizer.hyperparameters(config.optimizer, config.total_updates),
        {name: np.float32(weight) for name, weight in weights.items() if weight > 0},
        np.int32(config.training.steps_per_epoch),
        np.uint32(config.training.seed),
    )


@functools.cache
def _optimizer(program: config_lib.Config) -> optax.GradientTransformationExtraArgs:
    """Create one optimizer object per program; another object would retrace `jax.jit`."""
    packed = optimizer.layout(architectures.parameter_shapes(program), program.optimizer.method)
    return optimizer.create_optimizer(program.optimizer, packed)


def create_train_state(
    config: config_lib.Config,
    placement: devices.DevicePlacement | None = None,
    *,
    key: jax.Array | None = None,
) -> TrainState:
    """Create the state before the first step, a function of its arguments alone.

    Args:
      config: the run.
      placement: devices of the state and its steps; one device by default.
      key: for the initial parameters; by default it is derived from `config.training.seed`, which
        also determines the scenes and the dropout.

    Returns:
      A `TrainState`. It is committed to its devices, like a restored state; otherwise the step
      would be compiled twice.
    """
    program, placement = architectures.program_config(config), placement or devices.one_device()
    if key is None:
        made = _maker(program, placement, None)(hyperparameters(config))
    else:
        key = jax.random.wrap_key_data(key) if key.dtype == jnp.uint32 else key
        made = _maker(program, placement, key.dtype)(hyperparameters(config), key)
    return made.replace(config=config)


@functools.cache
def _maker(
    program: config_lib.Config, placement: devices.DevicePlacement, key_type: Any
) -> Callable[..., TrainState]:
    """Compile `_initial_state` for keys of a type; None: no key."""
    make = functools.partial(_initial_state, program, placement)
    arguments: tuple[Any, ...] = (hyperparameters(program),)
    if key_type is not None:
        arguments += (jax.ShapeDtypeStruct((), key_type),)
    made = jax.jit(make, out_shardings=shardings(jax.eval_shape(make, *arguments)))
    # It runs once, so compile time dominates.
    options: Any = compilation.compiler_options() | {"xla_backend_optimization_level": 0}
    return made.lower(*arguments).compile(compiler_options=options)


def shardings(state: TrainState) -> TrainState:
    """Return the sharding of every array of a state, in the same tree."""
    placement = state.placement
    everywhere = jax.tree.map(lambda _: placement.replicated, state)
    return everywhere.replace(
        opt_state=jax.tree.map(lambda leaf: placement.optimizer(leaf.shape), state.opt_state)
    )


def _initial_state(
    program: config_lib.Config,
    placement: devices.DevicePlacement,
    hyper: Hyperparameters,
    key: jax.Array | None = None,
) -> TrainState:
    key = jax.random.fold_in(jax.random.key(hyper.seed), 0) if key is None else key
    params = nnx.split(architectures.create(program, key), nnx.Param)[1]
    tx = _optimizer(program)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(optimizer.layout(params, program.optimizer.method).pack(params)),
        hyper=jax.tree.map(jnp.asarray, hyper),
        config=program,
        graphdef=architectures.graphdef(program),
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
    """Return the network's output for a batch, as a pure function of its parameters.

    Args:
      graphdef: of a `TrainState`.
      params: of the same state, `params` or `ema_params`.
      features: a batch of B scenes with known noise variance.
      rngs: randomness of dropout; None disables dropout.

    Returns:
      A `Prediction` with leading axis B.
    """
    return nnx.merge(graphdef, params, copy=True)(features, rngs=rngs)
