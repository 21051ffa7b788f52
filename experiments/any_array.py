"""Accuracy, time and memory of the search for apertures of many shapes and sizes.

  python experiments/any_array.py --num_scenes=16
  python experiments/any_array.py --arrays=64x64_28GHz --num_scenes=8

One row for each array and for K known or not. Columns: median |error| over the root of the
Cramer-Rao bound in azimuth, elevation and range (0.674 if efficient; a missed source has
an infinite error); fraction of sources found within 5 degrees; fraction of scenes with the right
number of sources; fraction of scenes whose likelihood is as good as that of a refinement that
starts at the truth; cells of the search grid; CPU seconds per scene without compilation; peak
memory of the process so far.

Results (29 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2), two
sources at 20 dB; --num_scenes=64 and 32 for 32x32; on 30 November 2026 and on slower cores, 256 for
32x8 and 8 for 64x64. The standard error of a ratio over 64 scenes is 0.07:

      array      K  azimuth  elevation  range  found  right  as good        cells   CPU s   GB
      12x12  known     0.68       0.66   0.62  1.000  1.000    1.000      28x16x9   0.009  0.6
      12x12  blind     0.68       0.66   0.62  1.000  1.000    1.000      28x16x9   0.010  0.6
       64x4  known     0.63       0.77   0.77  1.000  1.000    1.000     160x6x56   0.318  0.8
       64x4  blind     0.63       0.77   0.77  1.000  1.000    1.000     160x6x56   0.450  0.9
       32x8  known     0.73       0.73   0.75  1.000  1.000    0.996     80x11x14   0.042  1.1
       32x8  blind     0.73       0.72   0.74  1.000  1.000    1.000     80x11x14   0.085  1.2
      24x24  known     0.82       0.46   0.80  1.000  1.000    0.797     56x36x11   0.285  1.6
      24x24  blind     0.82       0.46   0.80  1.000  1.000    0.797     56x36x11   0.374  1.7
       ring  known     0.57       0.61   0.58  1.000  1.000    1.000      56x36x6   0.006  1.7
       ring  blind     0.57       0.61   0.58  1.000  1.000    1.000      56x36x6   0.010  1.7
       line  known     0.81        nan   0.65  1.000  1.000    0.969      80x1x14   0.002  1.7
       line  blind     0.81        nan   0.65  1.000  0.984    0.984      80x1x14   0.004  1.7
     spiral  known     0.65       0.66   0.64  1.000  1.000    1.000  192x112x112   4.114  1.7
     spiral  blind     0.65       0.66   0.64  1.000  1.000    1.000  192x112x112   5.143  1.7
      32x32  known     0.64       0.74   0.73  1.000  1.000    0.938     80x44x20   2.551  1.4
      32x32  blind     0.64       0.74   0.73  1.000  1.000    0.938     80x44x20   3.361  1.5
64x64_28GHz  known     0.49       0.48   0.38  1.000  1.000    1.000    160x88x10  35.769  1.6
64x64_28GHz  blind     0.49       0.48   0.38  1.000  1.000    1.000    160x88x10  45.477  1.6

The column `as good` of 24x24 and 32x32 is from before the allowance for rounding: energies
are 1e5 times the noise, and their differences are of the size of a float32 rounding.
"""

import resource
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
from ris_jax.estimation import matching_pursuit, search_grid
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, tables

_S_BAND, _KA_BAND = 0.0857, 0.0107  # wavelengths [m] at 3.5 and 28 GHz


def _planar(rows: int, columns: int, wavelength: float = _S_BAND, **other) -> dict:
    spacing = wavelength / 2
    return {
        "rows": rows, "columns": columns, "wavelength": wavelength, "spacing": spacing, **other,
    }  # fmt: skip


def _placed(x, y) -> dict:
    """Return settings for elements at x and y, in wavelengths."""
    places = _S_BAND * np.stack([x, y, np.zeros_like(x)], axis=-1)
    return {
        "element_positions": tuple(map(tuple, places.tolist())),
        "wavelength": _S_BAND,
        "codebook": "random",
    }


def _ring(count: int, radius: float) -> dict:
    angle = 2 * np.pi * np.arange(count) / count
    return _placed(radius * np.cos(angle), radius * np.sin(angle))


def _spiral(count: int, width: float) -> dict:
    number = np.arange(count)
    radius, angle = 0.5 * width * np.sqrt(number / (count - 1)), np.pi * (3 - 5**0.5) * number
    return _placed(radius * np.cos(angle), radius * np.sin(angle))


