"""Factors from sources at known positions, by data of an independent simulator."""

import dataclasses
import functools

import numpy as np
import pytest
from cases import simulator

from ris_jax import errors
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.estimation.calibration import known_sources, sufficiency

POSITIONS = simulator.plane(6, 6)
ELEMENTS = len(POSITIONS)
STATES = np.array([1.0, -1.0 + 0j])


def hidden(*shape, seed=0):
    """Factors with 1 rad and 2 dB rms, of unit mean power and real positive sum."""
    random = np.random.default_rng(seed)
    decibels, phases = 2 * random.standard_normal(shape), random.standard_normal(shape)
    factors = 10 ** (decibels / 20) * np.exp(1j * phases)
    factors = factors / np.sqrt(np.mean(np.abs(factors) ** 2))
    return factors * np.exp(-1j * np.angle(factors.sum()))


@functools.cache
def recording(count, most=1, factors=None, **options):
    """Recordings of a surface with hidden factors; `factors` is a number of states, or None."""
    true = hidden(ELEMENTS) if factors is None else hidden(ELEMENTS, factors)

    def coefficients(codes):
        if factors is None:
            return codes * true
        state = (codes.real < 0).astype(int)
        return codes * true[np.arange(ELEMENTS), state]

    random = np.random.default_rng(1)
    sources = simulator.random_sources(random, count, most)
    options = {"antennas": 8, "length": 12} | options
    found = simulator.through_surface(
        sources, coefficients=coefficients, positions=POSITIONS, **options
    )
    return found, true


def entries(found, **options):
    return known_sources.known_scenes(
        found.snapshots, found.channel, found.codes, found.positions, SourceTruth(**found.truth()),
        wavelength=simulator.WAVELENGTH, **options,
    )  # fmt: skip


def deviations_of(fit, true):
    """Errors over standard deviations, real and imaginary parts."""
    scaled = (fit.calibration.factors - true) / fit.calibration.deviations
    return np.stack([scaled.real, scaled.imag])


@pytest.mark.parametrize(
    ("signal", "states", "most"),
    [("constant", None, 1), ("constant", None, 3), ("independent", None, 2), ("constant", 2, 2)],
)
def test_errors_follow_the_standard_deviations(signal, states, most):
    """Root mean square z-score 1; its standard error is 0.08 for 72 numbers."""
    bits = None if states is None else 1
    found, true = recording(24, most, states, independent=signal == "independent", bits=bits)
    noise = np.mean(np.abs(found.snapshots) ** 2, axis=(1, 2)) / (1.0 + 100.0)
    fit = known_sources.calibrate(
        *entries(found, source_signal=signal, noise_variance=noise),
        states=None if states is None else STATES,
    )
    assert fit.calibration.factors.shape == true.shape
    assert 0.75 < np.sqrt(np.mean(deviations_of(fit, true) ** 2)) < 1.3
    assert fit.gain_db > 10
    np.testing.assert_allclose(np.average(fit.residual_after, weights=fit.samples), 1.0, atol=0.1)
    assert not fit.outliers(1e-3).size


def test_without_noise_the_factors_are_exact():
    found, true = recording(8, snr_db=200.0)
    fit = known_sources.calibrate(*entries(found))
    np.testing.assert_allclose(fit.calibration.factors, true, atol=1e-8)


def test_information_is_that_of_the_explicit_model():
    """The Schur complement of the signals in J^H J, J the derivatives of all samples."""
    found, _ = recording(6, 2)
    scenes, of_scene = entries(found)
    fit = known_sources.calibrate(scenes, of_scene)
    factors, total = fit.calibration.factors, 0
    for scene in scenes:
        operator = np.einsum("mn,ln->lmn", scene.channel, scene.codes).reshape(-1, ELEMENTS)
        by_signal = operator @ (factors[:, None] * scene.steering)
        samples = scene.snapshots.reshape(-1)
        signals = np.linalg.lstsq(by_signal, samples, rcond=None)[0]
        by_factor = operator * (scene.steering @ signals)
        basis = np.linalg.qr(by_signal)[0]
        by_factor = by_factor - basis @ (basis.conj().T @ by_factor)
        total = total + by_factor.conj().T @ by_factor
    expected = np.block([[total.real, -total.imag], [total.imag, total.real]])
    np.testing.assert_allclose(fit.information * fit.noise_variance, expected, atol=1e-8)


