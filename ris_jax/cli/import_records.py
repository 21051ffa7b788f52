"""Recordings and shards of the reference pipeline, as a folder of records to train on.

Example:
  ris-jax import --data=shards --out=records
  ris-jax import --data=recordings.h5 --out=records --val_fraction=0.2 --set=scene.range_min=0.3
  ris-jax train --workdir=runs/measured --data=records

Takes what `localize` takes, a file or a folder of .npz, with truth and snr_db in it. A hash of what
was measured says which split a scene goes to, so that no scene is in two, and one that is there
twice is left out and counted. Stopped at any moment, the same command goes on with the next file.
Amplitudes, which recordings do not have, follow from the ranges (--set=scene.path_loss).
"""

import pathlib
import sys

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import settings

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "recordings: a file or a folder", flag_values=FLAGS)
flags.DEFINE_string("out", None, "folder to write", flag_values=FLAGS)
flags.DEFINE_float("val_fraction", 0.1, "share of scenes to validate on", flag_values=FLAGS)
flags.DEFINE_float("test_fraction", 0.1, "share of scenes to test on", flag_values=FLAGS)
flags.DEFINE_bool(
    "skip_damaged", False, "leave files out that cannot be read, instead of stopping",
    flag_values=FLAGS,
)  # fmt: skip
settings.define(FLAGS)


COMPILES = ""  # nothing


def announcement() -> str:
    """Checks the flags that need no JAX; returns the first line to print."""
    for flag, what in (("data", "recordings to read"), ("out", "the folder to write")):
        if not FLAGS[flag].value:
            raise config_lib.ConfigError(f"--{flag}: need {what}, none given")
    settings.configuration(FLAGS, {})
    return f"importing {FLAGS.data} into {FLAGS.out}"


def run() -> int:
    """Runs the command; returns the exit status."""
    config = settings.configuration(FLAGS, {})
    from ris_jax.data import conversion

    fractions = conversion.Fractions(FLAGS.val_fraction, FLAGS.test_fraction)
    with settings.progress(None, "importing", "file") as progress:
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
        f"{settings.summary(index)} in {FLAGS.out} from {len(index.units)} files; left out: "
        f"{len(damaged)} damaged files, {unusable} unusable scenes, {duplicates} duplicates"
    )
    return 0
