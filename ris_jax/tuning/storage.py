"""Storage of a search: an Optuna study in an SQL database that workers share."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.tuning import search_plan as search_plan_lib

_PLAN = "ris_jax_plan"  # attribute of a study
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_SECONDS_FOR_A_LOCK = 60.0  # longest wait for a lock on an SQLite file
_TRIES = 5  # to create tables that another worker may be creating


def parse_url(text: str) -> sqlalchemy.URL:
    """Parse the address of a storage.

    Args:
      text: ``sqlite:///file.db`` or ``postgresql://user:password@host/database``.

    Raises:
      ConfigError: it is no address, or its storage would not outlive the workers.
    """
    example = "need sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        url = sqlalchemy.make_url(text)
        backend, _, driver = url.drivername.partition("+")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise config_lib.ConfigError(f"--storage: {example}; got {text!r}") from None
    shown = url.render_as_string(hide_password=True)
    backend = "postgresql" if backend == "postgres" else backend
    if backend not in _DRIVERS:
        raise config_lib.ConfigError(f"--storage: {example}; got {shown!r}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise config_lib.ConfigError(f"--storage: need the name of a file; got {shown!r}")
    return url if driver else url.set(drivername=_DRIVERS[backend])


def shown(url: sqlalchemy.URL) -> str:
    """Return a storage's address without its password."""
    return url.render_as_string(hide_password=True)


def _reason(error: BaseException) -> str:
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    original = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    return lines[0] if lines else type(original).__name__


@contextlib.contextmanager
def errors_of(url: sqlalchemy.URL) -> Iterator[None]:
    """Turn database exceptions into one-line errors.

    Raises:
      RunError: the storage cannot be reached, read or written.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise errors.RunError(f"storage {shown(url)}: {_reason(error)}") from error


def _connect(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    """Open a storage and create its tables.

    Raises:
      ConfigError: the database driver is not installed.
      RunError: the tables belong to an incompatible version of Optuna.
    """
    sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = (
        {"connect_args": {"timeout": _SECONDS_FOR_A_LOCK}} if sqlite else {"pool_pre_ping": True}
    )
    text = url.render_as_string(hide_password=False)
    tries = 0
    while True:
        tries += 1
        try:
            return optuna.storages.RDBStorage(text, engine_kwargs=options)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raced = "already exists" in str(error) or isinstance(
                error, sqlalchemy.exc.IntegrityError
            )
            if tries == _TRIES or not raced:
                raise
            time.sleep(0.5)
        except ImportError as error:
            raise config_lib.ConfigError(
                f"--storage: {shown(url)}: its driver is not installed: "
                "pip install 'ris-jax[postgresql]'"
            ) from error
        except RuntimeError as error:
            raise errors.RunError(f"storage {shown(url)}: {_reason(error)}") from error


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    left, right = config_lib.flatten(ours), config_lib.flatten(theirs)
    names = sorted(name for name in left | right if left.get(name) != right.get(name))
    return ", ".join(f"{n}={left.get(n)!r} (there {right.get(n)!r})" for n in names)


def _study(
    connected: optuna.storages.RDBStorage, url: sqlalchemy.URL, plan: search_plan_lib.SearchPlan
) -> optuna.Study:
    study = optuna.create_study(
        storage=connected,
        study_name=plan.study,
        direction=plan.direction,
        pruner=plan.make_pruner(),
        load_if_exists=True,
    )
    if _PLAN not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            raise config_lib.ConfigError(
                f"--study: {plan.study!r} in {shown(url)} was not made by `tune`; need another name"
            )
        study.set_user_attr(_PLAN, plan.to_dict())
    there = search_plan_lib.in_present_terms(study.user_attrs[_PLAN])
    if there != plan.to_dict():
        raise config_lib.ConfigError(
            f"study {plan.study!r} in {shown(url)} is another search; here: "
            + _difference(plan.to_dict(), there)
        )
    return study


@contextlib.contextmanager
def opened(url: sqlalchemy.URL, plan: search_plan_lib.SearchPlan) -> Iterator[optuna.Study]:
    """Yield the study of a plan, created if missing; close its connections at the end.

    Raises:
      ConfigError: the study has another plan or is not ours; the message names the fields.
      RunError: the storage cannot be used, now or later in the context.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with errors_of(url):
        connected = _connect(url)
        try:
            yield _study(connected, url, plan)
        finally:
            connected.engine.dispose()
