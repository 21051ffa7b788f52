"""Sources close to the surface: the amplitude varies as 1/distance."""

import numpy as np
import pytest
from cases import simulator

from ris_jax import localization
from ris_jax.physics import scenes

RANGES = (0.7, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


def one_source(random):
    """Simulate a source at each of the ranges."""
    return [[[random.uniform(-50, 50), random.uniform(-25, 25), r]] for r in RANGES]


def two_sources(random):
    """Simulate pairs at 1 to 4 m, at least 20 degrees of azimuth apart."""
    pairs = []
    while len(pairs) < len(RANGES):
        low, high = ([-50, -25, 1], [50, 25, 4])
        pair = random.uniform(low, high, (2, 3))
        if abs(pair[0, 0] - pair[1, 0]) > 20:
            pairs.append(pair.tolist())
    return pairs


def localize(recording, wavefront):
    """Return the estimates of all scenes, on the host."""
    parts = (recording.snapshots, recording.channel, recording.codes)
    estimate = localization.localize(
        scenes.Measurement(*(part.astype(np.complex64) for part in parts)),
        recording.positions,
        wavelength=simulator.WAVELENGTH,
        wavefront=wavefront,
    )
    return estimate._replace(
        **{name: np.asarray(value) for name, value in estimate._asdict().items()}
    )


@pytest.mark.parametrize("draw", [two_sources, pytest.param(one_source, marks=pytest.mark.full)])
def test_exact_waves(draw):
    """The number of sources is correct, errors attain the bound, the power is g^2."""
    recording = simulator.through_surface(draw(np.random.default_rng(0)), snr_db=20.0)
    found = localize(recording, "spherical")
    count = len(recording.sources[0])
    assert found.num_sources.tolist() == [count] * len(RANGES)
    assert found.flags.tolist() == [0] * len(RANGES)
    order = np.argsort(found.azimuth[:, :count], axis=1)
    truth = np.array([sorted(scene) for scene in recording.sources])
    scale = np.array([np.pi / 180, np.pi / 180, 1.0])
    deviations = np.sqrt(np.diagonal(found.covariance, axis1=2, axis2=3))[:, :count]
    deviations = np.take_along_axis(deviations, order[..., None], axis=1)
    places = np.stack([found.azimuth, found.elevation, found.source_range], axis=-1)[:, :count]
    places = np.take_along_axis(places, order[..., None], axis=1)
    scores = (places - truth * scale) / deviations
    assert np.abs(scores).max() < 4.5
    assert 0.7 < np.sqrt(np.mean(scores**2)) < 1.4
    np.testing.assert_allclose(found.power[:, :count], 1.0, rtol=0.15)


@pytest.mark.full
def test_equal_modulus_gives_false_sources():
    """The model without the amplitude is wrong for the same scenes, up to 8 m."""
    recording = simulator.through_surface(one_source(np.random.default_rng(0)), snr_db=20.0)
    found = localize(recording, "spherical_phase")
    assert (found.num_sources > 1).all()
