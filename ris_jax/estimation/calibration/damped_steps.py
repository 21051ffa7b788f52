"""Damped Gauss-Newton steps on a residual, for unknowns of any form."""

from collections.abc import Callable
from typing import Any, TypeVar

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-12, 1e6

PointT = TypeVar("PointT")


def minimise(
    start: PointT,
    equations: Callable[[PointT], Any],
    step: Callable[[PointT, Any, float], PointT],
    residual: Callable[[PointT], float],
    *,
    most_steps: int,
    converged: float,
) -> PointT:
    """Minimise a residual; a step that raises it is repeated with ten times the damping.

    Args:
      start: unknowns.
      equations: normal equations at a point.
      step: the next point, from a point, its equations and a damping.
      residual: to minimise; infinite at a point that is not allowed.
      most_steps: maximum number of steps.
      converged: end if a step reduces the residual by less than this fraction.
    """
    point, before, damping = start, residual(start), _FIRST_DAMPING
    for _ in range(most_steps):
        found = equations(point)
        while True:
            trial = step(point, found, damping)
            after = residual(trial)
            if after <= before:
                break
            damping *= 10
            if damping > _MOST_DAMPING:
                return point
        point, gained, before = trial, before - after, after
        damping = max(damping / 10, _LEAST_DAMPING)
        if gained <= converged * before:
            break
    return point
