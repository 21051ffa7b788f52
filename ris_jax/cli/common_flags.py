"""Flags and helpers shared by several commands: configuration, network, data and progress."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from absl import flags

from ris_jax import config as config_lib
from ris_jax import config_files, errors, presets
from ris_jax.estimation.baselines import names

if TYPE_CHECKING:
    from ris_jax.data.records.record_dataset import Dataset
    from ris_jax.data.records.record_format import Index
    from ris_jax.networks.pretrained import Network
    from ris_jax.physics.element_response import ElementResponse


def define(values: flags.FlagValues) -> None:
    """Add --preset and --set to a command's flags."""
    flags.DEFINE_enum(
        "preset", "quickstart", presets.NAMES, "base configuration", flag_values=values
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "any configuration field, as section.field=value with a JSON value; may be repeated",
        flag_values=values,
    )


def define_config(values: flags.FlagValues) -> None:
    """Add --config to a command's flags."""
    flags.DEFINE_string(
        "config",
        None,
        "JSON file with the base configuration, in place of a preset",
        flag_values=values,
    )


def define_network(values: flags.FlagValues) -> None:
    """Add --workdir and --pretrained to the flags of a command that uses a network."""
    flags.DEFINE_string("workdir", None, "directory of a run: its best network", flag_values=values)
    flags.DEFINE_string(
        "pretrained", None, "a shipped network, such as default or robust",
        flag_values=values,
    )  # fmt: skip


def path_with_suffix(values: flags.FlagValues, flag: str, endings: tuple[str, ...]) -> pathlib.Path:
    """Return the path in a flag; check its suffix and that its directory exists."""
    from ris_jax.reports import provenance

    path = pathlib.Path(str(values[flag].value))
    if path.suffix.lower() not in endings:
        raise config_lib.ConfigError(
            f"--{flag}: need a name ending in {' or '.join(endings)}; got {str(path)!r}"
        )
    provenance.require_folder(f"--{flag}", path)
    return path


def define_waves(values: flags.FlagValues) -> None:
    """Add --source_signal and --wavefront to the flags of a command that reads recordings."""
    flags.DEFINE_enum(
        "source_signal",
        None,
        get_args(config_lib.SourceSignal),
        "constant: a source sends the same signal in all snapshots; default: as in the data, or "
        "constant",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "wavefront",
        None,
        get_args(config_lib.Wavefront),
        "shape of the waves; default: as in the data, or spherical",
        flag_values=values,
    )


def define_response(values: flags.FlagValues) -> None:
    """Add --response_exponent to the flags of a command that takes an array."""
    flags.DEFINE_float(
        "response_exponent",
        None,
        "q of elements whose amplitude is cos^q of the angle to their normal; 0: the same in all "
        "directions; default: as in the data or configuration",
        lower_bound=0.0,
        flag_values=values,
    )


def response(values: flags.FlagValues, data: "ElementResponse | None") -> "ElementResponse | None":
    """Return the element response of --response_exponent, or that of the data without the flag."""
    from ris_jax.physics import element_response

    if values.response_exponent is None:
        return data
    normals = None if data is None else data.normals
    return element_response.directional(
        element_response.ElementResponse.cosine(values.response_exponent, normals=normals)
    )


def define_binary_codes(values: flags.FlagValues) -> None:
    """Add --binary_codes to the flags of a command that reads recordings."""
    flags.DEFINE_enum(
        "binary_codes",
        None,
        ("amplitudes", "states"),
        "meaning of codes 0 and 1: reflection amplitudes (0 is off) or states (phases 0 and pi); "
        "required for such codes",
        flag_values=values,
    )


class _EstimatorParser(flags.ArgumentParser):
    """Parser for names of estimators in any case, with - or _ between words."""

    syntactic_help = "a name in any case"

    def parse(self, argument: str) -> str:
        return str(argument).lower().replace("-", "_")


def define_estimator(values: flags.FlagValues, default: str | None, text: str) -> None:
    """Add --estimator to a command's flags.

    Args:
      values: of the command.
      default: name, or None.
      text: values allowed in addition to the names of estimators.
    """
    flags.DEFINE(
        _EstimatorParser(),
        "estimator",
        default,
        f"{text}, or one of: {names.listing()}",
        flag_values=values,
        serializer=flags.ArgumentSerializer(),
    )


def define_static_path(values: flags.FlagValues) -> None:
    """Add --static_path to a command that localises."""
    flags.DEFINE_enum(
        "static_path",
        "auto",
        get_args(config_lib.StaticPath),
        "removal of a path that is the same under all codes, such as the direct path (constant "
        "signals); auto: if the fit without removal shows one, which takes a second fit",
        flag_values=values,
    )


