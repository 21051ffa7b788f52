"""Complete small runs: the identities that the reference's loop violated."""

import json
import re

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.physics import scenes
from ris_jax.training import extension, loop, run_clock
from ris_jax.training import step as step_lib
from ris_jax.training.saving import checkpoint, metrics_log


def _still(config: config_lib.Config, accumulation: int, steps: int) -> config_lib.Config:
    """Return a configuration with learning rate zero, no dropout, validation on training scenes."""
    scenes_seen = steps * config.training.batch_size
    return config_lib.override(
        config,
        {
            "optimizer.learning_rate": 0.0,
            "optimizer.accumulation": accumulation,
            "training.steps_per_epoch": steps,
            "training.fixed_scenes": scenes_seen,
            "training.validation_scenes": scenes_seen,
            "training.validate_on_training_scenes": True,
        },
    )


@pytest.mark.parametrize(
    ("accumulation", "steps"),
    [
        pytest.param(1, 8, marks=pytest.mark.full),
        pytest.param(4, 8, marks=pytest.mark.full),
        (4, 7),
    ],
)
def test_with_learning_rate_zero_train_loss_is_validation_loss(
    tiny_config, tmp_path, accumulation, steps
):
    """Detect both of the reference's indentation bugs.

    Steps are traced once per run, also in the process that resumes it.
    """
    config = _still(tiny_config, accumulation, steps)
    programs = step_lib.donating_step, step_lib.scoring_step
    for program in programs:
        program.clear_cache()  # runs of another length share the programs
    loop.train(config, tmp_path)
    (tmp_path / "checkpoints" / "2.sha256.json").unlink()  # resume from epoch 1
    loop.train(config, tmp_path)
    assert [program.num_compiled() for program in programs] == [1, 1]
    rows = metrics_log.epoch_rows(tmp_path)
    assert len(rows) == 2
    for row in rows:
        assert row["train_loss"] == pytest.approx(row["val_loss"], abs=1e-5)
        assert row["train_nmse"] == pytest.approx(row["val_nmse"], abs=1e-5)
        assert row["microbatches"] == steps
        assert row["updates"] == -(-steps // accumulation)


def test_rows_drop_no_microbatch(tiny_config, tmp_path):
    """Windows of log_every = 4 over 6 microbatches: 4 + 2, in each of two epochs."""
    loop.train(tiny_config, str(tmp_path))
    rows = [row for row in metrics_log.read_rows(tmp_path) if row["kind"] == "microbatch"]
    assert [row["window_microbatches"] for row in rows] == [4, 2, 4, 2]
    assert [row["microbatch"] for row in rows] == [4, 6, 10, 12]
    for epoch_row in metrics_log.epoch_rows(tmp_path):
        windows = [row for row in rows if row["epoch"] == epoch_row["epoch"]]
        total = sum(row["window_loss"] * row["window_microbatches"] for row in windows)
        assert total / 6 == pytest.approx(epoch_row["train_loss"], rel=1e-9)


def test_files_and_lines_of_a_run(tiny_config, tmp_path, capsys):
    loop.train(tiny_config, tmp_path)
    text = capsys.readouterr().out
    assert "[OPT] step 1 / batch 1 LRs=[" in text
    assert text.count("[GRAD] backbone=") == 3
    assert "constant" in text
    assert "snapshots" in text
    assert json.loads((tmp_path / "config.json").read_text())["training"]["batch_size"] == 8
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert (tmp_path / "checkpoints" / "2").is_dir()


def _spoiled_from(first_bad: int):
    """Return a `draw_batch` with NaN snapshots from a microbatch on."""
    draw = step_lib.draw_batch

    def spoiled(config, step):
        batch: scenes.Scene = draw(config, step)
        if int(step) < first_bad:
            return batch
        snapshots = batch.measurement.snapshots * np.nan
        return batch._replace(measurement=batch.measurement._replace(snapshots=snapshots))

    return spoiled


def test_many_bad_microbatches_in_a_row_end_the_run(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(step_lib, "draw_batch", _spoiled_from(8))  # the third of epoch 2
    with pytest.raises(errors.RunError, match=r"3 consecutive microbatches.*microbatch 11 .*covar"):
        loop.train(tiny_config, tmp_path)
    assert (tmp_path / "checkpoints" / "1.sha256.json").exists()
    # Without NaN the run resumes from the intact checkpoint.
    monkeypatch.undo()
    loop.train(tiny_config, tmp_path)
    rows = metrics_log.epoch_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["skipped"] for row in rows] == [0, 0]


def test_few_bad_microbatches_are_counted(tiny_config, tmp_path, monkeypatch):
    draw = step_lib.draw_batch
    bad = _spoiled_from(0)
    monkeypatch.setattr(
        step_lib, "draw_batch", lambda c, s: (bad if int(s) in (1, 2) else draw)(c, s)
    )
    loop.train(tiny_config, tmp_path)
    first, second = metrics_log.epoch_rows(tmp_path)
    assert (first["skipped"], first["updates"], first["microbatches"]) == (2, 4, 6)
    assert second["skipped"] == 0
    assert np.isfinite(first["train_loss"])


def test_lines_have_step_rate_and_remaining_time(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_clock, "_SECONDS_BETWEEN_LINES", 0.0)
    loop.train(tiny_config, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if ", step " in line]
    assert [line.split(":")[0] for line in lines] == [
        "epoch 1, step 4 of 12", "epoch 1, step 6 of 12", "epoch 2, step 10 of 12",
        "epoch 2, step 12 of 12",
    ]  # fmt: skip
    for line in lines[1:]:
        assert re.search(r"loss \d+\.\d{4}, \d+ scenes/s, \d+:\d\d:\d\d left$", line), line


def test_a_finished_run_is_extended(tiny_config, tmp_path, capsys):
    """Its first epochs stay; the next ones follow the longer schedule, after a kill as well."""
    shorter, short, longer = (
        config_lib.override(
            tiny_config, {"training.epochs": epochs, "training.keep_checkpoints": 4}
        )
        for epochs in (1, 2, 4)
    )
    loop.train(short, tmp_path)
    before = metrics_log.read_rows(tmp_path)
    with pytest.raises(config_lib.ConfigError, match="need the 2 epochs of the run in it, or more"):
        loop.train(shorter, tmp_path)
    capsys.readouterr()
    loop.train(longer, tmp_path)
    text = capsys.readouterr().out
    rates = [extension._learning_rate(config, 12) for config in (short, longer)]
    assert "extending the run from 2 to 4 epochs" in text
    assert f"from {rates[0]:.2e} to {rates[1]:.2e}" in text
    rows = metrics_log.read_rows(tmp_path)
    assert rows[: len(before)] == before
    assert [row["epoch"] for row in metrics_log.epoch_rows(tmp_path)] == [1, 2, 3, 4]
    assert checkpoint.load_config(tmp_path).training.epochs == 4
    # Without those of epochs 3 and 4, the checkpoints of the shorter run are read and resumed.
    for epoch in (3, 4):
        (tmp_path / "checkpoints" / f"{epoch}.sha256.json").unlink()
    checkpoint.load_run(tmp_path)
    loop.train(longer, tmp_path)
    assert "extending" not in capsys.readouterr().out
    assert metrics_log.read_rows(tmp_path) == rows
    loop.train(longer, tmp_path)
    assert "all 4 epochs are done already; a larger --epochs" in capsys.readouterr().out
