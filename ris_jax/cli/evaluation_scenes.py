"""Scenes that `evaluate` scores: simulated scenes, records, or recordings with truth."""

import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Complex

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

if TYPE_CHECKING:
    from ris_jax.accuracy import metrics
    from ris_jax.data.recordings.frequency_recordings import FrequencyRecordings
    from ris_jax.data.recordings.reader import Recordings
    from ris_jax.data.records.record_dataset import Batch, Dataset
    from ris_jax.training.evaluation import Heldout

TEST = "test"  # the stream and the split that neither training nor validation uses
_TRAIN = "train"


class EvaluationScenes(NamedTuple):
    """Scenes to localise, in host memory, with their metadata."""

    measurement: Any  # scenes.Measurement [B, ...]
    positions: np.ndarray  # [N, 3] [m]
    truth: "metrics.SourcesLike"
    snr_db: np.ndarray | None  # [B]
    snr_limits_db: tuple[float, float] | None
    bound: np.ndarray | None  # [B, K, 3, 3]
    options: dict[str, Any]  # of `localize` or `localize_wideband`
    delay: np.ndarray | None = None  # [B, K] of coherent sources at several frequencies [s]
    delay_bound: np.ndarray | None = None  # [B, K] [s^2]


class NetworkCase(NamedTuple):
    """Scenes to score a network on, on the device."""

    config: config_lib.Config  # of the network, with the scenes' array
    heldout: "Heldout"
    constant: Complex[np.ndarray, "N N"] | None  # best covariance; None: of simulated scenes


def is_records(path: str) -> bool:
    """Return whether a path is a directory of records; otherwise it has recordings.

    Raises:
      RunError: the index of the records is damaged.
    """
    from ris_jax.data.records import record_format

    return record_format.read_index(pathlib.Path(path)) is not None


def _snr_limits(config: config_lib.Config, snr_db: np.ndarray) -> tuple[float, float]:
    """Return the ends of the bins of SNR: as configured, or wider if imported scenes are."""
    low, high = config.scene.snr_min_db, config.scene.snr_max_db
    if low <= snr_db.min() and snr_db.max() <= high:
        return low, high
    return float(np.floor(snr_db.min())), float(np.floor(snr_db.max()) + 1.0)


def simulated(
    config: config_lib.Config, num_scenes: int, chunk_size: int, *, static_path: bool = False
) -> EvaluationScenes:
    """Simulate the first scenes of the stream `test`, with their bound.

    Args:
      config: of the scenes.
      num_scenes: number of scenes.
      chunk_size: scenes at a time.
      static_path: whether the bound includes an unknown static path, as if the scenes had one.
    """
    import jax

    from ris_jax import localization
    from ris_jax.accuracy import bounds
    from ris_jax.estimation import batches
    from ris_jax.physics import arrays, scenes

    static_path |= config.scene.static_path_db is not None
    key = scenes.stream_key(config.training.seed, TEST)
    positions = arrays.element_positions(config.system)

    @jax.jit
    def draw(indices):
        batch = scenes.scenes_at(key, indices, config)
        bound = bounds.scene_bound(batch, positions, config.system, static_path)
        return batch._replace(signals=()), bound.covariance

    with common_flags.progress(num_scenes, "simulating") as progress:
        batch, bound = batches.in_chunks(
            draw, np.arange(num_scenes), chunk_size=chunk_size, progress=progress
        )
    return EvaluationScenes(
        measurement=batch.measurement,
        positions=np.asarray(positions),
        truth=batch.truth,
        snr_db=batch.truth.snr_db,
        snr_limits_db=_snr_limits(config, batch.truth.snr_db),
        bound=bound,
        options=localization.options_of(config),
    )


def stored(
    config: config_lib.Config, dataset: "Dataset", num_scenes: int | None
) -> EvaluationScenes:
    """Return the first scenes of the split `test`, or all.

    Raises:
      ConfigError: the configuration is of another system.
      RunError: there is no such split.
    """
    from ris_jax import localization
    from ris_jax.physics import arrays, scenes
    from ris_jax.training import sources

    sources.require_alike(config, dataset)
    split = dataset.split(TEST)
    batch = split.gather(np.arange(min(num_scenes or len(split), len(split))))
    fields: dict[str, Any] = {name: batch.scenes[name] for name in batch.scenes.dtype.names or ()}
    codes: Any = np.broadcast_to(batch.codes, (len(batch.scenes), *batch.codes.shape[1:]))
    truth = scenes.Truth(**{name: fields[name] for name in scenes.Truth._fields})
    return EvaluationScenes(
        measurement=scenes.Measurement(
            fields["snapshots"], fields["channel"], codes, fields["noise_variance"]
        ),
        positions=np.asarray(arrays.element_positions(config.system)),
        truth=truth,
        snr_db=fields["snr_db"],
        snr_limits_db=_snr_limits(config, fields["snr_db"]),
        bound=None,
        options=localization.options_of(config),
    )


