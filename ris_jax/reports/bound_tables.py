"""Tables of the bound over many positions, with degrees and metres in the column names."""

import numpy as np
from jaxtyping import Float

from ris_jax.accuracy.bound_maps import Deviations
from ris_jax.reports import tables

HEADER = (
    "azimuth_deg", "elevation_deg", "range_m", "x_m", "y_m", "z_m", "snr_db",
    "azimuth_std_deg", "elevation_std_deg", "range_std_m", "position_error_m",
)  # fmt: skip


def cartesian(places: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Return x, y and z [m] of azimuth [rad], elevation [rad] and range [m]."""
    azimuth, elevation, source_range = np.moveaxis(np.asarray(places, float), -1, 0)
    unit = [
        np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)
    ]  # fmt: skip
    return source_range[..., None] * np.stack(unit, axis=-1)


def columns(
    places: Float[np.ndarray, "P 3"], snr: Float[np.ndarray, "P"], found: Deviations
) -> Float[np.ndarray, "P 11"]:
    """Return the columns of `HEADER`; infinity where a parameter is not identifiable.

    Args:
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      snr: [P] linear, mean over the draws.
      found: bounds of the positions.
    """
    degrees = np.array([180.0 / np.pi, 180.0 / np.pi, 1.0])
    return np.column_stack(
        [
            places * degrees,
            cartesian(places),
            10.0 * np.log10(snr),
            found.parameters * degrees,
            found.position_error,
        ]
    )


def rows(numbers: Float[np.ndarray, "P C"]) -> list[list[float | None]]:
    """Return table rows with seven digits; a non-finite number is None, an empty cell in a CSV."""
    return [
        [float(f"{value:.7g}") if np.isfinite(value) else None for value in row]
        for row in numbers.tolist()
    ]


def as_csv(numbers: Float[np.ndarray, "P 11"]) -> str:
    """Return the columns as CSV with a header line."""
    return tables.as_csv(HEADER, rows(numbers))
