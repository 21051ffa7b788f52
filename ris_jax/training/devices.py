"""Where arrays live: a mesh of devices, and what is split over it.

Training is data parallel: every device has all parameters and its share of each microbatch, and
XLA puts in what they have to tell each other. One device is a mesh of one: the code is the same.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ris_jax import config as config_lib

_AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh with one axis, and whether the optimizer's state is split over it, too."""

    mesh: Mesh
    shard_optimizer: bool = False

    @property
    def replicated(self) -> NamedSharding:
        """The whole of an array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """Its share of an array's first axis on every device."""
        return NamedSharding(self.mesh, PartitionSpec(_AXIS))

    def optimizer(self, shape: tuple[int, ...]) -> NamedSharding:
        """Where an array of the optimizer's state lives.

        Args:
          shape: of the array; its first axis that the devices can share evenly is split.
        """
        size = self.mesh.size
        for axis, length in enumerate(shape) if self.shard_optimizer and size > 1 else ():
            if length and length % size == 0:
                return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))
        return self.replicated

    def __str__(self) -> str:
        """The device, or how many of which kind in how many processes."""
        first = self.mesh.devices.flat[0]
        if self.mesh.size == 1:
            return str(first)
        processes = len({device.process_index for device in self.mesh.devices.flat})
        kind = f"{self.mesh.size} devices ({first.device_kind})"
        sharded = ", the optimizer's state shared out" * self.shard_optimizer
        return kind + f" of {processes} processes" * (processes > 1) + sharded


def _placement(devices: list[Any], shard_optimizer: bool) -> Placement:
    # Auto: XLA decides how what is in between is split.
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
    return Placement(mesh, shard_optimizer)


def one_device() -> Placement:
    """The first device of this process."""
    return _placement(jax.local_devices()[:1], False)


def all_devices(*, shard_optimizer: bool = False) -> Placement:
    """All devices of all processes of the run.

    Args:
      shard_optimizer: split the optimizer's state: less memory a device, more to tell each other.
    """
    return _placement(jax.devices(), shard_optimizer)


def require_shares(config: config_lib.Config, placement: Placement) -> None:
    """Checks that the devices can share a microbatch evenly.

    Raises:
      ConfigError: they cannot.
    """
    batch_size, size = config.training.batch_size, placement.mesh.size
    if batch_size % size:
        raise config_lib.ConfigError(
            f"training.batch_size: need a multiple of the {size} devices; got {batch_size}"
        )


def batch_beside(array: Any) -> NamedSharding | None:
    """How a batch is split over the devices that hold `array`; None where they are no mesh."""
    traced = isinstance(array, Tracer)
    sharding = None if traced else getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding) and _AXIS in sharding.mesh.axis_names:
        return NamedSharding(sharding.mesh, PartitionSpec(_AXIS))
    return None


def replicated_beside(sharding: NamedSharding) -> NamedSharding:
    """The whole of an array on every device of a sharding."""
    return NamedSharding(sharding.mesh, PartitionSpec())


def split(batch: Any, sharding: NamedSharding | None) -> Any:
    """A batch that is computed where it is needed; for use under `jax.jit`.

    Args:
      batch: a tree of arrays with the same first axis.
      sharding: from `batch_beside` or `Placement.batch`; None leaves the batch as it is.
    """
    return batch if sharding is None else jax.lax.with_sharding_constraint(batch, sharding)


def to_host(tree: Any) -> Any:
    """Arrays as NumPy arrays, the whole of each in every process; all processes must call it."""
    for leaf in jax.tree.leaves(tree):
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return jax.device_get(_gather(leaf.sharding.mesh)(tree))
    return jax.device_get(tree)


@functools.cache
def _gather(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
