"""Comparisons of estimators with each other and the bound, and their speed, as named suites."""
