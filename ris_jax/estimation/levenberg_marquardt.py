r"""Levenberg-Marquardt ascent within a box, for many small problems at once."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ris_jax.physics import linear

_FIRST_DAMPING = 1e-2
_DAMPING_DOWN, _DAMPING_UP = 0.2, 6.0


class Local(Protocol):
    """Values that a function returns at a point."""

    @property
    def value(self) -> Float[Array, ""]: ...
    @property
    def gradient(self) -> Float[Array, "n"]: ...
    @property
    def curvature(self) -> Float[Array, "n n"]: ...


LocalT = TypeVar("LocalT", bound=Local)


def step(
    point: Float[Array, "n"],
    local: Local,
    damping: Float[Array, ""],
    lower: Float[Array, "n"],
    upper: Float[Array, "n"],
) -> Float[Array, "n"]:
    """Take one damped step; coordinates at a limit that would leave the box are held.

    Marquardt, *An algorithm for least-squares estimation of nonlinear parameters*, SIAM J. 11(2),
    1963: the damping is relative to the diagonal of the curvature.
    """
    outward = ((point <= lower) & (local.gradient < 0)) | ((point >= upper) & (local.gradient > 0))
    diagonal = linear.diagonal(local.curvature)
    free = ~outward & (diagonal > 0)
    scale = jnp.where(free, jax.lax.rsqrt(jnp.where(free, diagonal, 1.0)), 0.0)
    identity = jnp.eye(point.shape[-1], dtype=point.dtype)
    scaled = local.curvature * scale[:, None] * scale
    scaled = jnp.where(free[:, None] & free, scaled, identity) + damping * identity
    move = linear.solve_positive(scaled, (local.gradient * scale)[:, None])[:, 0] * scale
    return jnp.clip(point + move, lower, upper)


def ascend(
    evaluate: Callable[[Float[Array, "n"]], tuple[LocalT, Any]],
    start: Float[Array, "n"],
    lower: Float[Array, "n"],
    upper: Float[Array, "n"],
    iterations: int | Int[Array, ""],
    most: Int[Array, ""] | None = None,
) -> tuple[Float[Array, "n"], LocalT, Any]:
    """Maximise from `start`; a step without increase is rejected and raises the damping.

    The loop contains the only evaluation; its first round evaluates the start. A compiled program
    contains the evaluation once, which is most of its code.

    Args:
      evaluate: the function at a point: value, gradient, positive semidefinite curvature (in the
        same scale), and anything else that belongs to the point.
      start: [n], within the box.
      lower: [n].
      upper: [n].
      iterations: evaluations after the first. An array makes one program for any number, without
        reverse-mode derivatives.
      most: maximum steps of this problem, if it shares `iterations` with others.

    Returns:
      The best point, the function there, and its additional values.
    """

    def body(number, carry):
        point, damping, best = carry
        # Without curvature, as before the first evaluation, a step has length zero.
        candidate = step(point, best[0], damping, lower, upper)
        found = evaluate(candidate)
        better = (found[0].value > best[0].value) & jnp.isfinite(found[0].value)
        if most is not None:
            better &= number <= most
        better |= number == 0
        point, best = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), (candidate, found), (point, best)
        )
        damping = jnp.where(better, damping * _DAMPING_DOWN, damping * _DAMPING_UP)
        return point, damping, best

    nothing = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(evaluate, start)
    )
    damping = jnp.asarray(_FIRST_DAMPING / _DAMPING_DOWN, start.dtype)
    first = start, damping, nothing
    point, _, (local, extra) = jax.lax.fori_loop(0, iterations + 1, body, first)
    return point, local, extra
