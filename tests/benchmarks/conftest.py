"""Small configuration for the tests of benchmarks."""

import pytest
from cases import small


@pytest.fixture(scope="session")
def config():
    return small.configuration(small.SYSTEM, system__num_snapshots=4, scene__max_sources=2)
