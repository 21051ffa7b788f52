"""Known number of sources: errors against the Cramer-Rao bound, for both source signals.

  python experiments/at_the_bound.py --num_scenes=400 --seed=1

One row for each K, SNR and source signal:

* median |error| over the root of the bound (0.674 if efficient; a source without a match has an
  infinite error);
* fraction of scenes whose likelihood is as good as that of a refinement started at the truth;
* fraction of scenes where it is better, so the truth is not the maximum;
* fraction of 95 % ellipses of azimuth and elevation, and of ellipsoids of all three, that contain
  the truth. Resolved sources are those within 5 degrees whose bound is below 1 degree and 20 % of
  the range.

Results (30 November 2026; x86_64, 2 slow cores with much other work on them, Python 3.11.7, jax
0.10.2):

       signal  K  SNR [dB]    az.    el.      r  as good  better  in 2-D  in 3-D  resolved  scenes/s
     constant  1         0  0.675  0.745  0.609    1.000   0.000   0.948   0.958       400        52
     constant  1        10  0.637  0.688  0.725    1.000   0.000   0.963   0.958       400        51
     constant  1        20  0.700  0.653  0.653    1.000   0.000   0.960   0.970       400        56
     constant  2         0  0.679  0.741  0.751    1.000   0.070   0.941   0.928       539        18
     constant  2        10  0.709  0.728  0.665    1.000   0.000   0.936   0.934       763        39
     constant  2        20  0.689  0.632  0.712    1.000   0.000   0.946   0.940       800        41
     constant  3         0  0.789  0.851  0.764    0.993   0.235   0.943   0.907       581        10
     constant  3        10  0.713  0.639  0.688    0.995   0.013   0.946   0.943      1071        31
     constant  3        20  0.696  0.671  0.704    1.000   0.000   0.952   0.947      1197        29
     constant  5         0  1.214  1.172  0.817    0.960   0.645   0.902   0.889       522        10
     constant  5        10  0.700  0.684  0.708    0.983   0.055   0.930   0.940      1478        19
     constant  5        20  0.644  0.692  0.681    0.995   0.005   0.950   0.955      1963        36
  independent  1         0  0.768  0.702  0.702    1.000   0.000   0.943   0.930       400        31
  independent  1        10  0.629  0.656  0.659    1.000   0.000   0.953   0.935       400        28
  independent  1        20  0.672  0.616  0.680    1.000   0.000   0.955   0.955       400        32
  independent  2         0  0.844  0.829  0.833    0.985   0.182   0.945   0.933       508        13
  independent  2        10  0.662  0.667  0.661    1.000   0.018   0.946   0.949       763        21
  independent  2        20  0.716  0.644  0.649    1.000   0.000   0.960   0.956       798        23
  independent  3         0  1.181  1.189  0.949    0.963   0.517   0.921   0.919       492         6
  independent  3        10  0.718  0.746  0.682    0.995   0.033   0.951   0.948      1052        11
  independent  3        20  0.669  0.720  0.688    1.000   0.003   0.942   0.945      1193         9
  independent  5         0  3.852  3.224  1.015    0.963   0.940   0.906   0.870       330         5
  independent  5        10  0.819  0.872  0.762    0.940   0.253   0.943   0.936      1325        22
  independent  5        20  0.682  0.692  0.659    0.998   0.005   0.945   0.944      1937         5

Independent signals at 0 dB, and K = 5 at 10 dB, stay above the conditional bound. With one fitted
amplitude per snapshot it cannot be attained there, and the maximum of the likelihood is often not
at the truth (`better`). The K = 1 medians scatter by 0.04.
"""

import functools
import sys
import time

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import known_truth
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics, statistics
from ris_jax.estimation import search_grid
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, tables

