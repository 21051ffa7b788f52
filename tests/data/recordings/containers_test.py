"""Files as dictionaries of arrays: formats, other files, and damage."""

import contextlib
import io
import os
import pathlib
import tempfile
import zipfile

import h5py
import numpy as np
import scipy.io
from absl.testing import absltest, parameterized

from ris_jax import errors
from ris_jax.data.recordings import containers

MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"


def complex_normal(*shape, dtype="c8"):
    random = np.random.default_rng(0)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(dtype)


def write_matlab(path, arrays, classes=()):
    """Write .mat v7.3 as MATLAB does: reversed axes, compound complex, header in a user block."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            array = np.atleast_2d(array).T
            if array.dtype.kind == "c":
                part = array.real.dtype
                compound = np.empty(array.shape, [("real", part), ("imag", part)])
                compound["real"], compound["imag"] = array.real, array.imag
                array = compound
            file[name] = array
        for name, value in classes:
            file[name].attrs["MATLAB_class"] = np.bytes_(value)
        file.create_group("#refs#")
    with open(path, "r+b") as file:
        file.write(MATLAB_HEADER.ljust(512, b"\x00"))


class Case(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    @contextlib.contextmanager
    def assert_one_line(self, *parts):
        with self.assertRaises(errors.RunError) as caught:
            yield
        message = str(caught.exception)
        self.assertLen(message.splitlines(), 1)
        self.assertLess(len(message), 500)
        for part in parts:
            self.assertIn(part, message)


class FormatsTest(Case):
    @parameterized.parameters("a.npz", "a.h5", "a.hdf5", "A.NPZ", "deep/er/a.h5")
    def test_round_trip(self, name):
        arrays = {"one": complex_normal(2, 3, 4), "two": np.arange(3.0), "three": 0.3}
        containers.save(self.folder / name, arrays)
        self.assertCountEqual(containers.names(self.folder / name), arrays)
        loaded = containers.load(self.folder / name, ["one", "three"])
        self.assertCountEqual(loaded, ["one", "three"])
        for key, array in loaded.items():
            np.testing.assert_array_equal(array, arrays[key])
            self.assertEqual(array.dtype, np.asarray(arrays[key]).dtype)
        self.assertLen(list((self.folder / name).parent.iterdir()), 1)

    @parameterized.parameters("c8", "c16")
    def test_matlab(self, dtype):
        arrays = {"one": complex_normal(2, 3, 4, dtype=dtype), "two": np.array([[0.3]])}
        write_matlab(self.folder / "a.mat", arrays)
        loaded = containers.load(self.folder / "a.mat", containers.names(self.folder / "a.mat"))
        self.assertCountEqual(loaded, arrays)
        for key, array in loaded.items():
            np.testing.assert_array_equal(array, arrays[key])
        self.assertEqual(loaded["one"].dtype, dtype)

    def test_matlab_classes_stored_as_integers(self):
        arrays = {"flag": np.array([[1]], "u1"), "text": np.array([[51]], "u2")}
        classes = [("flag", b"logical"), ("text", b"char")]
        write_matlab(self.folder / "a.mat", arrays, classes)
        loaded = containers.load(self.folder / "a.mat", ["flag", "text"])
        self.assertEqual([loaded[key].dtype.kind for key in ("flag", "text")], ["b", "U"])

    def test_matlab_empty(self):
        write_matlab(self.folder / "a.mat", {"none": np.array([0, 3], "u8")})
        with h5py.File(self.folder / "a.mat", "r+") as file:
            file["none"].attrs["MATLAB_empty"] = np.uint8(1)
        loaded = containers.load(self.folder / "a.mat", ["none"])["none"]
        self.assertEqual(loaded.shape, (0, 3))

    @parameterized.product(version=("4", "5"), compressed=(False, True))
    def test_matlab_before_hdf5(self, version, compressed):
        """Axes are in MATLAB's order; doubles stored as small integers are doubles."""
        shape = (2, 3) if version == "4" else (2, 3, 4)
        arrays = {"one": complex_normal(*shape, dtype="c16"), "two": np.array([[3.0]])}
        if version == "5":
            arrays["three"] = complex_normal(3, 2)
            arrays |= {
                f"of_{kind}": np.ones((1, 2), kind)
                for kind in ("uint8", "int16", "float32", "bool")
            }
        options = {"do_compression": compressed} if version == "5" else {}
        scipy.io.savemat(self.folder / "a.mat", arrays, format=version, **options)
        self.assertCountEqual(containers.names(self.folder / "a.mat"), arrays)
        loaded = containers.load(self.folder / "a.mat", arrays)
        for key, array in loaded.items():
            np.testing.assert_array_equal(array, arrays[key])
            self.assertEqual(array.dtype, arrays[key].dtype)

    def test_matlab_of_another_byte_order(self):
        """The file is big-endian, with doubles stored as integers and a short name in its tag."""
        numbers = np.array([1, 2, 3], ">i2").tobytes().ljust(8, b"\0")
        matrix = b"".join(
            [
                np.array([6, 8, 6, 0, 5, 8, 1, 3], ">u4").tobytes(),  # flags and shape
                np.array([3 << 16 | 1], ">u4").tobytes() + b"one\0",
                np.array([3, 6], ">u4").tobytes() + numbers,
            ]
        )
        head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
        tag = np.array([14, len(matrix)], ">u4").tobytes()
        (self.folder / "a.mat").write_bytes(head + tag + matrix)
        loaded = containers.load(self.folder / "a.mat", ["one"])["one"]
        np.testing.assert_array_equal(loaded, [[1.0, 2.0, 3.0]])
        self.assertEqual(loaded.dtype, np.float64)

    def test_damaged_matlab_before_hdf5(self):
        """SciPy's reader crashes on such files."""
        random = np.random.default_rng(0)
        for version, options in (("4", {}), ("5", {}), ("5", {"do_compression": True})):
            values = {"one": complex_normal(3, 4), "two": np.arange(6.0).reshape(2, 3)}
            scipy.io.savemat(self.folder / "a.mat", values, format=version, **options)
            whole = np.fromfile(self.folder / "a.mat", "u1")
            for _ in range(100):
                content, count = whole.copy(), random.choice([1, 4, 30])
                content[random.integers(len(whole), size=count)] = random.integers(0, 256, count)
                content[: random.integers(2 * len(whole))].tofile(self.folder / "b.mat")
                with contextlib.suppress(errors.RunError):
                    for name in containers.names(self.folder / "b.mat"):
                        containers.load(self.folder / "b.mat", [name])

    @parameterized.parameters(
        ({"deep": 1.0},),
        (np.array(["a", 2.0], object),),
        (scipy.sparse.eye_array(3, format="csc"),),
    )
    def test_matlab_classes_without_arrays(self, value):
        scipy.io.savemat(self.folder / "a.mat", {"one": value})
        with self.assert_one_line("a.mat: one: need an array of numbers"):
            containers.load(self.folder / "a.mat", ["one"])

    @parameterized.parameters(
        (("r", "i"), "i2"), (("real", "imag"), "f4"), (("real", "imag"), "f8"),
        (("re", "im"), ">f8"), (("Re", "Im"), "f2"),
    )  # fmt: skip
    def test_compound_numbers(self, parts, dtype):
        compound = np.array([[(1, 2), (3, -4)]], [(part, dtype) for part in parts])
        with h5py.File(self.folder / "a.h5", "w") as file:
            file["one"] = compound
        loaded = containers.load(self.folder / "a.h5", ["one"])["one"]
        np.testing.assert_array_equal(loaded, [[1 + 2j, 3 - 4j]])

    @parameterized.parameters("a.h5", "a.mat")
    def test_groups_of_two_parts(self, name):
        expected = complex_normal(2, 3)
        write_matlab(self.folder / name, {})
        if name == "a.h5":
            (self.folder / name).unlink()
        with h5py.File(self.folder / name, "a") as file:
            for part, values in (("re", expected.real), ("im", expected.imag)):
                file[f"one/{part}"] = values if name == "a.h5" else values.T
        loaded = containers.load(self.folder / name, ["one"])["one"]
        np.testing.assert_array_equal(loaded, expected)

    @parameterized.parameters(
        ({"re": np.ones(2), "im": np.ones(3)}, "one shape; got [2] real and [3] imaginary"),
        ({"re": np.ones(2), "im": np.array([b"a", b"b"])}, "real numbers in both parts"),
        ({"re": np.ones(2), "im": np.ones(2), "unit": np.ones(1)}, "plain array"),
    )
    def test_groups_without_complex_numbers(self, parts, message):
        with h5py.File(self.folder / "a.h5", "w") as file:
            for part, values in parts.items():
                file[f"one/{part}"] = values
        with self.assert_one_line("a.h5: one", message):
            containers.load(self.folder / "a.h5", ["one"])

    def test_complex_type_of_hdf5_2(self):
        kind = getattr(h5py.h5t, "COMPLEX_IEEE_F32BE", None)
        if kind is None:
            self.skipTest("HDF5 before 2.0 has no complex numbers")
        expected = complex_normal(3)
        with h5py.File(self.folder / "a.h5", "w") as file:
            place = h5py.h5s.create_simple((3,))
            stored = h5py.h5d.create(file.id, b"one", kind, place)
            stored.write(place, place, expected, mtype=h5py.h5t.COMPLEX_IEEE_F32LE)
        loaded = containers.load(self.folder / "a.h5", ["one"])["one"]
        np.testing.assert_array_equal(loaded, expected)

    def test_order_of_fortran(self):
        expected = complex_normal(2, 3, 4)
        np.savez(self.folder / "a.npz", one=np.asfortranarray(expected))
        loaded = containers.load(self.folder / "a.npz", ["one"])["one"]
        np.testing.assert_array_equal(loaded, expected)

    def test_failed_save_keeps_the_old_file(self):
        path = self.folder / "a.h5"
        containers.save(path, {"one": np.ones(3)})
        with self.assertRaises(TypeError):
            containers.save(path, {"one": np.zeros(3), "two": np.array([object()])})
        np.testing.assert_array_equal(containers.load(path, ["one"])["one"], np.ones(3))
        self.assertEqual(os.listdir(self.folder), ["a.h5"])

    @parameterized.parameters("a.mat", "a.csv", "a")
    def test_unsupported_suffix(self, name):
        with self.assert_one_line(name, ".npz, .h5 or .hdf5"):
            containers.save(self.folder / name, {})
        self.assertEmpty(list(self.folder.iterdir()))


