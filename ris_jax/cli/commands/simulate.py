"""Draw scenes for training into a directory of records.

Example:
  ris-jax simulate --out=records --num_train=100000 --num_val=4096 --num_test=4096
  ris-jax simulate --out=wide --num_train=50000 --preset=array_16x16 --set=scene.max_sources=3
  ris-jax train --workdir=runs/stored --data=records
  ris-jax simulate --out=wideband.npz --num_test=8 --frequencies=0.9e9:1.1e9:9

The splits train, validation and test have independent streams and share no scene. A scene has
snapshots, channel and truth (20.6 kB with the default system). Codes are stored once per shard, and
covariances are not stored. After an interruption, the same command resumes: no scene is lost or
duplicated.

With --frequencies, --num_test scenes at these frequencies are written into a recordings file with
truth (.npz or .h5), for `localize`. Their channel is frequency-selective. Coherent sources have
delays of r / c plus a clock offset that is common to the sources of a scene. Training is
narrowband.
"""

import pathlib
import time

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, frequency_flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "output directory", flag_values=FLAGS)
flags.DEFINE_integer("num_train", 100_000, "scenes for training", flag_values=FLAGS)
flags.DEFINE_integer("num_val", 4096, "scenes for validation", flag_values=FLAGS)
flags.DEFINE_integer("num_test", 4096, "scenes for test", flag_values=FLAGS)
flags.DEFINE_integer("shard_scenes", 4096, "scenes per shard", flag_values=FLAGS)
flags.DEFINE_integer("seed", None, "random seed", flag_values=FLAGS)
common_flags.define(FLAGS)
frequency_flags.define_frequencies(FLAGS)
frequency_flags.define_coherence(FLAGS)


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
    if FLAGS.frequencies:
        _check_file()
        frequency_flags.check_configuration(_configuration(), simulated=True)
        count = len(frequency_flags.parsed(FLAGS.frequencies))
        return f"simulating {FLAGS.num_test} scenes at {count} frequencies into {FLAGS.out}"
    frequency_flags.refuse(FLAGS, ("coherence",), "needs --frequencies")
    return f"simulating {sum(_counts().values())} scenes into {FLAGS.out}"


def _check_file() -> None:
    """Check the flags of a recordings file with several frequencies."""
    from ris_jax.data.recordings import containers

    containers.require_name(FLAGS.out)
    why = "expected none with --frequencies, which writes --num_test scenes into one file"
    frequency_flags.refuse(FLAGS, ("num_train", "num_val", "shard_scenes"), why)
    if FLAGS.num_test < 1:
        raise config_lib.ConfigError(f"--num_test: need 1 or more; got {FLAGS.num_test}")


def _write_frequencies(config: config_lib.Config) -> int:
    from ris_jax.data.recordings import containers, frequency_simulation

    frequencies = frequency_flags.parsed(FLAGS.frequencies)
    arrays = frequency_simulation.simulated_recordings(
        config, frequencies, num_scenes=FLAGS.num_test, seed=config.training.seed,
        coherence=FLAGS.coherence or "incoherent",
    )  # fmt: skip
    containers.save(FLAGS.out, arrays)
    total = int(arrays["num_sources"].sum())
    print(f"written: {FLAGS.out}, {FLAGS.num_test} scenes with {total} sources")
    return 0


def run() -> int:
    """Run the command; return the exit status."""
    if FLAGS.frequencies:
        return _write_frequencies(_configuration())
    config, counts = _configuration(), _counts()
    from ris_jax.data.records import simulation

    folder, began = pathlib.Path(FLAGS.out), time.monotonic()
    with common_flags.progress(sum(counts.values()), "simulating") as progress:
        index = simulation.simulate(
            config, folder, counts, shard_scenes=FLAGS.shard_scenes, progress=progress
        )
    print(f"{common_flags.summary(index)} in {folder}, {time.monotonic() - began:.0f} s")
    return 0
