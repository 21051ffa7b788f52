"""``python -m ris_jax COMMAND``."""

from ris_jax.cli import main

if __name__ == "__main__":
    main.console()
