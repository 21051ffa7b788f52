"""Table of estimators: the data and the search of each.

`ris_jax.localization.localize` accepts each of them by name. To compare estimators,
loop over `METHODS`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.baselines import (
    decoupled_music,
    orthogonal_matching_pursuit,
    sparse_bayesian,
    subspace,
)
from ris_jax.estimation.estimate import Estimate


class Method(NamedTuple):
    """Properties of an estimator that `localize` uses.

    The `search` of a baseline takes its data, num_sources [B], positions [N, 3] and, by name,
    wavelength, wavefront, max_sources and region. Searches on the measurement also take
    source_signal; those for centred grids take layout and sub_surface. A baseline neither counts
    sources nor estimates the noise; unknown values come from maximum likelihood or the network.
    """

    data: Literal["measurement", "covariance"]
    network: Literal["needed", "allowed", "unused"]  # use of a network
    architecture: config_lib.Architecture | None = None  # of that network; None: any
    search: Callable[..., Estimate] | None = None  # of a baseline; None: special case in `localize`
    counts: bool = False  # finds the number of sources itself
    mirrored: bool = False  # requires a centred grid of elements, and its layout
    cell: float = (
        search_grid.SEARCH_CELL
    )  # width of the cells of its search grid, see `search_grid.search_shape`
    least_grid: tuple[int, int, int] = (1, 1, 1)  # minimum number of cells


METHODS = {
    "maximum_likelihood": Method("measurement", "unused", counts=True),
    "network": Method("measurement", "needed", "learned_pursuit", counts=True),
    "music": Method("covariance", "allowed", search=subspace.music),
    "mvdr": Method("covariance", "allowed", search=subspace.mvdr),
    "modified_music": Method(
        "covariance",
        "allowed",
        search=decoupled_music.modified_music,
        mirrored=True,
        least_grid=decoupled_music.LEAST_GRID,
    ),
    "reduced_dimension_music": Method(
        "covariance",
        "allowed",
        search=decoupled_music.reduced_dimension_music,
        mirrored=True,
        least_grid=decoupled_music.LEAST_GRID,
    ),
    "orthogonal_matching_pursuit": Method(
        "measurement",
        "unused",
        search=orthogonal_matching_pursuit.orthogonal_matching_pursuit,
        cell=orthogonal_matching_pursuit.CELL,
    ),
    "sparse_bayesian_learning": Method(
        "measurement", "unused", search=sparse_bayesian.sparse_bayesian_learning
    ),
    "subspace_network": Method("covariance", "needed", "subspace_network", subspace.music),
}


def of_network(config: config_lib.Config) -> str:
    """Return the estimator that a network is trained for."""
    kind = config.model.architecture
    return next(name for name, method in METHODS.items() if method.architecture == kind)
