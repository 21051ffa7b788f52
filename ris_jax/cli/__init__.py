"""The command line: one absl-flag program a command."""
