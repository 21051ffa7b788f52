"""Baselines: MUSIC and its relatives, sparse methods, and the table of all of them."""
