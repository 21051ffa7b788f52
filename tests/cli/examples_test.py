"""The examples of every --help run, with sizes that take seconds."""

import importlib
import pathlib
import re

import jax
import numpy as np
import pytest

from ris_jax import arrays, config_files, metrics, presets, scenes
from ris_jax import config as config_lib
from ris_jax.cli import doctor, main
from ris_jax.data import containers

ROOT = pathlib.Path(__file__).parents[2]

_SYSTEM = {
    "system.rows": 4, "system.columns": 4, "system.num_antennas": 4, "system.num_snapshots": 6,
    "scene.max_sources": 2,
}  # fmt: skip
_RUN = {
    "model.rounds": 1, "model.candidates": 4, "model.iterations": 1, "model.width": 16,
    "model.depth": 1, "model.num_heads": 2, "training.epochs": 1, "training.steps_per_epoch": 2,
    "training.batch_size": 4, "training.validation_scenes": 16,
}  # fmt: skip


def _settings(values):
    return [f"--set={name}={value}" for name, value in values.items()]


# What is added to the examples of a command; of two flags of one name the last one counts.
_SMALL = {
    "simulate": ["--num_train=8", "--num_val=4", "--num_test=4", *_settings(_SYSTEM)],
    "import": [],
    "train": _settings(_SYSTEM | _RUN),
    "evaluate": ["--num_scenes=2", "--batch_size=2", *_settings(_SYSTEM)],
    "localize": ["--max_sources=2"],
    "tune": ["--trials=1", *_settings(_SYSTEM | _RUN)],
}
_NETWORK_ALONE = ["--num_scenes=16"]  # of `evaluate`, which has no other sizes then
# Examples that need more than this process, and what runs them.
_ELSEWHERE = {
    "train --workdir=runs/wide --distributed": "tests/training/devices_test.py",
    "train --workdir=runs/wide --coordinator=host0:5000 --num_processes=2 --process_id=0":
        "tests/training/devices_test.py",
    "tune --workdir=runs/tune --storage=postgresql://user:password@host/database":
        "tests/tuning/processes_test.py",
    "doctor": ".ci/run",
    "doctor --workdir=runs/quickstart": ".ci/run",
}  # fmt: skip


def _module(command):
    return importlib.import_module(f"ris_jax.cli.{main._MODULES.get(command, command)}")


def _examples():
    """The command lines of all --help texts, without `ris-jax` and remarks, each once."""
    lines = [
        line
        for command in main._COMMANDS
        for line in re.findall(r"^  ris-jax (.*?)(?: {2,}\(.*)?$", _module(command).__doc__, re.M)
    ]
    return list(dict.fromkeys(lines))


_EXAMPLES = _examples()


def _run(example):
    command, *flags = example.split()
    alone = command == "evaluate" and "--estimator" not in example
    assert (
        main.main(["ris-jax", command, *flags, *(_NETWORK_ALONE if alone else _SMALL[command])])
        == 0
    )


@pytest.fixture(name="given", scope="module")
def _given(tmp_path_factory):
    """What examples read: recordings, shards, records, a configuration and a run."""
    folder = tmp_path_factory.mktemp("given")
    config = config_lib.override(presets.preset("quickstart"), _SYSTEM | _RUN)
    draw = jax.jit(lambda key: scenes.sample_scenes(key, config, 2))
    batch = jax.device_get(draw(scenes.stream_key(0, "mine")))
    recorded = {
        "snapshots": batch.measurement.snapshots,
        "channel": batch.measurement.channel,
        "codes": batch.measurement.codes,
        "wavelength": config.system.wavelength,
        "element_positions": np.asarray(arrays.element_positions(config.system)),
        "snr_db": batch.truth.snr_db,
    }
    recorded |= {name: getattr(batch.truth, name) for name in metrics.Sources._fields}
    containers.save(folder / "recordings.npz", recorded)
    containers.save(folder / "recordings.h5", recorded)
    normal = np.random.default_rng(0).normal
    (folder / "shards").mkdir()
    np.savez(
        folder / "shards" / "shard_000.npz",
        y=normal(size=(8, 6, 4, 2)), H_full=normal(size=(8, 4, 144, 2)),
        codes=normal(size=(8, 6, 144, 2)), ptr=np.full((8, 6), 0.5), K=np.ones(8, int),
        snr=np.zeros(8),
    )  # fmt: skip
    (folder / "runs" / "tune").mkdir(parents=True)
    (folder / "runs" / "tune" / "best.json").write_text(config_files.text(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run("simulate --out=records")
        _run("train --workdir=runs/quickstart")
    return folder


@pytest.mark.parametrize("example", [text for text in _EXAMPLES if text not in _ELSEWHERE])
def test_runs(example, given, tmp_path, monkeypatch):
    """In a folder with what it reads, and without what it writes."""
    for name in ("recordings.npz", "recordings.h5", "shards", "records", "runs"):
        if f"--out={name}" not in example:
            (tmp_path / name).symlink_to(given / name)
    monkeypatch.chdir(tmp_path)
    learned = iter([("32 scenes are learned", True, "`doctor` runs in .ci/run")])
    monkeypatch.setattr(doctor, "check_learning", lambda config: learned)
    _run(example)
    for word in example.split():
        flag, _, value = word.partition("=")
        if flag in ("--out", "--workdir", "--figure"):
            assert pathlib.Path(value).exists()


@pytest.mark.parametrize(("example", "where"), _ELSEWHERE.items())
def test_is_run_elsewhere(example, where):
    """Here it takes its flags."""
    assert example in _EXAMPLES
    assert (ROOT / where).exists()
    command, *flags = example.split()
    _module(command).FLAGS.unparse_flags()
    assert _module(command).FLAGS([command, *flags])[1:] == []
