r"""Loss terms, each zero at the truth, blind to a common scale of R and to the order of sources.

Every term maps a batch to one value a scene, [...]; `loss_terms` weighs and averages them, and the
terms that it returns sum to the loss.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import covariance as cov
from ris_jax import scenes

# Up to this many sources all orders are tried; beyond, the Hungarian algorithm finds the best.
_MOST_PERMUTED_SOURCES = 6


class Prediction(NamedTuple):
    """What the network says of a scene."""

    factor: Complex[Array, "... N K"]  # R = F F^H, any scale
    count_logits: Float[Array, "... K"]  # of 1 ... K_max sources
    parameters: Float[Array, "... K 3"]  # normalised azimuth, elevation, 1/range: see below


class Target(NamedTuple):
    """What the losses compare with, and what the effective covariance is built from."""

    factor: Complex[Array, "... N K"]  # A = [g_k a(p_k)]
    sample_factor: Complex[Array, "... N C"]
    snr: Float[Array, "..."]  # linear, as estimated from the measurement
    snr_db: Float[Array, "..."]  # as drawn
    parameters: Float[Array, "... K 3"]
    active: Float[Array, "... K"]
    num_sources: Int[Array, "..."]


def normalized_parameters(
    truth: scenes.Truth, scene: config_lib.SceneConfig
) -> Float[Array, "... K 3"]:
    """Azimuth, elevation and inverse range, each mapped from its configured limits to -1 ... 1."""
    nearest, farthest = 1.0 / scene.range_min, 1.0 / scene.range_max
    middle, half = (nearest + farthest) / 2.0, max((nearest - farthest) / 2.0, 1e-6)
    return jnp.stack(
        [
            truth.azimuth / jnp.deg2rad(scene.azimuth_max_deg),
            truth.elevation / jnp.deg2rad(scene.elevation_max_deg),
            (1.0 / truth.source_range - middle) / half,
        ],
        axis=-1,
    )


def covariance_nmse(
    estimate: cov.LowRankCovariance, truth: cov.LowRankCovariance
) -> Float[Array, "..."]:
    r""":math:`\|R_{est} - R\|_F^2 / \|R\|_F^2`, both at trace N. Zero for two zero matrices."""
    estimate, truth = cov.trace_normalize(estimate), cov.trace_normalize(truth)
    power = cov.inner(truth, truth)
    distance = cov.inner(estimate, estimate) + power - 2.0 * cov.inner(estimate, truth)
    return distance / jnp.maximum(power, 1e-6)


def subspace_distance(
    estimate: Complex[Array, "... N K"],
    truth: Complex[Array, "... N K"],
    num_sources: Int[Array, "..."],
) -> Float[Array, "..."]:
    r""":math:`1 - tr(P_{est}P_{true})/tr(P_{true})`: weak sources count as strong ones do."""
    # Columns of unit norm span the same space and keep a source 60 dB down above rounding.
    norm = jnp.linalg.norm(truth, axis=-2, keepdims=True)
    truth = truth / jnp.where(norm > 0, norm, 1.0)
    overlap, dimension = cov.projector_overlap(estimate, truth, num_sources)
    return (dimension - overlap) / jnp.maximum(dimension, 1.0)


def set_distance(
    estimate: Float[Array, "... K 3"],
    truth: Float[Array, "... K 3"],
    active: Float[Array, "... K"],
) -> Float[Array, "..."]:
    """Mean squared error of the parameters under the best assignment of estimates to sources.

    Args:
      estimate: [..., K, 3] normalised parameters, in any order.
      truth: [..., K, 3] normalised parameters; padding may hold anything finite.
      active: [..., K] 1 for a source, 0 for padding, which costs nothing.

    Returns:
      [...] mean over active sources and parameters.
    """
    squared = (estimate[..., :, None, :] - truth[..., None, :, :]) ** 2
    cost = jnp.mean(squared, axis=-1) * active[..., None, :]
    sources = cost.shape[-1]
    if sources <= _MOST_PERMUTED_SOURCES:
        orders = np.array(list(itertools.permutations(range(sources))))
        totals = jnp.sum(cost[..., orders, np.arange(sources)], axis=-1)
        best = jnp.min(totals, axis=-1)
    else:
        best = _hungarian_total(cost)
    return best / jnp.maximum(jnp.sum(active, axis=-1), 1.0)


def _hungarian_total(cost: Float[Array, "... K K"]) -> Float[Array, "..."]:
    """Cost of the cheapest assignment; NaN costs pass through instead of hanging the search."""
    flat = cost.reshape(-1, *cost.shape[-2:])

    def one(matrix):
        finite = jnp.where(jnp.isfinite(matrix), matrix, 0.0)
        rows, columns = optax.assignment.hungarian_algorithm(jax.lax.stop_gradient(finite))
        return jnp.sum(matrix[rows, columns])

    return jax.vmap(one)(flat).reshape(cost.shape[:-2])


def count_cross_entropy(
    logits: Float[Array, "... K"], num_sources: Int[Array, "..."]
) -> Float[Array, "..."]:
    """Cross-entropy of the number of sources, 1 ... K_max."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, num_sources - 1)


def loss_terms(
    prediction: Prediction,
    target: Target,
    weights: config_lib.LossConfig,
    covariance: config_lib.CovarianceConfig,
) -> dict[str, Float[Array, "..."]]:
    """The weighted terms of every scene; a term of weight zero is not computed.

    The effective covariance is compared with the truth shrunk by the same weight, so that the
    truth itself scores zero.

    Args:
      prediction: the network's output.
      target: the truth and the snapshots' fields.
      weights: of the terms.
      covariance: blend and shrinkage of the effective covariance.

    Returns:
      Term names to [...] values; their sum is the loss.
    """
    terms = {}
    truth = cov.from_factor(target.factor)
    if weights.covariance > 0:
        effective = cov.effective_covariance(
            prediction.factor, target.sample_factor, target.snr, covariance
        )
        shrunk = cov.shrink(truth, cov.shrinkage_weight(target.snr, covariance))
        terms["covariance"] = weights.covariance * covariance_nmse(effective, shrunk)
    if weights.auxiliary > 0:
        own = cov.from_factor(prediction.factor)
        terms["auxiliary"] = weights.auxiliary * covariance_nmse(own, truth)
    if weights.subspace > 0:
        terms["subspace"] = weights.subspace * subspace_distance(
            prediction.factor, target.factor, target.num_sources
        )
    if weights.position > 0:
        terms["position"] = weights.position * set_distance(
            prediction.parameters, target.parameters, target.active
        )
    if weights.count > 0 and prediction.count_logits.shape[-1] > 1:  # one choice is no choice
        terms["count"] = weights.count * count_cross_entropy(
            prediction.count_logits, target.num_sources
        )
    return terms
