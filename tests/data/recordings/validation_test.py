"""Checks of the fields of a recordings file: valid values, and error messages."""

import contextlib

import numpy as np
from absl.testing import absltest, parameterized

from ris_jax import errors
from ris_jax.data.recordings import validation

SHAPES = {
    "snapshots": (7, 5, 3),
    "element_positions": (6, 3),
    "channel": (7, 3, 6),
    "codes": (7, 5, 6),
}


class Case(parameterized.TestCase):
    @contextlib.contextmanager
    def assert_error(self, expected):
        with self.assertRaises(errors.RunError) as caught:
            yield
        self.assertEqual(str(caught.exception), f"f.npz: {expected}")


class ElementResponseTest(Case):
    TABLE = {  # noqa: RUF012
        "response_angles": np.array([[0.0, 0.8, 1.6]]), "response_amplitudes": np.ones((3, 1)),
    }  # fmt: skip

    def response(self, **fields):
        return validation.element_response("f.npz", fields, 6)

    def test_good(self):
        self.assertIsNone(self.response(snapshots=np.zeros(3)))
        self.assertIsNone(self.response(response_exponent=np.array([[0]])))
        self.assertEqual(self.response(response_exponent=np.array(2)).exponent, 2.0)
        np.testing.assert_allclose(self.response(**self.TABLE).as_table()[0], [0.0, 0.8, 1.6])
        normals = self.response(**self.TABLE, response_normals=np.eye(3)[2:]).normals
        np.testing.assert_array_equal(normals, [0.0, 0.0, 1.0])

    @parameterized.parameters(
        ({"response_exponent": np.ones(2)}, "response_exponent: need a number; got [2]"),
        ({"response_exponent": np.array(1j)}, "response_exponent: need real numbers; got complex"),
        ({"response_exponent": np.array(-1.0)}, "response_exponent: need a finite number of 0"),
        (TABLE | {"response_angles": np.ones((2, 2))}, "response_angles: need [A]; got [2, 2]"),
        ({"response_angles": np.array([0.0, 1.6])}, "response_amplitudes: need angles and ampl"),
        (TABLE | {"response_angles": np.array([0, 45, 90])}, "response_angles: need radians, at"),
        ({"response_normals": np.eye(3)}, "response_normals: need response_exponent or a table"),
        (
            TABLE | {"response_normals": np.eye(3)},
            "response_normals: expected [3] or [6, 3]; found [3, 3]",
        ),
        (TABLE | {"response_normals": np.ones(3)}, "response_normals: expected unit vectors"),
    )  # fmt: skip
    def test_errors(self, fields, message):
        with self.assertRaises(errors.RunError) as caught:
            self.response(**fields)
        self.assertIn(f"f.npz: {message}", str(caught.exception))


class KeysTest(Case):
    LISTS = (
        "needed: snapshots, wavelength (or frequency), element_positions; optional: channel, "
        "codes (or states with coefficients or phases_rad or phases_deg), snr_db, num_sources, "
        "azimuth, elevation, source_range, response_exponent, response_angles, "
        "response_amplitudes, response_normals"
    )

    @parameterized.parameters((), ("snr_db",), validation.TRUTH_KEYS, validation.OPTIONAL_KEYS)
    def test_good(self, *optional):
        validation.check_keys("f.npz", [*validation.REQUIRED_KEYS, *optional])

    def test_all_missing_keys_are_named(self):
        with self.assert_error(f"missing keys: wavelength, element_positions; {self.LISTS}"):
            validation.check_keys("f.npz", ["snapshots", "codes"])

    @parameterized.parameters(("Snapshots", "snapshots"), ("snaphots", "snapshots"))
    def test_misspelt_key(self, wrong, right):
        keys = [wrong, *(key for key in validation.REQUIRED_KEYS if key != right)]
        with self.assert_error(
            f"missing keys: {right}; unknown keys: {wrong!r} (did you mean {right}?); {self.LISTS}"
        ):
            validation.check_keys("f.npz", keys)

    def test_misspelt_optional_key(self):
        with self.assert_error(
            f"unknown keys: 'num_source' (did you mean num_sources?), 'foo'; {self.LISTS}"
        ):
            validation.check_keys("f.npz", [*validation.REQUIRED_KEYS, "num_source", "foo"])

    def test_long_lists_are_cut(self):
        keys = [*validation.REQUIRED_KEYS, *(f"{index}\n" + 99 * "x" for index in range(99))]
        with self.assertRaises(errors.RunError) as caught:
            validation.check_keys("f.npz", keys)
        self.assertIn(", 91 more; needed", str(caught.exception))
        self.assertLess(len(str(caught.exception)), 800)
        self.assertNotIn("\n", str(caught.exception))

    def test_truth_in_part(self):
        with self.assert_error(
            "truth: need all of num_sources, azimuth, elevation, source_range, or none; "
            "got no elevation, source_range"
        ):
            validation.check_keys("f.npz", [*validation.REQUIRED_KEYS, "num_sources", "azimuth"])


