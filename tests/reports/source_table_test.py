"""Table of sources, by hand."""

import csv
import json

import numpy as np
import pytest

from ris_jax.accuracy import metrics
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.reports import source_table

NUMBERS = np.array([0, 3, 4])


def make_estimate():
    """Return scenes with two sources, none, and a plane wave without a range."""
    deviations = np.array([0.01, 0.02, 0.5])
    covariance = np.broadcast_to(np.diag(deviations**2), (3, 2, 3, 3)).copy()
    covariance[2, 0, 2, 2] = np.inf
    covariance[2, 0, 1, 1] = np.nan
    return Estimate(
        azimuth=np.array([[0.1, -0.2], [0, 0], [np.pi / 6, 0]], np.float32),
        elevation=np.array([[0.0, 0.3], [0, 0], [-np.pi / 9, 0]], np.float32),
        source_range=np.array([[2.5, 4], [np.inf, np.inf], [np.inf, np.inf]], np.float32),
        power=np.array([[10, 1], [0, 0], [0, 0]], np.float32),
        num_sources=np.array([2, 0, 1]),
        covariance=covariance.astype(np.float32),
        noise_variance=np.array([0.1, 0.2, np.nan], np.float32),
        flags=np.array([0, Flag.NOTHING_FOUND, Flag.MISFIT | Flag.ON_LIMIT], np.int32),
    )


def test_rows():
    rows = source_table.source_rows(make_estimate(), NUMBERS)
    degree = 180 / np.pi
    expected = [
        (0, 0, 0.1 * degree, 0.0, 2.5, 0.01 * degree, 0.02 * degree, 0.5, 10.0),
        (0, 1, -0.2 * degree, 0.3 * degree, 4.0, 0.01 * degree, 0.02 * degree, 0.5, 0.0),
    ]
    assert [row[-1] for row in rows] == ["", "", "on_limit misfit"]
    rows = [row[:-1] for row in rows]
    np.testing.assert_allclose(rows[:2], expected, rtol=1e-6, atol=1e-6)
    scene, source, azimuth, elevation, *rest = rows[2]
    np.testing.assert_allclose((scene, source, azimuth, elevation), (4, 0, 30, -20), rtol=1e-6)
    assert rest == [np.inf, pytest.approx(0.01 * degree), None, None, None]


def test_csv_has_empty_cells_for_unknown_values():
    text = source_table.as_csv(source_table.source_rows(make_estimate(), NUMBERS))
    lines = text.splitlines()
    assert lines[0] == (
        "scene,source,azimuth_deg,elevation_deg,range_m,"
        "azimuth_std_deg,elevation_std_deg,range_std_m,power_db,flags"
    )
    assert lines[1].startswith("0,0,5.729578,0.0,2.5,0.5729578,")  # seven digits, as float32 has
    assert lines[3].endswith("inf,0.5729578,,,,on_limit misfit")
    assert [row["scene"] for row in csv.DictReader(lines)] == ["0", "0", "4"]


def test_scenes_of_a_folder_have_their_file():
    estimate, files = make_estimate(), [("a.npz", 0), ("b.npz", 2)]
    rows = source_table.source_rows(estimate, NUMBERS)
    read = list(csv.DictReader(source_table.as_csv(rows, files).splitlines()))
    places = [(row["scene"], row["file"], row["scene_of_file"]) for row in read]
    assert places == [("0", "a.npz", "0"), ("0", "a.npz", "0"), ("4", "b.npz", "2")]
    scenes = json.loads(source_table.as_json(rows, estimate, NUMBERS, {}, files))["scenes"]
    assert [(s["file"], s["scene_of_file"]) for s in scenes] == [
        ("a.npz", 0), ("b.npz", 1), ("b.npz", 2)
    ]  # fmt: skip


def test_summary_without_a_source_found():
    """Unknown errors are not printed as NaN."""
    estimate = make_estimate()
    truth = metrics.Sources(
        np.full((3, 1), -1.0), np.zeros((3, 1)), np.full((3, 1), 2.0), np.array([1, 1, 0])
    )
    text = source_table.truth_summary(estimate, truth)
    assert "none; no source was found within 5 degrees" in text
    assert "nan" not in text


