r"""Number of sources: a likelihood-ratio test at a given false-alarm rate.

Another source is significant if noise alone rarely explains as much energy anywhere in the
search region. At one fixed position, minus the logarithm of the fraction of the residual energy
that remains is, scaled, half a chi-squared variable with two degrees of freedom for each free
complex amplitude. The probability that its maximum over a region exceeds a
high level is about the expected Euler characteristic of the excursion set, which counts the
resolution cells of the region (Worsley, *Local maxima and the expected Euler characteristic of
excursion sets of chi-squared, F and t fields*, Adv. Appl. Prob. 26(1), 1994).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.physics import linear

DEFAULT_FALSE_ALARM_RATE = config_lib.DEFAULT_FALSE_ALARM_RATE


def metric_tensor(jets: Complex[Array, "... 4 N"]) -> Float[Array, "... 3 3"]:
    r"""Return the metric of steering vectors: their rate of change, independent of the norm.

    .. math:: g_{ij} = \mathrm{Re}\{\partial_i a^H (I - a a^H / \|a\|^2)\,\partial_j a\} / \|a\|^2

    Args:
      jets: [..., 4, N] steering vectors and derivatives, see `arrays.steering_jet`.
    """
    vector, slopes = jets[..., :1, :], jets[..., 1:, :]
    square = jnp.sum(vector.real**2 + vector.imag**2, axis=-1, keepdims=True)
    along = jnp.sum(vector.conj() * slopes, axis=-1, keepdims=True)
    across = slopes - along / square * vector
    return linear.einsum("...in,...jn->...ij", across.conj(), across).real / square


def intrinsic_volumes(
    metric: Float[Array, "G 3 3"], extent: Float[Array, "3"]
) -> Float[Array, "4"]:
    """Return Euler characteristic, length, area and volume of a box of steering vectors.

    The volume is exact up to the grid; length and area are those of a box whose edges have the
    mean metric lengths.

    Args:
      metric: [G, 3, 3] `metric_tensor` on an even grid.
      extent: [3] edges of the box in the grid's coordinates; a zero edge gives a rectangle.
    """
    (a, b, c), (d, e), f = metric[:, 0].T, metric[:, 1, 1:].T, metric[:, 2, 2]
    determinant = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
    volume = jnp.mean(jnp.sqrt(jnp.maximum(determinant, 0.0))) * jnp.prod(extent)
    edges = jnp.mean(jnp.sqrt(jnp.diagonal(metric, axis1=1, axis2=2)), axis=0) * extent
    area = edges[0] * edges[1] + edges[1] * edges[2] + edges[0] * edges[2]
    return jnp.stack([jnp.ones(()), jnp.sum(edges), area, volume])


def times_interval(
    volumes: Float[Array, "D+1"], length: Float[Array, ""] | float
) -> Float[Array, "D+2"]:
    """Return the intrinsic volumes of the product of a region and an interval.

    Args:
      volumes: of the region.
      length: metric length of the interval, along which the rest of the metric is constant.
    """
    longer = jnp.append(volumes, 0.0)
    return longer + length * jnp.roll(longer, 1)


def false_alarm_probability(
    statistic: Float[Array, "..."],
    amplitudes: int,
    volumes: Float[Array, "D+1"],
    added: Int[Array, ""] | int = 1,
) -> Float[Array, "..."]:
    r"""Probability that noise alone exceeds a statistic somewhere in the region, at most 1.

    The statistic of d sources that are tested together has d times as many degrees of freedom.
    Their positions are one of about :math:`M^d / d!` sets of resolution cells. M is the number of
    cells for which one source at 1/d of the level has the probability above.

    Args:
      statistic: [...] log-likelihood ratio, half a chi-squared variable at each fixed position.
      amplitudes: free complex amplitudes of a source: 1, or one for each snapshot.
      volumes: [4] `intrinsic_volumes` of the region, or [5] with `times_interval`.
      added: d, sources that are tested together.
    """
    added = jnp.asarray(added, statistic.dtype)
    # Far above its mean, the number of cells hardly depends on the level.
    highest = amplitudes + 8.0 * np.sqrt(amplitudes) + 40.0
    level = jnp.where(added > 1.0, jnp.minimum(statistic / added, highest), statistic)
    fixed = jax.scipy.special.gammaincc(float(amplitudes), level)
    alone = _one_source(level, fixed, amplitudes, volumes)
    chance = jax.scipy.special.gammaincc(amplitudes * added, statistic)
    sets = jnp.exp(added * jnp.log(alone / fixed) - jax.scipy.special.gammaln(added + 1.0))
    several = jnp.where(alone < 1.0, jnp.clip(sets * chance, 0.0, 1.0), 1.0)
    return jnp.where(added > 1.0, several, alone)


def _one_source(
    statistic: Float[Array, "..."],
    fixed: Float[Array, "..."],
    amplitudes: int,
    volumes: Float[Array, "D+1"],
) -> Float[Array, "..."]:
    """`false_alarm_probability` of one source, given that at a fixed place."""
    degrees = 2.0 * amplitudes  # a float: its square overflows int32 for long recordings
    level = 2.0 * jnp.maximum(statistic, 1e-3)
    # Of the chi-squared density with `degrees` degrees of freedom, up to u^-1/2 (Worsley, 1994).
    log_scale = (degrees / 2 - 1) * np.log(2.0) + jax.scipy.special.gammaln(degrees / 2)
    density = jnp.exp(0.5 * (degrees - 3) * jnp.log(level) - 0.5 * level - log_scale)
    root = jnp.sqrt(level)
    densities = [
        fixed,
        density * level / np.sqrt(2 * np.pi),
        density * root * (level - (degrees - 1)) / (2 * np.pi),
        density
        * (level**2 - (2 * degrees - 1) * level + (degrees - 1) * (degrees - 2))
        / (2 * np.pi) ** 1.5,
    ]
    if volumes.shape[0] == 5:
        cubic = level**3 - 3 * degrees * level**2 + 3 * (degrees - 1) ** 2 * level
        cubic = cubic - (degrees - 1) * (degrees - 2) * (degrees - 3)
        densities.append(density / root * cubic / (2 * np.pi) ** 2)
    expected = linear.tensordot(volumes, jnp.stack(densities), axes=1)
    # At low levels the excursion set has holes, and the characteristic is not informative.
    return jnp.where(level > 2 * degrees + 4, jnp.clip(expected, 0.0, 1.0), 1.0)


def statistic(
    before: Float[Array, "..."],
    after: Float[Array, "..."],
    held: Float[Array, "..."],
    *,
    samples: int,
    amplitudes: int,
    coordinates: int = 3,
    added: Int[Array, ""] | int = 1,
) -> Float[Array, "..."]:
    r"""Log-likelihood ratio of d further sources, corrected for the remaining samples.

    .. math:: (n - \tfrac{dT+1}{2}) \log\frac{\text{residual energy before}}{\text{after}},\quad
              n = LM - K(T + \tfrac D2)

    with K sources held, of T amplitudes and D coordinates each. For dT = 1 and a fixed place
    its distribution without a new source is exactly exponential; for more, Bartlett's correction.

    Args:
      before: [...] residual energy with the sources held.
      after: [...] residual energy with the further ones.
      held: [...] K.
      samples: LM, complex samples of a scene.
      amplitudes: T.
      coordinates: D.
      added: d.
    """
    left = samples - held * (amplitudes + 0.5 * coordinates) - 0.5 * (amplitudes * added + 1)
    floor = jnp.finfo(before.dtype).tiny
    share = jnp.maximum(after, 1e-7 * before + floor) / jnp.maximum(before, floor)
    return jnp.maximum(left, 1.0) * -jnp.log(jnp.minimum(share, 1.0))
