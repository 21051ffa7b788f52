"""Tables and score rows by hand."""

import numpy as np

from ris_jax import config as config_lib
from ris_jax.reports import tables
from ris_jax.reports.run import covariance_scores, training_curves

HEADER = ("name", "per cent_%")
ROWS = [("a", 1), ("longer", 0.5)]


def test_text():
    assert tables.as_text(HEADER, ROWS).splitlines() == [
        "  name  per cent_%",
        "------------------",
        "     a           1",
        "longer      0.5000",
    ]


def test_csv_keeps_full_precision():
    assert tables.as_csv(HEADER, [("a", 0.1 + 0.2)]) == "name,per cent_%\na,0.30000000000000004\n"


def test_latex_escapes():
    text = tables.as_latex(HEADER, ROWS)
    assert r"name & per cent\_\% \\" in text
    assert text.startswith(r"\begin{tabular}{lr}")


def _rows():
    scores = {
        "nmse": np.array([0.1, 0.3, 0.5]),
        "effective_nmse": np.zeros(3),
        "shrunk_truth_nmse": np.zeros(3),
        "snapshots_nmse": np.array([1.0, 2.0, 3.0]),
        "constant_nmse": np.ones(3),
        "count_correct": np.array([1.0, 0.0, 1.0]),
    }
    scene = config_lib.SceneConfig()  # bins of 5 dB from -5 to 20 dB
    return covariance_scores.score_rows(
        scores, np.array([1, 2, 2]), np.array([-5.0, -0.1, 20.0]), scene
    )


def test_score_rows():
    rows = {row[0]: row for row in _rows()}
    assert list(rows) == ["all", "K = 1", "K = 2", "-5 to 0 dB", "15 to 20 dB"]
    everything = rows["all"]
    assert everything[1] == 3
    # Mean 0.3, standard deviation 0.2, standard error 0.2 / sqrt(3).
    np.testing.assert_allclose(everything[2:4], [0.3, 0.2 / np.sqrt(3)], rtol=1e-12)
    np.testing.assert_allclose(everything[6:9], [2.0, 1.0, 2 / 3], rtol=1e-12)
    assert rows["K = 1"][1] == 1
    assert np.isnan(rows["K = 1"][3])  # one scene has no standard error
    np.testing.assert_allclose(rows["K = 2"][2], 0.4, rtol=1e-12)
    assert rows["-5 to 0 dB"][1] == 2


def test_figures_are_written(tmp_path):
    path = training_curves.save_covariance_scores(tmp_path, _rows())
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert path.parent == tmp_path / "figures"


def test_markdown_and_short_cells():
    text = tables.as_markdown(("who", "rate"), [("music", 1.5), ("mvdr", None)])
    assert text == "| who | rate |\n| --- | --- |\n| music | 1.5000 |\n| mvdr | - |\n"
    assert tables.with_interval(0.85812, 0.7991, 0.9) == "0.858 [0.799, 0.9]"
    assert tables.with_interval(np.nan, 0.0, 1.0) == tables.significant(np.nan) == "-"
    assert tables.significant(1234567.0) == "1.23e+06"
