"""Train, evaluate and doctor, one after the other, as a user would."""

import csv
import json

import pytest

from ris_jax.cli import doctor, main

SMALL = (
    "system.rows=4", "system.columns=4", "system.num_antennas=4", "system.num_snapshots=6",
    "scene.max_sources=2", "model.width=16", "model.depth=1", "model.num_heads=2",
    "training.validation_scenes=20",
)  # fmt: skip


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
    assert "variance of outputs over variance of truth" in capsys.readouterr().out
    with (workdir / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["scenes"] == "50"
    by_count = [row for row in rows if row["scenes of"].startswith("K =")]
    by_snr = [row for row in rows if row["scenes of"].endswith("dB")]
    assert sum(int(row["scenes"]) for row in by_count) == 50
    assert sum(int(row["scenes"]) for row in by_snr) == 50
    assert (workdir / "evaluation.tex").exists()
    assert (workdir / "figures" / "covariance_scores.png").exists()


def test_doctor_checks_a_run(workdir, tmp_path):
    findings = list(doctor.check_run(workdir))
    assert [name for name, *_ in findings] == ["checkpoints are whole", "beats the best constant"]
    assert findings[0][1]
    (failed,) = doctor._guarded("run", lambda: doctor.check_run(tmp_path))
    assert not failed[1]
    assert "no run in" in failed[2]


def test_doctor_finds_a_run_that_lost_its_rows(workdir, tmp_path):
    import shutil

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
    ],
)
def test_evaluate_refuses(arguments, message, capsys):
    assert main.main(["ris-jax", *arguments]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
