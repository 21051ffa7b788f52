"""The search region, its grid in (u, w, 1/r), and peaks on the grid."""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib

# Width of a cell of the network's grid, in units of resolution.
_CELL = 0.9
# Width of a cell of the search grid in u and w, in units of resolution.
SEARCH_CELL = 0.75
# Width of the cells of the search grid in 1/r, over that in u and w.
_DEPTH = 1.2
_MOST_CELLS = 1 << 26
# Grids are derived for wavelengths of a ladder: 1 GHz [m], and rungs in an octave.
_LADDER_ORIGIN = 0.299792458
_RUNGS = 8
# Corners of a field of view, and the greatest sine to boresight at which an array of some depth is
# resolved in full.
_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
_STEEPEST = 0.95


class Box(Protocol):
    """Limits of (u, w, 1/r), constants or traced."""

    @property
    def lower(self) -> Float[np.ndarray, "3"] | Float[Array, "3"]: ...
    @property
    def upper(self) -> Float[np.ndarray, "3"] | Float[Array, "3"]: ...
    @property
    def held(self) -> tuple[bool, bool, bool]: ...


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["lower", "upper"], meta_fields=["held"]
)
@dataclasses.dataclass(frozen=True)
class BoxLimits:
    """Limits of (u, w, 1/r) as arrays: a compiled program serves any with the same `held`."""

    lower: Float[np.ndarray, "3"] | Float[Array, "3"]
    upper: Float[np.ndarray, "3"] | Float[Array, "3"]
    held: tuple[bool, bool, bool]  #: coordinates that have one value


