"""What every estimator returns."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Estimate(NamedTuple):
    """Sources of one scene or a batch, strongest first; entries past `num_sources` are padding."""

    azimuth: Float[Array, "... K"]  #: [rad]; padding 0
    elevation: Float[Array, "... K"]  #: [rad]; padding 0
    source_range: Float[Array, "... K"]  #: [m]; infinity is a plane wave; padding infinity
    power: Float[Array, "... K"]  #: mean ``|g_k s_k|^2`` over the snapshots; padding 0
    num_sources: Int[Array, "..."]
    #: Of (azimuth, elevation, range), the Cramer-Rao bound at the estimate [rad^2, rad m, m^2]:
    #: infinite on the diagonal where the scene does not determine a parameter, and in padding.
    covariance: Float[Array, "... K 3 3"]
    noise_variance: Float[Array, "..."]
