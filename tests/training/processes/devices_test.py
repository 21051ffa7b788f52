"""Equal runs on one or eight devices and one or two processes; lost processes."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_dataset, simulation
from ris_jax.training import loop
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices, distributed
from ris_jax.training.saving import metrics_log

_WORKER = pathlib.Path(__file__).parents[1] / "worker.py"
_EPOCHS, _STEPS, _BAD = 3, 7, 5  # 21 microbatches, one of them non-finite: 20 updates
_SECONDS_TO_STOP = 60.0  # after another process was lost
# Compiling for eight devices on a busy machine takes minutes.
pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def config(tiny_config) -> config_lib.Config:
    """Return small rates: Muon and Adam divide by small numbers and amplify rounding."""
    return config_lib.override(
        tiny_config,
        {
            "optimizer.learning_rate": 1e-4,
            "training.epochs": _EPOCHS,
            "training.steps_per_epoch": _STEPS,
            "training.validation_scenes": 16,
        },
    )


@pytest.fixture(scope="module")
def records(config, tmp_path_factory) -> pathlib.Path:
    """Write a few scenes in shards that no number of devices divides."""
    folder = tmp_path_factory.mktemp("records")
    simulation.simulate(config, folder, {"train": 13, "validation": 5}, shard_scenes=5)
    return folder


def _environment(num_devices: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NPROC"}
    return kept | {
        # Eight devices on two busy cores exceed XLA's time limit for collectives.
        "XLA_FLAGS": f"{kept.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={num_devices} "
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 "
        "--xla_cpu_collective_call_terminate_timeout_seconds=900",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip


def _coordinator() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class _Run(NamedTuple):
    # Final parameters and optimizer state, and scenes read; empty if stopped.
    arrays: dict[str, np.ndarray]
    reports: list  # of each process, see worker.py; after a signal its last line
    rows: list[dict]


def _run(
    config,
    records,
    workdir,
    *,
    num_devices,
    num_processes=1,
    shard_optimizer=False,
    stop_after=None,
    signal_at=None,
):
    """Start the processes of a run and wait for them; a signalled one has no report."""
    out, coordinator = workdir.parent / f"{workdir.name}.npz", _coordinator()
    given = {
        "config": config_lib.to_dict(config), "workdir": str(workdir), "bad": _BAD,
        "out": str(out), "stop_after": stop_after, "shard_optimizer": shard_optimizer,
        "signal_at": signal_at,
        "data": str(records),
    }  # fmt: skip
    started = []
    for number in range(num_processes):
        given["processes"] = [coordinator, num_processes, number] if num_processes > 1 else None
        command = [sys.executable, str(_WORKER), json.dumps(given)]
        started.append(
            subprocess.Popen(
                command,
                env=_environment(num_devices // num_processes),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    reports = []
    for process in started:
        output, complaint = process.communicate(timeout=1200)
        if signal_at is not None:
            assert process.returncode == 128 + signal.SIGTERM, complaint
            reports.append(complaint.splitlines()[-1])
            continue
        assert process.returncode == 0, complaint
        if stop_after is None:
            reports.append(json.loads(output.splitlines()[-1]))
    arrays = dict(np.load(out)) if out.exists() else {}
    return _Run(arrays, reports, metrics_log.epoch_rows(workdir))


@pytest.fixture(scope="module")
def alone(config, records, tmp_path_factory) -> _Run:
    """Return the run on one device."""
    return _run(config, records, tmp_path_factory.mktemp("alone") / "run", num_devices=1)


def _assert_same_run(ours: _Run, theirs: _Run):
    """Compare parameters to 1e-6, moments to 1e-5, losses to rounding, the rest exactly."""
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, here in ours.arrays.items():
        there = theirs.arrays[name]
        if np.issubdtype(here.dtype, np.floating) and not name.startswith("['stored']"):
            # Moments are sums of gradients, without the factor of a learning rate.
            limit = 1e-6 if name.startswith("['params']") else 1e-5
            np.testing.assert_allclose(here, there, rtol=0, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(here, there, err_msg=name)
    for here, there in zip(ours.rows, theirs.rows, strict=True):
        assert [here[n] for n in ("epoch", "updates", "skipped", "microbatches")] == [
            there[n] for n in ("epoch", "updates", "skipped", "microbatches")
        ]
        assert here["train_loss"] == pytest.approx(there["train_loss"], rel=1e-5)
        assert here["val_loss"] == pytest.approx(there["val_loss"], rel=1e-5)


def test_the_run_on_one_device(alone):
    assert sum(row["updates"] for row in alone.rows) == 20
    assert [row["skipped"] for row in alone.rows] == [1, 0, 0]
    assert alone.reports == [{"programs": 1, "held": 1.0}]


def test_stored_scenes_reach_the_device_in_order(config, records, alone):
    """The other runs are compared with these scenes, bit for bit."""
    split = record_dataset.open_dataset(records).split("train")
    batches = record_dataset.batches(split, config.training.batch_size, config.training.seed)
    for number in range(2):
        found = alone.arrays[f"['stored']['microbatches'][{number}].measurement.snapshots"]
        np.testing.assert_array_equal(found, next(batches).scenes["snapshots"])


def test_eight_devices_give_the_same_parameters(config, records, alone, tmp_path):
    eight = _run(config, records, tmp_path / "run", num_devices=8)
    _assert_same_run(eight, alone)
    assert eight.reports == [{"programs": 1, "held": 1.0}]


def test_two_processes_stop_together_and_give_the_same_parameters(config, records, alone, tmp_path):
    """SIGTERM to one stops both at one microbatch; resumed, they end like one device.

    Each process reads its rows of the records.
    """
    run = tmp_path / "run"
    stopped = _run(config, records, run, num_devices=8, num_processes=2, signal_at=1)
    line, same = stopped.reports
    assert line == same
    assert re.fullmatch(r"ris-jax: stopped by SIGTERM after microbatch .* is saved; .*", line)
    (manifest,) = (run / "interrupted").glob("*.sha256.json")
    assert stopped.rows == []
    assert 2 <= int(manifest.name.partition(".")[0]) < config.training.steps_per_epoch
    two = _run(config, records, run, num_devices=8, num_processes=2)
    _assert_same_run(two, alone)
    assert two.reports == [{"programs": 1, "held": 1.0}] * 2


def test_a_checkpoint_of_eight_devices_resumes_on_one_and_back(config, records, alone, tmp_path):
    """The optimizer state is split over the eight devices."""
    run = tmp_path / "run"
    _run(config, records, run, num_devices=8, shard_optimizer=True, stop_after=1)
    _run(config, records, run, num_devices=1, stop_after=2)
    back = _run(config, records, run, num_devices=8, shard_optimizer=True)
    _assert_same_run(back, alone)
    (report,) = back.reports
    assert report["programs"] == 1
    assert report["held"] < 0.25  # an eighth, and arrays that eight does not divide


def _commands(config, workdir, coordinator) -> list[list[str]]:
    """Return the commands of two processes."""
    defaults = config_lib.flatten(config_lib.to_dict(config_lib.Config()))
    values = config_lib.flatten(config_lib.to_dict(config))
    settings = [f"--set={k}={json.dumps(v)}" for k, v in values.items() if v != defaults[k]]
    command = [sys.executable, "-m", "ris_jax", "train", f"--workdir={workdir}", "--nofigures"]
    command += settings
    together = [f"--coordinator={coordinator}", "--num_processes=2"]
    return [[*command, *together, f"--process_id={number}"] for number in range(2)]


def _wait_until(moment, started, seconds=900.0):
    deadline = time.monotonic() + seconds
    while not moment():
        for process in started:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lost_process_stops_the_others_and_the_run_resumes(config, tmp_path):
    # Held-out scenes are drawn in batches: larger batches are fewer.
    endless = config_lib.override(
        config,
        {"training.epochs": 10_000, "training.steps_per_epoch": 2, "training.batch_size": 64},
    )
    run = tmp_path / "run"
    for victim, epoch in ((1, 1), (0, 2)):
        started = [
            subprocess.Popen(
                command,
                env=_environment(1),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command in _commands(endless, run, _coordinator())
        ]
        try:
            done = len(metrics_log.epoch_rows(run))
            newest = run / "checkpoints" / f"{done + epoch}.sha256.json"
            _wait_until(newest.exists, started)
            started[victim].send_signal(signal.SIGKILL)
            output, complaint = started[1 - victim].communicate(timeout=_SECONDS_TO_STOP)
        finally:
            for process in started:
                process.kill()
            first_output, _ = started[victim].communicate()
        assert started[1 - victim].returncode != 0, complaint
        # JAX may abort the process with its own message before or after the exception.
        if "another task died" not in complaint:
            (line,) = complaint.splitlines()
            assert line.startswith(f"ris-jax: process {1 - victim} of 2 stops because another")
        printed = output if victim == 1 else first_output
        assert (f"resuming after epoch {done} of" in printed) == (done > 0)
        assert (output + first_output).count("devices") == 1  # one process prints


def _mesh(size: int) -> devices.DevicePlacement:
    return devices.DevicePlacement(AbstractMesh((size,), ("data",)), shard_optimizer=True)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((), ()), ((16, 3), ("data",)), ((3, 16), (None, "data")), ((3, 5), ()), ((0, 3), ())],
)
def test_the_optimizer_state_is_split_along_a_divisible_axis(shape, spec):
    assert tuple(_mesh(8).optimizer(shape).spec) == spec
    assert tuple(_mesh(1).optimizer(shape).spec) == ()


def test_a_batch_that_the_devices_cannot_share_is_an_error(config, tmp_path):
    with pytest.raises(config_lib.ConfigError, match=r"^training\.batch_size: .* 3 devices; got 8"):
        loop.train(config, tmp_path / "run", placement=_mesh(3))
    assert not (tmp_path / "run").exists()


def test_scenes_are_drawn_where_the_step_is(config):
    state = state_lib.create_train_state(config)
    batch = step_lib.draw_batch(config, state.step)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(batch)} == {state.placement.mesh}
    assert devices.batch_beside(np.int32(3)) is None
    assert (
        jax.eval_shape(lambda s: step_lib.draw_batch(config, s), state.step).signals.shape[0] == 8
    )


def test_text_of_a_placement():
    one = devices.one_device()
    assert str(one) == str(jax.devices()[0])
    assert devices.all_devices(shard_optimizer=True) == dataclasses.replace(
        one, shard_optimizer=True
    )


def test_host_arrays_are_returned(config):
    np.testing.assert_array_equal(devices.to_host({"a": jax.numpy.arange(3)})["a"], np.arange(3))


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (("host:1", 2, None), r"need all three or none; got host:1, 2, None"),
        (("host", 2, 0), r"--coordinator: need host:port; got 'host'"),
        (("host:port", 2, 0), r"--coordinator: need host:port; got 'host:port'"),
        (("host:1", 2, 2), r"--process_id: need 0 <= id < --num_processes=2; got 2"),
    ],
)
def test_invalid_processes(who, message):
    with pytest.raises(config_lib.ConfigError, match=message), distributed.joined(*who):
        pass


def _joining(monkeypatch, error):
    """Replace `jax.distributed.initialize`; return the functions registered at exit."""
    at_exit = []

    def initialize(*_, **__):
        if error is not None:
            raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed.atexit, "register", lambda *call: at_exit.append(call))
    return at_exit


def test_no_cluster_is_an_error_that_names_the_flags(monkeypatch):
    _joining(monkeypatch, ValueError("coordinator_address should be defined."))
    named = r"--distributed: no job .* need --coordinator, --num_processes and --process_id"
    with pytest.raises(config_lib.ConfigError, match=named), distributed.joined():
        pass


def test_processes_that_do_not_connect(monkeypatch):
    at_exit = _joining(monkeypatch, RuntimeError("DEADLINE_EXCEEDED: Barrier timed out\nand more"))
    named = r"did not connect at host:1 within 7 s: DEADLINE_EXCEEDED: Barrier timed out$"
    with (
        pytest.raises(errors.RunError, match=named),
        distributed.joined("host:1", 2, 1, timeout_seconds=7),
    ):
        pass
    assert len(at_exit) == 1


def test_own_errors_are_raised_unchanged(monkeypatch):
    at_exit = _joining(monkeypatch, None)
    with pytest.raises(errors.RunError, match=r"^disk full$"), distributed.joined("host:1", 2, 1):
        raise errors.RunError("disk full")
    assert len(at_exit) == 1
