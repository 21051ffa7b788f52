"""Command line: `main` runs one of the programs in `commands`."""
