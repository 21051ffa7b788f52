"""Rate and remaining time, with a clock that is set by hand."""

from ris_jax import config as config_lib
from ris_jax.training import run_clock

TRAINING = config_lib.TrainingConfig(epochs=3, steps_per_epoch=10, batch_size=8)


class _Clock:
    now = 100.0

    def __call__(self):
        return self.now


def _after(clock, counted, seconds, microbatches):
    clock.now += seconds
    counted.add(microbatches)


def test_line():
    """Compilation of the first microbatches is not counted; pauses count for the time left."""
    clock = _Clock()
    counted = run_clock.RunClock(TRAINING, clock)
    counted.begin()
    _after(clock, counted, 60.0, 5)
    assert counted.line(5, 2.0) == "epoch 1, step 5 of 30: loss 2.0000"
    _after(clock, counted, 10.0, 5)
    assert counted.line(10, 1.0) == "epoch 1, step 10 of 30: loss 1.0000, 4 scenes/s, 0:00:40 left"
    clock.now += 30.0  # validation
    counted.begin()
    _after(clock, counted, 10.0, 5)
    assert counted.line(15, 0.5) == "epoch 2, step 15 of 30: loss 0.5000, 4 scenes/s, 0:01:00 left"


def test_a_line_every_ten_seconds():
    clock = _Clock()
    counted = run_clock.RunClock(TRAINING, clock)
    due = []
    for _ in range(7):
        due.append(counted.due())
        clock.now += 4.0
    assert due == [True, False, False, True, False, False, True]
