r"""Codes of the surface that minimise the position error bound of a source at given positions.

Gradient descent optimises the phases of all codes. Then each phase in turn takes the best of its
quantised values, which never increases the objective. Transmit power and noise are constant, so
that codes are compared at equal power.

The bound equals that of `ris_jax.accuracy.bounds` to float32 accuracy, for one source. It uses Gram
matrices instead of residuals, at a fraction of the cost. With :math:`G_l` the Gram matrix of the
image and its three derivatives, in metres along azimuth, elevation and range,

.. math:: F = 2 \frac{|g|^2}{\sigma^2} \mathrm{Re} \sum_t \Big(G_{t,DD} - \frac{G_{t,Da}
          G_{t,aD}}{G_{t,aa}}\Big), \quad \mathrm{PEB} = \sqrt{\mathrm{tr} F^{-1}} ,

over one group of all codes (`constant` signals) or a group for each code (`independent`).

At several frequencies (`wideband_surface.design_problem`), F is the sum over the frequencies of
incoherent sources. For coherent ones, the Gram matrix has the derivative by the delay as well,
which is a further unknown.
"""

import functools
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.physics import arrays, linear
from ris_jax.physics.element_response import ElementResponse

Goal = Literal["mean", "worst", "quantile"]

_STEP = 0.2  # initial step of the descent [rad]
_SHARPNESS = 12.0  # exponent of the smooth maximum
_BAND = 0.1  # width of the smooth quantile, in log error
_ROUNDING = 1e-6  # of a Gram matrix, and of the determinant of a correlation matrix
_COORDINATES = 2048  # per call of the coordinate descent


class DesignProblem(NamedTuple):
    """Positions to design for, as responses that the codes multiply.

    G is the number of frequencies with free amplitudes; otherwise 1. V is 4, or 5 with the delay.
    """

    #: H times the steering vector and its derivatives in metres, over elements n.
    responses: Complex[Array, "N GP V M"]
    level: Float[Array, "P"]  #: ``|g|^2`` over the noise variance


class Descent(NamedTuple):
    """State of a gradient descent on phases; arrays only."""

    phases: Float[Array, "L N"]  #: [rad]
    optimizer: Any
    step: Int[Array, ""]
    best_phases: Float[Array, "L N"]
    best_value: Float[Array, ""]


@functools.partial(jax.jit, static_argnames="wavefront")
def make_problem(
    positions: Float[Array, "N 3"],
    channel: Complex[Array, "M N"],
    wavelength: Float[Array, ""],
    places: Float[Array, "P 3"],
    level: Float[Array, "P"],
    *,
    wavefront: config_lib.Wavefront = "spherical",
    response: ElementResponse | None = None,
) -> DesignProblem:
    """Compute the responses of positions.

    Args:
      positions: [N, 3] of the elements [m].
      channel: [M, N].
      wavelength: [m].
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      level: [P] power of the source over the noise variance, the steering vector being of norm 1
        in the far field.
      wavefront: see `arrays.path_difference`.
      response: of the elements; None: the same in all directions.
    """

    def steering(place):
        return arrays.steering_vector(
            place[0], place[1], place[2], positions, wavelength=wavelength, wavefront=wavefront,
            response=response,
        )  # fmt: skip

    def vectors(place):
        arms = jnp.stack([place[2] * jnp.cos(place[1]), place[2], jnp.ones_like(place[2])])
        slopes = [jax.jvp(steering, (place,), (axis,))[1] for axis in jnp.diag(1.0 / arms)]
        return jnp.stack([steering(place), *slopes])

    found = jax.vmap(vectors)(places)
    return DesignProblem(linear.einsum("pvn,mn->npvm", found, channel), level)


def grams_of(images: Complex[Array, "... V M"]) -> Complex[Array, "... V V"]:
    """Return the Gram matrix of an image and its derivatives at the antennas."""
    return linear.einsum("...im,...jm->...ij", images.conj(), images)


def _information(grams: Complex[Array, "... V V"]) -> Float[Array, "... 3 3"]:
    """Return the information of the position, with the amplitude of the image unknown.

    The delay, the fifth vector if there is one, is unknown as well. The residual of a derivative is
    raised to the rounding error of its Gram matrix.
    """
    tiny = jnp.finfo(grams.real.dtype).tiny
    power = jnp.maximum(grams[..., 0, 0].real, tiny)
    across = grams[..., 1:, :1] * grams[..., :1, 1:] / power[..., None, None]
    whole = grams[..., 1:, 1:].real
    matrix = whole - across.real
    if matrix.shape[-1] > 3:
        pivot = jnp.maximum(matrix[..., 3:, 3:], jnp.maximum(_ROUNDING * whole[..., 3:, 3:], tiny))
        matrix = matrix[..., :3, :3] - matrix[..., :3, 3:] * matrix[..., 3:, :3] / pivot
        whole = whole[..., :3, :3]
    whole, diagonal = (jnp.diagonal(part, axis1=-2, axis2=-1) for part in (whole, matrix))
    raised = jnp.maximum(_ROUNDING * whole - diagonal, 0.0)
    return matrix + raised[..., None] * jnp.eye(3, dtype=matrix.dtype)


