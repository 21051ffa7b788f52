"""Bound at several frequencies, for the command `bound`: a table of positions."""

import pathlib
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, frequency_flags, surface_flags

_HEADER = (
    "azimuth_deg", "elevation_deg", "range_m", "snr_db", "azimuth_std_deg", "elevation_std_deg",
    "range_std_m", "position_error_m",
)  # fmt: skip
_DELAY = "delay_std_ns"
# Flags of `bound` that need one frequency.
_NARROWBAND = (
    "sweep", "target_m", "second", "resolution", "impairments", "num_channels", "front_range",
    "grid", "transmit_power_dbm", "codes",
)  # fmt: skip


def requested(values: flags.FlagValues) -> bool:
    """Return whether --frequencies is given or --data has several frequencies.

    Raises:
      ConfigError: a flag that does not apply.
    """
    if not values.data:
        several = bool(values.frequencies)
    else:
        from ris_jax.data.recordings import frequency_recordings

        several = frequency_recordings.has_frequencies(values.data)
        if values.frequencies:
            raise config_lib.ConfigError(
                "--frequencies: expected this or --data, which has its frequencies; both given"
            )
    if several:
        why = "expected none at several frequencies, where `bound` writes a table of positions"
        frequency_flags.refuse(values, _NARROWBAND, why)
        if values.static_path == "on":
            raise config_lib.ConfigError(f"--static_path: {why}; found on")
    else:
        frequency_flags.refuse(values, ("coherence",), "needs several frequencies")
    return several


def _system(values: flags.FlagValues, config: config_lib.Config) -> dict[str, Any]:
    """Return positions, channel [F, M, N], codes [C, L, N] and frequencies."""
    if values.data:
        from ris_jax.data.recordings import frequency_recordings

        found = frequency_recordings.read_frequencies(values.data)
        if values.scene not in found.scene_numbers:
            raise config_lib.ConfigError(f"--scene: need a usable scene; got {values.scene}")
        index = int(np.flatnonzero(found.scene_numbers == values.scene)[0])
        return {
            "positions": found.positions,
            "channel": found.channel[min(index, len(found.channel) - 1)],
            "codes": found.codes[min(index, len(found.codes) - 1)],
            "frequencies": found.frequencies,
        }
    import jax
    import jax.numpy as jnp

    from ris_jax.physics import arrays, codebooks, scenes, wideband

    frequencies = frequency_flags.parsed(values.frequencies)
    positions, limits = arrays.element_positions(config.system), config.scene
    draw = jax.jit(wideband.wideband_channel, static_argnames="num_antennas")
    channel = draw(
        scenes.stream_key(values.seed, "bound"), positions,
        num_antennas=config.system.num_antennas, band=wideband.band_of(frequencies),
        rician_factor=jnp.asarray(0.5 * (limits.rician_factor_min + limits.rician_factor_max)),
    )  # fmt: skip
    codes = codebooks.codebook(config.system)[None]
    found = jax.device_get({"positions": positions, "channel": channel, "codes": codes})
    return found | {"frequencies": frequencies}


def table(
    places: Float[np.ndarray, "P 3"],
    channel: Complex[np.ndarray, "F M N"],
    codes: Complex[np.ndarray, "C L N"],
    positions: Float[np.ndarray, "N 3"],
    frequencies: Float[np.ndarray, "F"],
    *,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront,
    snr_db: float,
) -> Float[np.ndarray, "P H"]:
    """Return the bound of a single source at each position, in the columns of the table."""
    import jax
    import jax.numpy as jnp

    from ris_jax.accuracy import bounds, wideband_bound
    from ris_jax.physics import scenes, wideband

    band = wideband.band_of(frequencies)
    measurement = scenes.Measurement(
        snapshots=jnp.zeros(()),
        channel=jnp.asarray(channel, jnp.complex64),
        codes=jnp.asarray(codes[0] if len(codes) == 1 else codes, jnp.complex64),
        noise_variance=jnp.ones(()),
    )
    elements = jnp.asarray(positions, jnp.float32)
    signals = jnp.ones((len(frequencies), 1), jnp.complex64)

    @jax.jit
    def one(place):
        power = wideband.received_power(
            signals, place[None], measurement, elements, band=band, wavefront=wavefront
        )
        noise = power / 10.0 ** (snr_db / 10.0)
        found = wideband_bound.wideband_bound(
            measurement._replace(noise_variance=noise), place[:1], place[1:2], place[2:], None,
            signals, elements, band=band, coherence=coherence, wavefront=wavefront,
        )  # fmt: skip
        error = bounds.position_error_bound(found.position, place[:1], place[1:2], place[2:])
        return wideband_bound.wideband_deviations(found)[0], error[0]

    rows = []
    for place in places:
        deviations, error = jax.device_get(one(jnp.asarray(place, jnp.float32)))
        degrees = np.rad2deg([*place[:2], *deviations[:2]])
        row = [*degrees[:2], place[2], snr_db, *degrees[2:], deviations[2], error]
        rows.append([*row, *(1e9 * deviations[3:])])
    return np.array(rows)


def run(values: flags.FlagValues, places: Float[np.ndarray, "P 3"]) -> int:
    """Print and write the table; return the exit status."""
    from ris_jax.reports import bound_tables, provenance, tables

    config = common_flags.configuration(values, {})
    coherence = values.coherence or "incoherent"
    numbers = table(
        places, **_system(values, config), coherence=coherence, wavefront=config.system.wavefront,
        snr_db=surface_flags.snr_db(values),
    )  # fmt: skip
    header = (*_HEADER, _DELAY) if coherence == "coherent" else _HEADER
    rows = bound_tables.rows(numbers)
    print(tables.as_text(header, rows), flush=True)
    folder = pathlib.Path(values.out)
    folder.mkdir(parents=True, exist_ok=True)
    provenance.write_whole(folder / "positions.csv", tables.as_csv(header, rows))
    print(f"written: {folder}")
    return 0
