"""Records: scenes on disk in memory-mapped shards, and the index that lists them.

A directory of records has ``index.json`` and, for shard n of a split,

=========================== ============== ===================================================
``<split>/<n>.scenes.npy``  [B]            snapshots, channel, noise variance and truth
``<split>/<n>.codes.npy``   [B or 1, L, N] complex64; one if the shard's scenes share it
``<split>/<n>.digests.npy`` [B, 16] uint8  a hash of the measured data: identity of the scene
=========================== ============== ===================================================

all of which are plain NumPy files. Covariances are not stored: the device computes them. The index
has the configuration, and the size and SHA-256 of every file and of itself. Shards that are not in
the index are ignored, which makes writing safe to interrupt (see `record_writer`).
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import dacite
import numpy as np
from jaxtyping import Complex, Float, UInt8

from ris_jax import config as config_lib
from ris_jax import errors, files
from ris_jax.data.recordings import containers, npy

INDEX_NAME = "index.json"
FORMAT, VERSION = "ris_jax records", 2
_FIRST_VERSION = 1  # read as `config.upgraded` says
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
PARTS = ("scenes", "codes", "digests")  # the files of a shard
DIGEST_BYTES = 16
# Fields that simulation and reading depend on; training options are not among them.
_SECTIONS = ("system", "scene", "impairments")
_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})/\d{{5,}}")


class Sizes(NamedTuple):
    """Axes of a scene."""

    num_snapshots: int  # L
    num_antennas: int  # M
    num_elements: int  # N
    max_sources: int  # K


def sizes_of(config: config_lib.Config) -> Sizes:
    """Return the axes of the scenes of a configuration."""
    system = config.system
    return Sizes(
        system.num_snapshots, system.num_antennas, system.num_elements, config.scene.max_sources
    )


def scene_dtype(sizes: Sizes) -> np.dtype:
    """Return the type of one scene on disk, without codes and digest."""
    snapshots, antennas, elements, sources = sizes
    return np.dtype(
        [
            ("snapshots", "<c8", (snapshots, antennas)),
            ("channel", "<c8", (antennas, elements)),
            ("noise_variance", "<f4"),
            ("azimuth", "<f4", (sources,)),  # [rad]; padding as in `scenes.Truth`
            ("elevation", "<f4", (sources,)),  # [rad]
            ("source_range", "<f4", (sources,)),  # [m]
            ("amplitude", "<f4", (sources,)),
            ("num_sources", "<i4"),
            ("snr_db", "<f4"),
        ]
    )


def digests_of(scenes: np.ndarray) -> UInt8[np.ndarray, "B 16"]:
    """Return the identity of scenes: a hash of snapshots and channel, equal for all copies.

    Args:
      scenes: [B] of a `scene_dtype`.
    """
    found = np.empty((len(scenes), DIGEST_BYTES), np.uint8)
    for digest, scene in zip(found, scenes, strict=True):
        state = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for field in ("snapshots", "channel"):
            state.update(scene[field].tobytes())
        digest[:] = np.frombuffer(state.digest(), np.uint8)
    return found


@dataclasses.dataclass(frozen=True)
class File:
    """Size and hash of a file of a shard at the time of writing."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part of a split."""

    name: str  # <split>/<number>
    scenes: int
    files: dict[str, File]  # by part

    def path(self, folder: pathlib.Path, part: str) -> pathlib.Path:
        """Return the path of one of its files."""
        return folder / f"{self.name}.{part}.npy"

    @property
    def split(self) -> str:
        """Name of its split."""
        return self.name.partition("/")[0]


@dataclasses.dataclass(frozen=True)
class Unit:
    """A finished unit of work: a range of drawn scenes, or a converted file."""

    name: str
    scenes: int  # written
    unusable: int = 0  # unusable scenes left out
    duplicates: int = 0  # scenes left out because they exist already
    damaged: str = ""  # reason why the whole file was left out


