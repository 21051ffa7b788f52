"""Codes for several frequencies, for the command `design`: one set for all frequencies."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.cli import (
    code_designer,
    common_flags,
    frequency_flags,
    frequency_surface,
    surface_flags,
)

if TYPE_CHECKING:
    from ris_jax.accuracy.bound_maps import Surface
    from ris_jax.accuracy.code_design import DesignProblem
    from ris_jax.accuracy.wideband_surface import WidebandSurface

# Flags of `design` that need one frequency.
_NARROWBAND = ("transmit_power_dbm", "response_exponent", "target_m")


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


def source(values: flags.FlagValues) -> surface_flags.SurfaceSource:
    """Return configuration and waves, after `requested`."""
    config = common_flags.configuration(values, {})
    return surface_flags.SurfaceSource(config, None, 0, None, values.seed, 1)


def designer(
    values: flags.FlagValues,
    source: surface_flags.SurfaceSource,
    places: Float[np.ndarray, "P 3"],
) -> "FrequencyDesigner":
    """Return the optimiser for the frequencies of the flags or of --data.

    Raises:
      ConfigError: the flags or the configuration do not apply.
      RunError: a file has unusable content.
    """
    coherence = values.coherence or "incoherent"
    wideband = frequency_surface.surface(values, source.config)
    if coherence == "coherent" and len(wideband.band.wavelengths) < 2:
        raise config_lib.ConfigError("--coherence: coherent needs two or more frequencies; found 1")
    return FrequencyDesigner(values, wideband, coherence, source.waves, places)


class FrequencyDesigner(code_designer.Designer):
    """Optimiser of codes that are the same at all frequencies."""

    has_four_beams = False

    def __init__(
        self,
        flags_of_design: flags.FlagValues,
        wideband: "WidebandSurface",
        coherence: config_lib.Coherence,
        waves: dict[str, Any],
        places: Float[np.ndarray, "P 3"],
    ):
        """Prepare the problem.

        Args:
          flags_of_design: of the command `design`.
          wideband: surface and frequencies.
          coherence: incoherent or coherent.
          waves: wavefront and source signal.
          places: positions to design for, azimuth [rad], elevation [rad], range [m].
        """
        self.wideband = wideband
        self.model = {"coherence": coherence, "wavefront": waves["wavefront"]}
        super().__init__(flags_of_design, _middle(wideband), waves, places)

    def level(self, places: np.ndarray) -> Float[np.ndarray, "P"]:
        """Power of the source over the noise variance, for a mean SNR over the frequencies."""
        power = float(np.mean(np.abs(np.asarray(self.wideband.channel)) ** 2))
        return np.full(len(places), 10.0 ** (surface_flags.snr_db(self.flags) / 10.0) / power)

    def make_problem(self, places: np.ndarray) -> "DesignProblem":
        import jax.numpy as jnp

        from ris_jax.accuracy import wideband_surface

        kind = self.wideband.positions.dtype
        return wideband_surface.design_problem(
            self.wideband, jnp.asarray(places, kind), jnp.asarray(self.level(places), kind),
            **self.model,
        )  # fmt: skip

    def errors(self, codes: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "P"]:
        """Return the position error bound [m]; infinity if unidentifiable."""
        import jax.numpy as jnp

        from ris_jax.accuracy import wideband_surface

        surface = self.wideband._replace(codes=jnp.asarray(codes, self.wideband.channel.dtype))
        unit = wideband_surface.unit_bounds(surface, places, **self.model)
        return unit.position_error / np.sqrt(self.level(places))

    def fingerprint(self) -> str:
        """Return a hash of everything that the result depends on."""
        arrays = (self.wideband.channel, *self.wideband.band)
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
        whole = [super().fingerprint().encode(), self.model["coherence"].encode(), *parts]
        return hashlib.sha256(b"".join(whole)).hexdigest()


def _middle(wideband: "WidebandSurface") -> "Surface":
    """Return the surface at the middle frequency, for codes of the literature."""
    import jax.numpy as jnp

    from ris_jax.accuracy import bound_maps

    wavelengths, codes = np.asarray(wideband.band.wavelengths), wideband.codes
    index = int(np.argsort(wavelengths)[len(wavelengths) // 2])
    return bound_maps.Surface(
        jnp.asarray(wideband.positions),
        jnp.asarray(codes[index] if codes.ndim == 3 else codes),
        jnp.asarray(wideband.channel[index])[None],
        jnp.asarray(wavelengths[index]),
    )
