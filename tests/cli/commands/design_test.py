"""Command `design`: output files, resuming, and errors of flags."""

import csv

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.accuracy import code_design
from ris_jax.cli import main
from ris_jax.physics import codebooks

SMALL = (
    "--set=system.rows=4", "--set=system.columns=4", "--set=system.num_antennas=1",
    "--set=system.num_snapshots=6", "--set=scene.range_max=2", "--num_positions=8", "--steps=52",
    "--sweeps=1",
)  # fmt: skip


def run(capsys, *arguments):
    status = main.main(["ris-jax", "design", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def comparison(folder):
    with (folder / "comparison.csv").open() as file:
        return {row["codes"]: float(row["mean_m"] or "inf") for row in csv.DictReader(file)}


def test_region_and_resume(capsys, tmp_path, monkeypatch):
    """An interrupted run resumes and gives the codes of an uninterrupted one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    status, out, err = run(capsys, f"--out={whole}", *SMALL, "--bits=1,2")
    assert status == 0, err
    assert out.startswith("design: elements: 16, antennas: 1, codes: 6")
    assert {path.name for path in whole.iterdir()} == {
        "codes_continuous.npz", "codes_1bit.npz", "codes_2bit.npz", "comparison.csv",
        "before_after.png", "before_after.pdf", "state.npz",
    }  # fmt: skip
    means = comparison(whole)
    for name in ("random, median of 10", "DFT", "directional", "positional"):
        assert means["designed, continuous"] < means[name]

    descend, left = code_design.descend, [1, 2]

    def stopping(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            left.pop(0)
            raise KeyboardInterrupt
        return descend(*args, **options)

    monkeypatch.setattr(code_design, "descend", stopping)
    status, _, err = run(capsys, f"--out={parts}", *SMALL, "--bits=1,2")
    assert status == 130
    assert "resumes where it stopped" in err
    monkeypatch.setattr(code_design, "descend", descend)
    status, out, _ = run(capsys, f"--out={parts}", *SMALL, "--bits=1,2")
    assert status == 0
    assert "resuming" in out
    for name in ("codes_continuous.npz", "codes_2bit.npz", "codes_1bit.npz"):
        with np.load(whole / name) as expected, np.load(parts / name) as found:
            np.testing.assert_array_equal(found["codes"], expected["codes"])

    status, _, err = run(capsys, f"--out={parts}", *SMALL, "--goal=worst")
    assert status == 1
    assert "other flags" in err
    (parts / "state.npz").write_bytes(b"PK")
    status, _, err = run(capsys, f"--out={parts}", *SMALL)
    assert status == 1
    assert "state.npz" in err


def test_known_position_and_readers_of_the_codes(capsys, tmp_path):
    """`simulate` and `bound` read the codes file; its levels are for a controller."""
    status, _, err = run(
        capsys, f"--out={tmp_path}", *SMALL, "--at=10,5,1", "--bits=2", "--starts=1",
        "--transmit_power_dbm=10",
    )  # fmt: skip
    assert status == 0, err
    means = comparison(tmp_path)
    assert means["optimum of any amplitude"] < means["designed, continuous"]
    assert means["designed, continuous"] <= means["four beams"]
    assert means["positional"] == np.inf  # one beam, for any number of codes
    path = tmp_path / "codes_2bit.npz"
    with np.load(path) as found:
        np.testing.assert_allclose(1j ** found["levels"].astype(int), found["codes"], atol=1e-6)
        expected = found["codes"]
    system = config_lib.SystemConfig(
        rows=4, columns=4, num_snapshots=6, codes_file=str(path), codebook="random"
    )
    np.testing.assert_array_equal(codebooks.codebook(system), expected)


def needed(folder):
    with (folder / "needed.csv").open() as file:
        return {
            (row["needed"], row["codes_are"].partition(",")[0]): row for row in csv.DictReader(file)
        }


@pytest.mark.full
def test_target(capsys, tmp_path):
    """The smallest numbers reach the target and one fewer do not; `bound` agrees."""
    flags = (*SMALL[:5], "--num_positions=6", "--steps=20", "--starts=1", "--most_codes=40")
    flags += (f"--out={tmp_path}", "--snr_db=20")
    status, out, err = run(capsys, *flags, "--target_m=0.3")
    assert status == 0, err
    assert "at the same transmit power" in out
    found = needed(tmp_path)
    assert len(found) == 4
    for row in found.values():
        assert float(row["bound_m"]) <= 0.3
        assert float(row["bound_m_with_one_fewer"] or "inf") > 0.3
        assert int(row["number"]) <= int(row["most"])
    for name in ("codes", "antennas"):
        assert int(found[name, "designed"]["number"]) <= int(found[name, "random"]["number"])

    # Designs of the first search are used again, and not repeated.
    status, out, err = run(capsys, *flags, "--target_m=1e-5")
    assert status == 0, err
    assert "resuming" in out
    rows = needed(tmp_path)
    assert [row["number"] for row in rows.values()] == [""] * 4
    assert out.count("raise --most_codes or the power") == 2
    assert out.count("raise --most_antennas or the power") == 2


def recordings(folder):
    random = np.random.default_rng(0)
    positions = random.uniform(-0.3, 0.3, (9, 3)) * [1, 1, 0]
    np.savez(
        folder / "recordings.npz", snapshots=random.normal(size=(1, 6, 2)) + 0j,
        channel=random.normal(size=(2, 9)) + 1j, codes=np.exp(1j * random.normal(size=(6, 9))),
        wavelength=0.3, element_positions=positions,
    )  # fmt: skip


@pytest.mark.full
def test_target_with_recordings(capsys, tmp_path):
    """The antennas are those of the file; codes may be more."""
    recordings(tmp_path)
    flags = (
        f"--out={tmp_path / 'out'}", f"--data={tmp_path / 'recordings.npz'}", "--target_m=0.5",
        "--at=10,5,1", "--steps=20", "--starts=1",
    )  # fmt: skip
    status, _, err = run(capsys, *flags, "--most_antennas=3")
    assert status != 0
    assert "at most 2, those of --data" in err
    status, _, err = run(capsys, *flags)
    assert status == 0, err
    most = {name: row["most"] for (name, _), row in needed(tmp_path / "out").items()}
    assert most == {"codes": "24", "antennas": "2"}


@pytest.mark.full
def test_recordings(capsys, tmp_path):
    recordings(tmp_path)
    status, _, err = run(
        capsys, f"--out={tmp_path / 'out'}", f"--data={tmp_path / 'recordings.npz'}",
        "--num_codes=5", "--num_positions=4", "--region=-30,30,0,0,0.5,1", "--steps=20",
        "--sweeps=1", "--bits=1", "--starts=1", "--goal=quantile",
    )  # fmt: skip
    assert status == 0, err
    with np.load(tmp_path / "out" / "codes_1bit.npz") as found:
        assert found["codes"].shape == (5, 9)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ((), ("--out",)),
        (("--out=x", "--at=1,2,3", "--region=0,1,0,1,1,2"), ("--at", "both")),
        (("--out=x", "--region=0,1,0,1,1"), ("--region", "from,to")),
        (("--out=x", "--region=5,1,0,1,1,2"), ("--region", "from,to")),
        (("--out=x", "--region=0,1,0,1,0,2"), ("--region", "above zero")),
        (("--out=x", "--region=a,1,0,1,0,2"), ("--region", "numbers")),
        (("--out=x", "--bits=0"), ("--bits", "1 to 8")),
        (("--out=x", "--bits=a"), ("--bits", "numbers")),
        (("--out=x", "--codes=y.npz"), ("--codes", "none")),
        (("--out=x", "--goal=best"), ("goal", "mean")),
        (("--out=x", "--target_m=0"), ("--target_m", "above zero")),
        (("--out=x", "--target_m=nan"), ("--target_m", "finite")),
        (("--out=x", "--target_m=1", "--bits=2"), ("--bits", "continuous")),
        (("--out=x", "--target_m=1", "--sweeps=2"), ("--sweeps", "continuous")),
        (("--out=x", "--target_m=1", "--most_codes=15"), ("--most_codes", "16 or more")),
        (("--out=x", "--target_m=1", "--most_antennas=15"), ("--most_antennas", "16 or more")),
        (("--out=x", "--most_codes=20"), ("--most_codes", "--target_m")),
        (("--out=x", "--most_antennas=20"), ("--most_antennas", "--target_m")),
        (("--out=x", "--snr_db=1", "--transmit_power_dbm=3"), ("--transmit_power_dbm", "both")),
    ],
)
def test_refused_in_one_line(capsys, tmp_path, monkeypatch, flags, parts):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *flags)
    assert status != 0
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert not list(tmp_path.iterdir())


def test_too_few_codes(capsys, tmp_path):
    """Two real numbers per code do not determine five unknowns."""
    status, _, err = run(
        capsys, f"--out={tmp_path}", *SMALL, "--num_codes=2", "--starts=1", "--at=0,0,1"
    )
    assert status == 1
    assert "need more of either" in err
