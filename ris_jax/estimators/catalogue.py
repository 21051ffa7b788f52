"""The table of estimators: what each works on, and what calls it.

`ris_jax.estimators.localization.localize` takes any of them by name; whoever compares estimators
loops over `METHODS`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from ris_jax.estimators import (
    modified_music,
    orthogonal_matching_pursuit,
    sparse_bayesian,
    subspace,
)
from ris_jax.estimators.estimate import Estimate


class Method(NamedTuple):
    """How `localize` runs an estimator and what it needs.

    A baseline's `search` takes its data, num_sources [B], positions [N, 3] and, by name,
    wavelength, wavefront, max_sources and region; one of the measurement source_signal as well, one
    of centred grids layout and sub_surface. It neither counts sources nor estimates the noise: what
    is not known is taken from maximum likelihood, or from the network.
    """

    data: Literal["measurement", "covariance"]
    network: Literal["needed", "allowed", "unused"]  # does it use a network
    search: Callable[..., Estimate] | None = None  # of a baseline; None: `localize` knows how
    counts: bool = False  # finds the number of sources itself
    mirrored: bool = False  # works on centred grids of elements only, and is told the layout


METHODS = {
    "maximum_likelihood": Method("measurement", "unused", counts=True),
    "network": Method("measurement", "needed", counts=True),
    "music": Method("covariance", "allowed", subspace.music),
    "mvdr": Method("covariance", "allowed", subspace.mvdr),
    "modified_music": Method("covariance", "allowed", modified_music.modified_music, mirrored=True),
    "reduced_dimension_music": Method(
        "covariance", "allowed", modified_music.reduced_dimension_music, mirrored=True
    ),
    "orthogonal_matching_pursuit": Method(
        "measurement", "unused", orthogonal_matching_pursuit.orthogonal_matching_pursuit
    ),
    "sparse_bayesian_learning": Method(
        "measurement", "unused", sparse_bayesian.sparse_bayesian_learning
    ),
}
