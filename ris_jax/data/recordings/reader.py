"""Recordings: signals received by a base station through a known surface, read from a file.

A recordings file, .npz, .h5, .hdf5 or .mat, contains by name

==================== ========================= ================================================
snapshots            [B, L, M] complex         received by M antennas under L codes, B scenes
channel              [B, M, N] or [M, N]       complex, surface to base station
codes                [B, L, N] or [L, N]       complex, or real -1 and 1
wavelength           a number                  [m]
element_positions    [N, 3]                    [m], see `ris_jax.physics.arrays` for the frame
snr_db               [B]                       optional
num_sources          [B]                       optional; this and the next three: all or none
azimuth, elevation   [B, K_max]                [rad]; values after `num_sources` are ignored
source_range         [B, K_max]                [m]; values after `num_sources` are ignored
response_exponent    a number                  optional; q of elements with amplitude cos^q(angle)
response_angles      [A]                       optional; [rad], of a table in place of the exponent
response_amplitudes  [A]                       optional; linear, at these angles
response_normals     [3] or [N, 3]             optional; unit normals of the elements, default +z
==================== ========================= ================================================

and no other field; `conventions` lists alternative names and units. An array without a surface,
whose M antennas are its N elements, needs no channel and no codes: they are then I and 1. Real
codes of only 0 and 1 are rejected unless `binary_codes` defines their meaning.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import containers, conventions, surface_calibration, validation
from ris_jax.data.records import record_dataset, record_format, reference_shards
from ris_jax.physics import scenes
from ris_jax.physics import static_path as static_path_lib
from ris_jax.physics.element_response import ElementResponse, of_system

SourceTruth = validation.SourceTruth


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings:
    """Usable scenes of a file with their metadata; NumPy, in host memory."""

    snapshots: Complex[np.ndarray, "B L M"]  #: complex64, as the next two
    channel: Complex[np.ndarray, "B M N"]  #: a broadcast view if all scenes share one [M, N]
    codes: Complex[np.ndarray, "B L N"]  #: a broadcast view if all scenes share one [L, N]
    positions: Float[np.ndarray, "N 3"]  #: [m], float64
    wavelength: float  #: [m]
    scene_numbers: Int[np.ndarray, "B"]  #: numbers of the scenes in the file, from 0
    skipped: tuple[tuple[int, str], ...]  #: (number in the file, reason) of scenes left out
    truth: SourceTruth | None = None
    snr_db: Float[np.ndarray, "B"] | None = None
    wavefront: config_lib.Wavefront | None = None  #: None: not in the file
    source_signal: config_lib.SourceSignal | None = None  #: None: not in the file
    response: ElementResponse | None = None  #: of the elements; None: the same in all directions
    notes: tuple[str, ...] = ()  #: assumptions made in reading, one line each
    #: (name, number of its first scene) of every file of a folder; empty for a single file
    files: tuple[tuple[str, int], ...] = ()


def read(
    path: str | os.PathLike[str], *, binary_codes: validation.BinaryCodes | None = None
) -> Recordings:
    """Read a recordings file, a PyTorch shard, or a directory.

    A directory has .npz files of either kind, or records written by `simulate` or `import`. From
    records, the first non-empty split is read, in the order test, validation, train.

    Unusable scenes (with NaN or infinity, or all zero) are left out and listed in `skipped`; their
    snr_db and truth are not checked. The scenes of a directory are numbered across its files, in
    the order of the file names.

    Args:
      path: a file ending in .npz, .h5, .hdf5 or .mat, or a directory.
      binary_codes: meaning of codes 0 and 1: "amplitudes" of elements that are off and on, or
        "states" with phases 0 and pi.

    Returns:
      At least one usable scene.

    Raises:
      RunError: one line with the file, the field, the expected and the actual value.
    """
    path = pathlib.Path(path)
    if (path / record_format.INDEX_NAME).is_file():
        return _read_records(path)
    read_one = _read_folder if path.is_dir() else _read_file
    found = read_one(path, binary_codes)
    return _require_usable(str(path), found)


def from_arrays(arrays: Mapping[str, Any], name: str = "recordings") -> Recordings:
    """Check arrays under the keys of a recordings file; see `read`.

    Args:
      arrays: key to array or number.
      name: of the arrays in error messages.

    Returns:
      At least one usable scene.

    Raises:
      RunError: one line with the field, the expected and the actual value.

    Example:
      >>> shared = {"channel": np.ones((2, 3)) + 0j, "codes": np.ones((4, 3)), "wavelength": 0.3}
      >>> found = from_arrays(
      ...     {**shared, "snapshots": np.ones((5, 4, 2)) + 0j, "element_positions": np.eye(3)})
      >>> found.channel.shape, found.skipped
      ((5, 2, 3), ())
    """
    given = {key: np.asarray(value) for key, value in arrays.items()}
    return _require_usable(name, _normalised_build(name, given))


def write(path: str | os.PathLike[str], recordings: Recordings) -> None:
    """Write a recordings file, .npz or HDF5 by its suffix, atomically.

    Skipped scenes are not written, and the scenes are renumbered. The format does not store
    `wavefront` and `source_signal`.

    Raises:
      RunError: the suffix is none of .npz, .h5, .hdf5.
      OSError: the directory cannot be written.
    """
    arrays = {
        "snapshots": recordings.snapshots,
        "channel": _once(recordings.channel),
        "codes": _once(recordings.codes),
        "wavelength": recordings.wavelength,
        "element_positions": recordings.positions,
        "snr_db": recordings.snr_db,
        **_response_fields(recordings.response),
    }
    if recordings.truth is not None:
        arrays |= recordings.truth._asdict()
    containers.save(path, {key: array for key, array in arrays.items() if array is not None})


def _response_fields(response: ElementResponse | None) -> dict[str, Any]:
    """Return the fields of a file that hold a response."""
    if response is None:
        return {}
    angles, amplitudes = (None, None) if response.knots is None else response.as_table()
    return {
        "response_exponent": response.exponent,
        "response_angles": angles,
        "response_amplitudes": amplitudes,
        "response_normals": response.normals,
    }


def _once(array: np.ndarray) -> np.ndarray:
    """Return [B, ...], or [...] if all scenes share one array."""
    return array[0] if array.strides[0] == 0 else array


def _require_usable(name: str, recordings: Recordings) -> Recordings:
    if not len(recordings.scene_numbers):
        scene, reason = recordings.skipped[0]
        raise errors.RunError(
            f"{name}: no usable scene among {len(recordings.skipped)}; scene {scene}: {reason}"
        )
    return recordings


def _read_records(folder: pathlib.Path) -> Recordings:
    """Read all scenes of one split of a directory of records."""
    from ris_jax.physics import arrays as arrays_lib  # imports JAX

    dataset = record_dataset.open_dataset(folder)
    split = next(name for name in reversed(record_format.SPLITS) if name in dataset.splits)
    count, system = len(dataset.splits[split]), dataset.config.system
    scenes, codes = dataset.splits[split].gather(np.arange(count))
    active = np.arange(scenes["azimuth"].shape[1]) < scenes["num_sources"][:, None]
    places = {
        field: np.where(active, scenes[field], np.nan).astype(np.float64)
        for field in validation.TRUTH_KEYS[1:]
    }
    return Recordings(
        snapshots=scenes["snapshots"],
        channel=scenes["channel"],
        codes=np.broadcast_to(codes, (count, *codes.shape[1:])),
        positions=np.asarray(arrays_lib.element_positions(system), np.float64),
        wavelength=system.wavelength,
        scene_numbers=np.arange(count),
        skipped=(),
        truth=SourceTruth(**places, num_sources=scenes["num_sources"].astype(np.int64)),
        snr_db=scenes["snr_db"].astype(np.float64),
        wavefront=system.wavefront,
        source_signal=system.source_signal,
        response=of_system(system),
        notes=(f"{count} scenes of the split {split!r} of {folder} are read",),
    )


def _read_file(
    path: pathlib.Path, binary_codes: validation.BinaryCodes | None = None
) -> Recordings:
    """Read as `read` does, but possibly without a usable scene."""
    name, keys = str(path), containers.names(path)
    if reference_shards.recognised(keys):
        reference_shards.check_keys(name, keys)
        shard = containers.load(path, reference_shards.KEYS)
        return _build(
            name,
            reference_shards.as_recordings(name, shard),
            wavefront=reference_shards.WAVEFRONT,
            source_signal=reference_shards.SOURCE_SIGNAL,
        )
    if "frequencies" in keys:
        validation.fail(
            name, "frequencies", "one frequency for this command",
            "recordings at several frequencies, which localize and bound read",
        )  # fmt: skip
    validation.check_keys(name, conventions.canonical(keys))
    arrays = containers.load(path, keys)
    matlab = path.suffix.lower() == ".mat"
    return _normalised_build(name, arrays, binary_codes, drops_last_axis=matlab)


def _normalised_build(
    name: str,
    arrays: Mapping[str, np.ndarray],
    binary_codes: validation.BinaryCodes | None = None,
    *,
    drops_last_axis: bool = False,
) -> Recordings:
    found, notes = conventions.normalised(name, arrays, drops_last_axis=drops_last_axis)
    if "states" in arrays:  # their coefficients define 0 and 1
        binary_codes = "amplitudes"
    return dataclasses.replace(_build(name, found, binary_codes=binary_codes), notes=notes)


# NumPy warns of signalling NaNs and of overflow; both are reported here.
@np.errstate(invalid="ignore", over="ignore")
def _build(
    name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    wavefront: config_lib.Wavefront | None = None,
    source_signal: config_lib.SourceSignal | None = None,
    binary_codes: validation.BinaryCodes | None = None,
) -> Recordings:
    """Check all fields and separate unusable scenes; possibly none is usable."""
    validation.check_keys(name, arrays)
    snapshots = validation.complex_array(name, "snapshots", arrays["snapshots"])
    positions = validation.real_array(name, "element_positions", arrays["element_positions"])
    arrays = {**arrays, **validation.surface(name, arrays, snapshots, positions)}
    measured = {
        "snapshots": snapshots,
        "channel": validation.channel_array(name, arrays["channel"]),
        "codes": validation.code_array(name, arrays["codes"], binary_codes),
    }
    validation.check_axes(name, {**measured, "element_positions": positions})
    validation.check_positions(name, positions)
    skipped = validation.unusable_scenes(name, measured)
    scenes = len(measured["snapshots"])
    usable = np.array([scene for scene in range(scenes) if scene not in skipped], np.int64)
    has_truth = validation.TRUTH_KEYS[0] in arrays
    return Recordings(
        snapshots=_usable(measured["snapshots"], usable),
        channel=_usable(measured["channel"], usable),
        codes=_usable(measured["codes"], usable),
        positions=positions,
        wavelength=validation.wavelength(name, arrays["wavelength"]),
        scene_numbers=usable,
        skipped=tuple(skipped.items()),
        truth=validation.truth(name, arrays, scenes, usable) if has_truth else None,
        snr_db=validation.snr(name, arrays["snr_db"], scenes, usable)
        if "snr_db" in arrays
        else None,
        wavefront=wavefront,
        source_signal=source_signal,
        response=validation.element_response(name, arrays, len(positions)),
    )


def _usable(array: np.ndarray, usable: Int[np.ndarray, "U"]) -> np.ndarray:
    """Select the usable scenes of [B, ...]; an array shared by all scenes is not copied."""
    return array[usable] if array.ndim == 3 else np.broadcast_to(array, (len(usable), *array.shape))


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """Return the file itself, or the files of a directory in the order of their names.

    Raises:
      RunError: the directory has no .npz files.
    """
    if not path.is_dir():
        return [path]
    # Names with a leading dot are temporary files, or metadata of macOS.
    files = sorted(file for file in path.glob("*.npz") if not file.name.startswith("."))
    if not files:
        raise errors.RunError(f"{path}: need a directory of .npz recordings; got one without any")
    return files


def _read_folder(
    folder: pathlib.Path, binary_codes: validation.BinaryCodes | None = None
) -> Recordings:
    files = files_of(folder)
    parts = [_read_file(path, binary_codes) for path in files]
    for path, part in zip(files, parts, strict=True):
        require_alike(path, part, files[0], parts[0])
    return _join([path.name for path in files], parts)


def require_alike(
    path: pathlib.Path, part: Recordings, first_path: pathlib.Path, first: Recordings
) -> None:
    """Check that two files of a directory differ only in their scenes.

    Raises:
      RunError: another field differs from the first file; the field is named.
    """

    def described(recordings):
        truth = recordings.truth
        return {
            "snapshots [L, M]": list(recordings.snapshots.shape[1:]),
            "channel [M, N]": list(recordings.channel.shape[1:]),
            "wavelength": recordings.wavelength,
            "element_positions": recordings.positions.tolist(),
            "truth": "none" if truth is None else f"K_max={truth.azimuth.shape[1]}",
            "snr_db": "none" if recordings.snr_db is None else "given",
            "response": _listed_response(recordings.response),
            "format": "recordings" if recordings.wavefront is None else "reference shard",
        }

    needed, got = described(first), described(part)
    for field in needed:
        if needed[field] != got[field]:
            short = field in ("element_positions", "response")
            validation.fail(
                str(path),
                field,
                f"{'the same' if short else needed[field]} as in {first_path.name}",
                "others" if short else got[field],
            )


def _listed_response(response: ElementResponse | None) -> str:
    """Return all numbers of a response as text, to compare files."""
    fields = _response_fields(response).items()
    return str({key: np.asarray(value).tolist() for key, value in fields if value is not None})


def _join(names: list[str], parts: list[Recordings]) -> Recordings:
    """Join files of one system, with scenes numbered across them."""
    sizes = [len(part.scene_numbers) + len(part.skipped) for part in parts]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    skipped = tuple(
        (start + scene, f"{reason} (scene {scene} of {name})")
        for start, name, part in zip(starts, names, parts, strict=True)
        for scene, reason in part.skipped
    )
    truths = [part.truth for part in parts if part.truth is not None]
    ratios = [part.snr_db for part in parts if part.snr_db is not None]
    snapshots, channel, codes = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("snapshots", "channel", "codes")
    )
    return dataclasses.replace(
        parts[0],
        snapshots=snapshots,
        channel=channel,
        codes=codes,
        scene_numbers=np.concatenate(
            [start + part.scene_numbers for start, part in zip(starts, parts, strict=True)]
        ),
        skipped=skipped,
        files=tuple(zip(names, starts, strict=True)),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        truth=SourceTruth(*map(np.concatenate, zip(*truths, strict=True))) if truths else None,
        snr_db=np.concatenate(ratios) if ratios else None,
    )


def calibrated(
    recordings: Recordings, calibration: surface_calibration.SurfaceCalibration
) -> Recordings:
    """Return recordings with the factors of a calibration in their codes, and its pose.

    Raises:
      RunError: the calibration is of another surface.
    """
    surface_calibration.require_same_elements(
        calibration, recordings.positions, recordings.wavelength
    )
    response = recordings.response
    if response is not None and calibration.rotation is not None:
        response = response.rotated(calibration.rotation)
    return dataclasses.replace(
        recordings,
        codes=calibration.apply_to_codes(recordings.codes),
        positions=calibration.apply_to_positions(recordings.positions),
        response=response,
    )


def measurement_of(recordings: Recordings, *, static_path: bool = False) -> scenes.Measurement:
    """Return the scenes of a file as a batch of measurements, in host memory.

    Args:
      recordings: from `read`.
      static_path: whether the snapshots have a static path, which `snr_db` does not include.

    Returns:
      `Measurement` [B, ...]; the noise variance follows from `snr_db`, and is NaN without it.
    """
    noise_variance = noise_variance_of(
        recordings.snapshots, recordings.snr_db, static_path=static_path
    )
    fields: dict[str, Any] = {  # NumPy arrays, which every estimator accepts
        "snapshots": recordings.snapshots,
        "channel": recordings.channel,
        "codes": recordings.codes,
        "noise_variance": noise_variance,
    }
    return scenes.Measurement(**fields)


def noise_variance_of(
    snapshots: Complex[np.ndarray, "B L M"],
    snr_db: Float[np.ndarray, "B"] | None,
    *,
    static_path: bool = False,
) -> Float[np.ndarray, "B"]:
    """Return the noise variance that an SNR implies, float32; NaN without one.

    Args:
      snapshots: received.
      snr_db: of each scene [dB], without the static path.
      static_path: whether the snapshots have a static path.
    """
    snapshots = static_path_lib.without_mean(snapshots) if static_path else snapshots
    power = np.mean(np.abs(snapshots) ** 2, axis=(1, 2))
    if snr_db is None:
        return np.full(power.shape, np.nan, np.float32)
    # Received power is signal plus noise, and their ratio is the SNR.
    return (power / (1.0 + 10.0 ** (snr_db / 10.0))).astype(np.float32)
