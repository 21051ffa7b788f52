"""Command `bound`: output files, and errors of flags."""

import csv

import numpy as np
import pytest

from ris_jax.accuracy import bound_maps, mismatch
from ris_jax.cli import main
from ris_jax.cli.commands import bound
from ris_jax.data.recordings import containers
from ris_jax.reports import bound_tables

SMALL = (
    "--set=system.rows=4", "--set=system.columns=4", "--set=system.num_antennas=4",
    "--set=system.num_snapshots=4", "--set=scene.range_max=2", "--grid=6",
)  # fmt: skip


def run(capsys, *arguments):
    status = main.main(["ris-jax", "bound", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def read(path):
    with path.open() as file:
        header, *rows = csv.reader(file)
    assert tuple(header[-len(bound_tables.HEADER) :]) == bound_tables.HEADER
    return header, [[float(cell) if cell else np.inf for cell in row] for row in rows]


def recordings_file(path, random):
    def gaussian(*shape):
        return random.normal(size=shape) + 1j * random.normal(size=shape)

    side = np.arange(4) * 0.15
    positions = np.array([[x, y, 0.0] for y in side for x in side])
    codes = np.exp(2j * np.pi * random.random((2, 4, 16)))
    containers.save(path, {
        "snapshots": gaussian(2, 4, 4), "channel": gaussian(2, 4, 16), "codes": codes,
        "wavelength": 0.3, "element_positions": positions,
    })  # fmt: skip


class TestOutput:
    def test_maps_sweeps_and_limits(self, capsys, tmp_path):
        out = tmp_path / "bound"
        status, printed, err = run(
            capsys, f"--out={out}", *SMALL, "--at=10,-5,1.5", "--sweep=snr_db:0:20:10",
            "--sweep=codes:3,4", "--sweep=elements:10,16", "--target_m=0.5", "--resolution",
        )  # fmt: skip
        assert status == 0, err
        names = ("from_above", "front", "sweep_snr_db", "sweep_codes", "sweep_elements")
        expected = {f"{name}.{ending}" for name in names for ending in ("csv", "png", "pdf")}
        assert {path.name for path in out.iterdir()} == expected | {"positions.csv"}
        assert printed.startswith("bound: elements: 16, antennas: 4, codes: 4, ")
        assert "Range limit" in printed
        assert "Resolution" in printed
        assert "reaches 0.5 m at 10 deg, -5 deg, 1.5 m" in printed

        _, rows = read(out / "from_above.csv")
        assert len(rows) == 36
        rows = np.array(rows)
        np.testing.assert_allclose(rows[:, 3] ** 2 + rows[:, 5] ** 2, rows[:, 2] ** 2, rtol=1e-5)
        metres = np.deg2rad(rows[:, 7:9]) * rows[:, 2:3]
        error = np.sqrt(np.sum(metres**2, axis=1) + rows[:, 9] ** 2)
        np.testing.assert_allclose(error, rows[:, 10], rtol=1e-4)  # elevation 0

        _, (single,) = read(out / "positions.csv")
        header, swept = read(out / "sweep_snr_db.csv")
        assert header[0] == "swept_snr_db"
        np.testing.assert_allclose(swept[1][1:], single, rtol=1e-5)  # the default is 10 dB
        np.testing.assert_allclose(swept[0][-1], single[-1] * 10**0.5, rtol=1e-4)
        _, sizes = read(out / "sweep_elements.csv")
        assert [row[0] for row in sizes] == [9, 16]
        np.testing.assert_allclose(sizes[1][1:], single, rtol=1e-5)

    def test_second_source_link_budget_and_unidentifiable_cases(self, capsys, tmp_path):
        """Two antennas and two codes give 8 real numbers for the 10 unknowns of two sources."""
        status, printed, _ = run(
            capsys, f"--out={tmp_path}", *SMALL, "--set=system.num_antennas=2",
            "--set=system.num_snapshots=2", "--second=20,0,1", "--transmit_power_dbm=-20",
            "--sweep=transmit_power_dbm:-20,0", "--nomaps", "--at=0,0,0.5", "--at=0,0,2",
        )  # fmt: skip
        assert status == 0
        assert "-20 dBm, noise -109.0 dBm" in printed
        header, rows = read(tmp_path / "positions.csv")
        assert np.isinf(np.array(rows)[:, header.index("position_error_m")]).all()
        column = header.index("snr_db")
        assert rows[0][column] - rows[1][column] > 6.0
        _, swept = read(tmp_path / "sweep_transmit_power_dbm.csv")
        np.testing.assert_allclose(swept[2][column + 1] - swept[0][column + 1], 20.0, atol=1e-3)

    def test_recordings(self, capsys, tmp_path):
        """A scene provides array, channel and codes; a sweep uses its first antennas."""
        recordings_file(tmp_path / "recordings.npz", np.random.default_rng(0))
        flags = (f"--data={tmp_path / 'recordings.npz'}", "--nomaps", "--at=0,0,1")
        found = []
        for scene in (0, 1):
            out = tmp_path / str(scene)
            status, _, err = run(
                capsys, *flags, f"--scene={scene}", f"--out={out}",
                "--sweep=antennas:3,4", "--sweep=codes:3,4",
            )  # fmt: skip
            assert status == 0, err
            found.append(read(out / "positions.csv")[1][0])
            for name in ("antennas", "codes"):
                np.testing.assert_allclose(
                    read(out / f"sweep_{name}.csv")[1][1][1:], found[-1], rtol=1e-4
                )
        assert found[0][-1] != found[1][-1]

    def test_codes_of_a_file_and_several_channels(self, capsys, tmp_path):
        codes = np.exp(2j * np.pi * np.random.default_rng(0).random((5, 16)))
        np.savez(tmp_path / "codes.npz", codes=codes)
        status, printed, err = run(
            capsys, f"--out={tmp_path}", *SMALL, f"--codes={tmp_path / 'codes.npz'}",
            "--num_channels=2", "--nomaps", "--sweep=codes:4,5", "--at=0,0,1",
        )  # fmt: skip
        assert status == 0, err
        assert "codes.npz" in printed
        _, swept = read(tmp_path / "sweep_codes.csv")
        np.testing.assert_allclose(swept[1][1:], read(tmp_path / "positions.csv")[1][0], rtol=1e-4)
        assert swept[0][-1] > swept[1][-1]


@pytest.mark.full
def test_impairments_are_ranked(capsys, tmp_path):
    status, printed, err = run(
        capsys, f"--out={tmp_path}", *SMALL, "--nomaps", "--at=0,0,1", "--at=10,0,1.5",
        "--impairments=phase_error,dead_fraction,fresnel", "--num_draws=8",
        "--set=impairments.phase_error=0.5", "--snr_db=20",
    )  # fmt: skip
    assert status == 0, err
    with (tmp_path / "impairments.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    costs = [float(row["rms_error_over_bound"]) for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert min(costs) > 1.0
    by_name = {row["impairment"]: row for row in rows}
    assert set(by_name) == {"phase_error", "dead_fraction", "fresnel wavefront assumed"}
    assert by_name["phase_error"]["strength"] == "0.5"
    for row in rows:
        parts = [float(row[name]) for name in ("bias_m", "std_m", "position_error_m")]
        assert parts[0] ** 2 + parts[1] ** 2 == pytest.approx(parts[2] ** 2, rel=1e-4)
    assert "Impairments, by root mean square" in printed


def test_hardware_names_match_the_simulator():
    assert bound._HARDWARE == mismatch.NAMES


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ((), ("--out",)),
        (("--out=x", "--impairments=rust"), ("--impairments", "phase_error", "rust")),
        (("--out=x", "--impairments=planar"), ("--impairments", "planar")),
        (("--out=x", "--at=1,2"), ("--at", "azimuth_deg,elevation_deg,range_m", "1,2")),
        (("--out=x", "--at=1,2,-3"), ("--at", "above zero")),
        (("--out=x", "--second=95,0,3"), ("--second", "within 90 degrees")),
        (("--out=x", "--sweep=nosuch:1,2"), ("--sweep", "nosuch", "antennas")),
        (("--out=x", "--sweep=snr_db"), ("--sweep", "START:STOP:STEP")),
        (("--out=x", "--sweep=snr_db:0:x:1"), ("--sweep", "0:x:1")),
        (("--out=x", "--sweep=snr_db:0:1000:1"), ("--sweep", "1 to 100")),
        (("--out=x", "--sweep=snr_db:0:10:-1"), ("--sweep", "1 to 100")),
        (("--out=x", "--sweep=antennas:0.5,2"), ("--sweep", "whole numbers")),
        (("--out=x", "--sweep=codes:1,2", "--sweep=codes:3"), ("--sweep", "once")),
        (("--out=x", "--sweep=transmit_power_dbm:1,2"), ("--transmit_power_dbm",)),
        (("--out=x", "--transmit_power_dbm=0", "--sweep=snr_db:1,2"), ("--sweep", "snr_db")),
        (("--out=x", "--transmit_power_dbm=0", "--snr_db=3"), ("--transmit_power_dbm", "both")),
        (("--out=x", "--noise_figure_db=3"), ("--noise_figure_db", "--transmit_power_dbm")),
        (("--out=x", "--transmit_power_dbm=0", "--bandwidth_hz=0"), ("--bandwidth_hz", "zero")),
        (("--out=x", "--snr_db=inf"), ("--snr_db", "200")),
        (("--out=x", "--target_m=1"), ("--target_m", "--sweep")),
        (("--out=x", "--front_range=0"), ("--front_range", "above zero")),
        (("--out=x", "--codes=nosuch.npz"), ("nosuch.npz", "codes")),
        (("--out=x", "--data=nosuch.npz"), ("nosuch.npz",)),
        (("--out=x", "--data=x", "--set=system.rows=3"), ("--set", "system.wavefront")),
        (("--out=x", "--data=x", "--seed=3"), ("--seed", "--data")),
        (("--out=x", "--data=x", "--num_channels=2"), ("--num_channels", "--data")),
        (("--out=x", "--grid=1"), ("grid",)),
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


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--sweep=elements:4,9",), "elements"),
        (("--sweep=codes:4,9",), "1 to 4 codes; got 9"),
        (("--scene=2",), "usable scene"),
        (("--codes=codes.npz",), "N = 16"),
    ],
)
def test_refused_with_recordings(capsys, tmp_path, monkeypatch, flags, part):
    monkeypatch.chdir(tmp_path)
    recordings_file(tmp_path / "recordings.npz", np.random.default_rng(0))
    np.savez(tmp_path / "codes.npz", codes=np.ones((4, 9)))
    status, _, err = run(
        capsys, "--data=recordings.npz", "--nomaps", "--at=0,0,1", "--out=out", *flags
    )
    assert status != 0
    assert len(err.splitlines()) == 1, err
    assert part in err


def test_impairments_need_constant_signals(capsys, tmp_path):
    flags = ("--impairments=all", '--set=system.source_signal="independent"')
    status, _, err = run(capsys, f"--out={tmp_path}", *SMALL, *flags)
    assert status != 0
    assert "constant signals" in err


class TestStaticPath:
    def test_cost_is_printed_and_every_number_includes_it(self, capsys, tmp_path):
        flags = (*SMALL, "--nomaps", "--at=0,0,1", "--sweep=snr_db:10")
        _, plain, _ = run(capsys, f"--out={tmp_path / 'off'}", *flags)
        status, said, err = run(capsys, f"--out={tmp_path / 'on'}", *flags, "--static_path=on")
        assert status == 0, err
        assert "static path" not in plain
        cost = float(said.split("Cost of the unknown static path: ")[1].split(" dB")[0])
        assert 0.3 < cost < 10.0
        off, on = (read(tmp_path / name / "positions.csv")[1][0][7:10] for name in ("off", "on"))
        np.testing.assert_allclose(20 * np.mean(np.log10(np.divide(on, off))), cost, atol=0.01)
        _, swept = read(tmp_path / "on" / "sweep_snr_db.csv")
        np.testing.assert_allclose(swept[0][8:11], on, rtol=1e-5)

    def test_codes_with_a_large_mean_are_a_warning(self, capsys, tmp_path):
        codes = np.ones((4, 16)) + 0.1 * np.random.default_rng(0).normal(size=(4, 16)) + 0j
        np.savez(tmp_path / "codes.npz", codes=codes)
        status, said, _ = run(
            capsys, f"--out={tmp_path / 'out'}", *SMALL, "--nomaps", "--at=0,0,1",
            "--static_path=on", f"--codes={tmp_path / 'codes.npz'}",
        )  # fmt: skip
        assert status == 0
        assert "warning: the codes have a large mean" in said

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            (("--set=system.source_signal=independent",), "--static_path: expected off"),
            (("--impairments=all",), "--impairments: need --static_path=off"),
        ],
    )
    def test_refused(self, capsys, tmp_path, flags, part):
        out = tmp_path / "out"
        status, _, err = run(capsys, f"--out={out}", *SMALL, "--static_path=on", *flags)
        assert status != 0
        assert part in err
        assert not out.exists()


