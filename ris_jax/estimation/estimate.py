"""Result of every estimator."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ris_jax.physics import arrays


class Estimate(NamedTuple):
    """Sources of one scene or a batch, strongest first; entries past `num_sources` are padding."""

    azimuth: Float[Array, "... K"]  #: [rad]; padding 0
    elevation: Float[Array, "... K"]  #: [rad]; padding 0
    source_range: Float[Array, "... K"]  #: [m]; infinity is a plane wave; padding infinity
    #: Mean ``|g_k s_k|^2`` over the snapshots, of steering vectors with norm 1 in the far field;
    #: padding 0.
    power: Float[Array, "... K"]
    num_sources: Int[Array, "..."]
    #: Of (azimuth, elevation, range), the Cramer-Rao bound at the estimate [rad^2, rad m, m^2]:
    #: infinite on the diagonal where the scene does not determine a parameter, and in padding.
    covariance: Float[Array, "... K 3 3"]
    noise_variance: Float[Array, "..."]
    #: Bit mask of `flags.Flag`: warnings and notes for a scene; set by `localize`.
    flags: Int[Array, "..."] | None = None
    #: Power of the removed static path over that of the sources, per sample [dB]; NaN if none was
    #: removed, infinite without sources. Set by `localize` for constant signals.
    static_path_db: Float[Array, "..."] | None = None
    #: Increase of the variances by its removal, the mean over sources and parameters [dB]; NaN if
    #: unknown.
    static_path_loss_db: Float[Array, "..."] | None = None
    #: Delay [s] and its variance [s^2] of sources with coherent amplitudes at several frequencies,
    #: see `localize_wideband`; padding 0 and infinity.
    delay: Float[Array, "... K"] | None = None
    delay_variance: Float[Array, "... K"] | None = None

    @property
    def has_static_path(self) -> bool:
        """True if a static path was removed from any scene; needs values."""
        return self.static_path_db is not None and not np.isnan(self.static_path_db).all()


def without_error_bars(
    coordinates: Float[Array, "... K 3"],
    power: Float[Array, "... K"],
    active: Float[Array, "... K"],
    noise_variance: Float[Array, "..."],
) -> Estimate:
    """Convert sources in (u, w, 1/r), in any order, to an estimate with infinite error bars.

    Args:
      coordinates: [..., K, 3] direction cosines u and w, 1/r [1/m].
      power: [..., K].
      active: [..., K] 1 for sources, 0 for padding.
      noise_variance: [...].
    """
    active = active > 0
    order = jnp.argsort(jnp.where(active, -power, jnp.inf), axis=-1)
    present = jnp.take_along_axis(active, order, axis=-1)
    coordinates = jnp.take_along_axis(coordinates, order[..., None], axis=-2)
    azimuth, elevation, source_range = arrays.from_coordinates(coordinates)
    return Estimate(
        azimuth=jnp.where(present, azimuth, 0.0),
        elevation=jnp.where(present, elevation, 0.0),
        source_range=jnp.where(present, source_range, jnp.inf),
        power=jnp.where(present, jnp.take_along_axis(power, order, axis=-1), 0.0),
        num_sources=jnp.sum(present, axis=-1),
        covariance=jnp.where(jnp.eye(3, dtype=bool), jnp.inf, jnp.zeros((*power.shape, 3, 3))),
        noise_variance=noise_variance,
    )
