"""Eager calls of the physics compile one program, or none, for new shapes."""

import jax
import numpy as np
import pytest

from ris_jax.accuracy import bounds
from ris_jax.estimation import search_grid
from ris_jax.physics import arrays, channel, codebooks, covariance

# A number of sources or elements that no other test of these functions uses.
COUNT = 23
POSITIONS = np.random.default_rng(0).normal(size=(COUNT, 3)).astype("f4")
ANGLES = np.linspace(-0.5, 0.5, COUNT, dtype="f4")
RANGES = np.linspace(1.0, 9.0, COUNT, dtype="f4")
WAVES = {"wavelength": 0.3, "wavefront": "fresnel"}


@pytest.fixture
def compiled():
    """Return a list of the compilations during the test."""
    found = []

    def note(name, _, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


CALLS = {
    "steering_vector": lambda: arrays.steering_vector(ANGLES, ANGLES, RANGES, POSITIONS, **WAVES),
    "steering_jet": lambda: arrays.steering_jet(POSITIONS / 9.0, POSITIONS, **WAVES),
    "from_coordinates": lambda: arrays.from_coordinates(POSITIONS / 9.0),
    "quantize_phase": lambda: codebooks.quantize_phase(np.exp(1j * ANGLES), 3),
    "dense": lambda: covariance.dense(
        covariance.LowRankCovariance(POSITIONS.astype("c8"), np.zeros((), "f4"))
    ),
    "position_error_bound": lambda: bounds.position_error_bound(
        bounds.Bound(np.ones((COUNT, 3, 3), "f4"), np.ones((COUNT, 3), bool)),
        ANGLES, ANGLES, RANGES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_one_program(name, compiled):
    CALLS[name]()
    assert len(compiled) == 1


def test_one_program_for_a_channel(compiled):
    key = jax.random.key(0)
    compiled.clear()
    channel.rician_channel(
        key, POSITIONS, num_antennas=3, wavelength=0.3, rician_factor=np.float32(0.1)
    )
    assert len(compiled) == 1


def test_no_program_for_positions_and_search_grids(compiled):
    region = search_grid.SearchRegion(0.5, 0.4, 0.0, 1.0)
    search_grid.search_space(region, (2, 3, 2), "spherical")  # the first call tests for tracing
    compiled.clear()
    positions = arrays.planar_array(COUNT, 2, 0.15)
    space = search_grid.search_space(region, (COUNT, 3, 2), "spherical")
    assert isinstance(positions, jax.Array)
    assert isinstance(space.points, jax.Array)
    assert compiled == []
