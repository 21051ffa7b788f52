"""Names and units of testbeds are converted; contradictions are refused."""

import contextlib

import h5py
import numpy as np
import pytest
import scipy.io

from ris_jax import errors
from ris_jax.data.recordings import conventions, reader

B, L, M, N = 4, 3, 2, 6
TABLE = np.array([1, 1j, -1, -1j])


def _gaussian(*shape):
    random = np.random.default_rng(0)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype("c8")


def _states():
    return np.random.default_rng(1).integers(0, 4, (L, N))


def _arrays(antennas=M):
    return {
        "snapshots": _gaussian(B, L, antennas),
        "channel": _gaussian(antennas, N),
        "codes": TABLE[_states()],
        "wavelength": np.array(0.3),
        "element_positions": np.random.default_rng(2).normal(size=(N, 3)),
    }


def _with(changes, antennas=M):
    """Return the arrays with replacements; None removes an array."""
    changed = {**_arrays(antennas), **changes}
    return {key: np.asarray(value) for key, value in changed.items() if value is not None}


def _assert_same(found, expected, tolerance=1e-6):
    for field in ("snapshots", "channel", "codes", "positions"):
        np.testing.assert_allclose(
            getattr(found, field), getattr(expected, field), atol=tolerance, rtol=tolerance
        )
    assert found.wavelength == pytest.approx(expected.wavelength, rel=1e-5)


@contextlib.contextmanager
def _one_line(*parts):
    with pytest.raises(errors.RunError) as caught:
        yield
    assert len(str(caught.value).splitlines()) == 1
    for part in parts:
        assert part in str(caught.value)