def test_recordings_with_known_noise_have_their_weights():
    """Every third recording has 50 dB more noise than the others; the factors are as good."""
    found, true = recording(24, snr_db=200.0)
    random = np.random.default_rng(3)
    noise = np.full(24, np.mean(np.abs(found.snapshots) ** 2) / 100)
    noise[::3] *= 1e5
    noisy = found.snapshots + np.sqrt(noise)[:, None, None] * simulator.gaussian(
        random, *found.snapshots.shape
    )
    spoilt = dataclasses.replace(found, snapshots=noisy)
    fit = known_sources.calibrate(*entries(spoilt, noise_variance=noise))
    np.testing.assert_allclose(fit.noise_variance, 1.0, rtol=0.2)
    assert 0.75 < np.sqrt(np.mean(deviations_of(fit, true) ** 2)) < 1.3
    assert np.median(np.abs(fit.calibration.factors - true)) < 0.1


def test_a_static_path_is_removed():
    """20 dB above the surface signal; the factors are as good as without it."""
    found, true = recording(24, static_db=20.0)
    clean, _ = recording(24)
    errors_of = []
    for one, removed in ((found, True), (clean, False), (found, False)):
        fit = known_sources.calibrate(*entries(one, static_path=removed))
        errors_of.append(np.sqrt(np.mean(np.abs(fit.calibration.factors - true) ** 2)))
    assert errors_of[0] < 1.3 * errors_of[1] < errors_of[2]


@pytest.mark.parametrize(("signal", "length"), [("independent", 12), ("constant", 1)])
def test_a_static_path_needs_constant_signals_and_two_codes(signal, length):
    found, _ = recording(2, length=length)
    with pytest.raises(errors.RunError, match="static_path: expected constant signals and two"):
        entries(found, source_signal=signal, static_path=True)


def test_a_wrong_position_is_an_outlier():
    found, _ = recording(16)
    sources = [np.array(scene) for scene in found.sources]
    sources[5] = sources[5] + [20.0, 0.0, 0.0]
    fit = known_sources.calibrate(*entries(dataclasses.replace(found, sources=sources)))
    assert 5 in fit.outliers(1e-3)
    assert np.argmax(fit.residual_after) == 5


def test_an_unused_state_has_no_deviation():
    """Element 3 is always in state 0."""
    found, _ = recording(24, 1, 2, bits=1)
    codes = found.codes.copy()
    codes[..., 3] = 1.0
    fit = known_sources.calibrate(*entries(dataclasses.replace(found, codes=codes)), states=STATES)
    assert fit.calibration.factors[3, 1] == 1.0
    assert np.isinf(fit.calibration.deviations[3, 1])
    assert np.isfinite(np.delete(fit.calibration.deviations.ravel(), 7)).all()


@pytest.mark.parametrize(("count", "antennas"), [(2, 1), (3, 1)])
def test_too_few_samples(count, antennas):
    """24 or 36 samples for 36 factors."""
    found, _ = recording(count, antennas=antennas)
    with pytest.raises(errors.RunError, match="recordings: expected enough samples"):
        known_sources.calibrate(*entries(found))


def test_no_source():
    found, _ = recording(2)
    truth = SourceTruth(**{name: 0 * values for name, values in found.truth().items()})
    scenes = known_sources.known_scenes(
        found.snapshots, found.channel, found.codes, found.positions, truth, wavelength=0.3
    )
    with pytest.raises(errors.RunError, match="at least one with a source"):
        known_sources.calibrate(*scenes)


class TestLosses:
    def loss(self, count, amounts=(1.0,)):
        found, _ = recording(count)
        scenes, of_scene = entries(found)
        fit = known_sources.calibrate(scenes, of_scene)
        return sufficiency.losses_db(
            fit, scenes[:1], found.positions, wavelength=simulator.WAVELENGTH, amounts=amounts
        )

    def test_few_recordings_predict_many(self):
        """The loss for 32 recordings, from 8 and from 32."""
        np.testing.assert_allclose(self.loss(8, [4.0]), self.loss(32), rtol=0.3)

    def test_fall_with_recordings(self):
        losses = self.loss(8, [0.25, 1.0, 4.0, 1e9])
        assert np.all(np.diff(losses) < 0)
        np.testing.assert_allclose(losses[-1], 0.0, atol=1e-3)

    def test_enough(self):
        amounts, losses = np.array([2, 4, 8]), np.array([2.0, 0.6, 0.3])
        assert sufficiency.enough(amounts, losses, 0.5) == 8
        assert sufficiency.enough(amounts, losses, 0.1) is None
