"""Search in one process with a simulated trainer."""

import csv
import json
import threading
import time

import jax
import optuna
import pytest
from optuna.trial import TrialState

from ris_jax import config as config_lib
from ris_jax import config_files, errors, files
from ris_jax.training import loop
from ris_jax.training.saving import metrics_log
from ris_jax.tuning import heartbeat, ledger, search, space, storage, trials
from ris_jax.tuning import search_plan as search_plan_lib

RATE = "optimizer.learning_rate"
TABLE = {RATE: space.Range(1e-4, 1.0, log=True), "model.depth": space.Range(1, 3)}

pytestmark = pytest.mark.usefixtures("simulated_trainer")


def _plan(**changes):
    base = config_lib.override(config_lib.Config(), {"training.epochs": 4})
    given = {"base": base, "space": TABLE, "startup_trials": 3, "heartbeat": 1}
    return search_plan_lib.SearchPlan(**given | changes)


def _open(folder, plan):
    folder.mkdir(exist_ok=True)
    url = storage.parse_url(f"sqlite:///{folder / 'study.db'}")
    with storage.opened(url, plan) as study:
        return study  # it reconnects on use


def _search(folder, count, plan=None, retries=3):
    plan = plan or _plan()
    study = _open(folder, plan)
    return study, search.work(study, plan, folder, count=count, retries=retries)


def _outcomes(found):
    return [place.outcome for place in found]


