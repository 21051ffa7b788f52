"""Codes for several frequencies, for the command `design`: one set for all frequencies."""

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, frequency_flags, frequency_surface, surface_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.bound_maps import Surface
    from ris_jax.accuracy.code_design import DesignProblem
    from ris_jax.accuracy.wideband_surface import WidebandSurface

_NARROWBAND = ("transmit_power_dbm", "response_exponent")  # flags of `design`


def requested(values: flags.FlagValues) -> bool:
    """Return whether codes for several frequencies are requested.

    Raises:
      ConfigError: a flag that does not apply.
    """
    return frequency_flags.requested(values, _NARROWBAND, "expected none at several frequencies")


def announced(values: flags.FlagValues) -> str:
    """Check the flags that need no file; return the frequencies for a first line."""
    if not values.frequencies:
        return ""
    count = len(frequency_flags.parsed(values.frequencies))
    return f" at {count} frequencies, {values.coherence or 'incoherent'} amplitudes"


@dataclasses.dataclass(frozen=True)
class FrequencyDesign:
    """Position error bound of codes at several frequencies."""

    wideband: "WidebandSurface"
    coherence: config_lib.Coherence
    wavefront: config_lib.Wavefront

    def middle(self) -> "Surface":
        """Return the surface at the middle frequency, to which codes of the literature point."""
        import jax.numpy as jnp

        from ris_jax.accuracy import bound_maps

        wavelengths = np.asarray(self.wideband.band.wavelengths)
        index = int(np.argsort(wavelengths)[len(wavelengths) // 2])
        codes = self.wideband.codes
        return bound_maps.Surface(
            jnp.asarray(self.wideband.positions),
            jnp.asarray(codes[index] if codes.ndim == 3 else codes),
            jnp.asarray(self.wideband.channel[index])[None],
            jnp.asarray(wavelengths[index]),
        )

    def level(self, places: Float[np.ndarray, "P 3"], snr_db: float) -> Float[np.ndarray, "P"]:
        """Return the power of the source over the noise variance, for a mean SNR."""
        power = float(np.mean(np.abs(np.asarray(self.wideband.channel)) ** 2))
        return np.full(len(places), 10.0 ** (snr_db / 10.0) / power)

    def problem(self, places: np.ndarray, level: np.ndarray) -> "DesignProblem":
        """Return the problem of the optimiser."""
        import jax.numpy as jnp

        from ris_jax.accuracy import wideband_surface

        kind = self.wideband.positions.dtype
        return wideband_surface.design_problem(
            self.wideband, jnp.asarray(places, kind), jnp.asarray(level, kind),
            coherence=self.coherence, wavefront=self.wavefront,
        )  # fmt: skip

    def errors(
        self, codes: Complex[np.ndarray, "L N"], places: np.ndarray, level: np.ndarray
    ) -> Float[np.ndarray, "P"]:
        """Return the position error bound [m]; infinity if unidentifiable."""
        import jax.numpy as jnp

        from ris_jax.accuracy import wideband_surface

        surface = self.wideband._replace(codes=jnp.asarray(codes, self.wideband.channel.dtype))
        unit = wideband_surface.unit_bounds(
            surface, places, coherence=self.coherence, wavefront=self.wavefront
        )
        return unit.position_error / np.sqrt(level)

    def inputs(self) -> dict[str, Any]:
        """Return what the result depends on, besides `middle`, for a fingerprint."""
        band = [np.asarray(values).tolist() for values in self.wideband.band]
        channel = hashlib.sha256(np.asarray(self.wideband.channel).tobytes()).hexdigest()
        return {"band": band, "coherence": self.coherence, "channel": channel}


def from_flags(
    values: flags.FlagValues,
) -> tuple[surface_flags.SurfaceSource, FrequencyDesign]:
    """Return waves and configuration, and the bound of codes, after `requested`.

    Raises:
      ConfigError: the flags or the configuration do not apply.
      RunError: a file has unusable content.
    """
    config = common_flags.configuration(values, {})
    coherence = values.coherence or "incoherent"
    wideband = frequency_surface.surface(values, config)
    if coherence == "coherent" and len(wideband.band.wavelengths) < 2:
        raise config_lib.ConfigError("--coherence: coherent needs two or more frequencies; found 1")
    source = surface_flags.SurfaceSource(config, None, 0, None, values.seed, 1)
    return source, FrequencyDesign(wideband, coherence, config.system.wavefront)
