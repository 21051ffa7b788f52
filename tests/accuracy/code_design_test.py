"""Designed codes against the bound, known optima and published codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.small import jit

from ris_jax import config as config_lib
from ris_jax.accuracy import bound_maps, code_baselines, code_design, mismatch
from ris_jax.physics import arrays, channel, codebooks

WAVELENGTH = 0.3
CODES = 8
PLACES = np.random.default_rng(3).uniform([-0.8, -0.4, 1.0], [0.8, 0.4, 3.0], (12, 3))
OPTIONS = {"source_signal": "constant", "goal": "mean", "quantile": 0.9}


@functools.cache
def make_surface(antennas=1):
    positions = arrays.planar_array(6, 6, WAVELENGTH / 2)
    drawn = channel.rician_channel(
        jax.random.key(0), positions, num_antennas=antennas, wavelength=WAVELENGTH,
        rician_factor=jnp.asarray(0.1),
    )  # fmt: skip
    codes = code_baselines.random_codes(0, CODES, 36)
    return bound_maps.Surface(positions, jnp.asarray(codes), drawn[None], jnp.asarray(WAVELENGTH))


def make_problem(places=PLACES, antennas=1, level=10.0):
    surface = make_surface(antennas)
    return code_design.make_problem(
        surface.positions, surface.channel[0], surface.wavelength,
        jnp.asarray(places, float), jnp.full(len(places), level),
    )  # fmt: skip


def designed(problem, codes, **changes):
    descent = code_design.start_descent(codes, 150)
    descent = code_design.descend(problem, descent, num_steps=150, steps=150, **(OPTIONS | changes))
    return np.exp(1j * np.asarray(descent.best_phases)).astype(np.complex64)


def value(problem, codes, **changes):
    return float(code_design.value_of(problem, codes, **(OPTIONS | changes)))


position_errors = jit(code_design.position_errors, static_argnames="source_signal")


class TestObjective:
    @pytest.mark.parametrize("source_signal", ["constant", "independent"])
    def test_errors_are_the_bound(self, source_signal):
        surface, problem = make_surface(4), make_problem(antennas=4)
        found = position_errors(problem, surface.codes, source_signal)
        unit = bound_maps.unit_bounds(surface, PLACES, source_signal=source_signal)
        expected = bound_maps.deviations(unit, 10.0 * unit.gain, PLACES).position_error
        np.testing.assert_allclose(found, expected, rtol=1e-3)

    def test_goals(self):
        errors = jnp.arange(1.0, 12.0)
        assert code_design.objective(errors, "mean") == 6.0
        assert code_design.objective(errors, "worst") == 11.0
        assert code_design.objective(errors, "quantile", 0.8) == pytest.approx(9.0)
        with pytest.raises(ValueError, match="goal"):
            code_design.objective(errors, "best")

    def test_degenerate_codes_have_a_high_finite_objective(self):
        problem = make_problem()
        found = position_errors(problem, jnp.ones((CODES, 36)) + 0j)
        assert np.isfinite(found).all()
        random = position_errors(problem, make_surface().codes)
        assert (found > 30 * random).all()


class TestDescent:
    @pytest.mark.parametrize("goal", ["mean", "worst", "quantile"])
    def test_lowers_the_objective(self, goal):
        problem, start = make_problem(), code_baselines.random_codes(1, CODES, 36)
        found = designed(problem, start, goal=goal)
        assert value(problem, found, goal=goal) < 0.8 * value(problem, start, goal=goal)
        np.testing.assert_allclose(np.abs(found), 1.0, rtol=1e-6)

    def test_several_calls_equal_one(self):
        problem, start = make_problem(), code_baselines.random_codes(1, CODES, 36)
        whole = part = code_design.start_descent(start, 150)
        whole = code_design.descend(problem, whole, num_steps=150, steps=150, **OPTIONS)
        for _ in range(3):
            part = code_design.descend(problem, part, num_steps=150, steps=50, **OPTIONS)
        np.testing.assert_allclose(part.best_value, whole.best_value, rtol=1e-3)
        assert part.step == 150

    def test_known_position(self):
        """The result is between the four-beam codes and the optimum with free amplitudes."""
        problem, surface = make_problem(PLACES[:1]), make_surface()
        drawn = np.asarray(surface.channel[0])
        beams = code_baselines.four_beams(problem, drawn, CODES, "constant")
        limit = code_baselines.four_beams_bound(problem, drawn, CODES)
        found = value(problem, designed(problem, beams))
        random = value(problem, code_baselines.random_codes(1, CODES, 36))
        assert 0.99 * limit < found < value(problem, beams) < 0.5 * random


@pytest.mark.full
def test_estimates_with_designed_codes_attain_the_bound():
    """The RMSE of 300 local maxima of the likelihood has a standard error of about 3 %."""
    level, places = 1e4, PLACES[:1]
    problem = make_problem(places, level=level)
    codes = jnp.asarray(designed(problem, code_baselines.random_codes(1, CODES, 36)))
    surface, place = make_surface()._replace(codes=codes), jnp.asarray(places, float)
    hardware = mismatch.draw_hardware(jax.random.key(0), surface, config_lib.ImpairmentConfig(), 1)
    means = mismatch.received(surface, hardware, place)[0]
    noise = channel.complex_normal(jax.random.key(1), (300, *means.shape)) / level**0.5
    one = jnp.broadcast_to(surface.channel, (300, *surface.channel.shape[1:]))
    found = mismatch.fit(surface, one, means + noise, place)[:, 0]
    truth = arrays.direction(place[0, 0], place[0, 1]) * place[0, 2]
    error = float(jnp.sqrt(jnp.mean(jnp.sum((found - truth) ** 2, axis=-1))))
    assert error == pytest.approx(value(problem, codes), rel=0.1)


class TestQuantised:
    @pytest.mark.parametrize("bits", [1, 2])
    @pytest.mark.parametrize("source_signal", ["constant", "independent"])
    def test_never_increases(self, bits, source_signal):
        options = OPTIONS | {"source_signal": source_signal}
        problem = make_problem(antennas=4)
        codes = np.asarray(codebooks.quantize_phase(make_surface(4).codes, bits))
        values = [value(problem, codes, source_signal=source_signal)]
        order = np.random.default_rng(0).permutation(np.indices(codes.shape).reshape(2, -1).T)
        for _ in range(2):
            codes = code_design.improve_quantised(problem, codes, order, bits=bits, **options)
            values.append(value(problem, codes, source_signal=source_signal))
        assert values[2] <= values[1] < values[0]
        np.testing.assert_allclose(codes, codebooks.quantize_phase(codes, bits), atol=1e-5)

    def test_each_visit_takes_the_best_level(self):
        """Compare with all levels of one phase in the full objective."""
        problem = make_problem()
        codes = np.asarray(codebooks.quantize_phase(make_surface().codes, 2))
        order = np.array([[3, 7]])
        found = code_design.improve_quantised(problem, codes, order, bits=2, **OPTIONS)
        values = []
        for level in range(4):
            tried = codes.copy()
            tried[3, 7] = 1j**level
            values.append(value(problem, tried))
        assert value(problem, found) == pytest.approx(min(values), rel=1e-5)
        changed = np.argwhere(~np.isclose(found, codes))
        assert all(tuple(place) == (3, 7) for place in changed)


class TestBaselines:
    def test_beams_add_in_phase(self):
        surface = make_surface()
        row = np.asarray(surface.channel[0])
        vector = np.asarray(arrays.steering_vector(
            *jnp.asarray(PLACES[0]), surface.positions, wavelength=WAVELENGTH))  # fmt: skip
        (code,) = code_baselines.beams(row, vector[None])
        received = abs(row[0] * code @ vector)
        assert received == pytest.approx(np.sum(np.abs(row[0] * vector)), rel=1e-5)

    def test_pointed_codes_are_beams_at_the_positions(self):
        surface = make_surface()
        found = code_baselines.pointed_codes(
            0, 12, surface.positions, np.asarray(surface.channel[0]), WAVELENGTH, PLACES,
            "spherical",
        )  # fmt: skip
        assert found.shape == (12, 36)
        images = np.abs(np.asarray(make_problem().responses)[:, :, 0, 0].T @ found.T)
        # Each position has one code with the highest gain, and each code one position.
        assert sorted(images.argmax(axis=1)) == list(range(12))

    def test_four_beams_need_one_position_and_four_codes(self):
        drawn = np.asarray(make_surface().channel[0])
        with pytest.raises(ValueError, match="1 position"):
            code_baselines.four_beams(make_problem(), drawn, CODES, "constant")
        with pytest.raises(ValueError, match="4 codes"):
            code_baselines.four_beams(make_problem(PLACES[:1]), drawn, 3, "constant")
