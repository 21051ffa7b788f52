"""Bound maps against single bounds, closed forms and definitions of limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax.accuracy import bound_maps, bounds
from ris_jax.physics import arrays, scenes

WAVELENGTH = 0.3
PLACES = np.array([[0.1, -0.2, 1.5], [-0.5, 0.3, 4.0], [0.7, 0.1, 0.8]])


def complex_normal(random, *shape):
    return (random.normal(size=shape) + 1j * random.normal(size=shape)) / 2**0.5


def make_surface(channels=2, side=4, antennas=3, codes=6):
    random = np.random.default_rng(1)
    return bound_maps.Surface(
        arrays.planar_array(side, side, WAVELENGTH / 2),
        jnp.exp(2j * jnp.pi * random.random((codes, side**2))),
        jnp.asarray(complex_normal(random, channels, antennas, side**2)),
        jnp.asarray(WAVELENGTH),
    )


def direct(surface, channel, place, signals, source_signal):
    """Return the bound of the first source at 0 dB of its own SNR, by `cramer_rao_bound`."""
    steering = arrays.steering_vector(*place[0], surface.positions, wavelength=WAVELENGTH)
    clean = (surface.codes * steering) @ channel.T
    measurement = scenes.Measurement(clean, channel, surface.codes, jnp.mean(jnp.abs(clean) ** 2))
    return bounds.cramer_rao_bound(
        measurement, *place.T, signals, surface.positions, wavelength=WAVELENGTH,
        source_signal=source_signal,
    ).covariance[0]  # fmt: skip


class TestIncrease:
    def unit(self, variances):
        variances = np.asarray(variances, float)
        covariance, known = np.diag(variances)[None, None], np.isfinite(variances)[None, None]
        return bound_maps.UnitBound(covariance, known, np.ones((1, 1)))

    def test_mean_over_the_parameters_of_the_reference(self):
        reference = self.unit([1.0, 2.0, np.inf])
        found = bound_maps.increase_db(self.unit([10.0, 2.0, np.inf]), reference)
        assert found == pytest.approx(5.0)
        assert bound_maps.increase_db(self.unit([np.inf, 2.0, np.inf]), reference) == np.inf

    def test_unknown(self):
        nothing = self.unit([np.inf] * 3)
        assert np.isnan(bound_maps.increase_db(nothing, nothing))


class TestUnitBounds:
    @pytest.mark.parametrize("source_signal", ["constant", "independent"])
    @pytest.mark.parametrize("with_second", [False, True])
    def test_equals_single_bounds(self, source_signal, with_second):
        second = PLACES[[1, 2, 0]] if with_second else None
        sources = [PLACES] if second is None else [PLACES, second]
        sources = np.stack(sources, axis=1)
        with jax.enable_x64(True):
            surface = make_surface()
            unit = bound_maps.unit_bounds(surface, PLACES, second, source_signal=source_signal)
            draws = bound_maps.signal_draws(6, sources.shape[1], source_signal)
            single = jax.jit(direct, static_argnums=4)
            expected = [
                [single(surface, c, jnp.asarray(p), jnp.asarray(s), source_signal) for p in sources]
                for c in surface.channel for s in draws
            ]  # fmt: skip
        np.testing.assert_allclose(unit.covariance, expected, rtol=1e-6)
        assert unit.identifiable.all()

    def test_chunks_change_nothing(self, monkeypatch):
        surface, done = make_surface(channels=1), []
        places = np.tile(PLACES, (2, 1))
        whole = bound_maps.unit_bounds(surface, places)
        monkeypatch.setattr(bound_maps, "_LARGEST_CHUNK", 4)
        parts = bound_maps.unit_bounds(surface, places, progress=done.append)
        np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-4)
        assert done == [4, 2]

    def test_needs_positions(self):
        with pytest.raises(ValueError, match="at least one position"):
            bound_maps.unit_bounds(make_surface(), np.zeros((0, 3)))

    def test_power_of_the_second_source_does_not_matter(self):
        """The maps therefore have no such argument."""
        with jax.enable_x64(True):
            surface = make_surface(channels=1)
            pair = jnp.asarray(PLACES[:2])
            single = jax.jit(direct, static_argnums=4)
            weak, strong = (
                single(surface, surface.channel[0], pair,
                       jnp.ones((6, 2)) * jnp.array([1.0, amplitude]) + 0j, "constant")
                for amplitude in (0.1, 10.0)
            )  # fmt: skip
        np.testing.assert_allclose(weak, strong, rtol=1e-9)


class TestDeviations:
    def test_closed_form_at_boresight(self):
        """For separate elements, var(u) = 1 / (2 g k^2 sum x^2), with g the element SNR."""
        with jax.enable_x64(True):
            grid = arrays.planar_array(8, 8, 0.15)
            surface = bound_maps.Surface(
                grid, jnp.ones((1, 64)) + 0j, jnp.eye(64)[None] + 0j, jnp.asarray(WAVELENGTH)
            )
            places = np.array([[0.0, 0.0, 1e5]])
            unit = bound_maps.unit_bounds(surface, places, wavefront="fresnel")
        found = bound_maps.deviations(unit, 10.0, places)
        x, wavenumber = np.asarray(grid)[:, 0], 2 * np.pi / WAVELENGTH
        square = np.sum(np.asarray(grid) ** 2, axis=1)
        spread = np.sum((square - square.mean()) ** 2)
        angle = 1 / np.sqrt(2 * 10.0 * wavenumber**2 * np.sum(x**2))
        reach = 1e10 * np.sqrt(2 / (10.0 * wavenumber**2 * spread))
        np.testing.assert_allclose(found.parameters, [[angle, angle, reach]], rtol=1e-6)

    def test_root_mean_square_over_draws(self):
        covariance = np.broadcast_to(np.diag([1e-4, 4e-4, 0.01]), (2, 1, 3, 3))
        unit = bound_maps.UnitBound(covariance, np.ones((2, 1, 3), bool), np.ones((2, 1)))
        place = np.array([[0.3, np.pi / 3, 2.0]])
        found = bound_maps.deviations(unit, np.array([[1.0], [2.0]]), place)
        variance = 0.75 * np.array([1e-4, 4e-4, 0.01])
        np.testing.assert_allclose(found.parameters[0] ** 2, variance)
        # cos(60 degrees) halves the arm of the azimuth.
        expected = np.sqrt(variance @ [1.0, 4.0, 1.0])
        np.testing.assert_allclose(found.position_error, [expected])

    def test_one_unidentifiable_draw(self):
        unit = bound_maps.UnitBound(
            np.broadcast_to(np.eye(3), (2, 1, 3, 3)),
            np.array([[[True, True, True]], [[True, True, False]]]),
            np.ones((2, 1)),
        )
        found = bound_maps.deviations(unit, 1.0, np.array([[0.0, 0.0, 1.0]]))
        np.testing.assert_array_equal(found.parameters, [[1.0, 1.0, np.inf]])
        assert np.isinf(found.position_error).all()

    def test_planar_waves_have_no_range(self):
        unit = bound_maps.unit_bounds(make_surface(channels=1), PLACES, wavefront="planar")
        found = bound_maps.deviations(unit, 1.0, PLACES)
        assert np.isinf(found.parameters[:, 2]).all()
        assert np.isfinite(found.parameters[:, :2]).all()


class TestLimits:
    def test_crossing(self):
        places = np.array([1.0, 2.0, 4.0, 8.0])
        assert bound_maps.crossing(places, np.array([0.25, 0.5, 2.0, 4.0])) == pytest.approx(8**0.5)
        assert bound_maps.crossing(places, np.array([0.5, 2.0, 0.5, 0.7])) == np.inf
        assert bound_maps.crossing(places, np.array([2.0, 2.0, 2.0, 2.0])) == 0.0
        assert bound_maps.crossing(places, np.array([0.5, np.inf, np.inf, np.inf])) == 1.0

    @pytest.mark.parametrize("level", [10.0, 100.0])
    def test_range_bound_equals_the_range_limit(self, level):
        surface = make_surface(channels=1)
        snr = lambda places, unit: np.full(unit.gain.shape, level)  # noqa: E731
        (limit,) = bound_maps.range_limits(surface, np.array([[0.2, 0.1]]), snr)
        place = np.array([[0.2, 0.1, limit]])
        unit = bound_maps.unit_bounds(surface, place)
        found = bound_maps.deviations(unit, level, place).parameters[0, 2]
        np.testing.assert_allclose(found, limit, rtol=0.02)

    def test_planar_waves_have_no_range_limit(self):
        snr = lambda places, unit: np.full(unit.gain.shape, 10.0)  # noqa: E731
        surface = make_surface(channels=1)
        limits = bound_maps.range_limits(surface, np.zeros((1, 2)), snr, wavefront="planar")
        np.testing.assert_array_equal(limits, [0.0])

    def test_bound_equals_half_the_resolution(self):
        surface, place = make_surface(channels=1), np.array([0.2, 0.1, 1.0])
        snr = lambda places, unit: np.full(unit.gain.shape, 1e3)  # noqa: E731
        ((azimuth, _, reach),) = bound_maps.resolutions(surface, place[None], snr)
        for axis, width in ((0, azimuth), (2, reach)):
            offset = 0.5 * width * np.eye(3)[axis]
            pair = np.stack([place + offset, place - offset])
            unit = bound_maps.unit_bounds(surface, pair, pair[::-1])
            found = bound_maps.deviations(unit, 1e3, pair).parameters[:, axis].max()
            np.testing.assert_allclose(found, width / 2, rtol=0.05)

    def test_zero_power_has_no_resolution(self):
        snr = lambda places, unit: np.full(unit.gain.shape, 1e-9)  # noqa: E731
        found = bound_maps.resolutions(make_surface(channels=1), PLACES[:1], snr)
        assert np.isinf(found).all()

    def test_fraunhofer_distance(self):
        grid = arrays.planar_array(3, 5, 0.5)
        distance = bound_maps.fraunhofer_distance(np.asarray(grid), 0.5)
        assert distance == pytest.approx(2 * (4 + 1) / 0.5)
