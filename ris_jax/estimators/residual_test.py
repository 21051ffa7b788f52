"""Is what an estimate leaves unexplained more than the noise? Then the hardware is not as told."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ris_jax import scenes
from ris_jax.estimators.estimate import Estimate

# Standard deviations that noise alone exceeds once in some 30 000 scenes.
MOST_DEVIATIONS = 4.0


def deviations(
    estimate: Estimate, measurement: scenes.Measurement, amplitudes: int
) -> Float[Array, "B"]:
    r"""How many standard deviations the residual's energy lies above what noise leaves.

    With n complex samples of white noise of known variance left, the residual's mean energy has
    the relative standard deviation :math:`n^{-1/2}`; `Estimate.noise_variance` is that mean energy.

    Args:
      estimate: of a batch.
      measurement: the same batch; where its noise variance is NaN, so is the result.
      amplitudes: free complex amplitudes of a source: 1, or one for each snapshot.
    """
    samples = measurement.snapshots.shape[-1] * measurement.snapshots.shape[-2]
    left = jnp.maximum(samples - jnp.asarray(estimate.num_sources) * (amplitudes + 1.5), 1.0)
    excess = jnp.asarray(estimate.noise_variance) / jnp.asarray(measurement.noise_variance) - 1.0
    return excess * jnp.sqrt(left)


def inconsistent(
    estimate: Estimate, measurement: scenes.Measurement, amplitudes: int
) -> Bool[Array, "B"]:
    """Scenes whose residual is no noise of the variance that was given; see `deviations`."""
    return deviations(estimate, measurement, amplitudes) > MOST_DEVIATIONS
