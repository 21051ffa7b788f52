"""Recordings files with several frequencies: axes, shared arrays, unusable scenes, errors."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ris_jax import errors
from ris_jax.data.recordings import containers, frequency_recordings, reader

B, F, L, M, N = 4, 3, 5, 2, 6


def arrays_of(**changes):
    random = np.random.default_rng(0)

    def gaussian(*shape):
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    arrays = {
        "frequencies": np.array([0.9e9, 1.0e9, 1.1e9]),
        "snapshots": gaussian(B, F, L, M),
        "channel": gaussian(F, M, N),
        "codes": gaussian(L, N),
        "element_positions": random.normal(size=(N, 3)),
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


TRUTH = {
    "num_sources": np.array([1, 2, 1, 0]),
    "azimuth": np.zeros((B, 2)),
    "elevation": np.zeros((B, 2)),
    "source_range": np.ones((B, 2)),
}


class FrequencyRecordingsTest(parameterized.TestCase):
    @parameterized.parameters(
        ((L, N), (1, 1, L, N)),
        ((F, L, N), (1, F, L, N)),
        ((B, L, N), (B, 1, L, N)),
        ((B, F, L, N), (B, F, L, N)),
    )
    def test_axes_of_codes(self, given, read):
        codes = np.exp(1j * np.arange(np.prod(given)).reshape(given))
        found = frequency_recordings.from_arrays(arrays_of(codes=codes))
        self.assertEqual(found.codes.shape, read)
        np.testing.assert_allclose(found.codes.reshape(given), codes, rtol=1e-6)

    def test_an_unknown_noise_variance_is_nan(self):
        found = frequency_recordings.from_arrays(arrays_of())
        self.assertTrue(np.isnan(found.measurement.noise_variance).all())

    def test_an_array_without_a_surface(self):
        random = np.random.default_rng(0)
        snapshots = random.normal(size=(B, F, L, N)) + 0j
        found = frequency_recordings.from_arrays(
            arrays_of(snapshots=snapshots, channel=None, codes=None)
        )
        np.testing.assert_array_equal(found.channel[0], [np.eye(N)] * F)
        np.testing.assert_array_equal(found.codes, np.ones((1, 1, L, N)))

    def test_phases_in_degrees(self):
        phases = np.linspace(0.0, 350.0, L * N).reshape(L, N)
        found = frequency_recordings.from_arrays(arrays_of(codes=None, phases_deg=phases))
        np.testing.assert_allclose(found.codes[0, 0], np.exp(1j * np.deg2rad(phases)), rtol=1e-6)

    def test_unusable_scenes_are_left_out(self):
        snapshots = arrays_of()["snapshots"]
        snapshots[1, 2, 3, 0] = np.nan
        found = frequency_recordings.from_arrays(arrays_of(snapshots=snapshots))
        np.testing.assert_array_equal(found.scene_numbers, [0, 2, 3])
        self.assertEqual(found.skipped[0][0], 1)
        self.assertEqual(found.snapshots.shape, (3, F, L, M))
        with self.assertRaisesRegex(errors.RunError, "no usable scene among 4; scene 0: snapshots"):
            frequency_recordings.from_arrays(arrays_of(snapshots=np.full_like(snapshots, np.nan)))

    @parameterized.parameters(
        ({"wavelength": np.array(0.3)}, "wavelength: need either it or frequencies; got both"),
        ({"frequencies": np.array([900.0, 1000.0, 1100.0])}, "got 900 - in MHz or GHz"),
        ({"frequencies": np.array([1e9, 1e9, 2e9])}, "frequencies: need different frequencies"),
        ({"frequencies": np.array([1e9, 2e9])}, r"snapshots: need \[B, F, L, M\] with F = 2"),
        ({"snapshots": np.ones((B, F, M, L)) + 0j}, "snapshots: .* are the axes swapped"),
        ({"snapshots": np.ones((F, L, M)) + 0j}, r"one scene is \[1, F, L, M\]"),
        ({"channel": np.ones((M, N)) + 0j}, r"channel: need \[B, F, M, N\] or \[F, M, N\]"),
        ({"delay": np.zeros((B, 2))}, "delay: need the truth as well; got none"),
        ({**TRUTH, "delay": np.zeros((B, 3))}, r"delay: need \[B, K_max\] = \[4, 2\]"),
        ({**TRUTH, "delay": np.full((B, 2), np.nan)}, "delay: need finite seconds"),
        ({"response_exponent": np.array(1.0)}, "response_exponent: need no element response"),
        ({"colour": np.zeros(1)}, "unknown keys: 'colour'"),
    )
    def test_errors(self, changes, message):
        with self.assertRaisesRegex(errors.RunError, message):
            frequency_recordings.from_arrays(arrays_of(**changes))

    def test_three_axes_of_codes_are_ambiguous_if_scenes_are_as_many_as_frequencies(self):
        given = arrays_of()
        given |= {"snapshots": given["snapshots"][:F], "codes": np.ones((F, L, N)) + 0j}
        with self.assertRaisesRegex(errors.RunError, "codes: need .* F = B = 3"):
            frequency_recordings.from_arrays(given)


def test_a_file_is_read_as_written(tmp_path):
    given = arrays_of(**TRUTH, delay=np.full((B, 2), 3e-9), snr_db=np.full(B, 10.0))
    path = tmp_path / "wideband.npz"
    containers.save(path, given)
    assert frequency_recordings.has_frequencies(path)
    found = frequency_recordings.read_frequencies(path)
    np.testing.assert_allclose(found.snapshots, given["snapshots"], rtol=1e-6)
    np.testing.assert_array_equal(found.frequencies, given["frequencies"])
    assert found.channel.shape == (1, F, M, N)
    np.testing.assert_array_equal(np.isfinite(found.delay).sum(axis=1), [1, 2, 1, 0])
    power = np.mean(np.abs(given["snapshots"]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found.measurement.noise_variance, power / 11.0, rtol=1e-5)
    with pytest.raises(errors.RunError, match="frequencies: need one frequency"):
        reader.read(path)


if __name__ == "__main__":
    absltest.main()
