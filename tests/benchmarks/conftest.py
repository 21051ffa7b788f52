"""Small configuration for the tests of benchmarks."""

import pytest

from ris_jax import config as config_lib


@pytest.fixture(scope="session")
def config():
    return config_lib.override(
        config_lib.Config(),
        {
            "system.rows": 4, "system.columns": 4, "system.num_antennas": 4,
            "system.num_snapshots": 4, "scene.max_sources": 2,
        },
    )  # fmt: skip
