"""Conversion of recordings and reference shards to records: each scene once, in one split."""

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import reader
from ris_jax.data.records import conversion, record_dataset, record_format, record_writer

HALF = conversion.Fractions(0.25, 0.25)
CONFIG = config_lib.Config()


def _reference(path, seed, scenes=8):
    """Write a shard in the layout of the reference."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.normal(size=shape).astype("f4")

    counts = np.arange(scenes, dtype="i4") % 5 + 1
    sources = random.uniform(0.1, 0.5, (scenes, 3, 5)) * (np.arange(5) < counts[:, None, None])
    np.savez(
        path,
        y=normal(scenes, 3, 2, 2),
        H_full=normal(scenes, 2, 144, 2),
        codes=normal(scenes, 3, 144, 2),
        ptr=sources.reshape(scenes, -1).astype("f4"),
        K=counts,
        snr=normal(scenes),
    )


def _recordings(path, seed=0, scenes=6, **changes):
    """Write a recordings file of 5 elements."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    arrays = {
        "snapshots": normal(scenes, 4, 3),
        "channel": np.ones((3, 5)) + 0j,
        "codes": np.ones((4, 5)),
        "wavelength": 0.2,
        "element_positions": np.arange(15.0).reshape(5, 3),
        "snr_db": np.full(scenes, 10.0),
        "num_sources": np.ones(scenes, int),
        "azimuth": np.full((scenes, 2), 0.1),
        "elevation": np.full((scenes, 2), 0.2),
        "source_range": np.full((scenes, 2), 4.0),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def _all_scenes(folder):
    dataset = record_dataset.open_dataset(folder)
    gathered = [split.gather(np.arange(len(split))) for split in dataset.splits.values()]
    return np.concatenate([batch.scenes for batch in gathered])


def test_shards_of_the_reference(tmp_path):
    for number in range(3):
        (tmp_path / "shards").mkdir(exist_ok=True)
        _reference(tmp_path / "shards" / f"{number}.npz", number)
    index = conversion.convert(tmp_path / "shards", tmp_path / "out", CONFIG, HALF)
    assert sum(index.num_scenes(split) for split in record_format.SPLITS) == 24
    system = record_format.configuration(index).system
    assert (system.wavefront, system.source_signal) == ("parabolic", "constant")
    assert (system.num_elements, system.num_snapshots, system.num_antennas) == (144, 3, 2)
    expected = reader.read(tmp_path / "shards")
    found = {scene["snapshots"].tobytes(): scene for scene in _all_scenes(tmp_path / "out")}
    assert len(found) == 24
    for number, snapshots in enumerate(expected.snapshots):
        scene = found[snapshots.tobytes()]
        count = expected.truth.num_sources[number]
        np.testing.assert_array_equal(scene["channel"], expected.channel[number])
        assert scene["num_sources"] == count
        for field in ("azimuth", "elevation", "source_range"):
            truth = getattr(expected.truth, field)[number, :count]
            np.testing.assert_allclose(scene[field][:count], truth, rtol=1e-6)
        np.testing.assert_allclose(scene["amplitude"][:count], 1.0 / scene["source_range"][:count])
        assert not scene["amplitude"][count:].any()
        power = np.mean(np.abs(snapshots) ** 2)
        ratio = 10 ** (scene["snr_db"] / 10)
        np.testing.assert_allclose(scene["noise_variance"] * (1 + ratio), power, rtol=1e-5)


def test_codes_belong_to_their_scenes(tmp_path):
    _reference(tmp_path / "a.npz", 0)
    conversion.convert(tmp_path / "a.npz", tmp_path / "out", CONFIG, HALF)
    expected = reader.read(tmp_path / "a.npz")
    codes = {s.tobytes(): c for s, c in zip(expected.snapshots, expected.codes, strict=True)}
    for split in record_dataset.open_dataset(tmp_path / "out").splits.values():
        batch = split.gather(np.arange(len(split)))
        for scene, code in zip(batch.scenes, batch.codes, strict=True):
            np.testing.assert_array_equal(code, codes[scene["snapshots"].tobytes()])


def test_duplicate_scenes_are_skipped_and_counted(tmp_path):
    """A test scene of the reference was also a training scene."""
    shards = tmp_path / "shards"
    shards.mkdir()
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        _reference(shards / f"{name}.npz", seed)
    index = conversion.convert(shards, tmp_path / "out", CONFIG, HALF)
    assert [unit.duplicates for unit in index.units] == [0, 0, 8]
    digests = record_format.digests_of(_all_scenes(tmp_path / "out"))
    assert len(np.unique(digests, axis=0)) == len(digests) == 16


def test_splits_of_a_file_do_not_depend_on_other_files(tmp_path):
    def test_scenes(source, out):
        conversion.convert(source, out, CONFIG, HALF)
        split = record_dataset.open_dataset(out).split("test")
        return {
            d.tobytes()
            for d in record_format.digests_of(split.gather(np.arange(len(split))).scenes)
        }

    (tmp_path / "shards").mkdir()
    for seed in range(3):
        _reference(tmp_path / "shards" / f"{seed}.npz", seed, scenes=20)
    alone = test_scenes(tmp_path / "shards" / "1.npz", tmp_path / "alone")
    assert alone
    assert alone < test_scenes(tmp_path / "shards", tmp_path / "together")


