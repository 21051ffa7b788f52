"""Maximum likelihood: exact without noise, efficient with noise, false-alarm rates."""

import functools
import re
from typing import NamedTuple
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from absl.testing import absltest, parameterized

from ris_jax.estimation import (
    likelihood,
    matching_pursuit,
    maximum_likelihood,
    refinement,
    search_grid,
)
from ris_jax.physics import arrays, scenes

SIGNALS = ("constant", "independent")
# Default options; the tests share few programs, because compilation is slow.
WAVEFRONT = {"constant": "spherical", "independent": "fresnel"}
WAVELENGTH = 0.3
LENGTH = ANTENNAS = 8
SOURCES, BATCH = 3, 64
SAMPLES = LENGTH * ANTENNAS
POSITIONS = np.asarray(arrays.planar_array(6, 6, 0.15), float)
ELEMENTS = len(POSITIONS)
REGION = search_grid.SearchRegion()
OPTIONS = matching_pursuit.SearchOptions(grid=(14, 8, 5), queue=24)


class Truth(NamedTuple):
    """Sources in random order; those past the number are padding."""

    points: np.ndarray  # [B, K, 3] u, w, 1/r
    amplitudes: np.ndarray  # [B, K], zero where absent
    num_sources: np.ndarray  # [B]


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


def steering(points, wavefront="spherical"):
    """Return exp(-j k (d - r)) / sqrt(N), spherical times r / d; [..., N], in NumPy."""
    u, w, rho = np.moveaxis(np.asarray(points, float), -1, 0)[..., None]
    x, y, _ = POSITIONS.T
    along, square = u * x + w * y, x**2 + y**2
    distance = np.sqrt(1 - 2 * rho * along + rho**2 * square)
    amplitude = 1 / distance if wavefront == "spherical" else 1.0
    path = {
        "spherical": (rho * square - 2 * along) / (distance + 1),
        "fresnel": -along + 0.5 * rho * (square - along**2),
        "parabolic": -along + 0.5 * rho * square,
        "planar": -along + 0 * rho,
    }[wavefront]
    return amplitude * np.exp(-2j * np.pi / WAVELENGTH * path) / np.sqrt(ELEMENTS)


def draw(seed, num_sources, equal=True, nearest=0.55):
    """Draw positions at least a beam apart, each in a different third of the view."""
    random = np.random.default_rng(seed)
    third = np.argsort(random.random((BATCH, SOURCES)), axis=1) - 1
    u = 0.55 * third + random.uniform(-0.1, 0.1, (BATCH, SOURCES))
    w = random.uniform(-0.4, 0.4, (BATCH, SOURCES))
    inverse_range = random.uniform(0.3, 1 / nearest, (BATCH, SOURCES))
    amplitudes = np.argsort(random.random((BATCH, SOURCES)), axis=1) * 0.4 + 0.6
    count = np.broadcast_to(num_sources, (BATCH,))
    active = np.arange(SOURCES) < count[:, None]
    amplitudes = np.where(active, 1.0 if equal else amplitudes, 0.0)
    return Truth(np.stack([u, w, inverse_range], axis=-1), amplitudes, count)


def simulate(truth, seed, snr_db=None, source_signal="constant", wavefront=None):
    """Simulate scenes, complex64; no noise by default, only noise without sources."""
    wavefront = wavefront or WAVEFRONT[source_signal]
    random = np.random.default_rng(seed)
    channel = complex_normal(random, BATCH, ANTENNAS, ELEMENTS)
    codes = np.exp(0.25j * np.pi * random.integers(0, 8, (BATCH, LENGTH, ELEMENTS)))
    signals = complex_normal(random, BATCH, LENGTH, SOURCES)
    if source_signal == "constant":
        signals = signals[:, :1] / np.abs(signals[:, :1]) * np.ones((1, LENGTH, 1))
    field = (truth.amplitudes[:, None, :] * signals) @ steering(truth.points, wavefront)
    clean = (codes * field) @ channel.swapaxes(1, 2)
    if snr_db is not None:
        power = np.mean(np.abs(clean) ** 2, axis=(1, 2), keepdims=True)
        variance = np.where(power > 0, power * 10 ** (-snr_db / 10), 1.0)
        clean = clean + np.sqrt(variance) * complex_normal(random, *clean.shape)
    parts = (np.asarray(part, "c8") for part in (clean, channel, codes))
    return scenes.Measurement(*parts, np.ones(BATCH, "f4"))


