r"""Number of recordings that a calibration needs, from the bound with uncertain factors.

The factors are nuisance parameters of a recording, with the information of the calibration as a
prior. The loss is the position error bound with uncertain factors over that with known ones.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ris_jax import config as config_lib
from ris_jax.estimation.calibration import known_sources, pose
from ris_jax.estimation.calibration.known_sources import KnownScene, SurfaceFit
from ris_jax.physics.element_response import ElementResponse


def losses_db(
    fit: SurfaceFit,
    entries: Sequence[KnownScene],
    positions: Float[np.ndarray, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
    amounts: Sequence[float] | np.ndarray = (1.0,),
) -> Float[np.ndarray, "A"]:
    """Return the loss in the position error bound of one recording.

    Args:
      fit: a calibration.
      entries: of the recording, from `known_sources.known_scenes`.
      positions: [N, 3] elements [m].
      wavelength: [m].
      wavefront: of the steering vectors.
      response: of the elements; None: the same in all directions.
      amounts: sizes of the calibration, over that of `fit`.

    Returns:
      20 log10 of the ratio of bounds for each amount.
    """
    states, factors = fit.calibration.states, fit.calibration.factors.ravel()
    repeat = 1 if states is None else len(states)
    places = entries[0].places
    slopes = pose.steering_slopes(
        places, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )
    slopes = np.repeat(slopes, repeat, axis=1)
    known = np.tile(np.isfinite(fit.calibration.deviations.ravel()), 2)
    parts = []
    for entry in entries:
        found = known_sources.fitted(known_sources.sums_of(entry, states), factors)
        moved = factors[:, None] * np.einsum("xnk,k->nkx", slopes, found.signals).reshape(
            len(factors), -1
        )
        parts.append(known_sources.information(found, moved))
    whole = known_sources.total(parts)
    moves, cross, nuisance = (
        part / fit.noise_variance for part in (whole.moves, whole.cross, whole.factors)
    )
    cross, nuisance = cross[:, known], nuisance[np.ix_(known, known)]
    prior = fit.information[np.ix_(known, known)]

    def bound(amount):
        position = moves
        if np.isfinite(amount):
            inverse = np.linalg.pinv(nuisance + amount * prior, hermitian=True)
            position = moves - cross @ inverse @ cross.T
        return np.sqrt(np.trace(np.linalg.inv(position)))

    exact = bound(np.inf)
    return np.array([20.0 * np.log10(bound(amount) / exact) for amount in amounts])


def enough(
    amounts: Int[np.ndarray, "A"], losses: Float[np.ndarray, "A"], most_db: float
) -> int | None:
    """Return the smallest number of recordings with at most the given loss; None if none has it."""
    fine = np.flatnonzero(losses <= most_db)
    return int(amounts[fine[0]]) if fine.size else None
