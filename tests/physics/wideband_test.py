"""Steering vectors at several frequencies and simulated wideband scenes, against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases import small
from cases.small import jit

from ris_jax import config as config_lib
from ris_jax.physics import arrays, codebooks, scenes, wideband

SPEED = 299_792_458.0
FREQUENCIES = np.array([0.9e9, 1.0e9, 1.15e9])
SMALL = small.configuration(small.SYSTEM, scene__max_sources=2)
PAIR = scenes.Truth(
    azimuth=jnp.array([-0.6, 0.4]),
    elevation=jnp.array([0.2, -0.3]),
    source_range=jnp.array([1.0, 2.0]),
    amplitude=jnp.array([1.0, 0.5]),
    num_sources=jnp.array(2),
    snr_db=jnp.array(200.0),
)
DELAY = np.array([4e-9, 11e-9])


def clean_oracle(scene, positions):
    """Sum over sources, codes and elements, with exact distances in float64."""
    truth, (_, channel, codes, _) = scene.truth, map_to_numpy(scene.measurement)
    received = np.zeros((len(FREQUENCIES), len(codes), channel.shape[1]), complex)
    for k in range(2):
        azimuth, elevation = float(truth.azimuth[k]), float(truth.elevation[k])
        unit = [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
        radius = float(truth.source_range[k])
        distance = np.linalg.norm(radius * np.array(unit) - positions, axis=1)
        for f, frequency in enumerate(FREQUENCIES):
            phase = 2 * np.pi * frequency / SPEED * (distance - radius)
            vector = radius / distance * np.exp(-1j * phase) / np.sqrt(len(positions))
            signal = np.asarray(scene.signals)[f, k]
            received[f] += signal * (codes * vector) @ channel[f].T
    return received


def map_to_numpy(measurement):
    return tuple(np.asarray(leaf, complex) for leaf in measurement)


class SteeringTest(parameterized.TestCase):
    def test_each_frequency_has_its_own_steering_vector(self):
        positions = arrays.planar_array(3, 4, 0.15)
        point = jnp.array([0.3, -0.2, 0.7])
        found = jit(wideband.steering_at_frequencies)(
            point, positions, band=wideband.band_of(FREQUENCIES)
        )
        for frequency, vector in zip(FREQUENCIES, found, strict=True):
            expected = arrays.steering_at(point, positions, wavelength=SPEED / frequency)
            chex.assert_trees_all_close(vector, expected, atol=1e-6)

    @parameterized.parameters("incoherent", "coherent")
    def test_jet_has_the_derivatives(self, coherence):
        positions = arrays.planar_array(3, 4, 0.15)
        band = wideband.band_of(FREQUENCIES)
        point = jnp.array([0.3, -0.2, 0.7, 5.0][: 4 if coherence == "coherent" else 3])

        def stacked(point):
            return wideband.stacked_jet(
                point, positions, band=band, wavefront="spherical", coherence=coherence
            )

        jet = jit(stacked)(point)
        self.assertEqual(jet.shape, (1 + len(point), len(FREQUENCIES) * 12))
        real, imaginary = (
            jit(jax.jacfwd(lambda point, part=part: part(stacked(point)[0])))(point)
            for part in (jnp.real, jnp.imag)
        )
        chex.assert_trees_all_close(jet[1:].T, real + 1j * imaginary, atol=2e-4)

    def test_a_delay_turns_the_phases_about_the_mean_frequency(self):
        band = wideband.band_of(FREQUENCIES)
        found = wideband.delay_phasors(jnp.array(SPEED * 7e-9), band.wavenumbers)
        expected = np.exp(-2j * np.pi * (FREQUENCIES - FREQUENCIES.mean()) * 7e-9)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @parameterized.parameters(
        (np.ones((2, 2)), r"found float64 \[2, 2\]"),
        (np.array([900.0, 1000.0]), "in MHz or GHz"),
        (np.array([1e9, np.nan]), "found nan"),
        (np.array([1e9, 1e9]), "more than once"),
        (np.array([]), r"found float64 \[0\]"),
    )
    def test_wrong_frequencies(self, frequencies, message):
        with self.assertRaisesRegex(config_lib.ConfigError, f"frequencies: expected .*{message}"):
            wideband.band_of(frequencies)


class SimulationTest(parameterized.TestCase):
    @parameterized.parameters("incoherent", "coherent")
    def test_snapshots_follow_the_model(self, coherence):
        scene = jit(
            lambda key: wideband.simulate_wideband(
                key, PAIR, jnp.asarray(DELAY, jnp.float32), SMALL,
                band=wideband.band_of(FREQUENCIES), coherence=coherence,
            )
        )(jax.random.key(0))  # fmt: skip
        positions = np.asarray(arrays.element_positions(SMALL.system), float)
        expected = clean_oracle(scene, positions)
        np.testing.assert_allclose(
            scene.measurement.snapshots, expected, atol=1e-5 * np.abs(expected).max()
        )
        signals = np.asarray(scene.signals)
        np.testing.assert_allclose(np.abs(signals), [[1.0, 0.5]] * 3, rtol=1e-5)
        if coherence == "coherent":
            offset = FREQUENCIES - FREQUENCIES.mean()
            constant = signals * np.exp(2j * np.pi * offset[:, None] * DELAY)
            np.testing.assert_allclose(constant - constant[:1], 0.0, atol=1e-5)

    def test_the_channel_has_unit_power_and_depends_on_the_frequency(self):
        positions = arrays.element_positions(SMALL.system)
        draw = jit(
            lambda key: wideband.wideband_channel(
                key, positions, num_antennas=4, band=wideband.band_of(FREQUENCIES),
                rician_factor=jnp.array(1.0),
            )
        )  # fmt: skip
        drawn = np.stack([draw(key) for key in jax.random.split(jax.random.key(1), 100)])
        self.assertAlmostEqual(float(np.mean(np.abs(drawn) ** 2)), 1.0, delta=0.1)
        self.assertGreater(np.abs(drawn[:, 0] - drawn[:, 1]).mean(), 0.3)

    def test_codes_are_those_of_the_configuration(self):
        scene = jit(
            lambda key: wideband.simulate_wideband(
                key, PAIR, jnp.zeros(2), SMALL, band=wideband.band_of(FREQUENCIES)
            )
        )(jax.random.key(0))
        chex.assert_trees_all_close(
            scene.measurement.codes, codebooks.codebook(SMALL.system), atol=1e-6
        )


if __name__ == "__main__":
    absltest.main()
