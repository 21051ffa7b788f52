"""Residual tests: false-alarm rates on white noise, and power against misfits."""

import numpy as np
from absl.testing import absltest, parameterized
from cases import simulator

from ris_jax.estimation.checks import residual_analysis

SOURCES = np.array([[20.0, 10.0, 2.0], [-30.0, -5.0, 4.0]])
SCENES = 400


def surface(random, length=8, antennas=8, side=6):
    positions = simulator.plane(side, side)
    channel = simulator.gaussian(random, antennas, len(positions)) / np.sqrt(antennas)
    codes = np.exp(2j * np.pi * random.random((length, len(positions))))
    return positions, channel, codes


def fit_of(snapshots, positions, channel, codes, *, constant, sources=SOURCES):
    vectors = simulator.spherical(positions, sources, simulator.WAVELENGTH)
    basis = residual_analysis.images(vectors, channel, codes)
    return residual_analysis.fit(snapshots, basis, constant=constant)


def scene(random, positions, channel, codes, *, constant, snr_db=20.0, extra=0.0):
    """Simulate snapshots of `SOURCES` and of an additional aperture field."""
    signals = simulator.gaussian(random, len(codes), len(SOURCES))
    if constant:
        signals = np.repeat(np.exp(2j * np.pi * random.random((1, len(SOURCES)))), len(codes), 0)
    field = signals @ simulator.spherical(positions, SOURCES, simulator.WAVELENGTH)
    field = field + extra * simulator.gaussian(random, len(positions)) / np.sqrt(len(positions))
    return simulator.received(random, field, channel, codes, snr_db)


class FitTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_residual_is_zero_without_noise(self, constant):
        random = np.random.default_rng(0)
        positions, channel, codes = surface(random)
        snapshots = scene(random, positions, channel, codes, constant=constant, snr_db=400.0)
        found = fit_of(snapshots, positions, channel, codes, constant=constant)
        np.testing.assert_allclose(found.residual, 0, atol=1e-12)
        self.assertEqual(found.amplitudes.shape, (1 if constant else len(codes), 2))

    def test_no_sources(self):
        random = np.random.default_rng(0)
        positions, channel, codes = surface(random)
        snapshots = simulator.gaussian(random, 8, 8)
        for constant in (True, False):
            found = fit_of(
                snapshots, positions, channel, codes, constant=constant, sources=SOURCES[:0]
            )
            np.testing.assert_array_equal(found.residual, snapshots)
            self.assertEqual(found.dof, 64)


class WhitenessTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("constant", True, (8, 8, 6)),
        ("wide", True, (12, 4, 6)),
        ("independent", False, (24, 8, 6)),
    )
    def test_false_alarms_are_rare(self, constant, sizes):
        """The designed rate is below 1e-3 per scene; over three of 400 have probability 1 %."""
        random = np.random.default_rng(1)
        alarms = 0
        for _ in range(SCENES):
            positions, channel, codes = surface(random, *sizes)
            snapshots = scene(random, positions, channel, codes, constant=constant)
            found = fit_of(snapshots, positions, channel, codes, constant=constant)
            space = residual_analysis.field_space(channel, codes) if constant else None
            alarms += not residual_analysis.is_white(found, channel, codes, space)
        self.assertLessEqual(alarms, 2)

    def test_false_alarms_without_a_surface(self):
        random = np.random.default_rng(2)
        positions = simulator.plane(4, 4)
        channel, codes = np.eye(16) + 0j, np.ones((32, 16)) + 0j
        alarms = 0
        for _ in range(SCENES):
            snapshots = scene(random, positions, channel, codes, constant=False)
            found = fit_of(snapshots, positions, channel, codes, constant=False)
            alarms += not residual_analysis.is_white(found, channel, codes, None)
        self.assertLessEqual(alarms, 2)

    def test_each_p_value_is_uniform_or_larger(self):
        random = np.random.default_rng(3)
        chances = []
        for _ in range(SCENES):
            positions, channel, codes = surface(random)
            snapshots = scene(random, positions, channel, codes, constant=True)
            found = fit_of(snapshots, positions, channel, codes, constant=True)
            space = residual_analysis.field_space(channel, codes)
            chances.append(
                [
                    *residual_analysis.energy_chances(found),
                    residual_analysis.coloured_chance(found, channel, codes),
                    residual_analysis.field_chance(found, space, channel, codes),
                ]
            )
        below = np.mean(np.array(chances) < 0.05, axis=0)
        np.testing.assert_array_less(below, 0.05 + 4 * np.sqrt(0.05 / SCENES))

    def test_field_without_a_source(self):
        random = np.random.default_rng(4)
        positions, channel, codes = surface(random)
        snapshots = scene(random, positions, channel, codes, constant=True, extra=0.5)
        found = fit_of(snapshots, positions, channel, codes, constant=True)
        space = residual_analysis.field_space(channel, codes)
        self.assertLess(residual_analysis.field_chance(found, space, channel, codes), 1e-6)
        self.assertFalse(residual_analysis.is_white(found, channel, codes, space))

    @parameterized.parameters(0, 1)
    def test_one_antenna_or_one_code_is_off(self, axis):
        random = np.random.default_rng(5)
        positions, channel, codes = surface(random)
        snapshots = scene(random, positions, channel, codes, constant=True)
        part = (slice(None), 3) if axis == 0 else (3, slice(None))
        snapshots[part] *= 1.5
        found = fit_of(snapshots, positions, channel, codes, constant=True)
        self.assertLess(residual_analysis.energy_chances(found)[axis], 1e-4)

    def test_signal_with_wrong_codes(self):
        """Wrong codes give no source, but the antennas still receive the channel."""
        random = np.random.default_rng(6)
        positions, channel, codes = surface(random, 16, 16, 12)
        snapshots = scene(random, positions, channel, codes[::-1], constant=True, snr_db=40.0)
        found = fit_of(snapshots, positions, channel, codes, constant=True, sources=SOURCES[:0])
        self.assertLess(residual_analysis.coloured_chance(found, channel, codes), 1e-4)

    def test_fewer_samples_than_elements_have_no_field_space(self):
        _, channel, codes = surface(np.random.default_rng(7), 4, 4)
        self.assertIsNone(residual_analysis.field_space(channel, codes))
        _, channel, codes = surface(np.random.default_rng(7))
        self.assertIsNone(residual_analysis.field_space(channel, np.ones_like(codes)))


class RedundantSourceTest(absltest.TestCase):
    def test_copy_of_another_source(self):
        random = np.random.default_rng(8)
        positions = simulator.plane(4, 4)
        channel, codes = np.eye(16) + 0j, np.ones((64, 16)) + 0j
        vectors = simulator.spherical(positions, SOURCES, simulator.WAVELENGTH)
        signal = simulator.gaussian(random, 64, 1)
        for signals, redundant in (
            (simulator.gaussian(random, 64, 2), False),
            (signal * [1.0, 0.2], True),
        ):
            snapshots = simulator.received(random, signals @ vectors, channel, codes, 25.0)
            found = fit_of(snapshots, positions, channel, codes, constant=False)
            self.assertEqual(residual_analysis.has_redundant_source(found), redundant)


if __name__ == "__main__":
    absltest.main()
