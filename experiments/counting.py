"""Source counting by the likelihood test, compared with the requested false-alarm rate.

  python experiments/counting.py --cell_scenes=400

One row for each kind of scene (default: amplitudes 1/r, 26 dB of spread; equal: equal amplitudes),
K and false-alarm rate: fraction of right counts, GOSPA (cutoff 2 m) with its parts, and detection
rate (within 5 degrees). K = 0 is noise only. `too many` is the measured false-alarm rate: scenes
with more estimated than true sources (zero if K is the maximum number of sources).

Results (30 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2),
about 3 minutes:

 scenes  K  asked   right    95 % int.  too many  detected  GOSPA [m]  localisation  missed   false
default  0  0.001  0.9975  0.986-1.000    0.0025         -     0.0035        0.0000  0.0000  0.0050
default  0   0.01  0.9900  0.975-0.997    0.0100         -     0.0141        0.0000  0.0000  0.0200
default  0   0.05  0.9350  0.906-0.957    0.0650         -     0.0934        0.0000  0.0000  0.1350
default  1  0.001  1.0000  0.991-1.000    0.0000    1.0000     0.0702        0.0131  0.0000  0.0000
default  1   0.01  0.9925  0.978-0.998    0.0075    1.0000     0.0807        0.0131  0.0000  0.0150
default  1   0.05  0.9625  0.939-0.979    0.0375    1.0000     0.1205        0.0130  0.0000  0.0750
default  2  0.001  0.9975  0.986-1.000    0.0000    0.9988     0.3092        0.1662  0.0250  0.0200
default  2   0.01  0.9950  0.982-0.999    0.0025    0.9988     0.3125        0.1662  0.0250  0.0250
default  2   0.05  0.9450  0.918-0.965    0.0525    0.9988     0.3716        0.1662  0.0250  0.1250
default  3  0.001  0.9975  0.986-1.000    0.0025    1.0000     0.7002        0.5692  0.1350  0.1400
default  3   0.01  0.9950  0.982-0.999    0.0050    1.0000     0.7028        0.5725  0.1350  0.1450
default  3   0.05  0.9575  0.933-0.975    0.0425    1.0000     0.7417        0.5684  0.1400  0.2250
default  5  0.001  0.9750  0.955-0.988    0.0000    0.9925     1.3054        1.2897  0.5000  0.4500
default  5   0.01  0.9825  0.964-0.993    0.0000    0.9940     1.3080        1.2967  0.4950  0.4600
default  5   0.05  0.9875  0.971-0.996    0.0000    0.9945     1.3081        1.2973  0.4900  0.4650
  equal  0  0.001  1.0000  0.991-1.000    0.0000         -     0.0000        0.0000  0.0000  0.0000
  equal  0   0.01  0.9900  0.975-0.997    0.0100         -     0.0141        0.0000  0.0000  0.0200
  equal  0   0.05  0.9625  0.939-0.979    0.0375         -     0.0530        0.0000  0.0000  0.0750
  equal  1  0.001  1.0000  0.991-1.000    0.0000    1.0000     0.0775        0.0150  0.0000  0.0000
  equal  1   0.01  0.9925  0.978-0.998    0.0075    1.0000     0.0877        0.0149  0.0000  0.0150
  equal  1   0.05  0.9450  0.918-0.965    0.0550    1.0000     0.1524        0.0151  0.0000  0.1100
  equal  2  0.001  1.0000  0.991-1.000    0.0000    1.0000     0.1824        0.0715  0.0050  0.0050
  equal  2   0.01  0.9900  0.975-0.997    0.0100    1.0000     0.1960        0.0715  0.0050  0.0250
  equal  2   0.05  0.9475  0.921-0.967    0.0525    1.0000     0.2498        0.0728  0.0050  0.1100
  equal  3  0.001  0.9975  0.986-1.000    0.0000    0.9975     0.3150        0.1520  0.0150  0.0100
  equal  3   0.01  0.9775  0.958-0.990    0.0200    0.9975     0.3375        0.1538  0.0150  0.0500
  equal  3   0.05  0.9325  0.903-0.955    0.0650    0.9975     0.3927        0.1550  0.0150  0.1450
  equal  5  0.001  0.9900  0.975-0.997    0.0000    0.9975     0.5833        0.4277  0.0450  0.0250
  equal  5   0.01  0.9900  0.975-0.997    0.0000    0.9975     0.5833        0.4277  0.0450  0.0250
  equal  5   0.05  0.9900  0.975-0.997    0.0000    0.9975     0.5833        0.4277  0.0450  0.0250
"""

import sys

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from known_truth import draw

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import metrics, statistics
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, tables

_CELL_SCENES = flags.DEFINE_integer("cell_scenes", 400, "scenes per cell", lower_bound=1)
_NUMBERS = flags.DEFINE_list("numbers", ["0", "1", "2", "3", "5"], "numbers of sources")
_SNR_DB = flags.DEFINE_float("snr_db", 15.0, "SNR [dB]")
_RATES = flags.DEFINE_list("rates", ["0.001", "0.01", "0.05"], "requested false-alarm rates")
_ROOT_SEED = flags.DEFINE_integer("root_seed", 1, "root of all randomness")
_CHUNK = 80
_HEADER = (
    "scenes",
    "K",
    "asked",
    "right",
    "95 % int.",
    "too many",
    "detected",
    "GOSPA [m]",
    "localisation",
    "missed",
    "false",
)


def noise_alone(scene: scenes.Scene) -> scenes.Scene:
    """Return the same scenes without sources: noise of unit variance."""
    shape = scene.measurement.snapshots.shape
    real, imaginary = np.random.default_rng(_ROOT_SEED.value).normal(size=(2, *shape))
    snapshots = jnp.asarray((real + 1j * imaginary) / np.sqrt(2), jnp.complex64)
    truth = scene.truth._replace(num_sources=jnp.zeros_like(scene.truth.num_sources))
    return scene._replace(measurement=scene.measurement._replace(snapshots=snapshots), truth=truth)


def row(name: str, sources: int, rate: float, scene: scenes.Scene, system) -> tuple:
    """Compute counts and scores of one cell."""
    estimate = localization.localize_in_chunks(
        jax.device_get(scene.measurement),
        arrays.element_positions(system),
        wavelength=system.wavelength,
        false_alarm_rate=rate,
        chunk_size=_CHUNK,
    )
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
        metrics.detection_rate(metrics.detection(estimate, scene.truth)),
        float(np.mean(gospa.total)),
        float(np.mean(gospa.localisation)),
        float(np.mean(gospa.missed)),
        float(np.mean(gospa.false)),
    )


def main(_):
    """Print all cells: kinds of scene, numbers of sources and false-alarm rates."""
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
