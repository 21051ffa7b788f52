"""Advice when a device runs out of memory: smaller microbatches, as many scenes per update."""

import contextlib
from collections.abc import Iterator

import jax

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training.processes import devices

_SIGN = "RESOURCE_EXHAUSTED"  # XLA's status for device memory, at compile time and at run time


def ran_out(error: BaseException) -> bool:
    """Return whether an error means that a device or the host is out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and _SIGN in str(error)
    )


def smaller(config: config_lib.Config, num_devices: int) -> dict[str, int]:
    """Return changes for smaller microbatches with as many scenes per update and epoch.

    Args:
      config: of the run.
      num_devices: number of devices that share every microbatch evenly.

    Returns:
      Fields to change, by dotted name; empty if a microbatch cannot be smaller.
    """
    size = config.training.batch_size
    for parts in range(2, size // num_devices + 1):
        if size % (parts * num_devices) == 0:
            return {
                "training.batch_size": size // parts,
                "optimizer.accumulation": config.optimizer.accumulation * parts,
                "training.steps_per_epoch": config.training.steps_per_epoch * parts,
            }
    return {}


@contextlib.contextmanager
def advised(config: config_lib.Config, placement: devices.DevicePlacement) -> Iterator[None]:
    """Convert out-of-memory errors into one line of advice.

    Raises:
      OutOfMemoryError: memory ran out; the last checkpoint is intact.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not ran_out(error):
            raise
        changes = smaller(config, placement.mesh.size)
        flags = " ".join(f"--{name.rpartition('.')[2]}={value}" for name, value in changes.items())
        advice = (
            f"{flags} has as many scenes per update and epoch and needs less memory"
            if changes
            else "use a smaller model or more devices"
        )
        raise errors.OutOfMemoryError(
            f"out of memory on {placement} with training.batch_size={config.training.batch_size}, "
            f"optimizer.accumulation={config.optimizer.accumulation}: {advice}. If this "
            "--workdir has a checkpoint, it is intact: use a new --workdir for other settings, or "
            f"resume with the same command on a larger device; {errors.first_line(error)}"
        ) from error
