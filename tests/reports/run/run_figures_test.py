"""Figures of a run: positions, spectra and calibration."""

import jax
import numpy as np
import pytest
from cases.small import jit

from ris_jax import config as config_lib
from ris_jax.networks import losses
from ris_jax.physics import arrays, scenes
from ris_jax.reports.run import run_figures, spectra
from ris_jax.training import callbacks, evaluation
from ris_jax.training import step as step_lib

PLACES = np.array([[-0.5, 0.2, 2.0], [0.3, -0.3, 6.0]])  # azimuth, elevation [rad], range [m]


@pytest.fixture(scope="module")
def config():
    small = {"system.rows": 8, "system.columns": 8, "scene.max_sources": 2}
    return config_lib.override(config_lib.Config(), small)


@pytest.fixture(scope="module")
def target(config):
    """Return the target of two scenes, with one and two sources."""
    places = np.stack([PLACES, PLACES]).astype(np.float32)
    truth = scenes.Truth(
        *np.moveaxis(places, -1, 0),
        amplitude=np.array([[1.0, 0.0], [1.0, 0.5]], np.float32),
        num_sources=np.array([1, 2]),
        snr_db=np.array([8.0, 30.0], np.float32),
    )
    key = jax.random.key(0)

    @jit
    def prepared(truth):
        batch = jax.vmap(lambda one: scenes.simulate(key, one, config))(truth)
        return step_lib.prepare(batch, config)[1]

    return jax.device_get(prepared(truth))


def _prediction(target):
    """Return a true prediction; sources in another order, one with low probability."""
    return losses.Prediction(
        factor=target.factor,
        count_logits=np.eye(2)[target.num_sources - 1],
        coordinates=np.array([arrays.to_coordinates(*PLACES[::-1].T)] * 2),
        existence=np.array([[0.7, 0.95], [0.9, 0.95]]),
        decisions=None,
    )


def test_music_peaks_at_the_sources(config, target):
    """Peaks are within a cell of the grid; the snapshot covariance has rank one."""
    factors = np.stack([target.factor[1], target.factor[0]])
    found = spectra.spectra(factors, np.array([2, 1]), config)
    assert found.level_db.shape == (2, len(found.elevation), len(found.azimuth))
    step = found.azimuth[1] - found.azimuth[0]
    for level, places in zip(found.level_db, (PLACES, PLACES[:1]), strict=True):
        for azimuth, elevation, _ in places:
            row = np.abs(found.elevation - elevation) < 1.5 * step
            column = np.abs(found.azimuth - azimuth) < 1.5 * step
            assert level[np.ix_(row, column)].max() > 15.0
        highest = np.unravel_index(level.argmax(), level.shape)
        peak = np.array([found.azimuth[highest[1]], found.elevation[highest[0]]])
        assert np.min(np.abs(places[:, :2] - peak).max(axis=1)) < step
    # The spectrum is low far from both sources.
    far = found.level_db[:, np.abs(found.elevation + 0.45) < 0.02][..., found.azimuth < -0.9]
    assert far.max() < 3.0


def test_scene_figures(config, target):
    figures = run_figures.scene_figures(config, _prediction(target), run_figures.Shown(1, target))
    above, front = figures["map"].axes
    # Truth and estimates coincide.
    for axes in (above, front):
        true, found = (np.asarray(c.get_offsets()) for c in axes.collections[:2])
        np.testing.assert_allclose(np.sort(true, axis=0), np.sort(found, axis=0), atol=1e-4)
        assert len(true) == 2
    assert [text.get_text() for text in front.get_legend().get_texts()] == ["truth", "estimate"]
    panels = [axes for axes in figures["spectra"].axes if axes.get_title()]
    assert [axes.get_title().split(",")[0] for axes in panels] == [
        "network (K = 2)", "truth", "snapshots"
    ]  # fmt: skip
    marked = panels[0].collections[0].get_offsets()
    np.testing.assert_allclose(marked, np.rad2deg(PLACES[:, :2]), atol=1e-3)
    assert panels[0].get_xlabel() == "azimuth [deg]"


def test_low_levels_of_a_spectrum_are_visible(config, target):
    """A level of 3 dB, the peak of a weak spectrum, differs from the background and from a peak."""
    figures = run_figures.scene_figures(config, _prediction(target), run_figures.Shown(1, target))
    drawn = figures["spectra"].axes[0].images[0]
    background, weak, peak = drawn.cmap(drawn.norm([0.0, 3.0, 20.0]))[:, :3] @ [
        0.2126,
        0.7152,
        0.0722,
    ]
    assert background - weak > 0.15
    assert weak - peak > 0.4


def test_an_improbable_source_is_not_on_the_map(config, target):
    figures = run_figures.scene_figures(config, _prediction(target), run_figures.Shown(0, target))
    found = figures["map"].axes[1].collections[1].get_offsets()
    np.testing.assert_allclose(found, np.rad2deg(PLACES[:1, :2]), atol=1e-3)


def test_the_median_scene_is_shown(config, target):
    """The median of one to two sources is two, for any SNR."""
    heldout = evaluation.Heldout([(None, jax.device_put(target))], 2)
    assert run_figures.shown(config, heldout).index == 1


def test_plane_waves_have_no_range(config, target):
    planar = config_lib.override(config, {"system.wavefront": "planar"})
    found = run_figures._truth(planar, target)
    assert np.isinf(found.source_range[1]).all()
    np.testing.assert_allclose(found.azimuth[1], PLACES[:, 0], atol=1e-5)


def test_calibration():
    """Nine of ten correct at 0.9, one of two at 0.2: errors of 0, and 0.3 in a sixth."""
    confidence = np.repeat([0.9, 0.2], [10, 2])
    right = np.array([True] * 9 + [False] + [True, False])
    upper, lower = run_figures.calibration(confidence, right).axes
    points = upper.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.2, 0.5], [0.9, 0.9]])
    assert upper.get_title().endswith("error 0.050")
    heights = [bar.get_height() for bar in lower.patches]
    np.testing.assert_allclose(sorted(heights)[-2:], [2 / 12, 10 / 12])


@pytest.mark.parametrize(
    ("epochs", "drawn"),
    [(1, [1]), (4, [1, 2, 3, 4]), (25, [*range(2, 25, 2), 25])],
)
def test_callback_draws_about_ten_times(config, monkeypatch, epochs, drawn):
    drawn_epochs = []
    monkeypatch.setattr(run_figures, "shown", lambda *_: None)
    monkeypatch.setattr(run_figures, "draw", lambda *_: drawn_epochs.append(epoch) or {})
    watch = run_figures.watcher(config_lib.override(config, {"training.epochs": epochs}))
    for epoch in range(1, epochs + 1):
        assert watch(callbacks.CallbackData(epoch, None, None)) == {}
    assert drawn_epochs == drawn
