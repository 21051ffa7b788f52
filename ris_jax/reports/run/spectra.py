"""MUSIC spectra over azimuth and elevation, for covariances drawn side by side."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.baselines import subspace
from ris_jax.physics import arrays
from ris_jax.physics import covariance as cov
from ris_jax.physics.element_response import ElementResponse, of_system

_STEP_DEG = 1.0
_MARGIN_DEG = 3.0  # around the field of view
_LEAST_RANGES = 16
_HIGHEST_DB = 20.0  # of the colours; the peaks of a true covariance grow with the grid
_COLORS = "Blues"  # dark peaks on white, also readable in print
_GAMMA = 0.5  # spreads the low levels, where most of a spectrum lies
_TRUTH = "C1"


class Spectra(NamedTuple):
    """Spectra of C covariances of one scene."""

    azimuth: Float[np.ndarray, "A"]  # [rad]
    elevation: Float[np.ndarray, "E"]  # [rad]
    level_db: Float[np.ndarray, "C E A"]  # maximum over the ranges; 0: no source


@functools.partial(jax.jit, static_argnames=("wavelength", "wavefront"))
def _over_directions(
    factors: Complex[Array, "C N r"],
    ranks: Int[Array, "C"],
    positions: Float[Array, "N 3"],
    unit: Float[Array, "G 3"],
    inverse_ranges: Float[Array, "R"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
    response: ElementResponse | None,
) -> Float[Array, "C G"]:
    covariances = cov.from_factor(factors)

    def at_range(inverse_range):
        steering = arrays.steering(
            unit, inverse_range, positions, wavelength=wavelength, wavefront=wavefront,
            response=response,
        )  # fmt: skip
        return subspace.music_spectrum(covariances, ranks, steering)

    # One range at a time: all at once would need a steering vector per cell of the grid.
    return jnp.max(jax.lax.map(at_range, inverse_ranges), axis=0)


def spectra(
    factors: Complex[np.ndarray, "C N r"],
    ranks: Int[np.ndarray, "C"],
    config: config_lib.Config,
) -> Spectra:
    """Compute MUSIC in every direction of the field of view, at the range of its maximum.

    Args:
      factors: F of R = F F^H, any scale; columns of zeros are allowed.
      ranks: dimension of each signal subspace.
      config: its array, wavefront and field of view.
    """
    system, region = config.system, search_grid.region_of(config.scene)
    limits = (config.scene.azimuth_max_deg, config.scene.elevation_max_deg)
    azimuth, elevation = (
        np.deg2rad(np.linspace(-limit, limit, 1 + 2 * round(limit / _STEP_DEG)), dtype=np.float32)
        for limit in (min(limit + _MARGIN_DEG, 89.0) for limit in limits)
    )
    positions = arrays.element_positions(system)
    resolution = search_grid.resolution(
        np.asarray(positions), wavelength=system.wavelength, wavefront=system.wavefront
    )
    ranges = (
        1 if system.wavefront == "planar" else 2 * search_grid.natural_shape(region, resolution)[2]
    )
    cells = (1, 1, max(ranges, _LEAST_RANGES) if ranges > 1 else 1)
    inverse_ranges = search_grid.axes_of(region, cells)[2] * (ranges > 1)
    unit = arrays.direction(*(jnp.ravel(x) for x in jnp.meshgrid(azimuth, elevation)))
    level = _over_directions(
        factors, ranks, positions, unit, inverse_ranges,
        wavelength=system.wavelength, wavefront=system.wavefront, response=of_system(system),
    )  # fmt: skip
    shape = (len(factors), len(elevation), len(azimuth))
    level_db = 10.0 * np.log10(np.maximum(np.asarray(level), 1.0)).reshape(shape)
    return Spectra(azimuth, elevation, level_db)


def _edges(angles: Float[np.ndarray, "A"]) -> tuple[float, float]:
    """Return the outer edges of equally spaced cells [deg]."""
    first, last = np.rad2deg(angles[0]), np.rad2deg(angles[-1])
    half = (last - first) / (len(angles) - 1) / 2
    return float(first - half), float(last + half)


def figure(
    found: Spectra, titles: list[str], azimuth: Float[np.ndarray, "K"],
    elevation: Float[np.ndarray, "K"], title: str = "",
) -> Figure:  # fmt: skip
    """Draw spectra side by side in the same colours, with the true directions.

    Args:
      found: of C covariances.
      titles: C of them.
      azimuth: of the sources [rad].
      elevation: of the sources [rad].
      title: of the figure.
    """
    drawn = Figure(figsize=(4.0 * len(titles) + 1.0, 3.3), layout="constrained")
    panels = drawn.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    image = None
    for axes, name, level in zip(panels, titles, found.level_db, strict=True):
        image = axes.imshow(
            level, norm=PowerNorm(_GAMMA, 0.0, _HIGHEST_DB), cmap=_COLORS,
            extent=_edges(found.azimuth) + _edges(found.elevation), aspect="auto", origin="lower",
            interpolation="nearest",
        )  # fmt: skip
        axes.scatter(
            np.rad2deg(azimuth), np.rad2deg(elevation), s=130, marker="o", facecolors="none",
            edgecolors=_TRUTH, linewidths=1.5, label="true source",
        )  # fmt: skip
        axes.set(title=f"{name}, peak {level.max():.0f} dB", xlabel="azimuth [deg]")
    panels[0].set_ylabel("elevation [deg]")
    panels[-1].legend(loc="lower right", fontsize="small")
    if image is not None:
        drawn.colorbar(image, ax=panels, label="MUSIC [dB]", extend="max", pad=0.01)
    drawn.suptitle(title)
    return drawn
