"""Table of networks: constructor, loss, and the part of the covariance that is scored."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import losses
from ris_jax.models import learned_pursuit, subspace_network


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