def _rows(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.full
def test_bad_trials_are_pruned_and_good_ones_found(tmp_path):
    study, found = _search(tmp_path, 25)
    assert len(found) == len(study.get_trials()) == 25
    assert set(_outcomes(found)) == {"complete", "pruned"}
    pruned = [place for place in found if place.outcome == "pruned"]
    # The first three are kept; the others are pruned below the median.
    assert all(place.number >= 3 for place in pruned)
    for place in pruned:
        epochs = len(metrics_log.epoch_rows(trials.folder(tmp_path, place.number)))
        assert epochs == place.last.last_step < 4
    best = ledger.best(found, study.direction)
    assert best is not None
    assert best.last.value == min(place.last.value for place in found if place not in pruned)
    assert 3e-3 < best.last.params[RATE] < 3e-2


def test_without_a_pruner_none_is_pruned(tmp_path):
    _, found = _search(tmp_path, 8, _plan(pruner="none"))
    assert _outcomes(found) == ["complete"] * 8


def test_resume_equals_an_uninterrupted_search(tmp_path):
    """Drawn values, scores and outcomes equal those of one search over all trials."""
    _, whole = _search(tmp_path / "whole", 12)
    for count in (5, 5, 12):  # the second call has nothing to do
        study, found = _search(tmp_path / "parts", count)
        assert len(study.get_trials()) == count
    assert [p.last.params for p in found] == [p.last.params for p in whole]
    assert [p.last.value for p in found] == [p.last.value for p in whole]
    assert _outcomes(found) == _outcomes(whole)
    assert _rows(tmp_path / "parts") == _rows(tmp_path / "whole")


def test_the_best_is_a_configuration_and_its_trial_is_that_run(tmp_path, monkeypatch):
    plan, configs, train = _plan(objective="val_count_accuracy"), [], loop.train

    def recorded(config, *arguments, **settings):
        configs.append(config)
        train(config, *arguments, **settings)

    monkeypatch.setattr(loop, "train", recorded)
    study, found = _search(tmp_path, 6, plan)
    best = search.require_best(study, found)
    assert best.last.value == max(p.last.value for p in found if p.outcome == "complete")
    assert config_files.read(tmp_path / "best.json") == configs[best.number]
    assert configs[best.number].training == plan.base.training
    row = _rows(tmp_path)[best.number]
    assert (row["outcome"], row["epochs"], row["attempts"]) == ("complete", "4", "1")
    assert float(row["val_count_accuracy"]) == best.last.value
    assert float(row[RATE]) == configs[best.number].optimizer.learning_rate


@pytest.mark.full
def test_interruptions_do_not_change_drawn_values(tmp_path, monkeypatch):
    """Restarted and later trials have the same values."""
    _, whole = _search(tmp_path / "whole", 9)
    train, calls = loop.train, []

    def interrupted(config, workdir, after_epoch, wait):
        calls.append(workdir)
        if len(calls) in (2, 5, 6):
            raise KeyboardInterrupt
        train(config, workdir, after_epoch, wait)

    monkeypatch.setattr(loop, "train", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            _search(tmp_path / "parts", 9)
    _, found = _search(tmp_path / "parts", 9)
    assert sum(len(place.attempts) for place in found) == 12
    assert [p.last.params for p in found] == [p.last.params for p in whole]
    assert [p.last.value for p in found] == [p.last.value for p in whole]


def test_a_requested_stop_is_not_a_loss(tmp_path, monkeypatch):
    """A pre-emptible worker may stop more often than `retries`."""
    train, calls = loop.train, []

    def stopped(config, workdir, after_epoch, wait):
        def after():
            after_epoch()
            if len(calls) < 3:
                calls.append(workdir)
                raise errors.Interrupted(15)

        train(config, workdir, after, wait)

    monkeypatch.setattr(loop, "train", stopped)
    for _ in range(3):
        with pytest.raises(errors.Interrupted):
            _search(tmp_path, 1, retries=0)
    _, found = _search(tmp_path, 1, retries=0)
    assert _outcomes(found) == ["complete"]
    assert len(found[0].attempts) == 4
    assert [row["epoch"] for row in metrics_log.epoch_rows(trials.folder(tmp_path, 0))] == [
        1,
        2,
        3,
        4,
    ]


class TestFailures:
    def _failing(self, monkeypatch, error, times=1):
        """Replace the trainer by one that fails `times` times after an epoch."""
        train, calls = loop.train, []

        def failing(config, workdir, after_epoch, wait):
            def after():
                after_epoch()
                if len(calls) < times:
                    calls.append(workdir)
                    raise error

            train(config, workdir, after)

        monkeypatch.setattr(loop, "train", failing)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (errors.TrainingLostError("the learning rate is too high"), "the learning rate is too"),
            (errors.OutOfMemoryError("out of memory on cpu:0"), "out of memory on cpu:0"),
        ],
    )
    def test_configuration_failures_are_results(self, tmp_path, monkeypatch, error, reason):
        self._failing(monkeypatch, error)
        study, found = _search(tmp_path, 3)
        assert _outcomes(found) == ["failed", "complete", "complete"]
        assert found[0].reason.startswith(reason)
        assert "\n" not in found[0].reason
        assert len(study.get_trials()) == 3

    @pytest.mark.parametrize(
        "error",
        [
            errors.RunError("No space left on device"),
            KeyboardInterrupt(),
            jax.errors.JaxRuntimeError("INTERNAL: unknown"),
            ZeroDivisionError("a bug"),
        ],
    )
    def test_machine_failures_stop_the_worker(self, tmp_path, monkeypatch, error):
        self._failing(monkeypatch, error)
        with pytest.raises(type(error)):
            _search(tmp_path, 3)
        before = metrics_log.epoch_rows(trials.folder(tmp_path, 0))
        assert len(before) == 1
        study, found = _search(tmp_path, 3)
        assert _outcomes(found) == ["complete"] * 3
        assert [len(place.attempts) for place in found] == [2, 1, 1]
        first, again = found[0].attempts
        assert (first.state, first.params) == (TrialState.FAIL, again.params)
        # The row of the first attempt occurs once, and the storage has every epoch.
        assert metrics_log.epoch_rows(trials.folder(tmp_path, 0))[:1] == before
        assert sorted(again.intermediate_values) == [1, 2, 3, 4]
        assert len(study.get_trials()) == 4

    def test_repeated_failures_are_abandoned(self, tmp_path, monkeypatch):
        self._failing(monkeypatch, OSError(28, "No space left on device"), times=2)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                _search(tmp_path, 2, retries=1)
        _, found = _search(tmp_path, 2, retries=1)
        assert _outcomes(found) == ["abandoned", "complete"]
        assert "its worker was lost 2 times" in found[0].reason

    def test_contradictory_values(self, tmp_path):
        """Each value is valid with the base, the pair is not."""
        table = {"model.width": space.Choice((36,)), "model.num_heads": space.Choice((8,))}
        with pytest.raises(errors.RunError, match="no trial is complete; the last one failed: m"):
            search.require_best(*_search(tmp_path, 2, _plan(space=table)))
        assert not (tmp_path / "best.json").exists()
        assert not (tmp_path / "trials").exists()

    def test_no_finite_score(self, tmp_path, monkeypatch):
        def unscored(config, workdir, after_epoch, wait):
            workdir.mkdir(parents=True)
            row = {"kind": "epoch", "epoch": 1, "val_nmse": None}
            (workdir / "metrics.jsonl").write_text(json.dumps(row))
            after_epoch()

        monkeypatch.setattr(loop, "train", unscored)
        _, found = _search(tmp_path, 1)
        assert found[0].reason == "no epoch has a finite val_nmse"


