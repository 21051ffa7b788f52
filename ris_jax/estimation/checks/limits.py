"""Limits of the search in reported coordinates, and coordinates an array does not determine."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.estimate import Estimate

# An estimate beyond a limit by fewer standard deviations than this is within noise.
_DEVIATIONS = 4.0
# Fraction of a search region's width that counts as its edge.
_EDGE = 1e-3
# Maximum extent across a line, relative to its length, for an array to be a line.
_LINE = 1e-4


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of reported azimuth, elevation and range."""

    azimuth_max: float = math.pi / 2  #: [rad], in magnitude
    elevation_max: float = math.pi / 2  #: [rad], in magnitude
    range_min: float = 0.0  #: [m]
    range_max: float = math.inf  #: [m]

    def __post_init__(self):
        for name in ("azimuth_max", "elevation_max"):
            value = getattr(self, name)
            if not 0.0 <= value <= math.pi / 2:
                raise config_lib.ConfigError(
                    f"limits.{name}: expected 0 <= value <= pi / 2; found {value!r}"
                )
        if not 0.0 <= self.range_min < self.range_max:
            raise config_lib.ConfigError(
                "limits.range_max: expected more than range_min="
                f"{self.range_min!r}; found {self.range_max!r}"
            )

    def region(self) -> search_grid.SearchRegion:
        """Box in (u, w, 1/r) that holds the limits, with a margin at its edges."""
        azimuth, elevation = np.rad2deg([self.azimuth_max, self.elevation_max])
        u_max = np.sin(np.deg2rad(min(azimuth + 4.0, 89.0))) if azimuth else 0.0
        w_max = np.sin(np.deg2rad(min(elevation + 2.7, 89.0))) if elevation else 0.0
        nearest = (
            1.1 / self.range_min if self.range_min else search_grid.SearchRegion.inverse_range_max
        )
        return search_grid.SearchRegion(float(u_max), float(w_max), 0.0, float(nearest))


def undetermined_coordinate(positions: Float[np.ndarray, "N 3"]) -> int | None:
    """Return the direction cosine (0: u, 1: w) that a linear array does not determine, or None.

    A line determines only the angle to it. A line along x determines u, not w.
    """
    centred = np.asarray(positions, float) - np.mean(positions, axis=0, dtype=float)
    if len(centred) < 2:
        return None
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    if len(lengths) > 1 and lengths[1] > _LINE * lengths[0]:
        return None
    return 0 if abs(axes[0, 1]) > abs(axes[0, 0]) else 1


def collapsed(region: search_grid.SearchRegion, coordinate: int | None) -> search_grid.SearchRegion:
    """Return the region with a direction cosine held at 0."""
    if coordinate is None:
        return region
    return dataclasses.replace(region, **{("u_max", "w_max")[coordinate]: 0.0})


def present(estimate: Estimate) -> Bool[np.ndarray, "B K"]:
    """Return a mask of the entries of an estimate that hold a source."""
    return np.arange(np.shape(estimate.azimuth)[-1]) < np.asarray(estimate.num_sources)[:, None]


def on_region_edge(estimate: Estimate, region: search_grid.SearchRegion) -> Bool[np.ndarray, "B"]:
    """Return scenes with a source on an edge of the search region; infinite range is no edge."""
    azimuth, elevation = np.asarray(estimate.azimuth, float), np.asarray(estimate.elevation, float)
    with np.errstate(divide="ignore"):
        rho = 1.0 / np.asarray(estimate.source_range, float)
    u, w = np.sin(azimuth) * np.cos(elevation), np.sin(elevation)
    edge = np.zeros(u.shape, bool)
    for value, most in ((u, region.u_max), (w, region.w_max)):
        edge |= (np.abs(value) > most * (1.0 - _EDGE)) & (most > 0.0)
    # Directions cannot lie beyond the horizon: they are scaled to it.
    edge |= u**2 + w**2 > 1.0 - _EDGE
    low, high = region.inverse_range_min, region.inverse_range_max
    margin = _EDGE * (high - low)
    edge |= (rho > high - margin) | ((rho < low + margin) & (low > 0.0))
    return np.any(edge & present(estimate), axis=1)


def apply(estimate: Estimate, limits: Limits) -> tuple[Estimate, Bool[np.ndarray, "B"]]:
    """Move sources that lie beyond a limit onto it.

    Args:
      estimate: of a batch.
      limits: in reported coordinates.

    Returns:
      The estimate within the limits, and the scenes [B] with a source significantly beyond a
      limit.
    """
    there = present(estimate)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.sqrt(np.diagonal(np.asarray(estimate.covariance, float), 0, -2, -1))
        source_range = np.asarray(estimate.source_range, float)
        # The errors of 1/r are nearly Gaussian, those of r are not.
        rho = 1.0 / source_range
        rho_deviation = deviations[..., 2] * rho**2
    azimuth, elevation = np.asarray(estimate.azimuth, float), np.asarray(estimate.elevation, float)
    nearest = 1.0 / limits.range_min if limits.range_min else math.inf
    kept, beyond = [], np.zeros(there.shape, bool)
    for values, deviation, low, high in (
        (azimuth, deviations[..., 0], -limits.azimuth_max, limits.azimuth_max),
        (elevation, deviations[..., 1], -limits.elevation_max, limits.elevation_max),
        (rho, rho_deviation, 1.0 / limits.range_max, nearest),
    ):
        inside = np.clip(values, low, high)
        # A source at infinite range, or without error bars, is tolerated only on the far side.
        known = np.where(np.isfinite(deviation), deviation, 0.0)
        far = (values is rho) & (values < low)
        beyond |= (np.abs(values - inside) > _DEVIATIONS * known) & ~(far & ~(known > 0.0))
        kept.append(inside)
    kind = np.asarray(estimate.azimuth).dtype
    azimuth, elevation, source_range = (
        np.where(there, _within(new, low, high, kind), old).astype(kind)
        for new, low, high, old in (
            (kept[0], -limits.azimuth_max, limits.azimuth_max, estimate.azimuth),
            (kept[1], -limits.elevation_max, limits.elevation_max, estimate.elevation),
            (source_range, limits.range_min, limits.range_max, estimate.source_range),
        )
    )
    moved = estimate._replace(azimuth=azimuth, elevation=elevation, source_range=source_range)
    return moved, np.any(beyond & there, axis=1)


def _within(values: np.ndarray, low: float, high: float, kind: np.dtype) -> np.ndarray:
    """Clip values so that the limits also hold after rounding to a type."""
    least, most = kind.type(low), kind.type(high)
    least = np.nextafter(least, kind.type(np.inf)) if float(least) < low else least
    most = np.nextafter(most, kind.type(-np.inf)) if float(most) > high else most
    return np.clip(values, float(least), float(most))
