"""Commands: one absl-flag program each.

The module of a command has `FLAGS`; `announcement`, which checks the flags without importing JAX
and returns the first line to print; `COMPILES`, the expected compile time, or "" for a command
without JAX; and `run`, which returns the exit status.
"""
