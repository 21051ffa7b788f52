"""Error bars of a fit with constant signals, from the curvature of its likelihood.

The curvature of the fit is the Fisher information of the positions, up to the factor of twice the
inverse noise variance. The result equals `bounds.cramer_rao_bound` at a tenth of its cost. Float32
is sufficient for all sources that it can separate.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ris_jax.estimation import refinement
from ris_jax.physics import arrays, linear

# Variance, relative to all else known, beyond which float32 is not accurate.
MOST_INFLATION = 1e4


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
    fitted = jnp.abs(fit.local.amplitudes[0]) ** 2
    alone = jnp.sum((fit.images.left[0].conj() * fit.images.right[0]).real, axis=-1)
    distinct = (fit.active > 0) & (inverse_gram * alone < MOST_INFLATION)
    return from_curvature(fit, power, fitted, distinct, noise_variance)


def from_curvature(
    fit: refinement.SourceFit,
    power: Float[Array, "K"],
    fitted: Float[Array, "K"],
    distinct: Bool[Array, "K"],
    noise_variance: Float[Array, ""],
) -> Float[Array, "K D D"]:
    """Return the covariance of azimuth, elevation, range and any further coordinate.

    Args:
      fit: of constant signals.
      power: [K] of the sources.
      fitted: [K] power of the fitted amplitudes, with noise.
      distinct: [K] whether the amplitude of a source can be separated from those of the others.
      noise_variance: [].

    Returns:
      [K, D, D]; infinite on the diagonal for undetermined parameters.
    """
    sources, dimensions = fit.coordinates.shape
    weight = jnp.sqrt(power / jnp.maximum(fitted, jnp.finfo(power.dtype).tiny))
    weight = jnp.tile(weight, dimensions)
    information = fit.local.curvature * weight[:, None] * weight  # without the factor 2 / sigma^2
    diagonal = jnp.diagonal(information)
    felt = diagonal > 0
    scale = jnp.where(felt, jnp.sqrt(jnp.where(felt, diagonal, 1.0)), 1.0)
    unit = information / scale[:, None] / scale
    unit = jnp.where(felt[:, None] & felt, unit, jnp.eye(dimensions * sources, dtype=unit.dtype))
    inverse = linear.inverse_positive(unit)
    spread = jnp.diagonal(inverse)
    full = 0.5 * noise_variance * (inverse / scale[:, None] / scale)
    full = full.reshape(dimensions, sources, dimensions, sources)
    index = jnp.arange(sources)
    own = full[:, index, :, index]
    known = (felt & (spread > 0) & (spread < MOST_INFLATION)).reshape(dimensions, sources).T
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
    position = [known[:, 0] & known[:, 1], known[:, 1], known[:, 2] & ~far]
    if dimensions > 3:
        turn = jnp.pad(turn, [(0, 0), (0, dimensions - 3), (0, dimensions - 3)])
        turn = turn + jnp.diag(jnp.arange(dimensions) > 2).astype(turn.dtype)
        position += list(known[:, 3:].T)
    known = jnp.stack(position, axis=-1)
    moved = linear.einsum("kij,kjl,kml->kim", turn, own, turn)
    both = known[:, :, None] & known[:, None, :]
    return jnp.where(both, moved, jnp.where(jnp.eye(dimensions, dtype=bool), jnp.inf, 0.0))