def estimate(measurement, positions=POSITIONS, *, source_signal="constant", **options):
    defaults = {
        "wavelength": WAVELENGTH,
        "wavefront": WAVEFRONT[source_signal],
        "source_signal": source_signal,
        "max_sources": SOURCES,
        "options": OPTIONS,
    }
    found = maximum_likelihood.maximum_likelihood(measurement, positions, **(defaults | options))
    return jax.tree.map(np.asarray, found)


@functools.cache
def example(source_signal="constant", known=False):
    """Return the scenes that many tests change, and their estimate; both are only read."""
    measurement = simulate(draw(3, COUNTS), 4, 20.0, source_signal)
    number = COUNTS if known else None
    return measurement, estimate(measurement, source_signal=source_signal, num_sources=number)


def coordinates(found):
    """Return (u, w, 1/r) of estimates, [..., K, 3]; zero in padding."""
    u = np.sin(found.azimuth) * np.cos(found.elevation)
    return np.stack([u, np.sin(found.elevation), 1 / found.source_range], axis=-1)


def strongest_first(truth):
    """Sort points and powers as an estimate, [B, K, ...]; zero padding."""
    order = np.argsort(-truth.amplitudes, axis=1, kind="stable")
    powers = np.take_along_axis(truth.amplitudes, order, axis=1) ** 2
    points = np.take_along_axis(truth.points, order[:, :, None], axis=1)
    return np.where(powers[..., None] > 0, points, 0.0), powers


def matched(truth, found):
    """Return the estimates nearest to each source, [B, K, 3], and their indices."""
    distance = np.abs(truth.points[:, :, None] - coordinates(found)[:, None])
    nearest = np.argmin(distance[..., 0] + distance[..., 1], axis=2)
    return np.take_along_axis(coordinates(found), nearest[..., None], axis=1), nearest


def as_angles(points):
    """Return (azimuth, elevation, range) of (u, w, 1/r)."""
    u, w, inverse_range = np.moveaxis(points, -1, 0)
    azimuth = np.arctan2(u, np.sqrt(1 - u**2 - w**2))
    return np.stack([azimuth, np.arcsin(w), 1 / np.maximum(inverse_range, 1e-9)], axis=-1)


def explained(measurement, index, points):
    """Return the energy explained by constant sources at points [K, 3], float64."""
    snapshots, channel, codes = (np.asarray(part[index], complex) for part in measurement[:3])
    basis = np.einsum("mn,ln,kn->lmk", channel, codes, steering(points)).reshape(SAMPLES, -1)
    return np.linalg.norm(basis @ np.linalg.lstsq(basis, snapshots.ravel(), rcond=None)[0]) ** 2


def binomial_limits(count, share):
    """Return limits that a count exceeds on either side with probability 1/2000."""
    return scipy.stats.binom.ppf([0.0005, 0.9995], count, share)


COUNTS = np.arange(BATCH) % SOURCES + 1


