"""The baselines on cases of their papers.

  python experiments/paper_cases.py

1. Orthogonal matching pursuit, Tropp & Gilbert (2007), Table I: the number of Gaussian measurements
   with which m-sparse vectors of dimension 256, entries one, are recovered 99 % of the time.
2. Sparse Bayesian learning, Gerstoft et al. (2016): 20 sensors half a wavelength apart, sources at
   -3, 2 and 75 degrees of 12, 22 and 20 dB, 50 snapshots, a grid of half a degree; beside MUSIC on
   the same grid. The SNR is that of the array: all sources over the noise, in one sensor.
3. Modified MUSIC, Ramezani et al. (2024), whose claim is the performance of MUSIC in three
   dimensions: a surface of 12 x 12 elements a quarter of a wavelength apart, three uncorrelated
   sources, 100 snapshots of the field; in Fresnel waves, which it assumes, and in spherical ones.
   The elements, ranges and snapshots are ours: the paper's text was not at hand, only its abstract.

Gave (23 November 2026; x86_64, 2 cores shared with some twenty other processes), 200 trials:

  nonzero  measurements  recovered
        4            56     1.0000
        8            96     0.9950
       12           136     0.9700
       16           184     0.9850
       20           228     1.0000

Standard error 0.7 % at 99 %: all rows but that of 12 are within two of the paper's; over all rows
99.0 %. Cases 2 and 3 have not been run to their end yet: the machine gave no time for them. Of
case 2, tests/estimators/sparse_bayesian_test.py holds one trial at 24 dB: all three angles exact,
powers within 1 dB.
"""

import functools

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import arrays, channel
from ris_jax import config as config_lib
from ris_jax import covariance as cov
from ris_jax.estimators import (
    grids,
    likelihood,
    modified_music,
    orthogonal_matching_pursuit,
    sparse_bayesian,
    subspace,
    symmetric_arrays,
)
from ris_jax.reports import provenance, tables

_TRIALS = flags.DEFINE_integer("num_trials", 256, "trials in every cell", lower_bound=1)
_CASES = flags.DEFINE_list("cases", ["1", "2", "3"], "which to run")
_WAVELENGTH = 0.3
# Tropp & Gilbert (2007), Table I, d = 256: nonzero entries and measurements.
_TABLE_1 = ((4, 56), (8, 96), (12, 136), (16, 184), (20, 228))


def recovery(nonzero: int, measurements: int, trials: int) -> float:
    """Share of sparse vectors whose support orthogonal matching pursuit finds."""

    @jax.jit
    def trial(key):
        rows, places = jax.random.split(key)
        dictionary = jax.random.normal(rows, (256, measurements)).astype(jnp.complex64)
        support = jax.random.permutation(places, 256)[:nonzero]
        images = likelihood.Images(dictionary[None], dictionary[None])
        data = jnp.sum(dictionary[support], axis=0)[None]
        found, _ = orthogonal_matching_pursuit.pursue(images, data, jnp.asarray(nonzero), nonzero)
        return jnp.all(jnp.sort(found) == jnp.sort(support))

    return float(np.mean([trial(key) for key in jax.random.split(jax.random.key(0), trials)]))


def directions(snr_db: float, trials: int) -> list[tuple]:
    """Rows of case 2 at one SNR: root-mean-square error and how often all angles are exact."""
    angles = np.arange(-90, 90.5, 0.5)
    atoms = np.exp(-1j * np.pi * np.outer(np.sin(np.deg2rad(angles)), np.arange(20)))
    atoms = jnp.asarray(atoms, jnp.complex64)
    truth = jnp.array([-3.0, 2.0, 75.0])
    places = np.searchsorted(angles, np.asarray(truth))
    amplitudes = jnp.array([10 ** (power / 20) for power in (12, 22, 20)])
    noise = float(jnp.sum(amplitudes**2)) * 10 ** (-snr_db / 10)

    def peaks(spectrum):
        _, indices = grids.highest_peaks(spectrum, (len(angles), 1, 1), 3)
        return jnp.sort(jnp.asarray(angles)[indices])

    @jax.jit
    def trial(key):
        keys = jax.random.split(key)
        phases = 2j * jnp.pi * jax.random.uniform(keys[0], (50, 3))
        data = (amplitudes * jnp.exp(phases)) @ atoms[places]
        data = data + noise**0.5 * channel.complex_normal(keys[1], data.shape)
        shared = jnp.broadcast_to(atoms, (50, *atoms.shape))
        power = sparse_bayesian.learn_powers(shared, data, jnp.asarray(noise))
        covariance = cov.LowRankCovariance(data.T, jnp.zeros(()))
        spectrum = subspace.music_spectrum(covariance, jnp.asarray(3), atoms / 20**0.5)
        return peaks(power), peaks(spectrum)

    results = [trial(key) for key in jax.random.split(jax.random.key(1), trials)]
    rows = []
    for name, found in zip(("sparse Bayesian", "MUSIC"), zip(*results, strict=True), strict=True):
        error = np.stack(found) - np.asarray(truth)
        exact = float(np.mean(np.all(error == 0, axis=1)))
        rows.append((snr_db, name, float(np.sqrt(np.mean(error**2))), exact))
    return rows


