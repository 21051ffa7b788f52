"""Names and one-line summaries of the estimators, for --help; imported without JAX."""

SUMMARIES = {
    "maximum_likelihood": "counts and localises at the bound",
    "network": "a network's positions, refined by maximum likelihood",
    "music": "MUSIC (Schmidt, 1986) in three dimensions",
    "mvdr": "Capon's minimum variance (1969) in three dimensions",
    "modified_music": "directions by the anti-diagonal, then ranges (Ramezani et al., 2024)",
    "reduced_dimension_music": "directions by rank reduction, then ranges (Zhang et al., 2018)",
    "orthogonal_matching_pursuit": "greedy, on a grid (Tropp & Gilbert, 2007)",
    "sparse_bayesian_learning": "on a grid (Gerstoft et al., 2016)",
    "subspace_network": "MUSIC on a learned surrogate covariance (Shmuel et al., 2025)",
}


# Estimators that require a network.
NEED_NETWORK = ("network", "subspace_network")


def listing() -> str:
    """Return all names with their summaries, for the help of a flag."""
    return "; ".join(f"{name}: {summary}" for name, summary in SUMMARIES.items())
