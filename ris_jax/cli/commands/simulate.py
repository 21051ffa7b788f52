"""Draw scenes for training into a directory of records.

Example:
  ris-jax simulate --out=records --num_train=100000 --num_val=4096 --num_test=4096
  ris-jax simulate --out=wide --num_train=50000 --preset=array_16x16 --set=scene.max_sources=3
  ris-jax train --workdir=runs/stored --data=records

The splits train, validation and test have independent streams and share no scene. A scene has
snapshots, channel and truth (20.6 kB with the default system). Codes are stored once per shard, and
covariances are not stored. After an interruption, the same command resumes: no scene is lost or
duplicated.
"""

import pathlib
import time

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "output directory", flag_values=FLAGS)
flags.DEFINE_integer("num_train", 100_000, "scenes for training", flag_values=FLAGS)
flags.DEFINE_integer("num_val", 4096, "scenes for validation", flag_values=FLAGS)
flags.DEFINE_integer("num_test", 4096, "scenes for test", flag_values=FLAGS)
flags.DEFINE_integer("shard_scenes", 4096, "scenes per shard", flag_values=FLAGS)
flags.DEFINE_integer("seed", None, "random seed", flag_values=FLAGS)
common_flags.define(FLAGS)


COMPILES = "about 10 s, once per array"


def _configuration() -> config_lib.Config:
    given = {} if FLAGS.seed is None else {"training.seed": FLAGS.seed}
    return common_flags.configuration(FLAGS, given)


def _counts() -> dict[str, int]:
    return {"train": FLAGS.num_train, "validation": FLAGS.num_val, "test": FLAGS.num_test}


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.out:
        raise config_lib.ConfigError("--out: need the output directory, none given")
    _configuration()
    return f"simulating {sum(_counts().values())} scenes into {FLAGS.out}"


def run() -> int:
    """Run the command; return the exit status."""
    config, counts = _configuration(), _counts()
    from ris_jax.data.records import simulation

    folder, began = pathlib.Path(FLAGS.out), time.monotonic()
    with common_flags.progress(sum(counts.values()), "simulating") as progress:
        index = simulation.simulate(
            config, folder, counts, shard_scenes=FLAGS.shard_scenes, progress=progress
        )
    print(f"{common_flags.summary(index)} in {folder}, {time.monotonic() - began:.0f} s")
    return 0
