r"""Element positions, source coordinates, wavefronts and steering vectors.

Conventions, stated once: the array lies around the origin, boresight is :math:`+z`, time goes as
:math:`e^{+j\omega t}` so that a longer path has a more negative phase, and every steering vector
is referred to the phase at the origin. A source at azimuth :math:`\varphi`, elevation
:math:`\theta`, range :math:`r` stands at :math:`p = r\hat u`,
:math:`\hat u = (\sin\varphi\cos\theta, \sin\theta, \cos\varphi\cos\theta)`; :math:`u=\hat u_x`
and :math:`w=\hat u_y` are its direction cosines.
"""

from typing import get_args

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib


def planar_array(
    rows: int, columns: int, spacing: float, *, centered: bool = True
) -> Float[Array, "N 3"]:
    """Positions of a grid in the x-y plane, x fastest.

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
        return (jnp.arange(count) - origin) * spacing

    y, x = jnp.meshgrid(offsets(rows), offsets(columns), indexing="ij")
    return jnp.stack([x.ravel(), y.ravel(), jnp.zeros(rows * columns)], axis=-1)


def element_positions(system: config_lib.SystemConfig) -> Float[Array, "N 3"]:
    """The array that a configuration describes, [N, 3] float [m]."""
    if system.element_positions is not None:
        return jnp.asarray(system.element_positions, dtype=float)
    return planar_array(system.rows, system.columns, system.spacing, centered=system.centered)


def direction(
    azimuth: Float[Array, "..."], elevation: Float[Array, "..."]
) -> Float[Array, "... 3"]:
    """Unit vector towards a source, [..., 3]; angles in radians."""
    return jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
            jnp.cos(azimuth) * jnp.cos(elevation),
        ],
        axis=-1,
    )


def path_difference(
    unit: Float[Array, "... 3"],
    inverse_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
) -> Float[Array, "... N"]:
    r"""How much longer the way from a source to each element is than to the origin [m].

    .. math::
      \text{spherical: } \|p - q\| - r
        = \frac{\rho\|q\|^2 - 2\hat u^T q}{\|\hat u - \rho q\| + 1}, \quad
      \text{fresnel: } -\hat u^T q + \tfrac{\rho}{2}(\|q\|^2 - (\hat u^T q)^2)

    with :math:`\rho = 1/r`. The quotient form has no difference of large numbers, so float32 keeps
    its accuracy at any range, and :math:`\rho = 0` is the plane wave itself. `parabolic` drops
    the :math:`(\hat u^T q)^2` term, as the reference does; `planar` drops :math:`\rho`.

    Args:
      unit: [..., 3] unit vectors towards the sources.
      inverse_range: [...] :math:`1/r` [1/m], zero allowed.
      positions: [N, 3] element positions [m].
      wavefront: spherical, fresnel, parabolic or planar.

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
    along = jnp.einsum("...c,nc->...n", unit, positions)
    if wavefront == "planar":
        return -along
    rho = inverse_range[..., None]
    square = jnp.sum(positions**2, axis=-1)
    if wavefront == "parabolic":
        return -along + 0.5 * rho * square
    if wavefront == "fresnel":
        return -along + 0.5 * rho * (square - along**2)
    if wavefront == "spherical":
        relative_distance = jnp.sqrt(1.0 - 2.0 * rho * along + rho**2 * square)
        return (rho * square - 2.0 * along) / (relative_distance + 1.0)
    raise ValueError(
        f"wavefront: need one of {', '.join(get_args(config_lib.Wavefront))}; got {wavefront!r}"
    )


def steering_vector(
    azimuth: Float[Array, "..."],
    elevation: Float[Array, "..."],
    source_range: Float[Array, "..."],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
) -> Complex[Array, "... N"]:
    r"""Unit-norm steering vector, phase-referenced to the array origin.

    .. math:: a_n = N^{-1/2} \exp\{-j 2\pi (\|p - q_n\| - r) / \lambda\}

    Args:
      azimuth: [...] :math:`\varphi` [rad].
      elevation: [...] :math:`\theta` [rad].
      source_range: [...] :math:`r` [m]; infinity is a plane wave.
      positions: [N, 3] element positions :math:`q_n` [m].
      wavelength: :math:`\lambda` [m].
      wavefront: spherical (exact), fresnel, parabolic or planar; see `path_difference`.

    Returns:
      [..., N] complex, unit norm.

    Raises:
      ValueError: an unknown wavefront, or a last axis of the positions that is not 3.

    Example:
      >>> positions = jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
      >>> a = steering_vector(
      ...     jnp.array(0.0), jnp.array(0.0), jnp.array(4.0), positions, wavelength=4.0)
      >>> [f"{z:.2f}" for z in (a * 2**0.5).tolist()]
      ['1.00+0.00j', '-0.00-1.00j']

    References:
      Sherman, *Properties of focused apertures in the Fresnel region*, IRE Trans. Antennas
      Propag. 10(4), 1962, for the second-order forms.
    """
    difference = path_difference(
        direction(azimuth, elevation),
        1.0 / jnp.asarray(source_range),
        positions,
        wavefront=wavefront,
    )
    phase = -2.0 * jnp.pi / wavelength * difference
    return jnp.exp(1j * phase) / jnp.sqrt(float(jnp.shape(positions)[0]))
