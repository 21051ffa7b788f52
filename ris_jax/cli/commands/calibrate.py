"""Estimate the complex factors of a surface's elements, and its pose, from recordings.

Example:
  ris-jax calibrate --data=known_positions.npz --out=surface.npz --figure=surface.png
  ris-jax calibrate --data=one_bit.npz --out=surface.npz --per_state
  ris-jax calibrate --data=known_positions.npz --out=surface.npz --pose
  ris-jax calibrate --data=anything.npz --out=surface.npz --unknown_positions --num_sources=1
  ris-jax localize --data=recordings.npz --out=positions.csv --calibration=surface.npz

The recordings have sources at known positions (num_sources, azimuth, elevation, source_range). The
command estimates one complex factor for each element, or with --per_state one for each element and
state of a 1-, 2- or 3-bit surface. It prints the standard deviations, the residual over the noise
with and without the factors, recordings that do not fit, and how many recordings are enough.

With --static_path, the direct path and reflections from the room are removed: signals that do not
depend on the codes.

With --unknown_positions, positions and factors are estimated together. A phase that is linear or
quadratic over the surface moves all sources nearly alike; the standard deviations and the loss
include it.

With --pose, the rotation and offset of the surface are estimated together with the factors, from
sources at known positions. `localize --calibration` then reports positions in their frame.
"""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.cli import common_flags

if TYPE_CHECKING:
    from ris_jax.data.recordings.reader import Recordings
    from ris_jax.data.recordings.validation import SourceTruth
    from ris_jax.estimation.calibration.known_sources import SurfaceFit
    from ris_jax.estimation.calibration.pose import Pose
    from ris_jax.estimation.calibration.self_calibration import Entries

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "recordings: a file or a directory", flag_values=FLAGS)
flags.DEFINE_string("out", None, "file to write, .npz or .h5", flag_values=FLAGS)
flags.DEFINE_bool("per_state", False, "one factor for each state of an element", flag_values=FLAGS)
flags.DEFINE_bool(
    "unknown_positions", False, "estimate the source positions as well", flag_values=FLAGS
)
flags.DEFINE_integer(
    "num_sources",
    None,
    "sources in every recording, with --unknown_positions; default: num_sources of the data, or 1",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "static_path",
    False,
    "remove a path that does not depend on the codes, such as the direct one; for constant signals",
    flag_values=FLAGS,
)
flags.DEFINE_bool("pose", False, "estimate rotation and offset of the surface", flag_values=FLAGS)
common_flags.define_waves(FLAGS)
common_flags.define_response(FLAGS)
common_flags.define_binary_codes(FLAGS)
flags.DEFINE_float(
    "loss_db", 0.5, "loss of position accuracy for which a calibration is enough", flag_values=FLAGS
)
flags.DEFINE_string(
    "figure", None, "figure of factors and losses to draw, .png, .pdf or .svg", flag_values=FLAGS
)

_FALSE_ALARM_RATE = 1e-3  # of a run, for recordings that do not fit
_LEAST_RATIO = 3.0  # of residual and noise in such a recording, if its noise is unknown
_SCENES_FOR_LOSS = 5
COMPILES = "about 20 s, once per array, if sources are located"


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    for flag in ("data", "out"):
        if not FLAGS[flag].value:
            raise config_lib.ConfigError(f"--{flag}: need a file, none given")
    if not FLAGS.loss_db > 0:
        raise config_lib.ConfigError(f"--loss_db: need more than 0 dB; got {FLAGS.loss_db}")
    if FLAGS.num_sources is not None and not FLAGS.unknown_positions:
        raise config_lib.ConfigError(
            "--num_sources: only with --unknown_positions; known positions have their number"
        )
    if FLAGS.static_path and FLAGS.source_signal == "independent":
        raise config_lib.ConfigError("--static_path: only for constant signals; omit it")
    if FLAGS.pose and FLAGS.unknown_positions:
        raise config_lib.ConfigError("--pose: needs known positions; omit --unknown_positions")
    from ris_jax.data.recordings import containers

    containers.require_name(FLAGS.out)
    if FLAGS.figure:
        common_flags.path_with_suffix(FLAGS, "figure", (".png", ".pdf", ".svg"))
    known = "unknown" if FLAGS.unknown_positions else "known"
    return f"calibrating the surface of {FLAGS.data} with sources at {known} positions"


