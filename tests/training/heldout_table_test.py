"""Table of truth and estimates of held-out scenes."""

import numpy as np

from ris_jax import config as config_lib
from ris_jax.networks import losses, pursuit_features
from ris_jax.training import heldout_table

CONFIG = config_lib.Config()


def _coordinates(azimuth_deg, elevation_deg, source_range):
    azimuth, elevation = np.deg2rad([azimuth_deg, elevation_deg])
    return np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), 1 / source_range])


def _lines(true, found, existence):
    """Return the lines of one scene; positions are azimuth and elevation [deg] and range [m]."""
    true, found = (np.array([_coordinates(*place) for place in part]) for part in (true, found))
    target = losses.Target(
        factor=None,
        sample_factor=None,
        snr=np.ones(1),
        snr_db=np.array([7.0]),
        coordinates=true[None] / pursuit_features.resolution(CONFIG.system),
        active=np.ones((1, len(true))),
        num_sources=np.array([len(true)]),
    )
    prediction = losses.Prediction(
        factor=None,
        count_logits=None,
        coordinates=found[None],
        existence=np.array([existence]),
        decisions=None,
    )
    return [" ".join(line.split()) for line in heldout_table.lines(CONFIG, prediction, target)]


def test_nearest_pairs_false_alarms_and_missed_sources():
    found = [(39.5, 5.0, 2.1), (-30.2, 10.0, 1.0), (50.0, -25.0, 0.6), (0.0, 0.0, 5.0)]
    rows = _lines(
        [(-30.0, 10.0, 1.0), (40.0, 5.0, 2.0), (10.0, -20.0, 3.0)], found, [0.9, 0.8, 0.7, 0.3]
    )
    assert rows[1] == "scene 1, 7 dB"
    assert sorted(rows[2:4]) == [
        "-30.0 10.0 1.00 | -30.2 10.0 1.00",
        "40.0 5.0 2.00 | 39.5 5.0 2.10",
    ]
    assert rows[4:] == ["10.0 -20.0 3.00 | missed", "false alarm | 50.0 -25.0 0.60"]


def test_sources_at_infinity():
    found = [(0.0, 0.0, np.inf)]
    assert _lines([(0.0, 0.0, 8.0)], found, [0.9])[2] == "0.0 0.0 8.00 | 0.0 0.0 inf"
