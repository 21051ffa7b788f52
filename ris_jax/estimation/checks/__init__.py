"""Checks of an estimate: does the data fit the model, and where are the limits of the search."""