def test_static_path_is_summarised():
    estimate = make_estimate()
    assert source_table.static_path_summary(estimate) == []
    nothing = np.full(3, np.nan)
    estimate = estimate._replace(static_path_db=nothing, static_path_loss_db=nothing)
    assert source_table.static_path_summary(estimate) == []
    estimate = estimate._replace(
        static_path_db=np.array([-1.0, 10.0, 12.0]), static_path_loss_db=np.array([0.3, 0.3, 0.4])
    )
    assert source_table.static_path_summary(estimate) == [
        "static path: median power +10.0 dB relative to the sources; its removal costs 0.3 dB"
    ]
    unknown = estimate._replace(static_path_loss_db=nothing)
    assert "costs" not in source_table.static_path_summary(unknown)[0]
    rows = source_table.source_rows(estimate, NUMBERS)
    scenes = json.loads(source_table.as_json(rows, estimate, NUMBERS, {}))["scenes"]
    assert [scene["static_path_db"] for scene in scenes] == [-1.0, 10.0, 12.0]


def test_json_lists_every_scene():
    estimate = make_estimate()
    rows = source_table.source_rows(estimate, NUMBERS)
    found = json.loads(source_table.as_json(rows, estimate, NUMBERS, {"estimator": "music"}))
    assert found["estimator"] == "music"
    assert [scene["scene"] for scene in found["scenes"]] == [0, 3, 4]
    assert [scene["num_sources"] for scene in found["scenes"]] == [2, 0, 1]
    assert found["scenes"][1]["sources"] == []
    assert found["scenes"][2]["noise_variance"] is None
    source = found["scenes"][2]["sources"][0]
    assert tuple(source) == source_table.HEADER[1:-1]
    flags = [scene["flags"] for scene in found["scenes"]]
    assert flags == [[], ["nothing_found"], ["on_limit", "misfit"]]
    assert source["range_m"] is source["range_std_m"] is source["power_db"] is None


def test_summary_by_hand():
    """One of two sources is found with errors of 1 and 2 degrees and 0.5 m; one is false."""
    degree = np.pi / 180
    truth = metrics.Sources(
        azimuth=np.array([[0.0, 0.5], [0.0, 0.0]]),
        elevation=np.zeros((2, 2)),
        source_range=np.full((2, 2), 3.0),
        num_sources=np.array([2, 0]),
    )
    estimate = truth._replace(
        azimuth=np.array([[degree, -0.5], [0, 0]]),
        elevation=np.full((2, 2), 2 * degree),
        source_range=np.full((2, 2), 3.5),
        num_sources=np.array([2, 0]),
    )
    text = source_table.truth_summary(estimate, truth)
    assert "50.0% of 2 sources within 5 degrees in both angles, 1 false" in text
    assert "number correct in 100.0% of scenes" in text
    assert "azimuth 1.000 deg, elevation 2.000 deg, range 0.500 m" in text
    assert len(text.splitlines()) == 2


def test_summary_without_scenes():
    nothing = metrics.Sources(*np.zeros((3, 1, 2)), num_sources=np.array([0]))
    text = source_table.truth_summary(nothing, nothing)
    assert text.startswith(
        "against the truth: it has no sources, 0 false; number correct in 100.0%"
    )
    assert "nan" not in text


def _truth(source_range, count, azimuth=0.1):
    places = np.full((4, 1), azimuth)
    return metrics.Sources(
        azimuth=places,
        elevation=np.zeros((4, 1)),
        source_range=np.full((4, 1), source_range),
        num_sources=np.full(4, count),
    )


@pytest.mark.parametrize(
    ("truth", "warning"),
    [
        (_truth(3.0, 1), None),
        (_truth(280.0, 1), "centimetres"),
        (_truth(3100.0, 1), "millimetres"),
        (_truth(3.0, 1, azimuth=1.3), "4 of 4 true sources lie outside the search limits"),
        (_truth(3.0, 0), "+1 sources found against the true number"),
    ],
)
def test_warnings_about_the_truth(truth, warning):
    limits = Limits(azimuth_max=1.0, elevation_max=0.5, range_min=0.5)
    lines = source_table.truth_doubts(_truth(3.0, 1), truth, limits)
    assert len(lines) == (warning is not None)
    assert warning is None or warning in lines[0]
