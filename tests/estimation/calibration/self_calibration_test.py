"""Factors and positions in turn; an oracle with errors locates the sources."""

import dataclasses

import numpy as np
import pytest
from cases import simulator
from estimation.calibration import known_sources_test

from ris_jax import errors
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.estimation.calibration import known_sources, self_calibration

POSITIONS = known_sources_test.POSITIONS


def test_common_phases_move_all_sources_alike():
    """Constant, two linear and one quadratic phase; a line has one linear phase."""
    basis = self_calibration.common_phases(POSITIONS)
    assert basis.shape == (len(POSITIONS), 4)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-12)
    assert self_calibration.common_phases(simulator.line(8)).shape == (8, 3)


@pytest.mark.parametrize("states", [None, 2])
def test_phases_without_the_common_ones(states):
    shape = (36,) if states is None else (36, states)
    factors = known_sources_test.hidden(*shape) ** 0.2
    found = self_calibration.without_common_phases(factors, POSITIONS)
    np.testing.assert_allclose(np.abs(found), np.abs(factors))
    mean = found if states is None else found.mean(axis=1)
    basis = self_calibration.common_phases(POSITIONS)
    np.testing.assert_allclose(basis.T @ np.angle(mean), 0.0, atol=1e-3)


def test_rounds_end_when_the_residual_does():
    """The oracle locates better in every round; the factors follow, up to common phases."""
    found, true = known_sources_test.recording(24)
    truth, rounds = SourceTruth(**found.truth()), []

    def locate(codes):
        assert codes.shape == found.codes.shape
        rounds.append(codes)
        error = np.radians(0.2) * 0.1 ** len(rounds)
        return truth._replace(azimuth=truth.azimuth + error)

    def scenes_at(places):
        columns = np.degrees(places.azimuth), np.degrees(places.elevation), places.source_range
        moved = list(np.stack(columns, axis=-1))
        return known_sources_test.entries(dataclasses.replace(found, sources=moved))

    fit, _ = self_calibration.in_turn(locate, scenes_at, found.codes, POSITIONS)
    assert 2 <= len(rounds) <= 8
    factors, expected = (
        self_calibration.without_common_phases(values, POSITIONS)
        for values in (fit.calibration.factors, true)
    )
    factors, expected = (
        values * np.exp(-1j * np.angle(values.sum())) for values in (factors, expected)
    )
    assert np.sqrt(np.mean(np.abs(factors - expected) ** 2)) < 0.1


def test_together_finds_what_the_turns_cannot():
    """Near sources show the common phases; errors of the factors follow the deviations."""
    found, true = known_sources_test.recording(40, snr_db=30.0)
    places = found.truth()
    wrong = SourceTruth(**places | {"azimuth": places["azimuth"] + 0.03})
    scenes = known_sources.known_scenes(
        found.snapshots, found.channel, found.codes, POSITIONS, wrong, wavelength=0.3
    )
    turns = known_sources.calibrate(*scenes)
    fit, (moved, _) = self_calibration.together(turns, scenes, POSITIONS, wavelength=0.3)
    scores = known_sources_test.deviations_of(fit, true)
    assert np.sqrt(np.mean(scores**2)) < 2.0
    error = np.abs(fit.calibration.factors - true)
    assert np.median(error) < 0.2 * np.median(np.abs(turns.calibration.factors - true))
    right = known_sources.places_of(SourceTruth(**places), 3)
    np.testing.assert_allclose(moved[3].places, right, atol=0.05)
    # Unknown positions cost accuracy.
    known = known_sources.calibrate(*known_sources_test.entries(found))
    assert np.all(fit.calibration.deviations > 0.9 * known.calibration.deviations)


def test_nothing_found():
    found, _ = known_sources_test.recording(24)
    truth = SourceTruth(**found.truth())
    nothing = truth._replace(num_sources=0 * truth.num_sources)
    with pytest.raises(errors.RunError, match="expected sources for the self-calibration"):
        self_calibration.in_turn(lambda _: nothing, lambda _: (), found.codes, POSITIONS)
