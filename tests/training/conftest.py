"""Configuration that compiles in seconds; the tests share its programs."""

import signal

import pytest
from cases import small

from ris_jax import config as config_lib


@pytest.fixture(scope="session")
def tiny_config() -> config_lib.Config:
    """Return 4 x 4 elements, 4 antennas, 6 snapshots, up to 2 sources, one round, one block."""
    return config_lib.override(
        config_lib.Config(),
        small.NETWORK
        | {
            "scene.max_sources": 2,
            "optimizer.max_consecutive_nonfinite": 3,
            "training.epochs": 2,
            "training.steps_per_epoch": 6,
            "training.batch_size": 8,
            "training.validation_scenes": 48,
            "training.log_every": 4,
        },
    )


@pytest.fixture
def ctrl_c():
    """Install Python's handler of Ctrl-C, which tests in the background do not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
