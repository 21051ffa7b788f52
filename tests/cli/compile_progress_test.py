"""Monitoring of JAX compilation."""

import io
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from ris_jax.cli import compile_progress


def test_counts_programs_and_their_seconds():
    with compile_progress.Observer("about 1 s") as compiled:
        inner = jax.jit(lambda x: jnp.cos(x) * 2.0)
        jax.jit(lambda x: inner(x) + inner(2 * x))(jnp.ones(7)).block_until_ready()
    found = (compiled.programs, compiled.seconds)
    assert compiled.programs >= 1
    assert compiled.seconds > 0.0
    assert compiled.from_cache <= compiled.programs
    jax.jit(lambda x: x - 3.0)(jnp.ones(7))  # after the context
    assert (compiled.programs, compiled.seconds) == found


def test_nested_phases_count_once():
    trace, *_ = compile_progress._PHASES
    with compile_progress.Observer("") as compiled:
        began = time.monotonic()
        for _ in range(2):
            jax.monitoring.record_scalar(trace, 0.0)
        time.sleep(0.05)
        for _ in range(2):
            jax.monitoring.record_event_time_span(trace, 0.0, 1.0)
        assert 0.05 <= compiled.seconds <= time.monotonic() - began
    assert compiled.programs == 0


@pytest.mark.parametrize(
    ("programs", "cached", "seconds", "text"),
    [
        (3, 0, 0.4, ""),
        (3, 0, 21.6, "compiled in 22 s (3 programs)"),
        (14, 9, 2.0, "compiled in 2 s (14 programs, 9 from the cache)"),
    ],
)
def test_summary(programs, cached, seconds, text):
    compiled = compile_progress.Observer("")
    compiled.programs, compiled.from_cache, compiled.seconds = programs, cached, seconds
    assert compiled.summary() == text


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_only_on_a_terminal(monkeypatch, terminal):
    stream = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(compile_progress, "_SECONDS_BETWEEN_LINES", 0.01)
    monkeypatch.setattr(compile_progress, "_SECONDS_UNTIL_A_LINE", 0.0)
    with compile_progress.Observer("about 20 s, once per array"):
        jax.monitoring.record_scalar(compile_progress._PROGRAM, 0.0)
        deadline = time.monotonic() + 10.0
        while terminal and "compiling" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        jax.monitoring.record_event_time_span(compile_progress._PROGRAM, 0.0, 1.0)
    assert ("compiling, about 20 s, once per array: 0 s" in stream.getvalue()) == terminal
