"""Command line: user errors are one line on standard error, without a traceback."""

import importlib
import json
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

from ris_jax import config as config_lib
from ris_jax import errors, presets
from ris_jax.cli import main
from ris_jax.cli.commands import evaluate
from ris_jax.cli.commands import train as train_command
from ris_jax.training.saving import checkpoint


def _run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main.main(["ris-jax", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def _assert_one_line(status: int, err: str, *parts: str) -> None:
    assert status != 0
    assert err.startswith("ris-jax: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


class TestBadInput:
    @pytest.mark.parametrize("command", ["trian", "", "--workdir=x", "Train", "main", "../train"])
    def test_unknown_command(self, capsys, command):
        status, _, err = _run(capsys, command)
        _assert_one_line(status, err, f"unknown command {command!r}", "commands: example")

    def test_without_a_command_all_are_listed(self, capsys):
        status, out, _ = _run(capsys)
        assert status != 0
        assert "Commands:" in out

    @pytest.mark.parametrize(
        ("flags", "parts"),
        [
            (["--epoch=3"], ["train: ", "'epoch'", "epochs"]),  # with a suggestion
            (["--nosuch"], ["train: ", "nosuch"]),
            (["--epochs=three"], ["epochs", "three"]),
            (["--epochs=1.5"], ["epochs", "1.5"]),
            (["--epochs"], ["epochs"]),
            (["--learning_rate=fast"], ["learning_rate", "fast"]),
            (["--preset=quick"], ["preset", "quick", "quickstart"]),
            (["quickstart"], ["flags only", "quickstart"]),
            (["--", "--epochs=3"], ["flags only", "--epochs=3"]),
        ],
    )
    @pytest.mark.parametrize("first", [True, False])
    def test_flags(self, capsys, tmp_path, flags, parts, first):
        workdir = [f"--workdir={tmp_path / 'run'}"]
        status, _, err = _run(capsys, "train", *(workdir if first else []), *flags)
        _assert_one_line(status, err, *parts)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("flag", "parts"),
        [
            ("--set=model.width=-3", ["model.width", "above zero", "-3"]),
            ("--set=model.width=broad", ["width", "broad"]),
            ("--set=model.width=12.5", ["width", "12.5"]),
            ("--set=model.width=", ["width"]),
            ("--set=model.num_heads=7", ["model.num_heads", "divisor", "7"]),
            ("--set=model.widht=64", ["unknown configuration key", "model.widht"]),
            ("--set=modle.width=64", ["unknown configuration key", "modle.width"]),
            ("--set=model.width.x=64", ["unknown configuration key", "model.width.x"]),
            ("--set=model=64", ["model"]),
            ('--set=model={"widht": 64}', ["unknown configuration key", "widht"]),
            ("--set=width=64", ["unknown configuration key", "width"]),
            ("--set=model.width", ["--set", "section.field=value", "'model.width'"]),
            ("--set=", ["--set", "section.field=value"]),
            ("--set==3", ["unknown configuration key"]),
            ("--set=scene.path_loss=cubic", ["scene.path_loss", "inverse_square", "cubic"]),
            ("--set=scene.range_max=0.1", ["scene.range_max", "range_min"]),
            ("--set=scene.snr_max_db=NaN", ["scene.snr_max_db"]),
            ("--set=system.element_positions=[[0, 0]]", ["element_positions"]),
            ("--set=loss=null", ["loss"]),
            ("--epochs=0", ["training.epochs", "above zero"]),
            ("--batch_size=-1", ["training.batch_size", "above zero"]),
            ("--dropout=1", ["model.dropout", "0 <= value < 1"]),
            ("--learning_rate=nan", ["optimizer.learning_rate", "nan"]),
            ("--seed=-1", ["training.seed", "2**32 - 1"]),
            ("--compute_dtype=float16", ["model.compute_dtype", "bfloat16", "float16"]),
        ],
    )
    def test_values(self, capsys, tmp_path, flag, parts):
        status, _, err = _run(capsys, "train", f"--workdir={tmp_path / 'run'}", flag)
        _assert_one_line(status, err, *parts)
        assert not list(tmp_path.iterdir())


class TestWorkdir:
    @pytest.mark.parametrize("flags", [[], ["--workdir="]])
    def test_not_given(self, capsys, flags):
        status, _, err = _run(capsys, "train", *flags)
        _assert_one_line(status, err, "--workdir", "none given")

    @pytest.mark.parametrize("below", ["", "run", "deep/run"])
    def test_cannot_be_created(self, capsys, tmp_path, below):
        (tmp_path / "file").write_text("")
        workdir = tmp_path / "file" / below
        status, _, err = _run(capsys, "train", f"--workdir={workdir}")
        _assert_one_line(status, err, str(tmp_path / "file"))

    @pytest.mark.parametrize("content", [b"", b'{"model": {', b"\xff\xfe\x00", b"[]", b"3"])
    def test_with_a_damaged_config(self, capsys, tmp_path, content):
        (tmp_path / "config.json").write_bytes(content)
        status, _, err = _run(capsys, "train", f"--workdir={tmp_path}")
        _assert_one_line(status, err, str(tmp_path / "config.json"))
        assert (tmp_path / "config.json").read_bytes() == content

    def test_has_another_configuration(self, capsys, tmp_path):
        checkpoint.save_config(tmp_path, presets.preset("quickstart"))
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)  # otherwise it would be overwritten
        flags = ["--seed=5", "--set=model.width=96"]
        status, _, err = _run(capsys, "train", f"--workdir={tmp_path}", *flags)
        _assert_one_line(
            status, err, "model.width=96 (there 64)", "training.seed=5 (there 0)", str(tmp_path)
        )

    def test_with_a_config_of_another_version(self, capsys, tmp_path):
        values = config_lib.to_dict(config_lib.Config())
        values["model"]["rotary"] = True
        (tmp_path / "config.json").write_text(json.dumps(values))
        status, _, err = _run(capsys, "train", f"--workdir={tmp_path}")
        _assert_one_line(status, err, "config.json", "rotary")


class TestFailuresOfARun:
    """Exceptions of a command's `run`."""

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (config_lib.ConfigError("model.width:\n  need more"), "model.width: need more"),
            (
                OSError(28, "No space left on device", "metrics.jsonl"),
                "metrics.jsonl: No space left on device; make room",
            ),
            (KeyboardInterrupt(), "interrupted; the same command resumes where it stopped"),
            (errors.Interrupted(15), "stopped by SIGTERM; the same command resumes where it stop"),
            (errors.Interrupted(2, " after epoch 1"), "ris-jax: stopped by SIGINT after epoch 1\n"),
            (MemoryError(), "out of memory with --batch_size=9: --batch_size=4 needs less; Memor"),
        ],
    )
    def test_become_one_line(self, capsys, monkeypatch, error, text):
        def run():
            raise error

        monkeypatch.setattr(train_command, "run", run)
        status, _, err = _run(capsys, "train", "--workdir=x", "--batch_size=9")
        _assert_one_line(status, err, text)
        assert status == getattr(error, "status", status)

    @pytest.mark.parametrize(
        ("command", "flags", "advice"),
        [
            ("evaluate", ["--batch_size=64"], " with --batch_size=64: --batch_size=32 needs less"),
            ("localize", ["--batch_size=1"], ""),
            ("simulate", [], ""),
        ],
    )
    def test_out_of_memory_suggests_a_batch_size(self, capsys, monkeypatch, command, flags, advice):
        module = importlib.import_module(f"ris_jax.cli.commands.{command}")
        monkeypatch.setattr(module, "announcement", lambda: "")
        monkeypatch.setattr(module, "run", lambda: jnp.ones(1 << 43).block_until_ready())
        status, _, err = _run(capsys, command, *flags)
        assert status == 1
        reason = "RESOURCE_EXHAUSTED: Out of memory allocating 35184372088832 bytes."
        assert err == f"ris-jax: out of memory{advice}; {reason}\n"

    def test_sigterm_ends_any_command(self, capsys, monkeypatch):
        def run():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("still here")

        monkeypatch.setattr(evaluate, "announcement", lambda: "")
        monkeypatch.setattr(evaluate, "run", run)
        status, _, err = _run(capsys, "evaluate")
        assert (status, err) == (143, "ris-jax: stopped by SIGTERM\n")

    def test_bugs_keep_their_traceback(self, monkeypatch):
        monkeypatch.setattr(train_command, "run", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main.main(["ris-jax", "train", "--workdir=x"])


def test_flags_of_one_call_do_not_reach_the_next(monkeypatch):
    configs = []
    monkeypatch.setattr(
        train_command, "run", lambda: configs.append(train_command.configuration()) or 0
    )
    first = ["--workdir=x", "--seed=3", "--preset=large", "--set=model.width=96"]
    assert main.main(["ris-jax", "train", *first]) == 0
    assert main.main(["ris-jax", "train", "--workdir=x", "--set=model.depth=2"]) == 0
    assert configs[0].training.seed == 3
    assert configs[1] == config_lib.override(presets.preset("quickstart"), {"model.depth": 2})


def test_flags_override_set_and_set_overrides_the_preset(monkeypatch):
    configs = []
    monkeypatch.setattr(
        train_command, "run", lambda: configs.append(train_command.configuration()) or 0
    )
    flags = ["--preset=large", "--set=model.width=96", "--set=training.seed=4", "--seed=5"]
    assert main.main(["ris-jax", "train", "--workdir=x", *flags]) == 0
    assert (
        configs[0].model.width,
        configs[0].model.depth,
        configs[0].training.seed,
    ) == (96, 8, 5)


class TestHelp:
    @pytest.mark.parametrize("flag", ["--help", "-h", "help"])
    def test_all_commands(self, capsys, flag):
        status, out, err = _run(capsys, flag)
        assert (status, err) == (0, "")
        assert "--help" in out
        for command in main._COMMANDS:
            assert command in out

    @pytest.mark.parametrize("flag", ["--help", "-h"])
    @pytest.mark.parametrize("command", main._COMMANDS)
    def test_one_command(self, capsys, command, flag):
        module = importlib.import_module(
            f"ris_jax.cli.commands.{main._MODULES.get(command, command)}"
        )
        folder = next(f"--{name}" for name in ("workdir", "out", "data") if name in module.FLAGS)
        status, out, err = _run(capsys, command, f"{folder}=x", flag)
        assert (status, err) == (0, "")
        assert "Example:" in out
        assert f"ris-jax {command}" in out
        assert folder in out

    @pytest.mark.parametrize("command", [None, *main._COMMANDS])
    def test_does_not_import_jax(self, command):
        arguments = ["ris-jax", *([command] if command else []), "--help"]
        program = (
            "import sys, time\n"
            "began = time.process_time()\n"
            "from ris_jax.cli import main\n"
            f"status = main.main({arguments!r})\n"
            "slow = {'jax', 'flax', 'orbax', 'grain', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
            "assert not slow, slow\n"
            "assert time.process_time() - began < 1.0\n"
            "sys.exit(status)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Example:" in done.stdout if command else "Commands:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status"), [(["train", "--help"], 0), (["trian"], 2), (["train", "--nosuch"], 2)]
)
def test_as_a_program(arguments, status):
    done = subprocess.run(
        [sys.executable, "-m", "ris_jax", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (status != 0)


class TestConfigFile:
    """`train --config`."""

    def _write(self, tmp_path, content):
        path = tmp_path / "mine.json"
        path.write_bytes(content)
        return path

    def test_flags_override_it(self, tmp_path, monkeypatch):
        configs = []
        monkeypatch.setattr(
            train_command, "run", lambda: configs.append(train_command.configuration()) or 0
        )
        config = config_lib.override(presets.preset("large"), {"model.depth": 3})
        path = self._write(tmp_path, json.dumps(config_lib.to_stored(config)).encode())
        partial = tmp_path / "partial.json"
        partial.write_text('{"model": {"width": 96}}')
        assert main.main(["ris-jax", "train", "--workdir=x", f"--config={path}", "--seed=5"]) == 0
        assert main.main(["ris-jax", "train", "--workdir=x", f"--config={partial}"]) == 0
        assert configs[0] == config_lib.override(config, {"training.seed": 5})
        assert configs[1] == config_lib.override(config_lib.Config(), {"model.width": 96})

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            (b"{", "not JSON"),
            (b"\xff\xfe\x00", "not JSON"),
            (b"[]", "need a JSON object; got list"),
            (b'{"model": {"widht": 3}}', "unknown configuration key: widht"),
            (b'{"model": {"width": -3}}', "model.width: need a value above zero; got -3"),
        ],
    )
    def test_invalid(self, capsys, tmp_path, content, part):
        path = self._write(tmp_path, content)
        flags = [f"--workdir={tmp_path / 'run'}", f"--config={path}"]
        status, _, err = _run(capsys, "train", *flags)
        _assert_one_line(status, err, str(path), part)
        assert not (tmp_path / "run").exists()

    def test_missing(self, capsys, tmp_path):
        flags = [f"--workdir={tmp_path / 'run'}", f"--config={tmp_path / 'none.json'}"]
        _assert_one_line(*_run(capsys, "train", *flags)[::2], "none.json")

    def test_excludes_preset(self, capsys, tmp_path):
        flags = [f"--workdir={tmp_path / 'run'}", "--config=x.json", "--preset=large"]
        _assert_one_line(*_run(capsys, "train", *flags)[::2], "--preset; both given")