class NumbersTest(Case):
    @parameterized.parameters(
        (np.ones(2), "real numbers (dtype float64)"),
        (np.ones(2, int), "integers (dtype int64)"),
        (np.ones(2, bool), "truth values (dtype bool)"),
        (np.array(["1+2j"]), "no numbers (dtype <U4)"),
        (np.array([None]), "no numbers (dtype object)"),
    )
    def test_not_complex(self, array, got):
        with self.assert_error(f"snapshots: need complex numbers; got {got}"):
            validation.complex_array("f.npz", "snapshots", array)

    def test_real_channel_of_zeros_and_ones(self):
        identity = validation.channel_array("f.npz", np.eye(3))
        self.assertEqual(identity.dtype, np.complex64)
        np.testing.assert_array_equal(identity, np.eye(3))
        with self.assert_error(
            "channel: need complex numbers; got real numbers (dtype float64); if they are real, "
            "write .astype(complex)"
        ):
            validation.channel_array("f.npz", 0.5 * np.eye(3))

    @parameterized.parameters("f4", "i1", "u1")
    def test_codes_0_and_1_need_a_meaning(self, dtype):
        states = np.array([[0, 1], [1, 1]], dtype)
        with self.assert_error(
            "codes: need reflection coefficients exp(j phase); got only 0 and 1, which look like "
            "one-bit states; give --binary_codes=states for phases 0 and pi, or "
            "--binary_codes=amplitudes for elements that are off and on"
        ):
            validation.code_array("f.npz", states)
        amplitudes = validation.code_array("f.npz", states, "amplitudes")
        np.testing.assert_array_equal(amplitudes, states)
        phases = validation.code_array("f.npz", states, "states")
        np.testing.assert_allclose(phases, np.exp(1j * np.pi * states), atol=1e-6)

    def test_complex_codes_0_and_1_are_amplitudes(self):
        states = np.eye(2, dtype="c8")
        np.testing.assert_array_equal(validation.code_array("f.npz", states), states)

    def test_codes_of_an_array_without_a_surface(self):
        np.testing.assert_array_equal(validation.code_array("f.npz", np.ones((2, 3))), 1.0)

    def test_complex_is_single_precision_and_overflow_is_infinite(self):
        array = validation.complex_array("f.npz", "channel", np.array([1 + 2j, 1e300]))
        self.assertEqual(array.dtype, np.complex64)
        np.testing.assert_array_equal(array, np.array([1 + 2j, np.inf], "c8"))

    @parameterized.parameters("f4", "f8", "i1", "i8")
    def test_one_bit_codes(self, dtype):
        codes = validation.code_array("f.npz", np.array([[1, -1], [0, 1]], dtype))
        self.assertEqual(codes.dtype, np.complex64)
        np.testing.assert_array_equal(codes, [[1, -1], [0, 1]])

    def test_invalid_real_codes_exclude_their_scene(self):
        self.assertTrue(np.isnan(validation.code_array("f.npz", np.array([1.0, np.nan]))[1]))

    @parameterized.parameters((np.array([0, 7, 3]), "7"), (np.array([1.0, 0.5]), "0.5"))
    def test_codes_given_as_states_or_phases(self, codes, got):
        with self.assert_error(
            "codes: need complex exp(j phase), or real numbers that are all -1, 0 or 1; "
            f"got real {got} - phases or states?"
        ):
            validation.code_array("f.npz", codes)

    @parameterized.parameters(
        (np.ones(2, bool), "truth values (dtype bool)"), (np.array(["1"]), "no numbers (dtype <U1)")
    )
    def test_codes_without_numbers(self, codes, got):
        with self.assert_error(f"codes: need complex numbers; got {got}"):
            validation.code_array("f.npz", codes)

    @parameterized.parameters(
        (np.ones(2, "c8"), "complex numbers (dtype complex64)"),
        (np.ones(2, bool), "truth values (dtype bool)"),
        (np.array([b"1"]), "no numbers (dtype |S1)"),
    )
    def test_not_real(self, array, got):
        with self.assert_error(f"snr_db: need real numbers; got {got}"):
            validation.real_array("f.npz", "snr_db", array)

    @parameterized.parameters((0.3,), (np.float32([0.3]),), (np.array([[0.3]]),), (1,))
    def test_wavelength(self, value):
        expected = np.asarray(value).item()
        self.assertEqual(validation.wavelength("f.npz", np.asarray(value)), expected)

    @parameterized.parameters(
        (0.0, "a finite length above zero [m]; got 0.0"),
        (-0.3, "a finite length above zero [m]; got -0.3"),
        (np.nan, "a finite length above zero [m]; got nan"),
        (np.inf, "a finite length above zero [m]; got inf"),
        ([0.3, 0.3], "one number [m]; got an array [2]"),
        ([], "one number [m]; got an array [0]"),
        ([[[0.3]]], "one number [m]; got an array [1, 1, 1]"),
        ("0.3", "real numbers; got no numbers (dtype <U3)"),
        (0.3j, "real numbers; got complex numbers (dtype complex128)"),
    )
    def test_invalid_wavelength(self, value, expected):
        with self.assert_error(f"wavelength: need {expected}"):
            validation.wavelength("f.npz", np.asarray(value))

    def test_positions(self):
        validation.check_positions("f.npz", np.eye(3))
        with self.assert_error(
            "element_positions: need finite metres; got [0.0, nan, 0.0] for element 1"
        ):
            validation.check_positions("f.npz", np.array([[0.0, 0, 0], [0, np.nan, 0]]))
        with self.assert_error(
            "element_positions: need distinct positions of all elements; "
            "got 2 places for N=3 elements"
        ):
            validation.check_positions("f.npz", np.array([[0.0, 0, 0], [1, 0, 0], [-0.0, 0, 0]]))


