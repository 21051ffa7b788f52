"""Joint refinement of the sources of one scene on the likelihood, and its residual."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from ris_jax.estimation import levenberg_marquardt, likelihood
from ris_jax.physics import linear

# Least fraction of the power of fitted amplitudes that counts as signal, not noise.
_LEAST_POWER_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class RefinementProblem:
    """Steering vectors and limits that all scenes of a call share."""

    #: `arrays.steering_jet`, or `wideband.stacked_jet` of several frequencies; D = 4 with a delay.
    jet: Callable[[Float[Array, "... D"]], Complex[Array, "... D+1 N"]]
    lower: Float[Array, "D"]  #: limits of (u, w, 1/r) or (u, w, 1/r, delay distance)
    upper: Float[Array, "D"]


class SourceFit(NamedTuple):
    """Sources of one scene with their concentrated likelihood; absent ones have no effect."""

    coordinates: Float[Array, "K D"]
    active: Float[Array, "K"]
    local: likelihood.Concentrated
    images: likelihood.Images  #: of the steering vectors, [T, K, R]
    residual: Complex[Array, "T R"]


class Background(NamedTuple):
    """Sources that are held during the search for others."""

    images: likelihood.Images  #: [T, K, R], zero where absent
    inverse_gram: Complex[Array, "T K K"]
    residual: Complex[Array, "T R"]
    value: Float[Array, ""]  #: energy that they explain


def refine(
    setting: RefinementProblem,
    observation: likelihood.Observation,
    coordinates: Float[Array, "K D"],
    active: Float[Array, "K"],
    iterations: int | Int[Array, ""],
    prior: likelihood.Prior | None = None,
    most: Int[Array, ""] | None = None,
) -> SourceFit:
    """Refine all active sources jointly by Levenberg-Marquardt, amplitudes projected out.

    Args:
      setting: of the call.
      observation: one scene.
      coordinates: [K, D] starts, within the limits.
      active: [K] 1 or 0.
      iterations: steps to try; 0 evaluates the starts.
      prior: of independent signals; None fits their amplitudes.
      most: maximum steps of this scene, if it shares `iterations` with others; see
        `levenberg_marquardt.ascend`.
    """
    sources, dimensions = active.shape[0], setting.lower.shape[0]

    def evaluate(flat):
        jets = setting.jet(flat.reshape(dimensions, sources).T) * active[:, None, None]
        vectors = jnp.swapaxes(jets, 0, 1).reshape((1 + dimensions) * sources, -1)
        seen = likelihood.images(observation, vectors)
        gram = likelihood.inner_products(seen.left, seen.right)
        matched = likelihood.against(seen.left, observation.data)
        alone = likelihood.Images(seen.left[:, :sources], seen.right[:, :sources])
        return likelihood.concentrate(gram, matched, active, prior), alone

    flat, local, seen = levenberg_marquardt.ascend(
        evaluate,
        coordinates.T.reshape(-1),
        jnp.repeat(setting.lower, sources),
        jnp.repeat(setting.upper, sources),
        iterations,
        most,
    )
    explained = linear.einsum("tk,tkr->tr", local.amplitudes, seen.right)
    return SourceFit(
        flat.reshape(dimensions, sources).T, active, local, seen, observation.data - explained
    )


def no_sources(observation: likelihood.Observation, sources: int, dimensions: int = 3) -> SourceFit:
    """Return a fit with room for `sources` sources of D coordinates, all absent."""
    groups, rows = observation.data.shape
    nothing = jnp.zeros((groups, sources, rows), observation.data.dtype)
    zeros = functools.partial(jnp.zeros, dtype=observation.energy.dtype)
    local = likelihood.Concentrated(
        value=zeros(()),
        gradient=zeros(dimensions * sources),
        curvature=zeros((dimensions * sources, dimensions * sources)),
        amplitudes=nothing[:, :, 0],
    )
    images = likelihood.Images(nothing, nothing)
    return SourceFit(zeros((sources, dimensions)), zeros(sources), local, images, observation.data)


def background(
    observation: likelihood.Observation, fit: SourceFit, kept: Bool[Array, "K"] | None = None
) -> Background:
    """Refit the amplitudes of all sources, or of those that are kept."""
    active = fit.active if kept is None else fit.active * kept
    left, right = (part * active[:, None] for part in fit.images)
    gram = likelihood.regular_gram(likelihood.inner_products(left, right), active)
    inverse = linear.inverse_positive(gram)
    matched = likelihood.against(left, observation.data)
    amplitudes = linear.einsum("tkl,tl->tk", inverse, matched)
    value = jnp.sum((matched.conj() * amplitudes).real)
    residual = observation.data - linear.einsum("tk,tkr->tr", amplitudes, right)
    return Background(likelihood.Images(left, right), inverse, residual, value)


def projected_products(
    held: Background, new: likelihood.Images
) -> tuple[Complex[Array, "T P P"], Complex[Array, "T P"]]:
    """Inner products among new images, and with the data, the held sources projected out."""
    cross = likelihood.inner_products(held.images.left, new.right)
    gram = likelihood.inner_products(new.left, new.right)
    solved = linear.matmul(held.inverse_gram, cross)
    gram = gram - linear.matmul(jnp.swapaxes(cross.conj(), -1, -2), solved)
    return gram, likelihood.against(new.left, held.residual)


def variances(held: Background) -> Float[Array, "T K"]:
    r""":math:`[(B_t^H B_t)^{-1}]_{kk}` of a background's sources: noise in their amplitudes."""
    return linear.diagonal(held.inverse_gram).real


def mean_power(observation: likelihood.Observation, fit: SourceFit) -> Float[Array, "K"]:
    """Mean power of the fitted amplitudes of each source over the snapshots."""
    power = jnp.sum(jnp.abs(fit.local.amplitudes) ** 2, axis=0)
    return power / jnp.sum(observation.weights)


def signal_power(
    observation: likelihood.Observation,
    fit: SourceFit,
    noise_variance: Float[Array, ""],
    held: Background | None = None,
) -> Float[Array, "K"]:
    r"""Power of each source: the mean of :math:`|\hat s_{kt}|^2` over the snapshots, less noise.

    .. math:: \frac1T\sum_t |\hat s_{kt}|^2 - \sigma^2 [(B_t^H B_t)^{-1}]_{kk}

    is unbiased at the true positions, but may be negative: its floor is a tenth of the first term.
    Absent sources have no power.

    Args:
      observation: one scene.
      fit: its sources, amplitudes fitted without a prior.
      noise_variance: :math:`\sigma^2`.
      held: `background` of the fit, if already computed.
    """
    held = background(observation, fit) if held is None else held
    weights = observation.weights[:, None]
    snapshots = jnp.sum(weights)
    fitted = mean_power(observation, fit)
    excess = noise_variance * jnp.sum(weights * variances(held), axis=0) / snapshots
    return jnp.maximum(fitted - excess, _LEAST_POWER_SHARE * fitted)


def integrate_amplitudes(
    setting: RefinementProblem,
    observation: likelihood.Observation,
    fit: SourceFit,
    noise_variance: Float[Array, ""],
    iterations: int,
) -> SourceFit:
    """Refine a fit of independent signals by the unconditional likelihood.

    The powers of the prior are those of `signal_power`.
    """
    power = signal_power(observation, fit, noise_variance)
    # A source without power must not divide by zero.
    power = jnp.where((fit.active > 0) & (power > 0), power, 1.0)
    prior = likelihood.Prior(power, noise_variance, observation.weights)
    return refine(setting, observation, fit.coordinates, fit.active, iterations, prior)
