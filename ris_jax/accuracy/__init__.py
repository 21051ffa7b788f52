"""Limits and scores of accuracy: bounds, their maps and code design, metrics, statistics."""
