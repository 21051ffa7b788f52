"""Localisation of recordings: output files and errors."""

import csv
import functools
import json
import math

import jax
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import metrics
from ris_jax.cli import main
from ris_jax.cli.commands import localize
from ris_jax.data.recordings import containers
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.estimate import Estimate
from ris_jax.physics import arrays, scenes

SCENES = 3
SYSTEM = {
    "system.rows": 6,
    "system.columns": 6,
    "system.num_antennas": 8,
    "system.num_snapshots": 8,
    "scene.max_sources": 2,
    "scene.range_max": 3.0,
    "scene.snr_min_db": 25.0,
    "scene.snr_max_db": 30.0,
    "scene.path_loss": "none",
}


@functools.cache
def _simulated():
    config = config_lib.override(config_lib.Config(), SYSTEM)
    draw = jax.jit(lambda key: scenes.sample_scenes(key, config, SCENES))
    batch = jax.device_get(draw(jax.random.key(3)))
    positions = np.asarray(arrays.element_positions(config.system))
    return batch, positions


def _arrays(truth=True):
    batch, positions = _simulated()
    measured = batch.measurement
    found = {
        "snapshots": measured.snapshots.copy(),
        "channel": measured.channel,
        "codes": measured.codes,
        "wavelength": np.array(0.3),
        "element_positions": positions,
    }
    if truth:
        found |= {"snr_db": batch.truth.snr_db}
        found |= {name: getattr(batch.truth, name) for name in metrics.Sources._fields}
    return found


def _as_shard(elements=144):
    """Write a shard of the reference, with noise only."""
    normal = np.random.default_rng(0).normal
    return {
        "y": normal(size=(SCENES, 4, 8, 2)),
        "H_full": normal(size=(SCENES, 8, elements, 2)),
        "codes": normal(size=(SCENES, 4, elements, 2)),
        "ptr": np.abs(normal(size=(SCENES, 6))) / 4,
        "K": np.array([0, 1, 2]),
        "snr": normal(size=SCENES),
    }


def _fake_localize(calls, counts=(2, 0, 1)):
    """Replace the estimators: first two true sources, given counts."""
    batch, _ = _simulated()

    def localize(measurement, positions, **options):
        calls.append(options)
        size, most = len(measurement.snapshots), options["max_sources"]
        places = np.zeros((size, most))
        covariance = np.broadcast_to(np.diag([0.01, 0.02, np.inf]) ** 2, (size, most, 3, 3))
        truth = [
            np.resize(getattr(batch.truth, name), (size, most)) for name in batch.truth._fields[:3]
        ]
        return Estimate(
            *truth, places + 100.0, np.resize(counts, size), covariance, np.full(size, 0.5)
        )

    return localize


@pytest.fixture
def calls(monkeypatch):
    """Replace the estimators by a fast fake; return its arguments."""
    found = []
    monkeypatch.setattr(localization, "localize", _fake_localize(found))
    return found


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "recordings.npz"
    containers.save(path, _arrays())
    return path


def _run(capsys, *arguments):
    status = main.main(["ris-jax", "localize", *map(str, arguments)])
    return status, *capsys.readouterr()


