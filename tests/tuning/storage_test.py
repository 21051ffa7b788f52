"""Storages: invalid addresses, damaged databases, studies of others."""

import optuna
import pytest
import sqlalchemy.exc

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.tuning import search_plan as search_plan_lib
from ris_jax.tuning import space, storage

TABLE = {"optimizer.learning_rate": space.Range(1e-3, 1e-1, log=True)}


def _plan(**changes):
    return search_plan_lib.SearchPlan(**{"base": config_lib.Config(), "space": TABLE} | changes)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgresql://me:secret@host:1/db", "postgresql+psycopg://me:***@host:1/db"),
        ("postgres://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgresql+pg8000://me@host/db", "postgresql+pg8000://me@host/db"),
    ],
)
def test_addresses(text, drawn):
    assert storage.shown(storage.parse_url(text)) == drawn


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study.db", "--storage: need sqlite:///FILE or postgresql://.*; got 'study.db'"),
        ("", "--storage: need sqlite:///FILE"),
        ("postgresql://me@host:port/db", "--storage: need sqlite:///FILE"),
        ("redis://me:secret@host/db", r"got 'redis://me:\*\*\*@host/db'"),
        ("sqlite://", "need the name of a file"),
        ("sqlite:///:memory:", "need the name of a file"),
    ],
)
def test_invalid_addresses(text, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        storage.parse_url(text)


def _open(path, **changes):
    with storage.opened(storage.parse_url(f"sqlite:///{path}"), _plan(**changes)) as study:
        return study


def test_a_study_is_created_once(tmp_path):
    _open(tmp_path / "a.db").ask()
    assert len(_open(tmp_path / "a.db").get_trials()) == 1
    assert not _open(tmp_path / "a.db", study="other").get_trials()


def test_a_study_of_format_version_1_keeps_its_wavefront(tmp_path):
    """It continues with `spherical_phase`, the former meaning of `spherical`."""
    phases = config_lib.override(config_lib.Config(), {"system.wavefront": "spherical_phase"})
    stored = _plan().to_dict()
    assert stored["base"].pop("format_version") == 2
    assert search_plan_lib.in_present_terms(stored) == _plan(base=phases).to_dict()
    study = _open(tmp_path / "a.db")
    study.set_user_attr("ris_jax_plan", stored)
    _open(tmp_path / "a.db", base=phases)
    with pytest.raises(
        config_lib.ConfigError, match=r"wavefront='spherical' \(there 'spherical_ph"
    ):
        _open(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": config_lib.override(config_lib.Config(), {"training.seed": 7})},
         r"base.training.seed=7 \(there 0\)"),
        ({"objective": "val_count_accuracy"}, "objective='val_count_accuracy'"),
        ({"heartbeat": 7}, r"heartbeat=7 \(there 30\)"),
        ({"space": {"model.depth": space.Range(1, 2)}}, "space.model.depth.high=2"),
    ],
)  # fmt: skip
def test_a_study_of_another_search(tmp_path, changes, message):
    _open(tmp_path / "a.db")
    with pytest.raises(config_lib.ConfigError, match=f"is another search; here: .*{message}"):
        _open(tmp_path / "a.db", **changes)


def test_a_foreign_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    optuna.create_study(storage=url, study_name="ris_jax").ask()
    with pytest.raises(config_lib.ConfigError, match="was not made by `tune`"):
        _open(tmp_path / "a.db")


def test_not_a_database(tmp_path):
    (tmp_path / "a.db").write_bytes(b"nothing like it" * 100)
    with pytest.raises(errors.RunError, match=r"storage sqlite:.*a\.db: file is not a database"):
        _open(tmp_path / "a.db")


def test_missing_directory(tmp_path):
    with pytest.raises(errors.RunError, match="unable to open database file"):
        _open(tmp_path / "none" / "a.db")


def test_missing_server():
    url = storage.parse_url("postgresql://me:secret@127.0.0.1:1/db?connect_timeout=3")
    with (
        pytest.raises(errors.RunError, match=r"storage postgresql.*me:\*\*\*@.*") as caught,
        storage.opened(url, _plan()),
    ):
        pass
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ImportError("no driver"), config_lib.ConfigError, "its driver is not installed: pip"),
        (RuntimeError("made by Optuna 9\nmore"), errors.RunError, "a.db: made by Optuna 9$"),
        (sqlalchemy.exc.OperationalError("q", {}, Exception("locked")), errors.RunError, "locked$"),
    ],
)
def test_optuna_exceptions(tmp_path, monkeypatch, error, kind, message):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(optuna.storages, "RDBStorage", failing)
    with pytest.raises(kind, match=message):
        _open(tmp_path / "a.db")


def test_tables_created_by_another_worker(tmp_path, monkeypatch):
    calls = []

    class Racing(optuna.storages.RDBStorage):
        def __init__(self, *arguments, **options):
            calls.append(arguments)
            if len(calls) < 3:
                reason = Exception("table studies already exists")
                raise sqlalchemy.exc.OperationalError("q", {}, reason)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", Racing)
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    assert _open(tmp_path / "a.db").get_trials() == []


def test_nested_errors():
    url = storage.parse_url("sqlite:///a.db")
    outer = optuna.exceptions.StorageInternalError("something in the commit")
    outer.__cause__ = sqlalchemy.exc.OperationalError("q", {}, Exception("disk is full"))
    with pytest.raises(errors.RunError, match=r"a\.db: disk is full$"), storage.errors_of(url):
        raise outer


class TestPlan:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"objective": "nmse"}, "--objective: need one of val_nmse, .*; got 'nmse'"),
            ({"pruner": "all"}, "--pruner: need one of median, none; got 'all'"),
            ({"objective": "val_loss", "space": {"loss.count": space.Range(0.1, 1.0)}},
             "--objective: val_loss cannot be compared between trials with different loss.count"),
            ({"space": {"model.width": space.Choice((63,))}}, "model.width=63 is not possible"),
        ],
    )  # fmt: skip
    def test_refused(self, changes, message):
        with pytest.raises(config_lib.ConfigError, match=message):
            _plan(**changes)

    def test_loss_objective_with_fixed_weights(self):
        assert _plan(objective="val_loss").direction == "minimize"
        assert _plan(objective="val_count_accuracy").direction == "maximize"
