"""A path past the surface, from an independent simulator: found, removed and reported."""

import functools

import jax
import numpy as np
import pytest
from cases import simulator

from ris_jax import config, localization
from ris_jax.estimation.flags import Flag
from ris_jax.physics import scenes

BATCH, CODES, ANTENNAS = 8, 8, 8  # of every call: one program with and one without the path
POSITIONS = simulator.plane(6, 6)
OPTIONS = {"wavelength": simulator.WAVELENGTH, "max_sources": 2, "search": "fast"}


@functools.cache
def sources():
    random = np.random.default_rng(0)
    return [np.array([[random.uniform(-40, 40), random.uniform(-20, 20), 1.5]])] * BATCH


def recording(**options):
    return simulator.through_surface(
        sources(), positions=POSITIONS, length=CODES, antennas=ANTENNAS, snr_db=15.0, **options
    )


def measurement(found, path=0.0):
    return scenes.Measurement(found.snapshots + path, found.channel, found.codes)


def localize(measured, **changes):
    return localization.localize(measured, POSITIONS, **OPTIONS | changes)


@functools.cache
def removed():
    """Estimate with the path removed from scenes that have none."""
    return localize(measurement(recording()), static_path="on")


def assert_same(found, expected):
    np.testing.assert_array_equal(found.num_sources, expected.num_sources)
    for name in ("azimuth", "elevation", "source_range"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-3)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-2)


@pytest.mark.parametrize("strength", [0.1, 1e3])
def test_any_path_gives_the_same_result(strength):
    path = strength * simulator.gaussian(np.random.default_rng(1), BATCH, 1, ANTENNAS)
    found = localize(measurement(recording(), path), static_path="on")
    assert_same(found, removed())
    assert np.all(found.flags & Flag.STATIC_PATH)


def test_errors_match_the_error_bars():
    found = removed()
    np.testing.assert_array_equal(found.num_sources, np.ones(BATCH))
    errors = np.degrees(np.asarray(found.azimuth[:, 0])) - [one[0, 0] for one in sources()]
    deviations = np.degrees(np.sqrt(np.asarray(found.covariance[:, 0, 0, 0])))
    assert 0.2 < np.sqrt(np.mean((errors / deviations) ** 2)) < 2.0


@pytest.mark.full
def test_auto_removes_a_path_and_reports_it():
    found = localize(measurement(recording(static_db=0.0)))
    assert_same(found, removed())
    assert np.all(found.flags == Flag.STATIC_PATH)
    np.testing.assert_allclose(found.static_path_db, np.zeros(BATCH), atol=1.0)
    # One of eight combinations of the codes is lost.
    np.testing.assert_allclose(np.mean(found.static_path_loss_db), 0.58, atol=0.3)


@pytest.mark.full
def test_auto_keeps_scenes_without_a_path():
    auto, off = (localize(measurement(recording()), static_path=s) for s in ("auto", "off"))
    np.testing.assert_array_equal(auto.azimuth, off.azimuth)
    assert np.isnan(auto.static_path_db).all()
    assert not np.any(auto.flags & Flag.STATIC_PATH)


@pytest.mark.full
def test_off_flags_a_misfit():
    found = localize(measurement(recording(static_db=0.0)), static_path="off")
    assert np.all(found.flags & Flag.MISFIT)


@pytest.mark.full
def test_chunks_agree():
    """Scenes before the first chunk with a path are fitted again without it."""
    found = measurement(recording())
    path = np.zeros((BATCH, 1, 1)) + simulator.gaussian(np.random.default_rng(1), ANTENNAS)
    path[: BATCH // 2] = 0.0
    twice = jax.tree.map(lambda part: np.concatenate([part] * 2), measurement(recording()))
    twice = twice._replace(
        snapshots=np.concatenate([found.snapshots, found.snapshots + path]), noise_variance=None
    )
    chunks = localization.localize_in_chunks(twice, POSITIONS, chunk_size=BATCH, **OPTIONS)
    assert np.all(chunks.flags & Flag.STATIC_PATH)
    assert_same(jax.tree.map(lambda part: part[:BATCH], chunks), removed())
    assert_same(jax.tree.map(lambda part: part[BATCH:], chunks), removed())


@pytest.mark.full
def test_inside_jit():
    traced = jax.jit(lambda measured: localize(measured, static_path="on"))
    given = measurement(recording(static_db=10.0))
    found = traced(jax.tree.map(np.complex64, given))
    assert_same(found, removed())
    assert np.all(found.flags == Flag.STATIC_PATH | Flag.NOT_CHECKED)


def test_other_readings_are_tested_without_the_path():
    """A mistake in the data is named beside the path."""
    given = measurement(recording(static_db=0.0))
    found = localize(given._replace(snapshots=given.snapshots.conj()), static_path="on")
    assert np.all(found.flags & Flag.SNAPSHOTS_CONJUGATED)


def test_independent_signals_are_refused():
    with pytest.raises(config.ConfigError, match=r"static_path: .* send a known pilot"):
        localize(
            measurement(recording(independent=True)), static_path="on", source_signal="independent"
        )