class WrongContentTest(Case):
    """The content of a file does not match its name."""

    def bytes_of(self, kind):
        arrays, buffer = {"one": np.ones(3)}, io.BytesIO()
        if kind == "npz":
            np.savez(buffer, **arrays)
        elif kind == "npy":
            np.save(buffer, arrays["one"])
        elif kind == "hdf5":
            with h5py.File(buffer, "w") as file:
                file["one"] = arrays["one"]
        elif kind == "matlab":
            write_matlab(self.folder / "matlab", arrays)
            return (self.folder / "matlab").read_bytes()
        else:
            return {"v5": b"MATLAB 5.0 MAT-file", "empty": b"", "text": b"snapshots,1,2\n"}[kind]
        return buffer.getvalue()

    @parameterized.parameters(
        ("a.npz", "empty", "empty"),
        ("a.h5", "empty", "empty"),
        ("a.mat", "empty", "empty"),
        ("a.npz", "text", "something else"),
        ("a.mat", "text", "something else"),
        ("a.npz", "npy", "np.savez"),
        ("a.npz", "hdf5", "name it .h5"),
        ("a.npz", "matlab", "name it .mat"),
        ("a.h5", "matlab", "name it .mat"),
        ("a.hdf5", "npz", "name it .npz"),
        ("a.mat", "hdf5", "name it .h5"),
        ("a.mat", "v5", "damaged or incomplete"),
        ("a.h5", "v5", "name it .mat"),
        ("a.npy", "npy", "ending in one of .npz"),
        ("a", "npz", "ending in one of .npz"),
    )
    def test_content(self, name, kind, part):
        path = self.folder / name
        path.write_bytes(self.bytes_of(kind))
        with self.assert_one_line(name, part):
            containers.names(path)
        with self.assert_one_line(name, part):
            containers.load(path, ["one"])

    def test_missing(self):
        with self.assert_one_line("a.npz", "no such file"):
            containers.names(self.folder / "a.npz")

    def test_folder(self):
        (self.folder / "a.npz").mkdir()
        with self.assert_one_line("a.npz", "need a file"):
            containers.names(self.folder / "a.npz")

    def test_pickled_objects_are_refused(self):
        touched = self.folder / "touched"

        class Touch:
            def __reduce__(self):
                return (pathlib.Path.touch, (touched,))

        np.savez(self.folder / "a.npz", one=np.array([Touch()], object))
        with self.assert_one_line("a.npz", "one", "unpickled"):
            containers.load(self.folder / "a.npz", ["one"])
        self.assertFalse(touched.exists())

    def test_archive_with_other_entries(self):
        with zipfile.ZipFile(self.folder / "a.npz", "w") as archive:
            archive.writestr("one", b"not an array")
        with self.assert_one_line("a.npz", "one", "npy format"):
            containers.load(self.folder / "a.npz", ["one"])

    def test_npy_of_wrong_length(self):
        buffer = io.BytesIO()
        np.save(buffer, np.ones(100))
        with zipfile.ZipFile(self.folder / "a.npz", "w") as archive:
            archive.writestr("one.npy", buffer.getvalue()[:-8])
        with self.assert_one_line("a.npz", "damaged", "ValueError"):
            containers.load(self.folder / "a.npz", ["one"])

    @parameterized.parameters(
        ("(2305843009213693952,)", "ValueError"),
        ("(-8,)", "ValueError"),
        ("(" * 5000, "ValueError"),
        ("(8,) # ", "ValueError"),
    )
    def test_headers_without_data(self, shape, part):
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
        with zipfile.ZipFile(self.folder / "a.npz", "w") as archive:
            archive.writestr("one.npy", content)
        with self.assert_one_line("a.npz", "damaged", part):
            containers.load(self.folder / "a.npz", ["one"])

    def test_missing_data_allocate_no_memory(self):
        with h5py.File(self.folder / "a.h5", "w") as file:
            file.create_dataset("one", (2**14, 2**14), "c16", chunks=(64, 64))
        with self.assert_one_line("a.h5: one: need an array that the file holds; got one of 42949"):
            containers.load(self.folder / "a.h5", ["one"])

    def test_repeated_names(self):
        path = self.folder / "a.npz"
        np.savez(path, one=np.ones(3))
        with self.assertWarns(UserWarning), zipfile.ZipFile(path, "a") as archive:
            archive.writestr("one.npy", b"")
        with self.assert_one_line("a.npz: need every array once; got several of one name"):
            containers.load(path, ["one"])

    def test_nested_and_empty_entries(self):
        with h5py.File(self.folder / "a.h5", "w") as file:
            file.create_group("struct")
            file["void"] = h5py.Empty("f4")
        for name in ("struct", "void"):
            with self.assert_one_line("a.h5", name, "plain array"):
                containers.load(self.folder / "a.h5", [name])

    def test_types_that_hdf5_would_convert(self):
        """Reading a damaged float type crashes the process."""
        odd = h5py.h5t.IEEE_F64LE.copy()
        odd.set_fields(63, 52, 10, 0, 52)
        with h5py.File(self.folder / "a.h5", "w") as file:
            h5py.h5d.create(file.id, b"one", odd, h5py.h5s.create_simple((2,)))
        with self.assert_one_line("a.h5", "one", "standard type"):
            containers.load(self.folder / "a.h5", ["one"])

    @parameterized.parameters("<f2", ">f8", "<f4", ">i2", "u1", ">c8", "<c16", "?")
    def test_types_of_any_byte_order(self, dtype):
        with h5py.File(self.folder / "a.h5", "w") as file:
            file["one"] = np.array([0, 1], dtype)
        loaded = containers.load(self.folder / "a.h5", ["one"])["one"]
        np.testing.assert_array_equal(loaded, np.array([0, 1], dtype))

    def test_dangling_link(self):
        with h5py.File(self.folder / "a.h5", "w") as file:
            file["one"] = h5py.SoftLink("/nowhere")
        with self.assert_one_line("a.h5", "KeyError"):
            containers.load(self.folder / "a.h5", ["one"])


if __name__ == "__main__":
    absltest.main()
