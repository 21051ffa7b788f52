"""Reader of records: checks every shard, then gathers batches from memory maps through grain."""

import concurrent.futures
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Int

from ris_jax import _environment, errors
from ris_jax import config as config_lib
from ris_jax.data.records import record_format

# Copying scenes holds the interpreter's lock, even during disk reads: two threads read less than
# one, and use twice its processor time.
_READ_THREADS = 1
_PREFETCHED_BATCHES = 8


class Batch(NamedTuple):
    """Scenes as stored on disk, in host memory."""

    scenes: np.ndarray  # [B] of a `record_format.scene_dtype`
    codes: Complex[np.ndarray, "C L N"]  # C is B, or 1 if the whole split shares one


class Split:
    """Scenes of a split, mapped into memory and read on demand."""

    def __init__(self, folder: pathlib.Path, shards: list[record_format.Shard], dtype: np.dtype):
        """Map checked shards into memory.

        Args:
          folder: of the records.
          shards: at least one.
          dtype: of a scene.
        """
        self._dtype = dtype
        sizes = [shard.scenes for shard in shards]
        self._starts = np.cumsum([0, *sizes])
        # Stored as bytes, a scene is one plain row to copy. Plain arrays, because a row of an
        # `np.memmap` takes longer to create than to copy.
        self._scenes = [
            np.asarray(record_format.load(folder, shard, "scenes")).view(np.uint8).reshape(size, -1)
            for shard, size in zip(shards, sizes, strict=True)
        ]
        codes = [record_format.load(folder, shard, "codes") for shard in shards]
        alike = {shard.files["codes"].sha256 for shard in shards}
        shared = len(alike) == 1 and len(codes[0]) == 1
        self._shared_codes = np.array(codes[0]) if shared else None
        self._codes = [
            np.broadcast_to(part, (size, *part.shape[1:]))
            for part, size in zip(codes, sizes, strict=True)
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, indices: Int[np.ndarray, "B"]) -> Batch:
        """Return the scenes with these indices, each below the length of the split.

        Raises:
          IndexError: an index is negative or too large.
        """
        if len(indices) and not 0 <= min(indices) <= max(indices) < len(self):
            raise IndexError(
                f"need 0 <= index < {len(self)}; got {min(indices)} ... {max(indices)}"
            )
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        rows = indices - self._starts[shards]
        found = np.empty((len(indices), self._dtype.itemsize), np.uint8)
        places = list(zip(shards.tolist(), rows.tolist(), strict=True))
        for scene, (shard, row) in zip(found, places, strict=True):
            scene[:] = self._scenes[shard][row]
        codes = self._shared_codes
        if codes is None:
            codes = np.stack([self._codes[shard][row] for shard, row in places])
        return Batch(found.view(self._dtype)[:, 0], codes)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Checked records."""

    folder: pathlib.Path
    config: config_lib.Config  # system, scene and impairments; the rest is the default
    splits: dict[str, Split]  # those with scenes
    identity: str  # a hash of all scenes in use, and of their order
    skipped: tuple[str, ...]  # problem of each shard that is left out

    def split(self, name: str) -> Split:
        """Return a split by name.

        Raises:
          RunError: it has no scene.
        """
        if name not in self.splits:
            raise errors.RunError(
                f"{self.folder}: need scenes in the split {name!r}; got them in "
                f"{', '.join(self.splits)} only"
            )
        return self.splits[name]


def open_dataset(
    folder: pathlib.Path,
    *,
    skip_damaged: bool = False,
    progress: Callable[[int], Any] = lambda _: None,
) -> Dataset:
    """Open a directory of records; check size, hash and layout of every file.

    Args:
      folder: of the records.
      skip_damaged: leave out damaged shards, instead of raising an error.
      progress: called with the number of bytes checked.

    Returns:
      A `Dataset` with at least one scene.

    Raises:
      RunError: there are no records, they are incomplete, or a shard is damaged, missing or not in
        the index; the message has its path.
    """
    index = record_format.require_index(folder)
    config = record_format.configuration(index)
    dtype = record_format.scene_dtype(record_format.sizes_of(config))
    problems = _foreign(folder, index)

    def check(shard):
        found = record_format.damage(folder, shard, dtype)
        progress(sum(file.bytes for file in shard.files.values()))
        return found

    if not skip_damaged:
        _stop_at(problems)
    with concurrent.futures.ThreadPoolExecutor(_environment.available_cores()) as pool:
        found = list(pool.map(check, index.shards))  # hashing lets other threads run
    problems += filter(None, found)
    if not skip_damaged:
        _stop_at(problems)
    whole = [shard for shard, problem in zip(index.shards, found, strict=True) if not problem]
    by_split = {name: [s for s in whole if s.split == name] for name in record_format.SPLITS}
    if not whole:
        raise errors.RunError("; ".join([f"{folder}: need at least one whole shard", *problems]))
    return Dataset(
        folder=folder,
        config=config,
        splits={name: Split(folder, some, dtype) for name, some in by_split.items() if some},
        identity=record_format.identity(index, whole),
        skipped=tuple(problems),
    )


def _foreign(folder: pathlib.Path, index: record_format.Index) -> list[str]:
    """List arrays among the shards that are not in the index."""
    known = {shard.path(folder, part) for shard in index.shards for part in record_format.PARTS}
    found = {path for split in record_format.SPLITS for path in (folder / split).glob("[!.]*.npy")}
    return [f"{path}: not listed in {record_format.INDEX_NAME}" for path in sorted(found - known)]


def _stop_at(problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise errors.RunError(f"{problems[0]}{more}; --skip_damaged continues without them")


def batches(
    split: Split,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """Iterate over batches of a split without end; every pass has another order.

    A batch depends only on the seed and its number. The order is therefore the same for any number
    of processes, and each reads only its rows. Threads read ahead.

    Args:
      split: scenes to read.
      batch_size: scenes per batch, over all processes.
      seed: of the order, 0 to 2**32 - 1.
      process_index: of this process.
      process_count: number of processes.

    Returns:
      A `grain.DatasetIterator` of `Batch`. `get_state()` is a JSON value; after `set_state` with
      it, iteration continues with the next batch.

    Raises:
      ConfigError: the batch cannot be divided evenly among the processes.
    """
    import grain  # slow to import

    if batch_size % process_count:
        raise config_lib.ConfigError(
            f"training.batch_size: need a multiple of the {process_count} processes; got "
            f"{batch_size}"
        )
    each = batch_size // process_count
    rows = slice(process_index * each, (process_index + 1) * each)
    dataset = grain.MapDataset.source(_ShuffledBatches(split, batch_size, seed, rows))
    options = grain.ReadOptions(_READ_THREADS, _PREFETCHED_BATCHES)
    return iter(dataset.to_iter_dataset(options))


class _ShuffledBatches:
    """A random-access source whose elements are whole batches.

    With a source of scenes, grain would shuffle and batch scene by scene in Python, which takes
    longer than reading them.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, rows: slice):
        self._split, self._batch_size, self._seed, self._rows = split, batch_size, seed, rows
        self._order = functools.lru_cache(maxsize=2)(self._order_of)  # a batch may span two passes

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, index: int) -> Batch:
        positions = index * self._batch_size + np.arange(self._batch_size)[self._rows]
        passes, places = np.divmod(positions, len(self._split))
        indices = np.empty_like(places)
        for one_pass in np.unique(passes).tolist():
            within = passes == one_pass
            indices[within] = self._order(one_pass)[places[within]]
        return self._split.gather(indices)

    def _order_of(self, one_pass: int) -> Int[np.ndarray, "B"]:
        # Raw bits, because NumPy's distributions may change between versions.
        bits = np.random.Philox(key=[self._seed, one_pass]).random_raw(len(self._split))
        return np.argsort(bits, kind="stable")
