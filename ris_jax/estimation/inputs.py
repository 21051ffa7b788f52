"""Completion and checks of the arguments of estimators.

Every error is one line with the field, what was expected, what was found and what to do. Inside
`jax.jit` values cannot be read; there only shapes and types are checked.
"""

from typing import Any, get_args

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from ris_jax import config as config_lib
from ris_jax.physics import scenes

# Distance of the centre from the origin, over the extent of the array, beyond which positions are
# map coordinates: float32 phases would lose digits, and source positions are relative to the array.
_FAR = 100.0


def refuse(field: str, expected: str, found: object, advice: str = "") -> None:
    """Raise a `ConfigError` of one line."""
    raise config_lib.ConfigError(
        f"{field}: expected {expected}; found {found}" + (f"; {advice}" if advice else "")
    )


def array_of(field: str, value: Any) -> Any:
    """Return a JAX or NumPy array unchanged; convert a list or number to a NumPy array."""
    if isinstance(value, (np.ndarray, jax.Array, Tracer)):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiubc":
        refuse(field, "an array of numbers", type(value).__name__)
    return array


def code_problem(codes: np.ndarray) -> tuple[str, str] | None:
    """Diagnose real codes: what was found, and advice; None if they are valid coefficients.

    Real coefficients are -1 and 1. Only 0 and 1 look like one-bit states.
    """
    values = codes[np.isfinite(codes)] if codes.dtype.kind == "f" else codes
    known = np.isin(values, (-1, 0, 1))
    if not known.all():
        kind = "phases" if codes.dtype.kind == "f" else "states"
        other = values[~known].flat[0]
        advice = "exp(1j * phase)" if kind == "phases" else "exp(2j * pi * state / num_states)"
        return f"real {other}, which looks like {kind}", f"give {advice}"
    if not (values == -1).any() and (values == 0).any() and (values == 1).any():
        return (
            "only 0 and 1, which look like one-bit states",
            "give exp(1j * pi * states) for phases 0 and pi, or complex numbers for elements that "
            "are switched off",
        )
    return None


def real_channel_accepted(channel: np.ndarray) -> bool:
    """Return whether a real channel is valid: antennas are elements (an identity matrix)."""
    return bool(np.isin(channel, (0, 1)).all())


def prepared_positions(positions: Any) -> Any:
    """Return finite positions [N, 3] as an array.

    Raises:
      ConfigError: they are not.
    """
    positions = array_of("positions", positions)
    if positions.ndim != 2 or positions.shape[1] != 3:
        advice = "transpose it" if positions.ndim == 2 and positions.shape[0] == 3 else ""
        refuse("positions", "[N, 3]", list(positions.shape), advice)
    if positions.dtype.kind not in "fiu":
        refuse("positions", "real metres", positions.dtype)
    if not isinstance(positions, Tracer) and not np.isfinite(np.asarray(positions)).all():
        refuse("positions", "finite metres", "NaN or infinity")
    return positions


def prepared(measurement: scenes.Measurement, positions: Any) -> tuple[scenes.Measurement, Any]:
    """Return a complete measurement, and positions as arrays.

    Channel and codes may be missing: an array without a surface has the channel I and codes 1.
    They may be shared by all scenes, [M, N] and [L, N]; arrays [B, ...] that are alike in all
    scenes count as shared. The noise variance may be missing, or one number for all scenes.

    Args:
      measurement: `Measurement` as a user made it.
      positions: [N, 3] array or list [m].

    Returns:
      The measurement with a batch axis in every field, and the positions. If all scenes share the
      channel and the codes, theirs are [1, M, N] and [1, L, N].

    Raises:
      ConfigError: one line that names the field.
    """
    positions = prepared_positions(positions)
    snapshots = array_of("snapshots", measurement.snapshots)
    if snapshots.ndim != 3:
        advice = {2: "one scene is snapshots[None]", 4: "for F frequencies use localize_wideband"}
        advice = advice.get(snapshots.ndim, "")
        refuse("snapshots", "[B, L, M]", list(snapshots.shape), advice)
    if snapshots.dtype.kind != "c":
        refuse("snapshots", "complex numbers", snapshots.dtype)
    batch, length, antennas = snapshots.shape
    elements = positions.shape[0]
    channel = measurement.channel
    if channel is None:
        if antennas != elements:
            refuse("channel", f"[M, N] = [{antennas}, {elements}]", "none",
                    "only an array whose antennas are its elements, M = N, needs none")  # fmt: skip
        channel = np.eye(antennas, dtype=np.complex64)
    channel = complex_channel(array_of("channel", channel))
    codes = measurement.codes
    if codes is None:
        codes = np.ones((length, elements), np.complex64)
    codes = complex_codes(array_of("codes", codes))
    noise = measurement.noise_variance
    noise = (
        np.full(batch, np.nan, np.float32) if noise is None else array_of("noise_variance", noise)
    )
    if noise.shape not in ((), (batch,)):
        refuse("noise_variance", f"one number or [B] = [{batch}]", list(noise.shape))
    spread = jax.numpy if isinstance(noise, Tracer) else np
    shared = {"channel": channel, "codes": codes}
    shared = {field: _one_if_alike(array) for field, array in shared.items()}
    if any(len(array) > 1 for array in shared.values()):
        shared = {field: _for_each(array, batch) for field, array in shared.items()}
    complete: dict[str, Any] = {
        "snapshots": snapshots,
        **shared,
        "noise_variance": spread.broadcast_to(noise, batch) if noise.ndim == 0 else noise,
    }
    return scenes.Measurement(**complete), positions