_LARGE = {"num_snapshots": 64}
ARRAYS = {
    "12x12": {},
    "64x4": _planar(4, 64, num_snapshots=32),
    "32x8": _planar(8, 32, num_snapshots=32),
    "24x24": _planar(24, 24, **_LARGE),
    "32x32": _planar(32, 32, **_LARGE),
    "ring": _ring(64, 5.0),
    "spiral": _spiral(96, 47.0),
    "line": _placed(0.5 * np.arange(32) - 7.75, np.zeros(32)),
    "400_codes": _planar(12, 12, num_antennas=1, num_snapshots=400, codebook="random"),
    "64x64_28GHz": _planar(64, 64, _KA_BAND, num_snapshots=128),
}
_ARRAYS = flags.DEFINE_list("arrays", list(ARRAYS), "of " + ", ".join(ARRAYS))
_SOURCES = flags.DEFINE_integer("sources", 2, "sources in every scene")
_SNR_DB = flags.DEFINE_float("snr_db", 20.0, "SNR [dB]")
_NUM_SCENES = flags.DEFINE_integer("num_scenes", 16, "scenes per row", lower_bound=1)
_SEARCH = flags.DEFINE_enum("search", "normal", list(matching_pursuit.EFFORTS), "search effort")
_HEADER = (
    "array", "K", "azimuth", "elevation", "range", "found", "count right", "as good",
    "cells", "CPU s/scene", "GB",
)  # fmt: skip
_GATE = np.deg2rad(5.0)


def row(name: str, blind: bool) -> tuple:
    """Compute one row of the table."""
    config = config_lib.override(
        config_lib.Config(),
        {f"system.{key}": value for key, value in ARRAYS[name].items()}
        | {"scene.min_sources": config_lib.SceneConfig.max_sources},
    )
    if name == "line":
        config = config_lib.override(config, {"scene.elevation_max_deg": 1e-3})
    system, count = config.system, _NUM_SCENES.value
    positions = arrays.element_positions(system)
    scene = known_truth.draw(
        scenes.stream_key(1, name), _SOURCES.value, _SNR_DB.value, config=config, count=count
    )
    measurement = jax.device_get(scene.measurement)
    options = localization.options_of(config) | {
        "num_sources": None if blind else _SOURCES.value,
        "search": _SEARCH.value,
        "check": False,
    }
    localization.localize(measurement, positions, **options)
    began = time.process_time()
    estimate = jax.device_get(localization.localize(measurement, positions, **options))
    seconds = (time.process_time() - began) / count

    found = metrics.detection(estimate, scene.truth, _GATE)
    matches = metrics.assign(
        metrics.direction_distance(estimate, scene.truth),
        np.asarray(estimate.num_sources),
        np.asarray(scene.truth.num_sources),
    )
    errors = metrics.matched_errors(estimate, scene.truth, matches)
    bound = bounds.standard_deviations(bounds.scene_bound(scene, positions, system))
    ratios = [
        statistics.efficiency(
            error[:, : _SOURCES.value].ravel(), deviation[:, : _SOURCES.value].ravel() ** 2
        ).median_ratio
        for error, deviation in zip(
            (errors.azimuth, errors.elevation, errors.source_range),
            np.moveaxis(np.asarray(bound), -1, 0),
            strict=True,
        )
    ]
    region = options["region"]
    from_truth, reached, noise = known_truth.energies(
        scene.measurement, scene.truth, estimate, positions, system=system, region=region
    )
    gain = np.asarray(reached - from_truth) / np.asarray(noise)
    # Energies are sums in float32.
    rounding = 4 * np.finfo(np.float32).eps * np.asarray(from_truth / noise)
    cells = search_grid.search_shape(
        positions, region, wavelength=system.wavelength, wavefront=system.wavefront,
        cell=matching_pursuit.EFFORTS[_SEARCH.value].cell,
    )  # fmt: skip
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        name,
        "blind" if blind else "known",
        *(f"{ratio:.2f}" for ratio in ratios),
        f"{metrics.detection_rate(found):.3f}",
        f"{np.mean(np.asarray(estimate.num_sources) == _SOURCES.value):.3f}",
        f"{np.mean(gain > -known_truth.SAME - rounding):.3f}",
        "x".join(map(str, cells)),
        f"{seconds:.3f}",
        f"{memory:.1f}",
    )


def main(argv) -> None:
    """Print the table."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments are expected; got {' '.join(argv[1:])}")
    unknown = set(_ARRAYS.value) - set(ARRAYS)
    if unknown:
        raise app.UsageError(f"--arrays: expected of {', '.join(ARRAYS)}; found {unknown}")
    print(provenance.machine(), flush=True)
    rows = []
    for name in _ARRAYS.value:
        for blind in (False, True):
            rows.append(row(name, blind))
            print(*rows[-1], file=sys.stderr, flush=True)
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
