"""Near-field localisation of radio sources through a reconfigurable intelligent surface."""

from ris_jax._environment import configure_environment

configure_environment()
