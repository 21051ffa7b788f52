"""Damaged recordings, in every supported format."""

import io
import pathlib
import random
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import fuzz_cases
import fuzz_damage
import h5py
import numpy as np

from ris_jax.data.recordings import reader, validation


def recordings_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Create recordings: 8 scenes, 3 snapshots, 2 antennas, 6 elements, up to 2 sources."""
    random = np.random.default_rng(seed)

    def gaussian(*shape):
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    return {
        "snapshots": gaussian(8, 3, 2),
        "channel": gaussian(8, 2, 6),
        "codes": np.exp(1j * np.random.default_rng(7).uniform(0, 6, (3, 6))),
        "wavelength": np.array(0.3),
        "element_positions": np.array([[x, y, 0.0] for y in range(2) for x in range(3)]) * 0.15,
        "snr_db": random.uniform(0.0, 20.0, 8),
        "num_sources": random.integers(1, 3, 8),
        "azimuth": random.uniform(-1.0, 1.0, (8, 2)),
        "elevation": random.uniform(-0.5, 0.5, (8, 2)),
        "source_range": random.uniform(0.5, 10.0, (8, 2)),
    }


def _shard_arrays() -> dict[str, np.ndarray]:
    """Create a shard of the reference: 4 scenes, 3 snapshots, 2 antennas."""
    random = np.random.default_rng(0)
    return {
        "y": random.normal(size=(4, 3, 2, 2)),
        "H_full": random.normal(size=(4, 2, 144, 2)),
        "codes": random.normal(size=(4, 3, 144, 2)),
        "ptr": random.uniform(0.1, 0.5, size=(4, 6)),
        "K": random.integers(1, 3, size=4),
        "snr": random.uniform(0.0, 20.0, size=4),
        "H": random.normal(size=(4, 3, 2, 2)),
    }


_MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"


def _write_hdf5(path: pathlib.Path, arrays: dict[str, Any], matlab: bool) -> None:
    with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
        for name, array in arrays.items():
            array = np.atleast_2d(array).T if matlab else np.asarray(array)
            if array.dtype.kind == "O":
                array = array.astype("S4")
            elif array.dtype.kind in "UmM":
                array = np.frombuffer(np.ascontiguousarray(array).tobytes(), "u1")
            elif matlab and array.dtype.kind == "c" and array.dtype.itemsize <= 16:
                parts = np.real(array), np.imag(array)
                compound = np.empty(array.shape, [(n, parts[0].dtype) for n in ("real", "imag")])
                compound["real"], compound["imag"] = parts
                array = compound
            file[name] = array
    if matlab:
        with path.open("r+b") as file:
            file.write(_MATLAB_HEADER.ljust(512, b"\x00"))


class Recordings(fuzz_cases.Surface):
    """Recordings in .npz, HDF5 and MATLAB v7.3, the reference's shards, and directories of them."""

    name = "recordings"

    def __init__(self, home: pathlib.Path):
        """Create the surface; its files are small and written for each case."""
        del home

    def case(self, rng: random.Random, place: pathlib.Path) -> fuzz_cases.Case:
        """Create a file of one kind, with damaged arrays, container or bytes."""
        place.mkdir()
        shard = rng.random() < 0.25
        arrays = _shard_arrays() if shard else recordings_arrays()
        ending = ".npz" if shard else rng.choice([".npz", ".h5", ".mat"])
        path = place / f"given{ending}"
        kind = rng.choice(["arrays", "arrays", "container", "bytes"])
        if kind == "arrays":
            what = _damage_keys(rng, arrays)
            self._write(path, arrays)
        elif kind == "container":
            damage = _damaged_npz if ending == ".npz" else _damage_hdf5
            self._write(path, arrays)
            what = damage(rng, path, arrays)
        else:
            self._write(path, arrays)
            what, data = fuzz_damage.damaged_bytes(rng, path.read_bytes())
            path.write_bytes(data)
        target = self._moved(rng, path, shard)
        what = f"{ending}{', shard' if shard else ''}: {what}"
        command = ("localize", f"--data={target}", f"--out={place / 'out.csv'}")

        def run() -> str:
            return _recordings_problem(reader.read(target))

        return fuzz_cases.Case(what, run, (str(target),), command)

    def _write(self, path: pathlib.Path, arrays: dict[str, Any]) -> None:
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        else:
            _write_hdf5(path, arrays, matlab=path.suffix == ".mat")

    def _moved(self, rng: random.Random, path: pathlib.Path, shard: bool) -> pathlib.Path:
        """Sometimes change the extension, or add other files to a directory that is read."""
        kind = rng.random()
        if kind < 0.03:
            other = path.with_suffix(rng.choice([".npz", ".h5", ".mat", ".csv", "", ".NPZ"]))
            path.rename(other)
            return other
        if kind < 0.1 and path.suffix == ".npz":
            arrays = _shard_arrays() if shard else recordings_arrays(seed=1)
            np.savez(path.with_name("whole.npz"), **arrays)  # pyright: ignore[reportArgumentType]
            return path.parent
        return path


