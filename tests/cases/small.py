"""Small configurations that compile in seconds, and `jit` with a short compile time."""

import functools

import jax

from ris_jax import config as config_lib

# 16 elements, 4 antennas, 6 codes: 24 samples.
SYSTEM = {
    "system.rows": 4,
    "system.columns": 4,
    "system.num_antennas": 4,
    "system.num_snapshots": 6,
}
NETWORK = SYSTEM | {
    "model.rounds": 1,
    "model.candidates": 4,
    "model.iterations": 1,
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 2,
}
# Optimised programs take three times as long to compile.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def configuration(settings, **more):
    """Override the default configuration with fields, also given as `section__name=value`."""
    return with_values(config_lib.override(config_lib.Config(), settings), **more)


def with_values(config, **values):
    """Override fields given as `section__name=value`."""
    names = {name.replace("__", "."): value for name, value in values.items()}
    return config_lib.override(config, names)
