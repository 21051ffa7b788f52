"""Interrupted writing: no scene is lost or duplicated."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors, files
from ris_jax.data.records import record_format, record_writer

REQUEST = {"command": "test"}
UNITS, EACH = 4, 3


class _Killed(BaseException):
    """Simulated kill that no code handles."""


def _write(folder, config, make_scenes):
    """Write all unfinished units, with two splits each."""
    with record_writer.writing(folder, config, REQUEST) as writer:
        for number in range(UNITS):
            unit = record_format.Unit(f"unit {number}", 0)
            if unit.name not in writer.done:
                parts = {
                    "train": make_scenes(EACH, 2 * number),
                    "test": make_scenes(EACH, 2 * number + 1, False),
                }
                writer.add(unit, parts)
        if not writer.index.complete:
            writer.finish()
    return record_format.require_index(folder)


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def whole(small_config, make_scenes, tmp_path_factory):
    """Return the files of an uninterrupted writer."""
    folder = tmp_path_factory.mktemp("whole")
    _write(folder, small_config, make_scenes)
    return _contents(folder)


def test_round_trip_by_hash(small_config, make_scenes, tmp_path):
    index = _write(tmp_path, small_config, make_scenes)
    assert [index.num_scenes(split) for split in record_format.SPLITS] == [12, 0, 12]
    assert index.num_bytes == sum(p.stat().st_size for p in tmp_path.glob("*/*.npy"))
    for number, shard in enumerate(index.of_split("train")):
        written = make_scenes(EACH, 2 * number)
        read = record_format.load(tmp_path, shard, "scenes")
        assert read.tobytes() == written.scenes.tobytes()
        assert record_format.load(tmp_path, shard, "codes").tobytes() == written.codes.tobytes()
        digests = record_format.load(tmp_path, shard, "digests")
        np.testing.assert_array_equal(digests, record_format.digests_of(read))
    assert record_format.load(tmp_path, index.of_split("test")[0], "codes").shape == (EACH, 3, 6)


@pytest.mark.parametrize("moment", range(0, 2 * UNITS * 3 + UNITS + 1))
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_rename_and_started_again(
    small_config, make_scenes, whole, tmp_path, monkeypatch, moment, before
):
    """A rename makes files visible, so the writer is killed before and after each one."""
    replace, renames = os.replace, []

    def killing(source, target):
        renames.append(target)
        if len(renames) == moment + 1 and before:
            pathlib.Path(source).write_bytes(b"cut short")
            os.link(source, f"{source}.7.partial")
            raise _Killed
        replace(source, target)
        if len(renames) == moment + 1:
            raise _Killed

    monkeypatch.setattr(files.os, "replace", killing)
    with pytest.raises(_Killed):
        _write(tmp_path, small_config, make_scenes)
    monkeypatch.undo()
    if not (record_format.read_index(tmp_path) or record_format.Index({}, {})).complete:
        with pytest.raises(errors.RunError, match=r"got shards without one|unfinished"):
            record_format.require_index(tmp_path)
    _write(tmp_path, small_config, make_scenes)
    assert _contents(tmp_path) == whole


_PROGRAM = """
import sys, time, pathlib
import numpy as np
from ris_jax import config
from ris_jax.data.records import record_format, record_writer
values = {"system.rows": 2, "system.columns": 3, "system.num_antennas": 2,
          "system.num_snapshots": 3, "scene.max_sources": 2}
config = config.override(config.Config(), values)
dtype = record_format.scene_dtype(record_format.sizes_of(config))
with record_writer.writing(pathlib.Path(sys.argv[1]), config, {"command": "soak"}) as writer:
    for number in range(200):
        if str(number) not in writer.done:
            words = np.random.default_rng(number).integers(0, 250, (2, dtype.itemsize), np.uint8)
            codes = np.ones((1, 3, 6), np.complex64)
            scenes = record_format.Scenes(words.view(dtype)[:, 0], codes)
            writer.add(record_format.Unit(str(number), 0), {"train": scenes})
    if not writer.index.complete:
        writer.finish()
