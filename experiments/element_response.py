"""Accuracy with elements that do not receive equally from all directions.

  python experiments/element_response.py --cell_scenes=64

Scenes of the simulator: 15 dB, 1 to 6 m, azimuth within 55 and elevation within 25 degrees, number
of sources unknown, at most two. Elements have the amplitude cos^q of the angle to their normal, or
that of a table. `localize` gets this response, or none. Columns: fraction of scenes with the
correct count and with a warning; median error over the root of the bound with the response (0.674
is efficient; standard error 0.06 with 64 scenes and K = 1); median position error [m], and that of
the bound.

Results (29 November 2026; x86_64, 2 cores shared with other processes, Python 3.11.7, jax 0.10.2);
the column of warnings is left out, and of 24 x 24 elements only the first rows were run:

  elements  response  K  given  count  azimuth  elevation  range   error   bound
--------------------------------------------------------------------------------
   12 x 12      none  1    yes  1.000    0.973      0.768  0.631  0.0156  0.0369
   12 x 12      none  2    yes  1.000    0.739      0.701  0.552  0.0294  0.0564
   12 x 12   cos^0.5  1    yes  1.000    0.976      0.768  0.575  0.0150  0.0367
   12 x 12   cos^0.5  1     no  0.609    1.379      0.941  0.758  0.0260  0.0367
   12 x 12   cos^0.5  2    yes  1.000    0.712      0.728  0.525  0.0274  0.0556
   12 x 12   cos^0.5  2     no  1.000    1.021      0.675  0.699  0.0364  0.0556
   12 x 12     cos^1  1    yes  1.000    0.994      0.730  0.577  0.0128  0.0364
   12 x 12     cos^1  1     no  0.156    3.217      1.790  1.343  0.0587  0.0364
   12 x 12     cos^1  2    yes  1.000    0.732      0.735  0.531  0.0242  0.0533
   12 x 12     cos^1  2     no  1.000    1.209      0.930  1.049  0.0423  0.0527
   12 x 12     cos^2  1    yes  1.000    0.996      0.740  0.585  0.0124  0.0358
   12 x 12     cos^2  1     no  0.062    3.684      1.792  1.227  0.0504  0.0358
   12 x 12     cos^2  2    yes  1.000    0.744      0.768  0.608  0.0219  0.0518
   12 x 12     cos^2  2     no  1.000    1.729      1.383  2.013  0.0643  0.0485
   12 x 12     table  1    yes  1.000    0.993      0.727  0.581  0.0137  0.0365
   12 x 12     table  1     no  0.250    3.326      1.493  1.187  0.0481  0.0365
   12 x 12     table  2    yes  1.000    0.728      0.728  0.536  0.0249  0.0535
   12 x 12     table  2     no  1.000    1.231      0.853  0.976  0.0428  0.0530
   24 x 24      none  1    yes  1.000    0.717      0.867  0.634  0.0059  0.0108
   24 x 24      none  2    yes  1.000    0.676      0.759  0.654  0.0097  0.0147
   24 x 24   cos^0.5  1    yes  1.000    0.703      0.868  0.600  0.0060  0.0108
   24 x 24   cos^0.5  1     no  0.234    5.176      2.331  1.576  0.0207  0.0108
   24 x 24   cos^0.5  2    yes  1.000    0.706      0.785  0.647  0.0098  0.0147
   24 x 24   cos^0.5  2     no  1.000    1.004      0.861  0.920  0.0113  0.0147
   24 x 24     cos^1  1    yes  1.000    0.653      0.815  0.590  0.0060  0.0108
"""

from typing import Any

import numpy as np
from absl import app, flags

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics
from ris_jax.estimation.flags import NOTES, Flag
from ris_jax.physics import arrays, scenes
from ris_jax.reports import localization_scores, provenance, tables