@dataclasses.dataclass(frozen=True)
class Index:
    """Contents of a directory of records."""

    made_from: dict[str, Any]  # the request; it must be the same to resume
    config: dict[str, Any]  # system, scene, impairments
    complete: bool = False
    units: tuple[Unit, ...] = ()
    shards: tuple[Shard, ...] = ()

    def of_split(self, split: str) -> list[Shard]:
        """Return the shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == split]

    def num_scenes(self, split: str) -> int:
        """Return the number of scenes of a split."""
        return sum(shard.scenes for shard in self.of_split(split))

    @property
    def num_bytes(self) -> int:
        """Size of all shards."""
        return sum(file.bytes for shard in self.shards for file in shard.files.values())


def stored_config(config: config_lib.Config) -> dict[str, Any]:
    """Return the part of a configuration that an index stores."""
    values = config_lib.to_dict(config)
    return {section: values[section] for section in _SECTIONS}


def configuration(index: Index) -> config_lib.Config:
    """Return the configuration of the records, with default training options."""
    return config_lib.from_dict(index.config)


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def identity(index: Index, shards: list[Shard]) -> str:
    """A hash of the scenes of some shards and of their order.

    Records of version 1 keep theirs: runs that use them can be resumed.
    """
    config, system = index.config, index.config.get("system", {})
    if system.get("wavefront") == "spherical_phase":  # "spherical" in version 1
        config = config | {"system": system | {"wavefront": "spherical"}}
    return _checksum({"shards": [dataclasses.asdict(shard) for shard in shards]} | config)


def write_index(folder: pathlib.Path, index: Index) -> None:
    """Replace the index atomically."""
    values = {"format": FORMAT, "version": VERSION} | dataclasses.asdict(index)
    values = json.loads(json.dumps(values))
    with files.replacing(folder / INDEX_NAME) as partial:
        partial.write_text(json.dumps(values | {"sha256": _checksum(values)}, indent=1) + "\n")


def read_index(folder: pathlib.Path) -> Index | None:
    """Return the index of a directory, or None if there is none.

    Raises:
      RunError: it is damaged, or has another format or version.
    """
    path = folder / INDEX_NAME
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise errors.RunError(f"{path}: damaged: not JSON ({errors.brief(error)})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        got = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise errors.RunError(f"{path}: format: need {FORMAT!r}; got {str(got)[:40]!r}")
    version = values.get("version")
    if isinstance(version, bool) or version not in (_FIRST_VERSION, VERSION):
        raise errors.RunError(f"{path}: version: need {VERSION}; got {str(version)[:40]}")
    if values.pop("sha256", None) != _checksum(values):
        raise errors.RunError(f"{path}: damaged: its content does not match its sha256")
    del values["format"], values["version"]
    if version == _FIRST_VERSION and isinstance(values.get("config"), dict):
        values["config"] = config_lib.upgraded(values["config"])
    try:
        index = dacite.from_dict(Index, values, dacite.Config(strict=True, cast=[tuple]))
        configuration(index)
    # dacite passes on exceptions from building a field; a ConfigError is a ValueError.
    except (dacite.DaciteError, ValueError, TypeError, AttributeError) as error:
        raise errors.RunError(f"{path}: not an index of records: {errors.brief(error)}") from error
    for shard in index.shards:
        if not _SHARD_NAME.fullmatch(shard.name) or set(shard.files) != set(PARTS):
            raise errors.RunError(f"{path}: shards: need <split>/<number>; got {shard.name!r}")
    return index


def require_index(folder: pathlib.Path) -> Index:
    """Return the index of a directory with complete records.

    Raises:
      RunError: it is missing, damaged or unfinished.
    """
    index = read_index(folder)
    if index is None:
        raise errors.RunError(
            f"{folder}: need a directory of records, which has an {INDEX_NAME}; got {_kind(folder)}"
        )
    if not index.complete:
        raise errors.RunError(
            f"{folder}: need all records; got {len(index.shards)} shards of an unfinished run: "
            "give the command that writes them again, it resumes where it stopped"
        )
    return index


def _kind(path: pathlib.Path) -> str:
    """Describe a path without records, and the command that creates them."""
    if not path.exists():
        return "nothing of that name; `ris-jax simulate` and `ris-jax import` write one"
    become = "which `ris-jax import` converts to records"
    if not path.is_dir():
        recorded = path.suffix.lower() in containers.ENDINGS
        return f"a file of recordings, {become}" if recorded else "a file"
    if any(path.glob("*.npz")):
        return f"a directory of .npz files, {become}"
    if any((path / split).is_dir() for split in SPLITS):
        return "shards without one: give the command that writes them again"
    return "a directory of other files" if any(path.iterdir()) else "an empty directory"


def file_of(path: pathlib.Path) -> File:
    """Return the current size and hash of a file."""
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def damage(folder: pathlib.Path, shard: Shard, dtype: np.dtype) -> str:
    """Describe the damage of a shard in one line with the path; empty if there is none.

    Args:
      folder: of the records.
      shard: from its index.
      dtype: of a scene.
    """
    return next(filter(None, (damaged_part(folder, shard, part, dtype) for part in PARTS)), "")


def damaged_part(folder: pathlib.Path, shard: Shard, part: str, dtype: np.dtype) -> str:
    """Describe the damage of one file of a shard; see `damage`."""
    path, written = shard.path(folder, part), shard.files[part]
    try:
        size = path.stat().st_size
        if size != written.bytes:
            return f"{path}: size: need {written.bytes} bytes; got {size}"
        if (found := file_of(path).sha256) != written.sha256:
            return f"{path}: sha256: need {written.sha256[:12]}...; got {found[:12]}..."
        with path.open("rb") as file:
            shape, kind = npy.header(file, size)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    except ValueError as error:
        return f"{path}: not an array: {errors.brief(error)}"
    needed, shapes = _layouts(shard.scenes, dtype)[part]
    if kind != needed or shape not in shapes:
        got = f"{list(shape)} of {str(kind)[:60]}"
        return f"{path}: need {list(shapes[0])} of the configuration's layout; got {got}"
    return ""


def _layouts(scenes: int, dtype: np.dtype) -> dict[str, tuple[np.dtype, list[tuple[int, ...]]]]:
    """Return the type and the allowed shapes of every part of a shard."""
    snapshots, elements = dtype["snapshots"].shape[0], dtype["channel"].shape[1]
    return {
        "scenes": (dtype, [(scenes,)]),
        "codes": (np.dtype("<c8"), [(count, snapshots, elements) for count in (1, scenes)]),
        "digests": (np.dtype("u1"), [(scenes, DIGEST_BYTES)]),
    }


def load(folder: pathlib.Path, shard: Shard, part: str) -> np.ndarray:
    """Map one file of an undamaged shard into memory, without reading it."""
    return np.load(shard.path(folder, part), mmap_mode="r", allow_pickle=False)


class Scenes(NamedTuple):
    """Scenes to be written."""

    scenes: np.ndarray  # [B] of a `scene_dtype`
    codes: Complex[np.ndarray, "C L N"]  # C is B, or 1 if the scenes share one

    def at(self, which: np.ndarray) -> "Scenes":
        """Select scenes by index or by a boolean mask."""
        return Scenes(self.scenes[which], self.codes if len(self.codes) == 1 else self.codes[which])


def pack(fields: Mapping[str, Float[np.ndarray, "B ..."]], codes: np.ndarray) -> Scenes:
    """Pack arrays by name into scenes.

    Args:
      fields: all names of a `scene_dtype`, [B, ...].
      codes: [B, L, N]; stored once if all are equal.
    """
    channel, snapshots = fields["channel"], fields["snapshots"]
    sizes = Sizes(
        *snapshots.shape[1:], num_elements=channel.shape[2], max_sources=fields["azimuth"].shape[1]
    )
    scenes = np.empty(len(snapshots), scene_dtype(sizes))
    for name in scenes.dtype.names or ():
        scenes[name] = fields[name]
    codes = np.asarray(codes, "<c8")
    if (codes == codes[:1]).all():
        codes = codes[:1]
    return Scenes(scenes, codes)
