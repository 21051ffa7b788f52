"""Data set: each scene once per pass, bit-identical resume, detection of damage."""

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_dataset, record_format, record_writer

SIZES = (7, 5, 1, 10)  # of the training shards
TOTAL = sum(SIZES)


@pytest.fixture(name="write", scope="module")
def _write(small_config, make_scenes):
    """Return a function that writes a directory, with shared or separate codes."""

    def write(folder, shared_codes=True):
        with record_writer.writing(folder, small_config, {"command": "test"}) as writer:
            for seed, size in enumerate(SIZES):
                scenes = make_scenes(size, seed, shared_codes)
                if shared_codes:
                    scenes = scenes._replace(codes=np.ones_like(scenes.codes))
                writer.add(record_format.Unit(str(seed), 0), {"train": scenes})
            writer.add(record_format.Unit("t", 0), {"test": make_scenes(3, 99, shared_codes)})
            writer.finish()
        return folder

    return write


@pytest.fixture(name="folder")
def _folder(write, tmp_path):
    return write(tmp_path)


@pytest.fixture(name="split", scope="module")
def _split(write, tmp_path_factory):
    return record_dataset.open_dataset(write(tmp_path_factory.mktemp("records"))).split("train")


def _digests(batch):
    return [digest.tobytes() for digest in record_format.digests_of(batch.scenes)]


class TestGather:
    @pytest.mark.parametrize("shared", [True, False])
    def test_returns_the_written_scenes(self, write, make_scenes, tmp_path, shared):
        split = record_dataset.open_dataset(write(tmp_path, shared)).split("train")
        written = [make_scenes(size, seed, shared) for seed, size in enumerate(SIZES)]
        scenes = np.concatenate([part.scenes for part in written])
        indices = np.random.default_rng(0).permutation(TOTAL)
        batch = split.gather(indices)
        assert len(split) == TOTAL
        assert batch.scenes.tobytes() == scenes[indices].tobytes()
        if shared:
            assert batch.codes.shape == (1, 3, 6)
        else:
            codes = np.concatenate([part.codes for part in written])
            np.testing.assert_array_equal(batch.codes, codes[indices])

    def test_repeats_shared_codes_where_shards_differ(self, small_config, make_scenes, tmp_path):
        with record_writer.writing(tmp_path, small_config, {}) as writer:
            for seed in (0, 1):
                writer.add(record_format.Unit(str(seed), 0), {"train": make_scenes(2, seed)})
            writer.finish()
        batch = record_dataset.open_dataset(tmp_path).split("train").gather(np.arange(4))
        expected = np.repeat([make_scenes(2, seed).codes[0] for seed in (0, 1)], 2, axis=0)
        np.testing.assert_array_equal(batch.codes, expected)

    @pytest.mark.parametrize("index", [-1, TOTAL])
    def test_refuses_missing_scenes(self, split, index):
        with pytest.raises(IndexError, match=f"0 <= index < {TOTAL}"):
            split.gather(np.array([0, index]))


