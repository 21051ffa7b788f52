"""Pack parameters into a few large arrays for the optimizer.

Every operation on a tree of parameters is compiled once per leaf, and Newton-Schulz once per
matrix. When packed, matrices of similar shape form a stack [n, r, c]; all other parameters form
one vector. The padding is zero and stays zero under momentum, Newton-Schulz, Adam and decay.
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
_TILE = 64  # matrices are padded to multiples of it, so that few shapes remain


class _Slot(NamedTuple):
    """Position of a parameter in the packed arrays."""

    group: str
    name: str  # of the stack of matrices, or `VECTOR`
    shape: tuple[int, ...]
    start: int  # its first matrix in the stack, or its first entry of the vector
    matrix: tuple[int, int]  # rows and columns, not more rows than columns; (0, 0) in the vector

    @property
    def size(self) -> int:
        """Number of matrices, or of entries of the vector."""
        return math.prod(self.shape[:-2] if self.name != VECTOR else self.shape)

    @property
    def transposed(self) -> bool:
        return self.shape[-2:] != self.matrix


@dataclasses.dataclass(frozen=True)
class PackedLayout:
    """Positions of a tree's parameters in its packed form."""

    slots: tuple[_Slot, ...]
    structure: Any

    def pack(self, tree: Any) -> Packed:
        """Pack a tree with the shapes of these parameters."""
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
        """Return the tree that was packed."""
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
        """Return sqrt(outputs / inputs), at least 1, for every matrix of a group, by name."""
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
    """Reshape a parameter to its part of a packed array."""
    if slot.name == VECTOR:
        return jnp.ravel(leaf)
    stack = leaf.reshape(-1, *slot.shape[-2:])
    stack = jnp.swapaxes(stack, 1, 2) if slot.transposed else stack
    missing = [(0, -length % _TILE) for length in slot.matrix]
    return jnp.pad(stack, [(0, 0), *missing])


def _vector(parts: list[Array]) -> Float[Array, "m"]:
    """Concatenate entries, padded to a length that devices divide evenly."""
    whole = jnp.concatenate(parts)
    return jnp.pad(whole, (0, -len(whole) % _TILE))


def layout(params: Any, groups: Any, *, matrices: bool) -> PackedLayout:
    """Return the packed layout of a tree of parameters.

    Args:
      params: arrays or shapes. A kernel of more than two axes is a stack of matrices.
      groups: the group of each parameter, a tree of names.
      matrices: pack kernels as matrices; otherwise all parameters go into the vectors.
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
    return PackedLayout(tuple(slots), structure)
