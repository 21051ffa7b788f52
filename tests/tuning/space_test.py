"""Search spaces: parsing, errors, sampling."""

import dataclasses
import json

import optuna
import pytest

from ris_jax import config as config_lib
from ris_jax import presets
from ris_jax.tuning import space

RATE = "optimizer.learning_rate"


def test_the_default_is_frozen_and_fits_every_preset_of_its_heads():
    with pytest.raises(TypeError):
        space.DEFAULT[RATE] = space.Range(0.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.DEFAULT[RATE].low = 0.0
    for name in ("quickstart", "reference", "robust", "array_16x16"):
        space.check(space.DEFAULT, presets.preset(name))


def test_round_trip():
    again = {}
    for name, values in space.to_dict(space.DEFAULT).items():
        again[name] = {key: value for key, value in values.items() if value is not None}
    assert dict(space.parse(again)) == dict(space.DEFAULT)


def test_draws_lie_within_and_have_the_field_s_type():
    table = space.parse(
        {
            RATE: {"low": 1e-3, "high": 1, "log": True},
            "optimizer.warmup_fraction": {"low": 0, "high": 0.5, "step": 0.25},
            "model.depth": {"low": 1, "high": 7, "step": 3},
            "model.candidates": {"low": 2, "high": 9, "log": True},
            "model.compute_dtype": {"choices": ["float32", "bfloat16"]},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    drawn = [space.sample(table, study.ask()) for _ in range(40)]
    assert {type(values[RATE]) for values in drawn} == {float}
    assert all(1e-3 <= values[RATE] <= 1.0 for values in drawn)
    assert sum(values[RATE] < 0.03 for values in drawn) > 10  # half of the logarithmic range
    assert {values["optimizer.warmup_fraction"] for values in drawn} == {0.0, 0.25, 0.5}
    assert {values["model.depth"] for values in drawn} == {1, 4, 7}
    assert {values["model.compute_dtype"] for values in drawn} == {"float32", "bfloat16"}
    for values in drawn:
        config_lib.override(config_lib.Config(), values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"the table: need fields; got \[\]"),
        ({}, "the table: need fields"),
        ({"model.widht": {"choices": [1]}}, "model.widht: need a configuration field"),
        ({"model": {"choices": [1]}}, "model: need a configuration field"),
        ({"scene.max_sources": {"low": 1, "high": 2}}, r"scene.max_sources: need a field of model"),
        ({"training.epochs": {"low": 1, "high": 2}}, r"training.batch_size; got 'training.epochs'"),
        ({RATE: 3}, "need an object with low and high, or with choices; got 3"),
        ({RATE: {"low": 1, "hihg": 2}}, "need choices, or low, high, log, step; got 'hihg'"),
        ({RATE: {"low": 1}}, "need low and high; got 'low'"),
        ({RATE: {}}, "need low and high; got 'neither'"),
        ({RATE: {"low": "1", "high": 2}}, "low: need a finite number; got '1'"),
        ({RATE: {"low": 1, "high": float("nan")}}, "high: need a finite number; got nan"),
        ({RATE: {"low": True, "high": 2}}, "low: need a finite number; got True"),
        ({"model.depth": {"low": 1.5, "high": 2}}, "low: need an integer; got 1.5"),
        ({"model.depth": {"low": 1, "high": 4, "step": 0.5}}, "step: need an integer; got 0.5"),
        ({RATE: {"low": 2, "high": 2}}, "need low < high; got '2 and 2'"),
        ({RATE: {"low": 0, "high": 2, "log": True}}, "low: need above zero with log; got 0"),
        ({RATE: {"low": 1, "high": 2, "log": 1}}, "log: need true or false; got 1"),
        ({RATE: {"low": 1, "high": 2, "step": 0}}, "step: need a value above zero; got 0"),
        ({RATE: {"low": 0, "high": 0.5, "step": 100}}, "step: need a divisor of high - low"),
        ({RATE: {"low": 0, "high": 0.5, "step": 0.2}}, "step: need a divisor of high - low"),
        ({RATE: {"low": 0, "high": 1, "step": 1e-12}}, "step: need a divisor of high - low"),
        ({"model.depth": {"low": 1, "high": 10**400}}, "high: need an integer; got 1000"),
        ({RATE: {"low": 1, "high": 10**400}}, "high: need a finite number; got 1000"),
        (
            {RATE: "a" * 5000},
            r"need an object with low and high, .*; got 'a{199}\.\.\.$",
        ),
        ({RATE: {"low": 1, "high": 2, "log": True, "step": 1}}, "step: need none with log; got 1"),
        ({"model.compute_dtype": {"low": 1, "high": 2}}, "need choices, because it is no number"),
        ({RATE: {"choices": []}}, r"need a list of choices; got \[\]"),
        ({RATE: {"choices": 3}}, "need a list of choices; got 3"),
        ({RATE: {"choices": [[1]]}}, "need choices that are numbers, text"),
        ({RATE: {"choices": [1], "log": True}}, "need choices only; got 'choices, log'"),
    ],
)
def test_refused(values, message):
    with pytest.raises(config_lib.ConfigError, match=f"search space: .*{message}"):
        space.parse(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"optimizer.warmup_fraction": {"low": 0, "high": 1}},
            "fraction=1.0 is not possible: ",
        ),
        ({"model.width": {"choices": [64, 66]}}, "model.width=66 is not possible: model.num_heads"),
        ({"model.width": {"choices": ["broad"]}}, "model.width='broad' is not possible: "),
    ],
)
def test_invalid_ends(values, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        space.check(space.parse(values), config_lib.Config())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (json.dumps({RATE: 3}).encode(), "need an object"),
    ],
)
def test_files_are_named(tmp_path, content, message):
    path = tmp_path / "space.json"
    path.write_bytes(content)
    with pytest.raises(config_lib.ConfigError, match=rf"space\.json: .*{message}"):
        space.read(path)
    with pytest.raises(OSError, match=r"none\.json"):
        space.read(tmp_path / "none.json")
