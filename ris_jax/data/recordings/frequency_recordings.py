"""Recordings at several frequencies, read from a file.

A recordings file of F frequencies has, in place of `wavelength` and of the shapes of
`recordings.reader`:

==================== ============================== ===========================================
frequencies          [F]                            [Hz], all different
snapshots            [B, F, L, M] complex
channel              [B, F, M, N] or [F, M, N]      complex
codes                [B, F, L, N], [B, L, N],       [F, L, N] depend on the frequency only;
                     [F, L, N] or [L, N]            where F = B, three axes are ambiguous
delay                [B, K_max]                     [s], optional, with the truth
==================== ============================== ===========================================

All other fields and the alternative names of fields are those of `recordings.reader`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import containers, conventions, validation
from ris_jax.physics import scenes

KEY = "frequencies"
_LAYOUTS = {
    "snapshots": ("BFLM",),
    "element_positions": ("N3",),
    "channel": ("BFMN", "FMN"),
    "codes": ("BFLN", "FLN", "BLN", "LN"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class FrequencyRecordings:
    """Usable scenes of a file with their metadata; NumPy, in host memory."""

    snapshots: Complex[np.ndarray, "B F L M"]  #: complex64, as the next two
    channel: Complex[np.ndarray, "S F M N"]  #: S is B, or 1 if all scenes share it
    codes: Complex[np.ndarray, "S C L N"]  #: C is F, or 1 if all frequencies have the same codes
    positions: Float[np.ndarray, "N 3"]  #: [m], float64
    frequencies: Float[np.ndarray, "F"]  #: [Hz], float64
    scene_numbers: Int[np.ndarray, "B"]  #: numbers of the scenes in the file, from 0
    skipped: tuple[tuple[int, str], ...]  #: (number in the file, reason) of scenes left out
    truth: validation.SourceTruth | None = None
    delay: Float[np.ndarray, "B K"] | None = None  #: true delays [s]
    snr_db: Float[np.ndarray, "B"] | None = None
    notes: tuple[str, ...] = ()  #: assumptions made in reading, one line each
    files: tuple[tuple[str, int], ...] = ()  #: empty: a single file

    @property
    def measurement(self) -> scenes.Measurement:
        """The scenes as a batch for `localize_wideband`; noise variances from `snr_db`, or NaN."""
        power = np.mean(np.abs(self.snapshots) ** 2, axis=(1, 2, 3))
        noise = np.full_like(power, np.nan)
        if self.snr_db is not None:
            noise = power / (1.0 + 10.0 ** (self.snr_db / 10.0))
        arrays = (self.snapshots, self.channel, self.codes, noise.astype(np.float32))
        return scenes.Measurement(*arrays)  # pyright: ignore[reportArgumentType]


def has_frequencies(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has recordings at several frequencies; False for a directory."""
    path = pathlib.Path(path)
    return path.is_file() and KEY in containers.names(path)


def read_frequencies(
    path: str | os.PathLike[str], *, binary_codes: validation.BinaryCodes | None = None
) -> FrequencyRecordings:
    """Read a recordings file with several frequencies.

    Args:
      path: a file ending in .npz, .h5, .hdf5 or .mat.
      binary_codes: as for `reader.read`.

    Returns:
      At least one usable scene.

    Raises:
      RunError: one line with the file, the field, the expected and the actual value.
    """
    name = str(path)
    keys = containers.names(path)
    return from_arrays(containers.load(path, keys), name, binary_codes=binary_codes)


