"""Completion and checks of a measurement at several frequencies; see `estimation.inputs`."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ris_jax.estimation import inputs
from ris_jax.physics import scenes, wideband


def prepared_band(
    measurement: scenes.Measurement, positions: Any, frequencies: Float[Any, "F"]
) -> tuple[scenes.Measurement, np.ndarray, Float[np.ndarray, "F"]]:
    """Return a complete measurement at F frequencies, positions and frequencies.

    Arrays with a scene axis that are alike in all scenes count as shared.

    Args:
      measurement: snapshots [B, F, L, M]; channel [B, F, M, N] or [F, M, N]; codes [B, F, L, N],
        [F, L, N] or [L, N]; noise variance [B], one number, or None. In Python, codes [B, L, N]
        that are the same at all frequencies are ``codes[:, None]``, [B, 1, L, N].
      positions: [N, 3] [m].
      frequencies: [F] [Hz].

    Returns:
      The measurement with channel [S, F, M, N], codes [S, C, L, N] (S = B or 1, C = F or 1) and
      noise variance [B]; the positions; the frequencies in float64.

    Raises:
      ConfigError: one line that names the field.
    """
    positions = np.asarray(inputs.prepared_positions(positions))
    frequencies = np.asarray(frequencies)
    wideband.check_frequencies(frequencies)
    snapshots = inputs.array_of("snapshots", measurement.snapshots)
    if snapshots.ndim != 4:
        advice = "one scene is snapshots[None]" if snapshots.ndim == 3 else ""
        inputs.refuse("snapshots", "[B, F, L, M]", list(snapshots.shape), advice)
    if snapshots.dtype.kind != "c":
        inputs.refuse("snapshots", "complex numbers", snapshots.dtype)
    batch, count, length, antennas = snapshots.shape
    if count != len(frequencies):
        inputs.refuse("snapshots", f"[B, F, L, M] with F = {len(frequencies)} frequencies",
                      list(snapshots.shape))  # fmt: skip
    if not snapshots.size:
        inputs.refuse("snapshots", "no empty axis", list(snapshots.shape))
    if measurement.channel is None or measurement.codes is None:
        field = "channel" if measurement.channel is None else "codes"
        inputs.refuse(field, "an array for several frequencies", "none")
    channel = inputs.complex_channel(inputs.array_of("channel", measurement.channel))
    codes = inputs.complex_codes(inputs.array_of("codes", measurement.codes))
    elements = len(positions)
    channel, codes = (np.asarray(array) for array in (channel, codes))
    channel = channel[None] if channel.ndim == 3 else channel
    codes = {2: codes[None, None], 3: codes[None]}.get(codes.ndim, codes)
    for field, array, letters, sizes in (
        ("channel", channel, "[F, M, N]", ((count,), antennas, elements)),
        ("codes", codes, "[F, L, N] or [L, N]", ((count, 1), length, elements)),
    ):
        first, *rest = sizes
        fits = array.ndim == 4 and array.shape[2:] == tuple(rest)
        if not (fits and array.shape[0] in (1, batch) and array.shape[1] in first):
            inputs.refuse(
                field, f"{letters} = {[count, *rest]}, or these for each of B = {batch} scenes",
                list(np.shape(getattr(measurement, field))),
            )  # fmt: skip
    channel, codes = _one_if_alike(channel), _one_if_alike(codes)
    if len(channel) != len(codes):
        channel, codes = (
            np.broadcast_to(array, (batch, *array.shape[1:])) for array in (channel, codes)
        )
    noise = measurement.noise_variance
    noise = np.nan if noise is None else inputs.array_of("noise_variance", noise)
    if np.shape(noise) not in ((), (batch,)):
        inputs.refuse("noise_variance", f"one number or [B] = [{batch}]", list(np.shape(noise)))
    complete: dict[str, Any] = {
        "snapshots": np.asarray(snapshots),
        "channel": channel,
        "codes": codes,
        "noise_variance": np.broadcast_to(np.asarray(noise, np.float32), batch),
    }
    return scenes.Measurement(**complete), positions, frequencies.astype(np.float64)


def _one_if_alike(array: np.ndarray) -> np.ndarray:
    """Return [1, ...] of an array with equal entries in all scenes."""
    if len(array) < 2:
        return array
    alike = array.strides[0] == 0 or bool((array == array[:1]).all())
    return array[:1] if alike else array
