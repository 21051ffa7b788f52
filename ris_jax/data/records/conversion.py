"""Conversion of recordings and reference shards with truth into records for training.

A hash of the measured data selects the split of a scene. Therefore no scene is in two splits, even
if files repeat it (the reference's did). Adding or removing a file moves no other scene.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import reader
from ris_jax.data.recordings import reader as reader_lib
from ris_jax.data.recordings.reader import Recordings
from ris_jax.data.records import record_format, record_writer
from ris_jax.physics.element_response import ElementResponse


class Fractions(NamedTuple):
    """Fractions of scenes that are held out, met on average."""

    validation: float
    test: float


def convert(
    source: pathlib.Path,
    folder: pathlib.Path,
    config: config_lib.Config,
    fractions: Fractions,
    *,
    skip_damaged: bool = False,
    progress: Callable[[int], Any] = lambda _: None,
) -> record_format.Index:
    """Write the scenes of recordings as records; an interrupted conversion resumes, file by file.

    Args:
      source: a file, or a directory of .npz, as for `recordings.read`; with truth and `snr_db`.
      folder: receives the records.
      config: wavefront, source signal and scene limits that the data do not contain. Recordings
        have no amplitudes; `scene.path_loss` defines how they follow from ranges.
      fractions: held out for validation and test.
      skip_damaged: leave out and count files that cannot be read.
      progress: called after every file.

    Returns:
      The index, complete.

    Raises:
      ConfigError: fractions are invalid, or the directory belongs to another request.
      RunError: a file is damaged, unlike the first one, or has no truth or no `snr_db`.
      OSError: the directory cannot be written.
    """
    if not (min(fractions) >= 0 and sum(fractions) < 1):
        raise config_lib.ConfigError(
            f"val_fraction, test_fraction: need fractions of zero or more, in sum below 1; got "
            f"{fractions.validation:g} and {fractions.test:g}"
        )
    paths = reader_lib.files_of(source)
    first_path, first = _first_readable(paths, skip_damaged)
    config = configuration(first, config)
    request = {
        "command": "import",
        "files": [[path.name, path.stat().st_size] for path in paths],
        **{f"{name}_fraction": value for name, value in fractions._asdict().items()},
    }
    with record_writer.writing(folder, config, request) as writer:
        for path in paths:
            if path.name not in writer.done:
                _convert_file(path, (first_path, first), config, fractions, skip_damaged, writer)
            progress(1)
        if not writer.index.complete:
            writer.finish()
        return writer.index


def _first_readable(
    paths: list[pathlib.Path], skip_damaged: bool
) -> tuple[pathlib.Path, Recordings]:
    """Return the file that all others must agree with."""
    for path in paths[:-1] if skip_damaged else ():
        with contextlib.suppress(errors.RunError):
            return path, labelled(path)
    path = paths[-1] if skip_damaged else paths[0]
    return path, labelled(path)


def labelled(path: pathlib.Path) -> Recordings:
    """Read recordings that have truth and `snr_db`.

    Raises:
      RunError: they cannot be read, or have no truth or no `snr_db`.
    """
    found = reader_lib.read(path)
    for field, value in (("truth", found.truth), ("snr_db", found.snr_db)):
        if value is None:
            raise errors.RunError(f"{path}: {field}: need it to train or score a network; got none")
    return found


def configuration(found: Recordings, config: config_lib.Config) -> config_lib.Config:
    """Return the configuration with the system of recordings that have the truth."""
    assert found.truth is not None
    _, snapshots, antennas = found.snapshots.shape
    values: dict[str, Any] = {
        "system.wavelength": found.wavelength,
        "system.element_positions": found.positions.tolist(),
        "system.num_snapshots": snapshots,
        "system.num_antennas": antennas,
        "system.codebook": "random",  # unused: the scenes have their own codes
        "system.wavefront": found.wavefront or config.system.wavefront,
        "system.source_signal": found.source_signal or config.system.source_signal,
        **_response_values(found.response),
        "scene.min_sources": 1,
        "scene.max_sources": found.truth.azimuth.shape[1],
    }
    return config_lib.override(config, values)


def _response_values(response: ElementResponse | None) -> dict[str, Any]:
    """Return the fields of a configuration for a response.

    Raises:
      RunError: normals other than +z, which a configuration does not hold.
    """
    if response is None:
        return {}
    if response.normals is not None and not (np.asarray(response.normals) == [0.0, 0.0, 1.0]).all():
        raise errors.RunError(
            "response_normals: expected +z for all elements in records, found others; turn the "
            "positions so that +z is the normal"
        )
    if response.exponent is not None:
        return {"system.response_exponent": float(response.exponent)}
    angles, amplitudes = response.as_table()
    return {
        "system.response_angles": angles.tolist(),
        "system.response_amplitudes": amplitudes.tolist(),
    }


def _convert_file(
    path: pathlib.Path,
    first: tuple[pathlib.Path, Recordings],
    config: config_lib.Config,
    fractions: Fractions,
    skip_damaged: bool,
    writer: record_writer.Writer,
) -> None:
    unit = record_format.Unit(path.name, 0)
    try:
        found = labelled(path)
        reader_lib.require_alike(path, found, *first)
    except errors.RunError as error:
        if not skip_damaged:
            raise
        writer.add(dataclasses.replace(unit, damaged=str(error)), {})
        return
    scenes = scenes_of(found, config)
    unusable = len(found.skipped) + len(found.scene_numbers) - len(scenes.scenes)
    unit = dataclasses.replace(unit, unusable=unusable)
    chosen = _splits_of(record_format.digests_of(scenes.scenes), fractions)
    writer.add(unit, {split: scenes.at(chosen == split) for split in record_format.SPLITS})


def scenes_of(found: Recordings, config: config_lib.Config) -> record_format.Scenes:
    """Convert recordings with truth and `snr_db` to records; drop scenes without a source.

    Args:
      found: from `labelled`.
      config: `scene.path_loss` defines how amplitudes follow from ranges.
    """
    truth = found.truth
    assert truth is not None
    active = np.arange(truth.azimuth.shape[1]) < truth.num_sources[:, None]
    distance = np.where(active, truth.source_range, config.scene.range_max)
    gain = 1.0 / distance if config.scene.path_loss == "inverse_square" else 1.0
    measured = reader.measurement_of(found)
    fields: dict[str, Any] = {
        "snapshots": measured.snapshots,
        "channel": measured.channel,
        "noise_variance": measured.noise_variance,
        "azimuth": np.where(active, truth.azimuth, 0.0),
        "elevation": np.where(active, truth.elevation, 0.0),
        "source_range": distance,
        "amplitude": np.where(active, gain, 0.0),
        "num_sources": truth.num_sources,
        "snr_db": found.snr_db,
    }
    return record_format.pack(fields, found.codes).at(
        truth.num_sources > 0
    )  # networks need a source


def _splits_of(digests: np.ndarray, fractions: Fractions) -> np.ndarray:
    """Return [B] names of splits, from the first eight bytes of each digest as a fraction."""
    share = np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0] / 2.0**64
    held_out = fractions.test + fractions.validation
    return np.select(
        [share < fractions.test, share < held_out], ["test", "validation"], default="train"
    )
