"""Reading and writing recordings: skipped scenes, shards, and damage."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

import h5py
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax import errors
from ris_jax.data.recordings import containers, reader

SCENES, SNAPSHOTS, ANTENNAS, ELEMENTS = 4, 3, 2, 6
MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"


def make_arrays(antennas=ANTENNAS, shared=False, truth=True):
    random = np.random.default_rng(0)

    def normal(*shape):
        return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")

    batch = () if shared else (SCENES,)
    arrays = {
        "snapshots": normal(SCENES, SNAPSHOTS, antennas),
        "channel": normal(*batch, antennas, ELEMENTS),
        "codes": normal(*batch, SNAPSHOTS, ELEMENTS),
        "wavelength": np.array(0.3),
        "element_positions": random.normal(size=(ELEMENTS, 3)),
    }
    if truth:
        counts = np.array([1, 2, 0, 2])
        active = np.arange(2) < counts[:, None]
        arrays |= {"snr_db": random.normal(size=SCENES), "num_sources": counts}
        for field in ("azimuth", "elevation", "source_range"):
            arrays[field] = np.where(active, random.uniform(0.1, 0.5, (SCENES, 2)), np.nan)
    return arrays


def write_matlab(path, arrays):
    """Write as MATLAB -v7.3: reversed axes, compound complex, header in a user block."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            array = np.atleast_2d(array)
            while array.ndim > 2 and array.shape[-1] == 1:
                array = array[..., 0]
            array = array.T
            if array.dtype.kind == "c":
                compound = np.empty(array.shape, [("real", "f4"), ("imag", "f4")])
                compound["real"], compound["imag"] = array.real, array.imag
                array = compound
            file[name] = array
    with open(path, "r+b") as file:
        file.write(MATLAB_HEADER.ljust(512, b"\x00"))


def write_any(path, arrays):
    if path.suffix == ".mat":
        write_matlab(path, arrays)
    else:
        containers.save(path, arrays)


def make_shard(elements=144, sources=5):
    random = np.random.default_rng(0)
    normal = random.normal
    return {
        "y": normal(size=(SCENES, SNAPSHOTS, ANTENNAS, 2)),
        "H_full": normal(size=(SCENES, ANTENNAS, elements, 2)),
        "codes": normal(size=(SCENES, SNAPSHOTS, elements, 2)),
        "ptr": random.uniform(0.1, 0.5, (SCENES, 3 * sources)),
        "K": np.arange(SCENES, dtype="i4"),
        "snr": normal(size=SCENES),
    }


