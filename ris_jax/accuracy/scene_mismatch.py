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
# Variance over that with all else known, above which the linearisation does not hold.
_LARGEST_INFLATION = 1e4
_FELT = 1e-10  # energy of a slope over that of its source, below which it is rounding


class SceneErrors(NamedTuple):
    """Errors of azimuth [rad], elevation [rad] and range [m] of each source."""

    bias: Float[Array, "K 3"]  #: pseudo-true less true value
    variance: Float[Array, "K 3"]  #: infinity if the scene does not determine the source

    @property
    def root_mean_square(self) -> Float[Array, "K 3"]:
        """Predicted root mean square error over the noise."""
        return jnp.sqrt(self.bias**2 + self.variance)


class _Normal(NamedTuple):
    """Normal equations at a point, with normalised slopes."""

    cost: Float[Array, ""]
    matrix: Float[Array, "P P"]
    right: Float[Array, "P"]
    scale: Float[Array, "P"]  # that normalises the slopes; zero if not free
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
      `SceneErrors`. The variances of a source are infinite if it is padding, if its estimate is at
      a limit, or if the curvature of the likelihood is not positive, as of two sources so close
      that the mismatch merges them.
    """
    channel, codes = measurement.channel, measurement.codes
    active = jnp.arange(truth.azimuth.shape[0]) < truth.num_sources
    true = jnp.stack([truth.azimuth, truth.elevation, truth.source_range], axis=-1)
    target = mean.reshape(-1)

    def slopes_at(point):
        """Return the mean [R] and its derivatives [K, 5, R]."""
        jet = arrays.steering_jet(
            point[:, :3], positions, wavelength=wavelength, wavefront=wavefront, response=response
        )
        seen = linear.matmul(codes * jet[..., None, :], channel.T)  # [K, 4, L, M]
        seen = seen.reshape(*jet.shape[:-1], -1)
        amplitude = jnp.where(active, jax.lax.complex(point[:, 3], point[:, 4]), 0.0)
        own = amplitude[:, None, None] * seen[:, 1:]
        slopes = jnp.concatenate([own, seen[:, :1], 1j * seen[:, :1]], axis=1)
        return linear.matmul(amplitude, seen[:, 0]), slopes

    def normal(point):
        image, slopes = slopes_at(point)
        energy = jnp.sum(jnp.abs(slopes) ** 2, axis=-1)
        felt = energy[:, :3] > _FELT * energy[:, 3:4] * jnp.sum(point[:, 3:] ** 2, -1)[:, None]
        inside = felt & (point[:, :3] > lower) & (point[:, :3] < upper)
        free = active[:, None] & jnp.pad(inside, ((0, 0), (0, 2)), constant_values=True)
        scale = jnp.where(free, jax.lax.rsqrt(jnp.where(free, energy, 1.0)), 0.0)
        unit = (scale[..., None] * slopes).reshape(-1, slopes.shape[-1])
        residual = target - image
        return _Normal(
            jnp.sum(jnp.abs(residual) ** 2),
            jnp.real(linear.matmul(unit.conj(), unit.T)),
            jnp.real(linear.matmul(unit.conj(), residual)),
            scale.ravel(),
            free.ravel(),
        )

    coordinates = arrays.to_coordinates(*true.T)
    amplitudes = jnp.stack([signals.real, signals.imag], axis=-1)
    start = jnp.concatenate([jnp.clip(coordinates, lower, upper), amplitudes], axis=-1)
    point, at = _fit(normal, jnp.where(active[:, None], start, 0.0), lower, upper)
    residual = target - slopes_at(point)[0]

    def projection(point):
        """Return the real product of the residual and the slopes, [K, 5]."""
        return jnp.real(linear.einsum("r,kpr->kp", residual.conj(), slopes_at(point)[1]))

    def curvature_by(axis):  # all sources at once: slopes of a source depend on it alone
        return jax.jvp(projection, (point,), (jnp.broadcast_to(axis, point.shape),))[1]

    blocks = jax.vmap(curvature_by)(jnp.eye(5, dtype=point.dtype))  # [5, K, 5]
    sources = jnp.arange(len(point))
    curvature = jnp.zeros((len(point), 5, len(point), 5), blocks.dtype)
    curvature = curvature.at[sources, :, sources, :].set(jnp.swapaxes(blocks, 0, 1))
    both = at.scale[:, None] * at.scale  # zero if not free
    information = at.matrix - curvature.reshape(both.shape) * both
    inverse = linear.inverse_positive(information + jnp.diag(jnp.where(at.free, 0.0, 1.0)))
    covariance = 0.5 * measurement.noise_variance * linear.matmul(inverse, at.matrix, inverse)
    covariance = (covariance * both).reshape(len(point), 5, len(point), 5)[sources, :, sources, :]

    def place(own):
        return jnp.stack(arrays.from_coordinates(own[:3]))

    arms = jax.vmap(jax.jacfwd(place))(point)  # [K, 3, 5]
    variance = jnp.sum(linear.matmul(arms, covariance) * arms, axis=-1)
    regular = at.free & (jnp.diagonal(inverse) < _LARGEST_INFLATION)
    known = active & jnp.all(regular.reshape(len(point), 5), axis=-1)
    return SceneErrors(
        jnp.where(active[:, None], jax.vmap(place)(point) - true, 0.0),
        jnp.where(known[:, None], variance, jnp.inf),
    )


def _fit(normal, point: Float[Array, "K 5"], lower, upper) -> tuple[Array, _Normal]:
    """Minimise the cost by damped Gauss-Newton steps within limits of the coordinates."""
    infinite = jnp.full(2, jnp.inf)
    low, high = jnp.concatenate([lower, -infinite]), jnp.concatenate([upper, infinite])

    def step(_, state):
        tried, point, at, damping = state
        found = normal(tried)
        better = found.cost < at.cost
        point, at = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), (tried, found), (point, at)
        )
        damping = jnp.where(better, 0.1 * damping, 10.0 * damping)
        damping = jnp.clip(damping, _LEAST_DAMPING, _LARGEST_DAMPING)
        matrix = at.matrix + jnp.diag(jnp.where(at.free, damping, 1.0))
        move = at.scale * linear.solve_positive(matrix, at.right[:, None])[:, 0]
        return jnp.clip(point + move.reshape(point.shape), low, high), point, at, damping

    count, kind = point.size, point.dtype
    nothing = _Normal(
        jnp.asarray(jnp.inf, kind), jnp.zeros((count, count), kind), jnp.zeros(count, kind),
        jnp.zeros(count, kind), jnp.zeros(count, bool),
    )  # fmt: skip
    start = point, point, nothing, jnp.asarray(1e-2, kind)
    _, point, at, _ = jax.lax.fori_loop(0, _ITERATIONS, step, start)
    return point, at
