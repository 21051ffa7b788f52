"""Checks of estimator arguments; errors state the needed and the given value."""

from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from ris_jax import config as config_lib
from ris_jax import scenes


def require(condition: Any, field: str, needed: str, got: Any) -> None:
    """Raise `ConfigError` unless the condition holds."""
    if not condition:
        raise config_lib.ConfigError(f"{field}: need {needed}; got {got!r}")


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
