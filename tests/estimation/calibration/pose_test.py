"""Pose and factors of a surface that is turned and moved, by an independent simulator."""

import numpy as np
import pytest
from cases import simulator
from estimation.calibration import known_sources_test
from scipy.spatial.transform import Rotation

from ris_jax.data.recordings import host_steering
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.estimation.calibration import known_sources, pose

DRAWING = simulator.plane(6, 6)
TURN = Rotation.from_rotvec(np.radians([2.0, -4.0, 3.0]))
OFFSET = np.array([0.05, -0.03, 0.1])
WAVE = {"wavelength": simulator.WAVELENGTH, "wavefront": "spherical"}


@pytest.fixture(scope="module")
def found():
    """Factors, pose, and entries in the frame of the surface."""
    sources = simulator.random_sources(np.random.default_rng(2), 24, 2)
    hidden = known_sources_test.hidden(len(DRAWING))
    recording = simulator.through_surface(
        sources, positions=TURN.apply(DRAWING) + OFFSET, antennas=8, length=12, snr_db=30.0,
        coefficients=lambda codes: codes * hidden,
    )  # fmt: skip
    scenes, of_scene = known_sources.known_scenes(
        recording.snapshots, recording.channel, recording.codes, DRAWING,
        SourceTruth(**recording.truth()), **WAVE,
    )  # fmt: skip
    return pose.calibrate_with_pose(scenes, of_scene, DRAWING, **WAVE)


def test_within_the_deviations(found):
    fit, estimate, _ = found
    turn = (Rotation.from_matrix(estimate.rotation).inv() * TURN).as_rotvec()
    shift = estimate.rotation.T @ (estimate.offset - OFFSET)
    scores = np.array([turn / estimate.angle_deviations, shift / estimate.offset_deviations])
    assert np.abs(scores).max() < 4
    assert estimate.angle_deviations.max() < np.radians(0.5)
    assert estimate.offset_deviations.max() < 0.02
    np.testing.assert_allclose(np.average(fit.residual_after, weights=fit.samples), 1.0, atol=0.1)


def test_entries_are_in_the_frame_of_the_surface(found):
    """A source at R q + t in the room is at q before the surface."""
    _, estimate, entries = found
    place = entries[3].places
    in_room = place @ estimate.rotation.T + estimate.offset
    np.testing.assert_allclose(estimate.seen(in_room), place, atol=1e-12)
    expected = host_steering.steering_to(place, DRAWING, wavelength=simulator.WAVELENGTH)
    np.testing.assert_allclose(entries[3].steering, expected.T)


def test_moved_is_a_small_motion_of_the_sources():
    start = pose.Pose(TURN.as_matrix(), OFFSET, np.zeros(3), np.zeros(3))
    place = np.array([[0.3, -0.2, 2.0]])
    turn, shift = np.array([1, -2, 3]) * 1e-6, np.full(3, 1e-6)
    seen = start.seen(place)
    expected = seen - np.cross(turn, seen) - shift
    np.testing.assert_allclose(start.moved(turn, shift).seen(place), expected, atol=1e-10)


def test_slopes_are_derivatives():
    places = np.array([[0.5, 0.2, 1.5], [-0.4, 0.1, 3.0]])
    slopes = pose.steering_slopes(places, DRAWING, **WAVE)
    step = 1e-5 * np.array([0.3, -0.5, 0.8])
    ahead, behind = (
        host_steering.steering_to(places + sign * step, DRAWING, wavelength=0.3) for sign in (1, -1)
    )
    np.testing.assert_allclose(
        np.einsum("x,xnk->kn", step, slopes), (ahead - behind) / 2, atol=1e-10
    )
