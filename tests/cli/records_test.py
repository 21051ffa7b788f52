"""Commands `simulate`, `import` and `train --data`."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import files
from ris_jax.cli import common_flags, main
from ris_jax.cli.commands import train as train_command
from ris_jax.data.recordings import reader
from ris_jax.data.records import record_dataset, record_format

SMALL = [
    f"--set={setting}"
    for setting in (
        "system.rows=2", "system.columns=3", "system.num_antennas=2", "system.num_snapshots=3",
        "scene.max_sources=2",
    )
]  # fmt: skip
SIZES = ["--num_train=10", "--num_val=4", "--num_test=2", "--shard_scenes=8"]


def _run(capsys, *arguments):
    status = main.main(["ris-jax", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def _assert_one_line(status, err, *parts):
    assert status != 0
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "records"
    assert main.main(["ris-jax", "simulate", f"--out={folder}", *SIZES, *SMALL]) == 0
    return folder


def test_simulate(capsys, folder):
    index = record_format.require_index(folder)
    assert [index.num_scenes(split) for split in record_format.SPLITS] == [10, 4, 2]
    before = (folder / "index.json").read_bytes()
    status, out, err = _run(capsys, "simulate", f"--out={folder}", *SIZES, *SMALL)
    assert (status, err) == (0, "")
    assert "10 train, 4 validation, 2 test scenes, " in out
    assert " kB each" in out
    assert (folder / "index.json").read_bytes() == before


def test_simulate_refuses(capsys, folder, tmp_path):
    _assert_one_line(*_run(capsys, "simulate")[::2], "--out: need the output directory")
    again = _run(capsys, "simulate", f"--out={folder}", *SIZES, *SMALL, "--seed=3")
    _assert_one_line(*again[::2], "request.seed=3 (there 0)", str(folder))
    bad = _run(capsys, "simulate", f"--out={tmp_path / 'x'}", "--num_train=-1", *SMALL)
    _assert_one_line(*bad[::2], "train: need 0 to", "-1")


def test_localize_reads_records(capsys, calls, folder, tmp_path):
    """`localize` reads the split `test`, with truth and settings of the records."""
    out = tmp_path / "positions.csv"
    status, printed, err = _run(capsys, "localize", f"--data={folder}", f"--out={out}")
    assert status == 0
    assert err == f"note: 2 scenes of the split 'test' of {folder} are read\n"
    assert "against the truth" in printed
    (arguments,) = calls
    assert (arguments["wavefront"], arguments["source_signal"]) == ("spherical", "constant")
    found = reader.read(folder)
    scenes, codes = record_dataset.open_dataset(folder).splits["test"].gather(np.arange(2))
    np.testing.assert_array_equal(found.snapshots, scenes["snapshots"])
    np.testing.assert_array_equal(found.channel, scenes["channel"])
    np.testing.assert_array_equal(found.codes, np.broadcast_to(codes, (2, 3, 6)))
    np.testing.assert_allclose(found.positions[1] - found.positions[0], [0.15, 0, 0], atol=1e-7)
    for scene in range(2):
        count = scenes["num_sources"][scene]
        azimuth = found.truth.azimuth[scene]
        np.testing.assert_array_equal(azimuth[:count], scenes["azimuth"][scene][:count])
        assert np.isnan(azimuth[count:]).all()


def test_localize_refuses_damaged_records(capsys, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "test" / "00000.scenes.npy").write_bytes(b"")
    status, _, err = _run(capsys, "localize", f"--data={copy}", f"--out={tmp_path / 'a.csv'}")
    _assert_one_line(status, err, "00000.scenes.npy: size")


@pytest.fixture(name="shard")
def _shard(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "shards" / "a.npz"
    path.parent.mkdir()
    np.savez(
        path,
        y=random.normal(size=(20, 3, 2, 2)),
        H_full=random.normal(size=(20, 2, 144, 2)),
        codes=random.normal(size=(20, 3, 144, 2)),
        ptr=random.uniform(0.1, 0.5, size=(20, 15)),
        K=np.full(20, 5),
        snr=np.zeros(20),
    )
    return path


def test_import(capsys, shard, tmp_path):
    (shard.parent / "b.npz").write_bytes(b"nonsense")
    flags = [f"--data={shard.parent}", f"--out={tmp_path / 'out'}"]
    _assert_one_line(*_run(capsys, "import", *flags)[::2], str(shard.parent / "b.npz"))
    status, out, err = _run(capsys, "import", *flags, "--skip_damaged")
    assert status == 0
    assert "from 2 files; left out: 1 damaged files, 0 unusable scenes, 0 duplicates" in out
    assert err.startswith(f"skipped: {shard.parent / 'b.npz'}: ")
    index = record_format.require_index(tmp_path / "out")
    assert sum(index.num_scenes(split) for split in record_format.SPLITS) == 20


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--data: need recordings to read, none given"]),
        (["--data=x"], ["--out: need the output directory, none given"]),
        (["--data=nowhere.npz", "--out=y"], ["nowhere.npz: no such file"]),
        (["--data=x", "--out=y", "--val_fraction=1"], ["val_fraction, test_fraction"]),
    ],
)
def test_import_refuses(capsys, flags, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _assert_one_line(*_run(capsys, "import", *flags)[::2], *parts)
    assert not list(tmp_path.iterdir())


class TestTrain:
    def test_takes_the_system_from_the_records(self, folder):
        train_command.FLAGS.unparse_flags()
        given = ["--workdir=x", f"--data={folder}", "--set=scene.snr_max_db=9", "--seed=4"]
        train_command.FLAGS(["train", *given])
        config = train_command.configuration(common_flags.dataset(train_command.FLAGS))
        assert (config.system.rows, config.system.columns, config.scene.max_sources) == (2, 3, 2)
        assert (config.scene.snr_max_db, config.training.seed) == (9.0, 4)

    def test_stops_before_the_first_step(self, capsys, folder, tmp_path):
        workdir = tmp_path / "run"
        path = folder / "train" / "00001.scenes.npy"
        content = path.read_bytes()
        path.write_bytes(content[:-8])
        flags = [f"--workdir={workdir}", f"--data={folder}"]
        refused = _run(capsys, "train", *flags)
        skipped = _run(capsys, "train", *flags, "--skip_damaged", "--batch_size=0")
        path.write_bytes(content)
        _assert_one_line(*refused[::2], f"{path}: size: need", "--skip_damaged continues without")
        assert "8 train, 4 validation, 2 test scenes; 1 damaged shards skipped" in skipped[1]
        assert f"skipped: {path}: size: need" in skipped[2]
        assert not workdir.exists()

    @pytest.mark.parametrize(
        ("flags", "parts"),
        [
            (["--skip_damaged"], ["--skip_damaged: goes with --data; none given"]),
            (
                ["--data=nowhere"],
                ["nowhere: need a directory of records", "got nothing of that name"],
            ),
        ],
    )
    def test_refuses(self, capsys, tmp_path, monkeypatch, flags, parts):
        monkeypatch.chdir(tmp_path)
        _assert_one_line(*_run(capsys, "train", "--workdir=run", *flags)[::2], *parts)
        assert not list(tmp_path.iterdir())

    def test_refuses_another_system(self, capsys, folder, tmp_path):
        flags = [f"--workdir={tmp_path / 'run'}", f"--data={folder}", "--set=system.rows=4"]
        _assert_one_line(*_run(capsys, "train", *flags)[::2], "system.rows: need 2 as in")
        config = json.loads((folder / "index.json").read_text())["config"]
        assert config_lib.from_dict(config).system.rows == 2


def _contents(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_simulate_resumes_after_a_full_disk(capsys, folder, small_disk):
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    for share in (0.3, 0.6, 0.9):
        with small_disk(f"disk-{share}", int(share * size)) as disk:
            out = disk.path / "records"
            command = ("simulate", f"--out={out}", *SIZES, *SMALL)
            full = _run(capsys, *command)
            _assert_one_line(*full[::2], str(out), "No space left on device; make room and give")
            disk.resize(20 * size)
            assert _run(capsys, *command)[0] == 0
            assert _contents(out) == _contents(folder)


def test_import_resumes_after_a_full_disk(capsys, shard, small_disk, tmp_path):
    whole = tmp_path / "whole"
    assert _run(capsys, "import", f"--data={shard}", f"--out={whole}")[0] == 0
    with small_disk("disk", sum(path.stat().st_size for path in whole.rglob("*")) // 2) as disk:
        command = ("import", f"--data={shard}", f"--out={disk.path / 'records'}")
        full = _run(capsys, *command)
        _assert_one_line(*full[::2], str(disk.path), "No space left on device; make room and give")
        disk.resize(1 << 24)
        assert _run(capsys, *command)[0] == 0
        assert _contents(disk.path / "records") == _contents(whole)


def test_simulate_resumes_after_sigterm(capsys, folder, tmp_path, monkeypatch):
    """SIGTERM arrives between the files of a shard."""
    replace, out = os.replace, tmp_path / "records"
    command = ("simulate", f"--out={out}", *SIZES, *SMALL)

    def signalled(source, target):
        if str(target).endswith("validation/00000.codes.npy"):
            os.kill(os.getpid(), signal.SIGTERM)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", signalled)
    before = signal.getsignal(signal.SIGTERM)
    status, _, err = _run(capsys, *command)
    assert (status, err) == (
        143, "ris-jax: stopped by SIGTERM; the same command resumes where it stopped\n"
    )  # fmt: skip
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert _run(capsys, *command)[0] == 0
    assert _contents(out) == _contents(folder)


def test_an_interruption_states_how_to_resume(capsys, monkeypatch, tmp_path):
    from ris_jax.data.records import simulation

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "simulate", interrupted)
    status, _, err = _run(capsys, "simulate", f"--out={tmp_path}")
    assert status == 130
    assert "interrupted; the same command resumes where it stopped" in err
