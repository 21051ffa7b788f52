"""Floating-point operations and bytes of a compiled function, and the peak rates of a machine.

The compiler's count (`compiled.cost_analysis()`) counts the body of a loop once, for any number of
iterations, and a complex product as a real one. Matrix products are therefore also counted in the
program before compilation, with loops of known length unrolled; the larger count is used. Loops of
data-dependent length count once there too, which gives a lower bound. For the likelihood's search,
`search_operations` counts from the number of sources found.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ris_jax import config as config_lib
from ris_jax.estimation import candidate_search, matching_pursuit

_MATRIX = 1536
_COPIED = 2**25  # float32 numbers, 128 MiB: more than caches hold


class Cost(NamedTuple):
    """Cost of one call."""

    operations: float
    bytes_moved: float  # the compiler's count; loops count once


def cost(function: Callable[..., Any], compiled: Any, *arguments: Any) -> Cost:
    """Return the cost of a call.

    Args:
      function: before compilation, jitted or not.
      compiled: the same function, compiled.
      *arguments: with the shapes that it was compiled for.
    """
    analysis = compiled.cost_analysis() or {}
    products = product_operations(jax.make_jaxpr(function)(*arguments).jaxpr)
    return Cost(max(float(analysis.get("flops", 0.0)), products),
                float(analysis.get("bytes accessed", np.nan)))  # fmt: skip


def product_operations(jaxpr: Any) -> float:
    """Count operations of matrix products: 2 for a real multiply-add, 8 for a complex one."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (variable.aval for variable in equation.invars)
            contracted = [left.shape[axis] for axis in equation.params["dimension_numbers"][0][0]]
            parts = 2.0
            for dtype in (left.dtype, right.dtype):
                parts *= 2.0 if jnp.issubdtype(dtype, jnp.complexfloating) else 1.0
            total += parts * math.prod(equation.outvars[0].aval.shape) * math.prod(contracted)
            continue
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = [product_operations(part) for part in _programs(equation.params)]
        # Only one branch of a conditional runs.
        total += times * (max(inner) if equation.primitive.name == "cond" else sum(inner))
    return total


def _programs(params: dict[str, Any]) -> list[Any]:
    """Return the programs inside an equation."""
    found = []
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                found.append(part.jaxpr)
            elif isinstance(part, core.Jaxpr):
                found.append(part)
    return found


def search_operations(
    config: config_lib.Config, options: matching_pursuit.SearchOptions, num_found: float
) -> float:
    """Count matrix-product operations of a scene in the likelihood's search.

    The count has steering vectors through the operator, and the grid. Growing takes one round more
    than there are sources (at most K_max). Improving takes one round, without the changes that only
    some scenes refine. Removing sources, which only ambiguous scenes need, is not counted.

    Args:
      config: array and maximum number of sources.
      options: grid, not None, and iterations.
      num_found: mean number of sources of a scene.
    """
    system = config.system
    most = config.scene.max_sources
    constant = system.source_signal == "constant"
    elements, rows = system.num_elements, system.num_snapshots * system.num_antennas
    through = 8.0 * elements * (min(elements, rows) if constant else rows)
    assert options.grid is not None
    matched = 8.0 * elements * math.prod(options.grid) * (1 if constant else system.num_snapshots)
    joint = 4 * most
    rounds = min(num_found + 1.0, most)
    place = 4 * options.candidates
    grow = place + joint * (options.joint_iterations + 1)
    # Two vectors for each pair of `candidate_search.propose_pair`.
    pairs = num_found * (place + 2 * candidate_search.PAIRS)
    improve = pairs + joint * (options.final_iterations + 1)
    return float((rounds * grow + improve) * through + (rounds + num_found) * matched)


class Timing(NamedTuple):
    """Times of repeated calls, without the first one."""

    seconds: np.ndarray  # of each call, wall clock
    core_seconds: float  # mean processor time of a call, over all cores


def timed(call: Callable[[], Any], seconds: float, least: int = 3) -> Timing:
    """Time a call for so many seconds, and at least `least` times."""
    jax.block_until_ready(call())
    spent, began, worked = [], time.perf_counter(), time.process_time()
    while len(spent) < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - start)
    return Timing(np.asarray(spent), (time.process_time() - worked) / len(spent))


class Ceilings(NamedTuple):
    """Measured peak rates of the machine."""

    operations: float  # per second, of a large float32 matrix product
    bytes_per_second: float  # read and written by a large copy


def ceilings(seconds: float) -> Ceilings:
    """Measure both rates: the best of the calls that fit into so many seconds each."""
    matrix, many = jnp.ones((_MATRIX, _MATRIX)), jnp.ones(_COPIED)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1.0)
    best = [float(timed(lambda f=f, a=a: f(a), seconds).seconds.min())
            for f, a in ((product, matrix), (copy, many))]  # fmt: skip
    return Ceilings(2.0 * _MATRIX**3 / best[0], 8.0 * _COPIED / best[1])