class TestOtherWorkers:
    def test_two_workers_request_the_last_place(self, tmp_path):
        """Both request it at once: the later trial is not trained."""
        plan = _plan()
        study = _open(tmp_path, plan)
        faster, slower = study.ask(), study
        search._run_one(slower, plan, tmp_path, count=1, retries=3)
        assert [trial.state for trial in study.get_trials()] == [
            TrialState.RUNNING, TrialState.FAIL,
        ]  # fmt: skip
        assert not (tmp_path / "trials").exists()
        study.tell(faster, 0.5)
        assert _outcomes(ledger.places(study.get_trials(), 1, 3)) == ["complete"]
        # A larger search uses it.
        _, found = _search(tmp_path, 2)
        assert [(p.number, p.last.number) for p in found] == [(0, 0), (1, 2)]

    def test_waiting_workers_replace_dead_ones(self, tmp_path):
        """One worker died before drawing values, one after; neither sent a heartbeat."""
        plan = _plan()
        study = _open(tmp_path, plan)
        study.ask()
        values = space.sample(plan.space, study.ask())
        _, found = _search(tmp_path, 3, plan)
        assert _outcomes(found) == ["complete"] * 3
        assert [len(place.attempts) for place in found] == [2, 2, 1]
        assert found[1].last.params == values

    def test_recovery_can_be_interrupted_and_repeated(self, tmp_path):
        plan = _plan()
        study = _open(tmp_path, plan)
        study.ask()
        now = 0.0
        watches = [heartbeat.Watch(4.0, clock=lambda: now) for _ in range(2)]
        for watch in watches:
            search.recover(study, watch, 1, 3)
        now = 5.0
        enqueue = study.enqueue_trial
        study.enqueue_trial = lambda *_, **__: None  # killed after failing, before queueing
        assert _outcomes(search.recover(study, watches[0], 1, 3)) == ["lost"]
        study.enqueue_trial = enqueue
        for watch in watches:
            assert _outcomes(search.recover(study, watch, 1, 3)) == ["waiting"]
        assert len(study.get_trials()) == 2
        # Two workers queue it at once: the second retry gets no place.
        study.enqueue_trial({}, user_attrs={ledger.RETRY_OF: 0})
        _, found = _search(tmp_path, 1)
        assert [place.last.number for place in found] == [1]

    def test_trial_taken_over(self, tmp_path, monkeypatch, capsys):
        """A suspended worker detects it at the next epoch and continues."""
        train = loop.train

        def slept(config, workdir, after_epoch, wait):
            study = _open(tmp_path, _plan())
            study.tell(0, state=TrialState.FAIL)
            monkeypatch.setattr(loop, "train", train)
            train(config, workdir, after_epoch, wait)

        monkeypatch.setattr(loop, "train", slept)
        _, found = _search(tmp_path, 1)
        assert "trial 0 was taken over by another worker" in capsys.readouterr().out
        assert [trial.state for trial in found[0].attempts] == [
            TrialState.FAIL,
            TrialState.COMPLETE,
        ]

    def test_waits_for_a_worker_that_still_trains(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(files, "_SECONDS_BETWEEN_ATTEMPTS", 0.01)
        path = trials.folder(tmp_path, 0)
        path.mkdir(parents=True)
        study = _open(tmp_path, _plan())
        with files.exclusive(path):
            worker = threading.Thread(
                target=search._run_one,
                args=(study, _plan(), tmp_path),
                kwargs={"count": 1, "retries": 3},
            )
            worker.start()
            time.sleep(1.0)
            assert metrics_log.epoch_rows(path) == []
        worker.join(60.0)
        assert len(metrics_log.epoch_rows(path)) == 4
        assert f"waiting for another process that writes to {path}" in capsys.readouterr().out

    def test_tell_leaves_other_errors_alone(self, tmp_path):
        study = _open(tmp_path, _plan())
        study.enqueue_trial({})
        with pytest.raises(ValueError, match="WAITING"):
            search._tell(study, 0, TrialState.FAIL)


def test_an_epoch_is_reported_once_and_only_if_finite(tmp_path, monkeypatch):
    def gap(config, workdir, after_epoch, wait):
        workdir.mkdir(parents=True)
        rows = [
            {"kind": "epoch", "epoch": n + 1, "val_nmse": v} for n, v in enumerate((3.0, None, 2.0))
        ]
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        after_epoch()
        after_epoch()

    monkeypatch.setattr(loop, "train", gap)
    _, found = _search(tmp_path, 1)
    assert found[0].last.intermediate_values == {1: 3.0, 3: 2.0}
    assert found[0].last.value == 2.0


def test_runs_of_another_study_are_refused(tmp_path):
    study, _ = _search(tmp_path, 1)
    search.check_folder(study, tmp_path)
    other = _open(tmp_path, _plan(study="other"))
    with pytest.raises(
        config_lib.ConfigError, match="holds runs, but study 'other' in the storage"
    ):
        search.check_folder(other, tmp_path)
    search.check_folder(other, tmp_path / "new")


def test_optuna_reads_the_study(tmp_path):
    """Optuna's own functions read the storage."""
    _search(tmp_path, 4)
    study = optuna.load_study(study_name="ris_jax", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == 4
    assert study.best_trial.value is not None


@pytest.mark.full
def test_compiled_programs_are_shared_and_limited(tmp_path, monkeypatch):
    """Trials that differ only in rates and loss weights share programs."""
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(len(trials._programs)))
    trials._programs.clear()
    rates = {RATE: TABLE[RATE], "loss.count": space.Range(0.1, 1.0)}
    _search(tmp_path / "rates", 6, _plan(space=rates, pruner="none"))
    assert (cleared, len(trials._programs)) == ([], 1)
    widths = {"model.width": space.Choice(tuple(range(16, 17 * 16, 16)))}
    study, _ = _search(tmp_path / "widths", 12, _plan(space=widths, pruner="none"))
    different = len({trial.params["model.width"] for trial in study.get_trials()})
    assert different > trials._MOST_PROGRAMS
    assert cleared
    assert set(cleared) == {trials._MOST_PROGRAMS}
    assert len(trials._programs) <= trials._MOST_PROGRAMS


@pytest.mark.parametrize(
    ("field", "value", "shared"),
    [
        (RATE, 0.5, True),
        ("optimizer.weight_decay", 0.5, True),
        ("loss.offset", 0.7, True),
        ("loss.offset", 0.0, False),
        ("optimizer.method", "adamw", False),
        ("model.depth", 1, False),
        ("training.batch_size", 16, False),
    ],
)
def test_program_keys(field, value, shared):
    base = config_lib.Config()
    other = config_lib.override(base, {field: value})
    assert (trials._program(base) == trials._program(other)) == shared
