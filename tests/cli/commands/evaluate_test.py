"""Evaluation of an estimator of positions; run_test.py evaluates networks."""

import csv
import shutil

import jax
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.accuracy import metrics
from ris_jax.cli import evaluation_scenes, main
from ris_jax.data.recordings import containers
from ris_jax.data.records import record_dataset, simulation
from ris_jax.physics import scenes

SCENES = 5
SETTINGS = (
    "system.rows=6", "system.columns=6", "system.num_antennas=8", "system.num_snapshots=8",
    "scene.max_sources=2", "scene.snr_min_db=10",
)  # fmt: skip
CONFIG = config_lib.override(
    config_lib.Config(), {name: int(x) for name, x in (text.split("=") for text in SETTINGS)}
)
SMALL = tuple(f"--set={setting}" for setting in SETTINGS)


def _run(capsys, *arguments):
    status = main.main(["ris-jax", "evaluate", *map(str, arguments)])
    return status, *capsys.readouterr()


def _read(path):
    with path.open() as file:
        return {row["scenes_of"]: row for row in csv.DictReader(file)}


def _assert_one_line(status, err, *parts):
    assert status != 0
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err


def test_simulated(capsys, calls, tmp_path):
    flags = [f"--num_scenes={SCENES}", "--batch_size=2", "--known_num_sources", "--seed=3", *SMALL]
    out = tmp_path / "deep" / "results"
    status, printed, err = _run(capsys, "--estimator=auto", f"--out={out}", *flags)
    assert (status, err) == (0, "")
    rows = _read(out / "evaluation_auto.csv")
    assert rows["all"]["scenes"] == str(SCENES)
    counts = np.concatenate([call["num_sources"] for call in calls])
    assert rows["all"]["sources"] == str(counts[:SCENES].sum())
    assert rows["all"]["count_right"] == "1.0"
    for text in ("machine: ", "versions: ", "seed: 3", "system.rows=6 (default 12)", "known"):
        assert text in printed
        assert text in (out / "evaluation_auto.tex").read_text()
    assert "no bound" not in printed
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        f"auto_{name}.png"
        for name in ("count_confusion", "error_by_snr", "error_distribution", "scene_map")
    ]
    assert calls[0]["max_sources"] == 2


def test_summary_and_full_tables(capsys, calls, tmp_path):
    """The summary has all scenes and a row per K; --full has SNR and range as well."""
    flags = ["--estimator=auto", f"--out={tmp_path}", "--num_scenes=5", "--seed=3", *SMALL]
    _, summary, _ = _run(capsys, *flags)
    _, full, _ = _run(capsys, *flags, "--full")
    assert "number correct" in summary
    assert "K = 1" in summary
    assert "dB  " not in summary
    assert "efficiency" not in summary
    assert "efficiency" in full
    assert "r = " in full


@pytest.mark.full
def test_static_path_reaches_the_estimator(capsys, calls, tmp_path):
    flags = [f"--out={tmp_path}", "--num_scenes=2", *SMALL, "--static_path=on"]
    assert _run(capsys, "--estimator=auto", *flags)[0] == 0
    assert calls[0]["static_path"] == "on"


@pytest.mark.full
def test_bound_with_a_static_path():
    """The bound has the path as unknown if it is removed, or if the scenes have one."""
    path = config_lib.override(CONFIG, {"scene.static_path_db": 10})
    plain, removed, with_path = (
        evaluation_scenes.simulated(config, SCENES, SCENES, static_path=static_path).bound
        for config, static_path in ((CONFIG, False), (CONFIG, True), (path, False))
    )
    np.testing.assert_allclose(with_path, removed, rtol=1e-4)
    azimuth = np.s_[:, 0, 0, 0]
    assert np.all(removed[azimuth] > plain[azimuth])


def test_scenes_of_the_stream(capsys, calls, tmp_path):
    flags = [f"--out={tmp_path}", "--num_scenes=2", "--seed=3", *SMALL]
    assert _run(capsys, "--estimator=music", *flags)[0] == 0
    draw = jax.jit(lambda key: scenes.sample_scenes(key, CONFIG, 2))
    expected = draw(scenes.stream_key(3, "test"))
    snapshots = calls[0]["measurement"].snapshots
    np.testing.assert_allclose(snapshots, expected.measurement.snapshots, atol=1e-4)
    assert calls[0]["num_sources"] is None


class TestRecorded:
    @pytest.fixture
    def data(self, tmp_path):
        draw = jax.jit(lambda key: scenes.sample_scenes(key, CONFIG, SCENES))
        batch = draw(scenes.stream_key(0, "mine"))
        truth = {name: getattr(batch.truth, name) for name in metrics.Sources._fields}
        recorded = {
            "snapshots": np.array(batch.measurement.snapshots),
            "channel": batch.measurement.channel,
            "codes": batch.measurement.codes,
            "wavelength": 0.3,
            "element_positions": np.random.default_rng(0).normal(size=(36, 3)),
            "snr_db": batch.truth.snr_db,
        }
        recorded["snapshots"][1] = np.nan
        containers.save(tmp_path / "with.npz", recorded | truth)
        containers.save(tmp_path / "without.npz", recorded)
        return tmp_path

    def test_with_truth(self, capsys, calls, data):
        flags = ["--estimator=auto", f"--data={data / 'with.npz'}", f"--out={data / 'out'}"]
        status, printed, err = _run(capsys, *flags)
        assert status == 0
        assert err.startswith("skipped: scene 1: ")
        assert "no bound" in printed
        rows = _read(data / "out" / "evaluation_auto.csv")
        assert rows["all"]["scenes"] == str(SCENES - 1)
        assert rows["all"]["azimuth_rms_bound_deg"] == "nan"
        assert any(label.endswith("dB") for label in rows)
        assert calls[0]["max_sources"] == 5

    def test_fewer_scenes(self, capsys, calls, data):
        flags = ["--estimator=auto", f"--data={data / 'with.npz'}", f"--out={data / 'out'}"]
        assert _run(capsys, *flags, "--num_scenes=2")[0] == 0
        assert _read(data / "out" / "evaluation_auto.csv")["all"]["scenes"] == "2"

    def test_without_truth(self, capsys, calls, data):
        flags = [f"--data={data / 'without.npz'}", f"--out={data / 'out'}"]
        status, _, err = _run(capsys, "--estimator=auto", *flags)
        _assert_one_line(status, err, "--data", "recordings with truth", "without.npz")
        assert not (data / "out").exists()


