"""Two sources a few resolutions apart: no pair that cancels itself, and no wrong pair unflagged."""

import numpy as np
import pytest
from cases import simulator

from ris_jax import localization
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.flags import Flag
from ris_jax.physics import scenes

ELEMENTS, ANTENNAS, CODES, SCENES = 32, 8, 16, 64
POSITIONS = np.stack(
    [
        (np.arange(ELEMENTS) - (ELEMENTS - 1) / 2) * simulator.WAVELENGTH / 2,
        *np.zeros((2, ELEMENTS)),
    ],
    axis=-1,
)


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / 2**0.5


@pytest.mark.full
def test_pairs_before_a_line():
    """One source fits the middle of such a pair; its two halves then cancel each other.

    Before pairs were split as a whole, 9 % of these scenes ended like that. Both sources were
    within half a resolution in 73 % of the scenes, and now in 83 %.
    """
    random = np.random.default_rng(0)
    unit = search_grid.resolution(
        POSITIONS, wavelength=simulator.WAVELENGTH, wavefront="spherical"
    )[0]
    middle, apart = random.uniform(-0.6, 0.6, SCENES), random.uniform(1.6, 2.2, SCENES) * unit
    cosines = np.stack([middle - apart / 2, middle + apart / 2], axis=1)
    radius = random.uniform(3.0, 9.0, (SCENES, 2))
    places = radius[..., None] * np.stack([cosines, 0 * cosines, np.sqrt(1 - cosines**2)], axis=-1)
    distance = np.linalg.norm(places[:, :, None] - POSITIONS, axis=-1)
    path = distance - radius[..., None]
    waves = np.exp(-2j * np.pi / simulator.WAVELENGTH * path) * radius[..., None] / distance
    field = np.sum(waves * np.exp(2j * np.pi * random.random((SCENES, 2, 1))), axis=1)
    channel = complex_normal(random, SCENES, ANTENNAS, ELEMENTS)
    codes = np.exp(2j * np.pi * random.random((SCENES, CODES, ELEMENTS)))
    clean = np.einsum("bmn,bln,bn->blm", channel, codes, field)
    noise = np.mean(np.abs(clean) ** 2, axis=(1, 2), keepdims=True) / 10**1.8
    snapshots = clean + np.sqrt(noise) * complex_normal(random, *clean.shape)
    found = localization.localize(
        scenes.Measurement(*(part.astype("c8") for part in (snapshots, channel, codes))),
        POSITIONS, wavelength=simulator.WAVELENGTH, num_sources=2, max_sources=3,
        limits=Limits(np.radians(60), np.radians(30), 0.5),
    )  # fmt: skip
    cancelling = np.max(found.power, axis=1) > 3.0 * ELEMENTS  # the true powers are ELEMENTS
    error = np.sort(np.sin(found.azimuth[:, :2]), axis=1) - cosines
    placed = np.all(np.abs(error) < 0.5 * unit, axis=1)
    print(f"cancelling {np.mean(cancelling):.3f}, placed {np.mean(placed):.3f}")
    assert np.mean(cancelling) < 0.03
    assert np.mean(placed) > 0.75
    misfit = found.flags & Flag.MISFIT != 0
    assert np.all(misfit | placed)
    assert np.mean(misfit & placed) < 0.03
