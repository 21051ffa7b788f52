"""Small recordings file with truth, simulated in NumPy: an example input of `localize`."""

from typing import Any

import numpy as np

from ris_jax.data.recordings import host_steering

_WAVELENGTH = 0.3  # [m]
_ROWS = _COLUMNS = 12
_ANTENNAS = _CODES = 16
_PHASES = 8  # three-bit elements
_RICIAN_FACTOR = 3.0  # line-of-sight over scattered power
_MOST_SOURCES = 3
# Sources of the first scene: azimuth and elevation [deg], range [m].
_FIRST = np.array([[-35.0, 12.0, 2.0], [5.0, -10.0, 3.0], [40.0, 5.0, 4.0]])
# Limits of the other scenes, and the smallest angle between two sources [deg].
_AZIMUTH, _ELEVATION, _RANGE, _APART = 55.0, 25.0, (1.0, 5.0), 15.0


def recordings(num_scenes: int, seed: int, snr_db: float) -> dict[str, Any]:
    """Simulate the arrays of a recordings file; the first scene has three sources.

    Args:
      num_scenes: B, at least 1.
      seed: the same seed gives the same file.
      snr_db: of every scene [dB].

    Returns:
      All fields of `ris_jax.data.recordings.reader`; channel and codes are shared by the scenes.
      All fields of `ris_jax.data.recordings.reader`; channel and codes are shared by the scenes.
    """
    random = np.random.default_rng(seed)
    positions = _positions()
    codes = np.exp(2j * np.pi * random.integers(_PHASES, size=(_CODES, len(positions))) / _PHASES)
    channel = _channel(random, positions)
    sources = [_FIRST, *(_sources(random) for _ in range(num_scenes - 1))]
    snapshots = [received(random, here, positions, channel, codes, snr_db) for here in sources]
    truth = np.full((num_scenes, _MOST_SOURCES, 3), np.nan)
    for row, here in zip(truth, sources, strict=True):
        row[: len(here)] = here
    return {
        "snapshots": np.stack(snapshots).astype(np.complex64),
        "channel": channel.astype(np.complex64),
        "codes": codes.astype(np.complex64),
        "wavelength": _WAVELENGTH,
        "element_positions": positions,
        "snr_db": np.full(num_scenes, float(snr_db)),
        "num_sources": np.array([len(here) for here in sources]),
        "azimuth": np.deg2rad(truth[..., 0]),
        "elevation": np.deg2rad(truth[..., 1]),
        "source_range": truth[..., 2],
    }


def _positions() -> np.ndarray:
    """Return a half-wavelength grid in the x-y plane, centred, x fastest, [N, 3] [m]."""
    x, y = ((np.arange(count) - (count - 1) / 2) * _WAVELENGTH / 2 for count in (_COLUMNS, _ROWS))
    return np.stack([np.tile(x, _ROWS), np.repeat(y, _COLUMNS), np.zeros(_ROWS * _COLUMNS)], -1)


def _gaussian(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw circular complex Gaussian numbers of unit variance."""
    real, imaginary = random.normal(scale=np.sqrt(0.5), size=(2, *shape))
    return real + 1j * imaginary


def _channel(random: np.random.Generator, positions: np.ndarray) -> np.ndarray:
    """Draw a Rician channel [M, N] to a half-wavelength line of antennas."""
    departure, arrival = np.array([[-0.3, 0.1, 0.0]]), 0.2
    surface = host_steering.steering(
        departure, positions, wavelength=_WAVELENGTH, wavefront="planar"
    ) * np.sqrt(len(positions))
    antennas = np.exp(-1j * np.pi * np.arange(_ANTENNAS) * arrival)
    scattered = _gaussian(random, _ANTENNAS, len(positions))
    weight = _RICIAN_FACTOR / (_RICIAN_FACTOR + 1.0)
    return np.sqrt(weight) * antennas[:, None] * surface + np.sqrt(1.0 - weight) * scattered


def _sources(random: np.random.Generator) -> np.ndarray:
    """Draw one to three positions [K, 3], in degrees and metres, that are far apart."""
    count = int(random.integers(1, _MOST_SOURCES + 1))
    found: list[np.ndarray] = []
    while len(found) < count:
        angles = random.uniform([-_AZIMUTH, -_ELEVATION], [_AZIMUTH, _ELEVATION])
        if all(np.hypot(*(angles - other[:2])) >= _APART for other in found):
            found.append(np.append(angles, random.uniform(*_RANGE)))
    return np.array(found)


def received(
    random: np.random.Generator,
    places: np.ndarray,
    positions: np.ndarray,
    channel: np.ndarray,
    codes: np.ndarray,
    snr_db: float,
) -> np.ndarray:
    """Simulate snapshots [L, M] of constant signals with amplitude 1/range, plus noise."""
    azimuth, elevation, source_range = places.T
    points = host_steering.coordinates_of(np.deg2rad(azimuth), np.deg2rad(elevation), source_range)
    vectors = host_steering.steering(points, positions, wavelength=_WAVELENGTH)
    signals = np.exp(2j * np.pi * random.random(len(places))) / source_range
    clean = (codes * (signals @ vectors)) @ channel.T
    noise = np.mean(np.abs(clean) ** 2) * 10.0 ** (-snr_db / 10.0)
    return clean + np.sqrt(noise) * _gaussian(random, *clean.shape)