class AxesTest(Case):
    def check(self, **shapes):
        shapes = {**SHAPES, **shapes}
        validation.check_axes("f.npz", {f: np.zeros(shape) for f, shape in shapes.items()})

    @parameterized.parameters(
        {}, {"channel": (3, 6)}, {"codes": (5, 6)}, {"channel": (3, 6), "codes": (5, 6)}
    )
    def test_good(self, **shapes):
        self.check(**shapes)

    @parameterized.parameters(
        ("snapshots", (5, 3), "[B, L, M]; got [5, 3] - one scene is [1, L, M]"),
        ("snapshots", (7, 5, 3, 2), "[B, L, M]; got [7, 5, 3, 2]"),
        ("snapshots", (), "[B, L, M]; got []"),
        ("channel", (6,), "[B, M, N] or [M, N]; got [6]"),
        ("channel", (7, 3, 6, 2), "[B, M, N] or [M, N]; got [7, 3, 6, 2]"),
        ("codes", (6,), "[B, L, N] or [L, N]; got [6]"),
        ("element_positions", (18,), "[N, 3]; got [18]"),
        ("snapshots", (0, 5, 3), "no empty axis; got [0, 5, 3]"),
        ("codes", (5, 0), "no empty axis; got [5, 0]"),
        ("channel", (7, 6, 3), "[B, M, N] = [7, 3, 6]; got [7, 6, 3] - are the axes swapped?"),
        ("channel", (6, 3), "[M, N] = [3, 6]; got [6, 3] - are the axes swapped?"),
        ("channel", (6, 3, 7), "[B, M, N] = [7, 3, 6]; got [6, 3, 7] - are the axes swapped?"),
        ("channel", (7, 4, 6), "[B, M, N] = [7, 3, 6]; got [7, 4, 6]"),
        ("channel", (8, 3, 6), "[B, M, N] = [7, 3, 6]; got [8, 3, 6]"),
        ("codes", (7, 6, 5), "[B, L, N] = [7, 5, 6]; got [7, 6, 5] - are the axes swapped?"),
        ("codes", (5, 7), "[L, N] = [5, 6]; got [5, 7]"),
        ("snapshots", (7, 3, 5), "[B, L, M] = [7, 5, 3]; got [7, 3, 5] - are the axes swapped?"),
        ("element_positions", (3, 6), "[N, 3], x y z of every element; got [3, 6] - are the axes "
         "swapped?"),
        ("element_positions", (6, 2), "[N, 3], x y z of every element; got [6, 2]"),
    )  # fmt: skip
    def test_bad(self, field, shape, expected):
        with self.assert_error(f"{field}: need {expected}"):
            self.check(**{field: shape})

    def test_positions_of_another_array(self):
        with self.assert_error("channel: need [B, M, N] = [7, 3, 9]; got [7, 3, 6]"):
            self.check(element_positions=(9, 3))

    def test_all_axes_reversed(self):
        """MATLAB's `h5write`, or a wrong reader, reverses all axes."""
        with self.assertRaisesRegex(errors.RunError, "axes of all arrays reversed"):
            self.check(**{field: shape[::-1] for field, shape in SHAPES.items()})


