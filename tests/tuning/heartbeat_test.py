"""Heartbeats of workers."""

import time

import optuna

from ris_jax.tuning import heartbeat


def test_a_trial_is_lost_if_its_counter_is_constant():
    study = optuna.create_study()
    first, second = study.ask(), study.ask()  # the second dies before its first heartbeat
    now = 0.0
    watch = heartbeat.Watch(4.0, clock=lambda: now)
    lost = []
    for now in range(10):
        if now <= 3:
            first.set_user_attr(heartbeat.BEAT, now)
        lost.append([trial.number for trial in watch.lost(study.get_trials())])
    assert lost == [[]] * 5 + [[1]] * 3 + [[0, 1]] * 2
    study.tell(second, state=optuna.trial.TrialState.FAIL)
    assert [trial.number for trial in watch.lost(study.get_trials())] == [0]


def _count_within(study, seconds, at_least):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if study.get_trials()[0].user_attrs.get(heartbeat.BEAT, 0) >= at_least:
            return True
        time.sleep(0.01)
    return False


def test_counts_during_the_context():
    study = optuna.create_study()
    with heartbeat.Heartbeat(study.ask(), 0.01):
        assert _count_within(study, 30.0, 3)
    before = study.get_trials()[0].user_attrs[heartbeat.BEAT]
    time.sleep(0.1)
    assert study.get_trials()[0].user_attrs[heartbeat.BEAT] == before


def test_ends_when_the_trial_is_taken_over():
    study = optuna.create_study()
    trial = study.ask()
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with heartbeat.Heartbeat(trial, 0.01) as beating:
        beating._thread.join(30.0)
        assert not beating._thread.is_alive()


def test_continues_if_the_storage_is_unreachable(monkeypatch, capsys):
    study = optuna.create_study()
    trial = study.ask()
    write, calls = trial.set_user_attr, []

    def failing(key, value):
        calls.append(value)
        if value == 1:
            raise OSError("unreachable")
        write(key, value)

    monkeypatch.setattr(trial, "set_user_attr", failing)
    with heartbeat.Heartbeat(trial, 0.01):
        assert _count_within(study, 30.0, 2)
    assert "warning: the heartbeat could not be written: OSError" in capsys.readouterr().out
