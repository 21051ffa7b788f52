"""Scenes of a cell have the properties of the cell."""

import numpy as np
import pytest

from ris_jax import errors
from ris_jax.accuracy import metrics
from ris_jax.benchmarks import draw
from ris_jax.benchmarks.suites import Cell, SourcePlacement

SCENES = 6
PAIR = (("scene.min_sources", 2), ("scene.range_max", 4.0))


def angles_deg(truth):
    return np.rad2deg(metrics.direction_distance(truth, truth)[:, 0, 1])


@pytest.mark.full
def test_separation(config):
    cell = Cell("pair", 0.0, PAIR, SourcePlacement(separation_deg=3.0))
    drawn = draw.draw(config, cell, SCENES)
    np.testing.assert_allclose(angles_deg(drawn.truth), 3.0, atol=1e-3)
    assert np.ptp(drawn.truth.azimuth) > 0.1
    assert np.max(np.abs(drawn.truth.azimuth)) <= np.deg2rad(config.scene.azimuth_max_deg)
    assert np.max(np.abs(drawn.truth.elevation)) <= np.deg2rad(config.scene.elevation_max_deg)
    assert drawn.truth.source_range.max() <= 4.0
    assert drawn.bound.shape == (SCENES, 2, 3, 3)
    assert np.isfinite(drawn.bound).all()


def test_least_separation_and_given_parameters(config):
    """Rare scenes are drawn again; parameters given to estimators do not change the scenes."""
    placement = SourcePlacement(least_separation_deg=45.0)
    drawn = [
        draw.draw(config, Cell("far", 0.0, PAIR, placement, count), SCENES)
        for count in ("own", "known")
    ]
    assert angles_deg(drawn[0].truth).min() >= 45.0
    for one, other in zip(drawn[0].measurement, drawn[1].measurement, strict=True):
        np.testing.assert_array_equal(one, other)


def test_azimuth_and_places(config):
    """One source on either side; the second slot of a scene is padding without amplitude."""
    changes = (("scene.max_sources", 1), ("scene.snr_max_db", 15.0), ("scene.snr_min_db", 15.0))
    drawn = draw.draw(config, Cell("45", 45.0, changes, SourcePlacement(azimuth_deg=45.0)), SCENES)
    sides = np.rad2deg(drawn.truth.azimuth[:, 0])
    np.testing.assert_allclose(np.abs(sides), 45.0, atol=1e-4)
    assert set(np.sign(sides)) == {-1.0, 1.0}
    np.testing.assert_array_equal(drawn.truth.num_sources, 1)
    np.testing.assert_array_equal(drawn.truth.amplitude[:, 1], 0.0)
    # The SNR is relative to the mean received power over all scenes.
    received = np.mean(np.abs(drawn.measurement.snapshots) ** 2, axis=(1, 2))
    ratio = np.mean(received / drawn.measurement.noise_variance)
    np.testing.assert_allclose(ratio, 1 + 10**1.5, rtol=0.2)
    assert not np.isfinite(np.diagonal(drawn.bound[:, 1], axis1=1, axis2=2)).any()


def test_impossible_separation(config):
    cell = Cell("opposite", 0.0, PAIR, SourcePlacement(least_separation_deg=179.0))
    with pytest.raises(errors.RunError, match="opposite: need sources 179 degrees apart"):
        draw.draw(config, cell, SCENES)
