"""Batches of a few fixed sizes, so that a process compiles few programs.

A batch is split into parts and each part filled up to one of `SIZES`. Scenes that fill up have no
snapshots and no sources: the search leaves them at once, and they are cut off again.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int

from ris_jax import scenes

SIZES = (1, 8, 64)

Result = TypeVar("Result")
Counts = Int[Array, "B"] | None


def in_sizes(
    compute: Callable[[scenes.Measurement, Counts], Result],
    measurement: scenes.Measurement,
    counts: Any,
) -> Result:
    """Apply a function of a batch to parts of it, each of a size in `SIZES`.

    While `jax` traces, sizes are those of the caller's program: the function is called as it is.

    Args:
      compute: of a measurement [S, ...] and counts [S] or None; returns arrays [S, ...].
      measurement: [B, ...].
      counts: [B], one number for all, or None.

    Returns:
      Arrays [B, ...].
    """
    total = len(measurement.snapshots)
    if counts is not None:
        counts = jnp.broadcast_to(jnp.asarray(counts, jnp.int32), (total,))
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((measurement, counts)))
    if traced or total in SIZES:
        return compute(measurement, counts)
    parts = []
    for start in range(0, total, SIZES[-1]):
        part = jax.tree.map(lambda leaf, s=start: leaf[s : s + SIZES[-1]], (measurement, counts))
        size = next(size for size in SIZES if size >= len(part[0].snapshots))
        parts.append(compute(*_filled_up(*part, size)))
    return _joined(parts, total)


@functools.partial(jax.jit, static_argnames="size")
def _filled_up(
    measurement: scenes.Measurement, counts: Counts, size: int
) -> tuple[scenes.Measurement, Counts]:
    """A part with silent copies of its last scene up to a size."""
    number = jnp.arange(size)
    count = len(measurement.snapshots)
    there = number < count
    filled, counts = jax.tree.map(
        lambda leaf: leaf[jnp.minimum(number, count - 1)], (measurement, counts)
    )
    silent = jnp.where(there[:, None, None], filled.snapshots, 0.0)
    counts = None if counts is None else jnp.where(there, counts, 0)
    return filled._replace(snapshots=silent), counts


@functools.partial(jax.jit, static_argnames="total")
def _joined(parts: list[Any], total: int) -> Any:
    """Parts one after the other, without what filled up the last."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:total], *parts)
