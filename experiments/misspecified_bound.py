"""Misspecified bound against Monte Carlo, for every impairment at three strengths.

  python experiments/misspecified_bound.py

Set-up: the default surface (12 x 12 elements, 16 antennas, 16 codes), one draw of its channel, one
source at 20 dB and three positions; 32 draws of the hardware, each with 20 of the noise. Estimates
are local maxima of the nominal likelihood, found from the true position. The table shows root mean
square position errors [m] over draws and positions, predicted and measured.

Two CPU cores, 240 s of CPU time:

          impairment  strength   std_m  predicted_m  measured_m   ratio
  ---------------------------------------------------------------------
                none         -  0.0246       0.0246      0.0244  1.0121
     position_jitter    0.0018  0.0247       0.0263      0.0260  1.0081
     position_jitter    0.0060  0.0247       0.0389      0.0388  1.0013
     position_jitter    0.0180  0.0254       0.0940      0.0940  0.9994
         phase_error    0.0300  0.0247       0.0279      0.0278  1.0045
         phase_error    0.1000  0.0248       0.0505      0.0506  0.9969
         phase_error    0.3000  0.0260       0.1408      0.1413  0.9965
  amplitude_error_db    0.3000  0.0247       0.0259      0.0261  0.9896
  amplitude_error_db    1.0000  0.0248       0.0363      0.0374  0.9694
  amplitude_error_db    3.0000  0.0263       0.0901      0.0920  0.9794
       dead_fraction    0.0090  0.0249       0.0316      0.0321  0.9842
       dead_fraction    0.0300  0.0252       0.0437      0.0435  1.0061
       dead_fraction    0.0900  0.0263       0.0611      0.0617  0.9902
            beta_min    0.8500  0.0251       0.0332      0.0333  0.9958
            beta_min    0.5000  0.0272       0.0987      0.0993  0.9938
            beta_min    0.0000  0.0419       0.3461      0.3472  0.9968
       channel_error    0.0030  0.0246       0.0279      0.0274  1.0187
       channel_error    0.0100  0.0247       0.0340      0.0335  1.0158
       channel_error    0.0300  0.0249       0.0460      0.0456  1.0089
     fresnel assumed         -  0.0246       0.1111      0.1110  1.0008
   parabolic assumed         -  0.0372       1.0898      1.0900  0.9998
"""

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax.accuracy import bound_maps, mismatch
from ris_jax.physics import arrays, channel, codebooks
from ris_jax.reports import provenance, tables

_DRAWS = flags.DEFINE_integer("num_draws", 32, "draws of the hardware", lower_bound=2)
_NOISES = flags.DEFINE_integer("num_noises", 20, "draws of the noise for each", lower_bound=1)

SNR = 10.0**2
PLACES = np.array([[0.0, 0.0, 2.0], [0.4, 0.2, 3.0], [-0.7, -0.3, 5.0]])
FACTORS = (0.3, 1.0, 3.0)  # of the typical strengths


def make_surface(system: config_lib.SystemConfig) -> bound_maps.Surface:
    """Return the surface of a configuration with one draw of its channel."""
    positions = arrays.element_positions(system)
    drawn = channel.rician_channel(
        jax.random.key(0), positions, num_antennas=system.num_antennas,
        wavelength=system.wavelength, rician_factor=jnp.asarray(0.035),
    )  # fmt: skip
    codes = codebooks.codebook(system)
    return bound_maps.Surface(positions, codes, drawn[None], jnp.asarray(system.wavelength))


def scaled(name: str, factor: float, wavelength: float) -> config_lib.ImpairmentConfig:
    """Return an impairment at a multiple of its typical strength (beta_min: distance from 1)."""
    typical = mismatch.single_impairment(name, config_lib.ImpairmentConfig(), wavelength)
    value = getattr(typical, name)
    value = max(1.0 - factor * (1.0 - value), 0.0) if name == "beta_min" else factor * value
    return dataclasses.replace(typical, **{name: value})


def compare(surface, impairments, truth_wavefront, assumed) -> tuple[float, float, float]:
    """Return the nominal deviation, predicted and measured error [m]."""
    places = jnp.asarray(PLACES, surface.positions.dtype)
    hardware = mismatch.draw_hardware(jax.random.key(1), surface, impairments, _DRAWS.value)
    means = RECEIVED(surface, hardware, places, wavefront=truth_wavefront)
    noise = jnp.mean(jnp.abs(means) ** 2, axis=-1) / SNR
    found = mismatch.misspecified_bound(
        surface, hardware.estimated_channel, means, places, noise, wavefront=assumed
    )
    parts = mismatch.root_mean_squares(found)
    unit = np.asarray(arrays.direction(places[:, 0], places[:, 1]))
    truth, squares = unit * PLACES[:, 2:], []
    for key in jax.random.split(jax.random.key(2), _NOISES.value):
        noisy = means + jnp.sqrt(noise)[..., None] * channel.complex_normal(key, means.shape)
        estimates = mismatch.fit(
            surface, hardware.estimated_channel, noisy, places, wavefront=assumed
        )
        squares.append(np.sum((np.asarray(estimates) - truth) ** 2, axis=-1))
    rms = [float(jnp.sqrt(jnp.mean(parts[name] ** 2))) for name in ("deviation", "error")]
    return rms[0], rms[1], float(np.sqrt(np.mean(squares)))


RECEIVED = jax.jit(mismatch.received, static_argnames="wavefront")


def main(_):
    """Print one row for each impairment and strength, and for wrong wavefronts."""
    system = config_lib.SystemConfig()
    print(provenance.header(config_lib.Config()), flush=True)
    surface, ideal = make_surface(system), config_lib.ImpairmentConfig()
    cases = [("none", None, ideal, system.wavefront)]
    for name in mismatch.NAMES:
        for factor in FACTORS:
            impaired = scaled(name, factor, system.wavelength)
            cases.append((name, getattr(impaired, name), impaired, system.wavefront))
    cases += [(f"{name} assumed", None, ideal, name) for name in ("fresnel", "parabolic")]
    rows = []
    for name, strength, impairments, assumed in cases:
        deviation, predicted, measured = compare(surface, impairments, system.wavefront, assumed)
        rows.append([name, strength, deviation, predicted, measured, predicted / measured])
    header = ("impairment", "strength", "std_m", "predicted_m", "measured_m", "ratio")
    print(tables.as_text(header, rows))


if __name__ == "__main__":
    app.run(main)
