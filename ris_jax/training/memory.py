"""A device that runs out of memory: what to ask for instead, with the same scenes an update."""

import contextlib
from collections.abc import Iterator

import jax

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training import devices

_SIGN = "RESOURCE_EXHAUSTED"  # of XLA, for memory of a device, when compiling and when running


def ran_out(error: BaseException) -> bool:
    """Whether an error is that a device or the host has no room."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and _SIGN in str(error)
    )


def smaller(config: config_lib.Config, num_devices: int) -> dict[str, int]:
    """Fewer scenes a microbatch, as many an update and an epoch; by dotted name.

    Args:
      config: of the run.
      num_devices: that share every microbatch evenly.

    Returns:
      Fields to change; empty where a microbatch is as small as it can be.
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
def advised(config: config_lib.Config, placement: devices.Placement) -> Iterator[None]:
    """Turns want of memory into one line of advice.

    Raises:
      OutOfMemoryError: there was no room; the last checkpoint is untouched.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not ran_out(error):
            raise
        changes = smaller(config, placement.mesh.size)
        flags = " ".join(f"--{name.rpartition('.')[2]}={value}" for name, value in changes.items())
        advice = (
            f"{flags} has as many scenes an update and an epoch and needs less"
            if changes
            else "a smaller model or more devices need less"
        )
        raise errors.OutOfMemoryError(
            f"out of memory on {placement} with training.batch_size={config.training.batch_size}, "
            f"optimizer.accumulation={config.optimizer.accumulation}: {advice} (in another "
            "--workdir, where this one has a checkpoint: that is intact, and the same command goes "
            f"on from it where there is more room); {errors.first_line(error)}"
        ) from error