class NoiselessTest(parameterized.TestCase):
    @parameterized.parameters(("constant", "spherical"), ("independent", "fresnel"))
    def test_exact(self, source_signal, wavefront):
        self.assert_exact(source_signal, wavefront)

    @parameterized.parameters("parabolic", "planar")
    @pytest.mark.full  # below: `parameterized` drops marks above it
    def test_exact_for_simpler_waves(self, wavefront):
        self.assert_exact("constant", wavefront)

    def assert_exact(self, source_signal, wavefront):
        """Results are exact for one to three sources of unequal power, strongest first."""
        truth = draw(1, COUNTS, equal=source_signal == "independent")
        measurement = simulate(truth, 2, source_signal=source_signal, wavefront=wavefront)
        found = estimate(
            measurement, num_sources=COUNTS, source_signal=source_signal, wavefront=wavefront
        )
        np.testing.assert_array_equal(found.num_sources, COUNTS)
        self.assertTrue(np.all(np.diff(found.power, axis=1) <= 0))
        axes = slice(None, 2 if wavefront == "planar" else 3)
        present = truth.amplitudes > 0
        if source_signal == "constant":
            points, powers = strongest_first(truth)
            np.testing.assert_allclose(found.power, powers, atol=1e-3)
            np.testing.assert_allclose(coordinates(found)[..., axes], points[..., axes], atol=1e-3)
        else:  # the signals have different powers
            near, nearest = matched(truth, found)
            np.testing.assert_allclose(
                near[present][..., axes], truth.points[present][..., axes], atol=1e-3
            )
            self.assertTrue(np.all(nearest[present] < np.repeat(COUNTS, COUNTS)))
        padding = np.arange(SOURCES) >= COUNTS[:, None]
        self.assertTrue(np.all(np.isinf(found.source_range[padding])))
        for name in ("azimuth", "elevation", "power"):
            np.testing.assert_array_equal(getattr(found, name)[padding], 0.0)
        variances = np.diagonal(found.covariance, axis1=-2, axis2=-1)
        self.assertTrue(np.all(np.isinf(variances[padding])))
        self.assertTrue(np.all(np.isfinite(variances[~padding][:, :2])))
        if wavefront == "planar":
            self.assertTrue(np.all(np.isinf(variances[..., 2])))
            self.assertTrue(np.all(np.isposinf(found.source_range)))
        else:
            self.assertTrue(np.all(np.isfinite(variances[~padding])))
        chex.assert_tree_all_finite((found.azimuth, found.elevation, found.power))

    def test_zero_snapshots(self):
        """Zero data give no sources, or the given number without power."""
        truth = draw(3, COUNTS)
        for source_signal in SIGNALS:
            measurement = simulate(truth, 4, 20.0, source_signal)
            measurement.snapshots[7] = 0.0
            counted = estimate(measurement, source_signal=source_signal)
            self.assertEqual(counted.num_sources[7], 0)
            self.assertEqual(counted.noise_variance[7], 0.0)
            asked = estimate(measurement, source_signal=source_signal, num_sources=2)
            self.assertEqual(asked.num_sources[7], 2)
            np.testing.assert_array_equal(asked.power[7], 0.0)
            self.assertTrue(np.all(np.isinf(asked.covariance[7, :, [0, 1, 2], [0, 1, 2]])))
            chex.assert_tree_all_finite(
                (counted.azimuth, counted.power, asked.azimuth, asked.elevation, asked.power)
            )


class SymmetryTest(parameterized.TestCase):
    """Invariances, within a twentieth of the error bars."""

    def assert_same(self, found, wanted, scale=1.0):
        np.testing.assert_array_equal(found.num_sources, wanted.num_sources)
        np.testing.assert_allclose(found.power / scale, wanted.power, rtol=5e-3, atol=1e-6)
        np.testing.assert_allclose(found.noise_variance / scale, wanted.noise_variance, rtol=1e-3)
        present = wanted.power > 0
        error_bars = np.sqrt(np.diagonal(wanted.covariance, axis1=-2, axis2=-1))[present]
        error_bars[:, 2] /= wanted.source_range[present] ** 2
        error_bars[:, 2] += 1e-3  # of sources at infinity
        moved = np.abs(coordinates(found) - coordinates(wanted))[present]
        self.assertLess(np.max(moved / error_bars), 0.05)

    @parameterized.product(source_signal=SIGNALS, known=(False, True))
    def test_elements_in_another_order(self, source_signal, known):
        measurement, wanted = example(source_signal, known)
        order = np.random.default_rng(5).permutation(ELEMENTS)
        shuffled = measurement._replace(
            channel=measurement.channel[..., order], codes=measurement.codes[..., order]
        )
        options = {"source_signal": source_signal, "num_sources": COUNTS if known else None}
        self.assert_same(estimate(shuffled, POSITIONS[order], **options), wanted)

    @parameterized.product(source_signal=SIGNALS, scale=(2j, -3e-6 + 2e-6j, 1e5))
    def test_scaled_snapshots(self, source_signal, scale):
        """A change of unit scales only the powers."""
        measurement, wanted = example(source_signal)
        scaled = measurement._replace(snapshots=(measurement.snapshots * scale).astype("c8"))
        found = estimate(scaled, source_signal=source_signal)
        self.assert_same(found, wanted, abs(scale) ** 2)
        np.testing.assert_array_equal(wanted.num_sources, COUNTS)

    def test_one_compilation(self):
        """One program serves any number of sources, false-alarm rate, wavelength and region."""
        self.check_one_compilation("constant")

    @pytest.mark.full
    def test_one_compilation_for_independent_signals(self):
        self.check_one_compilation("independent")

    def check_one_compilation(self, source_signal):
        measurement, _ = example(source_signal)
        compiled = maximum_likelihood._maximum_likelihood.outer
        before = compiled._cache_size()
        for number in (0, 1, SOURCES, np.int64(2), COUNTS, jnp.asarray(COUNTS), None):
            found = estimate(
                measurement, num_sources=number, source_signal=source_signal, false_alarm_rate=0.02
            )
            if number is not None:
                np.testing.assert_array_equal(found.num_sources, np.broadcast_to(number, (BATCH,)))
        region = search_grid.SearchRegion(0.8, 0.5, 0.1, 2.0)
        estimate(measurement, source_signal=source_signal, wavelength=0.31, region=region)
        self.assertEqual(compiled._cache_size(), before)

    @parameterized.parameters(*SIGNALS)
    def test_no_lapack(self, source_signal):
        """Two simultaneous LAPACK calls of one program can deadlock on a CPU (jaxlib 0.10)."""
        measurement, _ = example(source_signal)
        program = maximum_likelihood._maximum_likelihood.outer
        with mock.patch.object(maximum_likelihood, "_maximum_likelihood") as patched:
            estimate(measurement, source_signal=source_signal)
        arguments, options = patched.call_args
        compiled = program.lower(*arguments, **options).compile()
        targets = set(re.findall(r'custom_call_target="([^"]*)"', compiled.as_text()))
        self.assertEmpty([target for target in targets if "lapack" in target], targets)


