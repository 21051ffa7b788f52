"""Profile of a run: times, and an unchanged run."""

import time

import jax
import pytest

from ris_jax.reports.run import run_figures
from ris_jax.training import callbacks, loop, profiling
from ris_jax.training import step as step_lib
from ris_jax.training.saving import metrics_log


@pytest.mark.full
def test_a_profile_changes_no_bit_and_compiles_no_step(tiny_config, tmp_path):
    profile = profiling.Profile(tmp_path / "watched", tiny_config.training.log_every)
    watching = callbacks.Callbacks(
        figures=run_figures.watcher(tiny_config), timed=profile.timed, source=profile.source
    )
    (tmp_path / "watched").mkdir()
    jax.clear_caches()
    loop.train(tiny_config, tmp_path / "alone")
    loop.train(tiny_config, tmp_path / "watched", watching=watching)
    assert [step_lib.donating_step.num_compiled(), step_lib.scoring_step.num_compiled()] == [1, 1]
    rows = metrics_log.read_rows(tmp_path / "watched")
    assert rows == metrics_log.read_rows(tmp_path / "alone")
    assert len(rows) > 4
    assert len(profile._moments) == tiny_config.training.steps_per_epoch


def _simulate(profile, *, compilation, drawing, step, row, microbatches):
    """Return the profile of a run with a simulated clock."""
    now = 0.0
    for number in range(microbatches):
        waited, now = now, now + drawing + compilation * (number == 0)
        profile._moments[number] = profiling._Moment(waited, waited, now)
        now += step + row * ((number + 1) % profile._log_every == 0)
    profile._traced = [3, 4]
    profile._seconds = {"evaluation": [9.0, 2.0, 4.0], "checkpoint": [0.5]}


@pytest.mark.parametrize("microbatches", [2, 3, 7, 40])
def test_parts(tmp_path, microbatches):
    profile = profiling.Profile(tmp_path, log_every=4)
    made_up = {"compilation": 30.0, "drawing": 0.25, "step": 2.0, "row": 1.0}
    _simulate(profile, **made_up, microbatches=microbatches)
    profile._seconds[profiling.COMPILATION] = [12.0]  # of a first step, before the microbatches
    parts, compilation = profile._parts()
    seconds = {part.name: part.seconds for part in parts}
    assert compilation == pytest.approx(30.0 + 10.0)
    assert profiling.COMPILATION not in seconds
    assert seconds["drawing scenes"] == pytest.approx(0.25 * microbatches)
    assert seconds["forward, backward and optimizer"] == pytest.approx(2.0 * microbatches)
    # The row at the end of an epoch is not timed, but counted.
    rows = -(-microbatches // 4) if microbatches > 8 else 0.0
    assert seconds["host: rows, events, lines"] == pytest.approx(rows)
    assert (seconds["evaluation"], seconds["checkpoint"]) == (
        3.0,
        0.5,
    )  # the first compiles


def test_time_of_nested_operations_is_subtracted():
    seconds = {"a": 1e-9}
    events = [(0, 10, "a"), (1, 4, "b"), (2, 3, "c"), (4, 9, "b"), (10, 12, "c")]
    profiling._add_own_time(events, seconds)
    assert seconds == pytest.approx({"a": 3e-9, "b": 7e-9, "c": 3e-9})


def test_timed_returns_the_result(tmp_path):
    profile = profiling.Profile(tmp_path, log_every=4)
    assert profile.timed("evaluation", divmod, 17, 5) == (3, 2)
    profile.timed("evaluation", time.sleep, 0.01)
    assert profile._seconds["evaluation"][1] >= 0.01


def test_no_measurement_without_training(tmp_path):
    assert profiling.Profile(tmp_path, log_every=4).finish() is None
    assert profiling.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parts": [{"name": 3}], "operations": []}'])
def test_damaged_files_are_ignored(tmp_path, content):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "profile.json").write_text(content)
    assert profiling.read(tmp_path) is None


class TestLog:
    def test_keeps_lines_starts_and_warnings(self, tmp_path):
        for epochs_done in (0, 2):
            with metrics_log.Recorder(tmp_path, epochs_done, 4 * epochs_done, 10) as recorder:
                recorder.line("warning: two\nlines" if epochs_done == 0 else "all is well")
        log = metrics_log.read_log(tmp_path)
        assert metrics_log.starts(log) == [0, 2]
        first, second = metrics_log.warnings(log)
        assert first.text == "warning: two lines"
        assert second.text.startswith("warning: metrics.jsonl lacks the rows of 2")
        assert first.when < "9999" and first.when.endswith("+00:00")  # noqa: PT018

    def test_missing_or_truncated_log(self, tmp_path):
        assert metrics_log.read_log(tmp_path) == []
        (tmp_path / "run.log").write_bytes(b"2026 started after epoch x\n2026 started aft\xff")
        log = metrics_log.read_log(tmp_path)
        assert len(log) == 2
        assert metrics_log.starts(log) == []
