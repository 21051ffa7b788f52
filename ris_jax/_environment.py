"""Process settings that must be made before JAX starts its CPU backend.

Set by ``ris_jax/__init__.py``; import `ris_jax` before `jax`. Variables that the user has set are
not changed.
"""

import gc
import os
import re

# JAX calls LAPACK through SciPy's OpenBLAS, whose threads compete inside every small matrix. One
# thread per call is 2-4 times faster on an idle machine and thousands of times on a loaded one.
# OpenBLAS reads the variable when JAX loads it.
_BLAS_THREADS = "1"
# With a pool of two threads, two batched LAPACK calls of one program can deadlock on jaxlib 0.10
# (`ParallelBatchMap`). XLA sizes the pool by NPROC at its first use.
_MIN_POOL_THREADS = 4
# Devices that XLA emulates on one processor also wait for each other on threads of that pool.
_THREADS_A_FAKE_DEVICE = 3
# Variables that this module has set, not the user.
_chosen: set[str] = set()
_FAKE_DEVICES = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def configure_environment() -> None:
    """Set ``OPENBLAS_NUM_THREADS`` and, on machines with few cores, ``NPROC``."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", _BLAS_THREADS)
    fake = _FAKE_DEVICES.findall(os.environ.get("XLA_FLAGS", ""))
    threads = max([_MIN_POOL_THREADS, *(_THREADS_A_FAKE_DEVICE * int(number) for number in fake)])
    if available_cores() < threads and "NPROC" not in os.environ:
        os.environ["NPROC"] = str(threads)
        _chosen.add("NPROC")


def use_one_thread() -> None:
    """Run programs on a CPU in one thread, if JAX has not used it yet and the user has set none.

    For programs of many small operations without LAPACK calls: they wait for other threads longer
    than these help. A LAPACK call that waits for a thread of the pool would wait for ever.
    """
    if "NPROC" not in os.environ or "NPROC" in _chosen:
        os.environ["NPROC"] = "1"


def silence_xla() -> None:
    """Keep XLA's own log off standard error, if JAX is not imported yet.

    XLA logs a compilation of two minutes as an error ("Very slow compile?"), and a device that
    waits for another. Relevant failures reach Python as exceptions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def collect_rarely() -> None:
    """Look for reference cycles after 100 000 new objects; Python's default is 700 or 2000.

    Tracing creates many objects that stay, and the searches take 8 % of the CPU time of a start.
    """
    gc.set_threshold(100_000, 10, 10)
