"""Devices, memory, processes and signals of a run."""
