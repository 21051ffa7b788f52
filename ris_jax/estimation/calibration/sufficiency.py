r"""Number of recordings that a calibration needs, from the bound with uncertain factors.

The factors are nuisance parameters of a recording, with the information of the calibration as a
prior. The loss is the position error bound with uncertain factors over that with known ones.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation.calibration import known_sources, pose
from ris_jax.estimation.calibration.known_sources import KnownScene, SurfaceFit


def _real(matrix: Complex[np.ndarray, "P P"]) -> Float[np.ndarray, "..."]:
    """Return the information about real and imaginary parts of a complex information matrix."""
    return 2.0 * np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def losses_db(
    fit: SurfaceFit,
    entries: Sequence[KnownScene],
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    amounts: Sequence[float] = (1.0,),
) -> Float[np.ndarray, "A"]:
    """Return the loss in the position error bound of one recording.

    Args:
      fit: a calibration.
      entries: of the recording, from `known_sources.known_scenes`.
      positions: [N, 3] elements [m].
      wavelength: [m].
      wavefront: of the steering vectors.
      amounts: sizes of the calibration, over that of `fit`.

    Returns:
      20 log10 of the ratio of bounds for each amount.
    """
    states, factors = fit.calibration.states, fit.calibration.factors.ravel()
    repeat = 1 if states is None else len(states)
    places = entries[0].places
    slopes = pose.steering_slopes(places, positions, wavelength=wavelength, wavefront=wavefront)
    slopes = np.repeat(slopes, repeat, axis=1)
    dimensions = 3 * len(places)
    known = np.isfinite(fit.calibration.deviations.ravel())
    size = dimensions + 2 * int(known.sum())
    information = np.zeros((size, size))
    for entry in entries:
        found = known_sources.fitted(known_sources.sums_of(entry, states), factors)
        moved = (factors[:, None, None] * np.moveaxis(slopes, 0, -1)) * found.signals[:, None]
        uncertain = np.diag(found.field)[:, known]
        columns = np.concatenate([moved.reshape(len(factors), -1), uncertain, 1j * uncertain], 1)
        information += 2.0 * (columns.conj().T @ found.free @ columns).real / fit.noise_variance

    def bound(amount):
        if not np.isfinite(amount):
            position = information[:dimensions, :dimensions]
        else:
            prior = amount * _real(fit.information[np.ix_(known, known)])
            nuisance = information[dimensions:, dimensions:] + prior
            cross = information[:dimensions, dimensions:]
            position = information[:dimensions, :dimensions]
            position = position - cross @ np.linalg.pinv(nuisance, hermitian=True) @ cross.T
        return np.sqrt(np.trace(np.linalg.inv(position)))

    exact = bound(np.inf)
    return np.array([20.0 * np.log10(bound(amount) / exact) for amount in amounts])


def enough(
    amounts: Int[np.ndarray, "A"], losses: Float[np.ndarray, "A"], most_db: float
) -> int | None:
    """Return the smallest number of recordings with at most the given loss; None if none has it."""
    fine = np.flatnonzero(losses <= most_db)
    return int(amounts[fine[0]]) if fine.size else None
