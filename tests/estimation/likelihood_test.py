"""Concentrated likelihood against projectors and Gaussian densities in NumPy float64."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import likelihood
from ris_jax.physics import arrays, linear, scenes, static_path

SIGNALS = ("constant", "independent")
WAVELENGTH = 0.3
# L, M, N: more rows than elements together, fewer in each snapshot.
LENGTH, ANTENNAS, ELEMENTS, SOURCES = 7, 6, 12, 3
NOISE_VARIANCE = 0.3
POWER = np.array([2.0, 0.5, 1.2])


class Case(NamedTuple):
    positions: np.ndarray
    channel: np.ndarray  # [M, N]
    codes: np.ndarray  # [L, N]
    snapshots: np.ndarray  # [L, M]
    points: np.ndarray  # [K, 3]


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


@functools.cache
def case(seed=0):
    """Draw a float64 scene with sources near the points, and noise."""
    random = np.random.default_rng(seed)
    positions = random.uniform(-0.4, 0.4, (ELEMENTS, 3)) * [1, 1, 0.2]
    channel = complex_normal(random, ANTENNAS, ELEMENTS)
    codes = np.exp(2j * np.pi * random.random((LENGTH, ELEMENTS)))
    points = np.array([[-0.5, 0.1, 0.9], [0.1, -0.3, 1.6], [0.6, 0.3, 0.2]])
    made = Case(positions, channel, codes, np.zeros((LENGTH, ANTENNAS)), points)
    clean = snapshot_images(made, points + 0.02) @ complex_normal(random, SOURCES)
    noise = np.sqrt(NOISE_VARIANCE) * complex_normal(random, LENGTH, ANTENNAS)
    return made._replace(snapshots=clean + noise)


def steering(made, points):
    """r / |p - q| exp(-j k (|p - q| - r)) / sqrt(N), [N, K], in NumPy."""
    u, w, inverse_range = points.T
    unit = np.stack([u, w, np.sqrt(1 - u**2 - w**2)], axis=-1)
    places = unit / inverse_range[:, None]
    distance = np.linalg.norm(places[None] - made.positions[:, None], axis=-1)
    phase = -2 * np.pi / WAVELENGTH * (distance - 1 / inverse_range)
    return np.exp(1j * phase) / (distance * inverse_range) / np.sqrt(ELEMENTS)


def snapshot_images(made, points):
    """Return images [L, M, K] of each source at the receiver in each snapshot."""
    return np.einsum("mn,ln,nk->lmk", made.channel, made.codes, steering(made, points))


def groups(made, points, source_signal):
    """Group data [T, R] and images [T, R, K]: amplitudes are shared within a group."""
    data, basis = made.snapshots, snapshot_images(made, points)
    if source_signal == "constant":
        return data.reshape(1, -1), basis.reshape(1, -1, basis.shape[-1])
    return data, basis


def explained(made, points, source_signal):
    data, basis = groups(made, points, source_signal)
    return sum(
        np.linalg.norm(b @ np.linalg.lstsq(b, y, rcond=None)[0]) ** 2
        for y, b in zip(data, basis, strict=True)
    )


def remaining_with_path(made, points):
    """Energy that amplitudes and one complex number for each antenna leave, fitted together."""
    seen = snapshot_images(made, points).reshape(LENGTH * ANTENNAS, -1)
    columns = np.hstack([seen, np.tile(np.eye(ANTENNAS), (LENGTH, 1))])
    data = made.snapshots.ravel()
    return np.linalg.norm(data - columns @ np.linalg.lstsq(columns, data, rcond=None)[0]) ** 2


def log_likelihood(made, points, source_signal):
    """Return sigma^2 times the log-likelihood of Gaussian data, without constants."""
    data, basis = groups(made, points, source_signal)
    total = 0.0
    for y, b in zip(data, basis, strict=True):
        covariance = (b * POWER) @ b.conj().T + NOISE_VARIANCE * np.eye(len(y))
        total -= np.linalg.slogdet(covariance)[1]
        total -= (y.conj() @ np.linalg.solve(covariance, y)).real
    return NOISE_VARIANCE * total


def differences(function, points, step):
    """Return central differences in the coordinate-major order of `concentrate`, [3K]."""
    slopes = np.zeros((3, len(points)))
    for axis, source in np.ndindex(*slopes.shape):
        move = np.zeros_like(points)
        move[source, axis] = step
        slopes[axis, source] = (function(points + move) - function(points - move)) / (2 * step)
    return slopes.ravel()


@functools.partial(jax.jit, static_argnames=("source_signal", "compressed"))
def concentrate(
    measurement, positions, points, active, prior=None, *, source_signal, compressed=True
):
    """Evaluate one point as `refinement.refine` does."""
    if compressed:
        observation = likelihood.observe(measurement, source_signal)
    else:  # a constant signal without Gram matrices: one group of LM rows
        phi = measurement.codes[:, None, :] * measurement.channel
        energy = jnp.sum(jnp.abs(measurement.snapshots) ** 2)
        observation = likelihood.Observation(
            linear.parts(phi.reshape(1, -1, phi.shape[-1]).swapaxes(1, 2)),
            measurement.snapshots.reshape(1, -1),
            energy,
            jnp.ones(1, energy.dtype),
            compressed=False,
        )
    jets = arrays.steering_jet(points, positions, wavelength=WAVELENGTH) * active[:, None, None]
    vectors = jnp.swapaxes(jets, 0, 1).reshape(4 * len(points), -1)
    basis = likelihood.images(observation, vectors)
    gram = likelihood.inner_products(basis.left, basis.right)
    matched = likelihood.against(basis.left, observation.data)
    return likelihood.concentrate(gram, matched, active, prior), observation


def run(made, points, active=None, *, precision="f8", prior=False, **options):
    """Run in float64 by default."""
    with jax.enable_x64(precision == "f8"):
        dtype = {"f8": "c16", "f4": "c8"}[precision]
        measurement = scenes.Measurement(
            *(jnp.asarray(part, dtype) for part in (made.snapshots, made.channel, made.codes)),
            jnp.ones((), precision),
        )
        belief = likelihood.Prior(
            jnp.asarray(POWER[: len(points)], precision),
            jnp.asarray(NOISE_VARIANCE, precision),
            jnp.ones(len(made.snapshots) if options["source_signal"] == "independent" else 1),
        )
        result = concentrate(
            measurement,
            jnp.asarray(made.positions, precision),
            jnp.asarray(points, precision),
            jnp.asarray(np.ones(len(points)) if active is None else active, precision),
            belief if prior else None,
            **options,
        )
        return jax.tree.map(np.asarray, result)


class StaticPathTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_equals_the_joint_least_squares_fit(self, compressed):
        made = case()
        path = 30.0 * complex_normal(np.random.default_rng(1), ANTENNAS)
        measured = scenes.Measurement(made.snapshots + path, made.channel, made.codes)
        reduced = static_path.remove_static_path(measured)
        found, observation = run(
            made._replace(snapshots=reduced.snapshots, codes=reduced.codes), made.points,
            source_signal="constant", compressed=compressed,
        )  # fmt: skip
        expected = remaining_with_path(made._replace(snapshots=measured.snapshots), made.points)
        np.testing.assert_allclose(observation.energy - found.value, expected, rtol=1e-5)


class FittedTest(parameterized.TestCase):
    @parameterized.parameters(*SIGNALS)
    def test_value_and_amplitudes(self, source_signal):
        made = case()
        local, observation = run(made, made.points, source_signal=source_signal)
        np.testing.assert_allclose(
            local.value, explained(made, made.points, source_signal), rtol=1e-5
        )
        np.testing.assert_allclose(observation.energy, np.sum(np.abs(made.snapshots) ** 2))
        data, basis = groups(made, made.points, source_signal)
        fitted = [np.linalg.lstsq(b, y, rcond=None)[0] for y, b in zip(data, basis, strict=True)]
        np.testing.assert_allclose(local.amplitudes, fitted, rtol=1e-4)

    @parameterized.parameters(*SIGNALS)
    def test_gradient(self, source_signal):
        """Twice `gradient` is the derivative."""
        made = case()
        local, _ = run(made, made.points, source_signal=source_signal)
        wanted = differences(lambda p: explained(made, p, source_signal), made.points, 1e-5)
        np.testing.assert_allclose(2 * local.gradient, wanted, rtol=1e-4, atol=1e-4)

    @parameterized.parameters(*SIGNALS)
    def test_curvature_is_the_fisher_information(self, source_signal):
        """Up to 2 / sigma^2 it is Re D^H (I - B B^+) D with the fitted amplitudes."""
        made = case()
        local, _ = run(made, made.points, source_signal=source_signal)
        step, count = 1e-6, len(made.points)
        wanted = 0.0
        for group, b in enumerate(groups(made, made.points, source_signal)[1]):
            slopes = []
            for axis in range(3):
                move = step * np.eye(3)[axis]
                ahead, behind = (
                    groups(made, made.points + sign * move, source_signal)[1][group]
                    for sign in (1, -1)
                )
                slopes.append((ahead - behind) / (2 * step) * local.amplitudes[group])
            slopes = np.concatenate(slopes, axis=1)
            across = slopes - b @ np.linalg.lstsq(b, slopes, rcond=None)[0]
            wanted = wanted + (across.conj().T @ across).real
        chex.assert_shape(local.curvature, (3 * count, 3 * count))
        np.testing.assert_allclose(local.curvature, wanted, rtol=1e-4, atol=1e-5 * wanted.max())

    def test_compression_changes_nothing(self):
        """Gram matrices of N rows and all LM rows of a constant signal agree."""
        made = case()
        found, _ = run(made, made.points, source_signal="constant")
        wanted, _ = run(made, made.points, source_signal="constant", compressed=False)
        chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)

    @parameterized.parameters(*SIGNALS)
    def test_float32(self, source_signal):
        made = case()
        wanted, _ = run(made, made.points, source_signal=source_signal)
        found, _ = run(made, made.points, source_signal=source_signal, precision="f4")
        for name, leaf in found._asdict().items():
            exact = getattr(wanted, name)
            error = np.max(np.abs(leaf - exact)) / np.max(np.abs(exact))
            self.assertLess(error, 2e-5, name)


class AbsentSourcesTest(parameterized.TestCase):
    @parameterized.product(source_signal=SIGNALS, prior=(False, True))
    def test_no_effect(self, source_signal, prior):
        """Coordinates of absent sources have no effect."""
        made, active = case(), np.array([1.0, 0.0, 1.0])
        some = made.points[[0, 2]]
        options = {"source_signal": source_signal, "prior": prior}
        results = []
        for place in ([0.1, -0.3, 1.6], [-0.5, 0.1, 0.9]):  # the second equals that of a source
            points = made.points.copy()
            points[1] = place
            results.append(run(made, points, active, **options)[0])
        chex.assert_trees_all_close(*results, rtol=1e-12)
        local = results[0]
        if not prior:
            np.testing.assert_allclose(local.value, explained(made, some, source_signal), rtol=1e-5)
        np.testing.assert_array_equal(local.amplitudes[:, 1], 0.0)
        np.testing.assert_array_equal(local.gradient.reshape(3, 3)[:, 1], 0.0)
        curvature = local.curvature.reshape(3, 3, 3, 3)
        np.testing.assert_array_equal(curvature[:, 1], 0.0)
        np.testing.assert_array_equal(curvature[:, :, :, 1], 0.0)

    @parameterized.product(source_signal=SIGNALS, prior=(False, True))
    def test_all_absent(self, source_signal, prior):
        made = case()
        local, _ = run(made, made.points, np.zeros(3), source_signal=source_signal, prior=prior)
        for leaf in local:
            np.testing.assert_array_equal(leaf, 0.0)

    @parameterized.product(source_signal=SIGNALS, prior=(False, True), precision=("f4", "f8"))
    def test_coinciding_sources(self, source_signal, prior, precision):
        """Coinciding sources explain as much as one of them."""
        made = case()
        points = made.points[[0, 0, 2]]
        local, _ = run(made, points, source_signal=source_signal, prior=prior, precision=precision)
        chex.assert_tree_all_finite(local)
        if not prior:
            wanted = explained(made, points[1:], source_signal)
            np.testing.assert_allclose(local.value, wanted, rtol=1e-3)


class PriorTest(parameterized.TestCase):
    """Amplitudes integrated out: the unconditional likelihood."""

    @parameterized.parameters(*SIGNALS)
    def test_value(self, source_signal):
        """The value is the likelihood of Gaussian data, up to a constant."""
        made, random = case(), np.random.default_rng(1)
        gaps = []
        for _ in range(4):
            points = made.points + random.uniform(-0.1, 0.1, made.points.shape)
            local, _ = run(made, points, source_signal=source_signal, prior=True)
            gaps.append(local.value - log_likelihood(made, points, source_signal))
        np.testing.assert_allclose(gaps, gaps[0], atol=2e-4)

    @parameterized.parameters(*SIGNALS)
    def test_gradient(self, source_signal):
        made = case()
        local, _ = run(made, made.points, source_signal=source_signal, prior=True)
        wanted = differences(lambda p: log_likelihood(made, p, source_signal), made.points, 1e-5)
        np.testing.assert_allclose(2 * local.gradient, wanted, rtol=1e-4, atol=1e-4)

    @parameterized.parameters(*SIGNALS)
    def test_amplitudes_are_the_posterior_mean(self, source_signal):
        made = case()
        local, _ = run(made, made.points, source_signal=source_signal, prior=True)
        for y, b, found in zip(
            *groups(made, made.points, source_signal), local.amplitudes, strict=True
        ):
            ridge = np.diag(NOISE_VARIANCE / POWER)
            wanted = np.linalg.solve(b.conj().T @ b + ridge, b.conj().T @ y)
            np.testing.assert_allclose(found, wanted, rtol=1e-4)

    def test_curvature_is_positive(self):
        made = case()
        local, _ = run(made, made.points, source_signal="independent", prior=True)
        self.assertGreater(np.linalg.eigvalsh(local.curvature).min(), 0.0)


class ObservationTest(parameterized.TestCase):
    @parameterized.parameters(*SIGNALS)
    def test_matched_fields(self, source_signal):
        """Matched fields are Phi_t^H r of a residual, compressed or not."""
        made = case()
        _, observation = run(made, made.points, source_signal=source_signal)

        @jax.jit
        def fields(observation):
            return likelihood.matched_fields(observation, observation.data)

        with jax.enable_x64(True):
            found = fields(observation)
        wanted = made.codes.conj() * (made.snapshots @ made.channel.conj())
        if source_signal == "constant":
            wanted = wanted.sum(axis=0, keepdims=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    absltest.main()