def _damage_keys(rng: random.Random, arrays: dict[str, Any]) -> str:
    """Change, lose, rename, ... one or two arrays in place."""
    changes = []
    for _ in range(rng.choice([1, 1, 2])):
        key = rng.choice(list(arrays))
        kind = rng.random()
        if kind < 0.75 and isinstance(arrays[key], np.ndarray):
            what, arrays[key] = fuzz_damage.damaged_array(rng, arrays[key])
        elif kind < 0.83:
            what = "lost"
            del arrays[key]
        elif kind < 0.9:
            what = "renamed"
            arrays[rng.choice([f"{key}s", key.upper(), "x", "y", "ptr"])] = arrays.pop(key)
        else:
            other = rng.choice(list(arrays))
            what = f"from {other}"
            arrays[key] = arrays[other]
        changes.append(f"{key} {what}")
    return ", ".join(changes)


def _damaged_npz(rng: random.Random, path: pathlib.Path, arrays: dict[str, Any]) -> str:
    """Write an archive with an entry that no array writer creates."""
    victim = rng.choice(list(arrays))
    kind = rng.choice(["header", "header", "header", "bytes", "bomb", "entry", "directory"])
    compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    what, data = kind, fuzz_damage.npy_bytes(arrays[victim])
    if kind == "header":
        what, data = fuzz_damage.npy_with_odd_header(rng, arrays[victim])
    elif kind == "bytes":
        what, data = fuzz_damage.damaged_bytes(rng, data, b"PK\x05\x06" + bytes(18))
    elif kind == "bomb":
        compression = zipfile.ZIP_DEFLATED
        header = io.BytesIO()
        shape = rng.choice([(10**7,), (8, 3, 10**5), (2**40,), (2**62, 2), (8, 10**12, 2)])
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<c16", "fortran_order": False, "shape": shape}
        )
        data = header.getvalue() + bytes(10**7)
        what = f"bomb of shape {shape}"
    name = f"{victim}.npy"
    if kind == "entry":
        name = rng.choice(
            [
                victim,
                f"../{victim}.npy",
                f"{victim}.npy/",
                "\ud800.npy".encode("utf-8", "replace").decode(),
                "x",
            ]
        )
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # about duplicate names
        for key, array in arrays.items():
            archive.writestr(
                *((name, data) if key == victim else (f"{key}.npy", fuzz_damage.npy_bytes(array)))
            )
        if rng.random() < 0.1:
            archive.writestr(name, data[:50])
    if kind == "directory":
        _change_directory(rng, path)
    return f"{name}: {what}"


def _change_directory(rng: random.Random, path: pathlib.Path) -> None:
    """Change an entry's flags, method, sizes or offset in the archive's directory."""
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\x01\x02")
    field = rng.choice([8, 10, 16, 20, 24, 28, 30, 32, 34, 38, 42])
    data[place + field] ^= rng.choice([0x01, 0x08, 0x40, 0xFF])
    path.write_bytes(bytes(data))