class ScenesTest(Case):
    def arrays(self):
        return {
            "snapshots": np.ones((4, 2, 3), "c8"),
            "channel": np.ones((4, 3, 5), "c8"),
            "codes": np.ones((4, 2, 5), "c8"),
        }

    def test_all_usable(self):
        self.assertEmpty(validation.unusable_scenes("f.npz", self.arrays()))

    def test_reasons(self):
        arrays = self.arrays()
        arrays["snapshots"][3, 0, 1] = np.nan
        arrays["channel"][1] = 0
        arrays["codes"][0, 1, 2:4] = np.inf
        arrays["codes"][3] = 0
        found = validation.unusable_scenes("f.npz", arrays)
        self.assertEqual(
            list(found.items()),
            [
                (0, "codes: 2 of 10 values are NaN, infinite or too large"),
                (1, "channel is all zero"),
                (3, "snapshots: 1 of 6 values are NaN, infinite or too large"),
            ],
        )

    def test_some_zeros_are_valid(self):
        arrays = self.arrays()
        for array in arrays.values():
            array[:, 0] = 0
        self.assertEmpty(validation.unusable_scenes("f.npz", arrays))

    @parameterized.parameters(("channel", "channel is all zero"), ("codes", "codes are all zero"))
    def test_shared(self, field, reason):
        arrays = self.arrays()
        arrays[field] = arrays[field][0]
        self.assertEmpty(validation.unusable_scenes("f.npz", arrays))
        arrays["snapshots"][2] = 0
        arrays[field][:] = 0
        found = validation.unusable_scenes("f.npz", arrays)
        self.assertEqual(found, {0: reason, 1: reason, 2: "snapshots are all zero", 3: reason})
        arrays[field][0, 0] = np.nan
        size = arrays[field].size
        with self.assert_error(
            f"{field}: need finite values, because all scenes share them; "
            f"got 1 of {size} NaN, infinite or too large"
        ):
            validation.unusable_scenes("f.npz", arrays)


class SnrTest(Case):
    @parameterized.parameters((np.arange(3.0),), (np.arange(3)[:, None],), (np.arange(3)[None],))
    def test_good(self, values):
        found = validation.snr("f.npz", values, 3, np.array([0, 2]))
        np.testing.assert_array_equal(found, [0.0, 2.0])

    def test_shape(self):
        with self.assert_error("snr_db: need [B] = [3]; got [2]"):
            validation.snr("f.npz", np.arange(2), 3, np.arange(3))

    def test_only_usable_scenes_are_checked(self):
        values = np.array([1.0, np.nan, 3.0])
        np.testing.assert_array_equal(
            validation.snr("f.npz", values, 3, np.array([0, 2])), [1.0, 3.0]
        )
        with self.assert_error(
            "snr_db: need finite dB in every scene, at most 200 in magnitude (leave out the key if "
            "it is unknown); got nan in scene 1"
        ):
            validation.snr("f.npz", values, 3, np.arange(3))
        with self.assertRaisesRegex(errors.RunError, r"at most 200 .*got 1000000\.0 in scene 2"):
            validation.snr("f.npz", np.array([1.0, 2.0, 1e6]), 3, np.arange(3))


