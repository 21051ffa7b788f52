"""Numbers of codes and antennas that reach a bound, against the bound of each number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax.accuracy import bound_maps, code_baselines, code_design, needed_sizes
from ris_jax.physics import arrays, channel

WAVELENGTH = 0.3
CODES, ANTENNAS = 9, 5
PLACES = np.random.default_rng(3).uniform([-0.8, -0.4, 1.0], [0.8, 0.4, 3.0], (6, 3))
OPTIONS = {"source_signal": "constant", "goal": "mean", "quantile": 0.9}
SIGNALS = ("constant", "independent")


@functools.cache
def make_surface():
    positions = arrays.planar_array(5, 5, WAVELENGTH / 2)
    drawn = channel.rician_channel(
        jax.random.key(0), positions, num_antennas=ANTENNAS, wavelength=WAVELENGTH,
        rician_factor=jnp.asarray(1.0),
    )  # fmt: skip
    codes = code_baselines.random_codes(0, CODES, 25)
    return bound_maps.Surface(positions, jnp.asarray(codes), drawn[None], jnp.asarray(WAVELENGTH))


@functools.cache
def make_problem():
    surface = make_surface()
    return code_design.make_problem(
        surface.positions, surface.channel[0], surface.wavelength,
        jnp.asarray(PLACES, float), jnp.full(len(PLACES), 10.0),
    )  # fmt: skip


def of_bound(codes, antennas, source_signal):
    """Mean position error bound of `bound_maps` with the first codes and antennas."""
    surface = make_surface()
    surface = surface._replace(codes=surface.codes[:codes], channel=surface.channel[:, :antennas])
    unit = bound_maps.unit_bounds(surface, PLACES, source_signal=source_signal)
    return bound_maps.deviations(unit, 10.0 * unit.gain, PLACES).position_error.mean()


@pytest.mark.parametrize(
    "source_signal", ["constant", pytest.param("independent", marks=pytest.mark.full)]
)
def test_each_number_has_its_bound(source_signal):
    options = OPTIONS | {"source_signal": source_signal}
    codes = make_surface().codes
    by_codes = needed_sizes.objective_by_codes(make_problem(), codes, **options)
    by_antennas = needed_sizes.objective_by_antennas(make_problem(), codes, **options)
    assert by_codes.shape == (CODES,)
    assert by_antennas.shape == (ANTENNAS,)
    for number in (3, CODES):
        expected = of_bound(number, ANTENNAS, source_signal)
        np.testing.assert_allclose(by_codes[number - 1], expected, rtol=1e-3)
    for number in (3, ANTENNAS):
        expected = of_bound(CODES, number, source_signal)
        np.testing.assert_allclose(by_antennas[number - 1], expected, rtol=1e-3)


@pytest.mark.parametrize("source_signal", SIGNALS)
@pytest.mark.parametrize("goal", ["mean", "worst", "quantile"])
def test_more_never_increase_the_objective(goal, source_signal):
    options = OPTIONS | {"source_signal": source_signal, "goal": goal}
    codes = make_surface().codes
    for function in (needed_sizes.objective_by_codes, needed_sizes.objective_by_antennas):
        found = np.asarray(function(make_problem(), codes, **options))
        assert np.all(np.diff(found) <= 1e-4 * found[:-1])


def test_fewer_antennas_are_the_first_ones():
    codes = make_surface().codes
    whole = needed_sizes.objective_by_antennas(make_problem(), codes, **OPTIONS)
    fewer = needed_sizes.first_antennas(make_problem(), 2)
    np.testing.assert_allclose(code_design.value_of(fewer, codes, **OPTIONS), whole[1], rtol=1e-4)
    for count in (0, ANTENNAS + 1):
        with pytest.raises(ValueError, match="need 1 to 5 antennas"):
            needed_sizes.first_antennas(make_problem(), count)


@pytest.mark.parametrize("most", [1, 2, 13])
def test_smallest_number_and_the_one_below_are_tested(most):
    for needed in range(1, most + 2):
        for guess in (None, *range(1, most + 1)):
            tested = set()

            def reaches(number, needed=needed, tested=tested):
                assert 1 <= number <= most
                tested.add(number)
                return number >= needed

            found = needed_sizes.smallest(reaches, most, guess)
            assert found == (needed if needed <= most else None)
            assert {min(needed, most), max(needed - 1, 1)} <= tested
