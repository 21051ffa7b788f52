"""Processes of a distributed run: join, broadcast, synchronize, stop together.

With a single process every function returns at once.
"""

import atexit
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ris_jax import config as config_lib
from ris_jax import errors

# After this long without a heartbeat a process counts as lost, and the others stop.
_HEARTBEAT_SECONDS = 20
_SECONDS_TO_FIND_EACH_OTHER = 300
# Error texts of the collectives and of the coordination service when a process is lost.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "heartbeat", "oordination", "DEADLINE_EXCEEDED")


def is_first() -> bool:
    """Return whether this process writes the shared files: records, figures, hashes."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Wait until all processes reach this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(value: Any) -> Any:
    """Broadcast a value from the first process to all.

    Args:
      value: a JSON value; ignored in the other processes.
    """
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    letters = np.frombuffer(text or bytes(length), np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(letters)).tobytes())


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: int = _SECONDS_TO_FIND_EACH_OTHER,
) -> Iterator[None]:
    """Join the processes of a run, and leave them at the end; call it before any JAX computation.

    An exception in this context ends the process without waiting for the others, which detect it.
    If no exception arrives in time, JAX aborts the process and names the lost one in its own words.

    Args:
      coordinator: host:port of the first process. If all three are None, the cluster manager
        provides them (SLURM, Kubernetes, Open MPI, Cloud TPU).
      num_processes: number of processes of the run.
      process_id: index of this process, from 0.
      timeout_seconds: time limit for all processes to connect [s].

    Raises:
      ConfigError: the arguments are invalid, or no cluster manager was found.
      RunError: the processes did not connect, or another one was lost.
    """
    _require_whole(coordinator, num_processes, process_id)
    _connect(coordinator, num_processes, process_id, timeout_seconds)
    stops = (
        f"process {jax.process_index()} of {jax.process_count()} stops because another stopped; "
        "start all processes again with the same commands to resume from the last checkpoint"
    )
    try:
        yield
    except errors.Interrupted:  # all stop at the same point and shut down normally
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        # A normal shutdown waits for the other processes.
        atexit.register(_exit_at_once, 1)
        if not _is_loss(error):
            raise
        raise errors.RunError(f"{stops} ({errors.first_line(error)})") from error
    jax.distributed.shutdown()


def _require_whole(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Check the distributed flags."""
    given = (coordinator, num_processes, process_id)
    if coordinator is None or num_processes is None or process_id is None:
        if given != (None, None, None):
            raise config_lib.ConfigError(
                "--coordinator, --num_processes, --process_id: need all three or none; got "
                + ", ".join(map(str, given))
            )
        return
    port = coordinator.rpartition(":")[2]
    if coordinator == port or not port.isdigit():
        raise config_lib.ConfigError(f"--coordinator: need host:port; got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise config_lib.ConfigError(
            f"--process_id: need 0 <= id < --num_processes={num_processes}; got {process_id}"
        )


def _connect(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout_seconds: int
) -> None:
    """Join the other processes; the arguments are already checked."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # Explicit arguments are not mixed with detected ones.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:  # jax: "coordinator_address should be defined."
        raise config_lib.ConfigError(
            "--distributed: no job of SLURM, Kubernetes, Open MPI or Cloud TPU was found; "
            f"need --coordinator, --num_processes and --process_id ({errors.first_line(error)})"
        ) from error
    except RuntimeError as error:
        atexit.register(_exit_at_once, 1)
        where = coordinator or "the address of the cluster manager"
        raise errors.RunError(
            f"--distributed: the processes did not connect at {where} within "
            f"{timeout_seconds} s: {errors.first_line(error)}"
        ) from error


def _is_loss(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, means that another process was lost."""
    if error is None:
        return False
    raised_by_jax = isinstance(error, (RuntimeError, ValueError))
    signs = raised_by_jax and any(sign in str(error) for sign in _SIGNS_OF_LOSS)
    return signs or _is_loss(error.__cause__)


def _exit_at_once(status: int) -> None:
    """End the process without JAX's shutdown, which waits for lost processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
