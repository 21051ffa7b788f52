"""Prepared localiser: the results of `localize`, one compilation, clear errors."""

import jax
import numpy as np
import pytest
from serving import surfaces

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.estimation.checks import alternatives, model_check
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.flags import Flag
from ris_jax.networks import pretrained
from ris_jax.physics.element_response import ElementResponse
from ris_jax.serving.prepared import PreparedLocalizer

MEASUREMENT, TRUTH, POSITIONS = surfaces.simulated()
CAUSES = (
    Flag.UNITS | Flag.INDEPENDENT_SIGNALS | Flag.CONJUGATED | Flag.SNAPSHOTS_CONJUGATED
    | Flag.CHANNEL_CONJUGATED | Flag.CODES_CONJUGATED | Flag.CODES_REVERSED | Flag.CODE_STATES
    | Flag.AXES_SWAPPED | Flag.ELEMENT_ORDER | Flag.ELEMENT_PLANE | Flag.WAVEFRONT
    | Flag.OUTSIDE_LIMITS
)  # fmt: skip


def _prepared(**options):
    options = surfaces.OPTIONS | options
    return PreparedLocalizer(
        MEASUREMENT.channel, MEASUREMENT.codes, POSITIONS, shape=surfaces.SHAPE, **options
    )


def _assert_same(found, wanted):
    """Check equality up to rounding: a fraction of the error bars."""
    np.testing.assert_array_equal(found.num_sources, wanted.num_sources)
    np.testing.assert_array_equal(found.flags, wanted.flags & ~int(CAUSES))
    deviations = np.sqrt(np.diagonal(wanted.covariance, axis1=-2, axis2=-1))
    for index, name in enumerate(("azimuth", "elevation", "source_range")):
        one, other = getattr(found, name), getattr(wanted, name)
        same = np.where(np.isfinite(other), other, 0.0)
        away = np.abs(np.where(np.isfinite(one), one, 0.0) - same)
        known = np.isfinite(deviations[..., index])
        assert (away[known] <= 0.05 * deviations[..., index][known]).all(), name
        assert (away[~known] == 0).all(), name
    names = ["power", "covariance", "noise_variance"]
    names += ["static_path_db"] * (wanted.static_path_db is not None)
    for name in names:
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), rtol=0.05, atol=1e-6, err_msg=name
        )


@pytest.fixture(scope="module")
def prepared():
    """Return a localiser."""
    found = _prepared(limits=Limits(range_min=0.4), static_path="off")
    found.warm_up()
    return found


def _with_path(snapshots):
    random = np.random.default_rng(5)
    path = random.normal(size=(1, 1, surfaces.SHAPE[1], 2)) @ np.array([1.0, 1.0j])
    scale = np.sqrt(np.mean(np.abs(snapshots) ** 2, axis=(1, 2), keepdims=True))
    return (snapshots + path * scale).astype(np.complex64)


def _localized(snapshots, noise=np.nan, **options):
    given = MEASUREMENT._replace(
        snapshots=snapshots, noise_variance=np.full(len(snapshots), noise, np.float32)
    )
    options = surfaces.OPTIONS | {"limits": Limits(range_min=0.4)} | options
    return jax.device_get(localization.localize(given, POSITIONS, **options))


def test_results_of_localize(prepared):
    found = prepared(MEASUREMENT.snapshots)
    assert not found.has_static_path
    np.testing.assert_array_equal(found.num_sources, TRUTH.num_sources)
    _assert_same(found, _localized(MEASUREMENT.snapshots, static_path="off"))


@pytest.mark.full
def test_a_static_path_is_found():
    """With "auto", scenes with and without a path have the results of `localize`."""
    localizer = _prepared()
    localizer.warm_up()
    programs = [localizer._program(path).compiled for path in (False, True)]
    for snapshots in (MEASUREMENT.snapshots, _with_path(MEASUREMENT.snapshots)):
        found = localizer(snapshots)
        assert found.has_static_path == (snapshots is not MEASUREMENT.snapshots)
        np.testing.assert_array_equal(found.num_sources, TRUTH.num_sources)
        _assert_same(found, _localized(snapshots, limits=None))
    assert [program.num_compiled() for program in programs] == [1, 1]


