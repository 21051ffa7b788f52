"""Throughput of simulator, field estimate and training step against a NumPy loop over scenes.

  python experiments/throughput.py --seconds=10

All rows come from one run on one machine; compile time stands apart. The last rows repeat the
field estimate in a process of its own with as many BLAS threads as there are cores, which is what
JAX would do if the package did not set OPENBLAS_NUM_THREADS=1.

Gave, in one run of a quiet machine (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2),
70 seconds; microbatches of 64: 4.60 train_step/s, 4.15 microbatches/s with simulation:

                           stage   scenes/s   ratio  compile s
  ------------------------------------------------------------
           simulator, NumPy loop  3728.1647  1.0000     0.0000
         simulator, this package  9242.1682  2.4790     4.5239
   field estimate, 1 BLAS thread  2229.0401  1.0000     0.6848
  field estimate, 2 BLAS threads  1337.2837  0.5999     0.0000
     train_step (field included)   294.7151  1.0000    13.0304
         simulate and train_step   265.4716  0.9008     0.0000

On a busy machine the row with BLAS threads falls to 0.02 of the row without.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable

import ris_jax  # noqa: F401  Before jax: it sets the BLAS threads that are measured here.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import arrays, codebooks, measurement, presets, scenes
from ris_jax import config as config_lib
from ris_jax.reports import tables
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

_SECONDS = flags.DEFINE_float("seconds", 10.0, "time spent on each row")
_ONLY_FIELDS = flags.DEFINE_bool("only_fields", False, "print the field estimate's rate alone")


def numpy_scene(
    generator: np.random.Generator, config: config_lib.Config, positions, codes
) -> np.ndarray:
    """One scene the simplest way: the same physics as `scenes.simulate`, source by source."""
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


def rate(call: Callable[[int], object], seconds: float) -> tuple[float, float]:
    """Calls a second after the first call, and what the first took beyond one of the others."""
    began = time.perf_counter()
    jax.block_until_ready(call(0))
    first = time.perf_counter() - began
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += 1
        jax.block_until_ready(call(count))
    calls = count / (time.perf_counter() - began)
    return calls, max(first - 1.0 / calls, 0.0)


def main(_) -> None:
    """Measures every row and prints the table."""
    config = presets.preset("quickstart")
    size = config.training.batch_size
    positions = np.asarray(arrays.element_positions(config.system), np.float64)
    codes = np.asarray(codebooks.codebook(config.system), np.complex128)
    batch = step_lib.draw_batch(config, jnp.asarray(0))
    fields = jax.jit(jax.vmap(measurement.aperture_field))
    seconds = _SECONDS.value
    field_rate, field_compile = rate(lambda _: fields(batch.measurement), seconds)
    if _ONLY_FIELDS.value:
        print(field_rate * size)
        return
    generator = np.random.default_rng(0)
    loop_rate, _ = rate(lambda _: numpy_scene(generator, config, positions, codes), seconds)
    draw = jax.jit(
        lambda n: scenes.scenes_at(scenes.stream_key(0, "x"), n * size + jnp.arange(size), config)
    )
    draw_rate, draw_compile = rate(lambda n: draw(jnp.asarray(n)), seconds)
    state = state_lib.create_train_state(config)

    def train(_):
        nonlocal state
        state, metrics = step_lib.train_step(state, batch)
        return metrics["loss"]

    train_rate, train_compile = rate(train, seconds)
    both_rate, _ = rate(lambda n: (draw(jnp.asarray(n)), train(n)), seconds)
    threads = os.environ | {"OPENBLAS_NUM_THREADS": str(os.cpu_count())}
    command = [sys.executable, __file__, "--only_fields", f"--seconds={seconds}"]
    threaded = subprocess.run(command, env=threads, capture_output=True, text=True, check=True)
    threaded_rate = float(threaded.stdout.split()[-1])
    rows = [
        ("simulator, NumPy loop", loop_rate, 1.0, 0.0),
        ("simulator, this package", draw_rate * size, draw_rate * size / loop_rate, draw_compile),
        (
            f"field estimate, {os.environ['OPENBLAS_NUM_THREADS']} BLAS thread",
            field_rate * size,
            1.0,
            field_compile,
        ),
        (
            f"field estimate, {os.cpu_count()} BLAS threads",
            threaded_rate,
            threaded_rate / (field_rate * size),
            0.0,
        ),
        ("train_step (field included)", train_rate * size, 1.0, train_compile),
        ("simulate and train_step", both_rate * size, both_rate / train_rate, 0.0),
    ]
    device = jax.devices()[0]
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, {device.device_kind}, Python "
        f"{platform.python_version()}, jax {jax.__version__}; microbatches of {size}: "
        f"{train_rate:.2f} train_step/s, {both_rate:.2f} microbatches/s with simulation"
    )
    print(tables.as_text(("stage", "scenes/s", "ratio", "compile s"), rows))


if __name__ == "__main__":
    app.run(main)
