"""Set-up of the whole test session: the package's environment, one compilation cache."""

import ris_jax  # noqa: F401, I001  Before jax: it sets the process's BLAS and pool threads.
import jax
import pytest


def pytest_configure(config):
    """Keeps compiled programs between runs: compiling takes most of the tests' time."""
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_programs():
    """A process may hold so many compiled programs that the next one finds no memory map."""
    yield
    jax.clear_caches()
