"""Table of networks: constructor, loss, and the part of the covariance that is scored."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.networks import learned_pursuit, losses, subspace_network


class Architecture(NamedTuple):
    """Functions of a network that training and evaluation use."""

    module: Callable[..., Any]  #: takes a configuration and rngs
    scored: str  #: description of what the NMSE compares
    loss_terms: Callable[
        [losses.Prediction, losses.Target, config_lib.Config], dict[str, Float[Array, "B"]]
    ]
    #: The part of a factor [B, N, r] that is compared, given the true source count [B].
    compared: Callable[
        [Complex[Array, "B N r"], Int[Array, "B"], config_lib.Config], Complex[Array, "B N c"]
    ]


ARCHITECTURES: dict[config_lib.Architecture, Architecture] = {
    "learned_pursuit": Architecture(
        learned_pursuit.LearnedPursuit,
        "covariances",
        lambda prediction, target, config: losses.loss_terms(
            prediction, target, config.loss, config.covariance
        ),
        lambda factor, num_sources, config: factor,
    ),
    "subspace_network": Architecture(
        subspace_network.SubspaceNetwork,
        "projectors on the signal subspaces",
        subspace_network.loss_terms,
        subspace_network.signal_factor,
    ),
}


def of(config: config_lib.Config) -> Architecture:
    """Return the architecture named by a configuration."""
    return ARCHITECTURES[config.model.architecture]


@functools.cache
def program_config(config: config_lib.Config) -> config_lib.Config:
    """Reduce a configuration to the fields a step is compiled for; others get fixed values.

    The other fields are data (`training.state.Hyperparameters`), or belong to the loop or the scene
    generator.
    """
    loss = dataclasses.asdict(config.loss)
    return dataclasses.replace(
        config,
        impairments=config_lib.ImpairmentConfig(),
        loss=config_lib.LossConfig(**{name: float(weight > 0) for name, weight in loss.items()}),
        optimizer=config_lib.OptimizerConfig(method=config.optimizer.method),
        training=config_lib.TrainingConfig(),
    )


@functools.cache
def _shapes(program: config_lib.Config) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: create(program, jax.random.key(0))), nnx.Param)


def graphdef(config: config_lib.Config) -> Any:
    """Return the network's definition without its parameters."""
    return _shapes(program_config(config))[0]


def parameter_shapes(config: config_lib.Config) -> Any:
    """Return the shapes and types of the network's parameters."""
    return _shapes(program_config(config))[1]


def create(config: config_lib.Config, key: jax.Array) -> Any:
    """Create a network with random parameters."""
    return of(config).module(config, rngs=nnx.Rngs(params=key))
