"""Data on disk: recordings of users, and records for training."""
