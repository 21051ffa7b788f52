r"""Smallest number of codes or antennas that reaches a position error bound.

With the first l codes of a set, or the first m antennas of a channel, the Gram matrices of
`code_design` are partial sums. One program therefore gives the objective for every number. At a
fixed transmit power per code, it never increases with the number: every code and every antenna adds
information.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import code_design
from ris_jax.accuracy.code_design import DesignProblem, Goal
from ris_jax.physics import linear

_STATIC = ("source_signal", "goal", "quantile")


def first_antennas(problem: DesignProblem, count: int) -> DesignProblem:
    """Return the problem of the first antennas, at the same transmit power and noise.

    Raises:
      ValueError: there are not as many.
    """
    available = problem.responses.shape[-1]
    if not 1 <= count <= available:
        raise ValueError(f"count: need 1 to {available} antennas; got {count}")
    return problem._replace(responses=problem.responses[..., :count])


@functools.partial(jax.jit, static_argnames=_STATIC)
def objective_by_codes(
    problem: DesignProblem,
    codes: Complex[Array, "L N"],
    *,
    source_signal: config_lib.SourceSignal,
    goal: Goal,
    quantile: float,
) -> Float[Array, "L"]:
    """Return the objective [m] of the first 1, 2, ... L codes, each at the same transmit power.

    Args:
      problem: positions.
      codes: [L, N].
      source_signal: constant or independent.
      goal: mean, worst or quantile of the position error bound.
      quantile: 0 to 1.
    """

    def add(total, code):
        image = linear.einsum("n,npvm->pvm", code, problem.responses)
        total = total + code_design.shares(code_design.grams_of(image), source_signal)
        errors = code_design.errors_of_total(total, problem.level, source_signal)
        return total, code_design.objective(errors, goal, quantile)

    return jax.lax.scan(add, _zero(problem, source_signal), codes)[1]


@functools.partial(jax.jit, static_argnames=_STATIC)
def objective_by_antennas(
    problem: DesignProblem,
    codes: Complex[Array, "L N"],
    *,
    source_signal: config_lib.SourceSignal,
    goal: Goal,
    quantile: float,
) -> Float[Array, "M"]:
    """Return the objective [m] with the first 1, 2, ... M antennas; see `objective_by_codes`."""
    independent = source_signal == "independent"

    def add(grams, antenna):
        images = linear.einsum("ln,npv->lpv", codes, antenna)
        new = images.conj()[..., :, None] * images[..., None, :]
        grams = grams + (new if independent else jnp.sum(new, axis=0, keepdims=True))
        total = jnp.sum(code_design.shares(grams, source_signal), axis=0)
        errors = code_design.errors_of_total(total, problem.level, source_signal)
        return grams, code_design.objective(errors, goal, quantile)

    zero = _zero(problem, "constant")
    start = jnp.broadcast_to(zero, (len(codes) if independent else 1, *zero.shape))
    return jax.lax.scan(add, start, jnp.moveaxis(problem.responses, -1, 0))[1]


def _zero(problem: DesignProblem, source_signal: config_lib.SourceSignal) -> Array:
    """Return the sum over no codes: Gram matrices, or information."""
    count, kind = len(problem.level), problem.responses.dtype
    if source_signal == "constant":
        return jnp.zeros((count, 4, 4), kind)
    return jnp.zeros((count, 3, 3), problem.level.dtype)


def smallest(reaches: Callable[[int], bool], most: int, guess: int | None = None) -> int | None:
    """Find the smallest number that reaches a target, if larger ones reach it as well.

    The result has been tested, and so has the number below it.

    Args:
      reaches: test of a number of 1 or more.
      most: largest number to test.
      guess: number to start from; default `most`.

    Returns:
      The number, or None if `most` does not reach the target.
    """
    low, high = 0, most if guess is None else guess
    while not reaches(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
