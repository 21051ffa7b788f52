"""Small random scenes that all differ."""

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.data.records import record_format


@pytest.fixture(scope="session")
def small_config() -> config_lib.Config:
    """Return 2 x 3 elements, 2 antennas, 3 snapshots, up to 2 sources."""
    values = {
        "system.rows": 2,
        "system.columns": 3,
        "system.num_antennas": 2,
        "system.num_snapshots": 3,
        "scene.max_sources": 2,
    }
    return config_lib.override(config_lib.Config(), values)


@pytest.fixture(scope="session")
def make_scenes(small_config):
    """Return a function (count, seed, shared_codes=True) -> `record_format.Scenes`."""
    dtype = record_format.scene_dtype(record_format.sizes_of(small_config))

    def make(count: int, seed: int, shared_codes: bool = True) -> record_format.Scenes:
        random = np.random.default_rng(seed)

        def gaussian(*shape):
            return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("<c8")

        scenes = np.empty(count, dtype)
        for name in dtype.names:
            shape = scenes[name].shape
            if dtype[name].base == np.complex64:
                scenes[name] = gaussian(*shape)
            else:
                scenes[name] = random.integers(1, 3, shape)
        return record_format.Scenes(scenes, gaussian(1 if shared_codes else count, 3, 6))

    return make
