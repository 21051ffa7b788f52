"""Set-up of the test session: environment of the package, one compilation cache."""

import ris_jax  # noqa: F401, I001  Before jax: it sets the process's BLAS and pool threads.
import contextlib
import os
import pathlib
import subprocess
import time

import jax
import pytest

from ris_jax import _environment
from ris_jax.training import evaluation


# XLA's older fusion emitter, and one module per program, compile three times as fast.
# XLA aborts a process with an unknown flag, so they are limited to tested versions.
_COMPILE_FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


# A process may hold 65 530 memory maps; every compiled program needs some, and memory.
_PROCESS = pathlib.Path("/proc/self")
_MOST_MAPS = 25_000
_MOST_MEMORY = 2 << 30  # [bytes] at first; freed memory mostly stays with the process
_MORE_MEMORY = 1 << 30  # [bytes] by which the process may grow until the next time


class _Room:
    """Room of this process for compiled programs."""

    most = _MOST_MEMORY

    def used(self) -> int:
        pages = int((_PROCESS / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def is_left(self) -> bool:
        """Return whether programs may be kept; False if unknown."""
        if not _PROCESS.exists():
            return False
        maps = (_PROCESS / "maps").read_bytes().count(b"\n")
        return maps < _MOST_MAPS and self.used() < self.most

    def make(self) -> None:
        """Drop all programs."""
        jax.clear_caches()
        if _PROCESS.exists():
            self.most = max(_MOST_MEMORY, self.used() + _MORE_MEMORY)


def pytest_addoption(parser):
    """Add --full, which also runs the tests outside the core layer."""
    parser.addoption(
        "--full",
        action="store_true",
        help="also run the tests marked `full`: soaks, fuzzing, notebooks, several processes, "
        "long Monte Carlo runs",
    )


def pytest_report_header(config):
    """Name the layer that runs."""
    return "layer: full" if config.getoption("--full") else "layer: core (--full adds the rest)"


def pytest_configure(config):
    """Cache compiled programs and optimise them little: compilation takes most of the time.

    `.ci/run` also trains and checks a network with all optimisations.
    """
    _environment.collect_rarely()
    if jax.__version_info__[:2] == (0, 10) and _COMPILE_FAST not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_COMPILE_FAST}".strip()
    options = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(config.cache.mkdir("jax")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # of processes that tests start


def pytest_collection_modifyitems(config, items):
    """Deselect the full layer unless --full is given; start with the longest files.

    Files with their own time limit come first, so that no worker ends with one alone.
    """
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(autouse=True, scope="session")
def _few_scenes_for_the_constant_covariance():
    """64 scenes instead of 2048: small runs have batches of eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "CONSTANT_SCENES", 64)
        yield


@pytest.fixture(scope="session")
def _room():
    """Return the room of this worker."""
    return _Room()


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_programs(_room):
    """Keep compiled programs for the next module while there is room."""
    yield
    if not _room.is_left():
        _room.make()


class Disk:
    """File system in memory."""

    def __init__(self, path: pathlib.Path, size: int):
        self.path = path
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def resize(self, size: int) -> None:
        """Change the size."""
        self._run("mount", "-o", f"remount,size={size}", str(self.path))

    def unmount(self) -> None:
        """Unmount; a thread of a storage layer may hold a file for a short time."""
        for _ in range(50):
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._run("umount", str(self.path))
            time.sleep(0.1)
        self._run("umount", "-l", str(self.path))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system with a name and a size [bytes]; skip if that is not permitted."""

    @contextlib.contextmanager
    def mounted(name: str, size: int):
        path = tmp_path / name
        path.mkdir()
        try:
            disk = Disk(path, size)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a tmpfs cannot be mounted here: {error}")
        try:
            yield disk
        finally:
            disk.unmount()

    return mounted
