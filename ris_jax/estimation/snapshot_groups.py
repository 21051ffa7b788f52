r"""Sufficient statistics of independent snapshots that share a code.

For snapshots :math:`Y_g = [y_t]` of one code, the likelihood of the source positions depends on
:math:`Y_g Y_g^H` only. A QR decomposition :math:`Y_g^T = QR` replaces them by the at most M rows of
R, without loss: 24 000 snapshots of four antennas cost as much as four. Each row then represents
:math:`L_g / M` snapshots, which matters for averages of the noise over snapshots.
"""

import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from ris_jax.physics import scenes


def compress(
    measurement: scenes.Measurement,
) -> tuple[scenes.Measurement, Float[np.ndarray, "T"] | None]:
    """Replace the snapshots of each code by at most as many as there are antennas.

    Args:
      measurement: [B, L, M], codes [1, L, N], or [B, L, N] that are alike in all scenes.

    Returns:
      The measurement with T snapshots, and the number of snapshots that each represents; unchanged
      with None if that saves less than half of them, if scenes have different codes, or inside
      `jax.jit`.
    """
    if any(isinstance(leaf, Tracer) for leaf in measurement):
        return measurement, None
    snapshots, codes = np.asarray(measurement.snapshots), np.asarray(measurement.codes)
    antennas = snapshots.shape[2]
    if len(codes) > 1 and not (codes == codes[:1]).all():
        return measurement, None
    distinct, group = np.unique(codes[0], axis=0, return_inverse=True)
    group = group.ravel()
    sizes = np.bincount(group)
    ranks = np.minimum(sizes, antennas)
    if 2 * ranks.sum() > len(group):
        return measurement, None
    rows = np.concatenate(
        [_rows(snapshots[:, group == number]) for number in range(len(sizes))], axis=1
    )
    kept = np.repeat(distinct, ranks, axis=0)[None]
    codes = np.broadcast_to(kept, (len(codes), *kept.shape[1:]))
    measurement = measurement._replace(snapshots=rows.astype(snapshots.dtype), codes=codes)
    return measurement, np.repeat(sizes / ranks, ranks)


def _rows(snapshots: np.ndarray) -> np.ndarray:
    """[B, min(L, M), M] with the same ``Y^T conj(Y)`` as snapshots [B, L, M]."""
    if snapshots.shape[1] <= snapshots.shape[2]:
        return snapshots
    # NaN in one scene must not affect the others or stop the decomposition.
    finite = np.asarray(np.all(np.isfinite(snapshots), axis=(1, 2)))
    rows = np.linalg.qr(np.where(finite[:, None, None], snapshots, 0.0).astype(complex), mode="r")
    return np.where(finite[:, None, None], rows, np.nan)
