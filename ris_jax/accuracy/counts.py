"""Numbers of sources: validation, and comparison with the true ones; on the host."""

from typing import Any

import numpy as np
from jaxtyping import Int

from ris_jax.accuracy import statistics


def checked(name: str, counts: Any, batch: int, most: int) -> Int[np.ndarray, "B"]:
    """Validate an array of counts, [batch], each 0 ... most.

    Raises:
      ValueError: the array is invalid; the message has the name.
    """
    counts = np.array(counts)
    if counts.shape != (batch,) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"{name}: need [{batch}] integers; got {counts.shape} {counts.dtype}")
    if np.any((counts < 0) | (counts > most)):
        raise ValueError(f"{name}: need 0 ... {most}; got {counts.min()} ... {counts.max()}")
    return counts


def accuracy(num_true: Int[np.ndarray, "B"], num_estimated: Int[np.ndarray, "B"]) -> float:
    """Return the fraction of scenes with the correct number of sources."""
    num_true, num_estimated = np.asarray(num_true), np.asarray(num_estimated)
    if num_true.shape != num_estimated.shape or num_true.ndim != 1:
        raise ValueError(f"need counts [B], twice; got {num_true.shape} and {num_estimated.shape}")
    return statistics.share(np.sum(num_true == num_estimated), len(num_true))


def confusion_matrix(
    num_true: Int[np.ndarray, "B"], num_estimated: Int[np.ndarray, "B"], max_sources: int
) -> Int[np.ndarray, "K+1 K+1"]:
    """Count scenes by number of sources, [max_sources + 1] squared: rows true, columns estimated.

    Raises:
      ValueError: counts that are not [B] integers in 0 ... max_sources.
    """
    batch = np.size(num_true)
    cells = (
        checked("num_true", num_true, batch, max_sources),
        checked("num_estimated", num_estimated, batch, max_sources),
    )
    matrix = np.zeros((max_sources + 1, max_sources + 1), int)
    np.add.at(matrix, cells, 1)
    return matrix
