"""Test of the residual against the noise; a larger residual indicates a hardware mismatch."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ris_jax.estimation.estimate import Estimate
from ris_jax.physics import scenes

# Standard deviations that noise alone exceeds once in about 30 000 scenes.
MOST_DEVIATIONS = 4.0


def deviations(
    estimate: Estimate, measurement: scenes.Measurement, amplitudes: int
) -> Float[Array, "B"]:
    r"""Return the excess of the residual energy over the noise, in standard deviations.

    For n remaining complex samples of white noise of known variance, the mean energy of the
    residual has the relative standard deviation :math:`n^{-1/2}`. `Estimate.noise_variance` is that
    mean.

    Args:
      estimate: of a batch.
      measurement: the same batch; the result is NaN where its noise variance is NaN.
      amplitudes: free complex amplitudes of a source: 1, or one for each snapshot.
    """
    samples = math.prod(measurement.snapshots.shape[1:])
    left = jnp.maximum(samples - jnp.asarray(estimate.num_sources) * (amplitudes + 1.5), 1.0)
    excess = jnp.asarray(estimate.noise_variance) / jnp.asarray(measurement.noise_variance) - 1.0
    return excess * jnp.sqrt(left)


def inconsistent(
    estimate: Estimate, measurement: scenes.Measurement, amplitudes: int
) -> Bool[Array, "B"]:
    """Return the scenes whose residual exceeds the given noise variance; see `deviations`."""
    return deviations(estimate, measurement, amplitudes) > MOST_DEVIATIONS
