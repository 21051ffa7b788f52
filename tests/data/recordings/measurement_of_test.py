"""Measurement from recordings: the noise follows from the SNR."""

import dataclasses

import numpy as np
from absl.testing import absltest

from ris_jax.data.recordings import reader


def make_recordings(**more):
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    return reader.from_arrays(
        {
            "snapshots": normal(2, 4, 3),
            "channel": normal(3, 5),
            "codes": normal(4, 5),
            "wavelength": 0.3,
            "element_positions": random.normal(size=(5, 3)),
            **more,
        }
    )


class MeasurementTest(absltest.TestCase):
    def test_noise_variance(self):
        """Received power P includes the noise: sigma^2 = P / (1 + SNR), 1/2 at 0 dB."""
        found = make_recordings(snr_db=np.array([0.0, 10.0]))
        measurement = reader.measurement_of(found)
        power = np.mean(np.abs(found.snapshots) ** 2, axis=(1, 2))
        np.testing.assert_allclose(measurement.noise_variance, power / [2, 11], rtol=1e-6)
        self.assertEqual(measurement.channel.shape, (2, 3, 5))
        self.assertEqual(measurement.codes.shape, (2, 4, 5))

    def test_a_static_path_is_not_part_of_the_snr(self):
        found = make_recordings(snr_db=np.array([0.0, 10.0]))
        shifted = dataclasses.replace(found, snapshots=found.snapshots + 100.0)
        expected = reader.measurement_of(found, static_path=True).noise_variance
        noise = reader.measurement_of(shifted, static_path=True).noise_variance
        np.testing.assert_allclose(noise, expected, rtol=1e-3)
        # The removal leaves three of four samples of each antenna, without their mean.
        energy = np.sum(
            np.abs(found.snapshots - found.snapshots.mean(1, keepdims=True)) ** 2, (1, 2)
        )
        np.testing.assert_allclose(expected, energy / 9 / [2, 11], rtol=1e-5)

    def test_unknown_snr(self):
        measurement = reader.measurement_of(make_recordings())
        np.testing.assert_array_equal(measurement.noise_variance, [np.nan, np.nan])


if __name__ == "__main__":
    absltest.main()
