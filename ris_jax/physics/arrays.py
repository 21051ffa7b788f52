r"""Element positions, source coordinates, wavefronts and steering vectors.

Conventions: the array lies around the origin and boresight is :math:`+z`. The time dependence is
:math:`e^{+j\omega t}`, so a longer path has a more negative phase. The phase of every steering
vector is relative to the origin. A source at azimuth :math:`\varphi`, elevation
:math:`\theta`, range :math:`r` has the position :math:`p = r\hat u`,
:math:`\hat u = (\sin\varphi\cos\theta, \sin\theta, \cos\varphi\cos\theta)`; :math:`u=\hat u_x`
and :math:`w=\hat u_y` are its direction cosines.
"""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.physics import linear, phasor
from ris_jax.physics.element_response import ElementResponse

# Least squared cosine to boresight: 0.06 degrees above the horizon.
_HORIZON = 1e-6
# Minimum squared distance source to element, relative to source to origin, so that a source on an
# element has finite values. Float32 rounds these squares to about 1e-7.
_LEAST_SQUARE = 1e-6


def planar_array(
    rows: int, columns: int, spacing: float, *, centered: bool = True
) -> Float[Array, "N 3"]:
    """Return the positions of a grid in the x-y plane, x fastest.

    Args:
      rows: elements along y.
      columns: elements along x.
      spacing: distance of neighbours [m].
      centered: False puts the origin on an element: offsets ``-n // 2 ... n // 2 - 1``, the
        convention of the reference pipeline.

    Returns:
      [rows * columns, 3] float [m].
    """

    def offsets(count):
        origin = (count - 1) / 2 if centered else count // 2
        return np.arange(count, dtype=jnp.result_type(float)) - origin

    y, x = np.meshgrid(offsets(rows), offsets(columns), indexing="ij")
    steps = np.stack([x.ravel(), y.ravel(), np.zeros_like(x.ravel())], axis=-1)
    return jax.device_put(steps * spacing)


def element_positions(system: config_lib.SystemConfig) -> Float[Array, "N 3"]:
    """Return the element positions of a configuration, [N, 3] float [m]."""
    if system.element_positions is not None:
        return jnp.asarray(system.element_positions, dtype=float)
    return planar_array(system.rows, system.columns, system.spacing, centered=system.centered)


@compilation.one_program()
def direction(
    azimuth: Float[Array, "..."], elevation: Float[Array, "..."]
) -> Float[Array, "... 3"]:
    """Return the unit vector towards a source, [..., 3]; angles in radians."""
    return jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
            jnp.cos(azimuth) * jnp.cos(elevation),
        ],
        axis=-1,
    )


@compilation.one_program("wavefront")
def path_difference(
    unit: Float[Array, "... 3"],
    inverse_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
) -> Float[Array, "... N"]:
    r"""Return the path from a source to each element minus the path to the origin [m].

    .. math::
      \text{spherical, spherical\_phase: } \|p - q\| - r
        = \frac{\rho\|q\|^2 - 2\hat u^T q}{\|\hat u - \rho q\| + 1}, \quad
      \text{fresnel: } -\hat u^T q + \tfrac{\rho}{2}(\|q\|^2 - (\hat u^T q)^2)

    with :math:`\rho = 1/r`. The quotient form has no difference of large numbers, so float32 keeps
    its accuracy at any range, and :math:`\rho = 0` is the plane wave itself. `parabolic` drops
    the :math:`(\hat u^T q)^2` term, as the reference does; `planar` drops :math:`\rho`.
    `spherical` and `spherical_phase` have the same paths and differ in `relative_amplitude`.

    Args:
      unit: [..., 3] unit vectors towards the sources.
      inverse_range: [...] :math:`1/r` [1/m], zero allowed.
      positions: [N, 3] element positions [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar.

    Returns:
      [..., N] float [m].

    Raises:
      ValueError: an unknown wavefront, or a last axis that is not 3.
    """
    unit, inverse_range, positions = map(jnp.asarray, (unit, inverse_range, positions))
    if positions.shape[-1:] != (3,) or unit.shape[-1:] != (3,):
        raise ValueError(
            f"need positions [N, 3] and unit vectors [..., 3]; got {positions.shape}, {unit.shape}"
        )
    along = linear.einsum("...c,nc->...n", unit, positions)
    if wavefront == "planar":
        return -along
    rho = inverse_range[..., None]
    square = jnp.sum(positions**2, axis=-1)
    if wavefront == "parabolic":
        return -along + 0.5 * rho * square
    if wavefront == "fresnel":
        return -along + 0.5 * rho * (square - along**2)
    if wavefront in ("spherical", "spherical_phase"):
        return (rho * square - 2.0 * along) / (_relative_distance(unit, rho, positions) + 1.0)
    raise ValueError(
        f"wavefront: need one of {', '.join(get_args(config_lib.Wavefront))}; got {wavefront!r}"
    )


