"""The processes of a run: how they join, agree, wait for each other, and stop together.

One process is a run of its own: everything here is then immediate.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training import relay

# After this long without a word a process counts as gone, and the others stop.
_HEARTBEAT_SECONDS = 20
_SECONDS_TO_FIND_EACH_OTHER = 300
# What the collectives of each platform and the service between the processes say of a lost one.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "heartbeat", "oordination", "DEADLINE_EXCEEDED")


def is_first() -> bool:
    """Whether this is the process that writes what there is once: records, figures, hashes."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(value: Any) -> Any:
    """What the first process says, in every process.

    Args:
      value: a JSON value; of the other processes it does not count.
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
    """Joins the processes of a run and leaves them in the end; nothing of JAX may have run before.

    What goes wrong in here ends this process without waiting for the others, which notice.

    Args:
      coordinator: host:port of the first process; all None: what the cluster's manager says
        (SLURM, Kubernetes, Open MPI, Cloud TPU).
      num_processes: of the run.
      process_id: which of them this is, from 0.
      timeout_seconds: for the processes to find each other [s].

    Raises:
      ConfigError: the arguments are no such thing, or there is no manager that says.
      RunError: the processes did not find each other, or one of the others is gone.
    """
    _require_whole(coordinator, num_processes, process_id)
    _connect(coordinator, num_processes, process_id, timeout_seconds)
    stops = (
        f"process {jax.process_index()} of {jax.process_count()} stops, because another one did; "
        "the same commands go on from the last checkpoint when all are started again"
    )
    with _through_relay(stops):
        try:
            yield
        except errors.Interrupted:  # all stop at the same place, and leave in good order
            jax.distributed.shutdown()
            raise
        except BaseException as error:
            # Those who leave in good order wait for each other: not now.
            atexit.register(_leave_at_once, 1)
            if not _tells_of_loss(error):
                raise
            raise errors.RunError(f"{stops} ({errors.first_line(error)})") from error
        jax.distributed.shutdown()


def _require_whole(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Checks what the user says of the processes."""
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
    """Joins the others; the arguments have been checked."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # What is said in full is not to be mixed with what is found.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:  # jax: "coordinator_address should be defined."
        raise config_lib.ConfigError(
            "--distributed: no job of SLURM, Kubernetes, Open MPI or Cloud TPU was found here; "
            f"need --coordinator, --num_processes and --process_id ({errors.first_line(error)})"
        ) from error
    except RuntimeError as error:
        atexit.register(_leave_at_once, 1)
        where = coordinator or "the place that the cluster's manager named"
        raise errors.RunError(
            f"--distributed: the processes did not find each other at {where} within "
            f"{timeout_seconds} s: {errors.first_line(error)}"
        ) from error


@contextlib.contextmanager
def _through_relay(last_word: str) -> Iterator[None]:
    """Standard error goes through `relay` until this ends well, or the process does."""
    own = os.dup(2)
    command = [sys.executable, "-I", "-S", relay.__file__, last_word]
    reads, writes = os.pipe()
    # Its own session: Ctrl-C is for us, and what we then say must still get through.
    helper = subprocess.Popen(command, stdin=reads, start_new_session=True)
    os.dup2(writes, 2)
    os.close(reads)
    os.close(writes)
    yield
    sys.stderr.flush()
    os.dup2(own, 2)
    os.close(own)
    helper.wait()


def _tells_of_loss(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that another process is gone."""
    if error is None:
        return False
    raised_by_jax = isinstance(error, (RuntimeError, ValueError))
    return (raised_by_jax and any(sign in str(error) for sign in _SIGNS_OF_LOSS)) or _tells_of_loss(
        error.__cause__
    )


def _leave_at_once(status: int) -> None:
    """Ends the process without JAX's own goodbye, which waits for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
