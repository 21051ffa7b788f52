"""Estimators: maximum likelihood by matching pursuit, MUSIC, MVDR, and source counting."""