_SCENES = flags.DEFINE_integer("cell_scenes", 64, "scenes in every cell", lower_bound=1)
_SIDES = flags.DEFINE_list("sides", ["12", "24"], "elements along a side of the square surface")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the scenes")

# Measured-like patterns fall slowly at first and have a shoulder: degrees and amplitudes.
TABLE = ((0, 15, 30, 45, 60, 75, 90), (1.0, 0.98, 0.9, 0.74, 0.5, 0.28, 0.1))
RESPONSES = {
    "none": {},
    "cos^0.5": {"system.response_exponent": 0.5},
    "cos^1": {"system.response_exponent": 1.0},
    "cos^2": {"system.response_exponent": 2.0},
    "table": {
        "system.response_angles": np.deg2rad(TABLE[0]).tolist(),
        "system.response_amplitudes": list(TABLE[1]),
    },
}
HEADER = (
    "elements", "response", "K", "given", "count", "warned", "azimuth", "elevation", "range",
    "error", "bound",
)  # fmt: skip


def configuration(side: int, response: str, count: int) -> config_lib.Config:
    """Return the configuration of a cell."""
    return config_lib.override(
        config_lib.Config(),
        {
            "system.rows": side,
            "system.columns": side,
            "scene.min_sources": count,
            "scene.max_sources": 2,
            "scene.azimuth_max_deg": 55.0,
            "scene.elevation_max_deg": 25.0,
            "scene.range_min": 1.0,
            "scene.range_max": 6.0,
            "scene.snr_min_db": 15.0,
            "scene.snr_max_db": 15.0,
        }
        | RESPONSES[response],
    )


def drawn_scenes(config: config_lib.Config, count: int) -> scenes.Scene:
    """Draw scenes with exactly `count` sources."""
    key = scenes.stream_key(_SEED.value, "element response")
    found = jax.device_get(scenes.sample_scenes(key, config, 4 * _SCENES.value))
    chosen = np.flatnonzero(found.truth.num_sources == count)[: _SCENES.value]
    return jax.tree.map(lambda leaf: leaf[chosen], found)


def cell(side: int, response: str, count: int, given: bool) -> list:
    """Localise the scenes of a cell; return its row."""
    config = configuration(side, response, count)
    drawn = drawn_scenes(config, count)
    positions = arrays.element_positions(config.system)
    bound = bounds.scene_bound(drawn, positions, config.system)
    options: dict[str, Any] = localization.options_of(config)
    if not given:
        options["response"] = None
    unknown = np.full(len(drawn.measurement.snapshots), np.nan, np.float32)
    estimate = localization.localize_in_chunks(
        drawn.measurement._replace(noise_variance=unknown), positions, static_path="off",
        **options,
    )  # fmt: skip
    covariance = np.asarray(bound.covariance)
    row = localization_scores.score_rows(
        localization_scores.score(
            estimate, metrics.sources(drawn.truth), bound_covariance=covariance
        )
    )[0]
    # Two sources are the maximum here; whether there is a third is not the question.
    warned = np.mean(np.asarray(estimate.flags) & ~int(NOTES | Flag.MAX_SOURCES) != 0)
    return [
        f"{side} x {side}", response, count, "yes" if given else "no",
        f"{row['count_right']:.3f}", f"{warned:.3f}",
        *(f"{row[f'{parameter}_ratio']:.3f}" for parameter in ("azimuth", "elevation", "range")),
        f"{row['position_median_m']:.4f}", f"{row['position_bound_m']:.4f}",
    ]  # fmt: skip


def main(_):
    """Print the table."""
    print(provenance.header(config_lib.Config()), flush=True)
    rows = []
    for side in map(int, _SIDES.value):
        for response in RESPONSES:
            for count in (1, 2):
                for given in (True, False)[: 1 if response == "none" else 2]:
                    rows.append(cell(side, response, count, given))
                    print(" ".join(map(str, rows[-1])), flush=True)
    print(tables.as_text(HEADER, rows))


if __name__ == "__main__":
    app.run(main)
