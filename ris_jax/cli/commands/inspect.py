"""Print how a recordings file is interpreted, and warn about suspicious values.

Example:
  ris-jax inspect --data=recordings.mat

Reports fields, shapes and units; spacing, resolution and near-field limit of the array; codes and
condition number of the operator; power over codes and antennas, static path and noise floor. Two
sources are fitted to two scenes, also under other readings of the data, such as the opposite sign
convention. Suspicious values are listed at the end, and the exit status is then 1.
"""

import pathlib

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "recordings: a file or a directory", flag_values=FLAGS)
common_flags.define_binary_codes(FLAGS)


def _line(topic: str, text: str) -> None:
    print(f"{topic:<18}{text}", flush=True)


def _print_fields(path: pathlib.Path) -> None:
    """Print name, shape and type of every field, before any is interpreted."""
    from ris_jax import errors
    from ris_jax.data.recordings import containers

    for name in containers.names(path):
        try:
            array = containers.load(path, [name])[name]
        except errors.RunError as error:
            _line(name, f"cannot be read: {str(error).removeprefix(f'{path}: ')}")
            continue
        _line(name, f"{list(array.shape)} {array.dtype.name}")


COMPILES = ""  # nothing


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.data:
        raise config_lib.ConfigError("--data: need a file or a directory, none given")
    path = pathlib.Path(FLAGS.data)
    return f"{path}" + (f", {path.stat().st_size:,} bytes" if path.is_file() else "")


def run() -> int:
    """Run the command; return the exit status."""
    path = pathlib.Path(FLAGS.data)
    from ris_jax import errors
    from ris_jax.data.recordings import reader as reader_lib

    if path.is_file():
        _print_fields(path)
    try:
        found = reader_lib.read(path, binary_codes=FLAGS.binary_codes)
    except errors.RunError as error:
        print(f"suspicious: {str(error).removeprefix(f'{path}: ')}")
        return 1
    return _report(found)


def _report(found) -> int:
    """Print a report on recordings; return the exit status."""
    from ris_jax.reports import inspection, source_table

    scenes, length, antennas = found.snapshots.shape
    _line(
        "read as",
        f"{scenes} scenes [B], {length} codes [L], {antennas} antennas [M], "
        f"{len(found.positions)} elements [N]; truth "
        f"{'not given' if found.truth is None else 'given'}",
    )
    for note in found.notes:
        _line("note", note)
    report = inspection.inspect(found)
    for topic, text in report.lines:
        _line(topic, text)
    doubts = [
        f"{source_table.scene_name(number, found.files)} is left out: {reason}"
        for number, reason in found.skipped
    ]
    for doubt in (*report.doubts, *doubts):
        print(f"suspicious: {doubt}")
    if not (report.doubts or doubts):
        print("nothing suspicious")
    return int(bool(report.doubts or doubts))