@pytest.mark.parametrize(
    ("snr_db", "limits"),
    [((10.0, 20.0), (10, 20)), ((12.0, 13.0), (10, 20)), ((-7.2, 13.0), (-8, 14)),
     ((10.5, 31.0), (10, 32))],
)  # fmt: skip
def test_bins_of_snr_hold_all_scenes(snr_db, limits):
    assert evaluation_scenes._snr_limits(CONFIG, np.array(snr_db)) == limits


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    """Write records with a split `test`."""
    folder = tmp_path_factory.mktemp("out") / "records"
    counts = {"train": 3, "test": SCENES}
    simulation.simulate(CONFIG, folder, counts, shard_scenes=2)
    return folder


class TestStored:
    def test_scores_of_the_split(self, capsys, calls, folder, tmp_path):
        """Scenes and array are those of the records, not those of the flags."""
        flags = ["--estimator=auto", f"--data={folder}", f"--out={tmp_path}", "--known_num_sources"]
        status, printed, err = _run(capsys, *flags, "--batch_size=2")
        assert (status, err) == (0, "")
        assert f"{SCENES} scenes of {folder}" in printed
        assert "system.rows=6 (default 12)" in printed
        assert "no bound" in printed
        rows = _read(tmp_path / "evaluation_auto.csv")
        batch = record_dataset.open_dataset(folder).split("test").gather(np.arange(SCENES))
        assert rows["all"]["scenes"] == str(SCENES)
        assert rows["all"]["sources"] == str(batch.scenes["num_sources"].sum())
        assert any(label == "10 to 12 dB" for label in rows)  # limits of the records
        for field in ("snapshots", "channel", "noise_variance"):
            parts = [getattr(call["measurement"], field) for call in calls]
            np.testing.assert_array_equal(np.concatenate(parts)[:SCENES], batch.scenes[field])
        assert calls[0]["measurement"].codes.shape == (2, 8, 36)
        assert calls[0]["max_sources"] == 2

    def test_fewer_scenes(self, capsys, calls, folder, tmp_path):
        flags = ["--estimator=auto", f"--data={folder}", f"--out={tmp_path}", "--num_scenes=2"]
        assert _run(capsys, *flags)[0] == 0
        assert _read(tmp_path / "evaluation_auto.csv")["all"]["scenes"] == "2"

    def test_damaged(self, capsys, calls, folder, tmp_path):
        copy, out = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "out"
        path = copy / "test" / "00001.scenes.npy"
        path.write_bytes(path.read_bytes()[:-1])
        flags = ["--estimator=auto", f"--data={copy}", f"--out={out}"]
        _assert_one_line(*_run(capsys, *flags)[::2], str(path), "--skip_damaged continues without")
        assert not out.exists()
        assert _run(capsys, *flags, "--skip_damaged")[0] == 0
        assert _read(out / "evaluation_auto.csv")["all"]["scenes"] == str(SCENES - 2)

    def test_refuses(self, capsys, folder, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "copy")
        flags = ["--estimator=auto", f"--data={copy}", f"--out={tmp_path / 'out'}"]
        other = _run(capsys, *flags, "--set=system.rows=4")
        _assert_one_line(*other[::2], "system.rows: need 6 as in", "got 4")
        for shard in (copy / "test").iterdir():
            shard.unlink()
        empty = _run(capsys, *flags, "--skip_damaged")
        assert empty[0] == 1
        assert "need scenes in the split 'test'; got them in train" in empty[2].splitlines()[-1]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--workdir", "--estimator", "none given"]),
        (["--estimator=esprit"], ["estimator", "maximum_likelihood", "esprit"]),
        (["--estimator=auto", "--false_alarm_rate=1"], ["false_alarm_rate", "1.0"]),
        (["--estimator=auto", "--data=/none.npz"], ["/none.npz", "no such file"]),
        (["--estimator=auto", "--set=scene.colour=red"], ["unknown configuration", "scene.colour"]),
        (["--estimator=auto", "--seed=-1"], ["training.seed"]),
        (["--estimator=auto", "--num_scenes=1"], ["num_scenes", "1"]),
        (["--workdir=x", "--skip_damaged"], ["--skip_damaged: goes with --data"]),
        (["--workdir=x", "--full"], ["--full: goes with --estimator"]),
        (["--workdir=x", "--known_num_sources"], ["--known_num_sources: goes with --estimator"]),
        (["--workdir=x", "--static_path=on"], ["--static_path: goes with --estimator"]),
    ],
)
def test_refuses(capsys, tmp_path, flags, parts):
    out = [f"--out={tmp_path / 'out'}"] if "--estimator=auto" in flags else []
    status, _, err = _run(capsys, *flags, *out)
    _assert_one_line(status, err, *parts)
    assert not list(tmp_path.iterdir())
