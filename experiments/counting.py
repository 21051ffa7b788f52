"""How many sources: counts of the likelihood test, blind, against the false-alarm rate asked for.

  python experiments/counting.py --cell_scenes=400

One row a cell of scene (default: amplitudes 1/r, 26 dB of spread; equal: amplitudes alike) and K:
how often each number was found, GOSPA (cutoff 2 m) with its parts, detection rate (within 5
degrees), for each false-alarm rate; K = 0 is noise alone. `too many` is the false-alarm rate that
was measured: scenes with more sources than there are (never, where K is the most that is sought).

GAVE_HERE
"""

import sys

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from at_the_bound import draw

from ris_jax import arrays, metrics, scenes, statistics
from ris_jax import config as config_lib
from ris_jax.estimators import matching_pursuit
from ris_jax.reports import provenance, tables

_CELL_SCENES = flags.DEFINE_integer("cell_scenes", 400, "scenes a cell", lower_bound=1)
_NUMBERS = flags.DEFINE_list("numbers", ["0", "1", "2", "3", "5"], "numbers of sources")
_SNR_DB = flags.DEFINE_float("snr_db", 15.0, "SNR [dB]")
_RATES = flags.DEFINE_list("rates", ["0.001", "0.01", "0.05"], "false-alarm rates to ask for")
_ROOT_SEED = flags.DEFINE_integer("root_seed", 1, "root of all randomness")
_CHUNK = 80
_HEADER = (
    "scenes",
    "K",
    "asked",
    "right",
    "95 % interval",
    "too many",
    "too few",
    "detected",
    "GOSPA [m]",
    "localisation",
    "missed",
    "false",
)


def noise_alone(scene: scenes.Scene) -> scenes.Scene:
    """The same scenes without a source: noise of unit variance."""
    shape = scene.measurement.snapshots.shape
    real, imaginary = np.random.default_rng(_ROOT_SEED.value).normal(size=(2, *shape))
    snapshots = jnp.asarray((real + 1j * imaginary) / np.sqrt(2), jnp.complex64)
    truth = scene.truth._replace(num_sources=jnp.zeros_like(scene.truth.num_sources))
    return scene._replace(measurement=scene.measurement._replace(snapshots=snapshots), truth=truth)


def row(name: str, sources: int, rate: float, scene: scenes.Scene, system) -> tuple:
    """Counts and scores of one cell."""
    positions = arrays.element_positions(system)
    parts = [
        matching_pursuit.maximum_likelihood(
            jax.tree.map(lambda leaf: leaf[start : start + _CHUNK], scene.measurement),  # noqa: B023
            positions,
            wavelength=system.wavelength,
            false_alarm_rate=rate,
        )
        for start in range(0, scene.truth.azimuth.shape[0], _CHUNK)
    ]
    estimate = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    found = np.asarray(estimate.num_sources)
    right = int(np.sum(found == sources))
    low, high = statistics.binomial_interval(right, found.size)
    gospa = metrics.gospa(estimate, scene.truth)
    return (
        name,
        sources,
        f"{rate:g}",
        float(np.mean(found == sources)),
        f"{low:.3f}-{high:.3f}",
        float(np.mean(found > sources)),
        float(np.mean(found < sources)),
        metrics.detection_rate(metrics.detection(estimate, scene.truth)),
        float(np.mean(gospa.total)),
        float(np.mean(gospa.localisation)),
        float(np.mean(gospa.missed)),
        float(np.mean(gospa.false)),
    )


def main(_):
    most = config_lib.Config().scene.max_sources
    base = {"training.seed": _ROOT_SEED.value, "scene.min_sources": most}
    print(provenance.header(config_lib.override(config_lib.Config(), base)))
    rows = []
    for name, path_loss in (("default", "inverse_square"), ("equal", "none")):
        config = config_lib.override(config_lib.Config(), base | {"scene.path_loss": path_loss})
        for sources in map(int, _NUMBERS.value):
            key = scenes.stream_key(config.training.seed, f"counting-{name}-{sources}")
            scene = draw(
                key, max(sources, 1), _SNR_DB.value, config=config, count=_CELL_SCENES.value
            )
            if sources == 0:
                scene = noise_alone(scene)
            for rate in map(float, _RATES.value):
                rows.append(row(name, sources, rate, scene, config.system))
                print(rows[-1], file=sys.stderr, flush=True)
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