def recorded(
    config: config_lib.Config, path: str, num_scenes: int | None, *, static_path: bool = False
) -> EvaluationScenes:
    """Read recordings with truth; the configuration defines waves and field of view.

    Args:
      config: of waves and field of view.
      path: of the recordings.
      num_scenes: at most.
      static_path: whether they have a static path, see `reader.measurement_of`.

    Raises:
      ConfigError: they have no truth.
      RunError: they cannot be read.
    """
    from ris_jax import localization
    from ris_jax.data.recordings import reader
    from ris_jax.data.recordings import reader as reader_lib
    from ris_jax.physics import element_response

    found = reader_lib.read(path)
    if found.truth is None:
        raise config_lib.ConfigError(f"--data: need recordings with truth; got none in {path}")
    print_skipped(found)
    kept = slice(num_scenes)
    measurement = reader.measurement_of(found, static_path=static_path)
    return EvaluationScenes(
        measurement=type(measurement)(*(field[kept] for field in measurement)),
        positions=found.positions,
        truth=type(found.truth)(*(field[kept] for field in found.truth)),
        snr_db=None if found.snr_db is None else found.snr_db[kept],
        snr_limits_db=None,
        bound=None,
        options=localization.options_of(config)
        | {
            "wavelength": found.wavelength,
            "wavefront": found.wavefront or config.system.wavefront,
            "response": found.response or element_response.of_system(config.system),
            "source_signal": found.source_signal or config.system.source_signal,
            "max_sources": max(config.scene.max_sources, found.truth.azimuth.shape[1]),
        },
    )


def print_skipped(found: "Recordings | FrequencyRecordings") -> None:
    """Print one line for each scene of a file that cannot be used."""
    from ris_jax.reports import source_table

    for number, reason in found.skipped:
        print(f"skipped: {source_table.scene_name(number, found.files)}: {reason}", file=sys.stderr)


def simulated_for_network(config: config_lib.Config, num_scenes: int) -> NetworkCase:
    """Return the first scenes of the stream `test` of the network's own configuration."""
    from ris_jax.training import evaluation

    return NetworkCase(config, evaluation.draw_heldout(config, TEST, num_scenes), None)


def stored_for_network(
    config: config_lib.Config, dataset: "Dataset", num_scenes: int | None
) -> NetworkCase:
    """Return the first scenes of the split `test`, or all, for any array.

    Args:
      config: of the network.
      dataset: the records.
      num_scenes: at most.

    Raises:
      ConfigError: the network's maximum number of sources differs.
      RunError: there is no such split.
    """
    from ris_jax.training import evaluation

    _require_same_count(config, dataset.config, str(dataset.folder))
    config = config_lib.override(config, common_flags.fields_of(dataset))
    test = dataset.split(TEST)
    count = min(num_scenes or len(test), len(test))
    constant = None
    if _TRAIN in dataset.splits:
        train = dataset.split(_TRAIN)
        few = min(evaluation.CONSTANT_SCENES, len(train))
        constant = evaluation.best_constant(_heldout(config, train.gather, few))
    return _network_case(config, _heldout(config, test.gather, count), constant)


def recorded_for_network(
    config: config_lib.Config, path: str, num_scenes: int | None
) -> NetworkCase:
    """Read recordings with truth and SNR, of any array.

    Raises:
      ConfigError: the network's maximum number of sources differs.
      RunError: they cannot be read, or have no truth or no SNR.
    """
    from ris_jax.data.records import conversion, record_dataset

    found = conversion.labelled(pathlib.Path(path))
    print_skipped(found)
    theirs = conversion.configuration(found, config)
    _require_same_count(config, theirs, path)
    scenes = conversion.scenes_of(found, theirs)
    ratios = scenes.scenes["snr_db"]
    if not len(ratios):
        raise config_lib.ConfigError(f"--data: need a scene with a source in {path}; got none")
    count = min(num_scenes or len(ratios), len(ratios))

    def gather(indices):
        return record_dataset.Batch(*scenes.at(indices))

    return _network_case(theirs, _heldout(theirs, gather, count), None)


def _network_case(
    config: config_lib.Config, heldout: "Heldout", constant: Complex[np.ndarray, "N N"] | None
) -> NetworkCase:
    """Return a case with the SNR limits of the scenes."""
    ratios = [np.asarray(target.snr_db) for _, target in heldout.batches]
    low, high = _snr_limits(config, np.concatenate(ratios))
    limits = {"scene.snr_min_db": low, "scene.snr_max_db": high}
    return NetworkCase(config_lib.override(config, limits), heldout, constant)


def _require_same_count(ours: config_lib.Config, theirs: config_lib.Config, name: str) -> None:
    needed, got = ours.scene.max_sources, theirs.scene.max_sources
    if needed != got:
        raise config_lib.ConfigError(
            f"--data: need {needed} source places per scene, the maximum of the network; got "
            f"{got} in {name}"
        )


def _heldout(
    config: config_lib.Config, gather: "Callable[[np.ndarray], Batch]", count: int
) -> "Heldout":
    from ris_jax.training import sources
    from ris_jax.training.processes import devices

    return sources.stored_heldout(config, gather, count, devices.one_device())
