"""Simulated trainer without delay."""

import importlib.util
import pathlib

import pytest

from ris_jax.training import loop

WORKER = pathlib.Path(__file__).with_name("worker.py")


@pytest.fixture
def simulated_trainer(monkeypatch):
    """Replace the trainer by the simulated one of the worker."""
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    monkeypatch.setattr(worker, "SECONDS", 0.0)
    monkeypatch.setattr(loop, "train", worker.simulated_train)
    return worker.simulated_train
