"""A file is replaced whole or not at all."""

import pytest

from ris_jax import errors
from ris_jax.data import files


@pytest.fixture(name="path")
def _path(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    return path


def listing(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_whole(path):
    with files.replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        partial.write_text("new")
    assert listing(path.parent) == {"scores.csv": "new"}


def test_new_file(path):
    with files.replacing(path.with_name("map.png")) as partial:
        partial.write_text("image")
    assert listing(path.parent) == {"scores.csv": "old", "map.png": "image"}


def test_not_at_all(path):
    def halfway():
        with files.replacing(path) as partial:
            partial.write_text("ne")
            raise KeyError("halfway")

    with pytest.raises(KeyError, match="halfway"):
        halfway()
    assert listing(path.parent) == {"scores.csv": "old"}


def test_nothing_written(path):
    with pytest.raises(FileNotFoundError), files.replacing(path):
        pass
    assert listing(path.parent) == {"scores.csv": "old"}


def test_what_killed_writers_left_is_swept(tmp_path):
    (tmp_path / "train").mkdir()
    for name in (".a.npy.7.partial", "train/.b.npy.7.partial", "train/c.npy", ".d"):
        (tmp_path / name).write_text("x")
    files.sweep(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [".d", "train", "train/c.npy"]


def test_one_process_writes_at_a_time(tmp_path):
    with (
        files.exclusive(tmp_path),
        pytest.raises(errors.RunError, match=f"{tmp_path}: another process is writing there"),
        files.exclusive(tmp_path),
    ):
        pass
    with files.exclusive(tmp_path):
        pass