def _assert_one_line(status, err, *parts):
    assert status != 0
    lines = [line for line in err.splitlines() if not line.startswith("skipped: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("ris-jax: ")
    for part in parts:
        assert part in lines[0]


def _read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("calls")
class TestOutput:
    def test_csv(self, capsys, data, tmp_path):
        out = tmp_path / "positions.csv"
        status, printed, err = _run(capsys, f"--data={data}", f"--out={out}", "--max_sources=2")
        assert (status, err) == (0, "")
        rows = _read(out)
        assert [(row["scene"], row["source"]) for row in rows] == [
            ("0", "0"),
            ("0", "1"),
            ("2", "0"),
        ]
        batch, _ = _simulated()
        azimuth = np.rad2deg(batch.truth.azimuth[0, 0])
        assert float(rows[0]["azimuth_deg"]) == pytest.approx(azimuth, rel=1e-5)
        assert float(rows[0]["azimuth_std_deg"]) == pytest.approx(np.rad2deg(0.01), rel=1e-5)
        assert rows[0]["range_std_m"] == ""
        assert float(rows[0]["power_db"]) == 20.0
        assert "3 sources in 2 scenes; 1 scenes without sources, 0 skipped" in printed
        assert "against the truth" in printed
        assert f"written: {out}" in printed
        assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, data.name]

    def test_json(self, capsys, data, tmp_path):
        out = tmp_path / "positions.JSON"
        flags = ["--estimator=music", "--wavefront=fresnel", "--max_sources=2"]
        assert _run(capsys, f"--data={data}", f"--out={out}", *flags)[0] == 0
        found = json.loads(out.read_text())
        assert (found["estimator"], found["wavefront"]) == ("music", "fresnel")
        assert found["source_signal"] == "constant"
        assert found["network"] is None
        assert found["skipped"] == []
        assert "jax" in found["versions"]
        assert [len(scene["sources"]) for scene in found["scenes"]] == [2, 0, 1]
        assert found["scenes"][0]["sources"][0]["range_std_m"] is None

    def test_a_scene_of_a_folder_is_named_with_its_file(self, capsys, tmp_path):
        """Numbers run across two files; a scene of the second one is unusable."""
        folder, out = tmp_path / "both", tmp_path / "both.json"
        folder.mkdir()
        containers.save(folder / "a.npz", _arrays())
        recorded = _arrays()
        recorded["snapshots"][1] = np.nan
        containers.save(folder / "b.npz", recorded)
        status, _, err = _run(capsys, f"--data={folder}", f"--out={out}", "--max_sources=2")
        assert status == 0
        assert err.startswith(f"skipped: scene {SCENES + 1} (b.npz, scene 1): snapshots: ")
        (skipped,) = json.loads(out.read_text())["skipped"]
        assert (skipped["scene"], skipped["file"]) == (SCENES + 1, "b.npz")
        assert skipped["scene_of_file"] == 1

    @pytest.mark.parametrize("name", ["recordings.h5", "recordings.hdf5"])
    def test_hdf5_without_truth(self, capsys, tmp_path, name):
        containers.save(tmp_path / name, _arrays(truth=False))
        out = tmp_path / "positions.csv"
        status, printed, _ = _run(capsys, f"--data={tmp_path / name}", f"--out={out}")
        assert status == 0
        assert "against the truth" not in printed
        assert len(_read(out)) == 3

    def test_nan_scene_is_named_and_the_rest_kept(self, capsys, tmp_path):
        recorded = _arrays()
        recorded["snapshots"][1, 2, 3] = np.nan
        containers.save(tmp_path / "a.npz", recorded)
        out = tmp_path / "a.json"
        flags = [f"--data={tmp_path / 'a.npz'}", f"--out={out}", "--max_sources=2"]
        status, printed, err = _run(capsys, *flags)
        assert status == 0
        assert err == "skipped: scene 1: snapshots: 1 of 64 values are NaN, infinite or too large\n"
        assert "1 skipped" in printed
        found = json.loads(out.read_text())
        assert [scene["scene"] for scene in found["scenes"]] == [0, 2]
        assert found["skipped"][0]["scene"] == 1

    def test_figure(self, capsys, data, tmp_path):
        out, figure = tmp_path / "a.csv", tmp_path / "map.png"
        flags = [f"--data={data}", f"--out={out}", f"--figure={figure}"]
        for scene in ([], ["--figure_scene=1"]):
            assert _run(capsys, *flags, *scene, "--max_sources=2")[0] == 0
            assert figure.read_bytes()[:4] == b"\x89PNG"
            figure.unlink()

    @pytest.mark.parametrize(("ending", "start"), [("PDF", b"%PDF"), ("svg", b"<?xml")])
    def test_figure_for_a_paper(self, capsys, data, tmp_path, ending, start):
        figure = tmp_path / f"map.{ending}"
        flags = [f"--data={data}", f"--out={tmp_path / 'a.csv'}", f"--figure={figure}"]
        assert _run(capsys, *flags, "--max_sources=2")[0] == 0
        assert figure.read_bytes().startswith(start)

    def test_one_antenna_is_noted(self, capsys, tmp_path):
        recorded = _arrays(truth=False)
        recorded |= {"snapshots": recorded["snapshots"][..., 0], "codes": recorded["codes"][0]}
        recorded["channel"] = recorded["channel"][0, 0]
        containers.save(tmp_path / "a.npz", recorded)
        status, _, err = _run(capsys, f"--data={tmp_path / 'a.npz'}", f"--out={tmp_path / 'a.csv'}")
        assert status == 0
        assert err.startswith("note: snapshots [3, 8] are read as 3 scenes of one antenna")

    def test_a_file_that_was_there_is_replaced(self, capsys, data, tmp_path):
        out = tmp_path / "a.csv"
        out.write_text("before")
        assert _run(capsys, f"--data={data}", f"--out={out}")[0] == 0
        assert len(_read(out)) == 3


class TestOptions:
    def _arguments(self, capsys, calls, data, tmp_path, *flags):
        out = tmp_path / "a.csv"
        assert _run(capsys, f"--data={data}", f"--out={out}", *flags)[0] == 0
        return calls[-1]

    def test_defaults(self, capsys, calls, data, tmp_path):
        arguments = self._arguments(capsys, calls, data, tmp_path)
        limits = arguments.pop("limits")
        assert arguments == {
            "wavelength": 0.3,
            "wavefront": "spherical",
            "response": None,
            "source_signal": "constant",
            "estimator": "auto",
            "num_sources": None,
            "max_sources": 5,
            "false_alarm_rate": 0.001,
            "search": "normal",
            "static_path": "auto",
            "network": None,
        }
        assert limits == Limits(math.radians(60), math.radians(30), 0.5, math.inf)

    def test_flags_reach_the_estimator(self, capsys, calls, data, tmp_path):
        flags = {
            "estimator": "mvdr",
            "num_sources": 2,
            "max_sources": 3,
            "source_signal": "independent",
            "wavefront": "fresnel",
            "false_alarm_rate": 0.05,
            "search": "fast",
            "static_path": "off",
        }
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        arguments += ["--range_min=2", "--range_max=9", "--elevation_max_deg=0"]
        arguments = self._arguments(capsys, calls, data, tmp_path, *arguments)
        assert {name: arguments[name] for name in flags} == flags
        assert arguments["limits"] == Limits(math.radians(60), 0.0, 2.0, 9.0)

    @pytest.mark.parametrize("name", ["MUSIC", "Music", "maximum-likelihood"])
    def test_estimators_in_any_case(self, capsys, calls, data, tmp_path, name):
        arguments = self._arguments(capsys, calls, data, tmp_path, f"--estimator={name}")
        assert arguments["estimator"] == name.lower().replace("-", "_")

    @pytest.mark.parametrize("truth", [True, False])
    def test_a_static_path_changes_the_noise_of_snr_db(
        self, capsys, monkeypatch, calls, tmp_path, truth
    ):
        """A second pass, only with snr_db: the path is not part of the SNR."""
        fake, noise = localization.localize, []

        def localize(measurement, positions, **options):
            noise.append(measurement.noise_variance)
            found = fake(measurement, positions, **options)
            strength = np.full(len(found.num_sources), 10.0)
            return found._replace(static_path_db=strength, static_path_loss_db=0.03 * strength)

        monkeypatch.setattr(localization, "localize", localize)
        recorded = _arrays(truth)
        recorded["snapshots"] += 10.0 * np.abs(recorded["snapshots"]).max()
        containers.save(tmp_path / "a.npz", recorded)
        out = tmp_path / "a.csv"
        status, printed, _ = _run(capsys, f"--data={tmp_path / 'a.npz'}", f"--out={out}")
        assert status == 0
        assert "static path: median power +10.0 dB relative to the sources" in printed
        choices = [call["static_path"] for call in calls]
        assert choices == (["auto", "on"] if truth else ["auto"])
        if truth:
            assert np.all(noise[1] < 0.1 * noise[0])

    @pytest.mark.parametrize("batch_size", [1, 2, 64])
    def test_batches(self, capsys, calls, data, tmp_path, batch_size):
        self._arguments(capsys, calls, data, tmp_path, f"--batch_size={batch_size}")
        assert len(calls) == -(-SCENES // min(batch_size, SCENES))

    def test_settings_of_a_shard(self, capsys, calls, tmp_path):
        shard = tmp_path / "shard.npz"
        np.savez(shard, **_as_shard())
        arguments = self._arguments(capsys, calls, shard, tmp_path)
        assert (arguments["wavefront"], arguments["source_signal"]) == ("parabolic", "constant")
        arguments = self._arguments(
            capsys, calls, shard, tmp_path, "--wavefront=spherical", "--source_signal=independent"
        )
        assert (arguments["wavefront"], arguments["source_signal"]) == ("spherical", "independent")


@pytest.mark.usefixtures("calls")
class TestBadFlags:
    @pytest.mark.parametrize(
        ("flags", "parts"),
        [
            (["--out={}/a.txt"], ["--out", ".csv or .json", "a.txt"]),
            (["--out={}/a"], ["--out", ".csv or .json"]),
            (["--out={}/none/a.csv"], ["--out", "a directory that exists", "none"]),
            (["--out={}"], ["--out", ".csv or .json"]),
            (["--out={}/folder.csv"], ["--out", "name of a file", "folder.csv"]),
            (["--out="], ["--out", "none given"]),
            (["--data="], ["--data", "none given"]),
            (["--num_sources=6"], ["num_sources", "0 to max_sources=5", "6"]),
            (["--num_sources=2", "--max_sources=1"], ["num_sources", "max_sources=1", "2"]),
            (["--num_sources=0"], ["num_sources", "0"]),
            (["--num_sources=two"], ["num_sources", "two"]),
            (["--max_sources=0"], ["max_sources", "0"]),
            (["--max_sources=36"], ["max_sources", "min(N, L M) = 36", "36"]),
            (
                ["--estimator=esprit"],
                ["estimator", "maximum_likelihood, network, music, mvdr", "esprit"],
            ),
            (["--false_alarm_rate=0"], ["false_alarm_rate", "0 < value < 1", "0.0"]),
            (["--false_alarm_rate=1"], ["false_alarm_rate", "1.0"]),
            (["--false_alarm_rate=nan"], ["false_alarm_rate", "nan"]),
            (["--false_alarm_rate=-0.1"], ["false_alarm_rate", "-0.1"]),
            (["--wavefront=flat"], ["wavefront", "spherical", "flat"]),
            (["--source_signal=fixed"], ["source_signal", "independent", "fixed"]),
            (["--azimuth_max_deg=90"], ["--azimuth_max_deg", "0 < value < 90", "90.0"]),
            (["--elevation_max_deg=-5"], ["--elevation_max_deg", "-5.0"]),
            (["--range_min=0"], ["--range_min", "above zero", "0.0"]),
            (["--range_min=inf"], ["--range_min", "inf"]),
            (["--range_min=nan"], ["--range_min", "nan"]),
            (["--range_max=0.4"], ["--range_max", "more than --range_min=0.5", "0.4"]),
            (["--range_max=nan"], ["--range_max", "nan"]),
            (["--binary_codes=phases"], ["binary_codes", "states", "phases"]),
            (["--workdir={}"], ["no run in"]),
            (["--workdir={}/none"], ["no run in", "none"]),
            (["--pretrained=x"], ["pretrained", "need one of", "'x'"]),
            (["--pretrained=default", "--workdir={}"], ["--pretrained", "--workdir", "both given"]),
            (["--estimator=network"], ["--estimator: network needs --pretrained or --workdir"]),
            (["--figure={}/map.txt"], ["--figure", ".png or .pdf or .svg", "map.txt"]),
            (["--figure={}/none/map.png"], ["--figure", "a directory that exists"]),
            (["--figure={}/map.png", "--figure_scene=3"], ["--figure_scene", "0 to 2", "3"]),
            (["--figure_scene=1"], ["--figure_scene", "needs --figure"]),
            (["--batch_size=0"], ["batch_size", "0"]),
            (["--static_path=maybe"], ["static_path", "auto", "maybe"]),
            (
                ["--static_path=on", "--source_signal=independent"],
                ["static_path: expected off or auto with independent signals", "known pilot"],
            ),
            (["--nosuch=1"], ["nosuch"]),
        ],
    )
    def test_one_line_and_no_output_file(self, capsys, monkeypatch, data, tmp_path, flags, parts):
        real = {"--max_sources=36", "--estimator=network", "--source_signal=independent"}
        if real & set(flags):
            monkeypatch.undo()  # errors of the estimators
        (tmp_path / "folder.csv").mkdir()
        before = sorted(tmp_path.iterdir())
        given = [f"--data={data}", f"--out={tmp_path / 'a.csv'}"]
        status, out, err = _run(capsys, *given, *(flag.format(tmp_path) for flag in flags))
        _assert_one_line(status, err, *parts)
        assert len(out.splitlines()) <= 1  # the first line, which comes before JAX
        assert sorted(tmp_path.iterdir()) == before

    def test_bad_out_is_reported_before_the_data_are_read(self, capsys, tmp_path):
        status, _, err = _run(capsys, "--data=/nonexistent.npz", f"--out={tmp_path / 'a.txt'}")
        _assert_one_line(status, err, "--out")


def _drop(key):
    return lambda recorded: recorded.pop(key)


def _set(key, change):
    return lambda recorded: recorded.update({key: change(recorded[key])})


@pytest.mark.usefixtures("calls")
class TestBadData:
    def _refused(self, capsys, path, *parts):
        before = sorted(path.parent.iterdir()) if path.parent.exists() else []
        status, out, err = _run(capsys, f"--data={path}", f"--out={path.with_name('out.csv')}")
        _assert_one_line(status, err, *parts)
        assert len(out.splitlines()) <= 1  # the first line, which comes before JAX
        if path.parent.exists():
            assert sorted(path.parent.iterdir()) == before

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            (_drop("channel"), ["missing keys: channel"]),
            (_drop("azimuth"), ["truth", "azimuth"]),
            (_set("codes", lambda c: c.swapaxes(1, 2)), ["codes", "swapped"]),
            (_set("snapshots", lambda y: y[..., :3]), ["channel", "[3, 3, 36]", "[3, 8, 36]"]),
            (_set("snapshots", lambda y: y.real), ["snapshots", "complex numbers", "real"]),
            (_set("channel", lambda h: np.stack([h.real, h.imag], -1)), ["channel", "complex"]),
            (_set("snapshots", lambda y: y * np.nan), ["no usable scene among 3", "scene 0"]),
            (_set("snapshots", lambda y: y * 0), ["no usable scene among 3", "all zero"]),
            (_set("snapshots", lambda y: y[:0]), ["snapshots", "empty axis"]),
            (_set("wavelength", lambda x: -x), ["wavelength", "above zero"]),
            (_set("azimuth", lambda x: x + 90), ["azimuth", "degrees?"]),
            (lambda recorded: recorded.update({"snr": np.ones(3)}), ["unknown keys: 'snr'"]),
        ],
    )
    def test_arrays(self, capsys, tmp_path, change, parts):
        recorded = _arrays()
        change(recorded)
        containers.save(tmp_path / "a.npz", recorded)
        self._refused(capsys, tmp_path / "a.npz", "a.npz", *parts)

    def test_missing(self, capsys, tmp_path):
        self._refused(capsys, tmp_path / "none.npz", "none.npz", "no such file")

    @pytest.mark.parametrize("ending", [".npz", ".h5"])
    def test_truncated(self, capsys, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        containers.save(path, _arrays())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self._refused(capsys, path, path.name)

    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.npz", b""), ("a.npz", b"hello"), ("a.txt", b"1,2,3"), ("a.mat", b"MATLAB 5.0 MAT")],
    )
    def test_foreign(self, capsys, tmp_path, name, content):
        path = tmp_path / name
        path.write_bytes(content)
        self._refused(capsys, path, name)

    def test_pickled(self, capsys, tmp_path):
        recorded = _arrays() | {"codes": np.array([{"a": 1}], object)}
        np.savez(tmp_path / "a.npz", **recorded)
        self._refused(capsys, tmp_path / "a.npz", "codes", "pickled")

    def test_empty_folder(self, capsys, tmp_path):
        (tmp_path / "shards").mkdir()
        self._refused(capsys, tmp_path / "shards", "shards", "directory of .npz")


