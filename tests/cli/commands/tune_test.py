"""Command `tune`: errors are one line, before any trial."""

import builtins
import json
import sys

import pytest

from ris_jax.cli import doctor_checks, main
from ris_jax.cli.commands import tune

RATE = '{"optimizer.learning_rate": {"low": 0.001, "high": 0.1}}'


def _refused(capsys, *arguments):
    assert main.main(["ris-jax", "tune", *arguments]) != 0
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    return out, err


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("--storage=study.db", "--storage: need sqlite:///FILE"),
        ("--storage=mysql://a@b/c", "--storage: need sqlite:///FILE"),
        ("--objective=loss", "--objective: need one of val_nmse"),
        ("--objective=val_loss", "cannot be compared"),
        ("--pruner=all", "--pruner: need one of median, none"),
        ("--space=/nonexistent.json", "/nonexistent.json"),
        ("--trials=0", "trials"),
        ("--heartbeat=0", "heartbeat"),
        ("--retries=-1", "retries"),
        ("--set=model.widht=3", "unknown configuration key: model.widht"),
        ("--preset=large", "model.width=32 is not possible: model.num_heads"),
        ("--config=/nonexistent.json", "/nonexistent.json"),
    ],
)
def test_refuses(flag, part, tmp_path, capsys):
    out, err = _refused(capsys, f"--workdir={tmp_path / 'search'}", flag)
    assert part in err
    assert out == ""
    assert not (tmp_path / "search").exists()


def test_needs_a_workdir(capsys):
    assert "--workdir: need the directory of the search" in _refused(capsys)[1]


def test_names_the_field_of_a_space(tmp_path, capsys):
    path = tmp_path / "space.json"
    path.write_text('{"optimizer.lr": {"low": 0, "high": 1}}')
    _, err = _refused(capsys, f"--workdir={tmp_path / 'search'}", f"--space={path}")
    assert "space.json: search space: optimizer.lr: need a configuration field" in err


def test_missing_optuna(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ris_jax.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def without(name, *arguments):
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'ris-jax[tune]'" in _refused(capsys, f"--workdir={tmp_path}")[1]


def test_interrupted_trial_resumes(tmp_path, capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "run", interrupted)
    assert (
        "interrupted; the same command resumes where it stopped"
        in _refused(capsys, f"--workdir={tmp_path}")[1]
    )


class TestGate:
    """Training check before a search; its measurements are tested with `doctor`."""

    def test_failure_stops_the_search_with_one_line(self, tmp_path, capsys, monkeypatch):
        findings = [("gradients alive", True, "all"), ("32 scenes are learned", False, "NMSE 0.9")]
        monkeypatch.setattr(doctor_checks, "learning", lambda config: iter(findings))
        _, err = _refused(capsys, f"--workdir={tmp_path / 'search'}")
        assert err == (
            "ris-jax: the search does not start because training fails: 32 scenes are learned: "
            "NMSE 0.9; `ris-jax doctor` checks more\n"
        )
        assert not (tmp_path / "search").exists()

    def test_success_is_stored_for_this_installation(self, tmp_path, monkeypatch):
        calls = []
        findings = [("32 scenes are learned", True, "NMSE 0.03")]
        monkeypatch.setattr(
            doctor_checks, "learning", lambda config: calls.append(config) or iter(findings)
        )
        for content in (None, None, '{"passed": "of another"}', "{", "[]"):
            if content is not None:
                (tmp_path / "gate.json").write_text(content)
            tune.check_gate(tmp_path)
            assert json.loads((tmp_path / "gate.json").read_text())["passed"]
        assert calls == [doctor_checks.small_config(0)] * 4


def test_a_storage_that_cannot_be_used(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tune, "check_gate", lambda workdir: None)
    (tmp_path / "study.db").write_bytes(b"not this" * 100)
    _, err = _refused(capsys, f"--workdir={tmp_path}")
    assert "study.db: file is not a database" in err
