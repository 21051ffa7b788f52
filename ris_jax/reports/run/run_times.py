"""Date and duration of a run, from its log."""

import datetime
from collections.abc import Iterator

from ris_jax.training.saving import metrics_log


def _dated(log: list[metrics_log.LogLine]) -> Iterator[tuple[datetime.datetime, bool]]:
    """Yield the time of each line, and whether the line is a start of the run."""
    for line in log:
        try:
            when = datetime.datetime.fromisoformat(line.when)
        except ValueError:  # a damaged line
            continue
        if when.tzinfo is not None:
            yield when, bool(metrics_log.starts([line]))


def duration(log: list[metrics_log.LogLine]) -> datetime.timedelta:
    """Return the time from each start of a run to its last line, without the pauses between."""
    total, before = datetime.timedelta(), None
    for when, starts in _dated(log):
        if before is not None and not starts:
            total += max(when - before, datetime.timedelta())  # a clock can be set back
        before = when
    return total


def described(log: list[metrics_log.LogLine]) -> str:
    """Describe date and duration: ``29 November 2026, 13:18 UTC; duration 0:03:10``.

    Empty without a log.
    """
    times = [when.astimezone(datetime.UTC) for when, _ in _dated(log)]
    if not times:
        return ""
    began, ended = (f"{t.day} {t:%B %Y, %H:%M} UTC" for t in (times[0], times[-1]))
    return f"Started {began}; last line {ended}; duration without pauses {duration(log)}."