def run() -> int:
    """Run the command; return the exit status."""
    from ris_jax.data.recordings import reader, surface_calibration
    from ris_jax.estimation.calibration import known_sources
    from ris_jax.estimation.calibration import pose as pose_lib
    from ris_jax.reports import source_table

    recordings = reader.read(FLAGS.data, binary_codes=FLAGS.binary_codes)
    for note in recordings.notes:
        print(f"note: {note}", file=sys.stderr)
    for number, reason in recordings.skipped:
        name = source_table.scene_name(number, recordings.files)
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    if recordings.truth is None and not FLAGS.unknown_positions:
        raise errors.RunError(
            f"{FLAGS.data}: expected positions of the sources (num_sources, azimuth, elevation, "
            "source_range), found none; add them, or use --unknown_positions"
        )
    states = surface_calibration.distinct_states(recordings.codes) if FLAGS.per_state else None
    pose = None
    if FLAGS.unknown_positions:
        fit, entries = _self_calibration(recordings, states)
    else:
        entries = _entries(recordings, _require(recordings.truth))
        if FLAGS.pose:
            fit, pose, seen = pose_lib.calibrate_with_pose(
                *entries, recordings.positions, states=states, **_wave(recordings)
            )
            entries = seen, entries[1]
        else:
            fit = known_sources.calibrate(*entries, states=states)
    calibration = dataclasses.replace(
        fit.calibration,
        positions=recordings.positions,
        rotation=None if pose is None else pose.rotation,
        offset=None if pose is None else pose.offset,
    )
    surface_calibration.save_calibration(FLAGS.out, calibration)
    print("\n".join(_summary(recordings, entries, fit)))
    amounts, losses = _losses(recordings, entries, fit)
    print(_enough(amounts, losses))
    if pose is not None:
        print(_pose_line(pose))
    if FLAGS.figure:
        _draw(recordings, fit, amounts, losses)
    print(f"written: {FLAGS.out}" + (f", {FLAGS.figure}" if FLAGS.figure else ""))
    return 0


def _require(truth: "SourceTruth | None") -> "SourceTruth":
    assert truth is not None  # checked in `run`
    return truth


def _wave(recordings: "Recordings") -> dict[str, Any]:
    return {
        "wavelength": recordings.wavelength,
        "wavefront": FLAGS.wavefront or recordings.wavefront or "spherical",
        "response": common_flags.response(FLAGS, recordings.response),
    }


def _options(recordings: "Recordings") -> dict[str, Any]:
    return _wave(recordings) | {
        "source_signal": FLAGS.source_signal or recordings.source_signal or "constant",
    }


def _entries(recordings: "Recordings", truth: "SourceTruth"):
    """Return the recordings with steering vectors of their sources."""
    from ris_jax.data.recordings import reader
    from ris_jax.estimation.calibration import known_sources

    variance = None
    if recordings.snr_db is not None:
        variance = np.asarray(
            reader.measurement_of(recordings, static_path=FLAGS.static_path).noise_variance, float
        )
    return known_sources.known_scenes(
        recordings.snapshots,
        recordings.channel,
        recordings.codes,
        recordings.positions,
        truth,
        noise_variance=variance,
        static_path=FLAGS.static_path,
        **_options(recordings),
    )


def _located(recordings: "Recordings", codes: np.ndarray, count: Any):
    """Return the estimate of all recordings for codes that include factors."""
    from ris_jax import localization
    from ris_jax.data.recordings import reader

    return localization.localize_in_chunks(
        reader.measurement_of(dataclasses.replace(recordings, codes=codes)),
        recordings.positions,
        chunk_size=64,
        num_sources=count,
        max_sources=int(np.max(count)),
        check=False,
        static_path="on" if FLAGS.static_path else "off",
        **_options(recordings),
    )


def _self_calibration(
    recordings: "Recordings", states: np.ndarray | None
) -> tuple["SurfaceFit", "Entries"]:
    """Return the factors and the recordings with their sources."""
    from ris_jax.data.recordings.validation import SourceTruth
    from ris_jax.estimation.calibration import self_calibration

    count: Any = FLAGS.num_sources or 1
    if FLAGS.num_sources is None and recordings.truth is not None:
        count = recordings.truth.num_sources

    def locate(codes):
        found = _located(recordings, codes, count)
        places = {name: np.asarray(getattr(found, name), float) for name in SourceTruth._fields}
        return SourceTruth(**places | {"num_sources": np.asarray(found.num_sources)})

    with common_flags.progress(
        self_calibration.MOST_ROUNDS, "self-calibration", "round"
    ) as progress:
        fit, entries = self_calibration.in_turn(
            locate,
            lambda truth: _entries(recordings, truth),
            recordings.codes,
            recordings.positions,
            states=states,
            progress=lambda _: progress(1),
        )
    return self_calibration.together(fit, entries, recordings.positions, **_wave(recordings))