def check_network(values: flags.FlagValues) -> None:
    """Check the flags of `define_network`, and that --estimator has the network it needs.

    Raises:
      ConfigError: both are given, or neither although the estimator needs one.
    """
    if values.workdir and values.pretrained:
        raise config_lib.ConfigError("--pretrained: need this or --workdir; both given")
    if values.workdir or values.pretrained or "estimator" not in values:
        return
    if values.estimator in names.NEED_NETWORK:
        raise config_lib.ConfigError(
            f"--estimator: {values.estimator} needs --pretrained or --workdir"
        )


def network(values: flags.FlagValues) -> "Network | None":
    """Load the network of --workdir or --pretrained, if given; see `check_network`.

    Raises:
      ConfigError: the name is unknown.
      RunError: there is no such run, or all of its checkpoints are damaged.
    """
    if not (values.workdir or values.pretrained):
        return None
    if values.pretrained:
        from ris_jax.networks import pretrained

        return pretrained.load_pretrained(values.pretrained)
    from ris_jax.training.saving import checkpoint

    found, warnings = checkpoint.load_run(pathlib.Path(values.workdir))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return found


def define_skip_damaged(values: flags.FlagValues) -> None:
    """Add --skip_damaged to the flags of a command with --data."""
    flags.DEFINE_bool(
        "skip_damaged", False, "leave out damaged shards of --data, instead of stopping",
        flag_values=values,
    )  # fmt: skip


def require_data(values: flags.FlagValues) -> None:
    """Check that --skip_damaged is given with --data only.

    Raises:
      ConfigError: it is given without.
    """
    if values.skip_damaged and not values.data:
        raise config_lib.ConfigError("--skip_damaged: goes with --data; none given")


def dataset(values: flags.FlagValues) -> "Dataset":
    """Open and check the records in --data; print their contents and what is left out.

    Raises:
      RunError: there are none, or a shard is damaged and --skip_damaged is not given.
    """
    from ris_jax.data.records import record_dataset, record_format

    folder = pathlib.Path(values.data)
    total = record_format.require_index(folder).num_bytes
    with progress(total, "checking records", "B") as advance:
        found = record_dataset.open_dataset(
            folder, skip_damaged=values.skip_damaged, progress=advance
        )
    for problem in found.skipped:
        print(f"skipped: {problem}", file=sys.stderr)
    counts = ", ".join(f"{len(split)} {name}" for name, split in found.splits.items())
    print(f"{folder}: {counts} scenes; {len(found.skipped)} damaged shards skipped", flush=True)
    return found


def _setting(text: str) -> tuple[str, object]:
    """Parse `section.field=value`; a value that is not JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise config_lib.ConfigError(
            f"--set: need section.field=value; got {errors.brief(repr(text))}"
        )
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def fields_of(dataset: "Dataset | None") -> dict[str, Any]:
    """Return the configuration fields that records define, by dotted name."""
    if dataset is None:
        return {}
    from ris_jax.data.records import record_format

    return config_lib.flatten(record_format.stored_config(dataset.config))


def configuration(
    values: flags.FlagValues, given: Mapping[str, Any], data: Mapping[str, Any] | None = None
) -> config_lib.Config:
    """Return the configuration from --preset or --config, --set and a command's own flags.

    Args:
      values: flags with those of `define`, and optionally of `define_config`.
      given: dotted names of fields and their values; they take precedence over --set.
      data: the same from the data; --set takes precedence over them.

    Raises:
      ConfigError: both --preset and --config are given, or the configuration is invalid.
      OSError: the file cannot be read.
    """
    chosen = dict(data or {}) | dict(_setting(text) for text in values.set) | dict(given)
    if "config" not in values or values.config is None:
        return config_lib.override(presets.preset(values.preset), chosen)
    if values["preset"].present:
        raise config_lib.ConfigError("--config: need this or --preset; both given")
    return config_lib.override(config_files.read(pathlib.Path(values.config)), chosen)


def summary(index: "Index") -> str:
    """Return the number of scenes per split, and their size on disk."""
    from ris_jax.data.records import record_format

    counts = {split: index.num_scenes(split) for split in record_format.SPLITS}
    each = index.num_bytes / max(sum(counts.values()), 1)
    named = ", ".join(f"{count} {split}" for split, count in counts.items())
    return f"{named} scenes, {each / 1e3:.1f} kB each,"


@contextlib.contextmanager
def progress(total: int | None, what: str, unit: str = "scene") -> Iterator[Callable[[int], Any]]:
    """Show a bar on standard error if it is a terminal; yield the function that advances it."""
    from tqdm import tqdm

    scaled = unit == "B"
    with tqdm(
        total=total, desc=what, unit=unit, unit_scale=scaled, disable=None, dynamic_ncols=True
    ) as bar:
        yield bar.update


def line_beside_progress(text: str) -> None:
    """Print a line above the bar of `progress`."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        print(text, flush=True)
