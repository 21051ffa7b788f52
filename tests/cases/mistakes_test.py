"""Mistakes of new users: each gives a flag with the likely cause, without the SNR."""

import functools

import numpy as np
import pytest
from cases import simulator

from ris_jax import config, localization
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.flags import Flag, names
from ris_jax.physics import scenes

BATCH = 2  # of most calls: one program
LIMITS = Limits(np.radians(60), np.radians(30), 0.5)


@functools.cache
def recording(seed=1, count=BATCH, **options):
    sources = simulator.random_sources(np.random.default_rng(seed), count, 3)
    return simulator.through_surface(sources, seed=seed, **options)


def localize(found, **changes):
    """Return estimate and flags of a recording with some arrays replaced."""
    arrays = {
        name: changes.pop(name, getattr(found, name))
        for name in ("snapshots", "channel", "codes", "positions")
    }
    positions = arrays.pop("positions")
    single = {name: array.astype(np.complex64) for name, array in arrays.items()}
    options = {"wavelength": simulator.WAVELENGTH, "limits": LIMITS} | changes
    estimate = localization.localize(scenes.Measurement(**single), positions, **options)
    return estimate, np.asarray(estimate.flags)


def assert_named(flags, flag, least=BATCH):
    count = np.count_nonzero(flags & flag)
    assert count >= least, [names(int(value)) for value in flags]


def test_good_scenes_have_no_flags():
    """The designed false-alarm rate is below 0.1 % of scenes."""
    random = np.random.default_rng(3)
    count = 24
    sources = simulator.random_sources(random, count, 3)
    found = simulator.through_surface(sources, seed=3, snr_db=15.0)
    measurement = scenes.Measurement(
        found.snapshots.astype("c8"), found.channel.astype("c8"), found.codes.astype("c8")
    )._replace(noise_variance=np.full(count, np.nan, np.float32))
    estimate = localization.localize_in_chunks(
        measurement, found.positions, chunk_size=BATCH, wavelength=simulator.WAVELENGTH,
        limits=LIMITS,
    )  # fmt: skip
    assert estimate.flags.shape == (count,)
    assert np.mean(estimate.num_sources == [len(scene) for scene in sources]) > 0.9
    assert np.count_nonzero(estimate.flags) <= 1


@pytest.mark.full
def test_positions_in_wavelengths():
    """A narrow region: the grid of such an array has 37 times as many cells."""
    found, narrow = recording(), Limits(np.radians(30), np.radians(15), 1.0)
    wide = found.positions / 0.3
    assert_named(localize(found, positions=wide, limits=narrow, max_sources=3)[1], Flag.UNITS)


@pytest.mark.parametrize("factor", [100, 1000], ids=["cm", "mm"])
def test_positions_in_other_units(factor):
    """The search grid has too many cells for such an array; the message names the units."""
    found = recording()
    message = r"positions: .* wavelengths wide; check that positions and wavelength are in metres"
    with pytest.raises(config.ConfigError, match=message):
        localize(found, positions=factor * found.positions)


@pytest.mark.full
def test_wavelength_in_centimetres():
    assert_named(localize(recording(), wavelength=30.0)[1], Flag.UNITS)


def test_swapped_axes():
    found = recording()
    flags = localize(found, snapshots=found.snapshots.swapaxes(1, 2))[1]
    assert_named(flags, Flag.AXES_SWAPPED)
    assert_named(flags, Flag.NOTHING_FOUND)


@pytest.mark.parametrize(
    ("names", "flag"),
    [
        (["snapshots"], Flag.SNAPSHOTS_CONJUGATED),
        (["channel"], Flag.CHANNEL_CONJUGATED),
        (["codes"], Flag.CODES_CONJUGATED),
        pytest.param(["snapshots", "channel", "codes"], Flag.CONJUGATED, marks=pytest.mark.full),
    ],
)
def test_conjugated(names, flag):
    found = recording()
    assert_named(localize(found, **{n: getattr(found, n).conj() for n in names})[1], flag)


def test_codes_in_reverse_order():
    found = recording()
    assert_named(localize(found, codes=found.codes[:, ::-1])[1], Flag.CODES_REVERSED)


def test_codes_given_as_states():
    found = recording(bits=1)
    states = (found.codes.real < 0).astype(complex)
    assert_named(localize(found, codes=states)[1], Flag.CODE_STATES)


def test_rows_and_columns_swapped():
    found = recording()
    swapped = found.positions.reshape(12, 12, 3).swapaxes(0, 1).reshape(-1, 3)
    assert_named(localize(found, positions=swapped)[1], Flag.ELEMENT_ORDER)


@pytest.mark.full
@pytest.mark.parametrize("axes", [[0, 2, 1], [2, 0, 1]], ids=["x-z", "y-z"])
def test_elements_in_another_plane(axes):
    found = recording()
    assert_named(localize(found, positions=found.positions[:, axes])[1], Flag.ELEMENT_PLANE)


@pytest.mark.full
def test_another_wavefront():
    found = recording(count=4, wave=simulator.parabolic)
    flags = localize(found)[1]
    assert_named(flags, Flag.WAVEFRONT, least=3)


def test_independent_symbols():
    assert_named(localize(recording(independent=True))[1], Flag.INDEPENDENT_SIGNALS)


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([[20, 65, 2]], id="high", marks=pytest.mark.full),
        pytest.param([[10, 5, 0.2]], id="near", marks=pytest.mark.full),
        pytest.param([[-20, -60, 3], [30, 10, 2]], id="one of two"),
    ],
)
def test_sources_outside_the_region(places):
    found = simulator.through_surface([places] * BATCH)
    estimate, flags = localize(found)
    assert_named(flags, Flag.ON_LIMIT | Flag.OUTSIDE_LIMITS)
    present = np.arange(5) < np.asarray(estimate.num_sources)[:, None]
    elevation = np.rad2deg(np.asarray(estimate.elevation))
    assert np.all(np.abs(elevation[present]) <= 30 + 1e-5)
    assert np.all(np.asarray(estimate.source_range)[present] >= 0.5)
