"""An interrupted run resumes bit for bit like an uninterrupted one."""

import base64
import errno
import json
import os
import pathlib
import re
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
from ris_jax.training import callbacks, loop
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.saving import checkpoint, manifest, metrics_log

_EPOCHS, _STEPS = 4, 3


@pytest.fixture(scope="module")
def config(tiny_config) -> config_lib.Config:
    """Accumulation does not divide an epoch: its last window is partial."""
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
    """Return directory and last state of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(config, workdir)


class _Stopped(BaseException):
    """Simulated kill; not an Exception, so that no code handles it."""


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
    write = manifest.write

    def stopping(root, at, val_nmse):
        if at == epoch:
            raise _Stopped
        write(root, at, val_nmse)

    monkeypatch.setattr(manifest, "write", stopping)


def _stop_inside(monkeypatch, epoch):
    draw = step_lib.draw_batch

    def stopping(config, step):
        if int(step) == (epoch - 1) * _STEPS + 2:
            raise _Stopped
        return draw(config, step)

    monkeypatch.setattr(step_lib, "draw_batch", stopping)


def _train_until(stop, epoch, config, workdir, **options):
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, epoch)
        with pytest.raises(_Stopped):
            loop.train(config, workdir, **options)


def _assert_same_state(ours, theirs):
    for here, there in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes()


@pytest.mark.parametrize(
    ("stop", "epoch"),
    [
        (_stop_inside, 1),
        (_stop_before_hashes, 3),
        pytest.param(_stop_before_save, 1, marks=pytest.mark.full),
        pytest.param(_stop_after_save, 2, marks=pytest.mark.full),
        pytest.param(_stop_inside, 4, marks=pytest.mark.full),
    ],
)
def test_stopped_and_started_again(config, whole, tmp_path, stop, epoch):
    _train_until(stop, epoch, config, tmp_path)
    state = loop.train(config, tmp_path)
    # Compare all rows, including kinds start and microbatch; none occurs twice.
    assert metrics_log.read_rows(tmp_path) == metrics_log.read_rows(whole[0])
    assert len(metrics_log.epoch_rows(tmp_path)) == _EPOCHS
    _assert_same_state(state, whole[1])


def _signalled(monkeypatch, microbatch, number):
    """Send a signal before a microbatch of the run, counted from 1, is computed."""
    step = step_lib.train_step_in_place

    def signalling(state, batch):
        if int(state.step) == microbatch - 1:
            os.kill(os.getpid(), number)
        return step(state, batch)

    monkeypatch.setattr(loop, "dead_parameters", lambda *_: [])  # a step runs before the first
    monkeypatch.setattr(step_lib, "train_step_in_place", signalling)


def _train_until_signal(config, workdir, microbatch, number=signal.SIGTERM):
    with pytest.MonkeyPatch.context() as patch:
        _signalled(patch, microbatch, number)
        with pytest.raises(errors.Interrupted) as caught:
            loop.train(config, workdir)
    return caught.value


def _saved_within(workdir):
    return sorted(path.name for path in (workdir / "interrupted").glob("*"))


@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_stops_a_run_after_the_microbatch_and_it_resumes_there(config, whole, tmp_path):
    """Signals inside a window of rows, at its end, and at the end of an epoch."""
    for number, microbatch in enumerate((1, 3, 5, _EPOCHS * _STEPS)):
        kind = (signal.SIGTERM, signal.SIGINT)[number % 2]
        error = _train_until_signal(config, tmp_path, microbatch, kind)
        epoch, left = divmod(microbatch - 1, _STEPS)
        where = f"microbatch {left + 1} of {_STEPS} in epoch {epoch + 1} of {_EPOCHS}"
        assert str(error).startswith(f"stopped by {kind.name} after {where}, which is saved; ")
        assert error.status == 128 + kind
        assert _saved_within(tmp_path) == [str(microbatch), f"{microbatch}.sha256.json"]
        assert len(metrics_log.epoch_rows(tmp_path)) == epoch
    state = loop.train(config, tmp_path)
    assert metrics_log.read_rows(tmp_path) == metrics_log.read_rows(whole[0])
    _assert_same_state(state, whole[1])
    assert not (tmp_path / "interrupted").exists()


@pytest.mark.parametrize(
    "microbatch", [7, *(pytest.param(n, marks=pytest.mark.full) for n in (6, 13))]
)
def test_stopped_within_the_partial_window_of_an_epoch(config, tmp_path, microbatch):
    """7 microbatches with accumulation 4: windows of 4 and of 3 in each epoch."""
    changes = {
        "optimizer.accumulation": 4, "training.steps_per_epoch": 7, "training.epochs": 2,
    }  # fmt: skip
    config = config_lib.override(config, changes)
    without = loop.train(config, tmp_path / "without")
    assert [row["updates"] for row in metrics_log.epoch_rows(tmp_path / "without")] == [2, 2]
    (tmp_path / "with").mkdir()
    _train_until_signal(config, tmp_path / "with", microbatch)
    assert _saved_within(tmp_path / "with")[0] == str(microbatch)
    state = loop.train(config, tmp_path / "with")
    _assert_same_state(state, without)
    assert metrics_log.read_rows(tmp_path / "with") == metrics_log.read_rows(tmp_path / "without")


def _signal_at_once(monkeypatch, name):
    called = getattr(metrics_log.Recorder, name)

    def signalling(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        called(*arguments)

    monkeypatch.setattr(metrics_log.Recorder, name, signalling)


def test_a_signal_before_the_first_step_saves_nothing(config, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        _signal_at_once(patch, "line")
        with pytest.raises(errors.Interrupted, match=r"SIGTERM before the first microbatch; the"):
            loop.train(config, tmp_path)
    assert not (tmp_path / "interrupted").exists()
    _train_until_signal(config, tmp_path, 4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("interrupted/**/*")}
    _signal_at_once(monkeypatch, "line")
    with pytest.raises(errors.Interrupted, match=r"after microbatch 1 of 3 in epoch 2 of 4"):
        loop.train(config, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("interrupted/**/*")}
    assert after == before


def test_a_damaged_checkpoint_within_an_epoch_is_replaced_by_that_of_the_epoch(
    config, whole, tmp_path, capsys
):
    _train_until_signal(config, tmp_path, 5)
    victim = max((tmp_path / "interrupted" / "5").rglob("d/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    loop.train(config, tmp_path)
    text = capsys.readouterr().out
    assert "warning: checkpoint of microbatch 5 is not used: file " in text
    assert "resuming after epoch 1 of 4" in text
    assert metrics_log.read_rows(tmp_path) == metrics_log.read_rows(whole[0])


@pytest.mark.full
def test_clocks_that_jump_change_nothing(config, whole, tmp_path, monkeypatch):
    """The newest checkpoint follows from its number, not from a clock."""
    random, now = np.random.default_rng(0), [2e9]

    def jumping():
        return now[0] + random.uniform(-1e8, 1e8)  # three years

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    _train_until(_stop_before_save, 3, config, tmp_path)
    now[0] = 1e9  # 32 years back
    _train_until_signal(config, tmp_path, 2 * _STEPS + 2)
    for path in tmp_path.rglob("*"):
        # Later checkpoints get older times than epoch 1.
        age = 1e9 * (1 + ("interrupted" in path.parts) + ("2" in path.parts))
        os.utime(path, (4e9 - age, 4e9 - age))
    now[0] = 1.5e9
    state = loop.train(config, tmp_path)
    assert metrics_log.read_rows(tmp_path) == metrics_log.read_rows(whole[0])
    _assert_same_state(state, whole[1])
    # TensorBoard reads files by name, which is the order of writing.
    events = [_events(path) for path in sorted((tmp_path / "tensorboard").iterdir())]
    assert [found[1].step for found in events] == [0, 2 * _STEPS + 1, 2 * _STEPS + 3]


@pytest.mark.full
def test_out_of_memory_gives_advice_and_keeps_the_checkpoint(config, whole, tmp_path):
    draw = step_lib.draw_batch

    def large(config, step):
        if int(step) == _STEPS + 1:
            jax.numpy.ones(1 << 43).block_until_ready()  # 32 TB
        return draw(config, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_lib, "draw_batch", large)
        advice = r"batch_size=8, .*accumulation=2: --batch_size=4 --accumulation=4 --steps_per_epoc"
        with pytest.raises(errors.OutOfMemoryError, match=advice):
            loop.train(config, tmp_path)
    loop.train(config, tmp_path)
    assert metrics_log.read_rows(tmp_path) == metrics_log.read_rows(whole[0])


@pytest.mark.full
def test_a_full_disk_damages_nothing_and_the_run_resumes(config, whole, tmp_path, small_disk):
    """The disk fills up in the middle of the run, in a checkpoint or in the records."""
    advice = "(free some space|make room).*same command"
    size = sum(path.stat().st_size for path in (whole[0] / "checkpoints" / "4").rglob("*"))
    for share in (0.5, 2.5):
        with small_disk(f"disk-{share}", int(share * size)) as disk:
            workdir = disk.path / "run"
            with pytest.raises(errors.RunError, match=f"{disk.path}.*{advice}"):
                loop.train(config, workdir)
            disk.resize(40 * size)
            state = loop.train(config, workdir)
            assert metrics_log.read_rows(workdir) == metrics_log.read_rows(whole[0])
            _assert_same_state(state, whole[1])
            leftovers = [path for path in workdir.rglob("*") if path.name.endswith("partial")]
            assert leftovers == []


def test_a_damaged_checkpoint_is_reported_and_its_epoch_runs_again(config, whole, tmp_path, capsys):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    victim = max((workdir / "checkpoints" / str(_EPOCHS)).rglob("d/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    state = loop.train(config, workdir)
    text = capsys.readouterr().out
    assert f"warning: checkpoint of epoch {_EPOCHS} is not used: file " in text
    assert f"resuming after epoch {_EPOCHS - 1} of {_EPOCHS}" in text
    assert metrics_log.read_rows(workdir) == metrics_log.read_rows(whole[0])
    _assert_same_state(state, whole[1])


def test_a_finished_run_returns_without_training(config, whole, tmp_path, monkeypatch):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    monkeypatch.setattr(step_lib, "train_step_in_place", None)
    state = loop.train(config, workdir)
    assert int(state.step) == _EPOCHS * _STEPS
    _assert_same_state(state, whole[1])
    assert metrics_log.read_rows(workdir) == metrics_log.read_rows(whole[0])


@pytest.mark.parametrize("progress", [3, {"epoch": "1"}, {"epochs": 1}])
def test_invalid_progress_is_an_error(whole, progress):
    restored = checkpoint.Restored(whole[1], 2, progress)
    with pytest.raises(errors.RunError, match="checkpoint of epoch 2: progress: need what"):
        loop._progress_of(restored)


def test_another_configuration_is_an_error_that_names_the_fields(config, whole):
    other = config_lib.override(config, {"training.seed": 7, "model.width": 32})
    before = (whole[0] / "metrics.jsonl").read_bytes()
    named = r"model\.width=32 \(there 16\), training\.seed=7 \(there 0\)"
    with pytest.raises(config_lib.ConfigError, match=named):
        loop.train(other, whole[0])
    # A missing config.json does not disable the check.
    config_file = whole[0] / "config.json"
    content = config_file.read_bytes()
    config_file.unlink()
    with pytest.raises(config_lib.ConfigError, match=named):
        loop.train(other, whole[0])
    config_file.write_bytes(content)
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


@pytest.mark.full
def test_early_stopping_does_not_depend_on_interruptions(config, tmp_path, capsys):
    """With learning rate zero the first epoch is the best."""
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
        assert [row["epoch"] for row in metrics_log.epoch_rows(tmp_path)] == [1, 2, 3]
        assert "no better val_nmse for 2 epochs" in capsys.readouterr().out
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"1", "3"}  # the best, and the newest


class TestRecords:
    def _rows(self, workdir, content):
        (workdir / "metrics.jsonl").write_bytes(content)
        return metrics_log.read_rows(workdir)

    def test_a_truncated_line_is_skipped(self, whole, tmp_path):
        content = (whole[0] / "metrics.jsonl").read_bytes()
        rows = metrics_log.read_rows(whole[0])
        assert self._rows(tmp_path, content[:-20]) == rows[:-1]
        assert self._rows(tmp_path, content[:-1]) == rows  # only the line end is missing
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

    def test_are_repaired_on_resume(self, config, whole, tmp_path):
        workdir = shutil.copytree(whole[0], tmp_path / "run")
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "microbatch", "epoch": 5, "window_lo')
        loop.train(config, workdir)
        expected = (whole[0] / "metrics.jsonl").read_bytes()
        assert (workdir / "metrics.jsonl").read_bytes() == expected

    def test_missing_rows_are_reported(self, config, whole, tmp_path, capsys):
        workdir = shutil.copytree(whole[0], tmp_path / "run")
        (workdir / "metrics.jsonl").unlink()
        loop.train(config, workdir)
        assert f"lacks the rows of {_EPOCHS} finished epochs" in capsys.readouterr().out

    def test_floats_are_written_exactly(self, tmp_path):
        values = {"epoch": 1, "a": 0.1 + 0.2, "b": 5e-324, "c": -1.7976931348623157e308}
        with metrics_log.Recorder(tmp_path, 0, 0, 10) as recorder:
            recorder.row("epoch", 1, values | {"nan": float("nan"), "inf": float("inf")})
        with metrics_log.Recorder(tmp_path, 1, 10, 10):
            pass
        (row,) = metrics_log.epoch_rows(tmp_path)
        assert row == {"kind": "epoch", "nan": None, "inf": None} | values

    def test_a_full_disk_ends_the_run_with_one_line(self, tmp_path):
        with (  # noqa: PT012  The error must also get out of the recorder.
            pytest.raises(errors.RunError, match=r"metrics\.jsonl.* No space left") as caught,
            metrics_log.Recorder(tmp_path, 0, 0, 10) as recorder,
        ):
            recorder._file.close()
            recorder._file = pathlib.Path("/dev/full").open("a")  # noqa: SIM115
            recorder.row("epoch", 1, {"epoch": 1})
        assert caught.value.__cause__.errno == errno.ENOSPC


def _events(path: pathlib.Path) -> list:
    """Read the TensorBoard events of a file: length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto import event_pb2

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def _a_figure(data):
    """Return one grey pixel after every second epoch."""
    return {"figures/pixel": _PIXEL} if data.epoch % 2 == 0 else {}


