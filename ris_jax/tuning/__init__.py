"""Hyper-parameter search: trials of the trainer, recorded in one Optuna storage."""
