r"""Errors of an estimator that assumes the nominal model under hardware or wavefront mismatch.

The maximum-likelihood estimate under the assumed mean :math:`\mu(\eta)` converges to the
pseudo-true parameters :math:`\eta_0`, which are nearest to the true mean :math:`\mu_\star`. Around
them it has the covariance of the misspecified Cramér-Rao bound:

.. math::
  \eta_0 = \arg\min \|\mu_\star - \mu(\eta)\|^2, \quad C = A^{-1} B A^{-1}, \quad
  B = \frac{2}{\sigma^2} \mathrm{Re}\, J^H J, \quad
  A = B - \frac{2}{\sigma^2} \mathrm{Re} \sum_i \bar r_i \nabla^2 \mu_i

with :math:`r = \mu_\star - \mu(\eta_0)` and :math:`J = \partial\mu/\partial\eta`, all by automatic
differentiation. :math:`\eta` holds azimuth, elevation, inverse range and the complex amplitude of
one source with a constant signal. Without mismatch C is the Cramér-Rao bound.

References:
  Fortunati, Gini, Greco and Richmond, *Performance bounds for parameter estimation under
  misspecified models*, IEEE Signal Process. Mag. 34(6), 2017.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import bound_maps
from ris_jax.physics import arrays, channel, codebooks, linear

_ITERATIONS = 30  # of the fit
_LEAST_DAMPING, _LARGEST_DAMPING = 1e-6, 1e6

# Strengths for impairments that are zero in the configuration; jitter is in wavelengths.
_DEFAULT_STRENGTHS = {
    "position_jitter": 0.02,
    "phase_error": 0.1,
    "amplitude_error_db": 1.0,
    "dead_fraction": 0.03,
    "beta_min": 0.5,
    "channel_error": 0.01,
}
NAMES = tuple(_DEFAULT_STRENGTHS)


class Hardware(NamedTuple):
    """D draws of the actual surface, and of the channel estimated by the base station."""

    positions: Float[Array, "D N 3"]
    codes: Complex[Array, "D L N"]
    estimated_channel: Complex[Array, "D M N"]


class Misspecified(NamedTuple):
    """Errors of the estimated positions, in Cartesian coordinates."""

    bias: Float[Array, "D P 3"]  #: pseudo-true less true position [m]
    covariance: Float[Array, "D P 3 3"]  #: [m^2]


def single_impairment(
    name: str, impairments: config_lib.ImpairmentConfig, wavelength: float
) -> config_lib.ImpairmentConfig:
    """Return one impairment as configured, or at a default strength if it is off.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in NAMES:
        raise ValueError(f"impairment: need one of {', '.join(NAMES)}; got {name!r}")
    ideal = config_lib.ImpairmentConfig()
    strength = getattr(impairments, name)
    if strength == getattr(ideal, name):
        strength = _DEFAULT_STRENGTHS[name] * (wavelength if name == "position_jitter" else 1.0)
    return dataclasses.replace(
        ideal,
        beta_phase=impairments.beta_phase,
        beta_exponent=impairments.beta_exponent,
        **{name: strength},
    )


def draw_hardware(
    key: jax.Array,
    surface: bound_maps.Surface,
    impairments: config_lib.ImpairmentConfig,
    num_draws: int,
) -> Hardware:
    """Draw impaired hardware as the simulator does.

    Args:
      key: randomness of all draws.
      surface: nominal; its first channel is used.
      impairments: of full strength.
      num_draws: D.
    """

    def draw(key):
        jitter_key, code_key, channel_key = jax.random.split(key, 3)
        jitter = jax.random.uniform(jitter_key, surface.positions.shape, minval=-1.0)
        noise = channel.complex_normal(channel_key, surface.channel.shape[1:])
        return Hardware(
            surface.positions + impairments.position_jitter * jitter,
            codebooks.hardware_response(code_key, surface.codes, impairments),
            surface.channel[0] + jnp.sqrt(impairments.channel_error) * noise,
        )

    return jax.vmap(draw)(jax.random.split(key, num_draws))


def _image(surface, positions, codes, channel_matrix, place, wavefront):
    """Return the mean received at the antennas from (azimuth, elevation, inverse range), flat."""
    unit = arrays.direction(place[0], place[1])
    vector = arrays.steering(
        unit, place[2], positions, wavelength=surface.wavelength, wavefront=wavefront,
        response=surface.response,
    )  # fmt: skip
    return linear.matmul(codes * vector, channel_matrix.T).reshape(-1)


