"""Misspecified bounds against the Cramér-Rao bound, Monte Carlo and known errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.accuracy import bound_maps, code_baselines, mismatch
from ris_jax.physics import arrays, channel

WAVELENGTH = 0.3
DRAWS, NOISES = 24, 12
PLACES = jnp.array([[0.1, -0.1, 1.0], [-0.4, 0.3, 1.5]])
SNR = 1e3
IDEAL = config_lib.ImpairmentConfig()


@functools.cache
def surface():
    positions = arrays.planar_array(6, 6, WAVELENGTH / 2)
    drawn = channel.rician_channel(
        jax.random.key(0), positions, num_antennas=4, wavelength=WAVELENGTH,
        rician_factor=jnp.asarray(0.1),
    )  # fmt: skip
    codes = jnp.asarray(code_baselines.random_codes(0, 8, 36))
    return bound_maps.Surface(positions, codes, drawn[None], jnp.asarray(WAVELENGTH))


received = jax.jit(mismatch.received, static_argnames="wavefront")


def bound_of(impairments, wavefront="spherical"):
    """Return hardware, means, noise variances and the bound."""
    hardware = mismatch.draw_hardware(jax.random.key(1), surface(), impairments, DRAWS)
    means = received(surface(), hardware, PLACES)
    noise = jnp.mean(jnp.abs(means) ** 2, axis=-1) / SNR
    found = mismatch.misspecified_bound(
        surface(), hardware.estimated_channel, means, PLACES, noise, wavefront=wavefront
    )
    return hardware, means, noise, found


def truth():
    unit = np.asarray(arrays.direction(PLACES[:, 0], PLACES[:, 1]))
    return unit * np.asarray(PLACES)[:, 2:]


def test_without_mismatch_is_the_bound():
    _, _, _, found = bound_of(IDEAL)
    np.testing.assert_allclose(found.bias, 0.0, atol=1e-4)
    parts = mismatch.root_mean_squares(found)
    unit = bound_maps.unit_bounds(surface(), np.asarray(PLACES))
    expected = bound_maps.deviations(unit, SNR, np.asarray(PLACES)).position_error
    np.testing.assert_allclose(parts["deviation"], expected, rtol=2e-3)
    np.testing.assert_allclose(parts["error"], expected, rtol=2e-3)


@pytest.mark.full
@pytest.mark.parametrize("name", mismatch.NAMES)
def test_predicts_monte_carlo(name):
    """The RMSE agrees within 10 %; 288 estimates have a standard error of at most 4 %."""
    impairments = mismatch.single_impairment(name, IDEAL, WAVELENGTH)
    hardware, means, noise, found = bound_of(impairments)
    noise_key = jax.random.split(jax.random.key(2), NOISES)
    squares = []
    for key in noise_key:
        noisy = means + jnp.sqrt(noise)[..., None] * channel.complex_normal(key, means.shape)
        places = mismatch.fit(surface(), hardware.estimated_channel, noisy, PLACES)
        squares.append(np.sum((np.asarray(places) - truth()) ** 2, axis=-1))
    measured = np.sqrt(np.mean(squares, axis=(0, 1)))
    parts = mismatch.root_mean_squares(found)
    assert (np.asarray(parts["bias"]) > 0.2 * np.asarray(parts["deviation"])).all()
    np.testing.assert_allclose(parts["error"], measured, rtol=0.1)


@pytest.mark.full
def test_assumed_fresnel_wavefront():
    """At boresight a second-order wave resembles a spherical wave of another range."""
    _, _, _, found = bound_of(IDEAL, wavefront="fresnel")
    bias = np.linalg.norm(np.asarray(found.bias)[0], axis=-1)
    deviation = np.asarray(mismatch.root_mean_squares(found)["deviation"])
    assert (bias > deviation).all()


def test_strengths():
    given = config_lib.ImpairmentConfig(phase_error=0.3, dead_fraction=0.2, beta_exponent=1.0)
    one = mismatch.single_impairment("phase_error", given, WAVELENGTH)
    assert one == dataclasses.replace(IDEAL, phase_error=0.3, beta_exponent=1.0)
    default = mismatch.single_impairment("position_jitter", given, WAVELENGTH)
    assert default.position_jitter == pytest.approx(0.02 * WAVELENGTH)
    assert default.phase_error == 0.0
    with pytest.raises(ValueError, match="need one of position_jitter"):
        mismatch.single_impairment("rust", given, WAVELENGTH)


def test_planar_waves_are_refused():
    with pytest.raises(ValueError, match="planar"):
        bound_of(IDEAL, wavefront="planar")
