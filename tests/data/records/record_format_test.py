"""Index of records: content, and detection of damage."""

import contextlib
import json

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_format, record_writer


@pytest.fixture(name="folder")
def _folder(small_config, make_scenes, tmp_path):
    with record_writer.writing(tmp_path, small_config, {"command": "test"}) as writer:
        writer.add(record_format.Unit("a", 0), {"train": make_scenes(5, 0)})
        writer.finish()
    return tmp_path


def _rewrite(folder, **changes):
    """Rewrite the index with other values and their checksum."""
    path = folder / "index.json"
    values = json.loads(path.read_text()) | changes
    del values["sha256"]
    path.write_text(json.dumps(values | {"sha256": record_format._checksum(values)}))


def test_round_trip(folder, small_config):
    index = record_format.require_index(folder)
    assert record_format.stored_config(
        record_format.configuration(index)
    ) == record_format.stored_config(small_config)
    assert (index.num_scenes("train"), index.num_scenes("test")) == (5, 0)
    record_format.write_index(folder, index)
    assert record_format.read_index(folder) == index


def test_records_of_version_1_keep_their_meaning(folder, small_config):
    """Their spherical waves have equal modulus on all elements."""
    new = record_format.require_index(folder)
    assert new.config["system"]["wavefront"] == "spherical"
    _rewrite(folder, version=1)
    old = record_format.require_index(folder)
    assert record_format.configuration(old).system.wavefront == "spherical_phase"
    # Runs that use them can resume: the identity is that of version 1.
    assert record_format.identity(old, old.shards) == record_format.identity(new, new.shards)
    with (
        pytest.raises(
            config_lib.ConfigError,
            match=r"system\.wavefront='spherical' \(there 'spherical_phase'\)",
        ),
        record_writer.writing(folder, small_config, {"command": "test"}),
    ):
        pass
    same = config_lib.override(small_config, {"system.wavefront": "spherical_phase"})
    with record_writer.writing(folder, same, {"command": "test"}) as writer:
        writer.finish()
    assert json.loads((folder / "index.json").read_text())["version"] == 2
    assert record_format.require_index(folder) == old


@pytest.mark.parametrize(
    ("name", "written", "got"),
    [
        ("x", [], "got nothing of that name; `ris-jax simulate` and"),
        ("x", ["x/"], "got an empty directory$"),
        (
            "x.npz",
            ["x.npz"],
            "got a file of recordings, which `ris-jax import` converts to records$",
        ),
        ("x.h5", ["x.h5"], "got a file of recordings, which `ris-jax import` converts to records$"),
        ("x.txt", ["x.txt"], "got a file$"),
        ("x", ["x/", "x/a.npz"], "got a directory of .npz files, which `ris-jax import`"),
        ("x", ["x/", "x/a.txt"], "got a directory of other files$"),
        ("x", ["x/", "x/train/"], "got shards without one: give the command .* again$"),
    ],
)
def test_path_without_records(tmp_path, name, written, got):
    for entry in written:
        path = tmp_path / entry
        path.mkdir() if entry.endswith("/") else path.write_bytes(b"x")
    with pytest.raises(errors.RunError, match=rf"{name}: need a directory of records, .* {got}"):
        record_format.require_index(tmp_path / name)


def test_every_flipped_bit_of_the_index_is_detected(folder):
    path = folder / "index.json"
    content, index = path.read_bytes(), record_format.read_index(folder)
    random = np.random.default_rng(0)
    for place in random.choice(len(content), 300, replace=False):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << random.integers(8)
        path.write_bytes(spoiled)
        with contextlib.suppress(errors.RunError):
            # Only white space and the case of an exponent may change.
            assert record_format.read_index(folder) == index


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "damaged: not JSON"),
        (b"\xff\xfe\x00", "damaged: not JSON"),
        (b"[" * 100_000, "damaged: not JSON"),
        (b"[1]", "format: need 'ris_jax records'; got 'list'"),
        (b'{"format": "tfds"}', "format: need 'ris_jax records'; got 'tfds'"),
        (b'{"format": "ris_jax records", "version": 9}', "version: need 2; got 9"),
        (b'{"format": "ris_jax records", "version": 1}', "damaged: its content"),
    ],
)
def test_invalid_index(folder, content, named):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(errors.RunError, match=rf"index\.json: {named}"):
        record_format.read_index(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shards": 3}, "not an index of records"),
        ({"extra": 3}, "extra"),
        ({"config": 3}, "config"),
        ({"config": {"system": 3}}, "system"),
        ({"config": {"system": {"element_positions": 3}}}, "not an index"),
        ({"config": {"system": {"rows": -1}}}, r"system\.rows: need a value above zero"),
        ({"config": {"sytem": {}}}, "sytem"),
        ({"shards": [{"name": "../../x", "scenes": 1, "files": {}}]}, r"shards: .*'\.\./\.\./x'"),
        ({"shards": [{"name": "train/00000", "scenes": 1, "files": {}}]}, "shards"),
    ],
)
def test_an_index_of_another_writer(folder, changes, named):
    _rewrite(folder, **changes)
    with pytest.raises(errors.RunError, match=rf"index\.json: .*{named}"):
        record_format.read_index(folder)


def test_incomplete_records(folder):
    _rewrite(folder, complete=False)
    with pytest.raises(errors.RunError, match="need all records; got 1 shards of an unfinished"):
        record_format.require_index(folder)
    for nothing in (folder / "train", folder / "nowhere", folder / "index.json"):
        with pytest.raises(errors.RunError, match=rf"{nothing}: need a directory of records"):
            record_format.require_index(nothing)


def test_identity_depends_on_scenes_and_configuration(folder):
    index = record_format.require_index(folder)
    before = record_format.identity(index, list(index.shards))
    assert record_format.identity(index, []) != before
    _rewrite(folder, made_from={"other": 1})
    again = record_format.require_index(folder)
    assert record_format.identity(again, list(again.shards)) == before
    _rewrite(folder, config=index.config | {"impairments": {"phase_error": 0.1}})
    other = record_format.require_index(folder)
    assert record_format.identity(other, list(other.shards)) != before


def test_digests_depend_on_the_measurement(make_scenes):
    scenes = make_scenes(4, 0).scenes
    before = record_format.digests_of(scenes)
    assert len(np.unique(before, axis=0)) == 4
    scenes["azimuth"] += 1.0
    np.testing.assert_array_equal(record_format.digests_of(scenes), before)
    scenes["channel"][2, 0, 0] += 1e-6
    changed = (record_format.digests_of(scenes) != before).any(axis=1)
    np.testing.assert_array_equal(changed, [False, False, True, False])


def test_pack_stores_shared_codes_once(make_scenes):
    made = make_scenes(3, 0)
    fields = {name: made.scenes[name] for name in made.scenes.dtype.names}
    same = np.repeat(made.codes, 3, axis=0)
    packed = record_format.pack(fields, same)
    assert packed.scenes.tobytes() == made.scenes.tobytes()
    assert packed.codes.shape == (1, 3, 6)
    different = same * np.array([1, 1, -1])[:, None, None]
    packed = record_format.pack(fields, different)
    np.testing.assert_array_equal(packed.codes, different)
    np.testing.assert_array_equal(packed.at(np.array([2])).codes, different[2:])
