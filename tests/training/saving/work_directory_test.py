"""Work directory: one run at a time, one configuration."""

import pytest

from ris_jax import config as config_lib
from ris_jax import errors, files
from ris_jax.training import loop
from ris_jax.training.processes import distributed
from ris_jax.training.saving import checkpoint, work_directory


def _opened(config, workdir):
    with work_directory.opened(config, workdir, wait=False):
        pass


def _changed(config):
    return config_lib.override(config, {"training.batch_size": 4, "optimizer.accumulation": 2})


def test_a_second_run_is_refused(tiny_config, tmp_path):
    with (
        files.exclusive(tmp_path),
        pytest.raises(errors.RunError, match=f"^{tmp_path}: another process is writing there"),
    ):
        loop.train(tiny_config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["checkpoints", "interrupted"])
def test_another_configuration_is_allowed_without_a_checkpoint(tiny_config, tmp_path, name):
    """After an out-of-memory error the user follows the advice."""
    _opened(tiny_config, tmp_path)
    _opened(_changed(tiny_config), tmp_path)
    assert checkpoint.load_config(tmp_path) == _changed(tiny_config)
    (tmp_path / name / "1").mkdir(parents=True)
    _opened(_changed(tiny_config), tmp_path)
    named = r"accumulation=1 \(there 2\), training\.batch_size=8 \(there 4\)"
    with pytest.raises(config_lib.ConfigError, match=named):
        _opened(tiny_config, tmp_path)


def test_an_unreadable_configuration_is_kept(tiny_config, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(config_lib.ConfigError, match=r"config\.json: not JSON"):
        _opened(tiny_config, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{"


def test_processes_with_different_folders(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with pytest.raises(errors.RunError, match="need a directory shared by all processes"):
        _opened(tiny_config, tmp_path)


def test_leftovers_of_killed_writers_are_removed(tiny_config, tmp_path):
    for name in (".config.json.7.partial", ".metrics.jsonl.7.partial", ".evaluation.csv.7.partial"):
        (tmp_path / name).write_text("x")
    _opened(tiny_config, tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".evaluation.csv.7.partial", ".lock", "config.json"]  # its writer may still run
