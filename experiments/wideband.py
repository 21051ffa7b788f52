"""Several frequencies: errors against the bound, equal positions, beam squint, memory.

  python experiments/wideband.py --num_scenes=400
  python experiments/wideband.py --parts=bound --coherences=coherent --sources=1,2
  python experiments/wideband.py --parts=memory

Parts:

* bound: 16 frequencies from 0.9 to 1.1 GHz, 12 x 12 elements, 4 antennas, 16 codes, 10 dB, sources
  of equal power at 1 to 10 m, delays of 0 to 30 ns, number of sources unknown. Median |error| over
  the root of the bound (0.674 if efficient; a source without a match has an infinite error).
* false_alarms: the same with noise only, at a false-alarm rate of 0.05.
* delays: two coherent sources at one position, whose delays differ by a multiple of the inverse
  bandwidth, 5 ns.
* squint: 60 x 4 elements, 30 wavelengths wide, 20 % bandwidth, one source; steering vectors of each
  frequency against those of the mean frequency at all frequencies.
* memory: 201 frequencies, 1 antenna, 1000 codes, 16 x 16 elements, two sources; time of the second
  call and peak memory of the process.

Results (29 November 2026; x86_64, 2 cores shared with seven other programs, Python 3.11.7, jax
0.10.2). The times are those of a busy machine.

--parts=bound --num_scenes=400 (standard error of a ratio 0.039, 0.028, 0.023 for K = 1, 2, 3):

amplitudes  K  azimuth  elevation  range  delay  right number  bound [deg]  bound [m]
incoherent  1    0.669      0.684  0.709      -         1.000        0.051      0.067
incoherent  2    0.704      0.676  0.663      -         1.000        0.072      0.106
incoherent  3    0.665      0.645  0.671      -         1.000        0.091      0.118
  coherent  1    0.717      0.692  0.636  0.646         1.000        0.049      0.069
  coherent  2    0.698      0.676  0.687  0.707         1.000        0.071      0.093
  coherent  3    0.678      0.668  0.689  0.703         1.000        0.086      0.120

--parts=false_alarms --num_scenes=256 (standard error 0.014):

amplitudes   rate
incoherent  0.063
  coherent  0.043

--parts=delays --num_scenes=100 (standard error of a ratio 0.056):

delays apart / 5 ns  two found  azimuth  elevation  range  delay
                0.5       1.00    0.671      0.680  0.717  0.669
                1.0       0.99    0.779      0.742  0.717  0.674
                2.0       1.00    0.622      0.710  0.624  0.690
                4.0       1.00    0.669      0.604  0.684  0.690

--parts=squint --num_scenes=16, incoherent, K known (standard error of an efficient ratio 0.2):

vectors  azimuth  elevation  range
   each      1.0        0.7    0.5
   mean     24.5        2.0   25.4

--parts=memory, one scene:

amplitudes  found  seconds  peak [GiB]
incoherent      2       53        1.09
  coherent      2       73        1.22
"""

import functools
import resource
import sys
import time

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax.accuracy import metrics, statistics, wideband_bound
from ris_jax.estimation import search_grid
from ris_jax.estimation.wideband import stacked_inputs, wideband_likelihood
from ris_jax.physics import arrays, scenes, wideband
from ris_jax.reports import provenance, tables

_PARTS = ("bound", "false_alarms", "delays", "squint", "memory")
_NUM_SCENES = flags.DEFINE_integer("num_scenes", 40, "scenes per row", lower_bound=1)
_CHOSEN = flags.DEFINE_list("parts", list(_PARTS), "parts to run")
_COHERENCES = flags.DEFINE_list("coherences", ["incoherent", "coherent"], "of the part `bound`")
_SOURCES = flags.DEFINE_list("sources", ["1", "2", "3"], "of the part `bound`")
_SEED = flags.DEFINE_integer("seed", 1, "root of all randomness")
_BATCH = 64
_LARGEST_DELAY = 30e-9  # [s]


def configuration(sources: int, **fields) -> config_lib.Config:
    """Return a configuration of scenes with a given number of sources of equal power."""
    settings = {
        "scene.min_sources": sources, "scene.max_sources": sources,
        "scene.snr_min_db": 10.0, "scene.snr_max_db": 10.0, "scene.path_loss": "none",
        "scene.range_min": 1.0, "system.num_antennas": 4, "system.num_snapshots": 16,
    }  # fmt: skip
    return config_lib.override(config_lib.Config(), settings | fields)