def received(
    surface: bound_maps.Surface,
    hardware: Hardware,
    places: Float[Array, "P 3"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
) -> Complex[Array, "D P R"]:
    """Return the mean received from a source of unit amplitude through actual hardware.

    Args:
      surface: nominal, with the true channel.
      hardware: D draws.
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      wavefront: of the true wave.

    Returns:
      [D, P, R = L M] complex.
    """
    points = places.at[:, 2].set(1.0 / places[:, 2])

    def one(positions, codes, point):
        return _image(surface, positions, codes, surface.channel[0], point, wavefront)

    over_places = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(over_places, in_axes=(0, 0, None))(hardware.positions, hardware.codes, points)


def _cartesian(point: Float[Array, "5"]) -> Float[Array, "3"]:
    return arrays.direction(point[0], point[1]) / point[2]


def _model(surface, channel_matrix, wavefront):
    def mean(point):
        image = _image(surface, surface.positions, surface.codes, channel_matrix, point, wavefront)
        return jax.lax.complex(point[3], point[4]) * image

    return mean


def _fit(mean, target: Complex[Array, "R"], place: Float[Array, "3"]) -> Float[Array, "5"]:
    """Fit the model to a target by damped Gauss-Newton steps from a start position."""
    point = jnp.concatenate([place.at[2].set(1.0 / place[2]), jnp.array([1.0, 0.0], place.dtype)])
    image = mean(point)
    amplitude = linear.vdot(image, target) / jnp.sum(jnp.abs(image) ** 2)
    point = point.at[3:].set(jnp.stack([amplitude.real, amplitude.imag]))

    def cost(point):
        return jnp.sum(jnp.abs(target - mean(point)) ** 2)

    def step(_, state):
        point, damping, value = state
        slopes, residual = jax.jacfwd(mean)(point), target - mean(point)
        matrix = jnp.real(linear.matmul(slopes.conj().T, slopes))
        right = jnp.real(linear.matmul(slopes.conj().T, residual))
        scale = jax.lax.rsqrt(jnp.diagonal(matrix))
        matrix = matrix * scale[:, None] * scale + damping * jnp.eye(5, dtype=scale.dtype)
        move = scale * linear.solve_positive(matrix, (scale * right)[:, None])[:, 0]
        tried = point + move
        now = cost(tried)
        better = now < value
        damping = jnp.clip(
            jnp.where(better, 0.1 * damping, 10.0 * damping), _LEAST_DAMPING, _LARGEST_DAMPING
        )
        return jnp.where(better, tried, point), damping, jnp.where(better, now, value)

    start = point, jnp.asarray(1e-3, place.dtype), cost(point)
    return jax.lax.fori_loop(0, _ITERATIONS, step, start)[0]


@functools.partial(jax.jit, static_argnames="wavefront")
def fit(
    surface: bound_maps.Surface,
    estimated_channel: Complex[Array, "D M N"],
    targets: Complex[Array, "D P R"],
    places: Float[Array, "P 3"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
) -> Float[Array, "D P 3"]:
    """Fit positions [m] with the nominal model, starting from given ones.

    For means, the result is the pseudo-true position. For noisy data, it is the maximum-likelihood
    estimate if the start is close enough.
    """

    def one(channel_matrix, target, place):
        return _cartesian(_fit(_model(surface, channel_matrix, wavefront), target, place))

    over_places = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(over_places, in_axes=(0, 0, None))(estimated_channel, targets, places)


@functools.partial(jax.jit, static_argnames="wavefront")
def misspecified_bound(
    surface: bound_maps.Surface,
    estimated_channel: Complex[Array, "D M N"],
    means: Complex[Array, "D P R"],
    places: Float[Array, "P 3"],
    noise_variance: Float[Array, "D P"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
) -> Misspecified:
    """Compute bias and covariance of positions estimated with the nominal model.

    Args:
      surface: nominal array and codes; its channel is not used.
      estimated_channel: [D, M, N] channel that the estimator uses.
      means: [D, P, R] true means, from `received`.
      places: [P, 3] true azimuth [rad], elevation [rad], range [m].
      noise_variance: [D, P] of the complex noise.
      wavefront: assumed by the estimator; not planar, which has no range.

    Raises:
      ValueError: the wavefront is planar.
    """
    if wavefront == "planar":
        raise ValueError("wavefront: need one with a range; got planar")

    def one(channel_matrix, target, place, variance):
        mean = _model(surface, channel_matrix, wavefront)
        point = _fit(mean, target, place)
        slopes, residual = jax.jacfwd(mean)(point), target - mean(point)
        curvature = jax.hessian(lambda at: jnp.real(linear.vdot(residual, mean(at))))(point)
        outer = jnp.real(linear.matmul(slopes.conj().T, slopes))
        scale = jax.lax.rsqrt(jnp.diagonal(outer))
        both = scale[:, None] * scale
        arms = jax.jacfwd(_cartesian)(point) * scale
        sensitivity = linear.solve_positive((outer - curvature) * both, arms.T)
        covariance = linear.matmul(0.5 * variance * sensitivity.T, outer * both, sensitivity)
        truth = _cartesian(place.at[2].set(1.0 / place[2]))
        return _cartesian(point) - truth, covariance

    over_places = jax.vmap(one, in_axes=(None, 0, 0, 0))
    over_draws = jax.vmap(over_places, in_axes=(0, 0, None, 0))
    return Misspecified(*over_draws(estimated_channel, means, places, noise_variance))


def root_mean_squares(found: Misspecified) -> Mapping[str, Float[Array, "P"]]:
    """Return the root mean square over draws of `bias`, `deviation` and their sum, `error` [m]."""
    bias = jnp.mean(jnp.sum(found.bias**2, axis=-1), axis=0)
    variance = jnp.mean(jnp.trace(found.covariance, axis1=-2, axis2=-1), axis=0)
    return {
        "bias": jnp.sqrt(bias),
        "deviation": jnp.sqrt(variance),
        "error": jnp.sqrt(bias + variance),
    }
