"""Parts of a batch: of a few fixed sizes for few programs, or of one size for flat memory.

`in_sizes` splits a batch into parts and pads each part to one of `SIZES`. The padding has no signal
and no sources, so that the search skips it, and is cut off again.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from ris_jax import config as config_lib
from ris_jax.physics import scenes

SIZES = (1, 8, 64)
CHUNK = 64  # scenes that are on the device at a time, unless the caller gives a number
# Bytes that the observation operators of one part may take.
_PART_BYTES = 1 << 29

Result = TypeVar("Result")
Counts = Int[Array, "B"] | None


def largest(measurement: scenes.Measurement, source_signal: config_lib.SourceSignal) -> int:
    """Largest of `SIZES` whose observation operators fit into memory; any if scenes share one."""
    if len(measurement.channel) == len(measurement.codes) == 1:
        return SIZES[-1]
    (length, antennas), elements = measurement.snapshots.shape[1:], measurement.channel.shape[-1]
    samples = length * antennas
    rows = min(elements, samples) if source_signal == "constant" else samples
    room = _PART_BYTES // (8 * elements * rows)
    return max((size for size in SIZES if size <= room), default=1)


def in_sizes(
    compute: Callable[[scenes.Measurement, Counts], Result],
    measurement: scenes.Measurement,
    counts: Any,
    *,
    largest: int = SIZES[-1],
) -> Result:
    """Apply a function of a batch to parts of it, each of a size in `SIZES`.

    While JAX traces, sizes are those of the caller's program: the function gets the whole batch.

    Args:
      compute: of a measurement [S, ...] and counts [S] or None; returns arrays [S, ...].
      measurement: [B, ...]; channel and codes may be [1, ...], shared by all scenes.
      counts: [B], one number for all, or None.
      largest: of `SIZES` that is used.

    Returns:
      Arrays [B, ...].
    """
    total = len(measurement.snapshots)
    if counts is not None:
        counts = jnp.broadcast_to(jnp.asarray(counts, jnp.int32), (total,))
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((measurement, counts)))
    if traced or (total in SIZES and total <= largest):
        return compute(measurement, counts)
    parts = []
    for start in range(0, total, largest):
        part = jax.tree.map(
            lambda leaf, s=start: leaf if len(leaf) == 1 else leaf[s : s + largest],
            (measurement, counts),
        )
        size = next(size for size in SIZES if size >= len(part[0].snapshots))
        parts.append(compute(*_padded(*part, size)))
    return _joined(parts, total)


@functools.partial(jax.jit, static_argnames="size")
def _padded(
    measurement: scenes.Measurement, counts: Counts, size: int
) -> tuple[scenes.Measurement, Counts]:
    """Pad a part with zero-signal copies of its last scene; shared arrays are unchanged."""
    number = jnp.arange(size)
    count = len(measurement.snapshots)
    there = number < count
    padded, counts = jax.tree.map(
        lambda leaf: leaf if len(leaf) < count else leaf[jnp.minimum(number, count - 1)],
        (measurement, counts),
    )
    there_or_not = jnp.expand_dims(there, range(1, padded.snapshots.ndim))
    silent = jnp.where(there_or_not, padded.snapshots, 0.0)
    counts = None if counts is None else jnp.where(there, counts, 0)
    return padded._replace(snapshots=silent), counts


@functools.partial(jax.jit, static_argnames="total")
def _joined(parts: list[Any], total: int) -> Any:
    """Concatenate parts without the padding."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:total], *parts)


def per_scene(num_sources: Any) -> Int[np.ndarray, "B"] | None:
    """Return the numbers of sources of each scene; None if all have the same, or it is unknown."""
    each = num_sources is not None and np.ndim(num_sources) == 1
    return np.asarray(num_sources) if each else None


def in_chunks(
    compute: Callable[[Any], Any],
    batch: Any,
    *,
    chunk_size: int = CHUNK,
    equal: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> Any:
    """Apply a function to equal parts of a batch, with one compilation.

    The last part is padded with its last scene; the padding is dropped.

    Args:
      compute: takes and returns pytrees of arrays [chunk, ...].
      batch: a pytree of arrays [B, ...], B at least 1.
      chunk_size: scenes per part, at most B.
      equal: False does not pad the last part.
      progress: called with the number of scenes of each finished part.

    Returns:
      The results of `compute`, [B, ...], as NumPy arrays.

    Raises:
      ValueError: no scenes, or a chunk size below 1.
    """
    total = len(jax.tree.leaves(batch)[0])
    if total < 1 or chunk_size < 1:
        raise ValueError(f"need scenes and chunk_size >= 1; got {total} and {chunk_size}")
    size = min(chunk_size, total)
    parts = []
    for start in range(0, total, size):
        chosen = start + np.arange(size if equal else min(size, total - start))
        chosen = np.minimum(chosen, total - 1)
        part = jax.device_get(compute(jax.tree.map(lambda leaf, c=chosen: leaf[c], batch)))
        count = min(size, total - start)
        parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], part))
        if progress is not None:
            progress(count)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
