"""Hyper-parameter search: many runs of the trainer, kept account of in one storage."""
