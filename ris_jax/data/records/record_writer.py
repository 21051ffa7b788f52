"""Crash-safe writer of records: a kill at any moment loses no scene and duplicates none.

Work is split into units. The shard files of a unit are written and renamed into place first. Then
one rename replaces the index, which lists the shards and the unit: the unit is now done. Files that
are not in the index were never finished and are written again under the same name.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors, files
from ris_jax.data.records import record_format


class Writer:
    """Records of one directory while they are written; see `writing`."""

    def __init__(self, folder: pathlib.Path, index: record_format.Index):
        """Continue from an index; no other writer may be active.

        Raises:
          RunError: the digests of the existing scenes are damaged.
        """
        self._folder = folder
        self.index = index
        self._dtype = record_format.scene_dtype(
            record_format.sizes_of(record_format.configuration(index))
        )
        self._digests: set[bytes] = set()
        for shard in index.shards:
            if problem := record_format.damaged_part(folder, shard, "digests", self._dtype):
                raise errors.RunError(f"{problem}; the records cannot be continued from it")
            self._digests |= set(_rows(np.asarray(record_format.load(folder, shard, "digests"))))

    @property
    def done(self) -> set[str]:
        """Return the names of the finished units."""
        return {unit.name for unit in self.index.units}

    def add(
        self, unit: record_format.Unit, scenes: Mapping[str, record_format.Scenes]
    ) -> record_format.Unit:
        """Write a unit's scenes, one shard per split; scenes that exist already are left out.

        Args:
          unit: its name and number of omitted scenes; `scenes` and `duplicates` are counted here.
          scenes: by split.

        Returns:
          The unit as listed in the index.

        Raises:
          RunError: the scenes have another layout.
          OSError: the directory cannot be written.
        """
        shards, seen, duplicates = [], set(self._digests), 0
        for split, part in scenes.items():
            if part.scenes.dtype != self._dtype:
                raise errors.RunError(
                    f"{unit.name}: need scenes of {_describe(self._dtype)}, as those in "
                    f"{self._folder}; got {_describe(part.scenes.dtype)}"
                )
            digests = record_format.digests_of(part.scenes)
            fresh = np.zeros(len(digests), bool)
            for number, digest in enumerate(_rows(digests)):
                fresh[number] = digest not in seen
                seen.add(digest)
            duplicates += int(np.sum(~fresh))
            if fresh.any():
                shards.append(self._write_shard(split, part.at(fresh), digests[fresh]))
        written = sum(shard.scenes for shard in shards)
        unit = dataclasses.replace(unit, scenes=written, duplicates=duplicates)
        self._replace_index(units=(*self.index.units, unit), shards=(*self.index.shards, *shards))
        self._digests = seen
        return unit

    def finish(self) -> None:
        """Mark the records as complete.

        Raises:
          RunError: a scene is stored twice.
        """
        total = sum(shard.scenes for shard in self.index.shards)
        if len(self._digests) != total:
            raise errors.RunError(
                f"{self._folder}: need every scene once; got {len(self._digests)} different ones "
                f"among {total}"
            )
        self._replace_index(complete=True)

    def _replace_index(self, **changes: Any) -> None:
        index = dataclasses.replace(self.index, **changes)
        record_format.write_index(self._folder, index)
        self.index = index

    def _write_shard(
        self, split: str, scenes: record_format.Scenes, digests: np.ndarray
    ) -> record_format.Shard:
        name = f"{split}/{len(self.index.of_split(split)):05d}"
        shard, written = record_format.Shard(name, len(digests), {}), {}
        (self._folder / split).mkdir(exist_ok=True)
        for part, array in zip(record_format.PARTS, (*scenes, digests), strict=True):
            path = shard.path(self._folder, part)
            with files.replacing(path) as partial:
                with partial.open("wb") as file:
                    np.save(file, array)
                written[part] = record_format.file_of(partial)
        return dataclasses.replace(shard, files=written)


def _describe(dtype: np.dtype) -> str:
    (snapshots, antennas), (_, elements) = dtype["snapshots"].shape, dtype["channel"].shape
    return f"L={snapshots}, M={antennas}, N={elements}, K_max={dtype['azimuth'].shape[0]}"


def _rows(digests: np.ndarray) -> list[bytes]:
    return [digest.tobytes() for digest in digests]


@contextlib.contextmanager
def writing(
    folder: pathlib.Path, config: config_lib.Config, made_from: Mapping[str, Any]
) -> Iterator[Writer]:
    """Open a directory to write records to, new or left unfinished by the same request.

    Args:
      folder: created if missing.
      config: source of the scenes.
      made_from: everything that determines the content, as JSON values.

    Yields:
      The `Writer`; the caller must call `finish`.

    Raises:
      ConfigError: the directory belongs to another request; the message names the fields.
      RunError: another process is writing there, or the content is damaged or not records.
      OSError: the directory cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.exclusive(folder):
        index = record_format.read_index(folder)
        new = record_format.Index(
            made_from=dict(made_from), config=record_format.stored_config(config)
        )
        if index is None:
            foreign = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            if set(foreign) - set(record_format.SPLITS):
                raise errors.RunError(
                    f"{folder}: need an empty directory, or one of records; got "
                    f"{sorted(foreign)[0]!r}"
                )
            index = new
        elif (index.made_from, index.config) != (new.made_from, new.config):
            ours, theirs = (
                config_lib.flatten({"request": i.made_from} | i.config) for i in (new, index)
            )
            named = [
                f"{errors.brief(key)}={errors.brief(repr(ours.get(key)))} (there "
                f"{errors.brief(repr(theirs.get(key)))})"
                for key in ours | theirs
                if ours.get(key) != theirs.get(key)
            ]
            raise config_lib.ConfigError(
                f"{folder} holds records of another request; here: {', '.join(named)}"
            )
        files.sweep(folder)
        yield Writer(folder, index)