# NumPy warns of signalling NaNs and of overflow; both are reported here.
@np.errstate(invalid="ignore", over="ignore")
def from_arrays(
    arrays: Mapping[str, np.ndarray],
    name: str = "recordings",
    *,
    binary_codes: validation.BinaryCodes | None = None,
) -> FrequencyRecordings:
    """Check arrays under the keys of a recordings file; see `read_frequencies`."""
    found = dict(arrays)
    frequencies = _frequencies(name, found)
    delay = found.pop("delay", None)
    if "states" in found:  # their coefficients define 0 and 1
        binary_codes = "amplitudes"
    found, notes = conventions.normalised(name, found)
    for key in found:
        if key.startswith("response_"):
            validation.fail(name, key, "no element response at several frequencies", "one")
    # The keys that remain are those of one frequency.
    validation.check_keys(name, [*found, "wavelength"])
    snapshots = validation.complex_array(name, "snapshots", found["snapshots"])
    positions = validation.real_array(name, "element_positions", found["element_positions"])
    if snapshots.ndim == 4:
        found |= validation.surface(name, found, snapshots[:, 0], positions)
    channel = validation.channel_array(name, found["channel"])
    if "channel" not in arrays and channel.ndim == 2:
        channel = np.broadcast_to(channel, (len(frequencies), *channel.shape))
    codes = validation.code_array(name, found["codes"], binary_codes)
    measured = {"snapshots": snapshots, "channel": channel, "codes": codes}
    validation.check_axes(name, {**measured, "element_positions": positions}, _LAYOUTS)
    validation.check_positions(name, positions)
    batch, count = snapshots.shape[:2]
    if count != len(frequencies):
        validation.fail(name, "snapshots", f"[B, F, L, M] with F = {len(frequencies)} frequencies",
                        list(snapshots.shape))  # fmt: skip
    if codes.ndim == 3 and count == batch > 1:
        validation.fail(name, "codes", f"[B, F, L, N] or [L, N], because F = B = {batch} makes "
                        "three axes ambiguous", list(codes.shape))  # fmt: skip
    codes = _with_axes(codes, count)
    channel = channel[None] if channel.ndim == 3 else channel
    skipped = _unusable(name, snapshots, channel, codes)
    usable = np.array([scene for scene in range(batch) if scene not in skipped], np.int64)
    if not len(usable):
        scene, reason = next(iter(skipped.items()))
        raise errors.RunError(f"{name}: no usable scene among {batch}; scene {scene}: {reason}")
    has_truth = validation.TRUTH_KEYS[0] in found
    truth = validation.truth(name, found, batch, usable) if has_truth else None
    return FrequencyRecordings(
        snapshots=snapshots[usable],
        channel=channel if len(channel) < batch else channel[usable],
        codes=codes if len(codes) < batch else codes[usable],
        positions=positions,
        frequencies=frequencies,
        scene_numbers=usable,
        skipped=tuple(skipped.items()),
        truth=truth,
        delay=None if delay is None else _delay(name, delay, truth, batch, usable),
        snr_db=validation.snr(name, found["snr_db"], batch, usable) if "snr_db" in found else None,
        notes=notes,
    )


def _frequencies(name: str, arrays: dict[str, np.ndarray]) -> Float[np.ndarray, "F"]:
    """Remove and check the frequencies."""
    values = validation.real_array(name, KEY, arrays.pop(KEY)).reshape(-1)
    for other in ("wavelength", "frequency"):
        if other in arrays:
            validation.fail(name, other, f"either it or {KEY}", "both")
    least = config_lib.LOWEST_FREQUENCY
    if not (values.size and np.isfinite(values).all() and (values >= least).all()):
        low = np.min(values, initial=np.inf)
        hint = " - in MHz or GHz?" if 0 < low < least else ""
        validation.fail(name, KEY, f"finite [Hz], all {least:g} or more", f"{low:g}{hint}")
    if len(np.unique(values)) < len(values):
        validation.fail(name, KEY, "different frequencies", "one of them more than once")
    return values


def _with_axes(codes: np.ndarray, frequencies: int) -> Complex[np.ndarray, "S C L N"]:
    """Add the axes of scenes and frequencies that codes lack."""
    if codes.ndim == 2:
        return codes[None, None]
    if codes.ndim == 3:
        return codes[None] if len(codes) == frequencies else codes[:, None]
    return codes


def _unusable(name: str, snapshots, channel, codes) -> dict[int, str]:
    """Return the scenes with unusable values and the reasons."""
    flat = {"snapshots": snapshots.reshape(len(snapshots), -1, snapshots.shape[-1])}
    for field, array in (("channel", channel), ("codes", codes)):
        merged = array.reshape(len(array), -1, array.shape[-1])
        flat[field] = merged[0] if len(merged) < len(snapshots) or len(merged) == 1 else merged
    return validation.unusable_scenes(name, flat)


def _delay(name, delay, truth, batch: int, usable) -> Float[np.ndarray, "U K"]:
    """Return true delays [s] of the usable scenes."""
    values = validation.real_array(name, "delay", delay)
    if truth is None:
        validation.fail(name, "delay", "the truth as well", "none")
    needed = [batch, truth.azimuth.shape[1]]
    if list(values.shape) != needed:
        validation.fail(name, "delay", f"[B, K_max] = {needed}", list(values.shape))
    active = np.arange(values.shape[1]) < truth.num_sources[:, None]
    values = np.where(active, values[usable], np.nan)
    if not np.isfinite(values[active]).all():
        validation.fail(name, "delay", "finite seconds", "NaN or infinity")
    return values
