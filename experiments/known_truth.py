"""Scenes with a given number of sources and SNR, and the attainable likelihood."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ris_jax import config as config_lib
from ris_jax.estimation import likelihood, refinement, search_grid
from ris_jax.physics import arrays, scenes

_REFERENCE_STEPS = 25
SAME = 0.02  # smaller differences of the log-likelihood are ignored


@functools.partial(jax.jit, static_argnames=("config", "count"))
def draw(key, sources, snr_db, *, config: config_lib.Config, count: int) -> scenes.Scene:
    """Draw `count` scenes with `sources` sources at an SNR; one compilation per source signal.

    The configuration draws `max_sources`; those after the first `sources` get amplitude zero.
    """

    def one(key):
        truth_key, measurement_key = jax.random.split(key)
        truth = scenes.sample_truth(truth_key, config.scene)
        present = jnp.arange(config.scene.max_sources) < sources
        truth = truth._replace(
            amplitude=jnp.where(present, truth.amplitude, 0.0), num_sources=sources, snr_db=snr_db
        )
        return scenes.simulate(measurement_key, truth, config)

    return jax.vmap(one)(jax.random.split(key, count))


def closest(truth: scenes.Truth, positions: np.ndarray, system) -> np.ndarray:
    """Return the smallest distance of two sources of each scene, in units of resolution, [B]."""
    unit = search_grid.resolution(
        positions, wavelength=system.wavelength, wavefront=system.wavefront
    )
    azimuth, elevation, distance = (
        np.asarray(part) for part in (truth.azimuth, truth.elevation, truth.source_range)
    )
    u, w = np.sin(azimuth) * np.cos(elevation), np.sin(elevation)
    coordinates = np.stack([u, w, 1 / distance], axis=-1)
    apart = np.abs(coordinates[:, :, None] - coordinates[:, None]) / unit
    absent = np.arange(azimuth.shape[1]) >= np.asarray(truth.num_sources)[:, None]
    alone = absent[:, :, None] | absent[:, None] | np.eye(azimuth.shape[1], dtype=bool)
    return np.min(np.where(alone, np.inf, apart.max(axis=-1)), axis=(1, 2))


@functools.partial(jax.jit, static_argnames=("system", "region"))
def energies(measurement, truth, estimate, positions, *, system, region):
    """Return the energy explained by refinement of truth and of estimate, and the noise."""
    jet = functools.partial(
        arrays.steering_jet,
        positions=positions,
        wavelength=system.wavelength,
        wavefront=system.wavefront,
    )
    setting = refinement.RefinementProblem(jet, region.lower, region.upper)

    def one(measurement, truth, estimate):
        observation = likelihood.observe(measurement, system.source_signal)

        def reach(sources):
            start = arrays.to_coordinates(sources.azimuth, sources.elevation, sources.source_range)
            present = jnp.arange(start.shape[0]) < truth.num_sources
            start = jnp.clip(start, region.lower, region.upper)
            fit = refinement.refine(
                setting, observation, start, present.astype(jnp.float32), _REFERENCE_STEPS
            )
            return fit.local.value

        from_truth, from_estimate = reach(truth), reach(estimate)
        noise = (observation.energy - from_truth) / measurement.snapshots.size
        return from_truth, from_estimate, noise

    return jax.vmap(one)(measurement, truth, estimate)