def _relative_distance(
    unit: Float[Array, "... 3"], rho: Float[Array, "... 1"], positions: Float[Array, "N 3"]
) -> Float[Array, "... N"]:
    r"""Return :math:`\|\hat u - \rho q\| = d/r`, at least 0.001.

    Differences are squared, not subtracted from squares: float32 is accurate close to an element.
    """
    x, y, z = (unit[..., axis, None] - rho * positions[:, axis] for axis in range(3))
    return jnp.sqrt(jnp.maximum(x**2 + y**2 + z**2, _LEAST_SQUARE))


@compilation.one_program("wavefront")
def relative_amplitude(
    unit: Float[Array, "... 3"],
    inverse_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
) -> Float[Array, "... N"]:
    r"""Return the amplitude of a wave at each element relative to the origin.

    .. math:: \text{spherical: } r / \|p - q\| = 1 / \|\hat u - \rho q\|

    It is 1 for all other wavefronts and for :math:`\rho = 0`. The distance is at least
    0.001 r, so that a source on an element has finite values. Arguments as for `path_difference`.
    """
    unit, inverse_range, positions = map(jnp.asarray, (unit, inverse_range, positions))
    distance = _relative_distance(unit, inverse_range[..., None], positions)
    return 1.0 / distance if wavefront == "spherical" else jnp.ones_like(distance)


