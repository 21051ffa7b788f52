"""Simulation of a recordings file with several frequencies."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.physics import arrays, codebooks, scenes, wideband

# Largest clock offset between the sources and the receiver [s].
_CLOCK_OFFSET = 20e-9


def frequency_scene(
    key: jax.Array,
    config: config_lib.Config,
    *,
    frequencies: Float[np.ndarray, "F"],
    coherence: config_lib.Coherence,
) -> wideband.WidebandScene:
    """Simulate one scene of random sources.

    The delay of a source is r / c plus a clock offset of up to 20 ns, the same for all sources of a
    scene, modulo the inverse of the frequency spacing.

    Args:
      key: all randomness of the scene.
      config: system and scenes; its wavelength sets the element positions only.
      frequencies: [F] [Hz], concrete.
      coherence: coherent, one amplitude and one delay a source; or incoherent.

    Raises:
      ConfigError: invalid frequencies.
    """
    band = wideband.band_of(frequencies)
    period = 1.0 / np.diff(np.sort(frequencies)).min(initial=np.inf)
    keys = jax.random.split(key, 3)
    truth = scenes.sample_truth(keys[0], config.scene)
    offset = _CLOCK_OFFSET * jax.random.uniform(keys[1])
    delay = truth.source_range / config_lib.SPEED_OF_LIGHT + offset
    delay = delay if period == 0.0 else jnp.mod(delay, period)
    return wideband.simulate_wideband(keys[2], truth, delay, config, band=band, coherence=coherence)


def simulated_recordings(
    config: config_lib.Config,
    frequencies: Float[np.ndarray, "F"],
    *,
    num_scenes: int,
    seed: int,
    coherence: config_lib.Coherence,
) -> dict[str, Any]:
    """Simulate the arrays of a recordings file, with truth; see `frequency_scene`.

    Args:
      config: system and scenes; its wavelength sets the element positions only.
      frequencies: [F] [Hz].
      num_scenes: B.
      seed: the same seed gives the same file.
      coherence: coherent, one amplitude and one delay a source; or incoherent.

    Returns:
      All fields of `frequency_recordings`; the codes are shared by scenes and frequencies, the
      delays are present if coherent.

    Raises:
      ConfigError: invalid frequencies.
    """
    draw = jax.jit(
        lambda key: frequency_scene(key, config, frequencies=frequencies, coherence=coherence)
    )
    keys = jax.random.split(scenes.stream_key(seed, "wideband"), num_scenes)
    # Scene by scene: a batch of channels would take more memory than the file.
    drawn = [jax.device_get(draw(key)) for key in keys]
    scene = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    truth = scene.truth
    active = np.arange(truth.azimuth.shape[1]) < truth.num_sources[:, None]
    places = {
        name: np.where(active, getattr(truth, name), np.nan)
        for name in ("azimuth", "elevation", "source_range")
    }
    coherent = {"delay": np.where(active, scene.delay, np.nan)} if coherence == "coherent" else {}
    return {
        "frequencies": np.asarray(frequencies, np.float64),
        "snapshots": scene.measurement.snapshots,
        "channel": scene.measurement.channel,
        "codes": np.asarray(codebooks.codebook(config.system)),
        "element_positions": np.asarray(arrays.element_positions(config.system), np.float64),
        "snr_db": truth.snr_db.astype(np.float64),
        "num_sources": truth.num_sources,
        **places,
        **coherent,
    }
