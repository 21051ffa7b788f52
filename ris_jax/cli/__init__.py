"""The command line: one absl-flag program a command.

A command's module has `FLAGS`; `announcement`, which checks the flags without importing JAX and
returns the first line to print; `COMPILES`, what a user has to expect of compilation, or "" for a
command that does without JAX; and `run`, which returns the exit status.
"""