class TestBatches:
    def test_every_pass_has_every_scene_once_in_a_new_order(self, split):
        batches, size = record_dataset.batches(split, 4, seed=3), 4
        digests = [d for _ in range(3 * TOTAL // size + 1) for d in _digests(next(batches))]
        passes = [digests[start : start + TOTAL] for start in range(0, 3 * TOTAL, TOTAL)]
        everything = set(_digests(split.gather(np.arange(TOTAL))))
        for one in passes:
            assert set(one) == everything
            assert len(one) == TOTAL
        assert passes[0] != passes[1] != passes[2]

    def test_batches_larger_than_a_pass(self, split):
        (batch,) = [next(record_dataset.batches(split, 3 * TOTAL, seed=0))]
        _, counts = np.unique(_digests(batch), return_counts=True)
        np.testing.assert_array_equal(counts, 3)

    @pytest.mark.parametrize("stop", [0, 1, 5, 9])
    def test_resume_is_bit_identical(self, split, stop):
        whole = record_dataset.batches(split, 4, seed=3)
        expected = [next(whole).scenes.tobytes() for _ in range(14)]
        first = record_dataset.batches(split, 4, seed=3)
        found = [next(first).scenes.tobytes() for _ in range(stop)]
        state = first.get_state()
        for _ in range(3):
            next(first)  # after the checkpoint, before the kill
        again = record_dataset.batches(split, 4, seed=3)
        again.set_state(state)
        found += [next(again).scenes.tobytes() for _ in range(14 - stop)]
        assert found == expected

    def test_seeds_differ(self, split):
        orders = {tuple(_digests(next(record_dataset.batches(split, 8, s)))) for s in range(5)}
        assert len(orders) == 5

    @pytest.mark.parametrize("count", [2, 4])
    def test_processes_share_the_batches_of_one(self, split, count):
        alone = record_dataset.batches(split, 8, seed=1)
        shares = [
            record_dataset.batches(split, 8, seed=1, process_index=i, process_count=count)
            for i in range(count)
        ]
        for _ in range(7):
            together = np.concatenate([next(share).scenes for share in shares])
            assert together.tobytes() == next(alone).scenes.tobytes()

    def test_batches_that_cannot_be_shared(self, split):
        with pytest.raises(config_lib.ConfigError, match="multiple of the 3 processes; got 8"):
            record_dataset.batches(split, 8, seed=1, process_count=3)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-100 % len(content)] ^= 4
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _swap(path):
    other = path.with_name(path.name.replace("00003", "00000"))
    path.write_bytes(other.read_bytes())


def _folder_instead(path):
    path.unlink()
    path.mkdir()


SPOILERS = (
    (_flip, "sha256: need"),
    (_truncate, "size: need"),
    (_swap, "size: need"),
    (lambda path: path.write_bytes(b""), "size: need .* bytes; got 0"),
    (lambda path: path.unlink(), "cannot be read: No such file"),
    (_folder_instead, "size: need|cannot be read"),
)


class TestDamage:
    @pytest.mark.parametrize("part", ["scenes", "digests"])
    @pytest.mark.parametrize(("spoil", "named"), SPOILERS)
    def test_reported_or_skipped(self, folder, part, spoil, named):
        path = folder / "train" / f"00003.{part}.npy"
        whole = record_dataset.open_dataset(folder)
        spoil(path)
        with pytest.raises(errors.RunError, match=rf"{path}: ({named}).*--skip_damaged"):
            record_dataset.open_dataset(folder)
        dataset = record_dataset.open_dataset(folder, skip_damaged=True)
        assert len(dataset.split("train")) == TOTAL - SIZES[3]
        assert len(dataset.skipped) == 1
        assert str(path) in dataset.skipped[0]
        assert dataset.identity != whole.identity

    @pytest.mark.parametrize("seed", range(40))
    def test_any_flipped_bit_of_any_file_is_detected(self, folder, seed):
        random = np.random.default_rng(seed)
        paths = sorted(folder.glob("*/*.npy"))
        path = paths[random.integers(len(paths))]
        content = bytearray(path.read_bytes())
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        with pytest.raises(errors.RunError, match=rf"{path}: sha256"):
            record_dataset.open_dataset(folder)

    def test_a_foreign_shard_is_named_or_skipped(self, folder):
        path = folder / "train" / "00004.scenes.npy"
        path.write_bytes((folder / "train" / "00000.scenes.npy").read_bytes())
        with pytest.raises(errors.RunError, match=rf"{path}: not listed in index\.json"):
            record_dataset.open_dataset(folder)
        dataset = record_dataset.open_dataset(folder, skip_damaged=True)
        assert (len(dataset.split("train")), len(dataset.skipped)) == (TOTAL, 1)

    def test_several_are_counted(self, folder):
        for number in (0, 2):
            _flip(folder / "train" / f"0000{number}.scenes.npy")
        with pytest.raises(errors.RunError, match=r"00000\.scenes.*\(and 1 more\)"):
            record_dataset.open_dataset(folder)
        for path in folder.glob("*/*.scenes.npy"):
            path.unlink()
        with pytest.raises(errors.RunError, match=r"need at least one whole shard; .*00003"):
            record_dataset.open_dataset(folder, skip_damaged=True)

    def test_layouts_of_another_configuration(self, folder, small_config):
        """The index is valid but lists wrong layouts."""
        shard = record_format.require_index(folder).shards[0]
        sizes = record_format.sizes_of(small_config)
        wide = record_format.scene_dtype(sizes._replace(max_sources=4))
        assert "need [7]" in record_format.damage(folder, shard, wide)
        path = shard.path(folder, "codes")
        content = path.read_bytes()
        for other, complaint in (
            (b"hello", "not an array: "),
            (b"PK\x03\x04" + content, "not an array: "),  # NumPy would open an archive
            (content.replace(b"}", b"("), "not an array: its header is damaged"),
            (content.replace(b"(1,", b"(-1"), "not an array: "),
            (content.replace(b"\x01\x00", b"\x03\x00", 1), "not an array: need npy format 1.0"),
            (content[:-8], "not an array: its header asks for "),
            (content.replace(b"<c8", b"<f8"), "need [1, "),
        ):
            assert other != content
            path.write_bytes(other)
            whole = {**shard.files, "codes": record_format.file_of(path)}
            text = record_format.damage(
                folder,
                record_format.dataclasses.replace(shard, files=whole),
                record_format.scene_dtype(sizes),
            )
            assert text.startswith(f"{path}: {complaint}"), text


def test_a_split_without_scenes(folder):
    dataset = record_dataset.open_dataset(folder)
    assert set(dataset.splits) == {"train", "test"}
    with pytest.raises(errors.RunError, match="the split 'validation'; got them in train, test"):
        dataset.split("validation")


def test_progress_counts_every_byte(folder):
    sizes = []
    record_dataset.open_dataset(folder, progress=sizes.append)
    assert sum(sizes) == record_format.require_index(folder).num_bytes
