"""Cases reported by users: a correct result, or a flag with the cause."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cases import simulator

from ris_jax import localization
from ris_jax.cli import main
from ris_jax.data.recordings import containers
from ris_jax.estimation.checks.limits import Limits
from ris_jax.physics import scenes

TWO = [[20.0, 10.0, 2.0], [-30.0, -5.0, 4.0]]


def run(capsys, folder, arrays, *flags):
    """Run `localize` on a file; return status, rows and text."""
    containers.save(folder / "data.npz", arrays)
    out = folder / "out.csv"
    command = ["ris-jax", "localize", f"--data={folder / 'data.npz'}", f"--out={out}", *flags]
    status = main.main(command)
    printed, err = capsys.readouterr()
    rows = []
    if out.exists():
        with out.open() as file:
            rows = list(csv.DictReader(file))
    return status, rows, printed, err


def assert_places(rows, sources, *, deviations=5.0):
    """Check that every scene has its sources, within some standard deviations."""
    for scene, places in enumerate(sources):
        found = [row for row in rows if row["scene"] == str(scene)]
        assert len(found) == len(places)
        for azimuth, elevation, source_range in places:
            truth = {"azimuth_deg": azimuth, "elevation_deg": elevation, "range_m": source_range}
            near = min(found, key=lambda row: abs(float(row["azimuth_deg"]) - azimuth))
            for name, value in truth.items():
                cell = near[name.replace("_deg", "_std_deg").replace("_m", "_std_m")]
                if cell:
                    assert abs(float(near[name]) - value) < deviations * float(cell), (scene, name)


def flags_of(rows):
    """Return the flags of each scene that has a row."""
    return {row["scene"]: row["flags"].split() for row in rows}


class TestSurface:
    """12 x 12 elements, 16 antennas, 16 codes, four scenes: one program."""

    def test_good_scenes(self, capsys, tmp_path):
        recording = simulator.through_surface([TWO] * 4)
        status, rows, printed, err = run(
            capsys, tmp_path, recording.file(snr_db=np.full(4, 20.0)), "--range_max=10"
        )
        assert (status, err) == (0, "")
        assert_places(rows, recording.sources)
        lines = [line for line in printed.splitlines() if not line.startswith("compiled in")]
        assert len(lines) == 3  # announcement, count and file

    def test_near_field_amplitude(self, capsys, tmp_path):
        """The amplitude varies close to the surface; there is no false source and no flag."""
        sources = [[[20, 10, source_range]] for source_range in (1, 2, 3, 3)]
        recording = simulator.through_surface(sources, seed=1, snr_db=25.0)
        status, rows, _, err = run(
            capsys, tmp_path, recording.file(snr_db=np.full(4, 25.0)), "--range_max=10"
        )
        assert (status, err) == (0, "")
        assert_places(rows, recording.sources)
        assert flags_of(rows) == {scene: [] for scene in "0123"}

    @pytest.mark.full
    def test_equal_modulus(self, capsys, tmp_path):
        """Data without the amplitude are flagged, and correct with the matching wavefront."""
        sources = [[[20, 10, source_range]] for source_range in (1, 1.2, 1.4, 1.6)]
        recording = simulator.through_surface(
            sources, seed=1, snr_db=25.0, wave=simulator.spherical_phase
        )
        _, rows, printed, _ = run(capsys, tmp_path, recording.file(), "--max_sources=1")
        assert all("wavefront" in flags for flags in flags_of(rows).values())
        assert "spherical_phase" in printed
        _, rows, _, _ = run(capsys, tmp_path, recording.file(), "--wavefront=spherical_phase")
        assert_places(rows, recording.sources)
        assert flags_of(rows) == {scene: [] for scene in "0123"}

    def test_outside_the_view(self, capsys, tmp_path):
        sources = [[[75, 0, 3]], [[68, 5, 3]], [[10, 5, 0.3]], [[20, 10, 2]]]
        recording = simulator.through_surface(sources)
        _, rows, printed, _ = run(capsys, tmp_path, recording.file())
        flags = flags_of(rows)
        assert all("on_limit" in flags[scene] for scene in "012")
        assert flags["3"] == []
        assert "on_limit, 3 of 4 scenes: a source lies on the limit of the search" in printed
        assert all(abs(float(row["azimuth_deg"])) <= 60 for row in rows)
        assert all(abs(float(row["elevation_deg"])) <= 30 for row in rows)
        assert all(float(row["range_m"]) >= 0.5 for row in rows)

    def test_beyond_the_largest_range(self, capsys, tmp_path):
        sources = [[[20, 10, 2]], [[20, 10, 4]], [[-10, 5, 2.9]], [[-10, 5, 1]]]
        recording = simulator.through_surface(sources)
        _, rows, _, _ = run(capsys, tmp_path, recording.file(), "--range_max=3")
        assert all(float(row["range_m"]) <= 3 for row in rows)
        assert flags_of(rows) == {"0": [], "1": ["on_limit"], "2": [], "3": []}

    def test_almost_no_noise(self, capsys, tmp_path):
        recording = simulator.through_surface([TWO] * 4, snr_db=70.0)
        _, rows, printed, _ = run(capsys, tmp_path, recording.file())
        assert_places(rows, recording.sources, deviations=20.0)
        deviations = [float(row["azimuth_std_deg"]) for row in rows]
        assert all(1e-6 < value < 1e-2 for value in deviations)
        assert "noise_floor, 4 of 4 scenes" in printed

    @pytest.mark.full
    def test_grating_lobes(self, capsys, tmp_path):
        recording = simulator.through_surface(
            [[[-30, -5, 60]]] * 4, snr_db=10.0, positions=simulator.plane(12, 12, 0.3)
        )
        _, rows, printed, _ = run(capsys, tmp_path, recording.file())
        assert all("ambiguous" in flags for flags in flags_of(rows).values())
        assert "grating lobe" in printed

    def test_map_coordinates(self, capsys, tmp_path):
        recording = simulator.through_surface([TWO] * 4)
        moved = recording.positions + np.array([5e5, 4.5e6, 100.0])
        _, rows, printed, _ = run(capsys, tmp_path, recording.file(element_positions=moved))
        assert_places(rows, recording.sources)
        assert "centred, 4 of 4 scenes" in printed

    def test_other_sign(self, capsys, tmp_path):
        recording = simulator.through_surface([[[20, 10, 30], [-30, -5, 50]]] * 4)
        data = recording.file()
        names = ("snapshots", "channel", "codes")
        data |= {name: data[name].conj() for name in names}
        _, rows, printed, _ = run(capsys, tmp_path, data)
        assert all("conjugated" in flags for flags in flags_of(rows).values())
        assert "conjugate snapshots, channel and codes" in printed

    def test_independent_symbols_as_constant(self, capsys, tmp_path):
        recording = simulator.through_surface([TWO] * 4, independent=True)
        _, _, printed, _ = run(capsys, tmp_path, recording.file())
        assert "independent_signals, 4 of 4 scenes" in printed
        assert "use source_signal=independent" in printed

    def test_one_bit_states(self, capsys, tmp_path):
        recording = simulator.through_surface([TWO] * 4, bits=1)
        states = (recording.codes.real < 0).astype(np.int8)
        status, rows, _, err = run(capsys, tmp_path, recording.file(codes=states))
        assert status == 1
        assert not rows
        assert "codes 0" not in err
        assert "look like one-bit states" in err
        assert not (tmp_path / "out.csv").exists()
        flag = "--binary_codes=states"
        status, rows, _, _ = run(capsys, tmp_path, recording.file(codes=states), flag)
        assert status == 0
        assert_places(rows, recording.sources)

    @pytest.mark.parametrize(
        ("shift", "flag"),
        [
            (-20.0, "noise_below"),
            pytest.param(20.0, "noise_above", marks=pytest.mark.full),
        ],
    )
    def test_wrong_snr(self, capsys, tmp_path, shift, flag):
        recording = simulator.through_surface([TWO] * 4)
        _, rows, printed, _ = run(capsys, tmp_path, recording.file(snr_db=np.full(4, 20.0 + shift)))
        assert all(flag in flags for flags in flags_of(rows).values())
        assert f"{flag}, 4 of 4 scenes" in printed

    def test_json(self, capsys, tmp_path):
        recording = simulator.through_surface([[[75, 0, 3]], *[[[20, 10, 2]]] * 3])
        containers.save(tmp_path / "data.npz", recording.file())
        out = tmp_path / "out.json"
        main.main(["ris-jax", "localize", f"--data={tmp_path / 'data.npz'}", f"--out={out}"])
        capsys.readouterr()
        scenes = json.loads(out.read_text())["scenes"]
        assert "on_limit" in scenes[0]["flags"]
        assert [scene["flags"] for scene in scenes[1:]] == [[], [], []]


class TestPlainArray:
    """Eight scenes of 16 antennas without a surface, 64 snapshots, independent signals."""

    FLAGS = ("--source_signal=independent", "--max_sources=4")

    def _file(self, recording):
        """Write a file without channel and codes, which are optional."""
        data = recording.file()
        return {name: data[name] for name in data if name not in ("channel", "codes")}

    def test_uncalibrated_antennas(self, capsys, tmp_path):
        random = np.random.default_rng(15)
        gains = 1 + 0.115 * random.standard_normal(16)
        gains = gains * np.exp(1j * np.radians(10) * random.standard_normal(16))
        sources = [[[20, 10, 5], [-30, -15, 8]]] * 8
        recording = simulator.plain_array(sources, simulator.plane(4, 4), gains=gains)
        _, rows, printed, _ = run(capsys, tmp_path, self._file(recording), *self.FLAGS)
        assert all({"coherent", "misfit"} & set(flags) for flags in flags_of(rows).values())
        assert "not calibrated" in printed

    def test_calibrated_antennas(self, capsys, tmp_path):
        sources = [[[20, 10, 5], [-30, -15, 8]]] * 8
        recording = simulator.plain_array(sources, simulator.plane(4, 4))
        _, rows, printed, _ = run(capsys, tmp_path, self._file(recording), *self.FLAGS)
        assert_places(rows, recording.sources)
        assert len(printed.splitlines()) == 3

    @pytest.mark.full
    @pytest.mark.parametrize("flags", [(), ("--elevation_max_deg=0",)])
    def test_linear_array(self, capsys, tmp_path, flags):
        sources = [[[-20, 0, 3], [25, 0, 6]]] * 8
        recording = simulator.plain_array(sources, simulator.line(16))
        _, rows, printed, _ = run(capsys, tmp_path, self._file(recording), *self.FLAGS, *flags)
        assert_places(rows, recording.sources)
        assert all(float(row["elevation_deg"]) == 0 for row in rows)
        assert all(row["elevation_std_deg"] == "" for row in rows)
        assert all(0 < float(row["azimuth_std_deg"]) < 0.1 for row in rows)
        assert "undetermined, 8 of 8 scenes" in printed

    @pytest.mark.full
    def test_long_recordings(self, capsys, tmp_path):
        """24 000 snapshots of five antennas cost as much as five, and give one source."""
        angle = 2 * np.pi * np.arange(5) / 5
        ring = 0.13 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
        sources = [[[-20, 5, 5]], [[35, -15, 8]]]
        recording = simulator.plain_array(sources, ring, snr_db=10.0, length=24_000)
        status, rows, _, _ = run(capsys, tmp_path, self._file(recording), *self.FLAGS)
        assert status == 0
        assert_places(rows, recording.sources)
        assert all(float(row["azimuth_std_deg"]) < 1 for row in rows)

    @pytest.mark.full
    def test_two_equal_sources_in_one_snapshot(self, capsys, tmp_path):
        """The first source alone is not significant, so two are tested together."""
        random = np.random.default_rng(4)
        positions, sources = simulator.plane(4, 4), [[[35, 20, 3], [-35, -20, 4]]] * 8
        channel, codes = np.eye(16) + 0j, np.ones((1, 16)) + 0j
        snapshots = []
        for scene in sources:
            signals = np.exp(2j * np.pi * random.random((1, 2)))
            wave = simulator.spherical(positions, np.array(scene, float), 0.3)
            snapshots.append(simulator.received(random, signals @ wave, channel, codes, 30.0))
        recording = simulator.Recording(np.stack(snapshots), channel, codes, positions, sources)
        for flag in ("--max_sources=4", "--num_sources=2"):
            _, rows, _, _ = run(capsys, tmp_path, recording.file(), flag)
            assert_places(rows, sources)

    def test_in_python(self):
        """Snapshots and positions are enough, and positions may be a list."""
        sources = [[[20, 10, 5], [-30, -15, 8]]] * 8
        recording = simulator.plain_array(sources, simulator.plane(4, 4))
        estimate = localization.localize(
            scenes.Measurement(recording.snapshots.astype(np.complex64)),
            recording.positions.tolist(),
            wavelength=0.3,
            source_signal="independent",
            max_sources=4,
            limits=Limits(np.radians(60), np.radians(30), 0.5),
        )
        assert estimate.num_sources.tolist() == [2] * 8
        assert estimate.flags.tolist() == [0] * 8
        found = np.sort(np.rad2deg(estimate.azimuth[:, :2]), axis=1)
        np.testing.assert_allclose(found, [[-30, 20]] * 8, atol=0.5)

    def test_as_many_sources_as_antennas(self, capsys, tmp_path):
        recording = simulator.plain_array([[[20, 10, 5]]] * 2, simulator.plane(2, 2))
        status, rows, _, err = run(
            capsys, tmp_path, self._file(recording), "--source_signal=independent"
        )
        assert status == 2
        assert not rows
        assert err.splitlines() == [
            "ris-jax: max_sources: expected less than M=4 antennas for independent signals; found "
            "5; give max_sources=3 or less"
        ]
        assert not (tmp_path / "out.csv").exists()


ESTIMATORS = (
    "maximum_likelihood",
    "music",
    "modified_music",
    "orthogonal_matching_pursuit",
    "sparse_bayesian_learning",
)
_LOCALIZE_EACH = """
import sys
from ris_jax.cli import main
data, out, *estimators = sys.argv[1:]
for name in estimators:
    command = ["ris-jax", "localize", "--data=" + data, "--estimator=" + name]
    assert main.main([*command, "--out=" + out + "/" + name + ".csv"]) == 0, name
