"""Convert recordings, also PyTorch shards, to records for training.

Example:
  ris-jax import --data=shards --out=records
  ris-jax import --data=recordings.h5 --out=records --val_fraction=0.2 --set=scene.range_min=0.3
  ris-jax train --workdir=runs/measured --data=records

Reads a file or a directory of .npz, as `localize` does, with truth and snr_db. A hash of the
measured data selects the split of a scene, so that no scene is in two splits. Duplicates are left
out and counted. After an interruption, the same command resumes with the next file. Recordings have
no amplitudes; these follow from the ranges (--set=scene.path_loss).
"""

import pathlib
import sys

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "recordings: a file or a directory", flag_values=FLAGS)
flags.DEFINE_string("out", None, "output directory", flag_values=FLAGS)
flags.DEFINE_float("val_fraction", 0.1, "fraction of scenes for validation", flag_values=FLAGS)
flags.DEFINE_float("test_fraction", 0.1, "fraction of scenes for test", flag_values=FLAGS)
flags.DEFINE_bool(
    "skip_damaged", False, "leave out files that cannot be read, instead of stopping",
    flag_values=FLAGS,
)  # fmt: skip
common_flags.define(FLAGS)


COMPILES = ""  # nothing


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    for flag, what in (("data", "recordings to read"), ("out", "the output directory")):
        if not FLAGS[flag].value:
            raise config_lib.ConfigError(f"--{flag}: need {what}, none given")
    common_flags.configuration(FLAGS, {})
    return f"importing {FLAGS.data} into {FLAGS.out}"


def run() -> int:
    """Run the command; return the exit status."""
    config = common_flags.configuration(FLAGS, {})
    from ris_jax.data.records import conversion

    fractions = conversion.Fractions(FLAGS.val_fraction, FLAGS.test_fraction)
    with common_flags.progress(None, "importing", "file") as progress:
        index = conversion.convert(
            pathlib.Path(FLAGS.data),
            pathlib.Path(FLAGS.out),
            config,
            fractions,
            skip_damaged=FLAGS.skip_damaged,
            progress=progress,
        )
    damaged = [unit for unit in index.units if unit.damaged]
    for unit in damaged:
        print(f"skipped: {unit.damaged}", file=sys.stderr)
    unusable, duplicates = (
        sum(getattr(unit, name) for unit in index.units) for name in ("unusable", "duplicates")
    )
    print(
        f"{common_flags.summary(index)} in {FLAGS.out} from {len(index.units)} files; left out: "
        f"{len(damaged)} damaged files, {unusable} unusable scenes, {duplicates} duplicates"
    )
    return 0
