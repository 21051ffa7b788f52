"""A run that was stopped anywhere goes on bit for bit like one that never was."""

import errno
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training import checkpoint, loop, record
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

_EPOCHS, _STEPS = 4, 3


@pytest.fixture(scope="module")
def config(tiny_config) -> config_lib.Config:
    """Accumulation does not divide an epoch: a checkpoint holds a half-filled window."""
    return config_lib.override(
        tiny_config,
        {
            "model.dropout": 0.1,
            "optimizer.accumulation": 2,
            "training.epochs": _EPOCHS,
            "training.steps_per_epoch": _STEPS,
            "training.validation_scenes": 12,
            "training.log_every": 2,
        },
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> tuple[pathlib.Path, state_lib.TrainState]:
    """The folder and the last state of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(config, workdir)


class _Stopped(BaseException):
    """Not an Exception: as little can be done about it as about a kill."""


def _stop_before_save(monkeypatch, epoch):
    save = checkpoint.Checkpoints.save

    def stopping(self, state, at, progress, val_nmse):
        if at == epoch:
            raise _Stopped
        save(self, state, at, progress, val_nmse)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", stopping)


def _stop_after_save(monkeypatch, epoch):
    save = checkpoint.Checkpoints.save

    def stopping(self, state, at, progress, val_nmse):
        save(self, state, at, progress, val_nmse)
        if at == epoch:
            raise _Stopped

    monkeypatch.setattr(checkpoint.Checkpoints, "save", stopping)


def _stop_before_hashes(monkeypatch, epoch):
    write = checkpoint.Checkpoints._write_manifest

    def stopping(self, at, val_nmse):
        if at == epoch:
            raise _Stopped
        write(self, at, val_nmse)

    monkeypatch.setattr(checkpoint.Checkpoints, "_write_manifest", stopping)


def _stop_inside(monkeypatch, epoch):
    draw = step_lib.draw_batch

    def stopping(config, step):
        if int(step) == (epoch - 1) * _STEPS + 2:
            raise _Stopped
        return draw(config, step)

    monkeypatch.setattr(step_lib, "draw_batch", stopping)


def _train_until(stop, epoch, config, workdir):
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, epoch)
        with pytest.raises(_Stopped):
            loop.train(config, workdir)


def _assert_same_state(ours, theirs):
    for here, there in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes()


@pytest.mark.parametrize(
    ("stop", "epoch"),
    [
        (_stop_inside, 1),
        (_stop_before_save, 1),
        (_stop_before_hashes, 3),
        (_stop_after_save, 2),
        (_stop_inside, 4),
    ],
)
def test_stopped_and_started_again(config, whole, tmp_path, stop, epoch):
    _train_until(stop, epoch, config, tmp_path)
    state = loop.train(config, tmp_path)
    # All rows, those of kind start and microbatch included, and none of them twice.
    assert record.read_rows(tmp_path) == record.read_rows(whole[0])
    assert len(record.epoch_rows(tmp_path)) == _EPOCHS
    _assert_same_state(state, whole[1])


def test_a_damaged_checkpoint_is_told_and_its_epoch_runs_again(config, whole, tmp_path, capsys):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    victim = max((workdir / "checkpoints" / str(_EPOCHS)).rglob("d/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    state = loop.train(config, workdir)
    text = capsys.readouterr().out
    assert f"warning: checkpoint of epoch {_EPOCHS} is not used: file " in text
    assert f"going on after epoch {_EPOCHS - 1} of {_EPOCHS}" in text
    assert record.read_rows(workdir) == record.read_rows(whole[0])
    _assert_same_state(state, whole[1])


def test_a_finished_run_returns_without_training(config, whole, tmp_path, monkeypatch):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    monkeypatch.setattr(step_lib, "train_step", None)
    state = loop.train(config, workdir)
    assert int(state.step) == _EPOCHS * _STEPS
    _assert_same_state(state, whole[1])
    assert record.read_rows(workdir) == record.read_rows(whole[0])


@pytest.mark.parametrize("progress", [3, {"epoch": "1"}, {"epochs": 1}])
def test_progress_that_is_none_is_an_error(whole, progress):
    restored = checkpoint.Restored(whole[1], 2, progress)
    with pytest.raises(errors.RunError, match="checkpoint of epoch 2: progress: need what"):
        loop._progress_of(restored)


def test_another_configuration_is_an_error_that_names_the_fields(config, whole):
    other = config_lib.override(config, {"training.seed": 7, "model.width": 32})
    before = (whole[0] / "metrics.jsonl").read_bytes()
    named = r"model\.width=32 \(there 16\), training\.seed=7 \(there 0\)"
    with pytest.raises(config_lib.ConfigError, match=named):
        loop.train(other, whole[0])
    # Nor is a lost config.json a way around it.
    config_file = whole[0] / "config.json"
    content = config_file.read_bytes()
    config_file.unlink()
    with pytest.raises(config_lib.ConfigError, match=named):
        loop.train(other, whole[0])
    config_file.write_bytes(content)
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


def test_early_stopping_stops_at_the_same_epoch_however_often_started(config, tmp_path, capsys):
    """With learning rate zero the first epoch is the best; two more do not change that."""
    still = config_lib.override(
        config,
        {
            "optimizer.learning_rate": 0.0,
            "training.early_stopping_epochs": 2,
            "training.keep_checkpoints": 1,
        },
    )
    _train_until(_stop_inside, 3, still, tmp_path)
    for _ in range(2):
        loop.train(still, tmp_path)
        assert [row["epoch"] for row in record.epoch_rows(tmp_path)] == [1, 2, 3]
        assert "no better val_nmse for 2 epochs" in capsys.readouterr().out
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"1", "3"}  # the best, and the newest


class TestRecords:
    def _rows(self, workdir, content):
        (workdir / "metrics.jsonl").write_bytes(content)
        return record.read_rows(workdir)

    def test_a_line_that_was_cut_short_is_left_out(self, whole, tmp_path):
        content = (whole[0] / "metrics.jsonl").read_bytes()
        rows = record.read_rows(whole[0])
        assert self._rows(tmp_path, content[:-20]) == rows[:-1]
        assert self._rows(tmp_path, content[:-1]) == rows  # only the end of the line is missing
        assert self._rows(tmp_path, content + b'{"kind": "epo\xff') == rows
        assert self._rows(tmp_path, content + b"\x00" * 100) == rows
        for other in (
            b"3",
            b"[" * 100_000,
            b'{"kind": "epoch", "epoch": "1"}',
            b'{"kind": 3, "epoch": 1}',
            b'{"kind": "x", "epoch": 1, "microbatch": "a"}',
        ):
            assert self._rows(tmp_path, other + b"\n" + content) == rows

    def test_are_mended_when_the_run_goes_on(self, config, whole, tmp_path):
        workdir = shutil.copytree(whole[0], tmp_path / "run")
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "microbatch", "epoch": 5, "window_lo')
        loop.train(config, workdir)
        expected = (whole[0] / "metrics.jsonl").read_bytes()
        assert (workdir / "metrics.jsonl").read_bytes() == expected

    def test_that_are_lost_are_told(self, config, whole, tmp_path, capsys):
        workdir = shutil.copytree(whole[0], tmp_path / "run")
        (workdir / "metrics.jsonl").unlink()
        loop.train(config, workdir)
        assert f"lacks the rows of {_EPOCHS} finished epochs" in capsys.readouterr().out

    def test_floats_survive_being_written_again(self, tmp_path):
        values = {"epoch": 1, "a": 0.1 + 0.2, "b": 5e-324, "c": -1.7976931348623157e308}
        with record.Recorder(tmp_path, 0, 10) as recorder:
            recorder.row("epoch", 1, values | {"nan": float("nan"), "inf": float("inf")})
        with record.Recorder(tmp_path, 1, 10):
            pass
        (row,) = record.epoch_rows(tmp_path)
        assert row == {"kind": "epoch", "nan": None, "inf": None} | values

    def test_on_a_full_disk_end_the_run_with_one_line(self, tmp_path):
        with (  # noqa: PT012  The error must also get out of the recorder.
            pytest.raises(errors.RunError, match=r"metrics\.jsonl.* No space left") as caught,
            record.Recorder(tmp_path, 0, 10) as recorder,
        ):
            recorder._file.close()
            recorder._file = pathlib.Path("/dev/full").open("a")  # noqa: SIM115
            recorder.row("epoch", 1, {"epoch": 1})
        assert caught.value.__cause__.errno == errno.ENOSPC


def _events(path: pathlib.Path) -> list:
    """TensorBoard events of a file: length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto import event_pb2

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_events_of_epochs_that_run_again_are_hidden(config, tmp_path):
    _train_until(_stop_before_save, 3, config, tmp_path)
    loop.train(config, tmp_path)
    first, second = (_events(path) for path in sorted((tmp_path / "tensorboard").iterdir()))
    assert second[1].session_log.status == second[1].session_log.START
    assert second[1].step == 2 * _STEPS + 1
    visible = [e for e in first if e.step < second[1].step] + second
    tags = [(value.tag, e.step) for e in visible for value in e.summary.value]
    assert len(tags) == len(set(tags))
    assert [step for tag, step in tags if tag == "epoch/val_nmse"] == [
        _STEPS * epoch for epoch in range(1, _EPOCHS + 1)
    ]


def _train_command(config: config_lib.Config, workdir: pathlib.Path) -> list[str]:
    defaults = config_lib.flatten(config_lib.to_dict(config_lib.Config()))
    values = config_lib.flatten(config_lib.to_dict(config))
    settings = [f"--set={k}={json.dumps(v)}" for k, v in values.items() if v != defaults[k]]
    return [sys.executable, "-m", "ris_jax", "train", f"--workdir={workdir}", *settings]


def test_killed_processes(config, whole, tmp_path):
    """SIGKILL inside a save and in the middle of training; experiments/kill_soak.py does more."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or str(tmp_path / "jax"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    command = _train_command(config, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"

    def run_until(moment):
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 300.0
            while process.poll() is None and not moment():
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            _, complaint = process.communicate()
        return process.returncode, complaint.decode()

    # The first file of a save is there, its hashes are not.
    returncode, complaint = run_until(lambda: any(checkpoints.glob("1*")))
    assert returncode == -signal.SIGKILL, complaint
    assert not (checkpoints / "1.sha256.json").exists()
    returncode, complaint = run_until((checkpoints / "2.sha256.json").exists)
    assert returncode == -signal.SIGKILL, complaint
    returncode, complaint = run_until(lambda: False)
    assert returncode == 0, complaint
    assert record.read_rows(tmp_path / "run") == record.read_rows(whole[0])