def _one_if_alike(array: Any) -> Any:
    """Return [1, ...] of an array without scene axis, or with equal entries in all scenes."""
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or len(array) < 2 or isinstance(array, Tracer):
        return array
    values = np.asarray(array)
    # Different scenes mostly differ in the first numbers.
    alike = (values[:, :1, :1] == values[:1, :1, :1]).all() and (values == values[:1]).all()
    return array[:1] if alike else array


def _is_of_jax(array: Any) -> bool:
    """Return whether an array belongs to JAX, also during tracing."""
    return isinstance(array, (Tracer, jax.Array))


def _for_each(array: Any, batch: int) -> Any:
    """Expand a shared array [1, ...] to [B, ...]."""
    if len(array) != 1:
        return array
    module = jax.numpy if _is_of_jax(array) else np
    return module.broadcast_to(array, (batch, *array.shape[1:]))


def for_each_scene(measurement: scenes.Measurement) -> scenes.Measurement:
    """Repeat channel and codes for every scene, [B, ...]."""
    batch = len(measurement.snapshots)
    return measurement._replace(
        channel=_for_each(measurement.channel, batch), codes=_for_each(measurement.codes, batch)
    )


def as_canonical(array: Any) -> jax.Array:
    """Convert to a JAX array of default precision: 32 bits, or 64 with ``JAX_ENABLE_X64``."""
    kind = jax.numpy.complex128 if jax.numpy.iscomplexobj(array) else jax.numpy.float64
    kind = jax.dtypes.canonicalize_dtype(kind)
    return array.astype(kind) if _is_of_jax(array) else jax.device_put(np.asarray(array, kind))


def complex_channel(channel: Any) -> Any:
    """Return a channel as complex numbers; a real one must be an identity matrix."""
    if channel.dtype.kind == "c":
        return channel
    if isinstance(channel, Tracer) or not real_channel_accepted(np.asarray(channel)):
        refuse("channel", "complex numbers", channel.dtype,
                "if it is real, use channel.astype(complex)")  # fmt: skip
    return np.asarray(channel, np.complex64)


def complex_codes(codes: Any) -> Any:
    """Return codes as complex numbers; real ones must be valid coefficients."""
    if codes.dtype.kind == "c":
        return codes
    expected = "complex reflection coefficients"
    if isinstance(codes, Tracer) or codes.dtype.kind == "b":
        refuse("codes", expected, codes.dtype)
    problem = code_problem(np.asarray(codes))
    if problem is not None:
        refuse("codes", expected, *problem)
    return np.asarray(codes, np.complex64)


def centred(positions: Any) -> tuple[Any, bool]:
    """Centre map coordinates about the origin, in float64; other positions are unchanged.

    Args:
      positions: [N, 3] [m].

    Returns:
      The positions, and whether they were moved.
    """
    if isinstance(positions, Tracer):
        return positions, False
    values = np.asarray(positions, np.float64)
    centre = values.mean(axis=0)
    extent = np.sqrt(np.max(np.sum((values - centre) ** 2, axis=1)))
    if np.linalg.norm(centre) <= _FAR * extent:
        return positions, False
    return values - centre, True


def check_determined(
    antennas: int, source_signal: config_lib.SourceSignal, num_sources: Any, max_sources: int
) -> None:
    """Check that independent signals have fewer sources than antennas; otherwise any data fit.

    Raises:
      ConfigError: M antennas and M or more sources.
    """
    if source_signal != "independent" or isinstance(num_sources, Tracer):
        return
    if num_sources is None:
        if antennas <= max_sources:
            refuse(
                "max_sources",
                f"less than M={antennas} antennas for independent signals",
                max_sources,
                f"give max_sources={antennas - 1} or less" if antennas > 1 else
                "one antenna needs constant signals",
            )  # fmt: skip
    elif np.size(num_sources) and np.max(np.asarray(num_sources)) >= antennas:
        most = np.max(np.asarray(num_sources)).item()
        refuse("num_sources", f"less than M={antennas} antennas for independent signals", most)