@functools.cache
def _method(name: str, wavefront: config_lib.Wavefront):
    spacing = _WAVELENGTH / 4
    positions = arrays.planar_array(12, 12, spacing)
    common = {
        "positions": positions, "wavelength": _WAVELENGTH, "wavefront": wavefront, "max_sources": 3
    }  # fmt: skip
    if name == "MUSIC in 3-D":
        return jax.jit(functools.partial(subspace.music, **common))
    layout = symmetric_arrays.Layout(12, 12, spacing)
    search = {
        "modified MUSIC": modified_music.modified_music,
        "reduced-dimension MUSIC": modified_music.reduced_dimension_music,
    }[name]
    return jax.jit(functools.partial(search, layout=layout, **common))


def near_field(snr_db: float, wavefront: config_lib.Wavefront, trials: int) -> list[tuple]:
    """Rows of case 3 at one SNR, which is that of an element."""
    positions = arrays.planar_array(12, 12, _WAVELENGTH / 4)
    keys = jax.random.split(jax.random.key(2), 5)
    # A third of the field of view for each, so that beams do not overlap.
    third = jnp.array([-1.0, 0.0, 1.0])
    u = 0.55 * third + jax.random.uniform(keys[0], (trials, 3), minval=-0.12, maxval=0.12)
    elevation = jax.random.uniform(keys[1], (trials, 3), minval=-0.4, maxval=0.4)
    azimuth = jnp.arcsin(u / jnp.cos(elevation))
    source_range = jax.random.uniform(keys[2], (trials, 3), minval=1.5, maxval=4.0)
    vectors = arrays.steering_vector(
        azimuth, elevation, source_range, positions, wavelength=_WAVELENGTH, wavefront=wavefront
    )
    signals = channel.complex_normal(keys[3], (trials, 3, 100))
    fields = jnp.einsum("bkn,bkt->bnt", vectors * len(positions) ** 0.5, signals)
    noise = 3.0 * 10 ** (-snr_db / 10)
    fields = fields + noise**0.5 * channel.complex_normal(keys[4], fields.shape)
    covariance = cov.LowRankCovariance(fields / 10.0, jnp.zeros(trials))
    rows = []
    for name in ("MUSIC in 3-D", "modified MUSIC", "reduced-dimension MUSIC"):
        found = _method(name, wavefront)(covariance, jnp.full(trials, 3))
        order = np.argsort(np.asarray(found.azimuth), axis=1)
        errors = [
            np.take_along_axis(np.asarray(estimate), order, axis=1) - np.asarray(true)
            for estimate, true in (
                (found.azimuth, azimuth),
                (found.elevation, elevation),
                (1.0 / found.source_range, 1.0 / source_range),
            )
        ]
        near = np.all(np.abs(np.stack(errors[:2])) < np.deg2rad(5), axis=0)
        angle, range_ = np.rad2deg(np.abs(errors[0])), np.abs(errors[2])
        rows.append(
            (
                wavefront, snr_db, name, float(np.mean(near)),
                float(np.median(angle)), float(np.sqrt(np.mean(angle[near] ** 2))),
                float(np.median(range_)),
            )
        )  # fmt: skip
    return rows


def main(_):
    """All cases, each a table."""
    print(provenance.header(config_lib.Config()))
    trials = _TRIALS.value
    if "1" in _CASES.value:
        rows = [(m, n, recovery(m, n, trials)) for m, n in _TABLE_1]
        print(tables.as_text(("nonzero", "measurements", "recovered"), rows), flush=True)
    if "2" in _CASES.value:
        rows = [row for snr in (0.0, 5.0, 10.0, 20.0) for row in directions(snr, trials)]
        header = ("SNR [dB]", "method", "RMSE [deg]", "all exact")
        print(tables.as_text(header, rows), flush=True)
    if "3" in _CASES.value:
        header = (
            "waves", "SNR [dB]", "method", "within 5 deg",
            "azimuth median [deg]", "RMSE of those within", "1/r median [1/m]",
        )  # fmt: skip
        for wavefront in ("fresnel", "spherical"):
            rows = [row for snr in (0.0, 10.0, 20.0) for row in near_field(snr, wavefront, trials)]
            print(tables.as_text(header, rows), flush=True)


if __name__ == "__main__":
    app.run(main)
