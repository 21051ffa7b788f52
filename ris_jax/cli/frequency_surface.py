"""A surface at several frequencies from the flags of `bound` and `design`."""

from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import frequency_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.wideband_surface import WidebandSurface


def surface(values: flags.FlagValues, config: config_lib.Config) -> "WidebandSurface":
    """Return the surface of --data, or of the configuration with one draw of its channel.

    Raises:
      ConfigError: a scene or a configuration that cannot be used.
      RunError: the file of --data has unusable content.
    """
    import jax
    import jax.numpy as jnp

    from ris_jax.accuracy import wideband_surface
    from ris_jax.physics import arrays, codebooks, scenes, wideband

    if values.data:
        from ris_jax.data.recordings import frequency_recordings

        found = frequency_recordings.read_frequencies(values.data)
        if values.scene not in found.scene_numbers:
            raise config_lib.ConfigError(f"--scene: need a usable scene; got {values.scene}")
        index = int(np.flatnonzero(found.scene_numbers == values.scene)[0])
        codes = found.codes[min(index, len(found.codes) - 1)]
        return wideband_surface.WidebandSurface(
            found.positions.astype(np.float32),  # pyright: ignore[reportArgumentType]
            codes[0] if len(codes) == 1 else codes,  # pyright: ignore[reportArgumentType]
            found.channel[min(index, len(found.channel) - 1)],  # pyright: ignore[reportArgumentType]
            wideband.band_of(found.frequencies),
        )
    frequency_flags.check_configuration(config, simulated=False)
    system, limits = config.system, config.scene
    band = wideband.band_of(frequency_flags.parsed(values.frequencies))

    @jax.jit
    def draw(band):
        positions = arrays.element_positions(system)
        factor = 0.5 * (limits.rician_factor_min + limits.rician_factor_max)
        channel = wideband.wideband_channel(
            scenes.stream_key(values.seed, "bound"), positions,
            num_antennas=system.num_antennas, band=band, rician_factor=jnp.asarray(factor),
        )  # fmt: skip
        return positions, codebooks.codebook(system), channel

    positions, codes, channel = draw(band)
    return wideband_surface.WidebandSurface(positions, codes, channel, band)