def check_static_path(
    choice: config_lib.StaticPath,
    measurement: scenes.Measurement,
    source_signal: config_lib.SourceSignal,
    max_sources: int,
) -> bool:
    """Check whether a static path can be removed as requested.

    Args:
      choice: "on", "off" or "auto".
      measurement: after `prepared`.
      source_signal: constant or independent.
      max_sources: maximum number of sources.

    Returns:
      Whether a static path can be separated from the sources.

    Raises:
      ConfigError: an unknown choice, or "on" with data whose static path cannot be separated.
    """
    choices = get_args(config_lib.StaticPath)
    if choice not in choices:
        refuse("static_path", f"one of {', '.join(choices)}", repr(choice))
    problem = _static_path_problem(measurement, source_signal, max_sources)
    if problem is not None and choice == "on":
        refuse("static_path", f"off or auto with {problem[0]}", "on", problem[1])
    return problem is None


def _static_path_problem(
    measurement: scenes.Measurement, source_signal: config_lib.SourceSignal, max_sources: int
) -> tuple[str, str] | None:
    """Return why no static path can be removed, and advice; None if it can be."""
    codes, (length, antennas) = measurement.codes, measurement.snapshots.shape[-2:]
    if source_signal != "constant":
        return (
            "independent signals, with which the path changes in every snapshot",
            "send a known pilot, divide the snapshots by it and use source_signal=constant",
        )
    alike = not isinstance(codes, Tracer) and bool((codes == codes[:, :1]).all())
    if length < 2 or alike:
        return (
            "a single code, under which the path and the sources look the same",
            "record each scene under several codes",
        )
    most = (length - 1) * antennas
    if max_sources >= most:
        return (
            f"max_sources={max_sources} and {length} codes",
            f"give a max_sources below (L - 1) M = {most}, or more codes",
        )
    return None


def require(condition: Any, field: str, needed: str, got: Any) -> None:
    """Raise `ConfigError` unless the condition holds."""
    if not condition:
        raise config_lib.ConfigError(f"{field}: need {needed}; got {got!r}")


def counts_and_positions(num_sources: Any, positions: Any, batch: int) -> tuple[Any, Any]:
    """Return the number of sources of each scene, [B], and positions as an array.

    Args:
      num_sources: one number for all scenes, or one for each.
      positions: [N, 3], also a list.
      batch: number of scenes B.
    """
    counts, positions = array_of("num_sources", num_sources), array_of("positions", positions)
    return (jax.numpy.broadcast_to(counts, batch) if counts.ndim == 0 else counts), positions


def check_counts(
    num_sources: int | Int[Any, "B"] | None,
    max_sources: int,
    false_alarm_rate: float,
    *,
    batch: int | None = None,
) -> None:
    """Check the number of sources, its maximum, and the false-alarm rate.

    Args:
      num_sources: for all scenes or each; None: unknown.
      max_sources: 1 or more.
      false_alarm_rate: between 0 and 1.
      batch: number of scenes, if known.

    Raises:
      ConfigError: one of them is invalid.
    """
    require(max_sources >= 1, "max_sources", "1 or more", max_sources)
    require(0 < false_alarm_rate < 1, "false_alarm_rate", "0 < value < 1", false_alarm_rate)
    if num_sources is None or isinstance(num_sources, Tracer):
        return
    counts = np.asarray(num_sources)
    require(np.issubdtype(counts.dtype, np.integer), "num_sources", "integers", num_sources)
    within = not counts.size or (counts.min() >= 0 and counts.max() <= max_sources)
    got = counts.item() if counts.ndim == 0 else f"{counts.min()} to {counts.max()}"
    require(within, "num_sources", f"0 to max_sources={max_sources}", got)
    fits = batch is None or counts.shape in ((), (batch,))
    require(fits, "num_sources", f"one number or [{batch}]", num_sources)


def check_scenes(
    measurement: scenes.Measurement,
    positions: Float[Any, "N 3"],
    wavelength: float,
    max_sources: int,
) -> None:
    """Check shapes, number of scenes, wavelength and maximum number of sources.

    Raises:
      ConfigError: mismatched shapes, no scenes, an invalid wavelength, or as many sources as
        elements or samples.
    """
    snapshots, channel, codes = measurement.snapshots, measurement.channel, measurement.codes
    for name, array, axes in (
        ("snapshots", snapshots, "[B, L, M]"),
        ("channel", channel, "[B, M, N]"),
        ("codes", codes, "[B, L, N]"),
    ):
        require(array.ndim == 3, name, axes, array.shape)
    batch, length, antennas = snapshots.shape
    elements = positions.shape[0]
    shared = int(len(channel) == len(codes) == 1)
    for name, array, shape in (
        ("channel", channel, (shared or batch, antennas, elements)),
        ("codes", codes, (shared or batch, length, elements)),
        ("positions", positions, (elements, 3)),
    ):
        require(array.shape == shape, name, f"{list(shape)}", list(array.shape))
    require(batch > 0, "measurement", "at least one scene", batch)
    limit = min(elements, length * antennas)
    require(max_sources < limit, "max_sources", f"less than min(N, L M) = {limit}", max_sources)
    require(0.0 < wavelength < float("inf"), "wavelength", "a length above zero", wavelength)
