"""Locate the sources in a user's recordings, with error bars.

Example:
  ris-jax localize --data=recordings.npz --out=positions.csv
  ris-jax localize --data=recordings.npz --out=positions.json --num_sources=2 --figure=map.png
  ris-jax localize --data=recordings.npz --out=positions.csv --pretrained=robust
  ris-jax localize --data=recordings.npz --out=positions.csv --calibration=surface.npz
  ris-jax localize --data=wideband.npz --out=positions.csv --coherence=coherent

Reads a recordings file (.npz, .h5 or .mat), a PyTorch shard, a directory of .npz files of either
kind, or a directory written by `simulate` (its split `test`). Writes one row per
source: scene, source, azimuth_deg, elevation_deg, range_m, their standard deviations
(azimuth_std_deg, elevation_std_deg, range_std_m; empty if the scene does not determine the
parameter), power_db and flags. A scene without sources has no row. JSON has all scenes, and the
settings of the localisation.

Every scene is checked against its model, also without snr_db. `flags` lists warnings about a scene,
such as on_limit or misfit, and the command prints one line for each kind with its likely cause. All
sources are within --azimuth_max_deg, --elevation_max_deg, --range_min and --range_max.

A path that is the same under all codes, such as the direct path from source to antennas or
reflections from the room, is found and removed (--static_path=auto, constant signals only). The
summary has its strength and the cost of the removal. With --static_path=on it is removed without a
first fit, which is faster.

With --pretrained (or --workdir, a run of `train`) a network finds the sources and the likelihood
refines them. This is several times faster than the search alone. The network "robust" is trained
for hardware mismatch. All but `subspace_network` work for other arrays without retraining.

A file with `frequencies` [F] has recordings at several frequencies. The likelihood is then that of
all frequencies, with the waves of each one. With --coherence=coherent each source has a delay, in
two more columns: delay_ns and delay_std_ns.
"""

import dataclasses
import functools
import math
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, estimator_flags, frequency_flags

