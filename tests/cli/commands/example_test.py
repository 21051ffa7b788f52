"""Example file: deterministic, and consistent with its truth."""

import numpy as np
import pytest

from ris_jax.cli import main
from ris_jax.data.recordings import host_steering, reader


def _run(capsys, *arguments):
    status = main.main(["ris-jax", "example", *map(str, arguments)])
    return status, *capsys.readouterr()


def _read(capsys, path, *arguments):
    status, out, err = _run(capsys, f"--out={path}", *arguments)
    assert (status, err) == (0, "")
    assert str(path) in out
    return reader.read(path)


def test_deterministic(capsys, tmp_path):
    first = _read(capsys, tmp_path / "a.npz")
    again = _read(capsys, tmp_path / "b.h5")
    other = _read(capsys, tmp_path / "c.npz", "--seed=1")
    np.testing.assert_array_equal(first.snapshots, again.snapshots)
    assert not np.array_equal(first.snapshots, other.snapshots)
    assert (first.notes, first.skipped) == ((), ())


def test_scenes(capsys, tmp_path):
    found = _read(capsys, tmp_path / "a.npz", "--num_scenes=20", "--snr_db=30")
    assert found.snapshots.shape == (20, 16, 16)
    assert found.truth.num_sources[0] == 3
    assert set(found.truth.num_sources) == {1, 2, 3}
    np.testing.assert_array_equal(found.snr_db, 30.0)


def test_the_truth_explains_the_snapshots(capsys, tmp_path):
    """The residual at the true positions is the noise, 1/1001 of the power at 30 dB."""
    found = _read(capsys, tmp_path / "a.npz", "--snr_db=30")
    operator = (found.codes[0][:, None] * found.channel[0]).reshape(-1, 144)
    for scene, snapshots in enumerate(found.snapshots.reshape(8, -1)):
        count = found.truth.num_sources[scene]
        places = [field[scene, :count] for field in found.truth[:3]]
        vectors = host_steering.steering(
            host_steering.coordinates_of(*places), found.positions, wavelength=found.wavelength
        )
        basis = operator @ vectors.T
        residual = snapshots - basis @ np.linalg.lstsq(basis, snapshots, rcond=None)[0]
        share = np.sum(np.abs(residual) ** 2) / np.sum(np.abs(snapshots) ** 2)
        assert share == pytest.approx(1 / 1001, rel=0.35)  # 253 degrees of freedom: 4 sigma


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--out", "none given"]),
        (["--out={}/a.csv"], [".npz, .h5 or .hdf5", ".csv"]),
        (["--out={}/a.npz", "--num_scenes=0"], ["num_scenes", "0"]),
        (["--out={}/a.npz", "--seed=-1"], ["seed", "-1"]),
        (["--out={}/a.npz", "--snr_db=nan"], ["--snr_db", "nan"]),
    ],
)
def test_bad_flags(capsys, tmp_path, flags, parts):
    status, out, err = _run(capsys, *(flag.format(tmp_path) for flag in flags))
    assert (status != 0, out, len(err.splitlines())) == (True, "", 1)
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []
