"""Scores of the shipped networks: count, covariance, start of the refinement, robustness.

  python experiments/learned.py --num_scenes=4000

Scenes are from the stream `test`, which is not used in training. Every row uses the same scenes.

Results (30 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2), with other load on the
cores. Only the rates are from a quiet machine (23 November 2026): medians of four rounds of 768
scenes, the three in turn in one process, without compilation (the networks were 4.9 to 6.1 times as
fast as the search):

              start  GOSPA [m]  std. error  detected  false a scene  count right  scenes/s
  likelihood search     1.1330      0.0152    0.8869         0.0035       0.8067       119
    network default     1.1391      0.0154    0.9171         0.0138       0.8435       615
     network robust     1.1416      0.0154    0.9091         0.0100       0.8313       631

  count by     all   K = 1   K = 2   K = 3   K = 4   K = 5  calibration error
   default  0.8792  0.9714  0.9097  0.8666  0.7966  0.8444             0.0125
    robust  0.8750  0.9666  0.9134  0.8600  0.8096  0.8191             0.0153

  MUSIC finds  snapshots  network   truth  network/snapshots
        K = 1     1.0000   1.0000  1.0000             1.0000
        K = 2     0.8317   0.9746  1.0000             1.1719
        K = 3     0.7151   0.9454  0.9987             1.3220
        K = 4     0.6323   0.9218  0.9997             1.4577
        K = 5     0.5793   0.8943  0.9978             1.5439

  impaired hardware (23 November 2026, with the networks of that day)
              start  GOSPA [m]  std. error  detected  false a scene  count right
  likelihood search     1.5409      0.0155    0.8290         0.0725       0.6823
    network default     1.5521      0.0157    0.8567         0.0995       0.7140
     network robust     1.4933      0.0156    0.8556         0.0290       0.7390
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import estimators, localization
from ris_jax.accuracy import counts, metrics, statistics
from ris_jax.estimation import batches, search_grid
from ris_jax.estimation.baselines import subspace
from ris_jax.networks import pretrained
from ris_jax.physics import arrays, scenes
from ris_jax.physics import covariance as cov
from ris_jax.reports import provenance, tables

_NUM_SCENES = flags.DEFINE_integer("num_scenes", 4000, "scenes of each table", lower_bound=2)
_CHUNK = flags.DEFINE_integer("chunk", 128, "scenes at once", lower_bound=1)
_TIMED = flags.DEFINE_integer("timed", 768, "scenes per round for the rates", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 4, "rounds for the rates", lower_bound=1)
_HARDWARE = flags.DEFINE_list("hardware", ["nominal", "impaired"], "of the cases below")
_NETWORKS = flags.DEFINE_list("networks", ["default", "robust"], "names of shipped networks")

# The reference's hardware: 7.5 mm of jitter, 0.1 rad, 3 % dead elements, phase-dependent loss.
IMPAIRED: dict[str, object] = {
    "impairments.position_jitter": 7.5e-3,
    "impairments.phase_error": 0.1,
    "impairments.dead_fraction": 0.03,
    "impairments.beta_min": 0.5,
}


# With little noise the residual consists of the hardware errors.
CASES: dict[str, dict[str, object]] = {
    "nominal": {},
    "impaired": IMPAIRED,
    "impaired_15_to_20_dB": IMPAIRED | {"scene.snr_min_db": 15.0},
}


def draw_all(config: config_lib.Config) -> scenes.Scene:
    """Draw all scenes of a table, on the host."""
    key = scenes.stream_key(config.training.seed, "test")
    draw = jax.jit(lambda indices: scenes.scenes_at(key, indices, config))
    return batches.in_chunks(draw, np.arange(_NUM_SCENES.value), chunk_size=_CHUNK.value)


def rates(searches: list[Callable[[Any], Any]], batch: Any) -> list[float]:
    """Return scenes per second of compiled searches: medians of alternating rounds."""
    some = jax.tree.map(lambda leaf: leaf[: _TIMED.value], batch)
    count = len(jax.tree.leaves(some)[0])
    found = np.empty((_ROUNDS.value, len(searches)))
    for place in np.ndindex(found.shape):
        began = time.perf_counter()
        batches.in_chunks(searches[place[1]], some, chunk_size=_CHUNK.value)
        found[place] = count / (time.perf_counter() - began)
    return np.median(found, axis=0).tolist()


def position_rows(scene: scenes.Scene, config: config_lib.Config) -> list[tuple]:
    """Score positions from the likelihood search and from networks."""
    system = config.system
    common = {
        "wavelength": system.wavelength,
        "wavefront": system.wavefront,
        "source_signal": system.source_signal,
        "max_sources": config.scene.max_sources,
        "region": search_grid.region_of(config.scene),
    }
    positions = arrays.element_positions(system)
    names = [None, *_NETWORKS.value]
    searches = [
        functools.partial(
            localization.localize,
            positions=positions,
            estimator="auto",
            network=None if name is None else pretrained.load_pretrained(name),
            **common,
        )
        for name in names
    ]
    estimates = [
        batches.in_chunks(search, scene.measurement, chunk_size=_CHUNK.value) for search in searches
    ]
    rows = []
    speeds = rates(searches, scene.measurement)
    for name, estimate, rate in zip(names, estimates, speeds, strict=True):
        gospa = metrics.gospa(estimate, scene.truth)
        detection = metrics.detection(estimate, scene.truth)
        rows.append(
            (
                "likelihood search" if name is None else f"network {name}",
                float(gospa.total.mean()),
                float(gospa.total.std(ddof=1) / np.sqrt(len(gospa.total))),
                metrics.detection_rate(detection),
                metrics.false_alarms_per_scene(detection),
                counts.accuracy(np.asarray(scene.truth.num_sources), estimate.num_sources),
                f"{rate:.0f}",
            )
        )
    return rows


def count_rows(scene: scenes.Scene) -> list[tuple]:
    """Score the most probable count, and the calibration of its probability."""
    number = scene.truth.num_sources
    rows = []
    for name in _NETWORKS.value:
        output = batches.in_chunks(
            pretrained.load_pretrained(name), scene.measurement, chunk_size=_CHUNK.value
        )
        right = np.argmax(output.count_probability, axis=1) + 1 == number
        error = statistics.expected_calibration_error(output.count_probability.max(axis=1), right)
        by_number = [float(right[number == k].mean()) for k in np.unique(number)]
        rows.append((name, float(right.mean()), *by_number, error))
    return rows


def music_rows(scene: scenes.Scene, config: config_lib.Config) -> list[tuple]:
    """Return the fraction of sources that MUSIC finds within 5 degrees, K known, by covariance."""
    system, truth = config.system, scene.truth
    positions = arrays.element_positions(system)
    network = pretrained.load_pretrained(_NETWORKS.value[0])

    @jax.jit
    def search(part):
        measurement, truth = part
        factor = scenes.steering_matrix(truth, positions, system)
        covariances = (
            estimators.snapshot_covariance(measurement, system.source_signal)[0],
            estimators.network_covariance(measurement, network)[0],
            cov.from_factor(factor),
        )
        return [
            subspace.music(
                covariance,
                truth.num_sources,
                positions,
                wavelength=system.wavelength,
                wavefront=system.wavefront,
                max_sources=config.scene.max_sources,
                region=search_grid.region_of(config.scene),
            )
            for covariance in covariances
        ]

    found = batches.in_chunks(search, (scene.measurement, truth), chunk_size=_CHUNK.value)
    detected = [metrics.detection(estimate, truth).detected for estimate in found]
    rows = []
    for k in np.unique(truth.num_sources):
        mine = truth.num_sources == k
        snapshots, learned, true = (float(part[mine].sum() / (k * mine.sum())) for part in detected)
        rows.append((f"K = {k}", snapshots, learned, true, learned / snapshots))
    return rows


def main(_) -> None:
    """Print all tables."""
    for hardware in _HARDWARE.value:
        config = config_lib.override(config_lib.Config(), CASES[hardware])
        print(f"{hardware} hardware, {_NUM_SCENES.value} scenes\n{provenance.header(config)}")
        scene = draw_all(config)
        header = ("start", "GOSPA [m]", "std. error", "detected", "false a scene", "count right",
                  "scenes/s")  # fmt: skip
        print(tables.as_text(header, position_rows(scene, config)))
        header = ("count by", "all", *(f"K = {k}" for k in np.unique(scene.truth.num_sources)))
        print(tables.as_text((*header, "calibration error"), count_rows(scene)))
        if hardware == "nominal":
            header = ("MUSIC finds", "snapshots", "network", "truth", "network/snapshots")
            print(tables.as_text(header, music_rows(scene, config)))


if __name__ == "__main__":
    app.run(main)