SAME = {
    "codes as states": {"codes": None, "states": _states(), "coefficients": TABLE},
    "states of doubles": {"codes": None, "states": 1.0 * _states(), "coefficients": TABLE[None]},
    "one code a scene": {
        "codes": None, "states": np.tile(_states(), (B, 1, 1)), "coefficients": TABLE
    },
    "coefficients in parts": {
        "codes": None, "states": _states(), "coefficients_re": TABLE.real,
        "coefficients_im": TABLE.imag,
    },
    "phases in radians": {"codes": None, "phases_rad": _states() * np.pi / 2},
    "unwrapped phases": {"codes": None, "phases_rad": _states() * np.pi / 2 + 2 * np.pi},
    "phases in degrees": {"codes": None, "phases_deg": _states() * 90},
    "frequency": {"wavelength": None, "frequency": 299_792_458.0 / 0.3},
    "frequency in MATLAB": {"wavelength": None, "frequency": [[299_792_458.0 / 0.3]]},
    "both, agreeing": {"frequency": 1e9},
    "real and imag": {
        "snapshots": None, "snapshots_real": _gaussian(B, L, M).real,
        "snapshots_imag": _gaussian(B, L, M).imag,
    },
    "r and i": {
        "channel": None, "channel_r": _gaussian(M, N).real, "channel_i": _gaussian(M, N).imag
    },
    "other types": {
        "snapshots": np.asfortranarray(_gaussian(B, L, M).astype(">c16")),
        "element_positions": np.random.default_rng(2).normal(size=(N, 3)).astype(">f8"),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_same_recordings(name):
    _assert_same(reader.from_arrays(_with(SAME[name])), reader.from_arrays(_arrays()))


@pytest.mark.parametrize("ending", ["npz", "h5", "mat", "v7.mat"])
def test_a_testbed_file_of_every_format(tmp_path, ending):
    """The file has half precision, parts, states and a frequency."""
    given = _with(
        SAME["codes as states"] | SAME["frequency"]
        | {f"snapshots_{part}": getattr(_gaussian(B, L, M), part).astype("f2")
           for part in ("real", "imag")} | {"snapshots": None}
    )  # fmt: skip
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **given)
    elif ending == "v7.mat":
        wide = {key: value.astype("f4" if value.dtype == "f2" else value.dtype)
                for key, value in given.items()}  # fmt: skip
        scipy.io.savemat(path, wide, do_compression=True)
    else:
        matlab = ending == "mat"
        with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
            for key, value in given.items():
                file[key] = np.atleast_2d(value).T if matlab else value
        if matlab:
            with path.open("r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM".ljust(388, b"\0"))
    _assert_same(reader.read(path), reader.from_arrays(_arrays()), tolerance=2e-3)


class TestOneAntenna:
    """Measurements of S21 with one antenna and many codes."""

    @pytest.mark.parametrize("channel", [_gaussian(N), _gaussian(1, N)])
    def test_without_the_axis(self, channel):
        given = _with({"snapshots": _gaussian(B, L), "channel": channel}, antennas=1)
        found = reader.from_arrays(given)
        _assert_same(found, reader.from_arrays(_arrays(antennas=1)))
        (note,) = found.notes
        assert "[4, 3] are read as 4 scenes of one antenna" in note

    def test_matlab_drops_the_axis(self, tmp_path):
        scipy.io.savemat(tmp_path / "a.mat", _with({"snapshots": _gaussian(B, L)}, antennas=1))
        found = reader.read(tmp_path / "a.mat")
        _assert_same(found, reader.from_arrays(_arrays(antennas=1)))
        assert found.notes == ()

    def test_several_antennas_and_one_scene_are_ambiguous(self):
        with _one_line("snapshots", "one scene is [1, L, M]"):
            reader.from_arrays(_with({"snapshots": _gaussian(L, M)}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"frequency": 2e9}, ["wavelength: need 0.149896 m", "got 0.3"]),
        ({"wavelength": None, "frequency": 5.375}, ["frequency", "MHz or GHz?"]),
        ({"wavelength": None, "frequency": np.nan}, ["frequency", "nan"]),
        ({"wavelength": None, "frequency": [1e9, 2e9]}, ["frequency: need one number", "[2]"]),
        ({"phases_rad": np.zeros((L, N))}, ["codes: need one of", "codes and phases_rad"]),
        ({"codes": None, "phases_rad": _states() * 90}, ["phases_rad", "270 - degrees?"]),
        ({"codes": None, "phases_deg": _states() * 1.57}, ["phases_deg", "4.71", "radians?"]),
        ({"codes": None, "phases_deg": _states() * 1j}, ["phases_deg: need real numbers"]),
        ({"codes": None, "states": _states()}, ["states: need coefficients"]),
        (
            {"codes": None, "states": _states() + 1, "coefficients": TABLE},
            ["states: need 0 to 3", "got 1 to 4 - counted from 1?"],
        ),
        (
            {"codes": None, "states": _states() - 1, "coefficients": TABLE},
            ["states: need 0 to 3", "got -1 to 2"],
        ),
        (
            {"codes": None, "states": _states() / 2, "coefficients": TABLE},
            ["states: need whole numbers", "0.5"],
        ),
        (
            {"codes": None, "states": _states(), "coefficients": np.arange(4) * 90},
            ["coefficients", "90 - phases?"],
        ),
        (
            {"codes": None, "states": _states(), "coefficients": np.eye(4)},
            ["coefficients: need [num_states]; got [4, 4]"],
        ),
        ({"coefficients": TABLE}, ["unknown keys: 'coefficients'"]),
        ({"snapshots": None, "snapshots_re": np.ones(3)}, ["snapshots_re: need snapshots_im"]),
        (
            {"snapshots_re": np.ones(3), "snapshots_im": np.ones(3)},
            ["snapshots: need either it or snapshots_re and snapshots_im; got both"],
        ),
        (
            {"snapshots": None, "snapshots_re": np.ones(3), "snapshots_im": np.ones(2)},
            ["snapshots: need parts of one shape"],
        ),
        ({"wavelength": None, "frequenzy": 1e9}, ["missing keys: wavelength", "mean frequency?"]),
    ],
)
def test_contradictions(changes, parts):
    with _one_line("recordings: ", *parts):
        reader.from_arrays(_with(changes))


def test_non_finite_phases_exclude_their_scene():
    phases = np.tile(_states() * np.pi / 2, (B, 1, 1))
    phases[1, 0, 0], phases[2, 0, 0] = np.nan, np.inf
    found = reader.from_arrays(_with({"codes": None, "phases_rad": phases}))
    assert [scene for scene, _ in found.skipped] == [1, 2]


def test_canonical():
    keys = ["channel_re", "channel_im", "states", "coefficients", "frequency", "other"]
    assert conventions.canonical(keys) == ["channel", "codes", "wavelength", "other"]
