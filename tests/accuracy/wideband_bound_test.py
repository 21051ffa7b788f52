"""Wideband bounds against full Fisher matrices in NumPy float64, and closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases import small

from ris_jax.accuracy import bounds, wideband_bound
from ris_jax.physics import scenes, wideband

SPEED = 299_792_458.0
FREQUENCIES = np.array([0.9e9, 0.95e9, 1.02e9, 1.1e9])
COHERENCES = ("incoherent", "coherent")


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / 2**0.5


def small_scene(coherence):
    """Return two sources, 4 x 4 elements, 3 antennas, 6 codes and 4 frequencies, in float64."""
    random = np.random.default_rng(0)
    x, y = (axis.ravel() for axis in np.meshgrid(*[(np.arange(4) - 1.5) * 0.15] * 2))
    delay = np.array([3e-9, 8e-9])
    rows = 1 if coherence == "coherent" else 4
    signals = complex_normal(random, rows, 2) * [3.0, 2.0]
    if coherence == "coherent":
        offset = FREQUENCIES - FREQUENCIES.mean()
        signals = signals * np.exp(-2j * np.pi * offset[:, None] * delay)
    return {
        "channel": complex_normal(random, 4, 3, 16),
        "codes": np.exp(2j * np.pi * random.random((4, 6, 16))),
        "noise_variance": np.array(0.3),
        "azimuth": np.array([-0.6, 0.3]),
        "elevation": np.array([0.2, -0.3]),
        "source_range": np.array([0.6, 1.0]),
        "delay": delay,
        "signals": signals,
        "positions": np.stack([x, y, 0.0 * x], axis=-1),
    }


def covariance_oracle(scene, coherence):
    """Invert the Fisher matrix of all unknowns, with derivatives by central differences.

    The unknowns are azimuth, elevation, range and, if coherent, delay [ns] of each source, and real
    and imaginary part of its amplitude: one factor of the signals, or one at each frequency.
    """
    coherent = coherence == "coherent"
    names = ["azimuth", "elevation", "source_range"] + ["delay"] * coherent
    units = np.array([1.0, 1.0, 1.0, 1e-9][: len(names)])
    start = np.stack([scene[name] for name in names], axis=1) / units
    groups, sources = 1 if coherent else len(FREQUENCIES), len(start)
    ones = np.ones(groups * sources)
    truth = np.concatenate([start.ravel(), ones, 0.0 * ones])

    def clean(parameters):
        places = parameters[: start.size].reshape(start.shape) * units
        real, imaginary = parameters[start.size :].reshape(2, groups, sources)
        received = np.zeros((4, 6, 3), complex)
        for k, (azimuth, elevation, radius, *delay) in enumerate(places):
            place = radius * np.array(
                [
                    np.sin(azimuth) * np.cos(elevation),
                    np.sin(elevation),
                    np.cos(azimuth) * np.cos(elevation),
                ]
            )
            distance = np.linalg.norm(place - scene["positions"], axis=1)
            for f, frequency in enumerate(FREQUENCIES):
                vector = radius / distance / 4.0
                vector = vector * np.exp(-2j * np.pi * frequency / SPEED * (distance - radius))
                group = 0 if coherent else f
                signal = scene["signals"][f, k] * (real + 1j * imaginary)[group, k]
                if coherent:
                    moved = delay[0] - scene["delay"][k]
                    signal *= np.exp(-2j * np.pi * (frequency - FREQUENCIES.mean()) * moved)
                received[f] += signal * (scene["codes"][f] * vector) @ scene["channel"][f].T
        return received.ravel()

    step = 1e-5
    slopes = np.stack([clean(truth + e) - clean(truth - e) for e in step * np.eye(truth.size)])
    slopes = slopes / (2 * step)
    information = 2 / scene["noise_variance"] * (slopes.conj() @ slopes.T).real
    inverse = np.linalg.inv(information)[: start.size, : start.size]
    inverse = inverse.reshape(*start.shape, *start.shape)
    index = np.arange(sources)
    return inverse[index, :, index, :] * units[:, None] * units


_wideband_bound = small.jit(wideband_bound.wideband_bound, static_argnames="coherence")


def bound_of(scene, coherence, frequencies=FREQUENCIES, **changes):
    scene = jax.device_put(scene | changes)
    measurement = scenes.Measurement(
        snapshots=jnp.zeros(()),
        channel=scene.pop("channel"),
        codes=scene.pop("codes"),
        noise_variance=scene.pop("noise_variance"),
    )
    return _wideband_bound(
        measurement, **scene, band=wideband.band_of(frequencies), coherence=coherence
    )


class WidebandBoundTest(parameterized.TestCase):
    @parameterized.parameters(*COHERENCES)
    def test_agrees_with_the_oracle(self, coherence):
        scene = small_scene(coherence)
        with jax.enable_x64(True):
            found = bound_of(scene, coherence)
            expected = covariance_oracle(scene, coherence)
            scale = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
            scale = scale[:, :, None] * scale[:, None, :]
            chex.assert_trees_all_close(
                np.asarray(found.covariance) / scale, expected / scale, atol=1e-6
            )
            self.assertTrue(np.all(found.identifiable))

    def test_one_frequency_equals_the_narrowband_bound(self):
        scene = jax.tree.map(jnp.asarray, small_scene("incoherent"))
        one = {"channel": scene["channel"][:1], "codes": scene["codes"][:1]}
        found = bound_of(
            scene, "incoherent", FREQUENCIES[:1], **one, signals=scene["signals"][:1], delay=None
        )
        narrow = small.jit(bounds.cramer_rao_bound)(
            scenes.Measurement(
                jnp.zeros(()), one["channel"][0], one["codes"][0], scene["noise_variance"]
            ),
            *(scene[name] for name in ("azimuth", "elevation", "source_range")),
            jnp.broadcast_to(scene["signals"][:1], (6, 2)),
            scene["positions"],
            wavelength=SPEED / FREQUENCIES[0],
        )
        chex.assert_trees_all_close(found.position, narrow, rtol=2e-3)

    def test_a_single_frequency_does_not_determine_a_delay(self):
        scene = small_scene("coherent")
        one = {name: scene[name][:1] for name in ("channel", "codes", "signals")}
        found = bound_of(scene, "coherent", FREQUENCIES[:1], **one)
        np.testing.assert_array_equal(found.identifiable, [[True, True, True, False]] * 2)
        self.assertTrue(np.all(np.isinf(np.asarray(found.covariance)[:, 3, 3])))

    def test_variance_of_a_delay_follows_the_bandwidth(self):
        """One element and one source: var(tau) = 1 / (2 * gamma * sum((2 pi (f - f0))^2))."""
        num_frequencies, noise = len(FREQUENCIES), 0.1
        scene = {
            "channel": np.ones((num_frequencies, 1, 1), complex),
            "codes": np.ones((1, 1), complex),
            "noise_variance": np.array(noise),
            "azimuth": np.zeros(1),
            "elevation": np.zeros(1),
            "source_range": np.array([np.inf]),
            "signals": np.ones((num_frequencies, 1), complex),
            "positions": np.zeros((1, 3)),
            "delay": np.zeros(1),
        }
        found = bound_of(scene, "coherent")
        offset = 2 * np.pi * (FREQUENCIES - FREQUENCIES.mean())
        expected = noise / (2 * np.sum(offset**2))
        np.testing.assert_allclose(found.covariance[0, 3, 3], expected, rtol=1e-4)
        np.testing.assert_array_equal(found.identifiable[0], [False, False, False, True])

    def test_coherent_bound_is_not_larger(self):
        scene = small_scene("coherent")
        free = np.asarray(wideband_bound.wideband_deviations(bound_of(scene, "incoherent")))
        joint = np.asarray(wideband_bound.wideband_deviations(bound_of(scene, "coherent")))
        self.assertTrue(np.all(joint[:, :3] <= free * (1 + 1e-3)))

    @parameterized.parameters(
        ("channel", np.ones((3, 3, 16), complex), r"channel: need \[F, M, N\] or \[M, N\]"),
        ("signals", np.ones((1, 2), complex), r"signals: need \[F, K\] = \(4, 2\)"),
        ("delay", np.ones(3), r"delay: need \[K\] = \(2,\)"),
    )
    def test_wrong_shapes_are_named(self, field, value, message):
        with self.assertRaisesRegex(ValueError, message):
            bound_of(small_scene("coherent"), "coherent", **{field: value})

    def test_unknown_coherence(self):
        with self.assertRaisesRegex(ValueError, "coherence: need one of incoherent, coherent"):
            bound_of(small_scene("coherent"), "partial")


if __name__ == "__main__":
    absltest.main()