@pytest.mark.full
def test_events_of_epochs_that_run_again_are_hidden(config, tmp_path):
    """The run stops after drawing and before saving epoch 4; scalars and figures."""
    watching = callbacks.Callbacks(figures=_a_figure)
    _train_until(_stop_before_save, 4, config, tmp_path, watching=watching)
    loop.train(config, tmp_path, watching=watching)
    first, second = (_events(path) for path in sorted((tmp_path / "tensorboard").iterdir()))
    assert second[1].session_log.status == second[1].session_log.START
    assert second[1].step == 3 * _STEPS + 1
    drawn = [e.step for e in first for value in e.summary.value if value.tag == "figures/pixel"]
    assert drawn == [2 * _STEPS, 4 * _STEPS]  # the last one is drawn again
    visible = [e for e in first if e.step < second[1].step] + second
    tags = [(value.tag, e.step) for e in visible for value in e.summary.value]
    assert len(tags) == len(set(tags))
    assert [step for tag, step in tags if tag == "figures/pixel"] == drawn
    from tensorboardX.proto import summary_pb2

    (pixel,) = {
        v.image.SerializeToString() for e in visible for v in e.summary.value if v.image.width
    }
    assert (
        pixel
        == summary_pb2.Summary.Image(
            height=1, width=1, colorspace=4, encoded_image_string=_PIXEL
        ).SerializeToString()
    )
    assert [step for tag, step in tags if tag == "epoch/val_nmse"] == [
        _STEPS * epoch for epoch in range(1, _EPOCHS + 1)
    ]


