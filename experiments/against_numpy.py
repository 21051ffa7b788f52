"""Simulator against a NumPy loop over scenes, and the field estimate with more BLAS threads.

  python experiments/against_numpy.py --seconds=10

The rates of the package are in `ris-jax benchmark --suite=throughput`; this script measures the
references. Compile time is excluded. The last row repeats the field estimate in a separate process
with as many BLAS threads as cores, the default of JAX without OPENBLAS_NUM_THREADS=1.

Result of one run on a quiet machine (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2),
40 seconds; 64 scenes at once:

                           stage   scenes/s   ratio
  -------------------------------------------------
           simulator, NumPy loop  3728.1647  1.0000
         simulator, this package  9242.1682  2.4790
   field estimate, 1 BLAS thread  2229.0401  1.0000
  field estimate, 2 BLAS threads  1337.2837  0.5999

On a busy machine the row with BLAS threads falls to 0.02 of the row without.
"""

import os
import subprocess
import sys

import ris_jax  # noqa: F401  Before jax: it sets the BLAS threads that are measured here.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import presets
from ris_jax.benchmarks import operations
from ris_jax.physics import arrays, codebooks, measurement, scenes
from ris_jax.reports import provenance, tables
from ris_jax.training import step as step_lib

_SECONDS = flags.DEFINE_float("seconds", 10.0, "time spent on each row")
_ONLY_FIELDS = flags.DEFINE_bool("only_fields", False, "print the field estimate's rate alone")


def numpy_scene(
    generator: np.random.Generator, config: config_lib.Config, positions, codes
) -> np.ndarray:
    """Simulate one scene directly: the physics of `scenes.simulate`, source by source."""
    scene, system = config.scene, config.system
    elements, antennas = len(positions), system.num_antennas
    wavenumber = 2 * np.pi / system.wavelength

    def gaussian(*shape):
        return (generator.normal(size=shape) + 1j * generator.normal(size=shape)) / np.sqrt(2)

    field = np.zeros(elements, complex)
    for _ in range(generator.integers(scene.min_sources, scene.max_sources + 1)):
        azimuth = np.deg2rad(generator.uniform(-1, 1) * scene.azimuth_max_deg)
        elevation = np.deg2rad(generator.uniform(-1, 1) * scene.elevation_max_deg)
        distance = generator.uniform(scene.range_min, scene.range_max)
        point = distance * np.array(
            [
                np.sin(azimuth) * np.cos(elevation),
                np.sin(elevation),
                np.cos(azimuth) * np.cos(elevation),
            ]
        )
        path = np.linalg.norm(point - positions, axis=1) - distance
        phase = np.exp(2j * np.pi * generator.uniform())
        field += phase / distance * np.exp(-1j * wavenumber * path) / np.sqrt(elements)
    factor = generator.uniform(scene.rician_factor_min, scene.rician_factor_max)
    arrival = np.exp(-1j * np.pi * np.arange(antennas) * np.sin(generator.uniform(-1, 1)))
    departure = np.exp(-1j * wavenumber * positions[:, 0] * np.sin(generator.uniform(-1, 1)))
    channel = np.sqrt(factor / (factor + 1)) * np.outer(arrival, departure)
    channel = channel + np.sqrt(1 / (factor + 1)) * gaussian(antennas, elements)
    snapshots = np.stack([channel @ (code * field) for code in codes])
    snr = 10 ** (generator.uniform(scene.snr_min_db, scene.snr_max_db) / 10)
    noise = np.sqrt(np.mean(np.abs(snapshots) ** 2) / snr)
    return snapshots + noise * gaussian(*snapshots.shape)


def main(_) -> None:
    """Measure every row and print the table."""
    config = presets.preset("quickstart")
    size = config.training.batch_size
    positions = np.asarray(arrays.element_positions(config.system), np.float64)
    codes = np.asarray(codebooks.codebook(config.system), np.complex128)
    batch = step_lib.draw_batch(config, jnp.asarray(0))
    fields = jax.jit(jax.vmap(measurement.aperture_field))
    seconds = _SECONDS.value

    def rate(call):
        """Return calls per second, after the first call."""
        return 1.0 / operations.timed(call, seconds).seconds.mean()

    field_rate = size * rate(lambda: fields(batch.measurement))
    if _ONLY_FIELDS.value:
        print(field_rate)
        return
    generator = np.random.default_rng(0)
    loop_rate = rate(lambda: numpy_scene(generator, config, positions, codes))
    key, places = scenes.stream_key(0, "x"), jnp.arange(size)
    draw = jax.jit(lambda first: scenes.scenes_at(key, first + places, config))
    draw_rate = size * rate(lambda: draw(jnp.asarray(0)))
    threads = os.environ | {"OPENBLAS_NUM_THREADS": str(os.cpu_count())}
    command = [sys.executable, __file__, "--only_fields", f"--seconds={seconds}"]
    threaded = subprocess.run(command, env=threads, capture_output=True, text=True, check=True)
    threaded_rate = float(threaded.stdout.split()[-1])
    one, all_cores = os.environ["OPENBLAS_NUM_THREADS"], os.cpu_count()
    rows = [
        ("simulator, NumPy loop", loop_rate, 1.0),
        ("simulator, this package", draw_rate, draw_rate / loop_rate),
        (f"field estimate, {one} BLAS thread", field_rate, 1.0),
        (f"field estimate, {all_cores} BLAS threads", threaded_rate, threaded_rate / field_rate),
    ]
    print(f"{provenance.header(config)}\n{size} scenes at once")
    print(tables.as_text(("stage", "scenes/s", "ratio"), rows))


if __name__ == "__main__":
    app.run(main)
