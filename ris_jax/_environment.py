"""Process settings that must stand before JAX loads its libraries.

Imported first by ``ris_jax/__init__.py``. A variable that the user has set is left alone.
"""

import os
import sys

# JAX calls LAPACK through SciPy's OpenBLAS, whose threads spin against each other inside every
# small matrix: one thread per call is 2-4 times faster idle and thousands of times faster loaded.
_BLAS_THREADS = "1"
# With a pool of two threads, two batched LAPACK calls of one program can each wait for the other
# on jaxlib 0.10 (`ParallelBatchMap`), for ever. XLA sizes the pool by NPROC.
_MIN_POOL_THREADS = 4


def configure_environment() -> None:
    """Sets ``OPENBLAS_NUM_THREADS`` and, on machines of few cores, ``NPROC``."""
    if "jaxlib" in sys.modules:
        return  # Too late to matter; the importing program has chosen.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", _BLAS_THREADS)
    if (os.cpu_count() or 1) < _MIN_POOL_THREADS:
        os.environ.setdefault("NPROC", str(_MIN_POOL_THREADS))
