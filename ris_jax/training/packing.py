"""Parameters as a few large arrays, which is how the optimizer sees them.

Every operation on a tree of parameters is compiled once a leaf, and Newton-Schulz once a matrix.
Packed, matrices of about one shape are a stack [n, r, c], and all else is one vector. Zeros fill
what is left: they stay zero under momentum, Newton-Schulz, Adam and decay.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Packed = dict[str, dict[str, Any]]  # by group, then `VECTOR` and, by their shapes, `MATRICES`

VECTOR, MATRICES = "vector", "matrices"
_TILE = 64  # matrices are filled up to multiples of it, so that few shapes remain


class _Slot(NamedTuple):
    """Where a parameter is."""

    group: str
    name: str  # of the stack of matrices, or `VECTOR`
    shape: tuple[int, ...]
    start: int  # its first matrix in the stack, or its first entry of the vector
    matrix: tuple[int, int]  # rows and columns, not more rows than columns; (0, 0) in the vector

    @property
    def size(self) -> int:
        """Matrices, or entries."""
        return math.prod(self.shape[:-2] if self.name != VECTOR else self.shape)

    @property
    def transposed(self) -> bool:
        return self.shape[-2:] != self.matrix


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parameters of a tree are in its packed form."""

    slots: tuple[_Slot, ...]
    structure: Any

    def pack(self, tree: Any) -> Packed:
        """A tree with these parameters' shapes, packed."""
        parts: dict[str, dict[str, list[Array]]] = {}
        for slot, leaf in zip(self.slots, jax.tree.leaves(tree), strict=True):
            parts.setdefault(slot.group, {}).setdefault(slot.name, []).append(_placed(slot, leaf))
        return {
            group: {
                VECTOR: _vector(named.pop(VECTOR, [jnp.zeros(0)])),
                MATRICES: {name: jnp.concatenate(found) for name, found in named.items()},
            }
            for group, named in parts.items()
        }

    def unpack(self, packed: Packed) -> Any:
        """The tree that `pack` made this of."""
        leaves = []
        for slot in self.slots:
            part = packed[slot.group]
            part = part[VECTOR] if slot.name == VECTOR else part[MATRICES][slot.name]
            part = part[slot.start : slot.start + slot.size]
            if slot.name != VECTOR:
                part = part[:, : slot.matrix[0], : slot.matrix[1]]
                part = jnp.swapaxes(part, 1, 2) if slot.transposed else part
            leaves.append(part.reshape(slot.shape))
        return jax.tree.unflatten(self.structure, leaves)

    def width_factors(self, group: str) -> dict[str, Float[np.ndarray, "n 1 1"]]:
        """For every matrix of a group the root of outputs over inputs, at least 1; by name."""
        factors: dict[str, list[float]] = {}
        for slot in self.slots:
            if slot.group == group and slot.name != VECTOR:
                inputs, outputs = slot.shape[-2:]
                each = math.sqrt(max(1.0, outputs / inputs))
                factors.setdefault(slot.name, []).extend([each] * slot.size)
        return {
            name: np.array(values, np.float32)[:, None, None] for name, values in factors.items()
        }


def _placed(slot: _Slot, leaf: Array) -> Array:
    """A parameter as its part of a packed array."""
    if slot.name == VECTOR:
        return jnp.ravel(leaf)
    stack = leaf.reshape(-1, *slot.shape[-2:])
    stack = jnp.swapaxes(stack, 1, 2) if slot.transposed else stack
    missing = [(0, -length % _TILE) for length in slot.matrix]
    return jnp.pad(stack, [(0, 0), *missing])


def _vector(parts: list[Array]) -> Float[Array, "m"]:
    """Entries in a row, filled up to a length that devices can share evenly."""
    whole = jnp.concatenate(parts)
    return jnp.pad(whole, (0, -len(whole) % _TILE))


def layout(params: Any, groups: Any, *, matrices: bool) -> Layout:
    """How a tree of parameters is packed.

    Args:
      params: arrays or shapes. A kernel of more than two axes is a stack of matrices.
      groups: the group of each, a tree of names.
      matrices: whether kernels are packed as matrices; otherwise all goes into the vectors.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    used: dict[tuple[str, str], int] = {}
    slots = []
    for (path, leaf), group in zip(flat, jax.tree.leaves(groups), strict=True):
        name, matrix = VECTOR, (0, 0)
        if matrices and "kernel" in jax.tree_util.keystr(path[-2:]):
            matrix = tuple(sorted(leaf.shape[-2:]))
            name = "x".join(str(length + -length % _TILE) for length in matrix)
        slot = _Slot(group, name, leaf.shape, used.get((group, name), 0), matrix)
        used[group, name] = slot.start + slot.size
        slots.append(slot)
    return Layout(tuple(slots), structure)
