r"""Loss terms, zero at the truth and invariant to the scale of R and to the order of sources.

Every term maps a batch to one value per scene, [...]. `loss_terms` weights and averages them, and
the terms that it returns sum to the loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.physics import covariance as cov
from ris_jax.physics import linear

# Distances, in units of resolution, below which an estimate or a candidate matches a source.
SAME = 2.0
REACH = 2.5


class Decision(NamedTuple):
    """Round of the pursuit: sources and candidates in units of resolution, with their scores."""

    sources: Float[Array, "... K 3"]
    active: Float[Array, "... K"]
    keep: Float[Array, "... K"]  #: logits
    candidates: Float[Array, "... P 3"]
    add: Float[Array, "... P"]  #: logits
    offset: Float[Array, "... P 3"]


class Prediction(NamedTuple):
    """Output of the network for a scene."""

    factor: Complex[Array, "... N K"]  #: R = F F^H, any scale
    count_logits: Float[Array, "... K"]  #: of 1 ... K_max sources
    coordinates: Float[Array, "... K 3"]  #: (u, w, 1/r)
    existence: Float[Array, "... K"]  #: probability of each source; 0 for absent ones
    decisions: Decision | None  #: all rounds, stacked on a first axis; None without a pursuit


class Target(NamedTuple):
    """Truth for the losses, and inputs of the effective covariance."""

    factor: Complex[Array, "... N K"]  #: A = [g_k a(p_k)]
    sample_factor: Complex[Array, "... N C"]
    snr: Float[Array, "..."]  #: linear, as estimated from the measurement
    snr_db: Float[Array, "..."]  #: as drawn
    coordinates: Float[Array, "... K 3"]  #: (u, w, 1/r) in units of resolution
    active: Float[Array, "... K"]
    num_sources: Int[Array, "..."]


def covariance_nmse(
    estimate: cov.LowRankCovariance, truth: cov.LowRankCovariance
) -> Float[Array, "..."]:
    r""":math:`\|R_{est} - R\|_F^2 / \|R\|_F^2`, both at trace N. Zero for two zero matrices."""
    estimate, truth = cov.trace_normalize(estimate), cov.trace_normalize(truth)
    power = cov.inner(truth, truth)
    distance = cov.inner(estimate, estimate) + power - 2.0 * cov.inner(estimate, truth)
    return distance / jnp.maximum(power, 1e-6)


def match(
    estimate: Float[Array, "... I 3"],
    estimated: Float[Array, "... I"],
    truth: Float[Array, "... K 3"],
    true: Float[Array, "... K"],
) -> tuple[Bool[Array, "... I"], Bool[Array, "... K"]]:
    """Match estimates and sources one to one, nearest first, at most `SAME` apart.

    Args:
      estimate: [..., I, 3] in units of resolution.
      estimated: [..., I] 1 or 0.
      truth: [..., K, 3].
      true: [..., K] 1 or 0.

    Returns:
      Masks of the matched estimates and of the matched sources.
    """
    distance = jnp.linalg.norm(estimate[..., :, None, :] - truth[..., None, :, :], axis=-1)
    rows, columns = distance.shape[-2:]
    batch = distance.shape[:-2]
    row_free = jnp.broadcast_to(estimated > 0, (*batch, rows))
    column_free = jnp.broadcast_to(true > 0, (*batch, columns))

    def pair_nearest(_, free):
        row_free, column_free = free
        possible = row_free[..., :, None] & column_free[..., None, :]
        flat = jnp.where(possible, distance, jnp.inf).reshape(*distance.shape[:-2], -1)
        index = jnp.argmin(flat, axis=-1)[..., None]
        near = jnp.min(flat, axis=-1, keepdims=True) < SAME
        row = near & (jnp.arange(rows) == index // columns)
        column = near & (jnp.arange(columns) == index % columns)
        return row_free & ~row, column_free & ~column

    row_left, column_left = jax.lax.fori_loop(
        0, min(rows, columns), pair_nearest, (row_free, column_free)
    )
    return row_free & ~row_left, column_free & ~column_left


class Labels(NamedTuple):
    """Correct scores of a decision."""

    keep: Float[Array, "... K"]
    add: Float[Array, "... P"]
    offset: Float[Array, "... P 3"]  #: of the source to add


def labels(decision: Decision, target: Target) -> Labels:
    """Return the labels of a decision: real sources, and candidates next to missing ones.

    For each missing source, the nearest candidate within `REACH` is correct.
    """
    real, explained = match(decision.sources, decision.active, target.coordinates, target.active)
    missing = (target.active > 0) & ~explained
    away = target.coordinates[..., :, None, :] - decision.candidates[..., None, :, :]
    distance = jnp.linalg.norm(away, axis=-1)
    nearest = jnp.arange(distance.shape[-1]) == jnp.argmin(distance, axis=-1)[..., None]
    chosen = nearest & (distance < REACH) & missing[..., None]
    # If two missing sources share a candidate, it moves to the nearer one.
    first = jnp.argmin(jnp.where(chosen, distance, jnp.inf), axis=-2)
    offset = jnp.take_along_axis(away, first[..., None, :, None], axis=-3)[..., 0, :, :]
    return Labels(real.astype(jnp.float32), jnp.any(chosen, axis=-2).astype(jnp.float32), offset)


def existence_cross_entropy(decision: Decision, label: Labels) -> Float[Array, "..."]:
    """Cross-entropy of kept and added sources, over K_max."""
    keep = optax.sigmoid_binary_cross_entropy(decision.keep, label.keep) * decision.active
    add = optax.sigmoid_binary_cross_entropy(decision.add, label.add)
    return (jnp.sum(keep, axis=-1) + jnp.sum(add, axis=-1)) / decision.active.shape[-1]


def offset_error(decision: Decision, label: Labels) -> Float[Array, "..."]:
    """Huber loss of the offsets of added sources, over K_max."""
    errors = jnp.sum(optax.huber_loss(decision.offset, label.offset), axis=-1) * label.add
    return jnp.sum(errors, axis=-1) / decision.active.shape[-1]


def count_cross_entropy(
    logits: Float[Array, "... K"], num_sources: Int[Array, "..."]
) -> Float[Array, "..."]:
    """Cross-entropy of the number of sources, 1 ... K_max."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, num_sources - 1)