class TruthTest(Case):
    """Three scenes with 1, 2 and 0 sources in two slots."""

    def arrays(self):
        return {
            "num_sources": np.array([1, 2, 0]),
            "azimuth": np.array([[0.1, np.nan], [0.2, -0.3], [np.nan, np.nan]]),
            "elevation": np.array([[0.1, np.nan], [0.2, -0.3], [np.nan, np.nan]]),
            "source_range": np.array([[1.0, np.nan], [2.0, 3.0], [np.nan, np.nan]]),
        }

    def check(self, arrays, usable=(0, 1, 2)):
        return validation.truth("f.npz", arrays, 3, np.array(usable, int))

    def test_good(self):
        arrays = self.arrays()
        found = self.check(arrays)
        for field, values in found._asdict().items():
            np.testing.assert_array_equal(values, arrays[field])
        self.assertEqual(found.num_sources.dtype, np.int64)

    def test_padding_of_any_kind_becomes_nan(self):
        arrays = self.arrays()
        for field in ("azimuth", "elevation", "source_range"):
            arrays[field] = np.nan_to_num(arrays[field], nan=-99.0)
        np.testing.assert_array_equal(self.check(arrays).azimuth, self.arrays()["azimuth"])

    @parameterized.parameters(((3, 1),), ((1, 3),))
    def test_matlab_counts(self, shape):
        arrays = self.arrays()
        arrays["num_sources"] = arrays["num_sources"].astype(float).reshape(shape)
        np.testing.assert_array_equal(self.check(arrays).num_sources, [1, 2, 0])

    def test_skipped_scenes_are_not_checked(self):
        arrays = self.arrays()
        arrays["num_sources"] = np.array([1, np.nan, 0])
        arrays["azimuth"][1] = np.nan
        np.testing.assert_array_equal(self.check(arrays, [0, 2]).num_sources, [1, 0])
        self.assertEmpty(self.check(arrays, []).num_sources)

    @parameterized.parameters(
        ("num_sources", 3, "whole numbers 0 to K_max=2; got 3 in scene 1"),
        ("num_sources", -1, "whole numbers 0 to K_max=2; got -1 in scene 1"),
        ("num_sources", 1.5, "whole numbers 0 to K_max=2; got 1.5 in scene 1"),
        ("num_sources", np.nan, "whole numbers 0 to K_max=2; got nan in scene 1"),
        ("azimuth", 35.0, "finite radians, at most 2 pi in magnitude; got 35 for source 0 of scene "
         "1 - degrees?"),
        ("azimuth", np.nan, "finite radians, at most 2 pi in magnitude; got nan for source 0 of "
         "scene 1"),
        ("elevation", -5.0, "finite radians, at most pi / 2 in magnitude; got -5 for source 0 of "
         "scene 1 - degrees?"),
        ("elevation", np.inf, "finite radians, at most pi / 2 in magnitude; got inf for source 0 "
         "of scene 1"),
        ("source_range", 0.0, "finite metres above zero; got 0 for source 0 of scene 1"),
        ("source_range", -2.0, "finite metres above zero; got -2 for source 0 of scene 1"),
        ("source_range", np.inf, "finite metres above zero; got inf for source 0 of scene 1"),
    )  # fmt: skip
    def test_values(self, field, value, expected):
        arrays = self.arrays()
        arrays[field] = arrays[field].astype(float)
        arrays[field][1, ...] = value
        with self.assert_error(f"{field}: need {expected}"):
            # The message has the scene's number in the file, not among the usable ones.
            self.check(arrays, [1, 2])

    @parameterized.parameters(
        ("azimuth", (2, 3), "[B, K_max] = [3, K_max]; got [2, 3]"),
        ("azimuth", (3,), "[B, K_max] = [3, K_max]; got [3]"),
        ("azimuth", (3, 0), "[B, K_max] = [3, K_max]; got [3, 0]"),
        ("elevation", (3, 1), "[B, K_max] = [3, 2]; got [3, 1]"),
        ("source_range", (2, 3), "[B, K_max] = [3, 2]; got [2, 3]"),
        ("num_sources", (2,), "[B] = [3]; got [2]"),
        ("num_sources", (), "[B] = [3]; got []"),
    )
    def test_shapes(self, field, shape, expected):
        with self.assert_error(f"{field}: need {expected}"):
            self.check({**self.arrays(), field: np.zeros(shape)})

    def test_dtype(self):
        with self.assert_error("azimuth: need real numbers; got complex numbers (dtype complex64)"):
            self.check({**self.arrays(), "azimuth": np.zeros((3, 2), "c8")})


if __name__ == "__main__":
    absltest.main()
