"""Placement of arrays: a mesh of devices, and the arrays that are split over it.

Training is data parallel: every device holds all parameters and its part of each microbatch.
XLA inserts the communication. One device is a mesh of size one, with the same code.
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
class DevicePlacement:
    """A mesh with one axis; optionally the optimizer state is split over it as well."""

    mesh: Mesh
    shard_optimizer: bool = False

    @property
    def replicated(self) -> NamedSharding:
        """Sharding with a full copy of the array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """Sharding that splits the first axis of an array over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(_AXIS))

    def optimizer(self, shape: tuple[int, ...]) -> NamedSharding:
        """Return the sharding of an array of the optimizer state.

        Args:
          shape: of the array. Its first axis that the devices divide evenly is split.
        """
        size = self.mesh.size
        for axis, length in enumerate(shape) if self.shard_optimizer and size > 1 else ():
            if length and length % size == 0:
                return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))
        return self.replicated

    def __str__(self) -> str:
        """Return the device, or the number of devices, their kind and the number of processes."""
        first = self.mesh.devices.flat[0]
        if self.mesh.size == 1:
            return str(first)
        processes = len({device.process_index for device in self.mesh.devices.flat})
        kind = f"{self.mesh.size} devices ({first.device_kind})"
        sharded = ", optimizer state sharded" * self.shard_optimizer
        return kind + f" of {processes} processes" * (processes > 1) + sharded


def _placement(devices: list[Any], shard_optimizer: bool) -> DevicePlacement:
    # Auto: XLA decides how intermediate arrays are split.
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
    return DevicePlacement(mesh, shard_optimizer)


def one_device() -> DevicePlacement:
    """Return a placement on the first device of this process."""
    return _placement(jax.local_devices()[:1], False)


def all_devices(*, shard_optimizer: bool = False) -> DevicePlacement:
    """Return a placement on all devices of all processes of the run.

    Args:
      shard_optimizer: split the optimizer state: less memory per device, more communication.
    """
    return _placement(jax.devices(), shard_optimizer)


def require_shares(config: config_lib.Config, placement: DevicePlacement) -> None:
    """Check that the devices divide a microbatch evenly.

    Raises:
      ConfigError: they do not.
    """
    batch_size, size = config.training.batch_size, placement.mesh.size
    if batch_size % size:
        raise config_lib.ConfigError(
            f"training.batch_size: need a multiple of the {size} devices; got {batch_size}"
        )


def batch_beside(array: Any) -> NamedSharding | None:
    """Return the batch sharding over the devices that hold `array`; None without a mesh."""
    traced = isinstance(array, Tracer)
    sharding = None if traced else getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding) and _AXIS in sharding.mesh.axis_names:
        return NamedSharding(sharding.mesh, PartitionSpec(_AXIS))
    return None


def replicated_beside(sharding: NamedSharding) -> NamedSharding:
    """Return the replicated sharding over the devices of a sharding."""
    return NamedSharding(sharding.mesh, PartitionSpec())


def split(batch: Any, sharding: NamedSharding | None) -> Any:
    """Constrain a batch to a sharding; for use under `jax.jit`.

    Args:
      batch: a tree of arrays with the same first axis.
      sharding: from `batch_beside` or `DevicePlacement.batch`; None leaves the batch as it is.
    """
    return batch if sharding is None else jax.lax.with_sharding_constraint(batch, sharding)


def to_host(tree: Any) -> Any:
    """Return all arrays in full as NumPy arrays; every process must call this."""
    for leaf in jax.tree.leaves(tree):
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return jax.device_get(_gather(leaf.sharding.mesh)(tree))
    return jax.device_get(tree)


@functools.cache
def _gather(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
