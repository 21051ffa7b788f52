"""Simulation of scenes into records: a random stream per split, a range of it per shard."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_format, record_writer
from ris_jax.physics import scenes

_CHUNK = 256  # scenes drawn at a time; constant, so that shards are reproducible
_MOST_SCENES = 2**31 - 1  # a stream's indices are 32-bit


def simulate(
    config: config_lib.Config,
    folder: pathlib.Path,
    counts: Mapping[str, int],
    *,
    shard_scenes: int,
    progress: Callable[[int], Any] = lambda _: None,
) -> record_format.Index:
    """Write the first scenes of the streams `train`, `validation` and `test`; resume if begun.

    Args:
      config: scenes to draw; `training.seed` is the root of the streams.
      folder: receives the records.
      counts: scenes per split, by name.
      shard_scenes: scenes per shard; the last one of a split may have fewer.
      progress: called with the number of scenes that exist.

    Returns:
      The index, complete.

    Raises:
      ConfigError: a count is invalid, or the directory belongs to another request.
      RunError: another process is writing there, or the content is damaged.
      OSError: the directory cannot be written.
    """
    for name, count in {**counts, "shard_scenes": shard_scenes}.items():
        least = int(name == "shard_scenes")
        if not least <= count <= _MOST_SCENES:
            raise config_lib.ConfigError(f"{name}: need {least} to {_MOST_SCENES}; got {count}")
    if not any(counts.values()):
        raise config_lib.ConfigError("num_train, num_val, num_test: need a scene; got none")
    request = {
        "command": "simulate",
        "seed": config.training.seed,
        "shard_scenes": shard_scenes,
        **{f"num_{split}": count for split, count in counts.items()},
    }
    with record_writer.writing(folder, config, request) as writer:
        for split, count in counts.items():
            for start in range(0, count, shard_scenes):
                size = min(shard_scenes, count - start)
                unit = record_format.Unit(f"{split} from {start}", size)
                if unit.name not in writer.done:
                    drawn = _draw(config, split, start, size)
                    if writer.add(unit, {split: drawn}).duplicates:
                        raise errors.RunError(f"{folder}: a scene of {unit.name} was drawn before")
                progress(size)
        if not writer.index.complete:
            writer.finish()
        return writer.index


def _draw(config: config_lib.Config, split: str, start: int, size: int) -> record_format.Scenes:
    """Draw scenes of a stream, `_CHUNK` at a time."""
    key = scenes.stream_key(config.training.seed, split)
    parts = []
    for first in range(start, start + size, _CHUNK):
        batch = jax.device_get(_scenes_at(key, first + np.arange(_CHUNK), config))
        parts.append(_packed(batch).at(np.arange(min(_CHUNK, start + size - first))))
    codes = parts[0].codes  # the nominal codes, equal for all scenes
    return record_format.Scenes(np.concatenate([part.scenes for part in parts]), codes)


_scenes_at = jax.jit(scenes.scenes_at, static_argnums=2)


def _packed(batch: scenes.Scene) -> record_format.Scenes:
    """Pack a batch in host memory for storage."""
    measured = batch.measurement._asdict()
    codes: Any = measured.pop("codes")
    return record_format.pack(measured | batch.truth._asdict(), codes)