if TYPE_CHECKING:
    from ris_jax.data.recordings.frequency_recordings import FrequencyRecordings
    from ris_jax.data.recordings.reader import Recordings
    from ris_jax.estimation.checks.limits import Limits
    from ris_jax.estimation.estimate import Estimate

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "recordings: a file or a directory", flag_values=FLAGS)
flags.DEFINE_string("out", None, "file to write, .csv or .json", flag_values=FLAGS)
estimator_flags.define(FLAGS)
frequency_flags.define_coherence(FLAGS)
flags.DEFINE_float(
    "delay_max_ns",
    None,
    "largest delay of a coherent source; default: the inverse of the frequency spacing",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "figure", None, "map of one scene to draw, .png, .pdf or .svg", flag_values=FLAGS
)
flags.DEFINE_integer(
    "figure_scene", None, "number of the scene to draw; default: first usable", lower_bound=0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer("batch_size", 64, "scenes processed at once", lower_bound=1, flag_values=FLAGS)


def _out() -> pathlib.Path:
    return common_flags.path_with_suffix(FLAGS, "out", (".csv", ".json"))


def _figure() -> pathlib.Path | None:
    if not FLAGS.figure:
        return None
    return common_flags.path_with_suffix(FLAGS, "figure", (".png", ".pdf", ".svg"))


def _figure_index(recordings: "Recordings | FrequencyRecordings") -> int:
    """Return the index of the scene to draw."""
    number = FLAGS.figure_scene
    if number is None:
        return 0
    numbers = recordings.scene_numbers.tolist()
    if number not in numbers:
        raise config_lib.ConfigError(
            f"--figure_scene: need the number of a usable scene, {numbers[0]} to {numbers[-1]}; "
            f"got {number}"
        )
    return numbers.index(number)


def _draw(
    recordings: "Recordings | FrequencyRecordings", estimate: "Estimate", index: int, ending: str
) -> bytes:
    from ris_jax.reports import localization_figures, source_table

    name = source_table.scene_name(int(recordings.scene_numbers[index]), recordings.files)
    count = int(estimate.num_sources[index])
    title = f"{name}: {count} source{'s' * (count != 1)} found"
    figure = localization_figures.scene_map(estimate, index, recordings.truth, title)
    return localization_figures.image(figure, ending)


def _about(
    recordings: "Recordings | FrequencyRecordings", options: dict[str, Any]
) -> dict[str, Any]:
    """Return the further entries of a JSON file."""
    from ris_jax.reports import provenance, source_table

    files, response = recordings.files, options.get("response")
    return {
        "data": FLAGS.data,
        "network": FLAGS.pretrained or FLAGS.workdir,
        "calibration": FLAGS.calibration,
        **{name: value for name, value in options.items() if name not in ("limits", "network")},
        "response": None if response is None else response.description(),
        "limits": _listed(options["limits"]),
        "versions": provenance.versions(),
        "skipped": [
            {"scene": number, **source_table.file_fields(number, files), "reason": why}
            for number, why in recordings.skipped
        ],
    }


def _listed(within: "Limits | None") -> dict[str, float | None] | None:
    """Return limits for JSON, which has no infinity."""
    if within is None:
        return None
    listed = dataclasses.asdict(within)
    return {name: value if math.isfinite(value) else None for name, value in listed.items()}


def _localize_frequencies(recordings: "FrequencyRecordings", options: dict[str, Any]) -> "Estimate":
    from ris_jax import wideband_localization

    with common_flags.progress(len(recordings.scene_numbers), "localising") as progress:
        return wideband_localization.localize_wideband_in_chunks(
            recordings.measurement,
            recordings.positions,
            chunk_size=FLAGS.batch_size,
            progress=progress,
            **options,
        )


def _localize(recordings: "Recordings", options: dict[str, Any]) -> "Estimate":
    from ris_jax import localization
    from ris_jax.data.recordings import reader

    def localize(choice: str) -> "Estimate":
        with common_flags.progress(len(recordings.scene_numbers), "localising") as progress:
            return localization.localize_in_chunks(
                reader.measurement_of(recordings, static_path=choice == "on"),
                recordings.positions,
                chunk_size=FLAGS.batch_size,
                progress=progress,
                **options | {"static_path": choice},
            )

    estimate = localize(options["static_path"])
    # With a static path, snr_db implies another noise variance.
    found = options["static_path"] == "auto" and estimate.has_static_path
    return localize("on") if found and recordings.snr_db is not None else estimate


def _summary(
    recordings: "Recordings | FrequencyRecordings", estimate: "Estimate", within: "Limits | None"
) -> str:
    from ris_jax.estimation import flags as flags_lib
    from ris_jax.reports import source_table

    usable, skipped = len(recordings.scene_numbers), len(recordings.skipped)
    empty = int((estimate.num_sources == 0).sum())
    lines = [
        f"{int(estimate.num_sources.sum())} sources in {usable - empty} scenes; "
        f"{empty} scenes without sources, {skipped} skipped"
    ]
    lines += flags_lib.summary(estimate.flags) + source_table.static_path_summary(estimate)
    if recordings.truth is not None:
        lines.append(source_table.truth_summary(estimate, recordings.truth))
        delay = getattr(recordings, "delay", None)
        if delay is not None and estimate.delay is not None:
            lines.append(source_table.delay_summary(estimate, recordings.truth, delay))
        lines += source_table.truth_doubts(estimate, recordings.truth, within)
    return "\n".join(lines)


COMPILES = "about 20 s, once per array"


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    for flag in ("data", "out"):
        if not FLAGS[flag].value:
            raise config_lib.ConfigError(f"--{flag}: need a file, none given")
    if FLAGS.figure_scene is not None and not FLAGS.figure:
        raise config_lib.ConfigError("--figure_scene: needs --figure; none given")
    _out()
    _figure()
    estimator_flags.check(FLAGS)
    network = FLAGS.pretrained or FLAGS.workdir
    return f"localising sources of {FLAGS.data}" + (f" with network {network}" if network else "")


def run() -> int:
    """Run the command; return the exit status."""
    out, figure = _out(), _figure()
    from ris_jax.data.recordings import frequency_recordings
    from ris_jax.reports import provenance, source_table

    estimator_flags.check_options(FLAGS)
    options: dict[str, Any]
    if frequency_recordings.has_frequencies(FLAGS.data):
        recordings = frequency_recordings.read_frequencies(
            FLAGS.data, binary_codes=FLAGS.binary_codes
        )
        options = frequency_flags.options_of(FLAGS, recordings)
        options["limits"] = estimator_flags.limits_of(FLAGS)
        compute = functools.partial(_localize_frequencies, recordings, options)
    else:
        frequency_flags.refuse(
            FLAGS, ("coherence", "delay_max_ns"), "needs recordings with `frequencies` [F]"
        )
        network = common_flags.network(FLAGS)
        recordings = estimator_flags.recordings(FLAGS, FLAGS.data)
        options = estimator_flags.options(FLAGS, recordings) | {"network": network}
        compute = functools.partial(_localize, recordings, options)
    for note in recordings.notes:
        print(f"note: {note}", file=sys.stderr)
    for number, reason in recordings.skipped:
        name = source_table.scene_name(number, recordings.files)
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    drawn = _figure_index(recordings)
    estimate = compute()
    rows = source_table.source_rows(estimate, recordings.scene_numbers)
    if out.suffix.lower() == ".csv":
        content = source_table.as_csv(rows, recordings.files, source_table.header(estimate))
    else:
        about = _about(recordings, options)
        content = source_table.as_json(
            rows, estimate, recordings.scene_numbers, about, recordings.files
        )
    image = _draw(recordings, estimate, drawn, figure.suffix.lower()) if figure else b""
    summary = _summary(recordings, estimate, options["limits"])
    provenance.write_whole(out, content)
    if figure:
        provenance.write_whole(figure, image)
    print(summary)
    print(f"written: {out}" + (f", {figure}" if figure else ""))
    return 0
