"""Date and duration of a run, from lines of its log."""

from ris_jax.reports.run import run_times
from ris_jax.training.saving.metrics_log import LogLine

LOG = [
    LogLine("2026-01-31T23:59:00+00:00", "started after epoch 0"),
    LogLine("nonsense", "epoch 1"),
    LogLine("2026-02-01T00:09:00+00:00", "epoch 1/2"),
    LogLine("2026-02-02T10:00:00+00:00", "started after epoch 1"),
    LogLine("2026-02-02T10:00:30+00:00", "epoch 2/2"),
    LogLine("2026-02-02T09:00:30+00:00", "the clock was set back"),
]


def test_pauses_and_damaged_lines_do_not_count():
    assert run_times.described(LOG[:5]) == (
        "Started 31 January 2026, 23:59 UTC; last line 2 February 2026, 10:00 UTC; duration "
        "without pauses 0:10:30."
    )


def test_clock_set_back():
    assert run_times.duration(LOG) == run_times.duration(LOG[:5])


def test_without_a_log():
    assert run_times.described([]) == ""
