"""Source counting by the likelihood test, compared with the requested false-alarm rate.

  python experiments/counting.py --cell_scenes=400

One row for each kind of scene (default: amplitudes 1/r, 26 dB of spread; equal: equal amplitudes),
K and false-alarm rate: fraction of right counts, GOSPA (cutoff 2 m) with its parts, and detection
rate (within 5 degrees). K = 0 is noise only. `too many` is the measured false-alarm rate: scenes
with more estimated than true sources (zero if K is the maximum number of sources).

Results (23 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2),
about 4 minutes:

   scenes  K  asked  right    95 % int.  too many  detected  GOSPA [m]  localisation  missed  false
  default  0  0.001  0.995  0.982-0.999     0.005         -      0.007         0.000   0.000  0.010
  default  0   0.01  0.987  0.971-0.996     0.012         -      0.017         0.000   0.000  0.025
  default  0   0.05  0.957  0.933-0.975     0.042         -      0.060         0.000   0.000  0.085
  default  1  0.001  1.000  0.991-1.000     0.000     1.000      0.068         0.013   0.000  0.000
  default  1   0.01  0.987  0.971-0.996     0.012     1.000      0.086         0.013   0.000  0.025
  default  1   0.05  0.945  0.918-0.965     0.055     1.000      0.146         0.014   0.000  0.120
  default  2  0.001  0.995  0.982-0.999     0.005     1.000      0.345         0.178   0.050  0.060
  default  2   0.01  0.980  0.961-0.991     0.020     1.000      0.362         0.177   0.050  0.090
  default  2   0.05  0.940  0.912-0.961     0.060     1.000      0.409         0.176   0.050  0.175
  default  3  0.001  0.992  0.978-0.998     0.007     1.000      0.683         0.442   0.195  0.215
  default  3   0.01  0.985  0.968-0.994     0.015     0.999      0.695         0.446   0.200  0.235
  default  3   0.05  0.950  0.924-0.969     0.050     0.999      0.729         0.446   0.200  0.305
  default  5  0.001  0.957  0.933-0.975     0.000     0.991      1.461         1.325   0.775  0.690
  default  5   0.01  0.972  0.951-0.986     0.000     0.994      1.461         1.322   0.760  0.705
  default  5   0.05  0.972  0.951-0.986     0.000     0.994      1.461         1.322   0.760  0.705
    equal  0  0.001  1.000  0.991-1.000     0.000         -      0.000         0.000   0.000  0.000
    equal  0   0.01  0.990  0.975-0.997     0.010         -      0.014         0.000   0.000  0.020
    equal  0   0.05  0.952  0.927-0.971     0.047         -      0.067         0.000   0.000  0.095
    equal  1  0.001  1.000  0.991-1.000     0.000     1.000      0.076         0.015   0.000  0.000
    equal  1   0.01  0.995  0.982-0.999     0.005     1.000      0.083         0.015   0.000  0.010
    equal  1   0.05  0.970  0.948-0.984     0.030     1.000      0.117         0.015   0.000  0.060
    equal  2  0.001  0.997  0.986-1.000     0.002     1.000      0.180         0.058   0.000  0.005
    equal  2   0.01  0.987  0.971-0.996     0.012     1.000      0.192         0.058   0.000  0.025
    equal  2   0.05  0.947  0.921-0.967     0.052     1.000      0.245         0.059   0.000  0.110
    equal  3  0.001  0.992  0.978-0.998     0.005     0.999      0.339         0.173   0.005  0.010
    equal  3   0.01  0.992  0.978-0.998     0.007     1.000      0.344         0.173   0.005  0.020
    equal  3   0.05  0.960  0.936-0.977     0.040     1.000      0.380         0.173   0.005  0.085
    equal  5  0.001  0.990  0.975-0.997     0.000     0.998      0.638         0.522   0.040  0.020
    equal  5   0.01  0.995  0.982-0.999     0.000     0.998      0.640         0.520   0.040  0.030
    equal  5   0.05  0.995  0.982-0.999     0.000     0.998      0.640         0.520   0.040  0.030
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
