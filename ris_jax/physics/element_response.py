r"""Amplitude of an element over the angle to its normal.

An element receives a wave with the amplitude :math:`g(\theta_n)`, where :math:`\theta_n` is the
angle between its normal and the direction from this element to the source:

.. math:: \cos\theta_n = \frac{\nu_n^T (p - q_n)}{\|p - q_n\|}
          = \frac{\nu_n^T (\hat u - \rho q_n)}{\|\hat u - \rho q_n\|}

In the near field the angle differs from element to element. The normal is +z unless given.
Amplitudes are relative to boresight, :math:`g(0) = 1`. The amplitude and the power of a source
remain those of the wave at the origin of the array. The received power of a source off boresight
is therefore smaller by the mean of :math:`g^2`. The response towards the base station is part of
the channel.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ris_jax import config as config_lib

# Least cosine in a power, so that derivatives are finite in the plane of an element.
_LEAST_COSINE = 1e-6
# Least squared distance of source and element, as in `arrays`.
_LEAST_SQUARE = 1e-6
# Longest difference of a normal's length from 1.
_UNIT = 1e-3


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["exponent", "knots", "values", "slopes", "normals"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class ElementResponse:
    """Amplitude over angle, from `cosine` or `table`; a pytree that all elements share."""

    exponent: Any = None  #: q of cos^q, []; None for a table
    knots: Any = None  #: 1 - cos(angle) of a table, [A]
    values: Any = None  #: amplitudes at the knots over that at boresight, [A]
    slopes: Any = None  #: their derivatives in 1 - cos(angle), [A]
    normals: Any = None  #: unit normals, [3] or [N, 3]; None: +z

    @classmethod
    def cosine(cls, exponent: float, *, normals: Any = None) -> "ElementResponse":
        r"""Return the response :math:`\max(\cos\theta, 0)^q`; q = 0 is equal in all directions.

        Args:
          exponent: q in amplitude, 0 or more. A gain pattern :math:`\cos^p\theta` in power has
            q = p / 2.
          normals: unit normals of the elements, [3] or [N, 3]; None: +z.

        Raises:
          ConfigError: an invalid exponent or normal.
        """
        _require_valid(config_lib.response_problem(exponent, None, None))
        return cls(exponent=np.asarray(exponent, float), normals=_unit_normals(normals))

    @classmethod
    def table(
        cls, angles: Sequence[float], amplitudes: Sequence[float], *, normals: Any = None
    ) -> "ElementResponse":
        r"""Return a measured response, interpolated by a monotone cubic in :math:`\cos\theta`.

        The interpolation is smooth also at boresight, and has no overshoot (Fritsch & Carlson,
        *Monotone piecewise cubic interpolation*, SIAM J. Numer. Anal. 17(2), 1980). Beyond the
        last angle the amplitude is zero.

        Args:
          angles: [A] angles to the normal [rad], ascending from 0 to pi / 2 or more.
          amplitudes: [A] linear amplitudes of any scale; they are divided by the first one.
          normals: as for `cosine`.

        Raises:
          ConfigError: an invalid table or normal.

        Example:
          >>> response = ElementResponse.table([0.0, 0.5, 1.0, 1.6], [2.0, 1.8, 1.0, 0.0])
          >>> response.values.tolist()
          [1.0, 0.9, 0.5, 0.0]
        """
        from scipy import interpolate  # slow to import

        _require_valid(config_lib.response_problem(0.0, angles, amplitudes))
        knots = 2.0 * np.sin(np.asarray(angles, float) / 2.0) ** 2
        values = np.asarray(amplitudes, float) / amplitudes[0]
        slopes = interpolate.PchipInterpolator(knots, values).derivative()(knots)
        return cls(knots=knots, values=values, slopes=slopes, normals=_unit_normals(normals))

    @property
    def is_isotropic(self) -> bool:
        """True if all directions are equal; False for a traced exponent."""
        traced = isinstance(self.exponent, Tracer)
        return self.exponent is not None and not traced and float(self.exponent) == 0.0

    def as_table(self) -> tuple[Float[np.ndarray, "A"], Float[np.ndarray, "A"]]:
        """Return angles [rad] and amplitudes of a table, as for `table`."""
        half = np.sqrt(np.asarray(self.knots, float) / 2.0)
        return 2.0 * np.arcsin(np.clip(half, 0.0, 1.0)), np.asarray(self.values, float)

    def rotated(self, rotation: Float[np.ndarray, "3 3"]) -> "ElementResponse":
        """Return the response of a surface that is turned by a rotation matrix."""
        normals = np.array([0.0, 0.0, 1.0]) if self.normals is None else np.asarray(self.normals)
        return dataclasses.replace(self, normals=normals @ np.asarray(rotation).T)

    def check_elements(self, count: int) -> None:
        """Check that normals, if each element has its own, are those of `count` elements.

        Raises:
          ConfigError: another number of normals.
        """
        if self.normals is not None and self.normals.shape not in ((3,), (count, 3)):
            raise config_lib.ConfigError(
                f"response_normals: expected [3] or [{count}, 3]; found {list(self.normals.shape)}"
            )

    def description(self) -> str:
        """Return one line for reports."""
        if self.exponent is not None:
            text = f"cos^{float(self.exponent):g} of the angle to the normal"
        else:
            angles, _ = self.as_table()
            text = f"table of {len(angles)} angles up to {np.rad2deg(angles[-1]):.4g} deg"
        return text if self.normals is None else f"{text}, normals given"

    def of_cosines(self, cosine: Any, numpy: Any = jnp) -> Any:
        """Return the amplitude at cosines of the angle, [...]; `numpy` is `jax.numpy` or NumPy."""
        if self.exponent is not None:
            exponent = numpy.asarray(self.exponent, cosine.dtype)
            ahead = numpy.exp(exponent * numpy.log(numpy.maximum(cosine, _LEAST_COSINE)))
            return numpy.where(cosine > 0.0, ahead, numpy.where(exponent > 0.0, 0.0, 1.0))
        knots, values, slopes = (
            numpy.asarray(part, cosine.dtype) for part in (self.knots, self.values, self.slopes)
        )
        place = 1.0 - cosine
        left = numpy.clip(numpy.searchsorted(knots, place, side="right") - 1, 0, len(knots) - 2)
        width = knots[left + 1] - knots[left]
        t = (place - knots[left]) / width
        rise = values[left + 1] - values[left]
        bend = width * (slopes[left] + slopes[left + 1]) - 2.0 * rise
        start = width * slopes[left]
        found = values[left] + t * (start + t * ((rise - start - bend) + t * bend))
        # The last angle itself belongs to the table, also after rounding.
        return numpy.where(place < knots[-1] + 1e-6, found, 0.0)

    def amplitudes(self, unit: Any, inverse_range: Any, positions: Any, numpy: Any = jnp) -> Any:
        """Return the amplitude of every element for sources at directions and inverse ranges.

        Args:
          unit: [..., 3] unit vectors towards the sources.
          inverse_range: [...] [1/m], zero allowed.
          positions: [N, 3] element positions [m].
          numpy: `jax.numpy` or NumPy.

        Returns:
          [..., N] float.
        """
        rho = inverse_range[..., None]
        x, y, z = (unit[..., axis, None] - rho * positions[:, axis] for axis in range(3))
        distance = numpy.sqrt(numpy.maximum(x**2 + y**2 + z**2, _LEAST_SQUARE))
        if self.normals is None:
            along = z
        else:
            normal = numpy.asarray(self.normals, z.dtype)
            along = x * normal[..., 0] + y * normal[..., 1] + z * normal[..., 2]
        return self.of_cosines(along / distance, numpy)


def directional(response: ElementResponse | None) -> ElementResponse | None:
    """Return a response, or None if it is equal in all directions: programs need none then."""
    return None if response is None or response.is_isotropic else response


def of_system(system: config_lib.SystemConfig) -> ElementResponse | None:
    """Return the element response of a configuration; None if it is equal in all directions."""
    if system.response_angles is not None and system.response_amplitudes is not None:
        return ElementResponse.table(system.response_angles, system.response_amplitudes)
    return directional(ElementResponse.cosine(system.response_exponent))


def same_response(one: ElementResponse | None, other: ElementResponse | None) -> bool:
    """Return whether two responses have equal numbers; both concrete."""
    left, right = (jax.tree.flatten(directional(response)) for response in (one, other))
    return left[1] == right[1] and all(map(np.array_equal, left[0], right[0]))


def _require_valid(problem: tuple[str, str, Any] | None) -> None:
    if problem is not None:
        field, expected, found = problem
        raise config_lib.ConfigError(f"response_{field}: expected {expected}; found {found}")


def _unit_normals(normals: Any) -> Array | np.ndarray | None:
    """Check normals, [3] or [N, 3]."""
    if normals is None:
        return None
    found = np.asarray(normals, float)
    if found.shape[-1:] != (3,) or found.ndim > 2:
        raise config_lib.ConfigError(
            f"response_normals: expected [3] or [N, 3]; found {list(found.shape)}"
        )
    lengths = np.linalg.norm(found, axis=-1)
    if not np.all(np.abs(lengths - 1.0) < _UNIT):
        worst = np.ravel(lengths)[np.argmax(np.abs(np.ravel(lengths) - 1.0))]
        raise config_lib.ConfigError(
            f"response_normals: expected unit vectors; found one of length {worst:.3g}"
        )
    return found / lengths[..., None]
