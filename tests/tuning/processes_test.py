"""Workers on one storage, killed at random: every trial has an outcome."""

import contextlib
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import optuna
import pytest
from cases import small

from ris_jax.cli import main
from ris_jax.cli.commands import tune
from ris_jax.training.saving import metrics_log
from ris_jax.tuning import ledger, trials

from_here = pathlib.Path(__file__).with_name
SPACE = {"optimizer.learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
_SECONDS = 240.0


def _programs() -> pathlib.Path | None:
    """Return the directory of PostgreSQL's server, if installed."""
    found = [pathlib.Path(path) for path in (shutil.which("initdb"),) if path]
    found += sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return found[0].resolve().parent if found else None


@contextlib.contextmanager
def _server(data: pathlib.Path):
    """Run a PostgreSQL server on loopback; yield the URL of an empty database."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    # The server does not run as root; the distribution's package creates a user.
    if os.getuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("no user postgres here, and PostgreSQL's server does not run as root")
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if user:
        shutil.chown(data, "postgres", "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    initdb = [programs / "initdb", "-D", data, "-U", "tune", "--auth=trust", "--no-sync"]
    made = subprocess.run(initdb, capture_output=True, text=True, cwd="/", check=False, **user)
    assert made.returncode == 0, made.stderr
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **user,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.0)  # it listens before it serves
        yield f"postgresql://tune@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Yield a new storage of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'study.db'}"
        return
    # Only its owner may enter pytest's directory.
    with tempfile.TemporaryDirectory() as folder, _server(pathlib.Path(folder)) as address:
        yield address


def _start(command, log):
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def _kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _places(url, count):
    """Read all trials, and the places of the search."""
    storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    found = optuna.load_study(study_name="ris_jax", storage=storage).get_trials()
    storage.engine.dispose()
    return found, ledger.places(found, count, 100)


def _finish(workers, commands, log):
    """Wait until the workers end."""
    deadline = time.monotonic() + _SECONDS
    while any(worker.poll() is None for worker in workers):
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
    assert [worker.returncode for worker in workers] == [0] * len(commands), log.read_text()[-3000:]


@pytest.mark.full
def test_workers_killed_at_random(url, tmp_path):
    """Two workers; one of them is killed and restarted five times."""
    workdir, count, epochs = tmp_path / "search", 8, 5
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    command = [
        sys.executable, str(from_here("worker.py")), f"--workdir={workdir}", f"--storage={url}",
        f"--space={tmp_path / 'space.json'}", f"--trials={count}", "--heartbeat=1", "--retries=100",
        f"--set=training.epochs={epochs}", "--pruner=none",
    ]  # fmt: skip
    moments, log = random.Random(5), tmp_path / "log.txt"
    workers = [_start(command, log) for _ in range(2)]
    try:
        deadline = time.monotonic() + _SECONDS
        while not any(workdir.glob("trials/*/metrics.jsonl")):  # workers need seconds to start
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            assert None in [worker.poll() for worker in workers], log.read_text()[-3000:]
            time.sleep(0.01)
        for kill in range(5):
            # The first two kills are within the first trial, the others at any time.
            victim = kill if kill < 2 else moments.randrange(2)
            _kill(workers[victim])
            workers[victim] = _start(command, log)
            time.sleep(moments.uniform(0.0, 5.0) * (kill > 0))
        _finish(workers, [command] * 2, log)
    finally:
        for worker in workers:
            _kill(worker)
    every, found = _places(url, count)
    assert [place.outcome for place in found] == ["complete"] * count
    assert len(found[0].attempts) > 1
    states = {trial.state.name for trial in every}
    assert states <= {"COMPLETE", "FAIL"}  # no trial is running or waiting
    # Each failed trial has a successor, or was not needed.
    attempts = {trial.number for place in found for trial in place.attempts}
    unneeded = [t for t in every if t.number not in attempts]
    assert all(not trial.params for trial in unneeded if ledger.RETRY_OF not in trial.user_attrs)
    for place in found:
        rows = metrics_log.epoch_rows(trials.folder(workdir, place.number))
        assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
        scores = {row["epoch"]: row["val_nmse"] for row in rows}
        assert place.last.intermediate_values == scores
        assert place.last.value == min(scores.values())


TINY = small.NETWORK | {
    "scene.max_sources": 2, "training.epochs": 3, "training.steps_per_epoch": 3,
    "training.batch_size": 8, "training.validation_scenes": 12,
    "training.log_every": 2,
}  # fmt: skip


@pytest.mark.full
@pytest.mark.timeout(900)
def test_real_trainer(tmp_path):
    """A killed worker and a stopped one give the run of an uninterrupted worker."""
    workdir, log = tmp_path / "search", tmp_path / "log.txt"
    workdir.mkdir()
    # All trials share one configuration: it compiles once, and all rows are equal.
    space = tmp_path / "space.json"
    space.write_text(json.dumps({"model.depth": {"choices": [1]}}))
    (workdir / "gate.json").write_text(json.dumps({"passed": tune._installation()}))
    flags = [f"--set={name}={value}" for name, value in TINY.items()]
    command = [
        sys.executable, "-m", "ris_jax", "tune", f"--workdir={workdir}", f"--space={space}",
        "--trials=2", "--heartbeat=2", "--retries=9", *flags,
    ]  # fmt: skip
    first = _start(command, log)
    checkpoints = trials.folder(workdir, 0) / "checkpoints"
    try:
        deadline = time.monotonic() + 2 * _SECONDS
        while not (checkpoints / "1.sha256.json").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None, log.read_text()[-3000:]
            time.sleep(0.001)
    finally:
        _kill(first)
    for moment, status in (("resuming after epoch 1 of 3", 143), (None, 0)):
        worker = _start(command, log)
        try:
            while moment and moment not in log.read_text():
                assert time.monotonic() < deadline + 2 * _SECONDS
                assert worker.poll() is None, log.read_text()[-3000:]
                time.sleep(0.001)
            if moment:
                worker.send_signal(signal.SIGTERM)
            assert worker.wait(2 * _SECONDS) == status, log.read_text()[-3000:]
        finally:
            _kill(worker)
    _, found = _places(f"sqlite:///{workdir / 'study.db'}", 2)
    assert [place.outcome for place in found] == ["complete"] * 2
    assert [len(place.attempts) for place in found] == [3, 1]
    assert [ledger.LEFT in trial.user_attrs for trial in found[0].attempts] == [
        False,
        True,
        False,
    ]
    assert log.read_text().count("ris-jax: stopped by SIGTERM after ") == 1
    runs = [metrics_log.read_rows(trials.folder(workdir, place.number)) for place in found]
    assert runs[0] == runs[1]
    best = trials.folder(workdir, 0)
    # `train --config=best.json` continues the run of the trial.
    written = f"--config={workdir / 'best.json'}"
    command = ["ris-jax", "train", f"--workdir={best}", written, "--nofigures"]
    assert main.main(command) == 0
    assert metrics_log.read_rows(best) == runs[0]
