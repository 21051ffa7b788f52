"""Train, evaluate and doctor, one after the other, as a user would."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest

from ris_jax import arrays, metrics, networks, scenes
from ris_jax import config as config_lib
from ris_jax.cli import doctor, main
from ris_jax.data import containers, simulation

SMALL = (
    "system.rows=4", "system.columns=4", "system.num_antennas=4", "system.num_snapshots=6",
    "scene.max_sources=2", "model.width=16", "model.depth=1", "model.num_heads=2",
    "training.validation_scenes=20",
)  # fmt: skip
CONFIG = config_lib.override(
    config_lib.Config(), {name: int(x) for name, x in (text.split("=") for text in SMALL)}
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of two short epochs."""
    folder = tmp_path_factory.mktemp("run") / "small"
    settings = [f"--set={setting}" for setting in SMALL]
    sizes = ["--epochs=2", "--steps_per_epoch=30", "--batch_size=16"]
    assert main.main(["ris-jax", "train", f"--workdir={folder}", *sizes, *settings]) == 0
    return folder


def test_train_draws_its_loss_curves(workdir):
    assert (workdir / "figures" / "loss.png").stat().st_size > 10_000


def test_evaluate(workdir, capsys):
    assert main.main(["ris-jax", "evaluate", f"--workdir={workdir}", "--num_scenes=50"]) == 0
    printed = capsys.readouterr().out
    assert "variance of outputs over variance of truth" in printed
    assert "expected calibration error of the count" in printed
    with (workdir / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["scenes"] == "50"
    by_count = [row for row in rows if row["scenes of"].startswith("K =")]
    by_snr = [row for row in rows if row["scenes of"].endswith("dB")]
    assert sum(int(row["scenes"]) for row in by_count) == 50
    assert sum(int(row["scenes"]) for row in by_snr) == 50
    assert (workdir / "evaluation.tex").exists()
    assert (workdir / "figures" / "covariance_scores.png").exists()


def test_evaluate_an_estimator_with_the_network(workdir, tmp_path, capsys):
    """Of the scenes that it was trained for; beside the same scenes without it."""
    settings = [f"--set={setting}" for setting in SMALL]
    sizes = ["--num_scenes=12", "--batch_size=12", f"--out={tmp_path}"]
    command = ["ris-jax", "evaluate", "--estimator=network", f"--workdir={workdir}"]
    assert main.main([*command, *sizes, *settings]) == 0
    printed = capsys.readouterr().out
    assert f"network with {workdir}, 12 scenes of the stream 'test'" in printed
    with (tmp_path / "evaluation_network.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["scenes_of"], rows[0]["scenes"]) == ("all", "12")
    assert (tmp_path / "figures" / "network_scene_map.png").exists()


def _scores(folder):
    with (folder / "evaluation.csv").open() as file:
        return next(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(workdir):
    """The scores of the first four scenes of the stream `test`."""
    assert main.main(["ris-jax", "evaluate", f"--workdir={workdir}", "--num_scenes=4"]) == 0
    return _scores(workdir)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The same scenes on disk."""
    folder = tmp_path_factory.mktemp("out") / "records"
    counts = {"train": 16, "test": 4}
    simulation.simulate(CONFIG, folder, counts, shard_scenes=8)
    return folder


def test_evaluate_on_records(workdir, drawn, records, capsys):
    flags = [f"--workdir={workdir}", f"--data={records}"]
    assert main.main(["ris-jax", "evaluate", *flags]) == 0
    assert f"4 scenes of {records}" in capsys.readouterr().out
    stored = _scores(workdir)
    for name in ("scenes", "network", "effective", "snapshots", "count right"):
        assert float(stored[name]) == pytest.approx(float(drawn[name]), rel=1e-3)
    # Learned on the sixteen that are stored to train on, not on the stream.
    assert stored["constant"] != drawn["constant"]


def test_evaluate_on_records_of_another_count(workdir, tmp_path, capsys):
    more = config_lib.override(CONFIG, {"scene.max_sources": 3})
    simulation.simulate(more, tmp_path / "records", {"test": 2}, shard_scenes=2)
    flags = [f"--workdir={workdir}", f"--data={tmp_path / 'records'}"]
    assert main.main(["ris-jax", "evaluate", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data: need places for 2 sources a scene" in line
    assert "got 3 in" in line


def test_evaluate_on_recordings(workdir, drawn, recordings, capsys):
    """Their noise variance follows from the SNR, so that scores are only nearly the same."""
    assert main.main(["ris-jax", "evaluate", f"--workdir={workdir}", f"--data={recordings}"]) == 0
    found = _scores(workdir)
    assert found["scenes"] == "4"
    assert float(found["snapshots"]) == pytest.approx(float(drawn["snapshots"]), rel=1e-3)
    assert float(found["network"]) == pytest.approx(float(drawn["network"]), rel=0.5)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Scenes of the system that the run was trained on, with their truth."""
    draw = jax.jit(lambda key: scenes.sample_scenes(key, CONFIG, 4))
    batch = jax.device_get(draw(scenes.stream_key(0, "test")))
    path = tmp_path_factory.mktemp("data") / "recordings.npz"
    recorded = {
        "snapshots": batch.measurement.snapshots,
        "channel": batch.measurement.channel,
        "codes": batch.measurement.codes,
        "wavelength": CONFIG.system.wavelength,
        "element_positions": np.asarray(arrays.element_positions(CONFIG.system)),
        "snr_db": batch.truth.snr_db,
    }
    truth = {name: getattr(batch.truth, name) for name in metrics.Sources._fields}
    containers.save(path, recorded | truth)
    return path


def _localize(recordings, out, *arguments):
    flags = [f"--data={recordings}", f"--out={out}", "--max_sources=2", *arguments]
    return main.main(["ris-jax", "localize", *flags])


@pytest.mark.parametrize("estimator", ["auto", "music"])
def test_localize_with_a_run(workdir, recordings, tmp_path, capsys, estimator):
    out = tmp_path / "positions.json"
    assert _localize(recordings, out, f"--workdir={workdir}", f"--estimator={estimator}") == 0
    assert "against the truth" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["network"], found["estimator"]) == (str(workdir), estimator)
    assert len(found["scenes"]) == 4
    sources = [source for scene in found["scenes"] for source in scene["sources"]]
    assert sources
    assert all(abs(source["azimuth_deg"]) < 90 for source in sources)


def _refused(capsys, out, *parts):
    printed, err = capsys.readouterr()
    assert printed == ""
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert not out.exists()


@pytest.mark.parametrize("flag", ["azimuth_max_deg", "elevation_max_deg", "range_min"])
def test_a_network_has_its_own_field_of_view(workdir, recordings, tmp_path, capsys, flag):
    out = tmp_path / "positions.csv"
    assert _localize(recordings, out, f"--workdir={workdir}", f"--{flag}=20") != 0
    _refused(capsys, out, f"--{flag}: need none with a network")


def test_a_shipped_network_has_its_own_field_of_view(recordings, tmp_path, capsys):
    shipped = networks.names()
    if not shipped:
        pytest.skip("no network comes with this copy of the package")
    out = tmp_path / "positions.csv"
    for name in shipped:
        assert _localize(recordings, out, f"--pretrained={name}", "--range_min=1") != 0
        _refused(capsys, out, "--range_min: need none with a network")


def test_a_damaged_run_is_told(workdir, recordings, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for manifest in (copy / "checkpoints").glob("*.sha256.json"):
        manifest.unlink()
    out = tmp_path / "positions.csv"
    assert _localize(recordings, out, f"--workdir={copy}") != 0
    _refused(capsys, out, "checkpoint")


def test_doctor_checks_a_run(workdir, tmp_path):
    findings = list(doctor.check_run(workdir))
    assert [name for name, *_ in findings] == ["checkpoints are whole", "beats the best constant"]
    assert findings[0][1]
    (failed,) = doctor._guarded("run", lambda: doctor.check_run(tmp_path))
    assert not failed[1]
    assert "no run in" in failed[2]


def test_doctor_finds_a_run_that_lost_its_rows(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "metrics.jsonl").unlink()
    assert [holds for _, holds, _ in doctor.check_run(copy)] == [True, False]


def test_overflowing_rate_ends_the_run_and_saves_nothing_bad(tmp_path, capsys):
    """Gradients are finite, the update is not: no checkpoint may hold it."""
    settings = [f"--set={setting}" for setting in (*SMALL, "optimizer.method=adamw")]
    sizes = ["--epochs=2", "--steps_per_epoch=4", "--batch_size=16", "--learning_rate=1e30"]
    assert main.main(["ris-jax", "train", f"--workdir={tmp_path}", *sizes, *settings]) == 1
    assert "the learning rate is too high" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").glob("*.json"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "microbatch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "--workdir: need the folder of a run"),
        (["evaluate", "--estimator=esprit"], "estimator: need one of auto, maximum_likelihood"),
        (["evaluate", "--pretrained=default", "--workdir=x"], "both given"),
        (["evaluate", "--pretrained=x"], "pretrained: need one of"),
        (["evaluate", "--workdir=x", "--seed=3"], "--seed: goes with --estimator"),
        (["evaluate", "--workdir=/nonexistent"], "no run in /nonexistent"),
        (["evaluate", "--estimator=network", "--pretrained=x"], "pretrained: need one of"),
        (["evaluate", "--estimator=network", "--workdir=/none"], "no run in /none"),
    ],
)
def test_evaluate_refuses(arguments, message, capsys):
    assert main.main(["ris-jax", *arguments]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
