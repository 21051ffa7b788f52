"""Losses with Optuna's own heartbeat and retry, which `ris_jax.tuning` avoids."""

import time

import optuna
import pytest
from optuna.trial import TrialState

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),
]


def _study(folder, callback):
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / 'study.db'}", heartbeat_interval=1, grace_period=1,
        heartbeat_stale_trial_callback=callback,
    )  # fmt: skip
    return optuna.create_study(storage=storage), storage


def _states(study):
    return [trial.state for trial in study.get_trials()]


def test_a_worker_killed_before_its_first_heartbeat_is_never_noticed(tmp_path):
    study, storage = _study(tmp_path, optuna.storages.RetryHeartbeatStaleTrialCallback())
    study.ask()
    time.sleep(2.5)
    optuna.storages.fail_stale_trials(study)
    assert _states(study) == [TrialState.RUNNING]
    storage.engine.dispose()


def test_a_worker_killed_before_it_queues_a_retry_loses_the_trial(tmp_path):
    def killed(*_):
        raise KeyboardInterrupt

    study, storage = _study(tmp_path, killed)
    storage.record_heartbeat(study.ask()._trial_id)
    time.sleep(2.5)
    with pytest.raises(KeyboardInterrupt):
        optuna.storages.fail_stale_trials(study)
    optuna.storages.fail_stale_trials(study)  # of the next worker
    assert _states(study) == [TrialState.FAIL]
    storage.engine.dispose()
