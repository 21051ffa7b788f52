r"""Cramér-Rao bound at many positions of one surface: maps, range limit, resolution.

All covariances are for a received signal-to-noise ratio of one (0 dB). The bound is proportional to
1/SNR, so one evaluation is valid for every SNR and link budget. The SNR is that of a single source:
clean power over noise power, mean over antennas and codes.

A second source changes the bound of the first by its position only, not by its power. With
`constant` signals the relative phase of the two matters. The phases are spread evenly over half a
turn, after which the bound repeats, and are one axis of the draws.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import bounds
from ris_jax.physics import arrays, linear, scenes
from ris_jax.physics.element_response import ElementResponse

_PHASES = 4  # relative phases of two sources with constant signals
_CHUNK_BYTES = 1 << 26  # size of codes times steering vectors and slopes in one call
_LARGEST_CHUNK = 128  # positions
_RANGES = 64  # geometric steps of a search for the range limit
_SEPARATIONS = 48  # geometric steps of a search for the resolution


class Surface(NamedTuple):
    """Inputs of the bound: array, codes and one or several channels."""

    positions: Float[Array, "N 3"]  #: [m]
    codes: Complex[Array, "L N"]
    channel: Complex[Array, "C M N"]  #: draws of the channel
    wavelength: Float[Array, ""]  #: [m]
    response: ElementResponse | None = None  #: None: the same in all directions


class UnitBound(NamedTuple):
    """Bound at a received SNR of one, for D draws (channels times phases) and P positions."""

    covariance: Float[np.ndarray, "D P 3 3"]  #: of azimuth [rad], elevation [rad], range [m]
    identifiable: Bool[np.ndarray, "D P 3"]
    gain: Float[np.ndarray, "D P"]  #: mean received power of a source of unit amplitude


class Deviations(NamedTuple):
    """Bounds on the errors, root mean square over the draws; infinity if not identifiable."""

    parameters: Float[np.ndarray, "P 3"]  #: azimuth [rad], elevation [rad], range [m]
    position_error: Float[np.ndarray, "P"]  #: [m]


def signal_draws(
    num_snapshots: int, num_sources: int, source_signal: config_lib.SourceSignal
) -> Complex[np.ndarray, "S L K"]:
    """Return signals of unit modulus for one or two sources.

    Args:
      num_snapshots: L.
      num_sources: K.
      source_signal: constant gives one draw for each relative phase of two sources; independent
        gives one draw of random phases.

    Returns:
      [S, L, K] complex.
    """
    if source_signal == "independent":
        turns = np.random.default_rng(0).random((1, num_snapshots, num_sources))
        return np.exp(2j * np.pi * turns)
    count = _PHASES if num_sources > 1 else 1
    signals = np.ones((count, num_snapshots, num_sources), complex)
    signals[..., 1:] *= np.exp(1j * np.pi * np.arange(count) / count)[:, None, None]
    return signals


def _first_source(
    surface: Surface,
    channel: Complex[Array, "M N"],
    signals: Complex[Array, "L K"],
    places: Float[Array, "K 3"],
    *,
    wavefront: config_lib.Wavefront,
    source_signal: config_lib.SourceSignal,
    static_path: bool,
) -> tuple[Float[Array, "3 3"], Bool[Array, "3"], Float[Array, ""]]:
    """Covariance, identifiability and gain of the first of K sources, at an SNR of one."""
    azimuth, elevation, source_range = places.T
    waves: dict[str, Any] = {
        "wavelength": surface.wavelength, "wavefront": wavefront, "response": surface.response
    }  # fmt: skip
    vector = arrays.steering_vector(
        azimuth[0], elevation[0], source_range[0], surface.positions, **waves
    )
    image = linear.matmul(surface.codes * vector, channel.T)
    gain = jnp.mean(jnp.abs(image) ** 2)
    measurement = scenes.Measurement(image, channel, surface.codes, noise_variance=gain)
    bound = bounds.cramer_rao_bound(
        measurement, azimuth, elevation, source_range, signals, surface.positions,
        source_signal=source_signal, static_path=static_path, **waves,
    )  # fmt: skip
    return bound.covariance[0], bound.identifiable[0], gain


@functools.partial(jax.jit, static_argnames=("wavefront", "source_signal", "static_path"))
def _chunk_bounds(
    surface: Surface,
    signals: Complex[Array, "S L K"],
    places: Float[Array, "P K 3"],
    *,
    wavefront: config_lib.Wavefront,
    source_signal: config_lib.SourceSignal,
    static_path: bool,
) -> list[Array]:
    """Return the fields of a `UnitBound` for one chunk."""
    one = functools.partial(
        _first_source,
        surface,
        wavefront=wavefront,
        source_signal=source_signal,
        static_path=static_path,
    )
    one = jax.vmap(one, in_axes=(None, None, 0))  # positions
    one = jax.vmap(jax.vmap(one, in_axes=(None, 0, None)), in_axes=(0, None, None))
    found = one(surface.channel, signals, places)
    return [field.reshape(-1, *field.shape[2:]) for field in found]


def _chunk_size(surface: Surface, num_draws: int, num_sources: int) -> int:
    """Return the positions per call: a power of two that limits memory."""
    values = num_draws * num_sources * 4 * surface.codes.size
    most = max(_CHUNK_BYTES // (values * surface.codes.dtype.itemsize), 1)
    return min(1 << (most.bit_length() - 1), _LARGEST_CHUNK)


def unit_bounds(
    surface: Surface,
    places: Float[np.ndarray, "P 3"],
    second: Float[np.ndarray, "P 3"] | None = None,
    *,
    wavefront: config_lib.Wavefront = "spherical",
    source_signal: config_lib.SourceSignal = "constant",
    static_path: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> UnitBound:
    """Compute the bound of a source at each of P positions, at a received SNR of one.

    One small program is compiled and called for chunks of positions. This limits memory, and other
    positions need no compilation.

    Args:
      surface: array, codes and channels.
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      second: [P, 3] position of another source in the same scene; None: a single source.
      wavefront: see `arrays.path_difference`.
      source_signal: constant or independent.
      static_path: see `bounds.cramer_rao_bound`.
      progress: called with the number of positions done in each chunk.

    Returns:
      A `UnitBound` of NumPy arrays; D is the number of channels, times the phases if two sources
      have constant signals.

    Raises:
      ValueError: there are no positions, or arrays do not fit.
    """
    if not len(places):
        raise ValueError("places: need at least one position; got none")
    given = [places] if second is None else [places, second]
    sources = np.stack(given, axis=1).astype(surface.positions.dtype)
    signals = signal_draws(len(surface.codes), len(given), source_signal)
    signals = signals.astype(surface.codes.dtype)
    size = _chunk_size(surface, len(surface.channel) * len(signals), len(given))
    found = []
    for start in range(0, len(sources), size):
        part = sources[start : start + size]
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        result = _chunk_bounds(
            surface,
            signals,
            padded,
            wavefront=wavefront,
            source_signal=source_signal,
            static_path=static_path,
        )
        found.append([np.asarray(field)[:, : len(part)] for field in result])
        progress(len(part))
    return UnitBound(*(np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)))


def deviations(
    unit: UnitBound,
    snr: Float[np.ndarray, "D P"] | Float[np.ndarray, "P"] | float,
    places: Float[np.ndarray, "P 3"],
) -> Deviations:
    """Scale bounds to a received SNR, root mean square over the draws.

    Args:
      unit: of P positions.
      snr: linear, of a single source; one number, or one per position, or one per draw and
        position.
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
    """
    power = np.broadcast_to(np.asarray(snr, float), unit.gain.shape)
    variance = np.diagonal(unit.covariance, axis1=-2, axis2=-1) / power[..., None]
    azimuth, elevation, source_range = np.asarray(places, float).T
    metres = np.stack([source_range * np.cos(elevation), source_range, np.ones_like(azimuth)], -1)
    variance = np.where(unit.identifiable, variance, np.inf).mean(axis=0)
    known = np.isfinite(variance).all(axis=-1)
    metres = np.where(np.isfinite(metres), metres, 0.0)
    squares = np.where(known[:, None], metres**2 * np.where(known[:, None], variance, 0.0), np.inf)
    return Deviations(np.sqrt(variance), np.sqrt(squares.sum(axis=-1)))


def increase_db(bound: UnitBound, reference: UnitBound) -> float:
    """Return the mean increase of the variances over those of a reference [dB].

    Infinity if a parameter of the reference is not identifiable in the bound; NaN if the reference
    has none.
    """
    known = reference.identifiable
    variances = [
        np.diagonal(one.covariance, axis1=-2, axis2=-1)[known] for one in (bound, reference)
    ]
    if not known.any():
        return np.nan
    return float(10.0 * np.mean(np.log10(variances[0] / variances[1])))


def crossing(places: Float[np.ndarray, "J"], ratio: Float[np.ndarray, "J"]) -> float:
    """Return the last point at which a ratio grows past one, interpolated in its logarithm.

    Infinity if the ratio ends below one; zero if it is always above one.
    """
    within = np.flatnonzero(ratio <= 1.0)
    if not within.size:
        return 0.0
    last = within[-1]
    if last == len(ratio) - 1:
        return np.inf
    if not np.isfinite(ratio[last + 1]):
        return float(places[last])
    low, high = np.log(np.maximum(ratio[last : last + 2], np.finfo(float).tiny))
    weight = -low / (high - low)
    return float(np.exp((1 - weight) * np.log(places[last]) + weight * np.log(places[last + 1])))


def fraunhofer_distance(positions: Float[np.ndarray, "N 3"], wavelength: float) -> float:
    """Return twice the square of the aperture over the wavelength [m]."""
    extent = np.ptp(np.asarray(positions, float), axis=0)
    return float(2.0 * np.sum(extent**2) / wavelength)


def range_limits(
    surface: Surface,
    directions: Float[np.ndarray, "Q 2"],
    snr: Callable[[Float[np.ndarray, "P 3"], UnitBound], Float[np.ndarray, "D P"]],
    *,
    wavefront: config_lib.Wavefront = "spherical",
    source_signal: config_lib.SourceSignal = "constant",
    static_path: bool = False,
) -> Float[np.ndarray, "Q"]:
    """Find the range beyond which the near field has no range information, per direction [m].

    At this range the bound on the standard deviation of the range equals the range itself.
    Infinity if it is beyond 1000 Fraunhofer distances, zero if there is none.

    Args:
      surface: array, codes and channels.
      directions: [Q, 2] azimuth and elevation [rad].
      snr: received SNR of positions from them and their unit bound, linear.
      wavefront: see `arrays.path_difference`.
      source_signal: constant or independent.
      static_path: see `bounds.cramer_rao_bound`.
    """
    reach = fraunhofer_distance(np.asarray(surface.positions), float(surface.wavelength))
    ranges = np.geomspace(float(surface.wavelength), 1e3 * reach, _RANGES)
    places = np.concatenate(
        [np.column_stack([np.tile(one, (_RANGES, 1)), ranges]) for one in directions]
    )
    unit = unit_bounds(
        surface, places, wavefront=wavefront, source_signal=source_signal, static_path=static_path
    )
    found = deviations(unit, snr(places, unit), places).parameters[:, 2]
    ratios = (found / places[:, 2]).reshape(len(directions), _RANGES)
    return np.array([crossing(ranges, ratio) for ratio in ratios])


def resolutions(
    surface: Surface,
    places: Float[np.ndarray, "P 3"],
    snr: Callable[[Float[np.ndarray, "P 3"], UnitBound], Float[np.ndarray, "D P"]],
    *,
    wavefront: config_lib.Wavefront = "spherical",
    source_signal: config_lib.SourceSignal = "constant",
    static_path: bool = False,
) -> Float[np.ndarray, "P 3"]:
    """Find the separation of two sources at which the bound equals half of it, per position.

    The sources are half the separation on either side of the position, in azimuth [rad], elevation
    [rad] or range [m]; the larger of the two bounds is used. Infinity if no separation within a
    right angle, or twice the range, is sufficient.

    Args:
      surface: array, codes and channels.
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      snr: received SNR of positions from them and their unit bound, linear.
      wavefront: see `arrays.path_difference`.
      source_signal: constant or independent.
      static_path: see `bounds.cramer_rao_bound`.

    References:
      Smith, *Statistical resolution limits and the complexified Cramer-Rao bound*, IEEE Trans.
      Signal Process. 53(5), 2005.
    """
    centres = np.repeat(np.asarray(places, float), 3, axis=0)  # one search per place and axis
    axes = np.tile(np.arange(3), len(places))
    widest = np.where(axes == 2, 0.99 * 2.0 * centres[:, 2], 0.99 * np.pi / 2)
    low, high = 1e-4 * widest, widest
    for _ in range(2):  # coarse, then refined around the result
        widths = np.geomspace(high, low, _SEPARATIONS, axis=1)
        offsets = 0.5 * widths[..., None] * np.eye(3)[axes][:, None, :]
        above, below = (centres[:, None] + sign * offsets for sign in (1.0, -1.0))
        firsts = np.stack([above, below]).reshape(-1, 3)
        seconds = np.stack([below, above]).reshape(-1, 3)
        unit = unit_bounds(
            surface, firsts, seconds, wavefront=wavefront, source_signal=source_signal,
            static_path=static_path,
        )  # fmt: skip
        found = deviations(unit, snr(firsts, unit), firsts).parameters
        found = found.reshape(2, len(axes), _SEPARATIONS, 3).max(axis=0)
        found = np.take_along_axis(found, axes[:, None, None], axis=2)[..., 0]
        # From large to small separations, the ratio of bound to half the separation grows past one.
        pairs = zip(widths, found / (widths / 2.0), strict=True)
        limits = np.array([crossing(width, ratio) for width, ratio in pairs])
        limits = np.where(np.isinf(limits), low, limits)
        step = (widths[:, 0] / widths[:, 1]) ** 1.5
        low = np.where(limits > 0.0, limits / step, low)
        high = np.where(limits > 0.0, np.minimum(limits * step, widest), high)
    return np.where(limits == 0.0, np.inf, limits).reshape(-1, 3)
