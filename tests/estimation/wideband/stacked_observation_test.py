"""Explained energies of stacked frequencies against least squares in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from cases.small import jit

from ris_jax.estimation import refinement
from ris_jax.estimation.wideband import stacked_observation
from ris_jax.physics import arrays, scenes, wideband

FREQUENCIES = np.array([0.9e9, 1.0e9, 1.15e9])
ELEMENTS, ANTENNAS = 12, 2
POSITIONS = arrays.planar_array(3, 4, 0.15)


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)


def measurement(num_codes, shared, same_codes):
    random = np.random.default_rng(0)
    batch, count = 2, len(FREQUENCIES)
    rows, columns = 1 if shared else batch, 1 if same_codes else count
    return scenes.Measurement(
        jnp.asarray(complex_normal(random, batch, count, num_codes, ANTENNAS)),
        jnp.asarray(complex_normal(random, rows, count, ANTENNAS, ELEMENTS)),
        jnp.asarray(complex_normal(random, rows, columns, num_codes, ELEMENTS)),
        jnp.ones(batch),
    )


def energy_oracle(scene, number, coordinates, coherence):
    """Energy of the projection of the snapshots onto two sources."""
    snapshots, channel, codes = (np.asarray(leaf, complex) for leaf in scene[:3])
    channel, codes = (array[min(number, len(array) - 1)] for array in (channel, codes))
    band = wideband.band_of(FREQUENCIES)
    vectors = np.asarray(
        wideband.steering_at_frequencies(jnp.asarray(coordinates[:, :3]), POSITIONS, band=band)
    )
    seen = []
    for f in range(len(FREQUENCIES)):
        code = codes[min(f, len(codes) - 1)]
        seen.append([((code * vector) @ channel[f].T).ravel() for vector in vectors[:, f]])
    data = [snapshots[number, f].ravel() for f in range(len(FREQUENCIES))]
    seen = [np.array(columns).T for columns in seen]
    if coherence == "coherent":
        turns = np.outer(np.asarray(band.wavenumbers), coordinates[:, 3])
        seen = [
            np.concatenate([s * np.exp(-2j * np.pi * t) for s, t in zip(seen, turns, strict=True)])
        ]
        data = [np.concatenate(data)]
    energies = [
        np.linalg.norm(s @ np.linalg.lstsq(s, y, rcond=None)[0]) ** 2
        for s, y in zip(seen, data, strict=True)
    ]
    return sum(energies)


class StackedObservationTest(parameterized.TestCase):
    @parameterized.product(
        coherence=("incoherent", "coherent"),
        num_codes=(3, 9),  # LM below and above N
        shared=(True, False),
        same_codes=(True, False),
    )
    def test_explained_energy(self, coherence, num_codes, shared, same_codes):
        scene = measurement(num_codes, shared, same_codes)
        found = jit(lambda scene: stacked_observation.observe_frequencies(scene, coherence))(scene)
        self.assertEqual(found.compressed, num_codes == 9)
        dimensions = 4 if coherence == "coherent" else 3
        coordinates = np.array([[0.3, -0.2, 0.5, 2.0], [-0.4, 0.3, 0.2, 6.0]], np.float32)
        coordinates = coordinates[:, :dimensions]
        limit = jnp.full(dimensions, 10.0)

        def jet(points):
            return wideband.stacked_jet(
                points, POSITIONS, band=wideband.band_of(FREQUENCIES), wavefront="spherical",
                coherence=coherence,
            )  # fmt: skip

        problem = refinement.RefinementProblem(jet, -limit, limit)
        for number in range(2):
            observation = jax.tree.map(lambda leaf, n=number: leaf[min(n, len(leaf) - 1)], found)
            fit = refinement.refine(problem, observation, jnp.asarray(coordinates), jnp.ones(2), 0)
            expected = energy_oracle(scene, number, coordinates, coherence)
            np.testing.assert_allclose(fit.local.value, expected, rtol=2e-4)
            total = np.sum(np.abs(np.asarray(scene.snapshots[number])) ** 2)
            np.testing.assert_allclose(observation.energy, total, rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