def _damage_hdf5(rng: random.Random, path: pathlib.Path, arrays: dict[str, Any]) -> str:
    """Write an entry that is no plain array, or claims to be larger than the file."""
    victim = rng.choice(list(arrays))
    array = np.asarray(arrays[victim])
    text = h5py.string_dtype()
    with h5py.File(path, "r+") as file:

        def huge(**layout: Any) -> None:
            file.create_dataset(victim, dtype="c16", **layout)

        changes: dict[str, Callable[[], Any]] = {
            "a group": lambda: file.create_group(victim),
            "a dangling link": lambda: file.__setitem__(victim, h5py.SoftLink("/nowhere")),
            "a link to itself": lambda: file.__setitem__(victim, h5py.SoftLink(f"/{victim}")),
            "a link outside": lambda: file.__setitem__(victim, h5py.ExternalLink("/nowhere", "/x")),
            "empty": lambda: file.create_dataset(victim, dtype="f8", shape=None),
            "text": lambda: file.create_dataset(victim, data=["a", "b"], dtype=text),
            "huge chunks": lambda: huge(shape=(2**20, 2**20), chunks=(64, 64)),
            "huge": lambda: huge(shape=(2**20, 2**20)),
            "large and empty": lambda: huge(shape=(2**14, 2**14), chunks=(64, 64)),
            "squeezed": lambda: file.create_dataset(
                victim, data=np.zeros((8, 3, 1000)), compression="gzip", chunks=(8, 3, 1000)
            ),
            "squeezed well": lambda: file.create_dataset(
                victim, data=np.atleast_1d(array), compression=rng.choice(["gzip", "lzf"])
            ),
            "references": lambda: file.create_dataset(victim, shape=(3,), dtype=h5py.ref_dtype),
            "enumerated": lambda: file.create_dataset(
                victim, shape=(8,), dtype=h5py.enum_dtype({"a": 0, "b": 1})
            ),
            "lists": lambda: file.create_dataset(victim, shape=(8,), dtype=h5py.vlen_dtype("f4")),
            "virtual": lambda: _virtual(file, victim),
            "external": lambda: file.create_dataset(
                victim, shape=(8,), dtype="f8", external=[("/nowhere.raw", 0, 64)]
            ),
            "a type": lambda: file.__setitem__(victim, np.dtype("f8")),
        }  # fmt: skip
        what = rng.choice([*changes, "attribute", "attribute"])
        if what == "attribute":
            name = rng.choice(["MATLAB_empty", "MATLAB_class"])
            value = rng.choice([1, b"logical", b"char", b"struct", "x", [1, 2], np.zeros(3), 2.5])
            file[victim].attrs[name] = value
            return f"{victim}: {name} is {value}"
        del file[victim]
        changes[what]()
    return f"{victim} {what}"


def _virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout(shape=(8, 3, 2), dtype="c16")
    layout[:] = h5py.VirtualSource("nowhere.h5", "x", shape=(8, 3, 2))
    file.create_virtual_dataset(name, layout)


def _recordings_problem(found: reader.Recordings) -> str:
    """Check that results are valid: right shapes and types, all values finite."""
    scenes, snapshots, antennas = found.snapshots.shape
    elements = len(found.positions)
    shapes = {
        "snapshots": (scenes, snapshots, antennas),
        "channel": (scenes, antennas, elements),
        "codes": (scenes, snapshots, elements),
        "scene_numbers": (scenes,),
    }
    for name, shape in shapes.items():
        array = getattr(found, name)
        if array.shape != shape or not np.isfinite(array).all():
            return f"{name}: {array.shape}, or not finite"
        if name != "scene_numbers" and array.dtype != np.complex64:
            return f"{name}: {array.dtype}"
    if not scenes or not np.isfinite(found.positions).all() or not 0 < found.wavelength < np.inf:
        return "no scenes, or invalid positions or wavelength"
    if found.truth is not None:
        active = np.arange(found.truth.azimuth.shape[1]) < found.truth.num_sources[:, None]
        for name in validation.TRUTH_KEYS[1:]:
            if not np.isfinite(getattr(found.truth, name)[active]).all():
                return f"{name}: not finite"
    noise = reader.measurement_of(found).noise_variance
    if found.snr_db is not None and not np.isfinite(noise).all():
        return "a noise variance that is not finite"
    return ""