def test_a_failure_during_estimation_writes_nothing(capsys, monkeypatch, data, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(localization, "localize", fail)
    status, _, err = _run(capsys, f"--data={data}", f"--out={tmp_path / 'a.csv'}")
    _assert_one_line(status, err, "out of memory", "--batch_size")
    assert [path.name for path in tmp_path.iterdir()] == [data.name]


def test_help_names_every_estimator():
    for name in localization.ESTIMATORS:
        assert name in localize.FLAGS.get_help()


class TestRealEstimators:
    """Real estimators on data with truth."""

    @pytest.mark.parametrize(
        "estimator", ["maximum_likelihood", pytest.param("music", marks=pytest.mark.full)]
    )
    def test_finds_the_sources(self, capsys, data, tmp_path, estimator):
        out = tmp_path / "a.csv"
        flags = [f"--estimator={estimator}", "--max_sources=2", "--range_min=0.5"]
        status, printed, err = _run(capsys, f"--data={data}", f"--out={out}", *flags)
        assert (status, err) == (0, "")
        rows = _read(out)
        assert rows
        assert all(np.isfinite(float(row["azimuth_deg"])) for row in rows)
        if estimator == "maximum_likelihood":
            assert "number correct in 100.0%" in printed
            assert "100.0% of" in printed
            assert all(float(row["azimuth_std_deg"]) < 5 for row in rows)
        else:
            assert all(row["azimuth_std_deg"] == "" for row in rows)
