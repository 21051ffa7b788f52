"""Text table of a trained network's estimates and the truth for a few held-out scenes."""

import numpy as np
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.networks import losses, pursuit_features

_SCENES = 3
_LEAST_PROBABILITY = 0.5  # sources below it are omitted


def lines(
    config: config_lib.Config, prediction: losses.Prediction, target: losses.Target
) -> list[str]:
    """Return a table of the first scenes of a batch, one row per source.

    Args:
      config: the run.
      prediction: of the batch, on the host.
      target: of the same batch, on the host.
    """
    unit = pursuit_features.resolution(config.system)
    metric = np.where(np.isfinite(unit), unit, 0.0)
    table = ["held-out scenes: azimuth [deg], elevation [deg], range [m] of truth | estimate"]
    for index in range(min(_SCENES, len(target.num_sources))):
        true = np.asarray(target.coordinates[index])[np.asarray(target.active[index]) > 0] * metric
        sure = np.asarray(prediction.existence[index]) > _LEAST_PROBABILITY
        found = np.asarray(prediction.coordinates[index])[sure]
        table.append(f"  scene {index + 1}, {float(target.snr_db[index]):.0f} dB")
        table.extend(
            f"    {_place(left, 'false alarm')} | {_place(right, 'missed')}"
            for left, right in _side_by_side(true, found, unit)
        )
    return table


def _side_by_side(
    true: Float[np.ndarray, "K 3"], found: Float[np.ndarray, "I 3"], unit: Float[np.ndarray, "3"]
) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """Pair sources with estimates, nearest first; unpaired entries come last."""
    true_left, found_left, pairs = list(true), list(found), []
    while true_left and found_left:
        gap = np.linalg.norm((np.array(true_left)[:, None] - np.array(found_left)) / unit, axis=-1)
        row, column = np.unravel_index(np.argmin(gap), gap.shape)
        if gap[row, column] > losses.REACH:
            break
        pairs.append((true_left.pop(row), found_left.pop(column)))
    return [*pairs, *((one, None) for one in true_left), *((None, one) for one in found_left)]


def _place(coordinates: Float[np.ndarray, "3"] | None, absent: str) -> str:
    if coordinates is None:
        return f"{absent:>21}"
    # On the host: a separate program would take longer to compile than this takes to run.
    u, w, inverse_range = map(float, coordinates)
    elevation = np.arcsin(np.clip(w, -1.0, 1.0))
    azimuth = np.arctan2(u, np.sqrt(max(1.0 - u**2 - w**2, 0.0)))
    source_range = 1.0 / inverse_range if inverse_range > 0 else np.inf
    return f"{np.rad2deg(azimuth):6.1f} {np.rad2deg(elevation):6.1f} {source_range:7.2f}"
