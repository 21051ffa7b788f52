r"""Misspecified bound of all sources of a scene together; see `accuracy.mismatch`.

The nominal model of K sources has 5 K real parameters :math:`\eta`: the coordinates u, w and 1/r
and the complex amplitude of each source, with constant signals. The pseudo-true parameters
:math:`\eta_0` are nearest to the mean that the actual hardware receives, and the covariance around
them is :math:`A^{-1} B A^{-1}` with the matrices of `accuracy.mismatch`. The second derivatives of
the mean are those within each source, because the mean is a sum over the sources.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float

from ris_jax import config as config_lib
from ris_jax.physics import arrays, element_response, linear, scenes

_ITERATIONS = 40  # of the fit
_LEAST_DAMPING, _LARGEST_DAMPING = 1e-6, 1e6
_FELT = 1e-10  # energy of a slope over that of its source, below which it is rounding


class SceneErrors(NamedTuple):
    """Errors of azimuth [rad], elevation [rad] and range [m] of each source."""

    bias: Float[Array, "K 3"]  #: pseudo-true less true value
    variance: Float[Array, "K 3"]  #: infinity if the scene does not determine the parameter

    @property
    def root_mean_square(self) -> Float[Array, "K 3"]:
        """Predicted root mean square error over the noise."""
        return jnp.sqrt(self.bias**2 + self.variance)


class _Linearised(NamedTuple):
    residual: Complex[Array, "R"]
    slopes: Complex[Array, "P R"]  # of the mean by all parameters; zero if not free
    free: Bool[Array, "P"]


def misspecified_scene_bound(
    mean: Complex[Array, "L M"],
    measurement: scenes.Measurement,
    truth: scenes.Truth,
    signals: Complex[Array, "K"],
    positions: Float[Array, "N 3"],
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront = "spherical",
    response: element_response.ElementResponse | None = None,
    lower: Float[Array, "3"],
    upper: Float[Array, "3"],
) -> SceneErrors:
    """Predict the errors of maximum likelihood with the nominal model and K known.

    Args:
      mean: [L, M] snapshots without noise, received through the actual hardware.
      measurement: channel and codes that the estimator uses, and noise variance.
      truth: of the scene; entries after `num_sources` are padding.
      signals: [K] true amplitudes, the start of the fit.
      positions: [N, 3] nominal elements [m].
      wavelength: [m].
      wavefront: assumed by the estimator.
      response: of the elements, assumed by the estimator.
      lower: [3] limits of u, w and 1/r, from which estimates do not depart.
      upper: [3] as `lower`.

    Returns:
      `SceneErrors`; padding has variance infinity.
    """
    channel, codes = measurement.channel, measurement.codes
    active = jnp.arange(truth.azimuth.shape[0]) < truth.num_sources
    true = jnp.stack([truth.azimuth, truth.elevation, truth.source_range], axis=-1)
    target = mean.reshape(-1)

    def images(coordinates):
        jet = arrays.steering_jet(
            coordinates, positions, wavelength=wavelength, wavefront=wavefront, response=response
        )
        seen = linear.matmul(codes * jet[..., None, :], channel.T)  # [K, 4, L, M]
        return seen.reshape(*jet.shape[:-1], -1)

    def residual_of(point, seen):
        amplitude = jnp.where(active, jax.lax.complex(point[:, 3], point[:, 4]), 0.0)
        return amplitude, target - linear.matmul(amplitude, seen[:, 0])

    def linearised(point):
        seen = images(point[:, :3])
        amplitude, residual = residual_of(point, seen)
        slopes = amplitude[:, None, None] * seen[:, 1:]
        slopes = jnp.concatenate([slopes, seen[:, :1], 1j * seen[:, :1]], axis=1)  # [K, 5, R]
        energy = jnp.sum(jnp.abs(slopes) ** 2, axis=-1)
        own = jnp.abs(amplitude)[:, None] ** 2 * energy[:, 3:4]
        inside = (point[:, :3] > lower) & (point[:, :3] < upper) & (energy[:, :3] > _FELT * own)
        free = active[:, None] & jnp.pad(inside, ((0, 0), (0, 2)), constant_values=True)
        slopes = jnp.where(free[..., None], slopes, 0.0)
        return _Linearised(residual, slopes.reshape(-1, slopes.shape[-1]), free.ravel())

    def cost(point):
        return jnp.sum(jnp.abs(residual_of(point, images(point[:, :3]))[1]) ** 2)

    coordinates = arrays.to_coordinates(*true.T)
    amplitudes = jnp.stack([signals.real, signals.imag], axis=-1)
    start = jnp.concatenate([jnp.clip(coordinates, lower, upper), amplitudes], axis=-1)
    point = _fit(cost, linearised, jnp.where(active[:, None], start, 0.0), lower, upper)
    at = linearised(point)

    def projection(own):  # real product of the residual with the image of one source
        image = images(own[None, :3])[0, 0]
        return jnp.real(linear.vdot(at.residual, jax.lax.complex(own[3], own[4]) * image))

    sources = jnp.arange(len(point))
    blocks = jax.vmap(jax.hessian(projection))(point)  # [K, 5, 5]
    curvature = jnp.zeros((len(point), 5, len(point), 5), blocks.dtype)
    curvature = curvature.at[sources, :, sources, :].set(blocks).reshape(at.free.size, -1)
    curvature = jnp.where(at.free[:, None] & at.free, curvature, 0.0)
    outer, scale = _scaled_gram(at)
    both = scale[:, None] * scale
    held = jnp.diag(jnp.where(at.free, 0.0, 1.0))
    inverse = linear.inverse_positive(outer - curvature * both + held)
    covariance = 0.5 * measurement.noise_variance * linear.matmul(inverse, outer, inverse)
    covariance = (covariance * both).reshape(len(point), 5, len(point), 5)[sources, :, sources, :]

    def place(own):
        return jnp.stack(arrays.from_coordinates(own[:3]))

    arms = jax.vmap(jax.jacfwd(place))(point)  # [K, 3, 5]
    variance = jnp.sum(linear.matmul(arms, covariance) * arms, axis=-1)
    known = active & jnp.all(at.free.reshape(len(point), 5), axis=-1)
    return SceneErrors(
        jnp.where(active[:, None], jax.vmap(place)(point) - true, 0.0),
        jnp.where(known[:, None], variance, jnp.inf),
    )


def _scaled_gram(at: _Linearised) -> tuple[Float[Array, "P P"], Float[Array, "P"]]:
    """Return the Gram matrix of normalised slopes, and the factors that normalise them."""
    matrix = jnp.real(linear.matmul(at.slopes.conj(), at.slopes.T))
    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(at.free, jax.lax.rsqrt(jnp.where(at.free, diagonal, 1.0)), 0.0)
    return matrix * scale[:, None] * scale, scale


def _fit(cost, linearised, point: Float[Array, "K 5"], lower, upper) -> Float[Array, "K 5"]:
    """Minimise the cost by damped Gauss-Newton steps within limits of the coordinates."""
    infinite = jnp.full(2, jnp.inf)
    low, high = jnp.concatenate([lower, -infinite]), jnp.concatenate([upper, infinite])

    def step(_, state):
        point, damping, value = state
        at = linearised(point)
        matrix, scale = _scaled_gram(at)
        right = scale * jnp.real(linear.matmul(at.slopes.conj(), at.residual))
        held = jnp.where(at.free, damping, 1.0)
        move = scale * linear.solve_positive(matrix + jnp.diag(held), right[:, None])[:, 0]
        tried = jnp.clip(point + move.reshape(point.shape), low, high)
        now = cost(tried)
        better = now < value
        damping = jnp.where(better, 0.1 * damping, 10.0 * damping)
        damping = jnp.clip(damping, _LEAST_DAMPING, _LARGEST_DAMPING)
        return jnp.where(better, tried, point), damping, jnp.where(better, now, value)

    start = point, jnp.asarray(1e-3, point.dtype), cost(point)
    return jax.lax.fori_loop(0, _ITERATIONS, step, start)[0]
