"""Flags for a surface, its channel and its power, shared by `bound` and `design`."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.bound_maps import Surface, UnitBound
    from ris_jax.accuracy.link_budget import LinkBudget
    from ris_jax.data.recordings.reader import Recordings

_LINK_FLAGS = ("noise_figure_db", "bandwidth_hz", "path_loss_exponent", "surface_loss_db")
_WITH_DATA = ("scene.", "impairments.", "system.wavefront", "system.source_signal")


def define(values: flags.FlagValues) -> None:
    """Add the flags of a surface and of the power to a command's flags."""
    common_flags.define(values)
    common_flags.define_config(values)
    common_flags.define_response(values)
    flags.DEFINE_string(
        "data", None, "recordings file: its array, codes and channel, in place of a configuration",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("scene", 0, "scene of --data, from 0", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "codes", None, "codes file (.npz) with `codes` [L, N], in place of the codebook",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "seed",
        0,
        "random seed, for example of the channel of a configuration",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float("snr_db", None, "SNR of a single source; default: 10", flag_values=values)
    flags.DEFINE_float(
        "transmit_power_dbm", None, "power of a source, in place of --snr_db", flag_values=values
    )
    for name, default, text in (
        ("noise_figure_db", 5.0, "noise figure of the receivers"),
        ("bandwidth_hz", 1e6, "noise bandwidth"),
        ("path_loss_exponent", 2.0, "of the path from source to surface; 2 is free space"),
        ("surface_loss_db", 60.0, "mean loss from an element to an antenna"),
    ):
        flags.DEFINE_float(name, default, f"{text}; with --transmit_power_dbm", flag_values=values)


def link_budget(values: flags.FlagValues) -> "LinkBudget | None":
    """Return the link budget of the flags; None if the SNR is given.

    Raises:
      ConfigError: flags contradict each other, or a value is invalid.
    """
    from ris_jax.accuracy import link_budget as link_budget_lib

    if values.transmit_power_dbm is None:
        for name in _LINK_FLAGS:
            if values[name].present:
                raise config_lib.ConfigError(f"--{name}: needs --transmit_power_dbm; none given")
        if values.snr_db is not None and not abs(values.snr_db) <= 200:
            raise config_lib.ConfigError(f"--snr_db: need -200 to 200 dB; got {values.snr_db}")
        return None
    if values.snr_db is not None:
        raise config_lib.ConfigError("--transmit_power_dbm: need this or --snr_db; both given")
    fields = {name: getattr(values, name) for name in ("transmit_power_dbm", *_LINK_FLAGS)}
    try:
        return link_budget_lib.LinkBudget(**fields)
    except ValueError as error:
        raise config_lib.ConfigError(f"--{error}") from error


def snr_db(values: flags.FlagValues) -> float:
    """Return the given SNR, or its default [dB]."""
    return 10.0 if values.snr_db is None else values.snr_db


def place(flag: str, text: str) -> Float[np.ndarray, "3"]:
    """Parse a position `azimuth_deg,elevation_deg,range_m` into radians and metres.

    Raises:
      ConfigError: the text is no position, or not in front of the surface.
    """
    try:
        azimuth, elevation, metres = (float(part) for part in text.split(","))
    except ValueError as error:
        raise config_lib.ConfigError(
            f"--{flag}: need azimuth_deg,elevation_deg,range_m; got {text!r}"
        ) from error
    ahead = abs(azimuth) < 90 and abs(elevation) < 90
    if not (ahead and 0 < metres < np.inf):
        raise config_lib.ConfigError(
            f"--{flag}: need angles within 90 degrees and finite metres above zero; got {text!r}"
        )
    return np.array([np.deg2rad(azimuth), np.deg2rad(elevation), metres])


def read_codes(path: pathlib.Path, num_elements: int) -> Complex[np.ndarray, "L N"]:
    """Read codes for a surface of N elements.

    Raises:
      ConfigError: they do not fit the surface.
      RunError: the file has no usable codes.
    """
    from ris_jax.physics import codebooks

    codes = codebooks.read_codes(path)
    if codes.shape[1] != num_elements:
        raise config_lib.ConfigError(
            f"--codes: need codes [L, N] with N = {num_elements}; got {list(codes.shape)}"
        )
    return codes


@dataclasses.dataclass(frozen=True)
class SurfaceSource:
    """Source of a surface, and of variants with another size."""

    config: config_lib.Config
    recordings: "Recordings | None"
    scene: int
    codes: Complex[np.ndarray, "L N"] | None
    seed: int
    num_channels: int

    @property
    def waves(self) -> dict[str, Any]:
        """Return wavefront and source signal, as arguments of the bound."""
        system = self.config.system
        return {"wavefront": system.wavefront, "source_signal": system.source_signal}

    def sizes(self) -> str:
        """Return the numbers of elements, antennas and codes, for a first line."""
        found, system = self.recordings, self.config.system
        elements, antennas, codes = system.num_elements, system.num_antennas, system.num_snapshots
        if found is not None:
            (_, codes, antennas), elements = found.snapshots.shape, len(found.positions)
        codes = codes if self.codes is None else len(self.codes)
        return f"elements: {elements}, antennas: {antennas}, codes: {codes}"

    def model(self) -> str:
        """Return wavefront, source signal and element response, for a first line."""
        system = self.config.system
        response = f", elements cos^{system.response_exponent:g}" * (system.response_exponent > 0)
        response = ", elements with a table" if system.response_angles else response
        return f"{system.wavefront} waves, {system.source_signal} signals{response}"

    def surface(self, name: str | None = None, value: int = 0) -> "Surface":
        """Return the surface, or one with another number of antennas, codes, elements or bits.

        Raises:
          ConfigError: there is no such surface.
        """
        if self.recordings is not None:
            return self._recorded(name, value)
        system = self.config.system
        fields: dict[str, Any] = {
            "antennas": {"num_antennas": value},
            "codes": {"num_snapshots": value} if self.codes is None else {},
            "elements": _sides(system, value),
            "bits": {"phase_bits": value},
            None: {},
        }[name]
        if self.codes is not None and name in ("elements", "bits"):
            raise config_lib.ConfigError(f"--sweep: {name} not possible with the fixed --codes")
        system = dataclasses.replace(system, **fields)
        import jax
        import jax.numpy as jnp

        from ris_jax.accuracy import bound_maps
        from ris_jax.physics import arrays, channel, codebooks, element_response, scenes

        positions = arrays.element_positions(system)
        codes = codebooks.codebook(system) if self.codes is None else jnp.asarray(self.codes)
        scene = self.config.scene
        factor = 0.5 * (scene.rician_factor_min + scene.rician_factor_max)
        keys = jax.random.split(scenes.stream_key(self.seed, "bound"), self.num_channels)

        def draw(key):
            return channel.rician_channel(
                key, positions, num_antennas=system.num_antennas, wavelength=system.wavelength,
                rician_factor=jnp.asarray(factor),
            )  # fmt: skip

        return bound_maps.Surface(
            positions,
            _first("codes", codes, value) if name == "codes" else codes,
            jax.vmap(draw)(keys),
            jnp.asarray(system.wavelength),
            element_response.of_system(system),
        )

    def _recorded(self, name: str | None, value: int) -> "Surface":
        import jax.numpy as jnp

        from ris_jax.accuracy import bound_maps

        found = self.recordings
        assert found is not None
        if name in ("elements", "bits"):
            raise config_lib.ConfigError(f"--sweep: {name} need a configuration, not --data")
        codes = found.codes[self.scene] if self.codes is None else self.codes
        antennas = found.channel[self.scene]
        if name == "codes":
            codes = _first(name, codes, value)
        if name == "antennas":
            antennas = _first(name, antennas, value)
        return bound_maps.Surface(
            jnp.asarray(found.positions, float),
            jnp.asarray(codes),
            jnp.asarray(antennas)[None],
            jnp.asarray(found.wavelength),
            found.response,
        )


def _first(name: str, rows, count: int):
    if not 1 <= count <= len(rows):
        raise config_lib.ConfigError(f"--sweep: need 1 to {len(rows)} {name}; got {count}")
    return rows[:count]


def _sides(system: config_lib.SystemConfig, elements: int) -> dict[str, int]:
    """Return rows and columns of an array of the same shape with about as many elements."""
    if system.element_positions is not None:
        return {}
    scale = (elements / (system.rows * system.columns)) ** 0.5
    return {name: max(round(getattr(system, name) * scale), 1) for name in ("rows", "columns")}


def described_power(values: flags.FlagValues) -> str:
    """Return SNR, or transmit power and noise, for a first line or a title."""
    budget = link_budget(values)
    if budget is None:
        return f"{snr_db(values):g} dB SNR"
    return f"{budget.transmit_power_dbm:g} dBm, noise {budget.noise_power_dbm:.1f} dBm"


def announced(values: flags.FlagValues, num_channels: int = 1) -> str:
    """Check the flags that need no JAX; return system and power for a first line.

    Raises:
      ConfigError: flags contradict each other, or a value is invalid.
    """
    power = described_power(values)
    if not values.data:
        config = common_flags.configuration(values, _given(values))
        found = SurfaceSource(config, None, 0, None, values.seed, num_channels)
        codes = f" of {values.codes}" if values.codes else ""
        return f"{found.sizes()}{codes}, {found.model()}; {power}"
    for text in values.set:
        if not text.startswith(_WITH_DATA):
            raise config_lib.ConfigError(
                f"--set: with --data need scene.*, impairments.*, system.wavefront or "
                f"system.source_signal; got {text!r}"
            )
    if values["preset"].present:
        raise config_lib.ConfigError("--preset: need this or --data; both given")
    if num_channels > 1:
        raise config_lib.ConfigError("--num_channels: need 1 with --data, which has its channel")
    return f"scene {values.scene} of {values.data}; {power}"


def source(values: flags.FlagValues, num_channels: int = 1) -> SurfaceSource:
    """Return the surface that the flags describe, after `announced`.

    Raises:
      ConfigError: flags contradict each other.
      RunError: a file has unusable content.
      OSError: a file cannot be read.
    """
    if not values.data:
        config = common_flags.configuration(values, _given(values))
        codes = None
        if values.codes:
            codes = read_codes(pathlib.Path(values.codes), config.system.num_elements)
        return SurfaceSource(config, None, 0, codes, values.seed, num_channels)
    from ris_jax.data.recordings import reader as reader_lib

    found = reader_lib.read(values.data)
    if values.scene not in found.scene_numbers:
        raise config_lib.ConfigError(f"--scene: need a usable scene; got {values.scene}")
    said = {
        "system.wavefront": found.wavefront,
        "system.source_signal": found.source_signal,
    }
    config = common_flags.configuration(
        values, {}, {k: v for k, v in said.items() if v is not None}
    )
    codes = read_codes(pathlib.Path(values.codes), len(found.positions)) if values.codes else None
    found = dataclasses.replace(found, response=common_flags.response(values, found.response))
    index = int(np.flatnonzero(found.scene_numbers == values.scene)[0])
    return SurfaceSource(config, found, index, codes, values.seed, 1)


def _given(values: flags.FlagValues) -> dict[str, Any]:
    """Return the fields of a configuration that the flags define."""
    if values.response_exponent is None:
        return {}
    table = dict.fromkeys(("system.response_angles", "system.response_amplitudes"))
    return {"system.response_exponent": values.response_exponent, **table}


def power(
    values: flags.FlagValues, surface: "Surface", budget: "LinkBudget | None"
) -> Callable[[Float[np.ndarray, "P 3"], "UnitBound"], Float[np.ndarray, "D P"]]:
    """Return the function that computes received SNR from positions and their unit bound."""
    from ris_jax.accuracy import link_budget as link_budget_lib

    if budget is None:
        level = 10.0 ** (snr_db(values) / 10.0)
        return lambda places, unit: np.full(unit.gain.shape, level)
    channel_power = float(np.mean(np.abs(np.asarray(surface.channel)) ** 2))
    return lambda places, unit: link_budget_lib.received_snr(
        budget,
        np.asarray(unit.gain, float),
        np.asarray(places, float)[:, 2],
        num_elements=len(surface.positions),
        channel_power=channel_power,
        wavelength=float(surface.wavelength),
    )