class NonFiniteTest(parameterized.TestCase):
    @parameterized.product(
        field=("snapshots", "channel", "codes"), value=(np.nan, np.inf), known=(False, True)
    )
    def test_scene_without_a_result(self, field, value, known):
        """A scene with one bad entry has no sources; the others are bit-identical."""
        good, wanted = example(known=known)
        bad = good._replace(**{field: getattr(good, field).copy()})
        getattr(bad, field)[5, 0, 0] = value
        number = COUNTS if known else None
        found = estimate(bad, num_sources=number)
        others = np.arange(BATCH) != 5
        take_others = functools.partial(jax.tree.map, lambda leaf: leaf[others])
        chex.assert_trees_all_equal(take_others(found), take_others(wanted))
        self.assertTrue(np.isnan(found.noise_variance[5]))
        self.assertEqual(found.num_sources[5], 0)
        for name in ("azimuth", "elevation", "power"):
            np.testing.assert_array_equal(getattr(found, name)[5], 0.0)
        self.assertTrue(np.all(np.isinf(found.source_range[5])))


class CountTest(parameterized.TestCase):
    @parameterized.parameters(
        ("constant", "spherical"), ("constant", "planar"), ("independent", "fresnel")
    )
    def test_noise_only(self, source_signal, wavefront):
        """The false-alarm rate is the given one for regions of any dimension."""
        alarms, rate, repeats = 0, 0.05, 4
        for seed in range(repeats):
            measurement = simulate(draw(seed, 0), seed + 70, 0.0, source_signal)
            found = estimate(
                measurement,
                source_signal=source_signal,
                wavefront=wavefront,
                false_alarm_rate=rate,
            )
            alarms += np.sum(found.num_sources > 0)
        low, high = binomial_limits(repeats * BATCH, rate)
        self.assertBetween(alarms, low, high)

    def test_false_alarms_with_a_source(self):
        """The false-alarm rate is also correct with one source."""
        self.check_false_alarms("constant")

    @pytest.mark.full
    def test_false_alarms_with_an_independent_source(self):
        self.check_false_alarms("independent")

    def check_false_alarms(self, source_signal):
        alarms, rate, repeats = 0, 0.05, 4
        for seed in range(repeats):
            measurement = simulate(draw(seed, 1), seed + 170, 15.0, source_signal)
            found = estimate(measurement, source_signal=source_signal, false_alarm_rate=rate)
            self.assertGreaterEqual(found.num_sources.min(), 1)
            alarms += np.sum(found.num_sources > 1)
        low, high = binomial_limits(repeats * BATCH, rate)
        self.assertBetween(alarms, low, high)

    @parameterized.product(source_signal=SIGNALS, snr_db=(20.0, 40.0))
    def test_separated_sources(self, source_signal, snr_db):
        truth = draw(11, COUNTS)
        measurement = simulate(truth, 12, snr_db, source_signal)
        found = estimate(measurement, source_signal=source_signal)
        np.testing.assert_array_equal(found.num_sources, COUNTS)

    def test_close_sources(self):
        """The residual of two sources within half a beam gives no third source."""
        truth = draw(0, 2)
        angle = np.random.default_rng(50).uniform(0.0, 2 * np.pi, BATCH)
        points = truth.points.copy()
        points[:, 1, :2] = points[:, 0, :2] + 0.14 * np.stack([np.cos(angle), np.sin(angle)], -1)
        points[:, 1, 2] = points[:, 0, 2]
        found = estimate(simulate(truth._replace(points=points), 7, 30.0))
        self.assertGreaterEqual(np.mean(found.num_sources == 2), 0.95)

    @parameterized.parameters(*SIGNALS)
    def test_without_noise(self, source_signal):
        """Rounding is not a source."""
        truth = draw(11, COUNTS)
        found = estimate(
            simulate(truth, 12, source_signal=source_signal), source_signal=source_signal
        )
        np.testing.assert_array_equal(found.num_sources, COUNTS)


