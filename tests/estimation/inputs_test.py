"""User input: completed if unambiguous, otherwise refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases import simulator

from ris_jax import config as config_lib
from ris_jax.estimation import inputs
from ris_jax.physics import scenes

B, L, M, N = 2, 3, 4, 6
POSITIONS = simulator.plane(3, 2)


def measurement(**changes):
    random = np.random.default_rng(0)
    fields = {
        "snapshots": simulator.gaussian(random, B, L, M),
        "channel": simulator.gaussian(random, B, M, N),
        "codes": np.exp(1j * random.random((B, L, N))),
        "noise_variance": np.ones(B),
    }
    return scenes.Measurement(**fields | changes)


class StaticPathTest(parameterized.TestCase):
    def check(self, choice, source_signal="constant", max_sources=2, **changes):
        return inputs.check_static_path(choice, measurement(**changes), source_signal, max_sources)

    @parameterized.parameters("auto", "on", "off")
    def test_possible(self, choice):
        self.assertTrue(self.check(choice))

    @parameterized.parameters(
        ({"source_signal": "independent"}, "independent signals.*found on; send a known pilot"),
        ({"codes": np.ones((B, L, N), complex)}, "a single code.*record each scene under several"),
        (
            {"codes": np.ones((B, 1, N), complex), "snapshots": np.ones((B, 1, M), complex)},
            "a single code",
        ),
        ({"max_sources": 8}, r"max_sources=8 and 3 codes.*below \(L - 1\) M = 8"),
    )
    def test_impossible(self, changes, message):
        self.assertFalse(self.check("auto", **changes))
        with self.assertRaisesRegex(
            config_lib.ConfigError, f"static_path: expected off or auto with {message}"
        ):
            self.check("on", **changes)

    def test_unknown_choice(self):
        with self.assertRaisesRegex(
            config_lib.ConfigError, "static_path: expected one of auto, on, off; found 'yes'"
        ):
            self.check("yes")


class PreparedTest(parameterized.TestCase):
    def test_complete_input_is_kept(self):
        given = measurement()
        found, positions = inputs.prepared(given, POSITIONS)
        for left, right in zip(found, given, strict=True):
            np.testing.assert_array_equal(left, right)
        self.assertIs(positions, POSITIONS)

    def test_lists_and_shared_arrays(self):
        given = measurement()
        shared = given._replace(
            channel=given.channel[0], codes=given.codes[0].tolist(), noise_variance=0.5
        )
        found, positions = inputs.prepared(shared, POSITIONS.tolist())
        self.assertEqual(found.channel.shape, (1, M, N))
        self.assertEqual(found.codes.shape, (1, L, N))
        each = inputs.for_each_scene(found)
        self.assertEqual(each.channel.shape, (B, M, N))
        self.assertEqual(each.codes.shape, (B, L, N))
        np.testing.assert_array_equal(found.noise_variance, [0.5, 0.5])
        np.testing.assert_array_equal(positions, POSITIONS)

    def test_noise_variance_none(self):
        found, _ = inputs.prepared(measurement(noise_variance=None), POSITIONS)
        self.assertTrue(np.isnan(found.noise_variance).all())

    def test_array_without_a_surface(self):
        snapshots = simulator.gaussian(np.random.default_rng(0), B, L, N)
        found, _ = inputs.prepared(scenes.Measurement(snapshots), POSITIONS)
        np.testing.assert_array_equal(found.channel, np.eye(N)[None])
        np.testing.assert_array_equal(found.codes, np.ones((1, L, N)))

    def test_real_identity_channel_and_signs(self):
        snapshots = simulator.gaussian(np.random.default_rng(0), B, L, N)
        given = scenes.Measurement(snapshots, np.eye(N), np.ones((L, N), int))
        found, _ = inputs.prepared(given, POSITIONS)
        self.assertEqual(found.channel.dtype.kind + found.codes.dtype.kind, "cc")

    @parameterized.named_parameters(
        ("positions transposed", {}, POSITIONS.T, r"positions: .*\[N, 3\]; found \[3, 6\]; transp"),
        ("positions text", {}, "abc", "positions: expected an array of numbers; found str"),
        ("positions ragged", {}, [[1, 2], [3]], "positions: expected an array of numbers"),
        ("positions nan", {}, POSITIONS * np.nan, "positions: expected finite metres"),
        ("one scene", {"snapshots": np.ones((L, M)) + 0j}, None, r"one scene is snapshots\[None\]"),
        ("real snapshots", {"snapshots": np.ones((B, L, M))}, None, "snapshots: expected complex"),
        ("real channel", {"channel": 0.5 * np.ones((B, M, N))}, None, "use channel.astype"),
        ("no channel", {"channel": None}, None, r"\[M, N\] = \[4, 6\]; found none"),
        ("phases", {"codes": np.full((B, L, N), 0.7)}, None, "0.7, which looks like phases"),
        ("states", {"codes": np.full((B, L, N), 3)}, None, "3, which looks like states"),
        ("bits", {"codes": np.eye(L, N, dtype=int)}, None, "only 0 and 1, which look like one-bit"),
        ("booleans", {"codes": np.ones((L, N), bool)}, None, "codes: expected complex"),
        ("noise", {"noise_variance": np.ones(3)}, None, r"noise_variance: .*\[B\] = \[2\]; found"),
    )
    def test_refuses_in_one_line(self, changes, positions, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message) as caught:
            inputs.prepared(measurement(**changes), POSITIONS if positions is None else positions)
        self.assertNotIn("\n", str(caught.exception))

    def test_traced(self):
        shapes = jax.eval_shape(
            lambda given: inputs.prepared(given, POSITIONS)[0],
            measurement(noise_variance=jnp.ones(())),
        )
        self.assertEqual(shapes.noise_variance.shape, (B,))


class CentredTest(absltest.TestCase):
    def test_map_coordinates(self):
        moved = POSITIONS + np.array([5e5, 4.5e6, 100.0])
        found, changed = inputs.centred(moved)
        self.assertTrue(changed)
        np.testing.assert_allclose(found, POSITIONS, atol=1e-9)

    def test_an_origin_next_to_the_array_is_kept(self):
        for shift in (0.0, 2.0):
            moved = POSITIONS + shift
            found, changed = inputs.centred(moved)
            self.assertFalse(changed)
            self.assertIs(found, moved)


class DeterminedTest(parameterized.TestCase):
    @parameterized.parameters(
        (4, "constant", None, 5), (6, "independent", None, 5), (4, "independent", 3, 5),
        (4, "independent", np.array([1, 3]), 5),
    )  # fmt: skip
    def test_accepts(self, *arguments):
        inputs.check_determined(*arguments)

    @parameterized.parameters(
        (5, None, "max_sources: expected less than M=5 .*; found 5; give max_sources=4 or less"),
        (1, None, "one antenna needs constant signals"),
        (2, 2, "num_sources: expected less than M=2 antennas .*; found 2"),
        (2, np.array([1, 3]), "num_sources: .*; found 3"),
    )
    def test_refuses(self, antennas, num_sources, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            inputs.check_determined(antennas, "independent", num_sources, 5)


if __name__ == "__main__":
    absltest.main()
