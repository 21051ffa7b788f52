"""Simulated records: scenes of the streams, all different, also after interruptions."""

import chex
import jax
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_dataset, record_format, record_writer, simulation
from ris_jax.physics import scenes

COUNTS = {"train": 300, "validation": 20, "test": 10}


@pytest.fixture(name="folder", scope="module")
def _folder(small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    simulation.simulate(small_config, folder, COUNTS, shard_scenes=128)
    return folder


def test_scenes_of_the_streams(small_config, folder):
    dataset = record_dataset.open_dataset(folder)
    assert {name: len(split) for name, split in dataset.splits.items()} == COUNTS
    for name in record_format.SPLITS:
        key = scenes.stream_key(small_config.training.seed, name)
        drawn = jax.device_get(scenes.sample_scenes(key, small_config, 10))
        stored = dataset.split(name).gather(np.arange(10))
        expected = drawn.measurement._asdict() | drawn.truth._asdict()
        np.testing.assert_array_equal(np.repeat(stored.codes, 10, 0), expected.pop("codes"))
        found = {field: stored.scenes[field] for field in expected}
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_splits_are_disjoint(folder):
    index = record_format.require_index(folder)
    digests = np.concatenate([record_format.load(folder, s, "digests") for s in index.shards])
    assert len(np.unique(digests, axis=0)) == sum(COUNTS.values())


def test_interruptions_do_not_change_the_files(small_config, folder, tmp_path, monkeypatch):
    counts, add = [], record_writer.Writer.add

    def stopping(self, unit, parts):
        if len(self.index.units) == len(counts) + 1:
            raise KeyboardInterrupt
        return add(self, unit, parts)

    monkeypatch.setattr(record_writer.Writer, "add", stopping)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            simulation.simulate(small_config, tmp_path, COUNTS, shard_scenes=128)
        counts.append(len(record_format.read_index(tmp_path).units))
    monkeypatch.undo()
    simulation.simulate(small_config, tmp_path, COUNTS, shard_scenes=128)
    assert counts == [1, 2, 3]
    for path in folder.rglob("*.*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("counts", "shard_scenes", "named"),
    [
        ({"train": -1}, 8, "train: need 0 to"),
        ({"train": 2**31}, 8, "train: need 0 to"),
        ({"train": 8}, 0, "shard_scenes: need 1 to"),
        ({"train": 0, "test": 0}, 8, "need a scene; got none"),
    ],
)
def test_counts_out_of_their_domain(small_config, tmp_path, counts, shard_scenes, named):
    with pytest.raises(config_lib.ConfigError, match=named):
        simulation.simulate(small_config, tmp_path, counts, shard_scenes=shard_scenes)
    assert not list(tmp_path.iterdir())


def test_a_repeated_scene(small_config, tmp_path, monkeypatch):
    key = scenes.stream_key(0, "train")
    monkeypatch.setattr(scenes, "stream_key", lambda *_: key)
    with pytest.raises(errors.RunError, match="a scene of test from 0 was drawn before"):
        simulation.simulate(small_config, tmp_path, {"train": 4, "test": 4}, shard_scenes=4)
