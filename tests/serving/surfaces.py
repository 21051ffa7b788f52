"""Small surface and replacements of the localiser, for tests of live operation."""

import functools
import json

import jax
import numpy as np

from ris_jax import config as config_lib
from ris_jax.estimation.estimate import Estimate
from ris_jax.physics import arrays, scenes

SCENES = 4
SHAPE = (8, 8)  # codes, antennas
SYSTEM = {
    "system.rows": 6,
    "system.columns": 6,
    "system.num_antennas": SHAPE[1],
    "system.num_snapshots": SHAPE[0],
    "scene.max_sources": 2,
    "scene.range_max": 3.0,
    "scene.snr_min_db": 25.0,
    "scene.snr_max_db": 30.0,
    "scene.path_loss": "none",
}
OPTIONS = {"wavelength": 0.3, "max_sources": 2}


@functools.cache
def simulated():
    """Draw scenes of one channel; return measurement (NumPy), truth and element positions."""
    config = config_lib.override(config_lib.Config(), SYSTEM)
    batch = jax.device_get(scenes.sample_scenes(jax.random.key(1), config, SCENES))
    first, codes = batch.measurement.channel[0], batch.measurement.codes[0]
    positions = np.asarray(arrays.element_positions(config.system), float)
    random = np.random.default_rng(0)
    vectors = jax.device_get(
        arrays.steering_vector(
            batch.truth.azimuth,
            batch.truth.elevation,
            batch.truth.source_range,
            positions.astype(np.float32),
            wavelength=0.3,
        )
    )
    there = np.arange(2) < batch.truth.num_sources[:, None]
    signals = there * np.exp(2j * np.pi * random.random((SCENES, 2)))
    clean = (codes * np.einsum("bk,bkn->bn", signals, vectors)[:, None]) @ first.T
    noise = random.normal(size=(*clean.shape, 2)) @ np.array([1.0, 1.0j])
    noise *= np.sqrt(0.5e-3 * np.mean(np.abs(clean) ** 2, axis=(1, 2), keepdims=True))
    measurement = scenes.Measurement(
        (clean + noise).astype(np.complex64), first, codes, np.full(SCENES, np.nan, np.float32)
    )
    return measurement, batch.truth, positions


def as_json(snapshots, **fields):
    """Return the body of a request."""
    parts = {"real": snapshots.real.tolist(), "imag": snapshots.imag.tolist()}
    return json.dumps({"snapshots": parts, **fields}).encode()


class FixedLocalizer:
    """Localiser with a fixed result: one source at boresight, 5 m away."""

    static_path = "off"

    def __init__(self, shape=SHAPE, wait=None):
        """Create the localiser.

        Args:
          shape: L and M.
          wait: called before each result.
        """
        self.shape, self.calls, self.warm = shape, [], False
        self._wait = wait

    def warm_up(self):
        self.warm = True

    def __call__(self, snapshots, noise_variance=np.nan):
        if self._wait is not None:
            self._wait()
        self.calls.append((snapshots, noise_variance))
        batch = len(snapshots)
        zeros, ones = np.zeros((batch, 1)), np.ones((batch, 1))
        covariance = np.broadcast_to(np.diag([1e-4, 1e-4, 1e-2]), (batch, 1, 3, 3))
        return Estimate(
            zeros, zeros, 5.0 * ones, ones, np.ones(batch, int), covariance, np.ones(batch),
            np.zeros(batch, np.int32), np.full(batch, np.nan), np.full(batch, np.nan),
        )  # fmt: skip