def subspace_missed(
    estimate: Complex[Array, "... N r"],
    basis: Complex[Array, "... N K"],
    num_sources: Int[Array, "..."],
) -> Float[Array, "..."]:
    """Return the missed fraction of the true signal subspace, 0 to 1.

    Args:
      estimate: factor of the estimated covariance, any scale.
      basis: orthonormal, of the true signal subspace; columns past its dimension are zero.
      num_sources: its dimension.
    """
    adjoint = jnp.swapaxes(estimate, -1, -2).conj()
    inverse = cov.gram_pseudo_inverse(linear.matmul(adjoint, estimate), num_sources)
    inner = linear.matmul(adjoint, basis)
    held = jnp.sum((inner.conj() * linear.matmul(inverse, inner)).real, axis=(-1, -2))
    there = jnp.sum(jnp.abs(basis) ** 2, axis=(-1, -2))  # fewer dimensions if two sources coincide
    return 1.0 - held / jnp.maximum(there, 1.0)


def position_error(
    estimate: Float[Array, "... K 3"],
    estimated: Float[Array, "... K"],
    truth: Float[Array, "... K 3"],
    true: Float[Array, "... K"],
) -> Float[Array, "..."]:
    """Root mean square distance of positions over the best pairing of sources, capped at `REACH`.

    Training objective of Shmuel et al. (2025) after `metrics.rmspe`, but in (u, w, 1/r), which have
    no period. A source farther than `REACH` from its estimate, or without one, counts as `REACH`
    and has no gradient.

    Args:
      estimate: [..., K, 3] in units of resolution.
      estimated: [..., K] 1 or 0.
      truth: [..., K, 3].
      true: [..., K] 1 or 0.

    Returns:
      In units of resolution, 0 to `REACH`.
    """
    squares = jnp.sum((truth[..., :, None, :] - estimate[..., None, :, :]) ** 2, axis=-1)
    squares = jnp.where(estimated[..., None, :] > 0, jnp.minimum(squares, REACH**2), REACH**2)
    squares = squares * true[..., :, None]
    total = _least_sum(squares) / jnp.maximum(jnp.sum(true, axis=-1), 1.0)
    # sqrt has an infinite slope at 0; `where` avoids it.
    positive = total > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1.0)), 0.0)


def _least_sum(costs: Float[Array, "... K K"]) -> Float[Array, "..."]:
    """Return the smallest sum of costs over all pairings of rows with columns.

    Dynamic programming over the sets of columns in use.
    """
    size = costs.shape[-1]
    sets = np.arange(2**size)
    holds = (sets[:, None] >> np.arange(size)) & 1 > 0
    without = sets[:, None] & ~(1 << np.arange(size))
    least = jnp.where(sets == 0, 0.0, jnp.inf) + jnp.zeros((*costs.shape[:-2], 1))
    for row in range(size):
        reached = least[..., without] + costs[..., row, None, :]
        reached = jnp.where(holds, reached, jnp.inf)
        # Not `jnp.min`: its derivative is NaN if rounding separates the minimum from its argument.
        chosen = jnp.argmin(reached, axis=-1, keepdims=True)
        least = jnp.take_along_axis(reached, chosen, axis=-1)[..., 0]
    return least[..., -1]


def loss_terms(
    prediction: Prediction,
    target: Target,
    weights: config_lib.LossConfig,
    covariance: config_lib.CovarianceConfig,
) -> dict[str, Float[Array, "..."]]:
    """Return the weighted terms of every scene; a term of weight zero is not computed.

    The effective covariance is compared with the truth shrunk by the same weight, so that the
    truth has zero loss.

    Args:
      prediction: the network's output.
      target: the truth and the snapshots' fields.
      weights: of the terms.
      covariance: blend and shrinkage of the effective covariance.

    Returns:
      Term names to [...] values; their sum is the loss.
    """
    terms = {}
    if weights.covariance > 0:
        truth = cov.from_factor(target.factor)
        effective = cov.effective_covariance(
            prediction.factor, target.sample_factor, target.snr, covariance
        )
        shrunk = cov.shrink(truth, cov.shrinkage_weight(target.snr, covariance))
        terms["covariance"] = weights.covariance * covariance_nmse(effective, shrunk)
    rounds = prediction.decisions
    if rounds is not None and (weights.existence > 0 or weights.offset > 0):
        label = labels(rounds, target)
        if weights.existence > 0:
            errors = existence_cross_entropy(rounds, label)
            terms["existence"] = weights.existence * jnp.mean(errors, axis=0)
        if weights.offset > 0:
            errors = offset_error(rounds, label)
            terms["offset"] = weights.offset * jnp.mean(errors, axis=0)
    if weights.count > 0 and prediction.count_logits.shape[-1] > 1:  # a single class has no loss
        terms["count"] = weights.count * count_cross_entropy(
            prediction.count_logits, target.num_sources
        )
    return terms
