"""``python -m ris_jax COMMAND``."""

import sys

from ris_jax.cli import main

if __name__ == "__main__":
    sys.exit(main.main(sys.argv))
