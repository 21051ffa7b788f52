r"""Removal of a static path: a signal that reaches the antennas the same way under all codes.

The direct path and reflections from the room or the frame of the surface do not depend on the code.
With constant signals they add one unknown vector d to every snapshot:

.. math:: y_l = H\,\mathrm{diag}(c_l)\,A s + d + n_l

Let :math:`Q \in R^{L \times (L-1)}` be an orthonormal basis of the complement of the all-ones
vector. Then :math:`Q^T` removes d. The result is a measurement with L - 1 codes
:math:`Q^T C`, because the surface part is linear in the code, and its noise is white, because Q is
orthonormal. It has the same likelihood as the least-squares fit of d for each antenna (separable
nuisance parameters: Golub & Pereyra, *The differentiation of pseudo-inverses and nonlinear least
squares problems whose variables separate*, SIAM J. Numer. Anal. 10(2), 1973). All estimators and
bounds therefore apply without change, also for one antenna.
"""

from typing import Any

import numpy as np
from jaxtyping import Complex

from ris_jax.physics import scenes


def without_mean(rows: Complex[Any, "... L C"]) -> Complex[Any, "... L-1 C"]:
    r"""Return :math:`Q^T X` for rows X; NumPy and JAX arrays keep their kind and precision.

    Q are the last L - 1 columns of the Householder reflection of :math:`1 / \sqrt{L}` to the first
    axis (Golub & Van Loan, *Matrix Computations*, section 5.1). Its product costs one sum:

    .. math:: (Q^T X)_l = x_{l+1} - \frac{x_1 + \sum_i x_i / \sqrt L}{1 + \sqrt L}
    """
    root = float(np.sqrt(rows.shape[-2]))
    first, total = rows[..., :1, :], rows.sum(axis=-2, keepdims=True)
    return rows[..., 1:, :] - (first + total / root) / (1.0 + root)


def remove_static_path(measurement: scenes.Measurement) -> scenes.Measurement:
    """Return an equivalent measurement with L - 1 codes and without the static path.

    Args:
      measurement: snapshots [..., L, M] and codes [..., L, N] of constant signals, L at least 2.

    Returns:
      Snapshots [..., L - 1, M] and codes [..., L - 1, N]; channel and noise variance unchanged. The
      codes no longer have unit modulus.

    Example:
      >>> codes = np.exp(2j * np.pi * np.random.default_rng(0).random((4, 9)))
      >>> path = np.array([[3.0 + 4.0j, -2.0]])
      >>> received = codes @ np.ones((9, 2)) + path
      >>> found = remove_static_path(scenes.Measurement(received, codes=codes))
      >>> bool(np.allclose(found.snapshots, found.codes @ np.ones((9, 2))))
      True
    """
    return measurement._replace(
        snapshots=without_mean(measurement.snapshots), codes=without_mean(measurement.codes)
    )


def mean_fraction(codes: Complex[np.ndarray, "... L N"]) -> float:
    """Return the fraction of the energy of the codes in their mean, which the removal loses.

    About 1 / L for distinct beams or random phases; 1 if all codes are the same.
    """
    energy = np.mean(np.abs(codes) ** 2)
    return float(np.mean(np.abs(codes.mean(axis=-2)) ** 2) / max(energy, np.finfo(float).tiny))