def _trace_of_inverse(matrix: Float[Array, "... 3 3"]) -> Float[Array, "..."]:
    """Compute the trace by cofactors of the correlation matrix; large if it is singular."""
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    diagonal = jnp.maximum(diagonal, jnp.finfo(matrix.dtype).tiny * 1e9)
    scale = jax.lax.rsqrt(diagonal)
    a, b, c = (matrix[..., i, j] * scale[..., i] * scale[..., j] for i, j in _PAIRS)
    determinant = (1.0 - a * a - b * b - c * c + 2.0 * a * b * c)[..., None]
    cofactors = jnp.stack([1.0 - c * c, 1.0 - b * b, 1.0 - a * a], axis=-1)
    regular = determinant > _ROUNDING
    inverse = jnp.maximum(cofactors, determinant) / jnp.where(regular, determinant, 1.0)
    return jnp.sum(jnp.where(regular, inverse, 1.0 / _ROUNDING) / diagonal, axis=-1)


_PAIRS = ((0, 1), (0, 2), (1, 2))


@compilation.one_program("source_signal")
def position_errors(
    problem: DesignProblem,
    codes: Complex[Array, "L N"],
    source_signal: config_lib.SourceSignal = "constant",
) -> Float[Array, "P"]:
    """Return the position error bound of a source at each position [m]; large if unidentifiable."""
    images = linear.einsum("ln,npvm->lpvm", codes, problem.responses)
    total = jnp.sum(shares(grams_of(images), source_signal), axis=0)
    return errors_of_total(total, problem.level, source_signal)


def shares(grams: Complex[Array, "... V V"], source_signal: config_lib.SourceSignal) -> Array:
    """Return the summands of the codes: Gram matrices, or information per code."""
    return grams if source_signal == "constant" else _information(grams)


def errors_of_total(
    total: Array, level: Float[Array, "P"], source_signal: config_lib.SourceSignal = "constant"
) -> Float[Array, "... P"]:
    """Return the position error bound [m] from the sum over codes; see `position_errors`."""
    information = _information(total) if source_signal == "constant" else total
    groups = *information.shape[:-3], -1, len(level), 3, 3
    information = jnp.sum(information.reshape(groups), axis=-4)
    return jnp.sqrt(_trace_of_inverse(information) / (2.0 * level))


def objective(
    errors: Float[Array, "... P"], goal: Goal = "mean", quantile: float = 0.9
) -> Float[Array, "..."]:
    """Return the mean, the largest value or a quantile of the errors.

    Raises:
      ValueError: the goal is unknown.
    """
    if goal == "mean":
        return jnp.mean(errors, axis=-1)
    if goal == "worst":
        return jnp.max(errors, axis=-1)
    if goal == "quantile":
        return jnp.quantile(errors, quantile, axis=-1)
    raise ValueError(f"goal: need mean, worst or quantile; got {goal!r}")


def _smooth(errors: Float[Array, "P"], goal: Goal, quantile: float) -> Float[Array, ""]:
    """Return the logarithm of a smooth objective, whose gradient depends on several positions."""
    logs = jnp.log(errors)
    if goal == "mean":
        return jnp.log(jnp.mean(errors))
    if goal == "worst":
        return jax.nn.logsumexp(_SHARPNESS * logs) / _SHARPNESS
    distance = logs - jax.lax.stop_gradient(jnp.quantile(logs, quantile))
    weights = jax.nn.softmax(jax.lax.stop_gradient(-0.5 * (distance / _BAND) ** 2))
    return jnp.sum(weights * logs)


def _optimizer(num_steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(_STEP, num_steps, 0.02))


def start_descent(codes: Complex[np.ndarray, "L N"], num_steps: int) -> Descent:
    """Start a descent of `num_steps` steps from given codes."""
    phases = jnp.angle(jnp.asarray(codes))
    state = _optimizer(num_steps).init(phases)
    best = jnp.asarray(jnp.inf, phases.dtype)
    return Descent(phases, state, jnp.asarray(0), phases, best)


