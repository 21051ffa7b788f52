"""Figures of positions show the given numbers."""

import numpy as np
import pytest

from ris_jax.accuracy import metrics
from ris_jax.estimation.estimate import Estimate
from ris_jax.reports import localization_figures, localization_scores


def make_estimate(infinite=False):
    """Return sources at (3, 0, 4) m and on boresight at 2 m, or infinitely far."""
    covariance = np.broadcast_to(np.diag([0.01, 0.02, 0.1]) ** 2, (1, 2, 3, 3)).copy()
    ranges = np.array([[5.0, 2.0]])
    if infinite:
        ranges[0, 0], covariance[0, 0, 2, 2] = np.inf, np.inf
    return Estimate(
        azimuth=np.array([[np.arctan2(3, 4), 0.0]]),
        elevation=np.zeros((1, 2)),
        source_range=ranges,
        power=np.ones((1, 2)),
        num_sources=np.array([2]),
        covariance=covariance,
        noise_variance=np.ones(1),
    )


TRUTH = metrics.Sources(*np.full((3, 1, 3), np.nan), num_sources=np.array([0]))


def _outlines(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 100]


def _lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


class TestEllipse:
    def test_circle(self):
        outline = localization_figures.ellipse(np.array([1.0, 2.0]), 4.0 * np.eye(2))
        radius = np.hypot(*(outline - [[1.0], [2.0]]))
        np.testing.assert_allclose(radius, 2 * np.sqrt(5.991465), rtol=1e-6)  # chi squared, 95 %

    def test_holds_95_per_cent(self):
        """Every point of the outline has the same Mahalanobis distance."""
        covariance = np.array([[2.0, 0.9], [0.9, 0.5]])
        outline = localization_figures.ellipse(np.zeros(2), covariance)
        square = np.einsum("ip,ij,jp->p", outline, np.linalg.inv(covariance), outline)
        np.testing.assert_allclose(square, 5.991465, rtol=1e-6)

    def test_not_identifiable(self):
        assert localization_figures.ellipse(np.zeros(2), np.diag([1.0, np.inf])) is None

    def test_slopes_of_the_ground(self):
        place = np.array([0.3, -0.2, 4.0])
        slopes = localization_figures._ground_slopes(place)
        for index, step in enumerate(1e-6 * np.eye(3)):
            ahead, behind = (localization_figures._ground(place + s) for s in (step, -step))
            np.testing.assert_allclose(slopes[:, index], (ahead - behind) / 2e-6, atol=1e-7)


class TestMap:
    def test_places(self):
        figure = localization_figures.scene_map(make_estimate(), 0, TRUTH, "scene 7")
        above, front = figure.axes
        np.testing.assert_allclose(above.collections[1].get_offsets(), [[3, 4], [0, 2]], atol=1e-9)
        places = front.collections[1].get_offsets()
        np.testing.assert_allclose(places, [[36.8699, 0], [0, 0]], atol=1e-4)
        assert (above.get_xlabel(), front.get_ylabel()) == ("x [m]", "elevation [deg]")
        assert figure.get_suptitle() == "scene 7"
        assert [len(_outlines(axes)) for axes in figure.axes] == [2, 2]
        # On boresight: azimuth moves along x by 0.01 rad * 2 m, range along z by 0.1 m.
        x, z = _outlines(above)[1].get_data()
        np.testing.assert_allclose([np.ptp(x), np.ptp(z)], [4.8955 * 0.02, 4.8955 * 0.1], rtol=1e-3)

    def test_plane_wave_is_a_ray(self):
        above, front = localization_figures.scene_map(make_estimate(infinite=True), 0).axes
        assert [len(_outlines(axes)) for axes in (above, front)] == [1, 2]
        (ray,) = (line for line in above.lines if line.get_linestyle() == "--")
        x, z = ray.get_data()
        assert x[1] / z[1] == pytest.approx(3 / 4)

    def test_nothing_found(self):
        empty = make_estimate()._replace(num_sources=np.array([0]))
        figure = localization_figures.scene_map(empty, 0, TRUTH)
        assert figure.get_suptitle() == "0 sources found"
        assert localization_figures.png(figure)[:4] == b"\x89PNG"


