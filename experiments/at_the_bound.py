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

Results (23 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2),
about 6 minutes:

       signal  K  SNR [dB]    az.    el.      r  as good  better  in 2-D  in 3-D  resolved  scenes/s
     constant  1         0  0.735  0.695  0.652    1.000   0.000   0.942   0.937       399       202
     constant  1        10  0.616  0.653  0.729    1.000   0.000   0.950   0.937       400       220
     constant  1        20  0.617  0.623  0.726    1.000   0.000   0.960   0.965       400       180
     constant  2         0  0.727  0.724  0.716    0.992   0.075   0.946   0.926       544       146
     constant  2        10  0.707  0.721  0.638    0.997   0.007   0.943   0.945       747       148
     constant  2        20  0.649  0.684  0.701    1.000   0.000   0.943   0.943       798       176
     constant  3         0  0.818  0.815  0.706    0.987   0.265   0.941   0.925       565       112
     constant  3        10  0.687  0.677  0.668    0.997   0.020   0.946   0.938      1055       139
     constant  3        20  0.644  0.681  0.694    1.000   0.000   0.942   0.953      1188       154
     constant  5         0  1.143  1.172  0.787    0.972   0.635   0.903   0.874       516        85
     constant  5        10  0.709  0.674  0.681    0.985   0.080   0.947   0.940      1438        99
     constant  5        20  0.682  0.698  0.673    0.985   0.005   0.947   0.944      1945       104
  independent  1         0  0.618  0.741  0.720    1.000   0.000   0.957   0.962       399        44
  independent  1        10  0.621  0.678  0.668    1.000   0.000   0.945   0.950       400        55
  independent  1        20  0.750  0.746  0.709    1.000   0.000   0.947   0.937       400        59
  independent  2         0  0.914  0.793  0.786    0.977   0.182   0.951   0.947       517        29
  independent  2        10  0.747  0.770  0.670    0.995   0.025   0.947   0.951       745        30
  independent  2        20  0.693  0.658  0.699    1.000   0.000   0.957   0.949       797        37
  independent  3         0  1.241  1.245  0.906    0.945   0.502   0.914   0.910       479        22
  independent  3        10  0.696  0.724  0.735    0.990   0.067   0.959   0.950      1017        43
  independent  3        20  0.678  0.671  0.652    0.997   0.000   0.947   0.949      1178        44
  independent  5         0  3.580  3.060  0.995    0.960   0.927   0.887   0.858       338        21
  independent  5        10  0.835  0.812  0.791    0.965   0.280   0.945   0.938      1329        33
  independent  5        20  0.677  0.693  0.694    0.997   0.010   0.949   0.947      1917        38

Independent signals at 0 dB, and K = 5 at 10 dB, stay above the conditional bound. With one fitted
amplitude per snapshot it cannot be attained there, and the maximum of the likelihood is often not
at the truth (`better`). The K = 1 medians scatter by 0.04: 2400 scenes at 20 dB gave 0.666, 0.689
and 0.653.
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