@compilation.one_program("wavefront")
def squared_norm(
    coordinates: Float[Array, "... 3"],
    positions: Float[Array, "N 3"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Float[Array, "..."]:
    """Return the squared norm of the steering vectors at (u, w, 1/r).

    It is 1 in the far field, or the mean squared element response.

    A fitted amplitude of the unit-norm vector has the power of the source times this value.
    """
    unit = unit_from_cosines(coordinates[..., 0], coordinates[..., 1])
    amplitude = relative_amplitude(unit, coordinates[..., 2], positions, wavefront=wavefront)
    if response is not None:
        amplitude *= _gains(response, unit, coordinates[..., 2], positions, wavefront)
    return jnp.mean(amplitude**2, axis=-1)


def _gains(
    response: ElementResponse,
    unit: Float[Array, "... 3"],
    inverse_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    wavefront: config_lib.Wavefront,
) -> Float[Array, "... N"]:
    """Return the response of the elements; for plane waves all have the same angle."""
    if wavefront == "planar":
        inverse_range = jnp.zeros_like(inverse_range)
    return response.amplitudes(unit, inverse_range, positions)


def normalized(vectors: Complex[Array, "... N"]) -> Complex[Array, "... N"]:
    """Return the vectors divided by their norms; a zero vector stays zero."""
    square = jnp.sum(vectors.real**2 + vectors.imag**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.where(square > 0.0, square, 1.0))


@compilation.one_program("wavefront")
def steering(
    unit: Float[Array, "... 3"],
    inverse_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Complex[Array, "... N"]:
    """Return the steering vector of a direction and an inverse range; zero is a plane wave.

    `steering_vector`, `steering_at` and `steering_jet` take the source in other coordinates.
    Arguments as for `steering_vector`.

    Returns:
      [..., N] complex. The norm is 1, except for `spherical`, where it is 1 in the far field; see
      `squared_norm` for elements with a response.
    """
    unit, inverse_range, positions = map(jnp.asarray, (unit, inverse_range, positions))
    turns = path_difference(unit, inverse_range, positions, wavefront=wavefront) / wavelength
    modulus = 1.0 / jnp.sqrt(float(positions.shape[0]))
    if wavefront == "spherical":
        modulus *= relative_amplitude(unit, inverse_range, positions, wavefront=wavefront)
    if response is not None:
        modulus *= _gains(response, unit, inverse_range, positions, wavefront)
    cosine, sine = phasor.cosine_and_sine(turns)
    return jax.lax.complex(modulus * cosine, -modulus * sine)


@compilation.one_program("wavefront")
def steering_vector(
    azimuth: Float[Array, "..."],
    elevation: Float[Array, "..."],
    source_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Complex[Array, "... N"]:
    r"""Return the steering vector; amplitude and phase are relative to the array's origin.

    .. math:: a_n = \frac{r}{d_n} N^{-1/2} \exp\{-j 2\pi (d_n - r) / \lambda\},
              \quad d_n = \|p - q_n\|

    Its norm is 1 in the far field. `spherical_phase` omits the factor :math:`r/d_n`: all elements
    have the same modulus.

    Args:
      azimuth: [...] :math:`\varphi` [rad].
      elevation: [...] :math:`\theta` [rad].
      source_range: [...] :math:`r` [m]; infinity is a plane wave.
      positions: [N, 3] element positions :math:`q_n` [m].
      wavelength: :math:`\lambda` [m].
      wavefront: spherical (exact), spherical_phase (exact in phase), fresnel, parabolic or
        planar; see `path_difference`.
      response: amplitude of the elements over the angle, relative to boresight; it multiplies
        the entries. None: the same in all directions.

    Returns:
      [..., N] complex. The norm is 1, except for `spherical`, where it is 1 in the far field; see
      `squared_norm` for elements with a response.

    Raises:
      ValueError: an unknown wavefront, or a last axis of the positions that is not 3.

    Example:
      >>> positions = jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> a = steering_vector(
      ...     jnp.array(0.0), jnp.array(0.0), jnp.array(4.0), positions, wavelength=4.0)
      >>> [f"{z:.2f}" for z in (a * 2**0.5).tolist()]
      ['1.00+0.00j', '-0.00-0.80j']

    References:
      Sherman, *Properties of focused apertures in the Fresnel region*, IRE Trans. Antennas
      Propag. 10(4), 1962, for the second-order forms.
    """
    return steering(
        direction(azimuth, elevation),
        1.0 / jnp.asarray(source_range),
        positions,
        wavelength=wavelength,
        wavefront=wavefront,
        response=response,
    )


def _within(u: Float[Array, "..."], w: Float[Array, "..."]) -> tuple[Array, Array, Array, Array]:
    """Return the squared length of (u, w), whether it is above the horizon, and two factors.

    Returns:
      ``u^2 + w^2``, whether it is below one, the factor that scales (u, w) into the unit disc, and
      the component of the unit vector along boresight; all [...].
    """
    square = u**2 + w**2
    within = square < 1.0 - _HORIZON
    shrink = jnp.where(within, 1.0, jnp.sqrt((1.0 - _HORIZON) / jnp.where(within, 1.0, square)))
    ahead = jnp.sqrt(jnp.where(within, 1.0 - square, _HORIZON))
    return square, within, shrink, ahead


@compilation.one_program()
def unit_from_cosines(u: Float[Array, "..."], w: Float[Array, "..."]) -> Float[Array, "... 3"]:
    """Return the unit vector in front of the array with direction cosines u (x), w (y), [..., 3].

    A pair with u^2 + w^2 above 1 is no direction; it is scaled to just above the horizon.
    """
    _, _, shrink, ahead = _within(u, w)
    return jnp.stack([u * shrink, w * shrink, ahead], axis=-1)


@compilation.one_program("wavefront")
def steering_at(
    coordinates: Float[Array, "... 3"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Complex[Array, "... N"]:
    """Return steering vectors at (u, w, 1/r), [..., N]; arguments as for `steering_jet`."""
    unit = unit_from_cosines(coordinates[..., 0], coordinates[..., 1])
    return steering(
        unit, coordinates[..., 2], positions, wavelength=wavelength, wavefront=wavefront,
        response=response,
    )  # fmt: skip


# Large: it stays a function of the program that calls it.
@functools.partial(jax.jit, static_argnames="wavefront")
def steering_jet(
    coordinates: Float[Array, "... 3"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float | Float[Array, ""],
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> Complex[Array, "... 4 N"]:
    r"""Return steering vectors and their derivatives in the coordinates :math:`(u, w, 1/r)`.

    In these coordinates the beamwidth of a planar array is constant, so searches can use uniform
    steps and scales.

    Args:
      coordinates: [..., 3] direction cosines u and w, inverse range [1/m].
      positions: [N, 3] element positions [m].
      wavelength: [m].
      wavefront: spherical, spherical_phase, fresnel, parabolic or planar.
      response: of the elements, as for `steering_vector`.

    Returns:
      [..., 4, N] complex: :math:`a, \partial a/\partial u, \partial a/\partial w,
      \partial a/\partial(1/r)`.
    """

    u, w, rho = coordinates[..., 0], coordinates[..., 1], coordinates[..., 2]
    square, within, shrink, ahead = _within(u, w)
    unit = jnp.stack([u * shrink, w * shrink, ahead], axis=-1)
    # Below the horizon only the direction of (u, w) matters.
    inward = jnp.where(within, 0.0, 1.0 / jnp.where(within, 1.0, square))
    back = jnp.where(within, 1.0, 0.0) / ahead
    turns = jnp.stack(
        [
            jnp.stack([shrink * (1.0 - inward * u**2), -shrink * inward * u * w, -u * back], -1),
            jnp.stack([-shrink * inward * u * w, shrink * (1.0 - inward * w**2), -w * back], -1),
        ],
        axis=-2,
    )
    moved = linear.einsum("...ac,nc->...an", turns, positions)

    def slopes(with_along, with_rho):
        turned = moved * with_along[..., None, :]
        return jnp.concatenate([turned, with_rho[..., None, :]], axis=-2)

    path = slopes(*_path_slopes(unit, rho[..., None], positions, wavefront))
    growth = jnp.zeros_like(path)
    if wavefront == "spherical":
        growth = slopes(*_amplitude_slopes(unit, rho[..., None], positions))
    vector = steering(unit, rho, positions, wavelength=wavelength, wavefront=wavefront)
    turning = jax.lax.complex(growth, -(2.0 * jnp.pi / wavelength) * path)
    jet = jnp.concatenate([vector[..., None, :], turning * vector[..., None, :]], axis=-2)
    if response is None:
        return jet
    gains = _gain_jet(response, coordinates, positions, wavefront)
    changes = gains.at[..., 0, :].set(0.0)
    return gains[..., :1, :] * jet + changes * vector[..., None, :]


def _gain_jet(
    response: ElementResponse,
    coordinates: Float[Array, "... 3"],
    positions: Float[Array, "N 3"],
    wavefront: config_lib.Wavefront,
) -> Float[Array, "... 4 N"]:
    """Return the response of the elements and its derivatives in (u, w, 1/r)."""

    def gains(coordinates):
        unit = unit_from_cosines(coordinates[..., 0], coordinates[..., 1])
        return _gains(response, unit, coordinates[..., 2], positions, wavefront)

    def slope(axis):
        return jax.jvp(gains, (coordinates,), (jnp.broadcast_to(axis, coordinates.shape),))[1]

    slopes = jax.vmap(slope, out_axes=-2)(jnp.eye(3, dtype=coordinates.dtype))
    return jnp.concatenate([gains(coordinates)[..., None, :], slopes], axis=-2)


def _path_slopes(
    unit: Float[Array, "... 3"],
    rho: Float[Array, "... 1"],
    positions: Float[Array, "N 3"],
    wavefront: config_lib.Wavefront,
) -> tuple[Float[Array, "... N"], Float[Array, "... N"]]:
    r"""Return derivatives of `path_difference` :math:`\delta` in :math:`a = \hat u^T q` and in 1/r.

    .. math::
      \text{spherical: } \frac{\partial\delta}{\partial a} = -\frac1d,\quad
        \frac{\partial\delta}{\partial\rho} = \frac{\|q\|^2 + a\delta}{d(d + 1)},\quad
        d = \|\hat u - \rho q\|
    """
    along = linear.einsum("...c,nc->...n", unit, positions)
    square = jnp.sum(positions**2, axis=-1)
    if wavefront == "planar":
        return -jnp.ones_like(along), jnp.zeros_like(along)
    if wavefront == "parabolic":
        return -jnp.ones_like(along), jnp.broadcast_to(0.5 * square, along.shape)
    if wavefront == "fresnel":
        return -1.0 - rho * along, 0.5 * (square - along**2)
    distance = _relative_distance(unit, rho, positions)
    difference = (rho * square - 2.0 * along) / (distance + 1.0)
    return -1.0 / distance, (square + along * difference) / (distance * (distance + 1.0))


def _amplitude_slopes(
    unit: Float[Array, "... 3"], rho: Float[Array, "... 1"], positions: Float[Array, "N 3"]
) -> tuple[Float[Array, "... N"], Float[Array, "... N"]]:
    r"""Return derivatives of :math:`-\log d`, the log-amplitude of `spherical`, in a and in 1/r.

    .. math::
      \frac{\partial(-\log d)}{\partial a} = \frac{\rho}{d^2},\quad
      \frac{\partial(-\log d)}{\partial\rho} = \frac{a - \rho\|q\|^2}{d^2},\quad
      d = \|\hat u - \rho q\|
    """
    along = linear.einsum("...c,nc->...n", unit, positions)
    square = jnp.sum(positions**2, axis=-1)
    distance = _relative_distance(unit, rho, positions)
    # At the minimum distance the amplitude is constant.
    inverse = jnp.where(distance**2 > 1.0001 * _LEAST_SQUARE, distance**-2, 0.0)
    return rho * inverse, (along - rho * square) * inverse


@compilation.one_program()
def to_coordinates(
    azimuth: Float[Array, "..."], elevation: Float[Array, "..."], source_range: Float[Array, "..."]
) -> Float[Array, "... 3"]:
    """Convert (azimuth, elevation, range) to (u, w, 1/r), [..., 3]."""
    u = jnp.sin(azimuth) * jnp.cos(elevation)
    return jnp.stack([u, jnp.sin(elevation), 1.0 / jnp.asarray(source_range)], axis=-1)


@compilation.one_program()
def from_coordinates(
    coordinates: Float[Array, "... 3"],
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """Convert (u, w, 1/r) to azimuth [rad], elevation [rad], range [m]; 1/r = 0 gives infinity."""
    unit = unit_from_cosines(coordinates[..., 0], coordinates[..., 1])
    azimuth = jnp.arctan2(unit[..., 0], unit[..., 2])
    elevation = jnp.arcsin(jnp.clip(unit[..., 1], -1.0, 1.0))
    return azimuth, elevation, 1.0 / coordinates[..., 2]
