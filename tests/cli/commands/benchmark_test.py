"""`benchmark` end to end: a bundle from one command, resumable at every cell."""

import csv

import pytest

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.benchmarks import operations, throughput
from ris_jax.cli import main
from ris_jax.cli.commands import benchmark

SCENES = 4
SMALL = (
    "--set=system.rows=4", "--set=system.columns=4", "--set=system.num_antennas=4",
    "--set=system.num_snapshots=4", "--set=scene.max_sources=2", "--set=scene.snr_min_db=20",
    f"--num_scenes={SCENES}", "--batch_size=4",
)  # fmt: skip
SUITES = "--suite=overall,two_sources,heat_map"
FILES = ("tables/{}.csv", "tables/{}.tex", "figures/{}.png", "figures/{}.pdf")


def run(capsys, *arguments):
    status = main.main(["ris-jax", "benchmark", *map(str, arguments)])
    return status, *capsys.readouterr()


def rows(path):
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    return comments, list(csv.DictReader(lines[len(comments) :]))


@pytest.mark.full
def test_a_tiny_suite_with_a_true_estimator(capsys, tmp_path):
    flags = ["--suite=two_sources", "--estimators=music", f"--out={tmp_path}", "--seed=5", *SMALL]
    status, printed, err = run(capsys, *flags)
    assert (status, err) == (0, "")
    comments, (row,) = rows(tmp_path / "tables" / "two_sources.csv")
    for text in ("seed: 5", "machine: ", "versions: ", "system.rows=4", "4 scenes per cell"):
        assert any(text in line for line in comments), text
    assert (row["estimator"], row["count_given"], row["scenes"]) == ("music", "True", str(SCENES))
    assert float(row["azimuth_bound_deg"]) > 0
    low, high = (float(row[f"azimuth_rmse_deg{end}"]) for end in ("_lower", "_upper"))
    assert 0 < low <= float(row["azimuth_rmse_deg"]) <= high
    index = (tmp_path / "README.md").read_text()
    for name in FILES:
        assert (tmp_path / name.format("two_sources")).stat().st_size > 0
        assert name.format("two_sources") in index
    assert "README.md" in printed


@pytest.mark.full
def test_resumes_at_the_cell(capsys, tmp_path, calls, monkeypatch):
    """After a kill behind three cells only the others run; the files are identical."""
    flags = [SUITES, "--estimators=maximum_likelihood,music", *SMALL]
    assert run(capsys, *flags, f"--out={tmp_path / 'whole'}")[0] == 0
    whole = len(calls)
    assert whole == 2 * (2 + 1 + 2)  # blind and known, one SNR, one and two sources
    fake = localization.localize

    def killed(*arguments, **options):
        if len(calls) == whole + 3:
            raise KeyboardInterrupt
        return fake(*arguments, **options)

    monkeypatch.setattr(localization, "localize", killed)
    status, _, err = run(capsys, *flags, f"--out={tmp_path / 'parts'}")
    assert status == 130
    assert "the same command resumes" in err
    monkeypatch.setattr(localization, "localize", fake)
    assert run(capsys, *flags, f"--out={tmp_path / 'parts'}")[0] == 0
    assert len(calls) == 2 * whole
    for suite in ("overall", "two_sources", "heat_map"):
        for name in FILES[:2]:
            one, other = (tmp_path / part / name.format(suite) for part in ("whole", "parts"))
            assert one.read_text() == other.read_text()
    # With all cells in the cache, only the results are written.
    index = (tmp_path / "parts" / "README.md").read_text()
    again = ["--suite=rmse_by_num_sources,heat_map", *flags[1:], f"--out={tmp_path / 'parts'}"]
    before = len(calls)
    assert run(capsys, *again)[0] == 0
    assert len(calls) == before + 4  # 15 dB is not the SNR of the heat map
    grown = (tmp_path / "parts" / "README.md").read_text()
    assert all(line in grown for line in index.splitlines())
    assert "By number of sources at 15 dB" in grown

    given = {(c["estimator"], c["num_sources"] is not None) for c in calls}
    assert given == {("maximum_likelihood", False), ("maximum_likelihood", True),
                    ("music", False), ("music", True)}  # fmt: skip
    refused = run(capsys, *again, "--seed=9")
    assert refused[0] == 1
    assert "seed=9 (there 0)" in refused[2]


