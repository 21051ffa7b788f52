"""Scenes at several frequencies for `evaluate`, with their localisation."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, evaluation_scenes, frequency_flags

if TYPE_CHECKING:
    from ris_jax.cli.evaluation_scenes import EvaluationScenes


def check(values: flags.FlagValues) -> str:
    """Check the flags that need no file; return the frequencies for a first line."""
    if not values.frequencies:
        return ""
    count = len(frequency_flags.parsed(values.frequencies))
    frequency_flags.check_estimator(values)
    return f" at {count} frequencies"


def requested(values: flags.FlagValues) -> bool:
    """Return whether scenes at several frequencies are to be scored.

    Raises:
      ConfigError: a flag that does not apply, such as one of a network.
      RunError: the file of --data cannot be read.
    """
    several = frequency_flags.requested(values, (), "")
    if several:
        frequency_flags.check_estimator(values)
    return several


def scenes(values: flags.FlagValues, config: config_lib.Config, count: int) -> "EvaluationScenes":
    """Return the scenes of --data or of the stream `test`.

    Args:
      values: of the command.
      config: of the scenes; of recordings, wavefront and field of view.
      count: number of simulated scenes; of recordings, --num_scenes is the maximum.

    Raises:
      ConfigError: flags or configuration do not apply, or recordings have no truth.
      RunError: the file of --data cannot be read.
    """
    frequency_flags.check_configuration(config, simulated=not values.data)
    coherence = values.coherence or "incoherent"
    if values.data:
        return _recorded(values, config, coherence)
    return _simulated(
        config, frequency_flags.parsed(values.frequencies), count, values.batch_size, coherence
    )


def described(case: "EvaluationScenes") -> str:
    """Return the frequencies and the coherence of scenes in words."""
    frequencies = np.asarray(case.options["frequencies"]) / 1e9
    return (
        f"{len(frequencies)} frequencies from {frequencies.min():g} to {frequencies.max():g} GHz, "
        f"{case.options['coherence']} amplitudes"
    )


def _options(
    config: config_lib.Config, frequencies: np.ndarray, coherence: config_lib.Coherence
) -> dict[str, object]:
    from ris_jax.estimation import search_grid

    return {
        "frequencies": frequencies.tolist(),
        "coherence": coherence,
        "wavefront": config.system.wavefront,
        "max_sources": config.scene.max_sources,
        "region": search_grid.region_of(config.scene),
    }


def _recorded(
    values: flags.FlagValues, config: config_lib.Config, coherence: config_lib.Coherence
) -> "EvaluationScenes":
    from ris_jax.data.recordings import frequency_recordings
    from ris_jax.physics.scenes import Measurement

    found = frequency_recordings.read_frequencies(values.data)
    if found.truth is None:
        raise config_lib.ConfigError(
            f"--data: need recordings with truth; got none in {values.data}"
        )
    evaluation_scenes.print_skipped(found)
    kept, measurement = slice(values.num_scenes), found.measurement
    # Channel and codes that all scenes share have one entry.
    fields = [field[kept] if len(field) == len(found.snapshots) else field for field in measurement]
    options = _options(config, found.frequencies, coherence)
    options["max_sources"] = max(config.scene.max_sources, found.truth.azimuth.shape[1])
    return evaluation_scenes.EvaluationScenes(
        measurement=Measurement(*fields),
        positions=found.positions,
        truth=type(found.truth)(*(field[kept] for field in found.truth)),
        snr_db=None if found.snr_db is None else found.snr_db[kept],
        snr_limits_db=None,
        bound=None,
        options=options,
        delay=None if found.delay is None else found.delay[kept],
    )


def _simulated(
    config: config_lib.Config,
    frequencies: Float[np.ndarray, "F"],
    num_scenes: int,
    chunk_size: int,
    coherence: config_lib.Coherence,
) -> "EvaluationScenes":
    """Simulate the first scenes of the stream `test`, with their bound."""
    import jax

    from ris_jax.accuracy import wideband_bound
    from ris_jax.data.recordings import frequency_simulation
    from ris_jax.estimation import batches
    from ris_jax.physics import arrays, codebooks, wideband
    from ris_jax.physics import scenes as scenes_lib

    key = scenes_lib.stream_key(config.training.seed, evaluation_scenes.TEST)
    band, system = wideband.band_of(frequencies), config.system
    positions, codes = jax.jit(
        lambda: (arrays.element_positions(system), codebooks.codebook(system))
    )()
    bound_of = functools.partial(
        wideband_bound.wideband_scene_bound, positions=positions, system=system, band=band,
        coherence=coherence,
    )  # fmt: skip

    def one(index):
        scene = frequency_simulation.frequency_scene(
            jax.random.fold_in(key, index), config, frequencies=frequencies, coherence=coherence
        )
        bound = bound_of(jax.tree.map(lambda leaf: leaf[None], scene)).covariance[0]
        # All scenes have the same codes.
        return scene._replace(measurement=scene.measurement._replace(codes=None), signals=()), bound

    draw = jax.jit(lambda indices: jax.lax.map(one, indices))
    with common_flags.progress(num_scenes, "simulating") as progress:
        scene, bound = batches.in_chunks(
            draw, np.arange(num_scenes), chunk_size=chunk_size, progress=progress
        )
    return evaluation_scenes.EvaluationScenes(
        measurement=scene.measurement._replace(codes=np.asarray(codes)[None, None]),
        positions=np.asarray(positions),
        truth=scene.truth,
        snr_db=scene.truth.snr_db,
        snr_limits_db=(config.scene.snr_min_db, config.scene.snr_max_db),
        bound=bound[..., :3, :3],
        options=_options(config, frequencies, coherence),
        delay=scene.delay if coherence == "coherent" else None,
        delay_bound=bound[..., 3, 3] if coherence == "coherent" else None,
    )
