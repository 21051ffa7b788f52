"""Independent simulator in NumPy that shares no code with the package."""

import dataclasses

import numpy as np

WAVELENGTH = 0.3


def plane(columns, rows, spacing=0.15):
    """Return a centred grid in the x-y plane, x fastest, [N, 3] in metres."""
    x, y = np.meshgrid(
        (np.arange(columns) - (columns - 1) / 2) * spacing,
        (np.arange(rows) - (rows - 1) / 2) * spacing,
    )
    return np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], -1)


def line(count, spacing=0.15):
    """Return a centred line along x, [N, 3] in metres."""
    return plane(count, 1, spacing)


def directions(sources):
    """Return positions of sources [K, 3] from azimuth [deg], elevation [deg], range [m]."""
    azimuth, elevation = np.radians(sources[:, 0]), np.radians(sources[:, 1])
    return np.stack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        -1,
    )


def spherical(positions, sources, wavelength):
    """Return spherical waves as rows, with phase 0 at the origin and amplitude 1/distance."""
    far = sources[:, 2:]
    places = far * directions(sources)
    distance = np.linalg.norm(places[:, None] - positions, axis=-1)
    return far / distance * spherical_phase(positions, sources, wavelength)


def spherical_phase(positions, sources, wavelength):
    """Return the phases of spherical waves as rows, with unit norm and equal modulus."""
    far = sources[:, 2:]
    places = far * directions(sources)
    distance = np.linalg.norm(places[:, None] - positions, axis=-1)
    return np.exp(-2j * np.pi / wavelength * (distance - far)) / np.sqrt(len(positions))


def parabolic(positions, sources, wavelength):
    """Return second-order waves without the cross term as rows."""
    square = np.sum(positions**2, axis=1) / (2 * sources[:, 2:])
    delay = square - directions(sources) @ positions.T
    return np.exp(-2j * np.pi / wavelength * delay) / np.sqrt(len(positions))


@dataclasses.dataclass
class Recording:
    """B scenes as a user has them, and the sources."""

    snapshots: np.ndarray
    channel: np.ndarray
    codes: np.ndarray
    positions: np.ndarray
    sources: list
    signals: list | None = None  # [L, K] of every scene

    def file(self, **more):
        """Return the arrays of a recordings file."""
        return {
            "snapshots": self.snapshots,
            "channel": self.channel,
            "codes": self.codes,
            "wavelength": np.array(WAVELENGTH),
            "element_positions": self.positions,
        } | more

    def truth(self):
        """Positions of the sources as in a recordings file, rad and m; padding NaN."""
        most = max(len(scene) for scene in self.sources)
        places = np.full((len(self.sources), most, 3), np.nan)
        for row, scene in zip(places, self.sources, strict=True):
            row[: len(scene)] = np.asarray(scene, float)
        azimuth, elevation, source_range = np.moveaxis(places, -1, 0)
        return {
            "azimuth": np.radians(azimuth),
            "elevation": np.radians(elevation),
            "source_range": source_range,
            "num_sources": np.array([len(scene) for scene in self.sources]),
        }


def gaussian(random, *shape):
    """Draw circular complex noise of unit power."""
    return (random.standard_normal(shape) + 1j * random.standard_normal(shape)) / np.sqrt(2)


def received(random, field, channel, codes, snr_db, static_db=None):
    """Return snapshots [L, M] of aperture fields [L, N] through a surface, with noise.

    `static_db`: power of a path past the surface, the same for all codes, over the clean snapshots.
    """
    clean = (codes * field) @ channel.T
    power = np.mean(np.abs(clean) ** 2)
    noisy = clean + np.sqrt(power / 10 ** (snr_db / 10)) * gaussian(random, *clean.shape)
    if static_db is None:
        return noisy
    path = gaussian(random.spawn(1)[0], clean.shape[1])  # other draws stay the same
    return noisy + path * np.sqrt(power * 10 ** (static_db / 10) / np.mean(np.abs(path) ** 2))


def through_surface(
    sources, *, seed=0, snr_db=20.0, positions=None, independent=False, wave=spherical, bits=None,
    length=16, antennas=16, static_db=None, coefficients=None,
):  # fmt: skip
    """Scenes through a surface with random channels and codes; `bits` quantises the phases.

    The surface has the `coefficients` of its codes: a function; by default the codes themselves.
    """
    random = np.random.default_rng(seed)
    positions = plane(12, 12) if positions is None else positions
    batch, elements = len(sources), len(positions)
    channel = gaussian(random, batch, antennas, elements) / np.sqrt(antennas)
    phases = random.random((batch, length, elements))
    if bits is not None:
        phases = np.floor(phases * 2**bits) / 2**bits
    codes = np.exp(2j * np.pi * phases)
    snapshots, sent = [], []
    for scene, h, c in zip(sources, channel, codes, strict=True):
        places = np.asarray(scene, float)
        signals = gaussian(random, length, len(places))
        if not independent:
            signals = np.repeat(np.exp(2j * np.pi * random.random((1, len(places)))), length, 0)
        field = signals @ wave(positions, places, WAVELENGTH)
        true = c if coefficients is None else coefficients(c)
        snapshots.append(received(random, field, h, true, snr_db, static_db))
        sent.append(signals)
    return Recording(np.stack(snapshots), channel, codes, positions, sources, sent)


def plain_array(sources, positions, *, seed=0, snr_db=30.0, length=64, gains=None):
    """Simulate an array without a surface; independent signals; `gains` are its errors."""
    random = np.random.default_rng(seed)
    elements = len(positions)
    channel, codes = np.eye(elements) + 0j, np.ones((length, elements)) + 0j
    snapshots = []
    for scene in sources:
        places = np.asarray(scene, float)
        field = gaussian(random, length, len(places)) @ spherical(positions, places, WAVELENGTH)
        snapshots.append(received(random, field, channel, codes, snr_db))
    snapshots = np.stack(snapshots)
    return Recording(
        snapshots if gains is None else snapshots * gains, channel, codes, positions, sources
    )


def random_sources(random, batch, most):
    """Draw one to `most` sources per scene, well inside the default limits."""
    return [
        np.stack(
            [random.uniform(-55, 55, k), random.uniform(-25, 25, k), random.uniform(1, 6, k)], -1
        )
        for k in random.integers(1, most + 1, batch)
    ]
