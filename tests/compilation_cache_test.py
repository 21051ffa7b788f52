"""Compilation cache: location, size limit, repair, and failures without harm."""

import os
import pathlib
import subprocess
import sys

import pytest

from ris_jax import compilation_cache

_PROGRAM = """
import pathlib, sys
import ris_jax
print(ris_jax.enable_compilation_cache(*sys.argv[1:]))
import jax
import jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
)
print(float(jax.jit(lambda x: jnp.sin(x).sum())(jnp.ones(8))), len(hits))
"""


def _run(home, *arguments, **variables):
    """Run the program; return the directory, the result and the number of hits."""
    env = {name: x for name, x in os.environ.items() if not name.startswith("JAX_")}
    env |= {"XDG_CACHE_HOME": str(home / "cache"), "HOME": str(home), **variables}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    folder, result, hits = done.stdout.split()
    return None if folder == "None" else pathlib.Path(folder), float(result), int(hits)


def _entries(folder):
    return {path: path.stat().st_size for path in folder.glob("*-cache")}


def test_filled_read_and_repaired(tmp_path):
    folder, result, hits = _run(tmp_path)
    assert folder.is_relative_to(tmp_path / "cache" / "ris_jax" / "compiled")
    assert folder.stat().st_mode & 0o077 == 0
    assert compilation_cache._version("jaxlib") in folder.name
    assert hits == 0
    before = _entries(folder)
    assert before
    assert compilation_cache.contents(folder) == (len(before), sum(before.values()))
    again = _run(tmp_path)
    assert again == (folder, result, len(before))
    for number, path in enumerate(before):  # truncated, emptied, overwritten
        path.write_bytes([path.read_bytes()[:100], b"", b"not a program"][number % 3])
    assert _run(tmp_path) == (folder, result, 0)
    assert _entries(folder) == before
    assert _run(tmp_path) == again


def test_a_given_directory(tmp_path):
    for arguments, variables in (
        ([tmp_path / "mine"], {}),
        ([], {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")}),
        ([tmp_path / "mine"], {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "other")}),
    ):
        assert _run(tmp_path, *arguments, **variables)[0] == tmp_path / "mine"
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "other").exists()
    assert _entries(tmp_path / "mine")


def test_thresholds_of_the_user_are_kept(tmp_path):
    seconds = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000"}
    folder, *_ = _run(tmp_path, **seconds)
    assert not _entries(folder)


def test_an_unwritable_directory_disables_the_cache(tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    assert _run(tmp_path)[::2] == (None, 0)
    assert _run(tmp_path, tmp_path / "cache" / "below")[0] is None


@pytest.mark.full
def test_a_full_disk(small_disk, tmp_path):
    """Programs run without the cache; truncated entries are rewritten when there is room."""
    with small_disk("cache", 1 << 20) as disk:
        ballast = disk.path / "ballast"
        folder, result, _ = _run(tmp_path)
        for path in _entries(folder):
            path.unlink()
        size = os.statvfs(disk.path).f_bavail * os.statvfs(disk.path).f_frsize
        ballast.write_bytes(b"\0" * (size - 4096))
        assert _run(tmp_path)[1] == result
        ballast.unlink()
        hits = _run(tmp_path)[2]
        assert _run(tmp_path) == (folder, result, len(_entries(folder)))
        assert len(_entries(folder)) > hits


def test_prune_deletes_least_recently_used_entries(tmp_path):
    ages = {"a/old": 3, "b/older": 4, "b/new": 1, "a/newer": 0}
    for name, age in ages.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0" * 100)
        os.utime(path, (1e9 - age, 1e9 - 10))
    compilation_cache.prune(tmp_path, 1000)
    assert compilation_cache.contents(tmp_path) == (4, 400)
    compilation_cache.prune(tmp_path, 250)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"b/new", "a/newer"}
    compilation_cache.prune(tmp_path / "none", 0)


@pytest.mark.parametrize("home", ["", "relative"])
def test_no_home_directory_disables_the_cache(monkeypatch, home):
    monkeypatch.setattr(
        compilation_cache.platformdirs, "user_cache_path", lambda *_, **__: pathlib.Path(home)
    )
    assert compilation_cache._default_folder() is None
