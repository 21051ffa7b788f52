"""Provenance of results, and atomic files."""

import os

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.reports import provenance


def test_versions():
    found = provenance.versions()
    assert found["numpy"] == np.__version__
    assert {"python", "ris-jax", "jax", "jaxlib", "scipy"} <= found.keys()


def test_versions_without_an_installation(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] == "unknown"


def test_header_lists_changed_fields():
    config = config_lib.override(config_lib.Config(), {"training.seed": 7, "scene.max_sources": 2})
    machine, versions, seed = provenance.header(config).splitlines()
    assert "cores" in machine
    assert "jax" in versions
    assert seed.startswith("seed: 7; configuration: scene.max_sources=2 (default 5)")
    assert "the default" in provenance.header(config_lib.Config())


def test_header_omits_long_values():
    places = np.random.default_rng(0).normal(size=(20, 3)).tolist()
    config = config_lib.override(config_lib.Config(), {"system.element_positions": places})
    (*_, seed) = provenance.header(config).splitlines()
    assert seed == "seed: 0; configuration: system.element_positions given"


def test_write_is_atomic(tmp_path):
    path = tmp_path / "a.csv"
    provenance.write_whole(path, "longer than what comes next")
    provenance.write_whole(path, "é")
    assert path.read_bytes() == "é".encode()
    provenance.write_whole(path, b"\x89")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_bytes() == b"\x89"


def test_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    provenance.write_whole(path, "before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        provenance.write_whole(path, "after")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "before"


def test_require_folder(tmp_path):
    provenance.require_folder("--out", tmp_path / "new.csv")
    with pytest.raises(errors.RunError, match=r"--out: need a directory that exists; got .*none"):
        provenance.require_folder("--out", tmp_path / "none" / "new.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(errors.RunError, match=r"--out: need the name of a file; got the directory"):
        provenance.require_folder("--out", tmp_path / "folder.csv")
