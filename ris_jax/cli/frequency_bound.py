"""Bound at several frequencies, for the command `bound`: a table of positions."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, frequency_flags, frequency_surface, surface_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.wideband_surface import WidebandSurface

_HEADER = (
    "azimuth_deg", "elevation_deg", "range_m", "snr_db", "azimuth_std_deg", "elevation_std_deg",
    "range_std_m", "position_error_m",
)  # fmt: skip
_DELAY = "delay_std_ns"
# Flags of `bound` that need one frequency.
_NARROWBAND = (
    "sweep", "target_m", "second", "resolution", "impairments", "num_channels", "front_range",
    "grid", "transmit_power_dbm", "codes", "response_exponent",
)  # fmt: skip


def requested(values: flags.FlagValues) -> bool:
    """Return whether the bound is that of several frequencies; see `frequency_flags.requested`.

    Raises:
      ConfigError: a flag that does not apply.
    """
    why = "expected none at several frequencies, where `bound` writes a table of positions"
    several = frequency_flags.requested(values, _NARROWBAND, why)
    if several and values.static_path == "on":
        raise config_lib.ConfigError(f"--static_path: {why}; found on")
    return several


def table(
    places: Float[np.ndarray, "P 3"],
    surface: "WidebandSurface",
    *,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront,
    snr_db: float,
) -> Float[np.ndarray, "P H"]:
    """Return the bound of a single source at each position, in the columns of the table."""
    from ris_jax.accuracy import wideband_surface

    unit = wideband_surface.unit_bounds(surface, places, coherence=coherence, wavefront=wavefront)
    scale = np.sqrt(unit.gain / 10.0 ** (snr_db / 10.0))
    deviations = unit.deviations * scale[:, None]
    columns = [
        np.rad2deg(places[:, :2]), places[:, 2:], np.full((len(places), 1), snr_db),
        np.rad2deg(deviations[:, :2]), deviations[:, 2:3], (scale * unit.position_error)[:, None],
        1e9 * deviations[:, 3:],
    ]  # fmt: skip
    return np.concatenate(columns, axis=1)


def run(values: flags.FlagValues, places: Float[np.ndarray, "P 3"]) -> int:
    """Print and write the table; return the exit status."""
    from ris_jax.reports import bound_tables, provenance, tables

    config = common_flags.configuration(values, {})
    coherence = values.coherence or "incoherent"
    numbers = table(
        places, frequency_surface.surface(values, config), coherence=coherence,
        wavefront=config.system.wavefront, snr_db=surface_flags.snr_db(values),
    )  # fmt: skip
    header = (*_HEADER, _DELAY) if coherence == "coherent" else _HEADER
    rows = bound_tables.rows(numbers)
    print(tables.as_text(header, rows), flush=True)
    folder = pathlib.Path(values.out)
    folder.mkdir(parents=True, exist_ok=True)
    provenance.write_whole(folder / "positions.csv", tables.as_csv(header, rows))
    print(f"written: {folder}")
    return 0
