"""Bounds and designed codes of one surface at several frequencies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax.accuracy import bound_maps, code_baselines, code_design, wideband_surface
from ris_jax.physics import arrays, codebooks, wideband

WAVELENGTH = 0.3
CODES, ELEMENTS = 8, 36
FREQUENCIES = np.array([0.92e9, 1.0e9, 1.1e9])
PLACES = np.random.default_rng(3).uniform([-0.8, -0.4, 1.0], [0.8, 0.4, 3.0], (6, 3))
COHERENCES = ("incoherent", "coherent")
OPTIONS = {"source_signal": "constant", "goal": "mean", "quantile": 0.9}


def ring():
    angle = 2 * np.pi * np.arange(ELEMENTS) / ELEMENTS
    return jnp.asarray(0.6 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1), float)


SHAPES = {
    "square": lambda: arrays.planar_array(6, 6, WAVELENGTH / 2),
    "ring": ring,
    "line": lambda: arrays.planar_array(1, ELEMENTS, WAVELENGTH / 2),
}


@functools.cache
def make_surface(shape="square", frequencies=tuple(FREQUENCIES)):
    positions, band = SHAPES[shape](), wideband.band_of(np.array(frequencies))
    drawn = wideband.wideband_channel(
        jax.random.key(0), positions, num_antennas=3, band=band, rician_factor=jnp.asarray(0.1)
    )
    codes = jnp.asarray(code_baselines.random_codes(0, CODES, ELEMENTS))
    return wideband_surface.WidebandSurface(positions, codes, drawn, band)


def make_problem(coherence, shape="square"):
    level = jnp.full(len(PLACES), 10.0)
    places = jnp.asarray(PLACES, float)
    return wideband_surface.design_problem(make_surface(shape), places, level, coherence=coherence)


def value(problem, codes):
    return float(code_design.value_of(problem, codes, **OPTIONS))


@pytest.mark.parametrize("shape", ["square", "ring"])
@pytest.mark.parametrize("coherence", COHERENCES)
def test_the_objective_is_the_bound(coherence, shape):
    surface = make_surface(shape)
    found = code_design.position_errors(make_problem(coherence, shape), surface.codes)
    unit = wideband_surface.unit_bounds(surface, PLACES, coherence=coherence)
    np.testing.assert_allclose(found, unit.position_error / 10.0**0.5, rtol=2e-3)
    assert unit.deviations.shape == (len(PLACES), 4 if coherence == "coherent" else 3)


@pytest.mark.full
def test_one_frequency_is_the_narrowband_bound():
    surface = make_surface(frequencies=(1e9,))
    narrow = bound_maps.Surface(
        surface.positions, surface.codes, surface.channel, surface.band.wavelengths[0]
    )
    expected = bound_maps.unit_bounds(narrow, PLACES)
    found = wideband_surface.unit_bounds(surface, PLACES, coherence="incoherent")
    np.testing.assert_allclose(found.gain, expected.gain[0], rtol=1e-5)
    error = bound_maps.deviations(expected, expected.gain, PLACES).position_error
    np.testing.assert_allclose(found.position_error, error, rtol=1e-3)


def test_a_line_does_not_determine_the_position():
    found = wideband_surface.unit_bounds(make_surface("line"), PLACES, coherence="coherent")
    assert np.isinf(found.position_error).all()
    assert np.isinf(found.deviations[:, 1]).all()


def test_chunks_of_positions_agree(monkeypatch):
    whole = wideband_surface.unit_bounds(make_surface(), PLACES, coherence="incoherent")
    monkeypatch.setattr(wideband_surface, "_LARGEST_CHUNK", 4)
    parts = wideband_surface.unit_bounds(make_surface(), PLACES, coherence="incoherent")
    np.testing.assert_allclose(parts.position_error, whole.position_error, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one position"):
        wideband_surface.unit_bounds(make_surface(), PLACES[:0], coherence="incoherent")


@pytest.mark.parametrize("coherence", COHERENCES)
def test_designed_codes_lower_the_bound_and_survive_quantisation(coherence):
    problem, start = make_problem(coherence), code_baselines.random_codes(1, CODES, ELEMENTS)
    descent = code_design.start_descent(start, 100)
    descent = code_design.descend(problem, descent, num_steps=100, steps=100, **OPTIONS)
    found = np.exp(1j * np.asarray(descent.best_phases)).astype(np.complex64)
    assert value(problem, found) < 0.9 * value(problem, start)
    rounded = np.asarray(codebooks.quantize_phase(jnp.asarray(found), 1))
    order = np.random.default_rng(0).permutation(np.indices(found.shape).reshape(2, -1).T)
    improved = code_design.improve_quantised(problem, rounded, order, bits=1, **OPTIONS)
    assert value(problem, improved) < value(problem, rounded)
