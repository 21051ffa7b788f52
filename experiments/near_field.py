"""Number of sources and errors close to the surface, with the exact waves of the simulator.

  python experiments/near_field.py
  python experiments/near_field.py --each=100 --tested=default,ring

One source at 0.7 to 8 m, and two at 1 to 4 m that are at least one resolution apart, at 10 to 25
dB, number of sources unknown. Columns: scenes, fraction with the right number of sources, fraction
of the sources found within 5 degrees, and median |error| over the root of the Cramer-Rao bound
(0.674 if efficient; standard error 0.04 for one source and 0.03 for two).

Results (29 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2):

  array  K  scenes  number right   found  azimuth  elevation  range
-------------------------------------------------------------------
default  1     400        1.0000  1.0000     0.73       0.61   0.70
default  2     400        1.0000  1.0000     0.63       0.64   0.66
   32x8  1     400        0.9975  1.0000     0.61       0.63   0.67
   32x8  2     400        1.0000  1.0000     0.66       0.66   0.69
   ring  1     400        0.9975  1.0000     0.69       0.73   0.62
   ring  2     400        1.0000  1.0000     0.66       0.69   0.65
"""

from typing import Any

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import any_array
import jax
import known_truth
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics, statistics
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, tables

_ARRAYS = {"default": {}} | {name: any_array.ARRAYS[name] for name in ("32x8", "ring")}
_CASES = ((1, 0.7, 8.0), (2, 1.0, 4.0))  # sources, least and greatest range [m]
_HEADER = ("array", "K", "scenes", "number right", "found", "azimuth", "elevation", "range")
_EACH = flags.DEFINE_integer("each", 400, "scenes per row", lower_bound=1)
_TESTED = flags.DEFINE_list("tested", list(_ARRAYS), "arrays to test")


def row(name: str, case: tuple[int, float, float]) -> tuple:
    """Localise the scenes of one row."""
    count, nearest, farthest = case
    values = {f"system.{key}": value for key, value in _ARRAYS[name].items()}
    values |= {"scene.min_sources": count, "scene.max_sources": count}
    values |= {"scene.range_min": nearest, "scene.range_max": farthest}
    values |= {"scene.snr_min_db": 10.0, "scene.snr_max_db": 25.0}
    config = config_lib.override(config_lib.Config(), values)
    positions = np.asarray(arrays.element_positions(config.system))
    key = scenes.stream_key(3, f"{name} {count}")
    # Two sources are rarely closer than one resolution.
    drawn = jax.device_get(scenes.sample_scenes(key, config, 2 * _EACH.value))
    apart = known_truth.closest(drawn.truth, positions, config.system) >= 1
    scene = jax.tree.map(lambda array: array[np.flatnonzero(apart)[: _EACH.value]], drawn)
    options: dict[str, Any] = localization.options_of(config) | {"max_sources": 5}
    estimate = localization.localize_in_chunks(
        scene.measurement, positions, chunk_size=64, check=False, **options
    )
    found = metrics.detection(estimate, scene.truth, np.deg2rad(5.0))
    errors = metrics.matched_errors(estimate, scene.truth, found.matches)
    bound = bounds.standard_deviations(bounds.scene_bound(scene, positions, config.system))
    ratios = [
        statistics.efficiency(error.ravel(), deviation.ravel() ** 2).median_ratio
        for error, deviation in zip(errors[:3], np.moveaxis(np.asarray(bound), -1, 0), strict=True)
    ]
    right = np.asarray(estimate.num_sources) == count
    return (
        name,
        count,
        len(right),
        f"{np.mean(right):.4f}",
        f"{metrics.detection_rate(found):.4f}",
        *(f"{ratio:.2f}" for ratio in ratios),
    )


def main(argv) -> None:
    """Print the table."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments are expected; got {' '.join(argv[1:])}")
    print(provenance.machine(), flush=True)
    rows = [row(name, case) for name in _TESTED.value for case in _CASES]
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
