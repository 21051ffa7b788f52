"""Signal handlers: stop requests, exit status, and restored handlers."""

import os
import signal
import threading

import pytest

from ris_jax.training.processes import signals

pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_a_stop_and_sets_the_status(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with signals.StopSignal() as stop:
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked()
        assert stop.asked()
    assert {n: signal.getsignal(n) for n in before} == before
    error = stop.error(" after epoch 2 of 3")
    assert (error.status, str(error)) == (
        128 + number,
        f"stopped by {number.name} after epoch 2 of 3",
    )


def test_a_second_ctrl_c_ends_at_once():
    with signals.StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat the signal
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    """A shell starts background programs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_handlers_outside_the_main_thread():
    answers = []

    def train():
        with signals.StopSignal() as stop:
            answers.append((stop.asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [(False, signal.getsignal(signal.SIGTERM))]