class Case(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def assert_same(self, one, other):
        for field in dataclasses.fields(reader.Recordings):
            left, right = getattr(one, field.name), getattr(other, field.name)
            if field.name == "truth" and left is not None:
                for values, others in zip(left, right, strict=True):
                    np.testing.assert_array_equal(values, others)
            else:
                np.testing.assert_array_equal(left, right)

    @contextlib.contextmanager
    def assert_one_line(self, *parts):
        with self.assertRaises(errors.RunError) as caught:
            yield
        self.assertLen(str(caught.exception).splitlines(), 1)
        for part in parts:
            self.assertIn(part, str(caught.exception))


class ReadTest(Case):
    @parameterized.product(
        name=("a.npz", "a.h5", "a.hdf5", "a.mat"), shared=(False, True), truth=(False, True)
    )
    def test_every_format(self, name, shared, truth):
        arrays = make_arrays(shared=shared, truth=truth)
        write_any(self.folder / name, arrays)
        found = reader.read(self.folder / name)
        self.assert_same(found, reader.from_arrays(arrays))
        for field in ("snapshots", "channel", "codes"):
            array = getattr(found, field)
            self.assertEqual(array.dtype, np.complex64)
            self.assertEqual(array.ndim, 3)
            np.testing.assert_array_equal(array, np.broadcast_to(arrays[field], array.shape))
        np.testing.assert_array_equal(found.positions, arrays["element_positions"])
        np.testing.assert_array_equal(found.scene_numbers, np.arange(SCENES))
        self.assertEqual((found.wavelength, found.skipped), (0.3, ()))
        self.assertIsNone(found.wavefront)
        self.assertIsNone(found.source_signal)
        if truth:
            np.testing.assert_array_equal(found.snr_db, arrays["snr_db"])
            for field, values in found.truth._asdict().items():
                np.testing.assert_array_equal(values, arrays[field])
        else:
            self.assertIsNone(found.snr_db)
            self.assertIsNone(found.truth)

    @parameterized.product(name=("a.npz", "a.h5", "a.mat"), shared=(False, True))
    def test_one_antenna(self, name, shared):
        """MATLAB drops the last axis of the snapshots."""
        arrays = make_arrays(antennas=1, shared=shared)
        write_any(self.folder / name, arrays)
        self.assert_same(reader.read(self.folder / name), reader.from_arrays(arrays))

    def test_one_scene_without_its_axis_in_matlab(self):
        arrays = make_arrays(shared=True, truth=False)
        write_matlab(self.folder / "a.mat", {**arrays, "snapshots": arrays["snapshots"][0]})
        with self.assert_one_line("a.mat: snapshots", "one scene is [1, L, M]"):
            reader.read(self.folder / "a.mat")

    @parameterized.parameters("a.npz", "a.h5", "a.mat")
    def test_errors_name_file_and_field(self, name):
        arrays = make_arrays()
        write_any(self.folder / name, {**arrays, "channel": arrays["channel"].real})
        with self.assert_one_line(f"{self.folder / name}: channel: need complex numbers; got real"):
            reader.read(self.folder / name)
        write_any(self.folder / name, {"snapshot": arrays["snapshots"]})
        with self.assert_one_line(
            f"{name}: missing keys: snapshots, wav", "did you mean snapshots"
        ):
            reader.read(self.folder / name)

    def test_parts_on_a_separate_axis(self):
        snapshots = make_arrays()["snapshots"].view("f4").reshape(SCENES, SNAPSHOTS, ANTENNAS, 2)
        containers.save(self.folder / "a.h5", {**make_arrays(), "snapshots": snapshots})
        with self.assert_one_line("a.h5: snapshots: need complex numbers; got real numbers"):
            reader.read(self.folder / "a.h5")

    def test_missing(self):
        with self.assert_one_line("nosuch: no such file or directory"):
            reader.read(self.folder / "nosuch")


class PlainArrayTest(Case):
    """Arrays without a surface: neither channel nor codes."""

    def _arrays(self):
        arrays = make_arrays(antennas=ELEMENTS)
        return {key: value for key, value in arrays.items() if key not in ("channel", "codes")}

    @parameterized.parameters("a.npz", "a.h5", "a.mat")
    def test_channel_and_codes_are_optional(self, name):
        write_any(self.folder / name, self._arrays())
        found = reader.read(self.folder / name)
        np.testing.assert_array_equal(found.channel, np.tile(np.eye(ELEMENTS), (SCENES, 1, 1)))
        np.testing.assert_array_equal(found.codes, np.ones((SCENES, SNAPSHOTS, ELEMENTS)))
        self.assertEqual(found.truth.num_sources.tolist(), [1, 2, 0, 2])

    @parameterized.parameters(("channel",), ("codes",), ("channel", "codes"))
    def test_a_surface_needs_them(self, *missing):
        arrays = {key: value for key, value in make_arrays().items() if key not in missing}
        with self.assert_one_line(
            f"recordings: missing keys: {', '.join(missing)}; only an array", "got M=2, N=6"
        ):
            reader.from_arrays(arrays)

    def test_binary_codes(self):
        arrays = make_arrays()
        states = (arrays["codes"].real > 0).astype(int)
        write_any(self.folder / "a.npz", {**arrays, "codes": states})
        with self.assert_one_line("a.npz: codes: need", "--binary_codes=states"):
            reader.read(self.folder / "a.npz")
        found = reader.read(self.folder / "a.npz", binary_codes="states")
        np.testing.assert_array_equal(found.codes, 1 - 2 * states)


class SkippedScenesTest(Case):
    def test_skipped_and_listed(self):
        arrays = make_arrays()
        arrays["snapshots"][0] = 0
        arrays["codes"][2, 0, 0] = np.nan
        arrays["snr_db"][2] = np.nan
        arrays["azimuth"][2] = np.nan
        found = reader.from_arrays(arrays)
        self.assertEqual(
            found.skipped,
            (
                (0, "snapshots are all zero"),
                (2, "codes: 1 of 18 values are NaN, infinite or too large"),
            ),
        )
        np.testing.assert_array_equal(found.scene_numbers, [1, 3])
        for field in ("snapshots", "channel", "codes", "snr_db"):
            np.testing.assert_array_equal(getattr(found, field), arrays[field][[1, 3]])
        np.testing.assert_array_equal(found.truth.azimuth, arrays["azimuth"][[1, 3]])

    def test_shared_arrays_are_not_copied(self):
        arrays = make_arrays(shared=True)
        arrays["snapshots"][1] = np.inf
        found = reader.from_arrays(arrays)
        self.assertEqual(found.channel.shape, (3, ANTENNAS, ELEMENTS))
        self.assertEqual(found.channel.strides[0], 0)

    def test_none_is_usable(self):
        arrays = make_arrays(shared=True)
        arrays["channel"][:] = 0
        containers.save(self.folder / "a.npz", arrays)
        with self.assert_one_line("a.npz: no usable scene among 4; scene 0: channel is all zero"):
            reader.read(self.folder / "a.npz")
        with self.assert_one_line("recordings: no usable scene among 4; scene 0"):
            reader.from_arrays(arrays)

    def test_signalling_nan(self):
        """NumPy warns of a signalling NaN, and pytest turns warnings into errors."""
        arrays = make_arrays()
        arrays["snapshots"].view("u4")[2, 0, 0] = 0x7F800001
        found = reader.from_arrays(arrays)
        self.assertEqual(
            found.skipped, ((2, "snapshots: 1 of 6 values are NaN, infinite or too large"),)
        )

    def test_overflow_of_single_precision(self):
        arrays = make_arrays()
        arrays["snapshots"] = arrays["snapshots"].astype("c16")
        arrays["snapshots"][0, 0, 0] = 1e30  # its square overflows
        arrays["snapshots"][1, 0, 0] = 1e300
        found = reader.from_arrays(arrays)
        reason = "snapshots: 1 of 6 values are NaN, infinite or too large"
        self.assertEqual(found.skipped, ((0, reason), (1, reason)))


class WriteTest(Case):
    @parameterized.product(
        name=("a.npz", "a.h5", "a.hdf5"), shared=(False, True), truth=(False, True)
    )
    def test_round_trip(self, name, shared, truth):
        expected = reader.from_arrays(make_arrays(shared=shared, truth=truth))
        reader.write(self.folder / name, expected)
        self.assert_same(reader.read(self.folder / name), expected)
        channel = containers.load(self.folder / name, ["channel"])["channel"]
        self.assertEqual(channel.ndim, 2 if shared else 3)

    def test_fields_outside_the_format_are_dropped(self):
        arrays = make_arrays()
        arrays["snapshots"][0] = 0
        found = dataclasses.replace(reader.from_arrays(arrays), wavefront="parabolic")
        reader.write(self.folder / "a.npz", found)
        again = reader.read(self.folder / "a.npz")
        np.testing.assert_array_equal(again.scene_numbers, np.arange(SCENES - 1))
        self.assertEqual((again.skipped, again.wavefront), ((), None))
        np.testing.assert_array_equal(again.snapshots, found.snapshots)

    def test_ending(self):
        with self.assert_one_line("a.mat", ".npz, .h5 or .hdf5"):
            reader.write(self.folder / "a.mat", reader.from_arrays(make_arrays()))


class ShardsTest(Case):
    def save(self, name, shard):
        np.savez(self.folder / name, **shard)
        return self.folder / name

    def test_file(self):
        shard = {**make_shard(), "R": np.zeros(3), "H": np.zeros(3)}
        shard["y"][2] = 0
        shard["H_full"][0, 0, 0] = np.inf
        found = reader.read(self.save("a.npz", shard))
        self.assertEqual((found.wavefront, found.source_signal), ("parabolic", "constant"))
        self.assertEqual(
            found.skipped,
            (
                (0, "channel: 1 of 288 values are NaN, infinite or too large"),
                (2, "snapshots are all zero"),
            ),
        )
        np.testing.assert_array_equal(found.truth.num_sources, [1, 3])

    @parameterized.parameters(
        ("H_full", "a.npz: H_full: need the channel"), ("K", "a.npz: missing keys: K")
    )
    def test_missing_keys(self, key, message):
        shard = make_shard()
        del shard[key]
        with self.assert_one_line(message):
            reader.read(self.save("a.npz", shard))

    def test_another_number_of_elements(self):
        with self.assert_one_line("a.npz: H_full: ", "N=144", "100"):
            reader.read(self.save("a.npz", make_shard(elements=100)))

    def test_folder(self):
        first, second = make_shard(), make_shard()
        second["y"] = -second["y"]
        first["y"][3] = 0
        second["y"][1] = 0
        self.save("b.npz", second)
        self.save("a.npz", first)
        self.save(".c.npz", {"half": np.ones(2)})
        (self.folder / "README.md").write_text("not a shard")
        found = reader.read(self.folder)
        expected = np.concatenate([first["y"], second["y"]])[[0, 1, 2, 4, 6, 7]]
        np.testing.assert_array_equal(found.snapshots.real, expected[..., 0].astype("f4"))
        np.testing.assert_array_equal(found.scene_numbers, [0, 1, 2, 4, 6, 7])
        np.testing.assert_array_equal(found.truth.num_sources, [0, 1, 2, 0, 2, 3])
        self.assertEqual(found.snr_db.shape, (6,))
        self.assertEqual(
            found.skipped,
            (
                (3, "snapshots are all zero (scene 3 of a.npz)"),
                (5, "snapshots are all zero (scene 1 of b.npz)"),
            ),
        )
        self.assertEqual((found.wavefront, found.source_signal), ("parabolic", "constant"))

    def test_folder_with_one_unusable_shard(self):
        empty = make_shard()
        empty["y"][:] = 0
        self.save("a.npz", empty)
        with self.assert_one_line(f"{self.folder}: no usable scene among 4; scene 0: snapshots"):
            reader.read(self.folder)
        self.save("b.npz", make_shard())
        np.testing.assert_array_equal(reader.read(self.folder).scene_numbers, [4, 5, 6, 7])

    def test_folder_of_recordings(self):
        arrays = make_arrays(truth=False)
        for name in ("a.npz", "b.npz"):
            self.save(name, arrays)
        found = reader.read(self.folder)
        self.assertEqual(found.snapshots.shape, (2 * SCENES, SNAPSHOTS, ANTENNAS))
        self.assertIsNone(found.truth)
        self.assertIsNone(found.snr_db)

    @parameterized.parameters(
        (
            {"ptr": np.full((SCENES, 12), 0.1)},
            "b.npz: truth: need K_max=5 as in a.npz; got K_max=4",
        ),
        (
            {
                "y": np.ones((SCENES, SNAPSHOTS, 3, 2)),
                "H_full": np.ones((SCENES, 3, 144, 2)),
            },
            "b.npz: snapshots [L, M]: need [3, 2] as in a.npz; got [3, 3]",
        ),
        ({"y": np.ones(3)}, "b.npz: y: need [B, L, M, 2]"),
    )
    def test_folder_of_shards_that_disagree(self, changes, message):
        self.save("a.npz", make_shard())
        self.save("b.npz", {**make_shard(), **changes})
        with self.assert_one_line(message):
            reader.read(self.folder)

    @parameterized.parameters(
        ({"wavelength": 0.2}, "wavelength: need 0.3 as in a.npz; got 0.2"),
        ({"element_positions": np.ones((6, 1)) * np.arange(6)[:, None] * [1, 2, 3]},
         "element_positions: need the same as in a.npz; got others"),
        ({"snr_db": np.ones(SCENES)}, "snr_db: need none as in a.npz; got given"),
    )  # fmt: skip
    def test_folder_of_recordings_that_disagree(self, changes, message):
        arrays = make_arrays(truth=False)
        self.save("a.npz", arrays)
        self.save("b.npz", {**arrays, **changes})
        with self.assert_one_line("b.npz: " + message):
            reader.read(self.folder)

    def test_folder_of_recordings_and_shards(self):
        self.save("a.npz", make_shard())
        self.save("b.npz", make_arrays())
        with self.assert_one_line("b.npz: "):
            reader.read(self.folder)

    def test_folder_without_recordings(self):
        (self.folder / "a.txt").write_text("nothing")
        with self.assert_one_line(f"{self.folder}: need a directory of .npz recordings"):
            reader.read(self.folder)


class DamageTest(Case):
    """A damaged file gives recordings or a one-line error."""

    def read_all(self, name, contents):
        """Return the number of damaged files that are readable."""
        path, usable = self.folder / name, 0
        for content in contents:
            path.write_bytes(content)
            try:
                self.assertIsInstance(reader.read(path), reader.Recordings)
                usable += 1
            except errors.RunError as error:
                self.assertLen(str(error).splitlines(), 1)
        return usable

    def written(self, name):
        write_any(self.folder / name, make_arrays())
        return (self.folder / name).read_bytes()

    @parameterized.parameters("a.npz", "a.h5", "a.mat")
    def test_truncated(self, name):
        whole, random = self.written(name), np.random.default_rng(1)
        lengths = [
            0,
            1,
            3,
            4,
            7,
            8,
            127,
            512,
            len(whole) - 1,
            *random.integers(len(whole), size=40),
        ]
        self.assertEqual(self.read_all(name, [whole[:length] for length in lengths]), 0)
        self.assertEqual(self.read_all(name, [whole, whole + b"more"]), 2)

    @parameterized.product(name=("a.npz", "a.h5", "a.mat"), flips=(1, 4, 40))
    def test_flipped_bytes(self, name, flips):
        whole, random = np.frombuffer(self.written(name), "u1"), np.random.default_rng(flips)

        def damaged():
            content = whole.copy()
            content[random.integers(len(whole), size=flips)] ^= random.integers(
                1, 256, flips, dtype="u1"
            )
            return content.tobytes()

        print(f"{name}: {self.read_all(name, (damaged() for _ in range(60)))} of 60 still read")

    def test_read_only_folder_is_an_os_error(self):
        """The command line prints it as one line."""
        (self.folder / "file").write_text("")
        with self.assertRaises(OSError):
            reader.write(self.folder / "file" / "a.npz", reader.from_arrays(make_arrays()))
        self.assertEqual(os.listdir(self.folder), ["file"])


if __name__ == "__main__":
    absltest.main()
