"""Cases of the papers of modified MUSIC and reduced-dimension MUSIC, with the bound.

  python experiments/paper_cases.py --cases=3,4

3. Modified MUSIC, Ramezani et al. (2024), which claims "the same performance as 3D MUSIC", from a
   covariance that is smoothed over overlapping sub-surfaces if it lacks rank: a surface of
   12 x 12 elements a quarter of a wavelength apart, three sources 1.5 to 4 m away.
4. Reduced-dimension MUSIC, Zhang et al. (2018), which claims to approach MUSIC over all
   coordinates without its search: a centred line of 15 sensors a quarter of a wavelength apart,
   Fresnel waves, sources at -10 and 20 degrees, 5 and 8 wavelengths away, 200 snapshots. Ranges are
   in wavelengths.

Only the abstract of the first paper was available; the claim of the second is from memory. Arrays,
ranges, snapshots and SNR are our choice; the claims are tested. Signals are Gaussian and
independent; a single snapshot has random phases. The SNR is that of one source in one element. A
scene is resolved if every source is within 2 degrees in azimuth and elevation; RMSE and bound are
over resolved scenes. The number of sources is known to all methods.

Results (23 November 2026; x86_64, 2 cores shared with a dozen other processes; 5 minutes and 40 s),
200 trials, standard error of an RMSE 3 % (case 4: 3.5 %) if all are resolved:

Case 3

      waves  snapshots  SNR          method  resolved  azimuth [deg]   bound  1/r [1/m]   bound
    fresnel        100  -10           MUSIC    1.0000         0.2521  0.2401     0.0252  0.0243
    fresnel        100  -10        modified    0.8400         0.8570  0.2395     0.0253  0.0243
    fresnel        100  -10  reduced-dimen.    0.9900         0.2885  0.2402     0.0253  0.0243
    fresnel        100    0           MUSIC    1.0000         0.0769  0.0759     0.0077  0.0077
    fresnel        100    0        modified    1.0000         0.3565  0.0759     0.0078  0.0077
    fresnel        100    0  reduced-dimen.    1.0000         0.0802  0.0759     0.0077  0.0077
    fresnel        100   10           MUSIC    1.0000         0.0242  0.0240     0.0025  0.0024
    fresnel        100   10        modified    1.0000         0.3056  0.0240     0.0026  0.0024
    fresnel        100   10  reduced-dimen.    1.0000         0.0250  0.0240     0.0025  0.0024
    fresnel       1000    0           MUSIC    1.0000         0.0237  0.0240     0.0022  0.0024
    fresnel       1000    0        modified    1.0000         0.1190  0.0240     0.0023  0.0024
    fresnel       1000    0  reduced-dimen.    1.0000         0.0243  0.0240     0.0022  0.0024
  spher. phase     100  -10           MUSIC    1.0000         0.2638  0.2478     0.0256  0.0248
  spher. phase     100  -10        modified    0.8100         0.8565  0.2470     0.0311  0.0248
  spher. phase     100  -10  reduced-dimen.    0.9900         0.5355  0.2479     0.0283  0.0248
  spher. phase     100    0           MUSIC    1.0000         0.0803  0.0784     0.0079  0.0079
  spher. phase     100    0        modified    1.0000         0.4780  0.0784     0.0141  0.0079
  spher. phase     100    0  reduced-dimen.    1.0000         0.4526  0.0784     0.0156  0.0079
  spher. phase     100   10           MUSIC    1.0000         0.0253  0.0248     0.0025  0.0025
  spher. phase     100   10        modified    1.0000         0.4415  0.0248     0.0114  0.0025
  spher. phase     100   10  reduced-dimen.    1.0000         0.4471  0.0248     0.0136  0.0025
    fresnel          1   10           MUSIC    0.7200         0.8294  0.2546     0.0732  0.0251
    fresnel          1   10        modified    0.1400         1.0643  0.2506     0.0729  0.0251
    fresnel          1   10  reduced-dimen.    0.5950         0.8519  0.2533     0.0725  0.0250
    fresnel          1   30           MUSIC    0.7700         0.8139  0.0255     0.0603  0.0025
    fresnel          1   30        modified    0.1450         0.9477  0.0249     0.0534  0.0025
    fresnel          1   30  reduced-dimen.    0.6200         0.8412  0.0254     0.0579  0.0025

The claim holds for ranges in Fresnel waves, where all three are at the bound. It does not hold for
directions, for these reasons:

- The anti-diagonal is independent of the range only for uncorrelated sources. For T snapshots the
  sample correlation is T^-1/2, and the cross terms depend on the ranges. They limit the error at
  any noise level: at 0 dB 0.357 degrees with 100 snapshots, 0.119 with 1000, a third. For exact
  covariances it peaks at the truth (tests/estimation/baselines/decoupled_music_test.py). MUSIC and
  the rank reduction use a subspace, which is not affected.
- Mirror pairs of spherical waves (`spherical_phase`: the papers have unit modulus) keep odd orders
  above the first: 0.45 degrees of bias here, also for the rank reduction.
- Smoothing a single snapshot restores the rank but leaves correlation, and blurs near sources: for
  sub-surfaces up to 0.3 m apart, the angles of a source at 2 m differ by about 8 degrees. None of
  the three is then near the bound, and more power does not help. The anti-diagonal, which needs
  uncorrelated sources, is affected most.

On a grid of 48 x 32 directions, the estimators' default, the rank reduction lost one of 120 sources
at 10 dB to a false peak two cells away; 96 x 64 as here did not.

Case 4

  SNR [dB]          method  resolved  azimuth [deg]   bound  1/r [1/wavelength]   bound
        -5           MUSIC    1.0000         0.2439  0.2128              0.0086  0.0078
        -5        modified    0.9950         0.4856  0.2129              0.0086  0.0078
        -5  reduced-dimen.    1.0000         0.2512  0.2128              0.0086  0.0078
         5           MUSIC    1.0000         0.0718  0.0673              0.0024  0.0025
         5        modified    1.0000         0.1435  0.0673              0.0024  0.0025
         5  reduced-dimen.    1.0000         0.0731  0.0673              0.0024  0.0025
        10           MUSIC    1.0000         0.0402  0.0378              0.0014  0.0014
        10        modified    1.0000         0.1058  0.0378              0.0013  0.0014
        10  reduced-dimen.    1.0000         0.0411  0.0378              0.0014  0.0014
        20           MUSIC    1.0000         0.0127  0.0120              0.0004  0.0004
        20        modified    1.0000         0.0875  0.0120              0.0004  0.0004
        20  reduced-dimen.    1.0000         0.0129  0.0120              0.0004  0.0004

(and the same at 0 and 15 dB). The claim holds: with 96 directions of the rank reduction and 48
ranges along each peak, errors are within 3 % (0.3 dB) of those of joint MUSIC, and 0.6 to 1.4 dB
above the bound.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import bounds
from ris_jax.estimation import estimate, search_grid
from ris_jax.estimation.baselines import decoupled_music, smoothing, subspace
from ris_jax.estimation.baselines.symmetric_arrays import GridLayout
from ris_jax.physics import arrays, channel
from ris_jax.physics import covariance as cov

_METHODS = ("MUSIC", "modified MUSIC", "reduced-dimension MUSIC")
# Maximum azimuth and elevation error of a found source.
_NEAR = np.deg2rad(2.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """An array, its waves and its search region."""

    layout: GridLayout
    wavelength: float
    wavefront: config_lib.Wavefront
    snapshots: int  # a single one is equivalent to constant signals
    region: search_grid.SearchRegion
    music_grid: tuple[int, int, int]
    pair_grid: tuple[int, int, int]

    @property
    def positions(self) -> Float[Array, "N 3"]:
        return arrays.planar_array(*self.layout.shape, self.layout.spacing)

    @property
    def sub_surface(self) -> tuple[int, int] | None:
        """Sub-surface for smoothing the covariance of a single snapshot."""
        return decoupled_music.sub_surface_of(self.layout.shape) if self.snapshots == 1 else None


class Sources(NamedTuple):
    """Source positions, in order of azimuth."""

    azimuth: Float[Array, "B K"]
    elevation: Float[Array, "B K"]
    source_range: Float[Array, "B K"]


@functools.partial(jax.jit, static_argnames="case")
def _fields(case: Case, sources: Sources, noise: Float[Array, ""]) -> Complex[Array, "B N T"]:
    """Return the fields at the elements; every source has power one there."""
    keys = jax.random.split(jax.random.key(3))
    vectors = arrays.steering_vector(
        *sources, case.positions, wavelength=case.wavelength, wavefront=case.wavefront
    )
    vectors = vectors * vectors.shape[-1] ** 0.5
    signals = _signals(case, keys[0], sources.azimuth.shape)
    fields = jnp.einsum("bkn,btk->bnt", vectors, signals)
    return fields + noise**0.5 * channel.complex_normal(keys[1], fields.shape)


def _signals(case: Case, key, shape) -> Complex[Array, "B T K"]:
    """Draw Gaussian signals, or random phases for a single snapshot."""
    batch, sources = shape
    if case.snapshots == 1:
        return jnp.exp(2j * jnp.pi * jax.random.uniform(key, (batch, 1, sources)))
    return channel.complex_normal(key, (batch, case.snapshots, sources))


@functools.partial(jax.jit, static_argnames=("case", "method", "num_sources"))
def _locate(
    case: Case, method: str, fields: Complex[Array, "B N T"], num_sources: int
) -> estimate.Estimate:
    batch, snapshots = fields.shape[0], fields.shape[2]
    covariance = cov.LowRankCovariance(fields / snapshots**0.5, jnp.zeros(batch))
    count = jnp.full(batch, num_sources)
    common = {
        "wavelength": case.wavelength, "wavefront": case.wavefront, "max_sources": num_sources,
        "region": case.region,
    }  # fmt: skip
    if method == "MUSIC":
        positions = case.positions
        if case.sub_surface:
            # The same smoothing for all methods.
            window = case.layout.shape, case.sub_surface
            factor = smoothing.smooth(covariance.factor, *window)
            covariance = cov.LowRankCovariance(factor, covariance.loading)
            positions = smoothing.centred_window(positions, *window)
        return subspace.music(covariance, count, positions, grid=case.music_grid, **common)
    search = {
        "modified MUSIC": decoupled_music.modified_music,
        "reduced-dimension MUSIC": decoupled_music.reduced_dimension_music,
    }[method]
    return search(
        covariance, count, case.positions, layout=case.layout, sub_surface=case.sub_surface,
        grid=case.pair_grid, **common,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames="case")
def _bound(case: Case, sources: Sources) -> Float[Array, "B K 2"]:
    """Return the Cramér-Rao bound of azimuth and of 1/r for unit noise variance."""
    positions = case.positions
    # The signals of `_fields`.
    signals = _signals(case, jax.random.split(jax.random.key(3))[0], sources.azimuth.shape)

    def vectors(point):
        steering = arrays.steering(
            arrays.direction(point[0], point[1]), point[2], positions,
            wavelength=case.wavelength, wavefront=case.wavefront,
        )  # fmt: skip
        return len(positions) ** 0.5 * steering

    def one(scene):
        (azimuth, elevation, source_range), signals = scene
        point = jnp.stack([azimuth, elevation, 1.0 / source_range])
        slopes = jnp.stack(
            [
                jax.jvp(vectors, (point,), (jnp.zeros_like(point).at[i].set(1.0),))[1]
                for i in (0, 1, 2)
            ]
        )
        values, slopes = (
            jnp.broadcast_to(part, (case.snapshots, *part.shape))
            for part in (vectors(point), slopes)
        )
        full, _ = bounds.conditional_bound(values, slopes, signals, jnp.asarray(1.0))
        index = jnp.arange(len(azimuth))
        return jnp.diagonal(full[index, :, index, :], axis1=1, axis2=2)[:, ::2]

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, (sources, signals))


def _root_mean(squares) -> float | None:
    return float(np.sqrt(np.mean(squares))) if np.size(squares) else None


def _rows(case: Case, sources: Sources, snr_db: float, variance: np.ndarray) -> list[tuple]:
    """Return for each method the fraction of resolved scenes, and their errors and bounds."""
    noise = 10 ** (-snr_db / 10)
    fields = _fields(case, sources, jnp.asarray(noise))
    rows = []
    for method in _METHODS:
        found = _locate(case, method, fields, sources.azimuth.shape[1])
        order = np.argsort(np.asarray(found.azimuth), axis=1)
        azimuth, elevation, inverse_range = (
            np.take_along_axis(np.asarray(value), order, axis=1) - np.asarray(true)
            for value, true in (
                (found.azimuth, sources.azimuth),
                (found.elevation, sources.elevation),
                (1.0 / found.source_range, 1.0 / sources.source_range),
            )
        )
        near = np.all((np.abs(azimuth) < _NEAR) & (np.abs(elevation) < _NEAR), axis=1)
        errors = [np.rad2deg(_root_mean(azimuth[near] ** 2) or np.nan)]
        errors.append(np.rad2deg(_root_mean(noise * variance[near, :, 0]) or np.nan))
        errors.append(_root_mean(inverse_range[near] ** 2) or np.nan)
        errors.append(_root_mean(noise * variance[near, :, 1]) or np.nan)
        rows.append((f"{snr_db:g}", method, float(np.mean(near)), *map(float, errors)))
    return rows


_HEADER = (
    "SNR [dB]", "method", "resolved",
    "azimuth RMSE [deg]", "bound", "1/r RMSE [1/m]", "bound",
)  # fmt: skip


# Waves, snapshots, SNR [dB] of case 3; a single snapshot has the energy of a hundred.
_SURFACE: tuple[tuple[config_lib.Wavefront, int, tuple[float, ...]], ...] = (
    ("fresnel", 100, (-10.0, 0.0, 10.0)),
    ("fresnel", 1000, (0.0,)),
    ("spherical_phase", 100, (-10.0, 0.0, 10.0)),
    ("fresnel", 1, (10.0, 20.0, 30.0)),
)


def _surface_sources(trials: int) -> Sources:
    """Draw three sources, each in a third of the field of view, so that beams do not overlap."""
    keys = jax.random.split(jax.random.key(2), 3)
    third = jnp.array([-1.0, 0.0, 1.0])
    u = 0.55 * third + jax.random.uniform(keys[0], (trials, 3), minval=-0.12, maxval=0.12)
    elevation = jax.random.uniform(keys[1], (trials, 3), minval=-0.4, maxval=0.4)
    source_range = jax.random.uniform(keys[2], (trials, 3), minval=1.5, maxval=4.0)
    return Sources(jnp.arcsin(u / jnp.cos(elevation)), elevation, source_range)


def surface_table(trials: int) -> tuple[tuple[str, ...], list[tuple]]:
    """Return header and rows of case 3."""
    rows = []
    for wavefront, snapshots, ratios in _SURFACE:
        wavelength = 0.3
        case = Case(
            GridLayout(12, 12, wavelength / 4), wavelength, wavefront, snapshots,
            search_grid.SearchRegion(), (28, 16, 9), (96, 64, 48),
        )  # fmt: skip
        sources = _surface_sources(trials)
        variance = np.asarray(_bound(case, sources))
        for snr_db in ratios:
            rows += [(wavefront, snapshots, *row) for row in _rows(case, sources, snr_db, variance)]
    return ("waves", "snapshots", *_HEADER), rows


def line_table(trials: int) -> tuple[tuple[str, ...], list[tuple]]:
    """Return header and rows of case 4."""
    # In wavelengths. A line does not determine w, which is not searched.
    region = search_grid.SearchRegion(0.9, 1e-3, 0.0, 0.3)
    case = Case(GridLayout(1, 15, 0.25), 1.0, "fresnel", 200, region, (48, 1, 12), (96, 1, 48))
    sources = Sources(
        jnp.broadcast_to(jnp.deg2rad(jnp.array([-10.0, 20.0])), (trials, 2)),
        jnp.zeros((trials, 2)),
        jnp.broadcast_to(jnp.array([5.0, 8.0]), (trials, 2)),
    )
    variance = np.asarray(_bound(case, sources))
    rows = []
    for snr_db in (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0):
        rows += _rows(case, sources, snr_db, variance)
    return _HEADER, rows
