"""The file of a calibration, and its use on codes and positions."""

import dataclasses

import numpy as np
import pytest

from ris_jax import errors
from ris_jax.data.recordings import containers, reader, surface_calibration
from ris_jax.data.recordings.surface_calibration import SurfaceCalibration

RANDOM = np.random.default_rng(0)
FACTORS = RANDOM.standard_normal(6) + 1j * RANDOM.standard_normal(6)
POSITIONS = RANDOM.standard_normal((6, 3))
PER_ELEMENT = SurfaceCalibration(FACTORS, np.full(6, 0.1), positions=POSITIONS)
STATES = np.array([1.0, -1.0 + 0j])
PER_STATE = SurfaceCalibration(np.stack([FACTORS, 2 * FACTORS], 1), np.full((6, 2), 0.1), STATES)
TURNED = dataclasses.replace(
    PER_ELEMENT, rotation=np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), offset=np.ones(3)
)


@pytest.mark.parametrize("calibration", [PER_ELEMENT, PER_STATE, TURNED])
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_round_trip(calibration, suffix, tmp_path):
    path = tmp_path / f"surface{suffix}"
    surface_calibration.save_calibration(path, calibration)
    back = surface_calibration.load_calibration(path)
    for field in dataclasses.fields(calibration):
        ours, theirs = (getattr(c, field.name) for c in (calibration, back))
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)


def test_codes():
    codes = np.where(RANDOM.random((2, 4, 6)) < 0.5, 1, -1).astype(np.complex64)
    np.testing.assert_allclose(PER_ELEMENT.apply_to_codes(codes), codes * FACTORS, rtol=1e-6)
    expected = codes * FACTORS * np.where(codes.real > 0, 1, 2)
    found = PER_STATE.apply_to_codes(codes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.complex64


def test_positions():
    np.testing.assert_array_equal(PER_ELEMENT.apply_to_positions(POSITIONS), POSITIONS)
    moved = TURNED.apply_to_positions(np.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(moved, [[1.0, 2.0, 1.0]])


def test_distinct_states():
    """By phase, from 0 on, whatever their order and rounding."""
    states = np.exp(0.5j * np.pi * np.arange(4))
    codes = states[RANDOM.integers(0, 4, (3, 20))] * (1 + 1e-6)
    np.testing.assert_allclose(surface_calibration.distinct_states(codes), states, atol=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PER_ELEMENT.apply_to_codes(np.ones((2, 5))), "codes: expected the 6 elements"),
        (lambda: PER_STATE.apply_to_codes(np.full((2, 6), 1j)), "codes: expected the 2 states"),
        (
            lambda: surface_calibration.distinct_states(np.exp(1j * np.arange(20))),
            "codes: expected at most 8 states",
        ),
        (
            lambda: surface_calibration.require_same_elements(PER_ELEMENT, POSITIONS[:5], 0.3),
            "calibration: expected factors of 5 elements, found 6",
        ),
        (
            lambda: surface_calibration.require_same_elements(PER_ELEMENT, POSITIONS[::-1], 0.3),
            "calibration: expected the element positions of the recordings",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(errors.RunError, match=message):
        call()


def test_a_shifted_origin_is_the_same_surface():
    surface_calibration.require_same_elements(PER_ELEMENT, 5.0 + POSITIONS, 0.3)
    surface_calibration.require_same_elements(PER_STATE, POSITIONS, 0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gains": np.ones(3)}, "factors is missing"),
        ({"factors": np.ones(3) + 0j, "gains": np.ones(3)}, "gains is unknown"),
        ({"factors": np.full(3, np.nan + 0j)}, r"factors: expected finite complex numbers \[N\]"),
        ({"factors": np.ones((3, 2)) + 0j}, r"factors: expected finite complex numbers \[N\]"),
        (
            {"factors": np.ones((3, 3)) + 0j, "states": STATES},
            r"factors: expected finite complex numbers \[N, 2\], found \[3, 3\]",
        ),
    ],
)
def test_files_that_are_something_else(fields, message, tmp_path):
    path = tmp_path / "other.npz"
    containers.save(path, fields)
    with pytest.raises(errors.RunError, match=message):
        surface_calibration.load_calibration(path)


def test_calibrated_recordings():
    found = reader.from_arrays({
        "snapshots": np.ones((2, 4, 2)) + 0j, "channel": np.ones((2, 6)) + 0j,
        "codes": np.ones((4, 6)), "wavelength": 0.3, "element_positions": POSITIONS,
    })  # fmt: skip
    calibrated = reader.calibrated(found, TURNED)
    np.testing.assert_allclose(calibrated.codes[1, 2], FACTORS, rtol=1e-6)
    np.testing.assert_allclose(calibrated.positions, TURNED.apply_to_positions(POSITIONS))