def draw(config, frequencies, coherence, count, *, place=None, delay=None, stream="scenes"):
    """Simulate scenes; `place` and `delay` change the drawn truth of each scene."""
    band = wideband.band_of(frequencies)

    @jax.jit
    def one(key):
        keys = jax.random.split(key, 3)
        truth = scenes.sample_truth(keys[0], config.scene)
        truth = truth if place is None else place(truth)
        shape = truth.azimuth.shape
        drawn = _LARGEST_DELAY * jax.random.uniform(keys[1], shape) if delay is None else delay
        return wideband.simulate_wideband(
            keys[2], truth, drawn, config, band=band, coherence=coherence
        )

    keys = jax.random.split(scenes.stream_key(_SEED.value, f"wideband-{stream}"), count)
    parts = [
        jax.device_get(jax.vmap(one)(keys[at : at + _BATCH])) for at in range(0, count, _BATCH)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def estimate(scene, positions, frequencies, **options):
    """Return the estimates of all scenes, and scenes per second without compilation."""
    measurement = scene.measurement._replace(codes=scene.measurement.codes[:, None])
    measurement, positions, _ = stacked_inputs.prepared_band(measurement, positions, frequencies)
    found, seconds = [], 0.0
    for start in range(0, len(scene.delay), _BATCH):
        part = measurement._replace(
            snapshots=measurement.snapshots[start : start + _BATCH],
            channel=measurement.channel[start : start + _BATCH],
            codes=measurement.codes[start : start + _BATCH],
        )
        run = functools.partial(
            wideband_likelihood.wideband_maximum_likelihood, part, positions,
            frequencies=frequencies, **options,
        )  # fmt: skip
        if start == 0:
            jax.block_until_ready(run())
        began = time.perf_counter()
        found.append(jax.device_get(run()))
        seconds += time.perf_counter() - began
    found = jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)
    return found, len(scene.delay) / seconds


def matched(found, scene, sources):
    """Return the matches [B, K] and errors [B, K, 3 or 4]; infinite without a match."""
    truth = scene.truth
    distance = metrics.direction_distance(found, truth)
    if found.delay is not None:  # two sources may have one direction
        apart = np.abs(found.delay[:, :, None] - scene.delay[:, None, :]) * 1e9
        distance = distance + 1e-3 * apart
    matches = metrics.assign(
        distance, np.asarray(found.num_sources), np.asarray(truth.num_sources)
    )[:, :sources]
    errors = metrics.matched_errors(found, truth, matches)
    errors = [errors.azimuth, errors.elevation, errors.source_range]
    if found.delay is not None:
        delay = np.take_along_axis(found.delay, np.maximum(matches, 0), axis=1)
        errors.append(np.where(matches >= 0, np.abs(delay - scene.delay), np.inf))
    return np.stack([np.asarray(error)[:, :sources] for error in errors], -1)


def ratios(errors, deviations):
    """Return median |error| over the root of the bound, for each parameter."""
    return [
        statistics.efficiency(errors[..., i].ravel(), deviations[..., i].ravel() ** 2).median_ratio
        for i in range(errors.shape[-1])
    ]


def bound_of(scene, positions, config, frequencies, coherence):
    """Return the roots of the bound, [B, K, P]."""
    found = wideband_bound.wideband_scene_bound(
        scene, positions, config.system, band=wideband.band_of(frequencies), coherence=coherence
    )
    return np.asarray(wideband_bound.wideband_deviations(found))


def bound_rows(count):
    """Errors against the bound."""
    frequencies = np.linspace(0.9e9, 1.1e9, 16)
    for coherence in _COHERENCES.value:
        for sources in map(int, _SOURCES.value):
            config = configuration(sources)
            positions = arrays.element_positions(config.system)
            scene = draw(config, frequencies, coherence, count, stream=f"{coherence}-{sources}")
            found, speed = estimate(scene, positions, frequencies, coherence=coherence)
            deviations = bound_of(scene, positions, config, frequencies, coherence)
            row = ratios(matched(found, scene, sources), deviations)
            row += [float("nan")] * (4 - len(row))
            right = float(np.mean(found.num_sources == sources))
            scale = (
                np.median(deviations, axis=(0, 1)) * [57.3, 57.3, 1.0, 1e9][: deviations.shape[-1]]
            )
            error = 0.786 / np.sqrt(count * sources)  # of the median of |normal|
            yield [coherence, sources, *row, error, right, *scale[:1], *scale[2:3], f"{speed:.1f}"]


def false_alarm_rows(count):
    """Fractions of scenes of noise with a source."""
    frequencies = np.linspace(0.9e9, 1.1e9, 16)
    config = configuration(1)
    positions = arrays.element_positions(config.system)
    for coherence in ("incoherent", "coherent"):
        scene = draw(config, frequencies, coherence, count, stream=f"noise-{coherence}")
        random = np.random.default_rng(_SEED.value)
        shape = (2, *scene.measurement.snapshots.shape)
        noise = random.normal(size=shape).astype(np.float32)
        measurement = scene.measurement._replace(snapshots=noise[0] + 1j * noise[1])
        found, speed = estimate(
            scene._replace(measurement=measurement), positions, frequencies, coherence=coherence,
            false_alarm_rate=0.05,
        )  # fmt: skip
        rate = float(np.mean(found.num_sources > 0))
        yield [coherence, rate, float(np.sqrt(0.05 * 0.95 / count)), f"{speed:.1f}"]


