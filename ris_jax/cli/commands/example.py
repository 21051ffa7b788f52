"""Write a small recordings file with known sources, to try `localize` on.

Example:
  ris-jax example --out=recordings.npz
  ris-jax localize --data=recordings.npz --out=positions.csv --figure=map.png

The surface has 12 x 12 elements at 1 GHz; the base station has 16 antennas and uses 16 codes. The
first scene has three sources, the others one to three. The file has the truth, so that `localize`
prints the errors. The same flags give the same file.
"""

import math
import pathlib

from absl import flags

from ris_jax import config as config_lib

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "file to write, .npz or .h5", flag_values=FLAGS)
flags.DEFINE_integer("num_scenes", 8, "scenes in the file", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "random seed", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float("snr_db", 15.0, "signal-to-noise ratio of every scene", flag_values=FLAGS)

_LARGEST_SNR_DB = 100.0


COMPILES = ""  # nothing


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.out:
        raise config_lib.ConfigError("--out: need the file to write, none given")
    if not (math.isfinite(FLAGS.snr_db) and abs(FLAGS.snr_db) <= _LARGEST_SNR_DB):
        raise config_lib.ConfigError(
            f"--snr_db: need at most {_LARGEST_SNR_DB:g} dB in magnitude; got {FLAGS.snr_db}"
        )
    from ris_jax.data.recordings import containers

    containers.require_name(FLAGS.out)
    return f"writing {FLAGS.num_scenes} scenes to {FLAGS.out}"


def run() -> int:
    """Run the command; return the exit status."""
    from ris_jax.data.recordings import containers, example

    out = pathlib.Path(FLAGS.out)
    arrays = example.recordings(FLAGS.num_scenes, FLAGS.seed, FLAGS.snr_db)
    containers.save(out, arrays)
    total = int(arrays["num_sources"].sum())
    print(f"written: {out}, {FLAGS.num_scenes} scenes with {total} sources at {FLAGS.snr_db:g} dB")
    print(f"next: ris-jax localize --data={out} --out=positions.csv --figure=map.png")
    return 0