def test_values_of_a_sweep():
    assert bound.sweep("snr_db:-10:0:5") == ("snr_db", [-10.0, -5.0, 0.0])
    assert bound.sweep("snr_db:7") == ("snr_db", [7.0])
    assert bound.sweep("codes:4,8") == ("codes", [4.0, 8.0])


def test_figures_mark_unidentifiable_cases():
    """An unidentifiable panel is grey, with a text and a title."""
    from ris_jax.reports import bound_figures

    places = np.stack(np.meshgrid([0.5, 1.0], [-0.1, 0.1], indexing="ij"), axis=-1)
    grid = np.stack([places[..., 1], np.zeros((2, 2)), places[..., 0]], axis=-1).reshape(-1, 3)
    parameters = np.tile([0.01, 0.02, np.inf], (4, 1))
    found = bound_maps.Deviations(parameters, np.full(4, np.inf))
    numbers = bound_tables.columns(grid, np.ones(4), found).reshape(2, 2, -1)
    figure = bound_figures.from_above(numbers, "title", second=np.array([0.1, 0.0, 1.0]))
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes[:4]]
    assert ["not identifiable" in found for found in texts] == [True, False, False, True]
    assert "grey" in figure.get_suptitle()
    assert bound_figures.png(figure).startswith(b"\x89PNG")
    assert bound_figures.pdf(figure).startswith(b"%PDF")
