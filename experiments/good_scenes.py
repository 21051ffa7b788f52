"""Rate of warnings on scenes that the model describes.

  python experiments/good_scenes.py
  python experiments/good_scenes.py --each=100 --tested=12x12,ring

Scenes of one to three sources at 5 to 25 dB, number of sources unknown. One row for each array of
`experiments/any_array.py`: scenes, fraction with the right number of sources, and the number of
scenes with each flag. A line does not determine the elevation, and has a note about it.

Gave (29 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2):

12x12: 256 scenes, number right 1.000; no flag
32x8: 256 scenes, number right 0.996; misfit 1
"""

import collections
import sys

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import any_array
import jax
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.estimation import flags as flags_lib
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance

_TESTED = flags.DEFINE_list(
    "tested", ["12x12", "32x8", "ring", "line"], "arrays of experiments/any_array.py"
)
_EACH = flags.DEFINE_integer("each", 256, "scenes per array", lower_bound=1)


def row(name: str) -> str:
    """Localise the scenes of one array, and count flags."""
    values = {f"system.{key}": value for key, value in any_array.ARRAYS[name].items()}
    values |= {"scene.max_sources": 3, "scene.snr_min_db": 5.0, "scene.snr_max_db": 25.0}
    if name == "line":
        values |= {"scene.elevation_max_deg": 1e-3}
    config = config_lib.override(config_lib.Config(), values)
    scene = jax.device_get(scenes.sample_scenes(scenes.stream_key(2, name), config, _EACH.value))
    estimate = localization.localize_in_chunks(
        scene.measurement, arrays.element_positions(config.system), chunk_size=64,
        **localization.options_of(config),
    )  # fmt: skip
    counted = collections.Counter(
        flag for value in np.asarray(estimate.flags) for flag in flags_lib.names(int(value))
    )
    right = np.mean(np.asarray(estimate.num_sources) == np.asarray(scene.truth.num_sources))
    listed = ", ".join(f"{flag} {count}" for flag, count in counted.most_common()) or "no flag"
    return f"{name}: {_EACH.value} scenes, number right {right:.3f}; {listed}"


def main(argv) -> None:
    """Print one line for each array."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments are expected; got {' '.join(argv[1:])}")
    print(provenance.machine(), flush=True)
    for name in _TESTED.value:
        print(row(name), flush=True)
    print("done", file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