@functools.partial(
    jax.jit, static_argnames=("source_signal", "goal", "quantile", "num_steps", "steps")
)
def descend(
    problem: DesignProblem,
    descent: Descent,
    *,
    source_signal: config_lib.SourceSignal,
    goal: Goal,
    quantile: float,
    num_steps: int,
    steps: int,
) -> Descent:
    """Run the next steps of a descent; the best phases are kept.

    Args:
      problem: positions.
      descent: from `start_descent` or an earlier call.
      source_signal: constant or independent.
      goal: mean, worst or quantile.
      quantile: 0 to 1.
      num_steps: of the whole descent; defines the step size.
      steps: of this call.
    """

    def loss(phases):
        codes = jax.lax.complex(jnp.cos(phases), jnp.sin(phases))
        errors = position_errors(problem, codes, source_signal)
        return _smooth(errors, goal, quantile), objective(errors, goal, quantile)

    def step(state, _):
        (_, value), slope = jax.value_and_grad(loss, has_aux=True)(state.phases)
        better = value < state.best_value
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        update, optimizer = _optimizer(num_steps).update(slope, state.optimizer)
        return Descent(
            state.phases + cast(Array, update),
            optimizer,
            state.step + 1,
            jnp.where(better, state.phases, state.best_phases),
            jnp.where(better, value, state.best_value),
        ), None

    return jax.lax.scan(step, descent, length=steps)[0]


class _Sweep(NamedTuple):
    codes: Complex[Array, "L N"]
    images: Complex[Array, "L GP V M"]
    grams: Complex[Array, "L GP V V"]
    total: Array  # sum over all codes


@functools.partial(jax.jit, static_argnames=("bits", "source_signal", "goal", "quantile"))
def _coordinates(problem, codes, order, *, bits, source_signal, goal, quantile):
    """Set the phases of (code, element) pairs, in turn, to the best of their levels."""
    levels = jnp.exp(2j * jnp.pi * jnp.arange(2**bits) / 2**bits).astype(codes.dtype)
    images = linear.einsum("ln,npvm->lpvm", codes, problem.responses)
    grams = grams_of(images)
    total = jnp.sum(shares(grams, source_signal), axis=0)

    def visit(index, state):
        code, element = order[index, 0], order[index, 1]
        response = problem.responses[element]
        image, gram = state.images[code], state.grams[code]
        change = levels - state.codes[code, element]
        cross = linear.einsum("pim,pjm->pij", response.conj(), image)
        steps = change[:, None, None, None]
        tried = gram + steps.conj() * cross + steps * jnp.swapaxes(cross.conj(), -1, -2)
        tried += jnp.abs(steps) ** 2 * grams_of(response)
        others = state.total - shares(gram, source_signal)
        totals = others + shares(tried, source_signal)
        errors = errors_of_total(totals, problem.level, source_signal)
        best = jnp.argmin(objective(errors, goal, quantile))
        return _Sweep(
            state.codes.at[code, element].set(levels[best]),
            state.images.at[code].add(change[best] * response),
            state.grams.at[code].set(tried[best]),
            totals[best],
        )

    return jax.lax.fori_loop(0, len(order), visit, _Sweep(codes, images, grams, total)).codes


@functools.partial(jax.jit, static_argnames=("source_signal", "goal", "quantile"))
def value_of(
    problem: DesignProblem,
    codes: Complex[Array, "L N"],
    *,
    source_signal: config_lib.SourceSignal,
    goal: Goal,
    quantile: float,
) -> Float[Array, ""]:
    """Return the objective of codes [m]."""
    return objective(position_errors(problem, codes, source_signal), goal, quantile)


def improve_quantised(
    problem: DesignProblem,
    codes: Complex[np.ndarray, "L N"],
    order: Int[np.ndarray, "C 2"],
    *,
    bits: int,
    source_signal: config_lib.SourceSignal,
    goal: Goal,
    quantile: float,
) -> Complex[np.ndarray, "L N"]:
    """Run one sweep of coordinate descent; the objective never increases.

    Args:
      problem: positions.
      codes: [L, N] of `2**bits` phases.
      order: [C, 2] code and element of each phase, in the order of the sweep.
      bits: of the phases.
      source_signal: constant or independent.
      goal: mean, worst or quantile.
      quantile: 0 to 1.

    Returns:
      [L, N] codes of the same phases; the given ones if rounding increased the objective.
    """
    options = {"source_signal": source_signal, "goal": goal, "quantile": quantile}
    value = float(value_of(problem, codes, **options))
    size = min(_COORDINATES, len(order))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        found = np.asarray(_coordinates(problem, codes, part, bits=bits, **options))
        now = float(value_of(problem, found, **options))
        if now <= value:
            codes, value = found, now
    return np.asarray(codes)
