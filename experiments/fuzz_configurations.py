"""Damaged configurations and search spaces, in files and flags."""

import json
import pathlib
import random
import warnings
from typing import Any

import fuzz_cases
import fuzz_damage

from ris_jax import config as config_lib
from ris_jax import config_files
from ris_jax.cli.commands import train, tune
from ris_jax.tuning import space as space_lib

_FIELDS = sorted(config_lib.flatten(config_lib.to_dict(config_lib.Config())))
_SECTIONS = sorted({field.partition(".")[0] for field in _FIELDS})
_ODD_SETTINGS = (
    "", "=", "a", "model", "model=", "model={}", "model.width.x=1", ".=1", "model..width=1",
    "scene.=3", "²=1", "system=3", "model.width=1_0", "system.element_positions=[[0,0,0]]",
    "training.seed=" + "9" * 5000, "model.width=" + "[" * 50_000,
)  # fmt: skip
_ODD_FLAGS = (
    "--epochs=x", "--seed=1e3", "--dropout=nan", "--preset=x", "--learning_rate=inf", "--unknown=1",
    "--batch_size=-1",
)  # fmt: skip


class Configurations(fuzz_cases.Surface):
    """--config and --set of `train`, --space of `tune`."""

    name = "configurations"

    def __init__(self, home: pathlib.Path):
        """Create the surface; intact configurations are in the package."""
        del home
        everything = config_lib.to_dict(config_lib.Config())
        odd = config_lib.override(
            config_lib.Config(),
            {
                "system.element_positions": [[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]],
                "scene.max_sources": 2,
                "system.codebook": "random",
                "training.fixed_scenes": 512,
            },
        )
        self._wholes = [
            everything,
            config_lib.to_stored(odd),
            config_lib.to_dict(odd),
            {"training": everything["training"]},
        ]
        self._spaces = [
            space_lib.to_dict(space_lib.DEFAULT),
            {
                "model.depth": {"low": 1, "high": 6},
                "model.dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
                "optimizer.method": {"choices": ["muon", "adamw"]},
            },
        ]

    def case(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        """Damage a file or a flag."""
        return rng.choice([self._config_file, self._flags, self._space_file])(rng, place)

    def _config_file(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        path, what = _written_json(rng, place, self._wholes)
        command = ("train", f"--workdir={place / 'run'}", f"--config={path}", "--batch_size=0")

        def run() -> str:
            return _config_problem(config_files.read(path))

        return fuzz_cases.Case(what, run, (str(path), "training.batch_size"), command)

    def _flags(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        values = config_lib.flatten(rng.choice(self._wholes))
        settings = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            name = rng.choice(_FIELDS)
            _, nested = fuzz_damage.damaged_json(rng, {name: values.get(name)})
            for key, value in nested.items() if isinstance(nested, dict) else [(name, nested)]:
                text = value if isinstance(value, str) else json.dumps(value)
                settings.append(f"{key}={text}")
        if rng.random() < 0.2:
            settings.append(rng.choice(_ODD_SETTINGS))
        flag = rng.choice([*_ODD_FLAGS, *[None] * 2 * len(_ODD_FLAGS)])
        # Characters that a command line cannot contain.
        settings = [
            text.encode("utf-8", "replace").decode().replace("\0", "0") for text in settings
        ]
        given = [f"--set={text}" for text in settings]

        def run() -> str:
            train.FLAGS.unparse_flags()
            train.FLAGS(["train", *given, *([flag] if flag else [])])
            return _config_problem(train.configuration())

        # No scenes: the command ends for any configuration.
        sizes = [f"--num_{split}=0" for split in ("train", "val", "test")]
        command = ("simulate", f"--out={place}", *sizes, *given)
        names = (*_SECTIONS, "unknown configuration key", "--set", "flag", "preset", "num_train")
        return fuzz_cases.Case(" ".join([*given, str(flag)])[:200], run, names, command)

    def _space_file(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        path, what = _written_json(rng, place, self._spaces)
        command = ("tune", f"--workdir={place / 'run'}", f"--space={path}", "--storage=nonsense")

        def run() -> str:
            tune.FLAGS.unparse_flags()
            tune.FLAGS(command)
            return _plan_problem(tune._plan())

        names = (str(path), "search space", "--objective", "storage")
        return fuzz_cases.Case(f"space: {what}", run, names, command)


def _written_json(
    rng: random.Random, place: pathlib.Path, wholes: list[dict[str, Any]]
) -> tuple[pathlib.Path, str]:
    """Write a damaged JSON file in a new directory; return a description of the damage."""
    place.mkdir()
    path = place / "given.json"
    what, data = fuzz_damage.json_text(rng, rng.choice(wholes))
    path.write_bytes(data)
    if rng.random() < 0.02:
        path.unlink()
        what = "not there"
        if rng.random() < 0.5:
            path.mkdir()
            what = "a folder"
    return path, what


def _config_problem(config: config_lib.Config) -> str:
    """Check that a configuration can be stored, read back, and used as a static argument."""
    hash(config)
    if config_lib.from_stored(json.loads(config_files.text(config))) != config:
        return "a configuration that changes when it is read back"
    return ""


def _plan_problem(plan: Any) -> str:
    """Check that a search can be stored, and draws valid configurations or named errors."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if space_lib.parse(_without_none(space_lib.to_dict(plan.space))) != plan.space:
        return "a search space that changes when it is read back"
    with warnings.catch_warnings():
        study = optuna.create_study(sampler=plan.make_sampler(0))
        values = space_lib.sample(plan.space, study.ask())
    try:
        config_lib.override(plan.base, values)
    except config_lib.ConfigError as error:  # a trial that fails with its reason
        return "" if any(name in str(error) for name in _FIELDS) else f"a trial fails: {error}"
    return ""


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {k: v for k, v in where.items() if v is not None} for name, where in values.items()
    }