"""


@pytest.fixture(scope="module")
def precisions(tmp_path_factory):
    """Localise two scenes with every estimator; return a folder of results per precision."""
    folder = tmp_path_factory.mktemp("precisions")
    recording = simulator.through_surface(
        [TWO] * 2, positions=simulator.plane(8, 8), antennas=12, length=12
    )
    containers.save(folder / "data.npz", recording.file())
    for enabled in "01":
        out = folder / enabled
        out.mkdir()
        subprocess.run(
            [sys.executable, "-c", _LOCALIZE_EACH, str(folder / "data.npz"), str(out), *ESTIMATORS],
            env=os.environ | {"JAX_ENABLE_X64": enabled}, check=True, capture_output=True,
        )  # fmt: skip
    return [folder / enabled for enabled in "01"]


@pytest.mark.full
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_double_precision(estimator, precisions):
    """`JAX_ENABLE_X64=1` changes no estimate by more than 0.001 degrees."""
    found = []
    for folder in precisions:
        with (folder / f"{estimator}.csv").open() as file:
            rows = list(csv.DictReader(file))
        found.append(
            [[float(row[name]) for name in ("azimuth_deg", "elevation_deg")] for row in rows]
        )
    assert len(found[0]) == 4
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)
    assert found[1] != found[0]  # the variable is read