"""


@pytest.mark.full
def test_sigkill(tmp_path):
    """A real process is killed three times at random moments."""
    folder = tmp_path / "records"
    command = [sys.executable, "-c", _PROGRAM, str(folder)]
    for kills in range(1, 4):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            index = record_format.read_index(folder)  # complete at any moment
            if index is not None and len(index.units) >= 30 * kills:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    index = record_format.require_index(folder)
    assert sorted(int(unit.name) for unit in index.units) == list(range(200))
    digests = [record_format.load(folder, shard, "digests") for shard in index.shards]
    assert len(np.unique(np.concatenate(digests), axis=0)) == 400 == index.num_scenes("train")
    assert not list(folder.rglob(".*.partial"))


def test_existing_scenes_are_skipped(small_config, make_scenes, tmp_path):
    scenes = make_scenes(4, 0)
    with record_writer.writing(tmp_path, small_config, REQUEST) as writer:
        first = writer.add(record_format.Unit("a", 0), {"train": scenes.at(np.array([0, 1, 1]))})
        second = writer.add(record_format.Unit("b", 0), {"test": scenes})
        third = writer.add(record_format.Unit("c", 0, unusable=3), {"test": scenes})
        writer.finish()
    assert (first.scenes, first.duplicates) == (2, 1)
    assert (second.scenes, second.duplicates) == (2, 2)
    assert (third.scenes, third.duplicates, third.unusable) == (0, 4, 3)
    assert record_format.require_index(tmp_path).units == (first, second, third)


def test_a_scene_in_two_places_is_an_error(small_config, make_scenes, tmp_path):
    with record_writer.writing(tmp_path, small_config, REQUEST) as writer:
        writer.add(record_format.Unit("a", 0), {"train": make_scenes(3, 0)})
        writer.index = record_format.dataclasses.replace(
            writer.index, shards=writer.index.shards * 2
        )
        with pytest.raises(errors.RunError, match="every scene once; got 3 different ones among 6"):
            writer.finish()


def test_another_layout_is_refused(small_config, make_scenes, tmp_path):
    wide = config_lib.override(small_config, {"scene.max_sources": 4})
    with record_writer.writing(tmp_path, wide, REQUEST) as writer:
        named = r"a: need scenes of L=3, M=2, N=6, K_max=4, as those in .*; got .*K_max=2"
        with pytest.raises(errors.RunError, match=named):
            writer.add(record_format.Unit("a", 0), {"train": make_scenes(3, 0)})


def test_another_request_is_refused_and_named(small_config, make_scenes, tmp_path):
    _write(tmp_path, small_config, make_scenes)
    before = _contents(tmp_path)
    other = config_lib.override(small_config, {"scene.snr_max_db": 9.0})
    named = r"request\.seed=3 \(there None\), scene\.snr_max_db=9\.0 \(there 20\.0\)"
    with (
        pytest.raises(config_lib.ConfigError, match=named),
        record_writer.writing(tmp_path, other, {**REQUEST, "seed": 3}),
    ):
        pass
    assert _contents(tmp_path) == before


def test_a_foreign_directory_is_refused(small_config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(errors.RunError, match=r"an empty directory, or one of records; got 'thesis"),
        record_writer.writing(tmp_path, small_config, REQUEST),
    ):
        pass


def test_a_second_writer_is_refused(small_config, tmp_path):
    with (
        record_writer.writing(tmp_path, small_config, REQUEST),
        pytest.raises(errors.RunError, match="another process is writing there"),
        record_writer.writing(tmp_path, small_config, REQUEST),
    ):
        pass


@pytest.mark.parametrize(
    ("spoil", "named"),
    [("flip", "sha256: need .* cannot be continued from it"), ("lose", "cannot be read")],
)
def test_resuming_from_damage_is_refused(small_config, make_scenes, tmp_path, spoil, named):
    _write(tmp_path, small_config, make_scenes)
    path = tmp_path / "train" / "00001.digests.npy"
    content = path.read_bytes()
    path.unlink()
    if spoil == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with (
        pytest.raises(errors.RunError, match=rf"{path.name}: {named}"),
        record_writer.writing(tmp_path, small_config, REQUEST),
    ):
        pass