class EfficiencyTest(parameterized.TestCase):
    @parameterized.product(source_signal=SIGNALS, number=(1, 2))
    def test_error_bars(self, source_signal, number):
        """Squared errors over the reported variances are chi-squared."""
        truth = draw(21, number, nearest=0.9)
        measurement = simulate(truth, 22, 20.0, source_signal)
        found = estimate(measurement, source_signal=source_signal, num_sources=number)
        near, nearest = matched(truth, found)
        error = as_angles(near) - as_angles(truth.points)
        # Errors of the range are symmetric in 1/r.
        error[..., 2] = (truth.points - near)[..., 2] * as_angles(near)[..., 2] ** 2
        covariance = np.take_along_axis(found.covariance, nearest[..., None, None], axis=1)
        error, covariance = error[:, :number].reshape(-1, 3), covariance[:, :number]
        variances = np.diagonal(covariance, axis1=-2, axis2=-1).reshape(-1, 3)
        count = len(error)
        low, high = scipy.stats.chi2.ppf([0.0005, 0.9995], count) / count
        ratios = np.mean(error**2 / variances, axis=0)
        self.assertTrue(np.all((low < ratios) & (ratios < high)), (low, ratios, high))
        whole = np.einsum("bi,bij,bj->b", error, np.linalg.inv(covariance.reshape(-1, 3, 3)), error)
        low, high = scipy.stats.chi2.ppf([0.0005, 0.9995], 3 * count)
        self.assertBetween(np.sum(whole), low, high)

    @parameterized.product(source_signal=SIGNALS, number=(0, 1, 3))
    def test_noise_variance(self, source_signal, number):
        """The noise variance is unbiased for any number of sources."""
        truth = draw(31, number)
        measurement = simulate(truth, 32, 10.0, source_signal)
        clean = simulate(truth, 32, None, source_signal)
        if number:
            power = np.mean(np.abs(clean.snapshots) ** 2, axis=(1, 2))
            variance = power * 10**-1.0
        else:
            variance = np.ones(BATCH)
        found = estimate(measurement, source_signal=source_signal, num_sources=number)
        error = 1 / np.sqrt(BATCH * (SAMPLES - number * (1 if source_signal == "constant" else 8)))
        ratio = np.mean(found.noise_variance / variance)
        self.assertBetween(ratio, 1 - 4 * error, 1 + 4 * error)

    def test_reaches_the_maximum_near_the_truth(self):
        """The likelihood is at least that of a fit started at the truth."""
        truth = draw(41, 2)
        measurement = simulate(truth, 42, 10.0)
        found = estimate(measurement, num_sources=2)
        jet = functools.partial(
            arrays.steering_jet, positions=jnp.asarray(POSITIONS, "f4"), wavelength=WAVELENGTH
        )
        setting = refinement.RefinementProblem(jet, REGION.lower, REGION.upper)

        @jax.jit
        @jax.vmap
        def from_truth(scene, points):
            observation = likelihood.observe(scene, "constant")
            return refinement.refine(setting, observation, points, jnp.ones(2), 20).coordinates

        reference = from_truth(measurement, jnp.asarray(truth.points[:, :2], "f4"))
        reached = 0
        for index in range(BATCH):
            value = explained(measurement, index, coordinates(found)[index, :2])
            wanted = explained(measurement, index, np.asarray(reference[index]))
            # Log-likelihoods that differ by a twentieth are equal.
            reached += value >= wanted - 0.05 * found.noise_variance[index]
        self.assertGreaterEqual(reached, 0.9 * BATCH)


