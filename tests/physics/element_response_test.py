"""Element responses: amplitudes and derivatives against geometry in NumPy, tables, and errors."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases.small import jit
from scipy import interpolate

from ris_jax import config as config_lib
from ris_jax.data.recordings import host_steering
from ris_jax.physics import arrays, element_response, scenes
from ris_jax.physics.element_response import ElementResponse

WAVELENGTH = 0.3
POSITIONS = np.random.default_rng(1).uniform(-0.5, 0.5, (9, 3)) * [1.0, 1.0, 0.2]
NORMALS = np.random.default_rng(2).normal(size=(9, 3)) * 0.3 + [0.0, 0.0, 1.0]
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)
ANGLES = [0.0, 0.3, 0.7, 1.1, 1.4, np.pi / 2]
AMPLITUDES = [2.0, 1.9, 1.5, 0.8, 0.5, 0.1]
RESPONSES = {
    "cos^0.5": ElementResponse.cosine(0.5),
    "cos^1": ElementResponse.cosine(1.0),
    "cos^2": ElementResponse.cosine(2.0),
    "cos^2 with normals": ElementResponse.cosine(2.0, normals=NORMALS),
    "table": ElementResponse.table(ANGLES, AMPLITUDES),
}


def pattern(name, cosine):
    """Return the amplitude of a response in `RESPONSES`."""
    if name == "table":
        knots = 1.0 - np.cos(ANGLES)
        table = interpolate.PchipInterpolator(knots, np.array(AMPLITUDES) / AMPLITUDES[0])
        return np.where(cosine > 0, table(1.0 - cosine), 0.0)
    return np.maximum(cosine, 0.0) ** float(name.split()[0].removeprefix("cos^"))


def amplitude_oracle(name, azimuth, elevation, source_range):
    """Return the response of every element, [P, N], from positions in metres."""
    x, y, z = np.sin(azimuth), np.tan(elevation), np.cos(azimuth)
    unit = np.stack([x, y, z], axis=1) * np.cos(elevation)[:, None]
    away = source_range[:, None, None] * unit[:, None] - POSITIONS
    normals = NORMALS if "normals" in name else np.array([0.0, 0.0, 1.0])
    return pattern(name, np.sum(away * normals, -1) / np.linalg.norm(away, axis=-1))


def places(count=12):
    random = np.random.default_rng(3)
    return random.uniform([[-1.2], [-0.8], [0.7]], [[1.2], [0.8], [5.0]], (3, count))


@functools.partial(jit, static_argnames="wavefront")
def steered(response, azimuth, elevation, source_range, wavefront="spherical"):
    return arrays.steering_vector(
        azimuth, elevation, source_range, jnp.asarray(POSITIONS, float),
        wavelength=WAVELENGTH, wavefront=wavefront, response=response,
    )  # fmt: skip


@functools.partial(jit, static_argnames="wavefront")
def at(points, response, wavefront="spherical"):
    return arrays.steering_at(
        points,
        jnp.asarray(POSITIONS, float),
        wavelength=WAVELENGTH,
        wavefront=wavefront,
        response=response,
    )


@functools.partial(jit, static_argnames="wavefront")
def jet_at(points, response, wavefront="spherical"):
    return arrays.steering_jet(
        points,
        jnp.asarray(POSITIONS, float),
        wavelength=WAVELENGTH,
        wavefront=wavefront,
        response=response,
    )


@jit
def power_slope(place, response):
    return jax.grad(lambda p: jnp.sum(jnp.abs(steered.__wrapped__(response, *p)) ** 2))(place)


class SteeringTest(parameterized.TestCase):
    @parameterized.product(name=tuple(RESPONSES), wavefront=("spherical", "spherical_phase"))
    def test_is_the_steering_vector_times_the_response(self, name, wavefront):
        with jax.enable_x64(True):
            found = steered(RESPONSES[name], *places(), wavefront=wavefront)
            plain = steered(None, *places(), wavefront=wavefront)
            chex.assert_trees_all_close(
                found, plain * amplitude_oracle(name, *places()), rtol=1e-10, atol=1e-12
            )

    @parameterized.parameters(*RESPONSES)
    def test_plane_waves_have_one_angle(self, name):
        azimuth, elevation, _ = places()
        far = np.full(len(azimuth), 1e9)
        expected = amplitude_oracle(name, azimuth, elevation, far)
        with jax.enable_x64(True):
            for source_range, wavefront in ((far, "spherical"), (places()[2], "planar")):
                found = steered(RESPONSES[name], azimuth, elevation, source_range, wavefront)
                size = len(POSITIONS) ** 0.5
                chex.assert_trees_all_close(np.abs(found) * size, expected, rtol=1e-6)

    def test_exponent_0_is_no_response(self):
        """The factor is exactly 1, also for elements that face away from the source."""
        normals = np.array([0.0, 0.0, -1.0])
        for response in (ElementResponse.cosine(0.0), ElementResponse.cosine(0.0, normals=normals)):
            found, plain = (steered(r, *places()) for r in (response, None))
            chex.assert_trees_all_close(found, plain, rtol=1e-6)
            factor = response.amplitudes(np.eye(3), np.ones(3), POSITIONS, np)
            chex.assert_trees_all_equal(factor, np.ones((3, 9)))
        self.assertIsNone(element_response.directional(response))
        self.assertIsNone(element_response.of_system(config_lib.SystemConfig()))

    @parameterized.parameters(*RESPONSES)
    def test_nothing_is_received_from_behind(self, name):
        facing = NORMALS if "normals" in name else np.array([0.0, 0.0, 1.0])
        response = dataclasses.replace(RESPONSES[name], normals=-facing)
        self.assertEqual(np.abs(steered(response, *places())).max(), 0.0)

    @parameterized.product(name=tuple(RESPONSES), wavefront=("spherical", "planar"))
    def test_derivatives(self, name, wavefront):
        points, model = host_steering.coordinates_of(*places()), (RESPONSES[name], wavefront)
        step = 1e-6
        with jax.enable_x64(True):
            jet = jet_at(points, *model)
            chex.assert_trees_all_close(jet[:, 0], at(points, *model), atol=1e-14)
            for axis in range(3):
                ahead, behind = (
                    at(points + sign * step * np.eye(3)[axis], *model) for sign in (1, -1)
                )
                slope = (ahead - behind) / (2 * step)
                chex.assert_trees_all_close(jet[:, axis + 1], slope, atol=1e-7)

    @parameterized.parameters(*RESPONSES)
    def test_derivatives_are_finite(self, name):
        """At boresight, near the horizon, at infinite range, on an element, and below 0 degrees."""
        points = np.array(
            [[0, 0, 0], [0, 0, 1], [0.9999, 0, 0.5], [0, -0.99999, 2], [0.8, 0.8, 1], [0, 0, 1e3]]
        )
        chex.assert_tree_all_finite(jet_at(points.astype("f4"), RESPONSES[name]))
        boresight = jnp.array([[0.0], [0.0], [1.0]])
        chex.assert_tree_all_finite(power_slope(boresight, RESPONSES[name]))

    @parameterized.parameters(*RESPONSES)
    def test_norm(self, name):
        points = host_steering.coordinates_of(*places()).astype("f4")
        expected = jnp.sum(jnp.abs(at(points, RESPONSES[name])) ** 2, axis=-1)
        found = jit(arrays.squared_norm)(points, POSITIONS, response=RESPONSES[name])
        chex.assert_trees_all_close(found, expected, rtol=1e-5)

    @parameterized.product(name=tuple(RESPONSES), wavefront=("spherical", "planar"))
    def test_numpy_agrees(self, name, wavefront):
        points = host_steering.coordinates_of(*places())
        options = {"wavelength": WAVELENGTH, "wavefront": wavefront, "response": RESPONSES[name]}
        found = host_steering.steering(points, POSITIONS, **options)
        expected = at(points.astype("f4"), RESPONSES[name], wavefront)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_one_program_for_all_exponents(self):
        steer = jit(chex.assert_max_traces(steered.__wrapped__, n=1))
        for exponent in (0.5, 1.0, 2.0):
            found = steer(ElementResponse.cosine(exponent), *places())
            expected = steered(ElementResponse.cosine(exponent), *places())
            chex.assert_trees_all_close(found, expected, atol=1e-6)

    def test_simulator(self):
        """The field of a simulated source has the response of the configuration."""
        system = config_lib.SystemConfig(
            num_snapshots=4, rows=2, columns=3, response_angles=ANGLES,
            response_amplitudes=AMPLITUDES,
        )  # fmt: skip
        one = np.ones(1)
        truth = scenes.Truth(0.5 * one, 0.2 * one, 1.5 * one, 2.0 * one, np.array(1), one)
        positions = arrays.element_positions(system)
        found = jit(scenes.steering_matrix, static_argnums=2)(truth, positions, system)[:, 0]
        points = host_steering.coordinates_of(0.5 * one, 0.2 * one, 1.5 * one)
        expected = host_steering.steering(
            points, positions, wavelength=system.wavelength, response=RESPONSES["table"]
        )[0]
        chex.assert_trees_all_close(found, 2.0 * expected, atol=1e-6)


class TableTest(parameterized.TestCase):
    def test_holds_its_own_points(self):
        response = RESPONSES["table"]
        found = response.of_cosines(np.cos(ANGLES), np)
        np.testing.assert_allclose(found, np.array(AMPLITUDES) / 2.0, rtol=1e-12)
        angles, amplitudes = response.as_table()
        np.testing.assert_allclose(angles, ANGLES)
        np.testing.assert_allclose(amplitudes, np.array(AMPLITUDES) / 2.0)

    def test_has_no_overshoot(self):
        angles, amplitudes = [0.0, 0.5, 0.6, 1.0, np.pi / 2], [1.0, 1.0, 0.1, 0.1, 0.0]
        response = ElementResponse.table(angles, amplitudes)
        found = response.of_cosines(np.cos(np.linspace(0, np.pi / 2, 500)), np)
        self.assertTrue(np.all(np.diff(found) <= 1e-12))
        self.assertTrue(np.all((found >= 0) & (found <= 1)))

    def test_a_fine_table_of_a_cosine_is_the_cosine(self):
        angles = np.linspace(0.0, np.pi / 2, 91)
        table = ElementResponse.table(angles, np.cos(angles) ** 1.5)
        found, expected = (
            steered(r, *places()) for r in (table, ElementResponse.cosine(1.5))
        )  # fmt: skip
        chex.assert_trees_all_close(found, expected, atol=2e-5)

    def test_back_radiation(self):
        """A table beyond 90 degrees has amplitudes behind the elements, up to its last angle."""
        response = ElementResponse.table([0.0, np.pi / 2, 2.5], [1.0, 0.3, 0.2])
        found = response.of_cosines(np.cos([2.5, 2.6]), np)
        np.testing.assert_allclose(found, [0.2, 0.0], atol=1e-12)


class ResponseTest(parameterized.TestCase):
    def test_rotated(self):
        turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # z to -y
        np.testing.assert_allclose(RESPONSES["cos^1"].rotated(turn).normals, [0.0, -1.0, 0.0])
        turned = RESPONSES["cos^2 with normals"].rotated(turn).normals
        np.testing.assert_allclose(turned[:, 1], -NORMALS[:, 2])

    def test_same_response(self):
        same = element_response.same_response
        table = ElementResponse.table(ANGLES, AMPLITUDES)
        self.assertTrue(same(table, RESPONSES["table"]))
        self.assertTrue(same(None, ElementResponse.cosine(0.0)))
        self.assertFalse(same(None, table))
        self.assertFalse(same(RESPONSES["cos^1"], RESPONSES["cos^2"]))
        self.assertFalse(same(RESPONSES["cos^2"], RESPONSES["cos^2 with normals"]))

    @parameterized.parameters(
        ("cos^2", "cos^2 of the angle to the normal"),
        ("cos^2 with normals", "cos^2 of the angle to the normal, normals given"),
        ("table", "table of 6 angles up to 90 deg"),
    )
    def test_description(self, name, text):
        self.assertEqual(RESPONSES[name].description(), text)

    @parameterized.parameters(
        (lambda: ElementResponse.cosine(-1.0), "exponent: expected .* 0 or more; found -1.0"),
        (lambda: ElementResponse.cosine(math.nan), "exponent: expected a finite number.*found nan"),
        (lambda: ElementResponse.table([0.0, 1.6], [1.0]), "amplitudes: .*2 angles and 1 ampl"),
        (lambda: ElementResponse.table([0.0], [1.0]), "amplitudes: expected two or more"),
        (lambda: ElementResponse.table([0.0, 1.6], [1.0, math.nan]), "amplitudes: .*NaN"),
        (lambda: ElementResponse.table([0.1, 1.6], [1.0, 1.0]), "angles: .*ascending from 0"),
        (lambda: ElementResponse.table([0, 1.6, 1], [1, 1, 1]), "angles: .*ascending from 0"),
        (lambda: ElementResponse.table([0.0, 90.0], [1.0, 0.0]), "angles: .*90; degrees?"),
        (lambda: ElementResponse.table([0.0, 1.0], [1.0, 0.5]), "angles up to pi / 2 or more .app"),
        (lambda: ElementResponse.table([0.0, 1.6], [0.0, -9.0]), "amplitudes: .*-9; decibels?"),
        (lambda: ElementResponse.table([0.0, 1.6], [0.0, 1.0]), "above 0 at the first angle"),
        (lambda: ElementResponse.cosine(1.0, normals=np.ones(2)), r"normals: .*found \[2\]"),
        (lambda: ElementResponse.cosine(1.0, normals=np.ones(3)), "unit vectors; .*length 1.73"),
        (lambda: RESPONSES["cos^2 with normals"].check_elements(8), r"\[3\] or \[8, 3\]; found"),
    )  # fmt: skip
    def test_errors(self, build, message):
        with self.assertRaisesRegex(config_lib.ConfigError, f"response_{message}|{message}"):
            build()

    @parameterized.parameters(
        ({"response_exponent": -1.0}, "system.response_exponent: need a finite number of 0"),
        ({"response_angles": [0.0, 1.6]}, "system.response_amplitudes: need angles and amplitudes"),
        ({"response_amplitudes": [1.0, 0.0]}, "system.response_angles: need angles and amplitudes"),
        (
            {"response_angles": [0.0, 1.6], "response_amplitudes": [1.0, 0.0],
             "response_exponent": 1.0},
            "system.response_exponent: need an exponent or a table .*; got both",
        ),
    )  # fmt: skip
    def test_configuration_errors(self, fields, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            config_lib.SystemConfig(**fields)

    def test_configuration_round_trip(self):
        fields = {"response_angles": ANGLES, "response_amplitudes": AMPLITUDES}
        config = config_lib.Config(system=config_lib.SystemConfig(**fields))
        self.assertEqual(config_lib.from_stored(config_lib.to_stored(config)), config)


if __name__ == "__main__":
    absltest.main()
