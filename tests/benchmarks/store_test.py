"""Directory of finished cells."""

import json

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.benchmarks import store

SETTINGS = {"seed": 0, "num_scenes": 8}


def test_round_trip(tmp_path):
    with store.opened(tmp_path / "deep" / "out", SETTINGS) as where:
        path = where.path("music", {"snr": 3})
        assert where.read(path) is None
        where.write(path, {"azimuth": np.arange(3.0), "stage": "music"})
        assert path != where.path("music", {"snr": 4})
    with store.opened(tmp_path / "deep" / "out", SETTINGS) as where:
        found = where.read(where.path("music", {"snr": 3}))
    np.testing.assert_array_equal(found["azimuth"], np.arange(3.0))
    assert found["stage"].item() == "music"


def test_other_settings_are_refused(tmp_path):
    with store.opened(tmp_path, SETTINGS):
        pass
    with (
        pytest.raises(errors.RunError, match=r"num_scenes=9 \(there 8\)"),
        store.opened(tmp_path, SETTINGS | {"num_scenes": 9}),
    ):
        pass
    (tmp_path / "benchmark.json").write_text("[]")
    with pytest.raises(errors.RunError, match="settings of a benchmark"):
        store.opened(tmp_path, SETTINGS).__enter__()


def test_one_at_a_time(tmp_path):
    with (
        store.opened(tmp_path, SETTINGS),
        pytest.raises(errors.RunError, match="another process"),
        store.opened(tmp_path, SETTINGS),
    ):
        pass


def test_damage_is_named_and_temporary_files_are_removed(tmp_path):
    with store.opened(tmp_path, SETTINGS) as where:
        path = where.path("music", {})
    path.write_bytes(b"PK not a zip")
    left = path.with_name(".music.1.partial")
    left.write_bytes(b"half")
    with store.opened(tmp_path, SETTINGS) as where:
        assert not left.exists()
        with pytest.raises(errors.RunError, match=f"{path.name}: damaged.*remove it"):
            where.read(path)


def test_relevant_fields_determine_the_scenes():
    base = config_lib.Config()
    for name, value, same in (
        ("model.width", 128, True),
        ("training.epochs", 3, True),
        ("training.seed", 3, False),
        ("system.rows", 6, False),
        ("impairments.phase_error", 0.1, False),
    ):
        changed = store.relevant(config_lib.override(base, {name: value}))
        assert (changed == store.relevant(base)) == same, name
    json.dumps(store.relevant(base))