def _summary(recordings: "Recordings", entries: "Entries", fit: "SurfaceFit") -> list[str]:
    """Return lines with the factors, their deviations and the residual."""
    from ris_jax.reports import source_table

    factors = fit.calibration.factors
    known = np.isfinite(fit.calibration.deviations)
    amplitude = 20 * np.log10(np.maximum(np.abs(factors[known]), 1e-12))
    relative = np.median(fit.phase_deviations[known])
    scenes, of_scene = entries
    used, first = np.unique(of_scene, return_index=True)
    sources = sum(len(scenes[index].places) for index in first)
    lines = [
        f"{len(fit.samples)} recordings, {sources} sources; {known.sum()} factors of "
        f"{len(factors)} elements",
        f"factors: {np.std(amplitude):.2f} dB and {np.degrees(_spread(factors[known])):.1f} deg "
        f"rms; standard deviations {relative * 20 / np.log(10):.3f} dB and "
        f"{np.degrees(relative):.2f} deg (median)",
        f"residual over noise: {_mean(fit, fit.residual_before):.3g} without factors, "
        f"{_mean(fit, fit.residual_after):.3g} with them; gain {fit.gain_db:.1f} dB",
    ]
    if not known.all():
        lines.append(
            f"warning: {np.sum(~known)} factors are 1, because no recording uses their element or "
            "state"
        )
    least = 1.0 if recordings.snr_db is not None else _LEAST_RATIO
    numbers = recordings.scene_numbers[used]
    for index in fit.outliers(_FALSE_ALARM_RATE, least):
        name = source_table.scene_name(int(numbers[index]), recordings.files)
        lines.append(
            f"warning: {name}: the residual is {fit.residual_after[index]:.3g} "
            "times the noise; its position, codes or channel are wrong: leave it out"
        )
    if recordings.snr_db is not None and fit.noise_variance > 1.5:
        lines.append(
            f"warning: the residual of most recordings is {fit.noise_variance:.3g} times the noise "
            "of snr_db; one factor per element does not explain them"
            + ("" if FLAGS.per_state else "; try --per_state or --pose")
        )
    return lines


def _spread(factors: np.ndarray) -> float:
    """Return the rms of phases about their mean [rad]."""
    return float(np.sqrt(np.mean(np.angle(factors * np.conj(factors.mean())) ** 2)))


def _mean(fit: "SurfaceFit", residuals: np.ndarray) -> float:
    return float(np.average(residuals, weights=fit.samples))


def _losses(recordings: "Recordings", entries, fit: "SurfaceFit") -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of recordings and the median loss of position accuracy with each [dB]."""
    from ris_jax.estimation.calibration import sufficiency

    scenes, of_scene = entries
    count = len(fit.samples)
    amounts = 2 ** np.arange(1, max(count, 64).bit_length() + 1)
    losses = [
        sufficiency.losses_db(
            fit,
            [entry for entry, scene in zip(scenes, of_scene, strict=True) if scene == index],
            recordings.positions,
            amounts=amounts / count,
            **_wave(recordings),
        )
        for index in np.unique(of_scene)[:_SCENES_FOR_LOSS]
    ]
    return amounts, np.median(losses, axis=0)


def _enough(amounts: np.ndarray, losses: np.ndarray) -> str:
    from ris_jax.estimation.calibration import sufficiency

    enough = sufficiency.enough(amounts, losses, FLAGS.loss_db)
    listed = ", ".join(
        f"{loss:.2f} dB with {amount}" for amount, loss in zip(amounts, losses, strict=True)
    )
    needed = f"more than {amounts[-1]} recordings" if enough is None else f"{enough} recordings"
    return f"loss of position accuracy: {listed}; {needed} give at most {FLAGS.loss_db:g} dB"


def _pose_line(pose: "Pose") -> str:
    from scipy.spatial.transform import Rotation

    turned = np.degrees(Rotation.from_matrix(pose.rotation).as_rotvec())
    angles = ", ".join(
        f"{value:.3f} ± {deviation:.3f}"
        for value, deviation in zip(turned, np.degrees(pose.angle_deviations), strict=True)
    )
    offsets = ", ".join(
        f"{value:.4f} ± {deviation:.4f}"
        for value, deviation in zip(pose.offset, pose.offset_deviations, strict=True)
    )
    return f"pose: rotation about x, y, z {angles} deg; offset {offsets} m"


def _draw(
    recordings: "Recordings", fit: "SurfaceFit", amounts: np.ndarray, losses: np.ndarray
) -> None:
    from ris_jax.reports import calibration_figure, localization_figures, provenance

    path = pathlib.Path(FLAGS.figure)
    figure = calibration_figure.figure(fit, recordings.positions, amounts, losses)
    provenance.write_whole(path, localization_figures.image(figure, path.suffix.lower()))
