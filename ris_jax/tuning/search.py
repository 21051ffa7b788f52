"""Worker of a search: trains until every place is settled, next to any number of other workers."""

import contextlib
import csv
import io
import pathlib
import time
from collections.abc import Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from ris_jax import config as config_lib
from ris_jax import config_files, errors, files
from ris_jax.tuning import heartbeat, ledger
from ris_jax.tuning import search_plan as search_plan_lib
from ris_jax.tuning import trials as trials_lib

BEST_NAME = "best.json"
TABLE_NAME = "trials.csv"
_MAX_SECONDS_BETWEEN_CHECKS = 5.0
_SECONDS_BETWEEN_LINES = 30.0


def check_folder(study: optuna.Study, workdir: pathlib.Path) -> None:
    """Reject a work directory with runs of another search, one that is not in the storage.

    Raises:
      ConfigError: the directory has runs of trials, and the study has no trials.
    """
    runs = workdir / trials_lib.FOLDER
    if runs.is_dir() and any(runs.iterdir()) and not study.get_trials(deepcopy=False):
        raise config_lib.ConfigError(
            f"--workdir: {runs} holds runs, but study {study.study_name!r} in the storage is new; "
            "need another directory, or the storage of those runs"
        )


def _tell(study: optuna.Study, number: int, state: TrialState) -> None:
    try:
        study.tell(number, state=state, skip_if_finished=True)
    except (UpdateFinishedTrialError, ValueError):
        # Another worker wrote this trial between the read and the write.
        if not study.get_trials(deepcopy=False)[number].state.is_finished():
            raise


def recover(
    study: optuna.Study, watch: heartbeat.Watch, count: int, retries: int
) -> list[ledger.Place]:
    """Fail the trials of lost workers, queue them again, and return all places.

    Any worker can repeat any step: failing is idempotent, and only the first of two retries of a
    trial has a place.
    """
    for trial in watch.lost(study.get_trials(deepcopy=False)):
        _tell(study, trial.number, TrialState.FAIL)
    found = ledger.places(study.get_trials(deepcopy=False), count, retries)
    for place in found:
        if place.outcome == "lost":
            print(f"trial {place.number} was left by its worker and is queued again", flush=True)
            again = {ledger.RETRY_OF: place.last.number}
            study.enqueue_trial(place.last.params, user_attrs=again)
    return ledger.places(study.get_trials(deepcopy=False), count, retries)


def _wait(
    found: Sequence[ledger.Place], plan: search_plan_lib.SearchPlan, last_line: float
) -> float:
    """Sleep while other workers train; return the time of the last printed line."""
    now = time.monotonic()
    if now - last_line > _SECONDS_BETWEEN_LINES:
        last_line = now
        print(f"waiting for other workers; {ledger.summary(found)}", flush=True)
    time.sleep(min(_MAX_SECONDS_BETWEEN_CHECKS, plan.heartbeat))
    return last_line


def _run_one(
    study: optuna.Study,
    plan: search_plan_lib.SearchPlan,
    workdir: pathlib.Path,
    count: int,
    retries: int,
) -> None:
    """Take a place and settle it; after an interruption the place is free at once.

    The run's rows and checkpoint are on disk before the storage is updated.
    """
    trial = study.ask()
    number = trial.number
    try:
        with heartbeat.Heartbeat(trial, plan.heartbeat):
            every = ledger.places(study.get_trials(deepcopy=False), count, retries)
            place = ledger.place_of(trial.number, every)
            if place is None:  # another worker was faster
                _tell(study, trial.number, TrialState.FAIL)
                return
            number = place.number
            value = trials_lib.run(trial, plan, number, workdir)
        study.tell(trial, value, skip_if_finished=True)
    except optuna.TrialPruned:
        _tell(study, trial.number, TrialState.PRUNED)
    except trials_lib.Failed as error:
        trial.set_user_attr(ledger.FAILURE, str(error))
        _tell(study, trial.number, TrialState.FAIL)
    except UpdateFinishedTrialError:
        print(f"trial {number} was taken over by another worker", flush=True)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            with contextlib.suppress(UpdateFinishedTrialError):
                trial.set_user_attr(ledger.LEFT, True)
        _tell(study, trial.number, TrialState.FAIL)  # no recorded reason: it is tried again
        raise


def work(
    study: optuna.Study,
    plan: search_plan_lib.SearchPlan,
    workdir: pathlib.Path,
    *,
    count: int,
    retries: int,
) -> list[ledger.Place]:
    """Train until every place of the search is settled.

    Args:
      study: from `storage.opened`.
      plan: the one that the study was opened with.
      workdir: receives a run per place, the table of trials, and the best configuration.
      count: places of the search, including those of earlier calls.
      retries: allowed for a place whose worker is lost.

    Returns:
      The places, all settled.

    Raises:
      RunError: a run cannot be written; the next worker starts its place again.
    """
    watch = heartbeat.Watch(heartbeat.MISSED_BEATS * plan.heartbeat)
    last_line = -_SECONDS_BETWEEN_LINES
    while True:
        found = recover(study, watch, count, retries)
        waiting = any(place.outcome == "waiting" for place in found)
        if len(found) == count and not waiting:
            if all(place.outcome in ledger.SETTLED for place in found):
                return found
            last_line = _wait(found, plan, last_line)
            continue
        _run_one(study, plan, workdir, count, retries)
        found = ledger.places(study.get_trials(deepcopy=False), count, retries)
        write_results(study, plan, workdir, found)
        print(f"{ledger.summary(found)}; {describe_best(study, plan, found)}", flush=True)


def describe_best(
    study: optuna.Study, plan: search_plan_lib.SearchPlan, found: Sequence[ledger.Place]
) -> str:
    """Describe the best trial so far."""
    best = ledger.best(found, study.direction)
    if best is None:
        return "none complete yet"
    return f"best: trial {best.number}, {plan.objective} {best.last.value:.5f}"


def _table(plan: search_plan_lib.SearchPlan, found: Sequence[ledger.Place]) -> str:
    text = io.StringIO()
    columns = ("trial", "outcome", plan.objective, "epochs", "attempts", "reason")
    writer = csv.writer(text)
    writer.writerow((*columns, *plan.space))
    for place in found:
        last = place.last
        value = last.value if place.outcome == "complete" else None
        row = (place.number, place.outcome, value, last.last_step or 0, len(place.attempts))
        writer.writerow((*row, place.reason, *(last.params.get(name) for name in plan.space)))
    return text.getvalue()


def write_results(
    study: optuna.Study,
    plan: search_plan_lib.SearchPlan,
    workdir: pathlib.Path,
    found: Sequence[ledger.Place],
) -> None:
    """Write the table of trials, and the best configuration for `train --config`."""
    with files.replacing(workdir / TABLE_NAME) as partial:
        partial.write_text(_table(plan, found))
    best = ledger.best(found, study.direction)
    if best is not None:
        with files.replacing(workdir / BEST_NAME) as partial:
            partial.write_text(config_files.text(plan.configuration(best.last.params)))


def require_best(study: optuna.Study, found: Sequence[ledger.Place]) -> ledger.Place:
    """Return the best trial.

    Raises:
      RunError: no trial is complete; the message has the reason of the last failure.
    """
    best = ledger.best(found, study.direction)
    if best is None:
        reasons = [place.reason for place in found if place.reason]
        raise errors.RunError(
            f"{ledger.summary(found)}; no trial is complete"
            + (f"; the last one failed: {reasons[-1]}" if reasons else "")
        )
    return best