def _scores():
    zeros = np.zeros((4, 1))
    truth = metrics.Sources(zeros, zeros, zeros + 2.0, np.ones(4, int))
    errors = np.deg2rad([[1.0], [2.0], [0.0], [20.0]])  # the last one is missed
    covariance = np.broadcast_to(np.diag([0.01, 0.01, 0.1]) ** 2, (4, 1, 3, 3))
    estimate = Estimate(errors, zeros, zeros + 2.5, zeros, np.ones(4, int), covariance, zeros[:, 0])
    return localization_scores.score(
        estimate, truth, snr_db=np.array([0.0, 4.0, 6.0, 9.0]), bound_covariance=covariance
    )


def test_error_by_snr():
    rows = localization_scores.score_rows(_scores(), (0.0, 10.0))
    figure = localization_figures.error_by_snr(rows)
    azimuth = _lines(figure.axes[0])
    # Bins of 2 dB: 0 dB, 4 dB, 6 dB, 9 dB.
    np.testing.assert_allclose(azimuth["median |error|"], [1, 2, 0, np.nan], atol=1e-9)
    np.testing.assert_allclose(azimuth["RMSE"], azimuth["median |error|"], atol=1e-9)
    bound = np.rad2deg(0.01)
    np.testing.assert_allclose(azimuth["Cramér-Rao bound, RMS"], [bound] * 3 + [np.nan])
    np.testing.assert_allclose(azimuth["median, efficient"], [bound * 0.67448975] * 3 + [np.nan])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "azimuth error [deg]", "elevation error [deg]", "range error [m]"
    ]  # fmt: skip
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0 to 2 dB", "4 to 6 dB", "6 to 8 dB", "8 to 10 dB"]


@pytest.mark.parametrize(("factor", "note"), [(0.5, ""), (3.0, localization_figures.BELOW_BOUND)])
def test_an_error_below_the_bound_is_explained(factor, note):
    """The bound of azimuth is 0.573 degrees, its smallest RMSE above zero 1 degree."""
    scores = _scores()
    rows = localization_scores.score_rows(scores._replace(deviations=factor * scores.deviations))
    worst = [row for row in rows if row["kind"] == "snr" and row["azimuth_rmse_deg"] > 0]
    for row in worst:
        row["elevation_rms_bound_deg"] = row["range_rms_bound_m"] = 0.0
    assert localization_figures.error_by_snr(worst).get_supxlabel() == note


def test_error_distribution():
    axes = localization_figures.error_distribution(_scores()).axes
    steps, bound = axes[0].lines
    np.testing.assert_allclose(steps.get_xdata(), [1, 2])
    np.testing.assert_allclose(steps.get_ydata(), [0.5, 0.75])  # one is 0, one was missed
    assert bound.get_label() == "bound"
    np.testing.assert_allclose(bound.get_ydata()[0], 0.91907, atol=1e-4)  # 1 deg / 0.573 deg
    assert not axes[1].lines  # elevation without an error
    assert axes[2].get_xlabel() == "range error [m]"


def test_error_distribution_without_a_bound():
    scores = _scores()._replace(deviations=np.full((4, 1, 3), np.nan))
    assert len(localization_figures.error_distribution(scores).axes[0].lines) == 1


def test_count_confusion():
    matrix = np.array([[0, 0, 0], [1, 3, 0], [0, 0, 2]])
    axes = localization_figures.count_confusion(matrix).axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0, 1): "1", (1, 1): "3", (2, 2): "2"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[0, 0, 0], [0.25, 0.75, 0], [0, 0, 1]])
    assert axes.get_ylabel() == "true number of sources"
