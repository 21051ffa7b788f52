"""Estimators: maximum likelihood by matching pursuit, MUSIC, MVDR, and how many sources."""