@pytest.mark.parametrize("noise", [1e-9, 1e9], ids=["noise_above", "noise_below"])
def test_noise_level_is_tested(prepared, noise):
    snapshots = MEASUREMENT.snapshots[:1]
    found = prepared(snapshots, noise)
    wanted = Flag.NOISE_ABOVE if noise < 1 else Flag.NOISE_BELOW
    assert found.flags[0] & int(wanted)
    assert not prepared(snapshots).flags[0] & int(wanted)


def test_nothing_compiles_after_the_warm_up(prepared):
    assert prepared.program.compiled.num_compiled() == 1
    prepared(MEASUREMENT.snapshots[:3])
    assert prepared.program.compiled.num_compiled() == 1


def test_causes_are_not_searched(prepared, monkeypatch):
    """Noise has the flag `nothing_found`, without a test of other readings of the data."""

    def fail(*_):
        raise AssertionError("causes were searched")

    monkeypatch.setattr(alternatives, "better", fail)
    noise = np.random.default_rng(1).normal(size=(1, *surfaces.SHAPE, 2))
    noise = noise.astype(np.float32).view(np.complex64)[..., 0]
    assert prepared(noise).flags[0] == Flag.NOTHING_FOUND
    given = prepared._problem.measurement._replace(snapshots=noise)
    problem = prepared._problem._replace(measurement=given)
    with pytest.raises(AssertionError, match="causes were searched"):
        model_check.finish(*model_check.examine(prepared(noise), problem), problem, None)


@pytest.mark.full
@pytest.mark.parametrize(
    "options",
    [
        {"num_sources": 1, "static_path": "on"},
        {"response": ElementResponse.cosine(0.5), "num_sources": 1, "static_path": "off"},
        {"source_signal": "independent"},
        {"estimator": "music", "static_path": "off", "num_sources": 1},
    ],
    ids=["static_path", "response", "independent", "music"],
)
def test_other_options(options):
    localizer = _prepared(**options)
    localizer.warm_up()
    assert localizer.is_compiled == ("static_path" in options and "estimator" not in options)
    found = localizer(MEASUREMENT.snapshots[:1])
    _assert_same(found, _localized(MEASUREMENT.snapshots[:1], limits=None, **options))


@pytest.mark.full
def test_a_network():
    """After the warm-up, only functions of a few steering vectors compile."""
    network = pretrained.load_pretrained("default")
    options = {"network": network, "max_sources": 5, "static_path": "off"}
    localizer = _prepared(**options)
    localizer.warm_up()
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append((event, seconds))
    )
    try:
        found = localizer(MEASUREMENT.snapshots)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event, seconds in compiled if "compile" in event and seconds > 2.0]
    _assert_same(found, _localized(MEASUREMENT.snapshots, limits=None, **options))


def test_an_array_without_a_surface():
    """Channel and codes are I and 1, as in `localize`."""
    localizer = PreparedLocalizer(
        None, None, POSITIONS, shape=(4, 36), wavelength=0.3, max_sources=2
    )
    assert localizer.program is not None
    assert localizer.program.channel.shape == (1, 36, 36)
    assert not localizer._tested  # a path and the sources look the same under a single code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "none"}, "estimator: need one of"),
        ({"max_sources": 99}, "max_sources: need less than min"),
        ({"num_sources": 3}, "num_sources: need 0 to max_sources=2; got 3"),
        ({"static_path": "maybe"}, "static_path: expected one of"),
        ({"search": "quick"}, "search: expected one of"),
        ({"source_signal": "independent", "max_sources": 8}, "max_sources: expected less than M=8"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        _prepared(**options)


def test_invalid_shapes(prepared):
    with pytest.raises(config_lib.ConfigError, match=r"channel: need \[1, 8, 36\]; got"):
        PreparedLocalizer(
            np.ones((8, 35)) + 0j, MEASUREMENT.codes, POSITIONS, shape=(8, 8), **surfaces.OPTIONS
        )
    for shape in ((1, 7, 8), (0, 8, 8)):
        with pytest.raises(config_lib.ConfigError, match=r"snapshots: need .* L, M = 8, 8; got"):
            prepared(np.ones(shape, np.complex64))
