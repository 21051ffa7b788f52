"""A trainer that takes no time."""

import importlib.util
import pathlib

import pytest

from ris_jax.training import loop

WORKER = pathlib.Path(__file__).with_name("worker.py")


@pytest.fixture
def pretended(monkeypatch):
    """The worker's trainer in place of the real one."""
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    monkeypatch.setattr(worker, "SECONDS", 0.0)
    monkeypatch.setattr(loop, "train", worker.pretend)
    return worker.pretend