def delay_rows(count):
    """Two coherent sources at one position."""
    frequencies = np.linspace(0.9e9, 1.1e9, 16)
    config = configuration(2)
    positions = arrays.element_positions(config.system)

    def together(truth):
        same = {
            name: jnp.broadcast_to(getattr(truth, name)[:1], (2,))
            for name in ("azimuth", "elevation", "source_range")
        }
        return truth._replace(**same)

    for apart in (0.5, 1.0, 2.0, 4.0):
        delay = jnp.array([10e-9, 10e-9 + apart * 5e-9])
        scene = draw(
            config, frequencies, "coherent", count, place=together, delay=delay,
            stream=f"delays-{apart}",
        )  # fmt: skip
        found, speed = estimate(scene, positions, frequencies, coherence="coherent")
        deviations = bound_of(scene, positions, config, frequencies, "coherent")
        two = found.num_sources == 2
        row = ratios(matched(found, scene, 2)[two], deviations[two]) if two.any() else [np.nan] * 4
        yield [apart, float(two.mean()), *row, f"{speed:.1f}"]


def squint_rows(count):
    """Steering vectors of each frequency and of the mean frequency."""
    wide = {
        "system.rows": 4, "system.columns": 60, "system.num_snapshots": 64,
        "system.codebook": "random", "scene.range_min": 5.0, "scene.range_max": 20.0,
    }  # fmt: skip
    config = configuration(1, **wide)
    frequencies = np.linspace(0.9e9, 1.1e9, 16)
    positions = arrays.element_positions(config.system)
    region = search_grid.region_of(config.scene)
    band = wideband.band_of(frequencies)
    mean = jnp.full_like(band.wavelengths, config_lib.SPEED_OF_LIGHT / 1e9)
    for coherence in ("incoherent", "coherent"):
        scene = draw(config, frequencies, coherence, count, stream=f"squint-{coherence}")
        deviations = bound_of(scene, positions, config, frequencies, coherence)
        for known in (1, None):
            for name, used in (("each", band), ("mean", band._replace(wavelengths=mean))):
                found, speed = estimate(
                    scene, positions, frequencies, coherence=coherence, band=used, region=region,
                    num_sources=known,
                )  # fmt: skip
                errors = matched(found, scene, 1)
                row = ratios(errors, deviations)[:3]
                degrees = float(np.rad2deg(np.median(np.abs(errors[..., 0]))))
                metres = float(np.median(np.abs(errors[..., 2])))
                counted = float(np.mean(found.num_sources)) if known is None else float("nan")
                yield [
                    coherence, name, "yes" if known else "no", *row, degrees, metres, counted,
                    f"{speed:.1f}",
                ]  # fmt: skip


def memory_rows(_):
    """Time and memory of a long recording at many frequencies."""
    large = {
        "system.rows": 16, "system.columns": 16, "system.num_antennas": 1,
        "system.num_snapshots": 1000, "system.codebook": "random",
    }  # fmt: skip
    config = configuration(2, **large)
    frequencies = np.linspace(0.9e9, 1.1e9, 201)
    positions = arrays.element_positions(config.system)
    for coherence in _COHERENCES.value:
        scene = draw(config, frequencies, coherence, 1, stream=f"memory-{coherence}")
        found, speed = estimate(scene, positions, frequencies, coherence=coherence)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        yield [coherence, int(found.num_sources[0]), f"{1.0 / speed:.0f}", f"{peak:.2f}"]


_TABLES = {
    "bound": (
        bound_rows,
        ("amplitudes", "K", "azimuth", "elevation", "range", "delay", "std. error", "right number",
         "bound [deg]", "bound [m]", "scenes/s"),
    ),
    "false_alarms": (false_alarm_rows, ("amplitudes", "rate", "std. error at 0.05", "scenes/s")),
    "delays": (
        delay_rows,
        ("delays apart / 5 ns", "two found", "azimuth", "elevation", "range", "delay", "scenes/s"),
    ),
    "squint": (
        squint_rows,
        ("amplitudes", "vectors", "K known", "azimuth", "elevation", "range", "error [deg]",
         "error [m]", "mean number", "scenes/s"),
    ),
    "memory": (memory_rows, ("amplitudes", "found", "seconds", "peak [GiB]")),
}  # fmt: skip


def main(_):
    """Print the table of each part."""
    print(provenance.header(configuration(1)))
    for part in _CHOSEN.value:
        make, header = _TABLES[part]
        rows = []
        for row in make(_NUM_SCENES.value):
            rows.append(tuple(row))
            print(f"{part}: {rows[-1]}", file=sys.stderr, flush=True)
        print(f"\n{part}\n{tables.as_text(header, rows)}", flush=True)


if __name__ == "__main__":
    app.run(main)