def _train_command(config: config_lib.Config, workdir: pathlib.Path) -> list[str]:
    defaults = config_lib.flatten(config_lib.to_dict(config_lib.Config()))
    values = config_lib.flatten(config_lib.to_dict(config))
    settings = [f"--set={k}={json.dumps(v)}" for k, v in values.items() if v != defaults[k]]
    return [
        sys.executable,
        "-m",
        "ris_jax",
        "train",
        f"--workdir={workdir}",
        "--nofigures",
        *settings,
    ]


@pytest.mark.full
def test_killed_processes(config, whole, tmp_path):
    """SIGKILL inside a save and during training, and SIGTERM; see experiments/kill_soak.py."""
    command = _train_command(config, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"

    def run_until(moment, number=signal.SIGKILL):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 900.0
            while process.poll() is None and not moment():
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, number)
            _, stderr = process.communicate()
        return process.returncode, stderr.decode()

    # The first file of a save exists, its hashes do not.
    returncode, stderr = run_until(lambda: any(checkpoints.glob("1*")))
    assert returncode == -signal.SIGKILL, stderr
    assert not (checkpoints / "1.sha256.json").exists()
    returncode, stderr = run_until((checkpoints / "2.sha256.json").exists)
    assert returncode == -signal.SIGKILL, stderr

    def second_run_is_refused():
        log = metrics_log.read_log(tmp_path / "run")
        # One line per start, after the signal handlers are installed.
        if sum(line.text.endswith("; compiling") for line in log) < 3:
            return False
        with pytest.raises(errors.RunError, match="another process is writing there"):
            loop.train(config, tmp_path / "run")
        return True

    returncode, stderr = run_until(second_run_is_refused, signal.SIGTERM)
    assert returncode == 128 + signal.SIGTERM
    assert re.fullmatch(r"ris-jax: stopped by SIGTERM after .*from there\n", stderr)
    returncode, stderr = run_until(lambda: False)
    assert returncode == 0, stderr
    # The other processes have the constant covariance of 2048 scenes, this one that of 64.
    mine, theirs = (
        [row | {"constant_nmse": None} for row in metrics_log.read_rows(folder)]
        for folder in (tmp_path / "run", whole[0])
    )
    assert mine == theirs
