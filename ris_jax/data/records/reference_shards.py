"""Conversion of the reference pipeline's npz shards to the fields of a recordings file.

A shard has complex numbers as a last axis [real, imag] and the sources as one row ``ptr`` (azimuth,
elevation, range, K_max of each, zeros after the first K). It has no geometry: that is always a
12×12 grid whose origin is an element, with parabolic wavefronts and the same source amplitudes in
all snapshots. Its simulator shifted the elements by up to 7.5 mm without recording the shifts.
Snapshots are scaled by 1000, which only scales the amplitudes.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.recordings import validation

WAVEFRONT: config_lib.Wavefront = "parabolic"
SOURCE_SIGNAL: config_lib.SourceSignal = "constant"
_ROWS, _SPACING, _WAVELENGTH = 12, 0.15, 0.3  # [1], [m], [m]

# Fields to read; covariances, most of a shard's bytes, are not among them.
_LAYOUTS = {
    "y": ("B", "L", "M", "2"),
    "H_full": ("B", "M", "N", "2"),
    "codes": ("B", "L", "N", "2"),
    "ptr": ("B", "3 K_max"),
    "K": ("B",),
    "snr": ("B",),
}
KEYS = tuple(_LAYOUTS)


def recognised(keys: Iterable[str]) -> bool:
    """Return whether a file with these arrays is a shard, possibly an old or incomplete one."""
    return {"y", "ptr"} <= set(keys)  # users may call their own arrays y, H and codes


def check_keys(name: str, keys: Iterable[str]) -> None:
    """Check that all required arrays are present.

    Raises:
      RunError: one is missing; a missing channel has its own message.
    """
    missing = [key for key in KEYS if key not in set(keys)]
    if "H_full" in missing:
        validation.fail(
            name,
            "H_full",
            "the channel [B, M, N, 2]",
            "an older shard without it; H holds products with the codes only, from which the "
            "channel cannot be recovered",
        )
    if missing:
        raise errors.RunError(
            f"{name}: missing keys: {', '.join(missing)}; a PyTorch shard needs: {', '.join(KEYS)}"
        )


def as_recordings(name: str, shard: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a shard under the keys of a recordings file.

    Args:
      name: the file, for errors.
      shard: y [B, L, M, 2], H_full [B, M, 144, 2], codes [B, L, 144, 2], ptr [B, 3 K_max], K [B],
        snr [B].

    Returns:
      All keys of a recordings file; truth is padded with zeros, as in the shard.

    Raises:
      RunError: an axis or a dtype is wrong, or there are not 144 elements.
    """
    shard = {key: validation.real_array(name, key, shard[key]) for key in KEYS}
    _check_axes(name, shard)
    azimuth, elevation, source_range = np.split(shard["ptr"], 3, axis=1)
    return {
        "snapshots": _as_complex(shard["y"]),
        "channel": _as_complex(shard["H_full"]),
        "codes": _as_complex(shard["codes"]),
        "wavelength": np.array(_WAVELENGTH),
        "element_positions": element_positions(),
        "snr_db": shard["snr"],
        "num_sources": shard["K"],
        "azimuth": azimuth,
        "elevation": elevation,
        "source_range": source_range,
    }


def element_positions() -> Float[np.ndarray, "144 3"]:
    """Return the reference's grid, offsets -6 ... 5 in units of 0.15 m, x fastest [m]."""
    from ris_jax.physics import arrays as arrays_lib  # imports JAX

    # Whole numbers are exact in float32; metres are not.
    offsets = arrays_lib.planar_array(_ROWS, _ROWS, 1.0, centered=False)
    return np.asarray(offsets, np.float64) * _SPACING


def _check_axes(name: str, shard: Mapping[str, np.ndarray]) -> None:
    sizes = {"2": 2, "N": _ROWS**2}
    for key, axes in _LAYOUTS.items():
        shape = shard[key].shape
        fits = len(shape) == len(axes) and all(
            sizes.setdefault(axis, length) == length
            for axis, length in zip(axes, shape, strict=True)
        )
        if not fits:
            known = ", ".join(f"{a}={sizes[a]}" for a in axes if a in sizes and a.isalpha())
            needed = f"[{', '.join(axes)}]" + (f" with {known}" if known else "")
            validation.fail(name, key, needed, list(shape))
    if sizes["3 K_max"] % 3:
        got = list(shard["ptr"].shape)
        validation.fail(name, "ptr", "azimuth, elevation and range, K_max of each", got)


def _as_complex(parts: Float[np.ndarray, "... 2"]) -> Complex[np.ndarray, "..."]:
    # No arithmetic: 1j times infinity is NaN and a warning.
    return np.ascontiguousarray(parts).view(np.complex128)[..., 0]