def test_stopped_and_started_again(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    for seed in range(4):
        _reference(tmp_path / "shards" / f"{seed}.npz", seed)
    conversion.convert(tmp_path / "shards", tmp_path / "whole", CONFIG, HALF)
    add = record_writer.Writer.add

    def stopping(self, unit, parts):
        if unit.name == "2.npz":
            raise KeyboardInterrupt
        return add(self, unit, parts)

    monkeypatch.setattr(record_writer.Writer, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        conversion.convert(tmp_path / "shards", tmp_path / "out", CONFIG, HALF)
    monkeypatch.undo()
    counts = []
    conversion.convert(tmp_path / "shards", tmp_path / "out", CONFIG, HALF, progress=counts.append)
    assert counts == [1] * 4
    ours, theirs = (record_format.require_index(tmp_path / name) for name in ("out", "whole"))
    assert ours == theirs


def test_recordings(tmp_path):
    path = _recordings(
        tmp_path / "mine.npz",
        num_sources=np.array([1, 2, 0, 1, 1, 1]),
        snapshots=np.where(
            np.arange(6)[:, None, None] == 5,
            np.nan,
            np.random.default_rng(1).normal(size=(6, 4, 3)),
        )
        + 0j,
    )
    config = config_lib.override(CONFIG, {"scene.path_loss": "none", "system.wavefront": "planar"})
    index = conversion.convert(path, tmp_path / "out", config, conversion.Fractions(0, 0))
    (unit,) = index.units
    assert (unit.scenes, unit.unusable) == (4, 2)  # one without a source, one with NaN
    stored = record_format.configuration(index)
    assert (stored.system.wavelength, stored.system.wavefront) == (0.2, "planar")
    assert stored.system.element_positions[1] == (3.0, 4.0, 5.0)
    assert stored.scene.max_sources == 2
    np.testing.assert_array_equal(
        _all_scenes(tmp_path / "out")["amplitude"], [[1, 0], [1, 1], [1, 0], [1, 0]]
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict.fromkeys(("num_sources", "azimuth", "elevation", "source_range")), "truth"),
        ({"snr_db": None}, "snr_db"),
    ],
)
def test_recordings_unusable_for_training(tmp_path, changes, named):
    path = _recordings(tmp_path / "mine.npz", **changes)
    with pytest.raises(errors.RunError, match=rf"{path}: {named}: need it to train or score"):
        conversion.convert(path, tmp_path / "out", CONFIG, HALF)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (0.1, float("nan"))])
def test_fractions_out_of_their_domain(tmp_path, fractions):
    with pytest.raises(config_lib.ConfigError, match="val_fraction, test_fraction: need fractions"):
        conversion.convert(tmp_path, tmp_path / "out", CONFIG, conversion.Fractions(*fractions))


def test_damaged_and_different_files_are_named_or_skipped(tmp_path):
    source = tmp_path / "shards"
    source.mkdir()
    for number in (0, 1, 2, 3):
        _recordings(source / f"{number}.npz", number)
    (source / "0.npz").write_bytes((source / "0.npz").read_bytes()[:-30])
    _recordings(source / "2.npz", 2, wavelength=0.3)
    with pytest.raises(errors.RunError, match=r"0\.npz: "):
        conversion.convert(source, tmp_path / "strict", CONFIG, HALF)
    (source / "0.npz").rename(tmp_path / "0.npz")
    with pytest.raises(errors.RunError, match=r"2\.npz: wavelength: need 0\.2 as in 1\.npz"):
        conversion.convert(source, tmp_path / "strict", CONFIG, HALF)
    (tmp_path / "0.npz").rename(source / "0.npz")
    index = conversion.convert(source, tmp_path / "out", CONFIG, HALF, skip_damaged=True)
    assert [bool(unit.damaged) for unit in index.units] == [True, False, True, False]
    assert [unit.scenes for unit in index.units] == [0, 6, 0, 6]
    assert "wavelength" in index.units[2].damaged


def test_nothing_readable(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    with pytest.raises(errors.RunError, match=r"a\.npz"):
        conversion.convert(tmp_path, tmp_path / "out", CONFIG, HALF, skip_damaged=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.RunError, match=r"need a directory of \.npz recordings"):
        conversion.convert(tmp_path / "empty", tmp_path / "out", CONFIG, HALF)


def test_element_response(tmp_path):
    """Records keep the response, in their configuration; other normals are refused."""
    path = _recordings(tmp_path / "a.npz", response_exponent=1.5)
    system = conversion.configuration(reader.read(path), CONFIG).system
    assert system.response_exponent == 1.5
    table = {"response_angles": [0.0, 0.7, 1.6], "response_amplitudes": [2.0, 1.0, 0.4]}
    path = _recordings(tmp_path / "b.npz", **table)
    system = conversion.configuration(reader.read(path), CONFIG).system
    np.testing.assert_allclose(system.response_angles, table["response_angles"])
    np.testing.assert_allclose(system.response_amplitudes, [1.0, 0.5, 0.2])
    path = _recordings(tmp_path / "c.npz", response_exponent=1.0, response_normals=[1.0, 0.0, 0.0])
    with pytest.raises(errors.RunError, match=r"response_normals: expected \+z for all elements"):
        conversion.configuration(reader.read(path), CONFIG)


def test_files_with_other_responses_are_refused(tmp_path):
    (tmp_path / "files").mkdir()
    for number, exponent in enumerate((1.0, 2.0)):
        _recordings(tmp_path / "files" / f"{number}.npz", response_exponent=exponent)
    with pytest.raises(errors.RunError, match=r"response: need the same as in 0\.npz; got others"):
        reader.read(tmp_path / "files")
