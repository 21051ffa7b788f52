r"""Factors of the elements from recordings of sources at unknown positions.

Positions and factors are estimated in turn. A phase that is linear or quadratic in the element
positions moves all sources alike, in direction or in inverse range, and no recording shows it
(Rockah & Schultheiss, *Array shape calibration using sources in unknown locations*, IEEE Trans.
ASSP 35(3), 1987). These phases are set to zero. Random factors have such a part, and it remains as
a common shift of all sources: with phases of :math:`\sigma_\phi` rms on N elements with a standard
deviation of x of :math:`s_x`, that of u is :math:`\sigma_\phi \lambda / (2 \pi s_x \sqrt N)`.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float

from ris_jax import errors
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.estimation.calibration import known_sources

# Round ends if it reduces the residual by less than this fraction.
_CONVERGED = 1e-4
MOST_ROUNDS = 30


def common_phases(positions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N D"]:
    """Return an orthonormal basis of the phases that recordings do not show.

    It contains the constant phase, the phases linear in the positions, and the quadratic one.
    """
    centred = positions - positions.mean(axis=0)
    square = np.sum(centred**2, axis=1, keepdims=True)
    columns = np.concatenate([np.ones_like(square), centred, square], axis=1)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > 1e-6 * values[0]]


def without_common_phases(
    factors: Complex[np.ndarray, "N ..."], positions: Float[np.ndarray, "N 3"]
) -> Complex[np.ndarray, "N ..."]:
    """Return factors whose phases have no component in `common_phases`."""
    basis = common_phases(positions)
    mean = factors if factors.ndim == 1 else factors.mean(axis=1)
    for _ in range(3):  # phases are angles: a first step may unwrap some
        turned = np.exp(-1j * (basis @ (basis.T @ np.angle(mean))))
        mean = mean * turned
        factors = (factors.T * turned).T
    return factors


def self_calibrate(
    locate: Callable[[Complex[np.ndarray, "B L N"]], SourceTruth],
    scenes_at: Callable[[SourceTruth], tuple],
    codes: Complex[np.ndarray, "B L N"],
    positions: Float[np.ndarray, "N 3"],
    *,
    states: Complex[np.ndarray, "Q"] | None = None,
    most_rounds: int = MOST_ROUNDS,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[known_sources.SurfaceFit, SourceTruth]:
    """Estimate factors and positions in turn.

    Args:
      locate: returns the sources of all recordings for codes that include factors.
      scenes_at: `known_sources.known_scenes` for given sources.
      codes: [B, L, N] nominal codes.
      positions: [N, 3] elements [m].
      states: nominal codes of the states; None for one factor per element.
      most_rounds: maximum number of rounds.
      progress: called with the number of each finished round.

    Returns:
      The factors and the sources. Deviations of the factors are those for known positions.

    Raises:
      RunError: no source is found, or as `known_sources.calibrate`.
    """
    found, start, before = locate(codes), None, np.inf
    for number in range(1, most_rounds + 1):
        if not found.num_sources.any():
            raise errors.RunError(
                "recordings: expected sources for the self-calibration, found none; give positions"
            )
        fit = known_sources.calibrate(*scenes_at(found), states=states, start=start)
        start = without_common_phases(fit.calibration.factors, positions)
        progress(number)
        found = locate(fit.with_factors(start).calibration.apply_to_codes(codes))
        if fit.noise_variance > (1.0 - _CONVERGED) * before:
            break
        before = fit.noise_variance
    return known_sources.calibrate(*scenes_at(found), states=states, start=start), found
