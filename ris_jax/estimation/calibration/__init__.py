"""Calibration of a surface from recordings: factors of its elements, and its pose."""
