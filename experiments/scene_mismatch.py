"""Errors of maximum likelihood on hardware it does not know, over the misspecified bound.

  python experiments/scene_mismatch.py
  python experiments/scene_mismatch.py --sources=1 --static_path=auto

Scenes of K sources at 1 to 3 m and 20 dB before 8 x 8 elements, with 8 antennas and 12 codes; K is
known. One row for each impairment: RMSE of azimuth, elevation and range over the RMSE that
`accuracy.scene_mismatch` predicts; the predicted RMSE over the bound of the assumed hardware; and
the fraction of the sources that are compared. These are within 5 degrees of the truth, have a
prediction, and are in scenes with at least 10 degrees between the sources. `experiments/
misspecified_bound.py` does the same for one source at fixed positions, for three strengths.

Results (30 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2), 192
scenes, standard error of a ratio 4 %:

             impairment  azimuth  elevation  range  over bound  compared
                   none     1.00       1.02   1.05        1.00      0.94
positions off by 7.5 mm     1.00       0.99   0.97        1.79      0.94
  phases off by 0.1 rad     1.02       1.00   1.08        1.96      0.94
      3 % dead elements     1.00       0.99   1.02        2.67      0.94
 reflection down to 1/2     1.00       1.01   1.07        4.35      0.94
   channel known to 1 %     0.98       0.98   1.01        1.43      0.94

Phase-dependent reflection resembles a static path. With --static_path=auto and 128 scenes, the path
is removed, and the ratios of `reflection down to 1/2` are 0.78, 0.74 and 0.70. Those of positions
that are off are unchanged.
"""

import sys

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics, scene_mismatch
from ris_jax.estimation import search_grid
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, tables

_SCENES = flags.DEFINE_integer("num_scenes", 192, "scenes of each row", lower_bound=2)
_SOURCES = flags.DEFINE_integer("sources", 2, "sources of each scene", lower_bound=1)
_STATIC_PATH = flags.DEFINE_enum(
    "static_path", "off", ["off", "auto"], "removal of a static path in `localize`"
)

IMPAIRMENTS = {
    "none": {},
    "positions off by 7.5 mm": {"impairments.position_jitter": 7.5e-3},
    "phases off by 0.1 rad": {"impairments.phase_error": 0.1},
    "3 % dead elements": {"impairments.dead_fraction": 0.03},
    "reflection down to 1/2": {"impairments.beta_min": 0.5},
    "channel known to 1 %": {"impairments.channel_error": 0.01},
}
COLUMNS = ("impairment", "azimuth", "elevation", "range", "over bound", "compared")
_LEAST_SEPARATION = np.radians(10.0)


def configuration(impairments: dict[str, float]) -> config_lib.Config:
    """Return the system with the impairments of one row."""
    return config_lib.override(config_lib.Config(), {
        "system.rows": 8, "system.columns": 8, "system.num_antennas": 8,
        "system.num_snapshots": 12, "scene.min_sources": _SOURCES.value,
        "scene.max_sources": _SOURCES.value, "scene.snr_min_db": 20.0, "scene.snr_max_db": 20.0,
        "scene.range_min": 1.0, "scene.range_max": 3.0, "scene.path_loss": "none",
    } | impairments)  # fmt: skip


def row(name: str, impairments: dict[str, float]) -> tuple[str, ...]:
    """Compare measured and predicted errors for one impairment."""
    config, nominal = configuration(impairments), configuration({})
    system, region = config.system, search_grid.region_of(config.scene)
    positions = arrays.element_positions(system)

    def draw(key):
        key, noise_key = jax.random.split(key)
        truth = scenes.sample_truth(key, config.scene)
        scene = scenes.simulate(noise_key, truth, config)
        clean = scenes.simulate(noise_key, truth._replace(snr_db=jnp.inf), config)
        return scene, scene_mismatch.misspecified_scene_bound(
            clean.measurement.snapshots, scene.measurement, truth,
            truth.amplitude * scene.signals[0], positions, wavelength=system.wavelength,
            lower=jnp.asarray(region.lower), upper=jnp.asarray(region.upper),
        )  # fmt: skip

    keys = jax.random.split(jax.random.key(0), _SCENES.value)
    scene, expected = jax.device_get(jax.jit(jax.vmap(draw))(keys))
    bound = bounds.standard_deviations(bounds.scene_bound(scene, positions, system))
    found = localization.localize_in_chunks(
        scene.measurement, np.asarray(positions), num_sources=_SOURCES.value,
        static_path=_STATIC_PATH.value, **localization.options_of(nominal),
    )  # fmt: skip
    matches = metrics.detection(found, scene.truth).matches
    error = np.stack(metrics.matched_errors(found, scene.truth, matches)[:3], axis=-1)
    apart = np.array(metrics.direction_distance(scene.truth, scene.truth))
    apart[:, np.eye(_SOURCES.value, dtype=bool)] = np.inf
    far = np.min(apart, axis=(1, 2)) > _LEAST_SEPARATION
    values = error, np.asarray(expected.root_mean_square), np.asarray(bound)
    compared = far[:, None] & np.all([np.isfinite(v).all(axis=-1) for v in values], axis=0)
    measured, predicted, assumed = (np.sqrt(np.mean(v[compared] ** 2, axis=0)) for v in values)
    ratios = [f"{value:.2f}" for value in (*measured / predicted, np.mean(predicted / assumed))]
    return name, *ratios, f"{np.mean(compared):.2f}"


def main(argv: list[str]) -> None:
    """Print the table."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments are expected; got {' '.join(argv[1:])}")
    print(provenance.machine(), flush=True)
    rows = []
    for name, impairments in IMPAIRMENTS.items():
        rows.append(row(name, impairments))
        print(rows[-1], file=sys.stderr, flush=True)
    print(tables.as_text(COLUMNS, rows))


if __name__ == "__main__":
    app.run(main)
