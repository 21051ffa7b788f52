"""Atomic replacement of files, and locks of directories."""

import errno
import threading
import time

import numpy as np
import pytest

from ris_jax import errors, files


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


def test_unchanged_after_an_exception(path):
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


@pytest.mark.parametrize("how", ["numpy", "text"])
def test_a_full_disk_is_reported_with_the_name_of_the_file(small_disk, how):
    with small_disk("disk", 64 << 10) as disk:
        path = disk.path / "scores.npy"
        path.write_text("old")

        def write():
            with files.replacing(path) as partial, partial.open("wb") as file:
                if how == "numpy":  # NumPy reports the number of bytes without the reason
                    np.save(file, np.zeros(1 << 15))
                else:
                    file.write(bytes(1 << 18))

        with pytest.raises(OSError, match="No space left on device") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC
        assert files.described(caught.value) == (
            f"{path}: No space left on device; make room and give the same command again"
        )
        assert listing(disk.path) == {"scores.npy": "old"}
        disk.resize(1 << 20)
        write()
        assert path.stat().st_size >= 1 << 18


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("no reason"), "no reason"),
        (OSError(errno.EACCES, "Permission denied", "a.csv"), "a.csv: Permission denied"),
        (OSError(errno.EDQUOT, "Quota"), "Quota; make room and give the same command again"),
    ],
)
def test_descriptions_of_errors(error, text):
    assert files.described(error) == text


def test_an_error_without_a_reason_keeps_its_text(path):
    def halfway():
        with files.replacing(path) as partial:
            partial.write_text("x")
            raise OSError("one half")

    with pytest.raises(OSError, match=rf"one half.*{path.name}"):
        halfway()


def test_sweep_removes_files_of_killed_writers(tmp_path):
    (tmp_path / "train").mkdir()
    for name in (".a.npy.7.partial", "train/.b.npy.7.partial", "train/c.npy", ".d"):
        (tmp_path / name).write_text("x")

    def left():
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))

    files.sweep(tmp_path, "b.npy")
    assert left() == [".a.npy.7.partial", ".d", "train", "train/c.npy"]
    files.sweep(tmp_path)
    assert left() == [".d", "train", "train/c.npy"]


def test_one_process_writes_at_a_time(tmp_path):
    with (
        files.exclusive(tmp_path),
        pytest.raises(errors.RunError, match=f"{tmp_path}: another process is writing there"),
        files.exclusive(tmp_path),
    ):
        pass
    with files.exclusive(tmp_path):
        pass


def test_waits_for_the_other_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "_SECONDS_BETWEEN_ATTEMPTS", 0.01)
    entered = []

    def wait():
        with files.exclusive(tmp_path, wait=True):
            entered.append(True)

    with files.exclusive(tmp_path):
        other = threading.Thread(target=wait)
        other.start()
        time.sleep(0.2)
        assert not entered
    other.join(30.0)
    assert entered
    assert capsys.readouterr().out == f"waiting for another process that writes to {tmp_path}\n"
