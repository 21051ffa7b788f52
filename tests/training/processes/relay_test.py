"""What is left of a process's standard error."""

import io
import subprocess
import sys

import pytest

from ris_jax.training.processes import relay

_ABORT = (
    b"F1123 12:00:42 15755 client.h:80] Terminating process because the JAX distributed service "
    b"detected fatal errors. absl::Status: UNAVAILABLE\n\n*** Check failure stack trace: ***\n"
)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (b"warning\nTraceback\n  File\n", b"warning\nTraceback\n  File\n"),
        (b"warning\n" + _ABORT, b"warning\nris-jax: gone\n"),
        (_ABORT + b"ris-jax: stops\n    @ 0x7f\n", b"ris-jax: stops\n"),
        (b"ris-jax: stops\n" + _ABORT, b"ris-jax: stops\n"),
        (b"", b""),
    ],
)
def test_relay(written, left):
    sink = io.BytesIO()
    relay.relay(io.BytesIO(written), sink, "gone")
    assert sink.getvalue() == left


def test_as_a_program_it_needs_nothing():
    command = [sys.executable, "-I", "-S", relay.__file__, "gone"]
    run = subprocess.run(command, input=_ABORT, capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"", b"ris-jax: gone\n")
