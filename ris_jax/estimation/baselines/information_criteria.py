r"""Source counting by information criteria on the eigenvalues of a covariance.

Spatially white noise has equal eigenvalues. The criteria balance the equality of the smallest
:math:`n - k` eigenvalues against the number of free parameters of k sources,

.. math::
  -\log\text{likelihood}(k) = T (n - k) \log\frac{\frac{1}{n-k}\sum_{i>k}\lambda_i}
                              {\prod_{i>k}\lambda_i^{1/(n-k)}},\quad k(2n - k)\text{ parameters}

(Wax & Kailath, *Detection of signals by information theoretic criteria*, IEEE Trans. ASSP 33(2),
1985). The minimum description length is consistent for many snapshots. Akaike's criterion misses
fewer sources, but has false alarms for any number of snapshots.

With fewer snapshots T than elements n, a sample covariance has only T nonzero eigenvalues. They are
those of the T x T Gram matrix of the snapshots, in which noise is also white. Elements and
snapshots are then exchanged: the T largest eigenvalues are used, as for n vectors of length T.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Eigenvalues below this fraction of the largest are float32 rounding and taken as equal.
_ROUNDING = 1e-6


def _criteria(eigenvalues, num_samples, max_sources):
    """Return minus log likelihood and parameter count for each k, [..., k], and sample size."""
    elements = eigenvalues.shape[-1]
    if num_samples < 1:
        raise ValueError(f"need num_samples >= 1; got {num_samples}")
    if max_sources is not None and max_sources < 0:
        raise ValueError(f"need max_sources >= 0; got {max_sources}")
    size, samples = min(elements, num_samples), max(elements, num_samples)
    values = -jnp.sort(-eigenvalues, axis=-1)[..., :size]
    # Relative to the largest, to avoid overflow and underflow.
    largest = values[..., :1]
    values = jnp.where(largest > 0, values / jnp.where(largest > 0, largest, 1.0), 1.0)
    values = jnp.maximum(values, _ROUNDING)

    def tails(terms):
        return jnp.flip(jnp.cumsum(jnp.flip(terms, axis=-1), axis=-1), axis=-1)

    left = jnp.arange(size, 0, -1, dtype=values.dtype)
    unequal = jnp.log(tails(values) / left) - tails(jnp.log(values)) / left
    sources = size - left
    parameters = sources * (2.0 * size - sources)
    most = size if max_sources is None else min(max_sources + 1, size)
    likelihood = samples * left * jnp.maximum(unequal, 0.0)
    return likelihood[..., :most], parameters[:most], samples


def minimum_description_length(
    eigenvalues: Float[Array, "... N"], num_samples: int, *, max_sources: int | None = None
) -> Int[Array, "..."]:
    r"""Return the number of sources that minimises :math:`-\log L + \frac12 k(2n - k)\log T`.

    Args:
      eigenvalues: [..., N] of a sample covariance, any order, any scale. Zeros, ties and rounding
        below zero are allowed; zero power gives no source.
      num_samples: snapshots in it; for fewer than N, see the module.
      max_sources: maximum result; never above min(N, num_samples) - 1.

    Returns:
      [...] int.

    Raises:
      ValueError: `num_samples` below 1 or `max_sources` below 0.
    """
    likelihood, parameters, samples = _criteria(eigenvalues, num_samples, max_sources)
    return jnp.argmin(likelihood + 0.5 * parameters * jnp.log(float(samples)), axis=-1)


def akaike(
    eigenvalues: Float[Array, "... N"], num_samples: int, *, max_sources: int | None = None
) -> Int[Array, "..."]:
    r"""Return the number of sources that minimises :math:`-\log L(k) + k(2n - k)`.

    Arguments, result and errors as for `minimum_description_length`.
    """
    likelihood, parameters, _ = _criteria(eigenvalues, num_samples, max_sources)
    return jnp.argmin(likelihood + parameters, axis=-1)