def test_fewer_scenes(capsys, tmp_path, calls):
    flags = ["--suite=two_sources", "--estimators=mvdr,music", "--scenes_of=music=2", *SMALL]
    assert run(capsys, *flags, f"--out={tmp_path}")[0] == 0
    comments, found = rows(tmp_path / "tables" / "two_sources.csv")
    assert {row["estimator"]: row["scenes"] for row in found} == {"mvdr": "4", "music": "2"}
    assert any("music: 2" in line for line in comments)


@pytest.mark.full
def test_throughput(capsys, tmp_path, monkeypatch):
    """Simulator and one estimator of the table; measured once."""
    cases = throughput.CASES["throughput"]
    monkeypatch.setattr(throughput, "_SECONDS", 0.0)
    monkeypatch.setattr(operations, "_MATRIX", 64)
    kept = ("simulator", "music")
    monkeypatch.setitem(
        throughput.CASES, "throughput",
        lambda plan: [case for case in cases(plan) if case.stage in kept],
    )  # fmt: skip
    flags = ["--suite=throughput", "--estimators=music", f"--out={tmp_path}", *SMALL]
    assert run(capsys, *flags)[0] == 0
    comments, found = rows(tmp_path / "tables" / "throughput.csv")
    assert any("Gflop/s in a float32 matrix product" in line for line in comments)
    assert [row["stage"] for row in found] == list(kept)
    for row in found:
        assert row["batch"] == "4"
        assert float(row["scenes_per_second_lower"]) > 0 or row["scenes_per_second_lower"] == "0.0"
        for name in ("scenes_per_second", "operations_per_scene", "share_of_matrix_rate"):
            assert float(row[name]) > 0, name
    monkeypatch.setattr(throughput, "measure", None)  # a call fails
    assert run(capsys, *flags)[0] == 0
    assert rows(tmp_path / "tables" / "throughput.csv")[1] == found


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--suite", "two_sources", "none given"]),
        (["--suite=snrs"], ["--suite", "'snrs'", "separation"]),
        (["--suite=snr", "--estimators=esprit"], ["--estimators", "music", "'esprit'"]),
        (["--suite=snr", "--scenes_of=music"], ["--scenes_of", "NAME=COUNT", "'music'"]),
        (["--suite=snr", "--scenes_of=esprit=5"], ["--scenes_of", "esprit=5"]),
        (["--suite=snr", "--num_scenes=1"], ["num_scenes", "1"]),
        (["--suite=snr", "--pretrained=nobody"], ["pretrained", "nobody"]),
        (["--suite=snr", "--false_alarm_rate=2"], ["false_alarm_rate", "2.0"]),
        (["--suite=snr", "--set=scene.colour=red"], ["scene.colour"]),
        (["--suite=separation", "--set=scene.max_sources=1"], ["scene.max_sources", "separation"]),
    ],
)
def test_refuses(capsys, tmp_path, flags, parts):
    status, _, err = run(capsys, *flags, f"--out={tmp_path / 'out'}")
    assert status != 0
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert not list(tmp_path.iterdir())


def test_estimators_for_symmetric_arrays_are_omitted_for_others():
    """By default all estimators that support the array are compared."""
    benchmark.FLAGS(["benchmark"])
    assert "modified_music" in benchmark._estimators(config_lib.SystemConfig())
    other = benchmark._estimators(config_lib.SystemConfig(centered=False))
    assert {"maximum_likelihood", "network", "music"} <= set(other)
    assert "modified_music" not in other
