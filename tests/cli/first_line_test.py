"""Every command announces its work before it imports JAX."""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from ris_jax.cli import main
from ris_jax.cli.commands import simulate

_ARGUMENTS = {
    "example": ["--out=recordings.npz"],
    "inspect": ["--data=recordings.npz"],
    "train": ["--workdir=run"],
    "simulate": ["--out=records"],
    "import": ["--data=recordings.npz", "--out=records"],
    "evaluate": ["--estimator=maximum_likelihood"],
    "calibrate": ["--data=known_positions.npz", "--out=surface.npz"],
    "localize": ["--data=recordings.npz", "--out=positions.csv", "--pretrained=default"],
    "serve": ["--channel=recordings.npz"],
    "report": ["--workdir=run"],
    "tune": ["--workdir=search"],
    "benchmark": ["--suite=all"],
    "bound": ["--out=bound"],
    "design": ["--out=codes"],
    "doctor": [],
}
_PROGRAM = """
import importlib, json, sys
from ris_jax.cli import main
def announced(command, arguments):
    module = importlib.import_module(f"ris_jax.cli.commands.{main._MODULES.get(command, command)}")
    module.FLAGS([command, *arguments])
    return module.announcement()
lines = {command: announced(command, rest) for command, rest in json.loads(sys.argv[1]).items()}
slow = {"jax", "flax", "orbax", "grain", "matplotlib", "scipy"} & sys.modules.keys()
assert not slow, slow
print(json.dumps(lines))
"""


def test_needs_no_jax(tmp_path):
    (tmp_path / "run").mkdir()
    assert set(_ARGUMENTS) == set(main._COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(_ARGUMENTS)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = json.loads(done.stdout)
    assert all(len(line.splitlines()) == 1 for line in lines.values())
    assert lines["localize"] == "localising sources of recordings.npz with network default"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_printed_before_the_command_runs(capsys, monkeypatch, tmp_path):
    printed = []

    def run():
        printed.append(capsys.readouterr().out)
        return 0

    monkeypatch.setattr(simulate, "run", run)
    assert main.main(["ris-jax", "simulate", f"--out={tmp_path}", "--num_train=1"]) == 0
    assert printed == [f"simulating 8193 scenes into {tmp_path}\n"]


@pytest.mark.parametrize("command", main._COMMANDS)
def test_every_command_states_the_compile_time(command):
    module = importlib.import_module(f"ris_jax.cli.commands.{main._MODULES.get(command, command)}")
    assert module.COMPILES.startswith("about ") or command in ("example", "import", "inspect")


def test_doctor_checks_its_arguments_first(capsys, tmp_path):
    workdir = tmp_path / "none"
    assert main.main(["ris-jax", "doctor", f"--workdir={workdir}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"ris-jax: --workdir: need the directory of a run; got {str(workdir)!r}\n"
    assert not pathlib.Path(workdir).exists()