_NUM_SCENES = flags.DEFINE_integer("num_scenes", 400, "scenes per cell", lower_bound=1)
_SOURCES = flags.DEFINE_list("sources", ["1", "2", "3", "5"], "numbers of sources")
_SNRS_DB = flags.DEFINE_list("snrs_db", ["0", "10", "20"], "SNRs [dB]")
_SIGNALS = flags.DEFINE_list("signals", ["constant", "independent"], "source signals")
_SEED = flags.DEFINE_integer("seed", 1, "root of all randomness")
_BATCH = flags.DEFINE_integer("batch", 80, "scenes estimated at once")
_HEADER = (
    "signal",
    "K",
    "SNR [dB]",
    "azimuth",
    "elevation",
    "range",
    "as good as from truth",
    "better",
    "95 % of 2",
    "95 % of 3",
    "resolved",
    "scenes/s",
)


def localise(scene: scenes.Scene, positions, system, sources: int, batch: int):
    """Return the estimates of all scenes, and scenes per second without compilation."""
    estimate = functools.partial(
        localization.localize_in_chunks,
        positions=positions,
        wavelength=system.wavelength,
        source_signal=system.source_signal,
        num_sources=sources,
        chunk_size=batch,
    )
    measurement = jax.device_get(scene.measurement)
    estimate(jax.tree.map(lambda leaf: leaf[:batch], measurement))
    began = time.perf_counter()
    found = estimate(measurement)
    return found, len(found.num_sources) / (time.perf_counter() - began)


def cell(config: config_lib.Config, sources: int, snr_db: float, count: int, batch: int) -> tuple:
    """Compute one row of the table."""
    system = config.system
    positions = arrays.element_positions(system)
    key = scenes.stream_key(config.training.seed, f"bound-{sources}-{snr_db}")
    scene = known_truth.draw(key, sources, snr_db, config=config, count=count)
    estimate, speed = localise(scene, positions, system, sources, batch)
    deviation = np.asarray(
        bounds.standard_deviations(bounds.scene_bound(scene, positions, system))
    )[:, :sources]
    matches = metrics.assign(
        metrics.direction_distance(estimate, scene.truth),
        np.asarray(estimate.num_sources),
        np.asarray(scene.truth.num_sources),
    )
    errors = metrics.matched_errors(estimate, scene.truth, matches)
    errors = np.stack([errors.azimuth, errors.elevation, errors.source_range], -1)[:, :sources]
    medians = [
        statistics.efficiency(errors[..., i].ravel(), deviation[..., i].ravel() ** 2).median_ratio
        for i in range(3)
    ]
    from_truth, reached, noise = map(
        np.asarray,
        known_truth.energies(
            scene.measurement, scene.truth, estimate, positions,
            system=system, region=search_grid.SearchRegion(),
        ),
    )  # fmt: skip
    gain = (reached - from_truth) / noise
    found = np.take_along_axis(
        np.asarray(estimate.covariance), np.maximum(matches, 0)[..., None, None], axis=1
    )[:, :sources]
    true_range = np.asarray(scene.truth.source_range)[:, :sources]
    resolved = (
        (np.abs(errors[..., :2]) < np.deg2rad(5.0)).all(-1)
        & (deviation[..., :2] < np.deg2rad(1.0)).all(-1)
        & (deviation[..., 2] < 0.2 * true_range)
    )
    inside = [
        statistics.ellipse_coverage(errors[resolved][:, :d], found[resolved][:, :d, :d]).share
        for d in (2, 3)
    ]
    return (
        system.source_signal,
        sources,
        f"{snr_db:g}",
        *map(float, medians),
        float(np.mean(gain > -known_truth.SAME)),
        float(np.mean(gain > known_truth.SAME)),
        *inside,
        int(resolved.sum()),
        f"{speed:.0f}",
    )


def main(_):
    """Print all cells: source signals, numbers of sources and SNRs."""
    most = config_lib.Config().scene.max_sources
    config = config_lib.override(
        config_lib.Config(), {"training.seed": _SEED.value, "scene.min_sources": most}
    )
    print(provenance.header(config))
    rows = []
    for signal in _SIGNALS.value:
        chosen = config_lib.override(config, {"system.source_signal": signal})
        for sources in map(int, _SOURCES.value):
            for snr_db in map(float, _SNRS_DB.value):
                rows.append(cell(chosen, sources, snr_db, _NUM_SCENES.value, _BATCH.value))
                print(f"{rows[-1]}", file=sys.stderr, flush=True)
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
