"""Maximum likelihood: exact without noise, at the bound with it, and the count as asked for."""

import functools
import re
from typing import NamedTuple
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from ris_jax import arrays, scenes
from ris_jax.estimators import grids, likelihood, matching_pursuit, refinement

SIGNALS = ("constant", "independent")
WAVEFRONTS = ("spherical", "fresnel", "parabolic", "planar")
WAVELENGTH = 0.3
LENGTH = ANTENNAS = 8
SOURCES, BATCH = 3, 64
SAMPLES = LENGTH * ANTENNAS
POSITIONS = np.asarray(arrays.planar_array(6, 6, 0.15), float)
ELEMENTS = len(POSITIONS)
REGION = grids.SearchRegion()
OPTIONS = matching_pursuit.SearchOptions(grid=(14, 8, 5), queue=24)


def setUpModule():
    """Compiling takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
    jax.config.update("jax_disable_most_optimizations", False)


class Truth(NamedTuple):
    """Sources in random order; those past the number are padding."""

    points: np.ndarray  # [B, K, 3] u, w, 1/r
    amplitudes: np.ndarray  # [B, K], zero where absent
    num_sources: np.ndarray  # [B]


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.sqrt(2)


def steering(points, wavefront="spherical"):
    """exp(-j k difference of paths) / sqrt(N), [..., N], in NumPy."""
    u, w, rho = np.moveaxis(np.asarray(points, float), -1, 0)[..., None]
    x, y, _ = POSITIONS.T
    along, square = u * x + w * y, x**2 + y**2
    path = {
        "spherical": (rho * square - 2 * along)
        / (np.sqrt(1 - 2 * rho * along + rho**2 * square) + 1),
        "fresnel": -along + 0.5 * rho * (square - along**2),
        "parabolic": -along + 0.5 * rho * square,
        "planar": -along + 0 * rho,
    }[wavefront]
    return np.exp(-2j * np.pi / WAVELENGTH * path) / np.sqrt(ELEMENTS)


def draw(seed, num_sources, equal=True, nearest=0.55):
    """Places a beam or more apart, each in a third of the field of view of its own."""
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


def simulate(truth, seed, snr_db=None, source_signal="constant", wavefront="spherical"):
    """Scenes, complex64; no noise unless asked for, and noise alone where nothing is."""
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


def estimate(measurement, positions=POSITIONS, **options):
    defaults = {"wavelength": WAVELENGTH, "max_sources": SOURCES, "options": OPTIONS}
    found = matching_pursuit.maximum_likelihood(measurement, positions, **(defaults | options))
    return jax.tree.map(np.asarray, found)


def coordinates(found):
    """(u, w, 1/r) of estimates, [..., K, 3]; zero in padding."""
    u = np.sin(found.azimuth) * np.cos(found.elevation)
    return np.stack([u, np.sin(found.elevation), 1 / found.source_range], axis=-1)


def strongest_first(truth):
    """Points and powers, in the order of an estimate, [B, K, ...]; padding of zeros."""
    order = np.argsort(-truth.amplitudes, axis=1, kind="stable")
    powers = np.take_along_axis(truth.amplitudes, order, axis=1) ** 2
    points = np.take_along_axis(truth.points, order[:, :, None], axis=1)
    return np.where(powers[..., None] > 0, points, 0.0), powers


def matched(truth, found):
    """The estimates nearest to each source, [B, K, 3], and their indices."""
    distance = np.abs(truth.points[:, :, None] - coordinates(found)[:, None])
    nearest = np.argmin(distance[..., 0] + distance[..., 1], axis=2)
    return np.take_along_axis(coordinates(found), nearest[..., None], axis=1), nearest