@dataclasses.dataclass(frozen=True)
class SearchRegion:
    """A box in direction cosines and inverse range; estimates stay within it.

    The defaults contain the default field of view (60 degrees of azimuth, 30 of elevation, 0.5 m to
    infinity). A margin prevents clipping of noisy estimates at its edge.
    """

    u_max: float = 0.9  #: ``|sin(azimuth) cos(elevation)|``; zero holds u at 0
    w_max: float = 0.54  #: ``|sin(elevation)|``; zero holds w at 0
    inverse_range_min: float = 0.0  #: [1/m]; zero includes infinite range
    inverse_range_max: float = 2.2  #: [1/m]

    def __post_init__(self):
        for name in ("u_max", "w_max"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise config_lib.ConfigError(f"region.{name}: need 0 <= value < 1; got {value!r}")
        low, high = self.inverse_range_min, self.inverse_range_max
        if not 0.0 <= low < high < float("inf"):
            raise config_lib.ConfigError(
                "region.inverse_range: need 0 <= inverse_range_min < inverse_range_max;"
                f" got {low!r} and {high!r}"
            )

    @property
    def lower(self) -> np.ndarray:
        """[3] least u, w, 1/r."""
        return np.array([-self.u_max, -self.w_max, self.inverse_range_min], np.float32)

    @property
    def upper(self) -> np.ndarray:
        """[3] greatest u, w, 1/r."""
        return np.array([self.u_max, self.w_max, self.inverse_range_max], np.float32)

    @property
    def held(self) -> tuple[bool, bool, bool]:
        """Coordinates that have one value."""
        u, w, rho = (self.lower == self.upper).tolist()
        return u, w, rho

    @property
    def limits(self) -> BoxLimits:
        """The same box as arrays, for a compiled program."""
        return BoxLimits(self.lower, self.upper, self.held)


def region_of(scene: config_lib.SceneConfig) -> SearchRegion:
    """Return the region that contains the scenes of a configuration, with a margin."""
    u_max = np.sin(np.deg2rad(min(scene.azimuth_max_deg + 4.0, 89.0)))
    w_max = np.sin(np.deg2rad(min(scene.elevation_max_deg + 2.7, 89.0)))
    return SearchRegion(float(u_max), float(w_max), 0.0, 1.1 / scene.range_min)


def axes_of(region: Box, shape: tuple[int, int, int]) -> list[np.ndarray | Array]:
    """The three axes of a grid, each of cell centres that divide the region evenly."""
    return [
        low + (high - low) * (np.arange(count, dtype=np.float32) + 0.5) / count
        for low, high, count in zip(region.lower, region.upper, shape, strict=True)
    ]


def _library(region: Box) -> Any:
    """Return NumPy, which needs no compilation, or jax.numpy while a program is traced."""
    return jnp if compilation.tracing((region.lower, region.upper)) else np


def grid_points(
    region: Box, shape: tuple[int, int, int]
) -> Float[np.ndarray, "G 3"] | Float[Array, "G 3"]:
    """Points (u, w, 1/r) of a grid, 1/r fastest."""
    library = _library(region)
    mesh = library.meshgrid(*axes_of(region, shape), indexing="ij")
    return library.stack(mesh, axis=-1).reshape(-1, 3)


class SearchSpace(NamedTuple):
    """Search grid and limits for a wavefront."""

    points: Float[Array, "G 3"]  #: (u, w, 1/r), 1/r fastest
    lower: Float[Array, "3"]  #: limits
    upper: Float[Array, "3"]
    shape: tuple[int, int, int]  #: of the grid

    @property
    def visible(self) -> Bool[Array, "G"]:
        """Mask of the points above the horizon."""
        return visible(self.points)


def visible(points: Float[Array, "... 3"]) -> Bool[Array, "..."]:
    """Return a mask of points (u, w, 1/r) above the horizon, which have a direction."""
    return jnp.sum(points[..., :2] ** 2, axis=-1) < 1.0


def search_space(
    region: Box, shape: tuple[int, int, int], wavefront: config_lib.Wavefront
) -> SearchSpace:
    """Return the grid and the limits of a region for a wavefront.

    Plane waves have no range: 1/r is zero for any region. A coordinate with one value has one
    cell.
    """
    library, kind, held = _library(region), jax.dtypes.canonicalize_dtype(float), region.held
    lower, upper = library.asarray(region.lower, kind), library.asarray(region.upper, kind)
    if wavefront == "planar":
        held = (*held[:2], True)
        directions = np.array([1.0, 1.0, 0.0], kind)
        lower, upper = lower * directions, upper * directions
    u, w, rho = (1 if one else count for one, count in zip(held, shape, strict=True))
    shape = (u, w, rho)
    points = library.clip(grid_points(BoxLimits(lower, upper, held), shape), lower, upper)
    points, lower, upper = jax.device_put((points, lower, upper))
    return SearchSpace(points, lower, upper, shape)


def local_maxima(
    spectrum: Float[Array, "... G"], shape: tuple[int, int, int]
) -> Float[Array, "... G"]:
    """Return the spectrum at local maxima (26 neighbours), and minus infinity elsewhere."""
    cube = spectrum.reshape(*spectrum.shape[:-1], *shape)
    highest = cube
    for axis in (-3, -2, -1):
        widths = [(0, 0)] * cube.ndim
        widths[axis] = (1, 1)
        padded = jnp.pad(highest, widths, constant_values=-jnp.inf)
        length = highest.shape[axis]
        shifted = [
            jax.lax.slice_in_dim(padded, start, start + length, axis=cube.ndim + axis)
            for start in (0, 1, 2)
        ]
        highest = jnp.maximum(jnp.maximum(shifted[0], shifted[1]), shifted[2])
    return jnp.where(cube >= highest, cube, -jnp.inf).reshape(spectrum.shape)


def highest_peaks(
    spectrum: Float[Array, "... G"], shape: tuple[int, int, int], count: int
) -> tuple[Float[Array, "... count"], Int[Array, "... count"]]:
    """Return values and indices of the `count` highest local maxima, in descending order.

    If a spectrum has fewer, the others have the value minus infinity.
    """
    return jax.lax.top_k(local_maxima(spectrum, shape), count)


def resolution(
    positions: Float[np.ndarray, "N 3"], *, wavelength: float, wavefront: config_lib.Wavefront
) -> np.ndarray:
    """Return distances in u, w and 1/r that change a steering vector by about one radian, [3].

    From the spread of positions and of half their squared distances over the aperture (the
    Fresnel form at boresight); infinite along a coordinate that the array does not resolve.
    """
    return _turn(positions, np.zeros(2), wavelength, wavefront)


def _turn(
    positions: Float[np.ndarray, "N 3"],
    direction: Float[np.ndarray, "2"],
    wavelength: float,
    wavefront: config_lib.Wavefront,
) -> np.ndarray:
    """`resolution` at a direction (u, w).

    Depth z of an array adds ``-z u / ahead``, ahead the component along boresight. The curvature
    across the direction counts: that of a ring is zero at boresight only.
    """
    centred = positions - positions.mean(axis=0)
    ahead = np.sqrt(1.0 - np.sum(direction**2))
    tilt = direction / ahead
    along = centred @ np.append(direction, ahead)
    spread = np.array(
        [
            np.std(centred[:, 0] - centred[:, 2] * tilt[0]),
            np.std(centred[:, 1] - centred[:, 2] * tilt[1]),
            0.0 if wavefront == "planar" else 0.5 * np.std(np.sum(centred**2, axis=1) - along**2),
        ]
    )
    with np.errstate(divide="ignore"):
        return wavelength / (2.0 * np.pi * spread)


def natural_shape(region: SearchRegion, unit: Float[np.ndarray, "3"]) -> tuple[int, int, int]:
    """Cells of the grid of network features, for a `resolution`."""
    u, w, rho = np.maximum(np.ceil((region.upper - region.lower) / (_CELL * unit)), 1).astype(int)
    return int(u), int(w), int(rho)


def search_shape(
    positions: Float[Any, "N 3"],
    region: Box,
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
    cell: float = SEARCH_CELL,
) -> tuple[int, int, int]:
    """Return the shape of a search grid with a point near every source, for any array.

    At `cell` = 0.75, the median squared correlation of a source with its best cell is 0.89 to 0.91.
    At 90 % of positions it is above 0.8. The arrays were 12 x 12, 64 x 4 and 64 x 64 elements, and
    a ring and a spiral 47 wavelengths wide.

    Arrays and wavelengths that differ little share a compiled program. The wavelength is therefore
    rounded down to one of eight per octave, and counts above 16 are rounded up to three significant
    bits.

    Args:
      positions: [N, 3] elements [m], concrete.
      region: limits of the search.
      wavelength: [m], concrete.
      wavefront: of the steering vectors.
      cell: width of a cell in u and w in units of resolution; cells in 1/r are 1.2 times as wide.

    Raises:
      ConfigError: traced positions or wavelength, or more than 2^26 cells.
    """
    if any(isinstance(value, Tracer) for value in (positions, wavelength, region.upper)):
        raise config_lib.ConfigError(
            "positions: expected concrete positions, wavelength and region inside jax.jit, because"
            " the search grid follows the array; found a tracer; close over them or give the grid"
        )
    positions = np.asarray(positions, float)
    lower, upper = np.asarray(region.lower, float), np.asarray(region.upper, float)
    edges = np.maximum(np.abs(lower), np.abs(upper))[:2]
    edges = edges * min(1.0, _STEEPEST / max(np.linalg.norm(edges), 1e-9))
    rung = _rung(wavelength)
    tilted = [_turn(positions, sign * edges, rung, wavefront) for sign in _CORNERS]
    unit = np.min([_turn(positions, np.zeros(2), rung, wavefront), *tilted], axis=0)
    width = cell * np.array([1.0, 1.0, _DEPTH]) * unit
    counts = np.maximum(np.ceil((upper - lower) / width), 1.0)
    if np.prod(counts) > _MOST_CELLS:
        extent = np.max(np.ptp(positions, axis=0)) / wavelength
        raise config_lib.ConfigError(
            f"positions: expected an array with at most {_MOST_CELLS} cells of its resolution in"
            f" the search region; found {counts[0]:.0f} x {counts[1]:.0f} x {counts[2]:.0f} of an"
            f" array {extent:.0f} wavelengths wide; check that positions and wavelength are in"
            " metres, or narrow the field of view, or raise the least range"
        )
    u, w, rho = (_rounded(int(count)) for count in counts)
    return u, w, rho


def _rung(wavelength: float) -> float:
    """Round a wavelength [m] down to the ladder; one just below a rung, by rounding, is on it."""
    rung = np.floor(_RUNGS * np.log2(float(wavelength) / _LADDER_ORIGIN) + 1e-3)
    return _LADDER_ORIGIN * 2.0 ** (rung / _RUNGS)


def _rounded(count: int) -> int:
    """Round a number of cells above 16 up to three significant bits."""
    step = 1 << max(count.bit_length() - 4, 0) if count > 16 else 1
    return -(-count // step) * step
