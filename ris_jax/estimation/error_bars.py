"""Error bars of a fit with constant signals, from the curvature of its likelihood.

The curvature of the fit is the Fisher information of the positions, up to the factor of twice the
inverse noise variance. The result equals `bounds.cramer_rao_bound` at a tenth of its cost. Float32
is sufficient for all sources that it can separate.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ris_jax.estimation import refinement
from ris_jax.physics import arrays, linear

# Variance, relative to all else known, beyond which float32 is not accurate.
_MOST_INFLATION = 1e4


def covariance(
    fit: refinement.SourceFit,
    power: Float[Array, "K"],
    inverse_gram: Float[Array, "K"],
    noise_variance: Float[Array, ""],
) -> Float[Array, "K 3 3"]:
    r"""Return the covariance of azimuth [rad], elevation [rad] and range [m] of each source.

    Args:
      fit: of constant signals.
      power: [K] of the sources, without the noise contribution in the fitted power.
      inverse_gram: [K] diagonal of the inverse Gram matrix of the sources' images.
      noise_variance: :math:`\sigma^2`.

    Returns:
      [K, 3, 3]; infinite on the diagonal for undetermined parameters.
    """
    sources = fit.active.shape[0]
    fitted = jnp.abs(fit.local.amplitudes[0]) ** 2
    weight = jnp.tile(jnp.sqrt(power / jnp.maximum(fitted, jnp.finfo(power.dtype).tiny)), 3)
    information = fit.local.curvature * weight[:, None] * weight  # without the factor 2 / sigma^2
    diagonal = jnp.diagonal(information)
    felt = diagonal > 0
    scale = jnp.where(felt, jnp.sqrt(jnp.where(felt, diagonal, 1.0)), 1.0)
    unit = information / scale[:, None] / scale
    unit = jnp.where(felt[:, None] & felt, unit, jnp.eye(3 * sources, dtype=unit.dtype))
    inverse = linear.inverse_positive(unit)
    spread = jnp.diagonal(inverse)
    full = 0.5 * noise_variance * (inverse / scale[:, None] / scale)
    full = full.reshape(3, sources, 3, sources)
    index = jnp.arange(sources)
    own = full[:, index, :, index]
    alone = jnp.sum((fit.images.left[0].conj() * fit.images.right[0]).real, axis=-1)
    distinct = (fit.active > 0) & (inverse_gram * alone < _MOST_INFLATION)
    known = (felt & (spread > 0) & (spread < _MOST_INFLATION)).reshape(3, sources).T
    known &= distinct[:, None]

    azimuth, elevation, source_range = arrays.from_coordinates(fit.coordinates)
    far = ~jnp.isfinite(source_range)
    cosine = jnp.cos(elevation)
    nothing = jnp.zeros_like(azimuth)
    turn = jnp.stack(
        [
            jnp.stack([1.0 / (cosine * jnp.cos(azimuth)),
                       jnp.tan(azimuth) * jnp.sin(elevation) / cosine**2, nothing], -1),
            jnp.stack([nothing, 1.0 / cosine, nothing], -1),
            jnp.stack([nothing, nothing, jnp.where(far, 0.0, -(source_range**2))], -1),
        ],
        axis=-2,
    )  # fmt: skip
    # Azimuth also depends on w.
    known = jnp.stack([known[:, 0] & known[:, 1], known[:, 1], known[:, 2] & ~far], axis=-1)
    moved = linear.einsum("kij,kjl,kml->kim", turn, own, turn)
    both = known[:, :, None] & known[:, None, :]
    return jnp.where(both, moved, jnp.where(jnp.eye(3, dtype=bool), jnp.inf, 0.0))