class ErrorsTest(parameterized.TestCase):
    MEASUREMENT = scenes.Measurement(
        np.ones((4, 5, 3), "c8"), np.ones((4, 3, 9), "c8"), np.ones((4, 5, 9), "c8"), np.ones(4)
    )

    def run_with(self, positions=np.zeros((9, 3)), max_sources=2, **changes):  # noqa: B008
        fields = {name: changes.pop(name) for name in list(changes)
                  if name in scenes.Measurement._fields}  # fmt: skip
        options = {"wavelength": WAVELENGTH, "max_sources": max_sources} | changes
        return maximum_likelihood.maximum_likelihood(
            self.MEASUREMENT._replace(**fields), positions, **options
        )

    @parameterized.parameters(
        ({"snapshots": np.ones((5, 3), "c8")}, r"snapshots: need \[B, L, M\]; got \(5, 3\)"),
        ({"channel": np.ones((3, 9), "c8")}, r"channel: need \[B, M, N\]; got \(3, 9\)"),
        ({"codes": np.ones((5, 9), "c8")}, r"codes: need \[B, L, N\]; got \(5, 9\)"),
        ({"channel": np.ones((4, 2, 9), "c8")}, r"channel: need \[4, 3, 9\]; got \[4, 2, 9\]"),
        ({"channel": np.ones((1, 3, 9), "c8")}, r"channel: need \[4, 3, 9\]; got \[1, 3, 9\]"),
        ({"codes": np.ones((4, 3, 9), "c8")}, r"codes: need \[4, 5, 9\]; got \[4, 3, 9\]"),
        ({"codes": np.ones((4, 5, 8), "c8")}, r"codes: need \[4, 5, 9\]; got \[4, 5, 8\]"),
        ({"positions": np.zeros((9, 2))}, r"positions: need \[9, 3\]; got \[9, 2\]"),
        ({"positions": np.zeros((8, 3))}, r"channel: need \[4, 3, 8\]; got \[4, 3, 9\]"),
        ({"max_sources": 0}, "max_sources: need 1 or more; got 0"),
        ({"max_sources": 9}, r"max_sources: need less than min\(N, L M\) = 9; got 9"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate: need 0 < value < 1; got 0.0"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate: need 0 < value < 1; got 1.0"),
        ({"false_alarm_rate": float("nan")}, "false_alarm_rate: need 0 < value < 1; got nan"),
        ({"num_sources": -1}, r"num_sources: need 0 to max_sources=2.*got -1"),
        ({"num_sources": 3}, r"num_sources: need 0 to max_sources=2.*got 3"),
        ({"num_sources": np.array([1, 2, 3, 1])}, r"num_sources: need 0 to max_sources=2"),
        ({"num_sources": np.array([1, 2])}, r"one number or \[4\]; got array\(\[1, 2\]\)"),
        ({"num_sources": np.ones((4, 1), int)}, r"one number or \[4\]"),
        ({"num_sources": 1.5}, "num_sources: need integers.*got 1.5"),
        ({"wavelength": 0.0}, "wavelength: need a length above zero; got 0.0"),
        ({"wavelength": float("inf")}, "wavelength: need a length above zero; got inf"),
        ({"wavefront": "cubic"}, "wavefront: need one of .*got 'cubic'"),
        ({"source_signal": "steady"}, "source_signal: need one of .*got 'steady'"),
    )
    def test_value_error(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            self.run_with(**changes)

    def test_no_scenes(self):
        with self.assertRaisesRegex(ValueError, "need at least one scene; got 0"):
            self.run_with(**{name: part[:0] for name, part in self.MEASUREMENT._asdict().items()})

    def test_no_snapshots(self):
        with self.assertRaisesRegex(ValueError, "max_sources: need less than .* = 0; got 2"):
            self.run_with(snapshots=np.ones((4, 0, 3), "c8"), codes=np.ones((4, 0, 9), "c8"))


if __name__ == "__main__":
    absltest.main()
