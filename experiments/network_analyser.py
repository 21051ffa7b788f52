"""Localisation from a network analyser: a simulated twin of a published measured data set.

  python experiments/network_analyser.py
  python experiments/network_analyser.py --out=twin.npz
  ris-jax inspect --data=twin.npz
  ris-jax localize --data=twin.npz --out=positions.csv --figure=map.png

The twin has the parameters of the RIS-S21 measurement data set (IEEE DataPort 10610): 16 x 16
one-bit elements of 25 x 20 mm at 5.375 GHz, one receiving antenna, 1000 random patterns shared by
all recordings, sources at 1 to 7 m, and a static path 9.5 dB above the surface signal. Of our own
choice are the place of the receiving horn, (0.1, -0.3, 1.2) m, and an SNR of 20 dB. The data are
computed here with NumPy, in double precision. A scene of two sources is the sum of two recordings.

With --out the first scene of each range and three scenes of two sources are written to a file.

Rows: range of the source, or two sources; median |error| over the root of the Cramer-Rao bound with
a static path, for azimuth, elevation and range (0.674 if efficient); roots of the bound (median) in
degrees and metres; sources found within 5 degrees; scenes with the right number; strength of the
static path that was found [dB].

Results (29 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2) with --num_scenes=50; the
standard error of a ratio is 0.11 for one source and 0.08 for two:

       sources  azimuth  elevation  range     deg     deg       m  found  right  path dB
----------------------------------------------------------------------------------------
      1 at 1 m     0.54       0.56   0.71  0.0108  0.0127  0.0031  1.000  1.000      9.5
      1 at 2 m     0.57       0.76   0.63  0.0107  0.0127  0.0123  1.000  1.000      9.5
      1 at 3 m     0.61       0.65   0.47  0.0113  0.0127  0.0288  1.000  1.000      9.5
      1 at 5 m     0.75       0.57   0.73  0.0115  0.0126  0.0818  1.000  1.000      9.5
      1 at 7 m     0.73       0.73   0.84  0.0111  0.0127  0.1544  1.000  1.000      9.5
2 at 2 and 3 m     0.81       0.60   0.71  0.0164  0.0179  0.0296  1.000  1.000     10.0
2 at 3 and 7 m     0.73       0.67   0.66  0.0160  0.0179  0.1218  1.000  1.000      9.5
"""

import sys

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import numpy as np
from absl import app, flags

from ris_jax import localization
from ris_jax.accuracy import bounds, metrics, statistics
from ris_jax.data.recordings import containers, host_steering
from ris_jax.estimation.checks.limits import Limits
from ris_jax.physics import scenes
from ris_jax.reports import provenance, tables

_NUM_SCENES = flags.DEFINE_integer("num_scenes", 20, "scenes per row", lower_bound=1)
_SNR_DB = flags.DEFINE_float("snr_db", 20.0, "surface signal over noise [dB]")
_OUT = flags.DEFINE_string("out", None, "recordings file to write, .npz or .h5")
_FREQUENCY = 5.375e9  # [Hz]
_WAVELENGTH = 299_792_458.0 / _FREQUENCY
_SPACING = (0.025, 0.020)  # [m]
_SIDE, _PATTERNS = 16, 1000
_HORN = np.array([0.1, -0.3, 1.2])  # [m]
_STATIC_DB = 9.5
_RANGES = (1.0, 2.0, 3.0, 5.0, 7.0)  # [m]
_LIMITS = Limits(np.radians(60), np.radians(30), 0.5)
_HEADER = (
    "sources", "azimuth", "elevation", "range", "deg", "deg", "m", "found", "right", "path dB",
)  # fmt: skip
_GATE = np.deg2rad(5.0)


def surface():
    """Return element positions [N, 3] [m], the channel [1, N] and the patterns [L, N]."""
    x, y = ((np.arange(_SIDE) - (_SIDE - 1) / 2) * width for width in _SPACING)
    across, up = np.meshgrid(x, y)
    positions = np.stack([across.ravel(), up.ravel(), np.zeros(_SIDE**2)], axis=-1)
    distance = np.linalg.norm(positions - _HORN, axis=1)
    channel = np.exp(-2j * np.pi / _WAVELENGTH * distance) / distance
    patterns = np.random.default_rng(0).choice([-1.0, 1.0], (_PATTERNS, _SIDE**2))
    return positions, channel[None], patterns + 0j


def recorded(random, place, positions, channel, codes):
    """Return S21 of one source without noise, [L, 1]: unit surface power, and a static path."""
    steering = host_steering.steering(
        host_steering.coordinates_of(*place), positions, wavelength=_WAVELENGTH
    )[0]
    signal = codes @ (channel[0] * steering)
    scale = np.exp(2j * np.pi * random.random()) / np.sqrt(np.mean(np.abs(signal) ** 2))
    path = 10 ** (_STATIC_DB / 20) * np.exp(2j * np.pi * random.random())
    return (scale * signal + path)[:, None], scale


def drawn(random, far, positions, channel, codes):
    """Return recordings with sources at the given ranges, and what the bound needs."""
    snapshots, signals, places = [], [], []
    for _ in range(_NUM_SCENES.value):
        while True:
            azimuth = np.radians(random.uniform(-45, 45, len(far)))
            if len(far) == 1 or abs(azimuth[0] - azimuth[1]) > np.radians(10):
                break
        elevation = np.radians(random.uniform(-20, 20, len(far)))
        parts = [
            recorded(random, tuple(np.atleast_1d(value) for value in place), positions, channel,
                     codes)
            for place in zip(azimuth, elevation, far, strict=True)
        ]  # fmt: skip
        clean = np.sum([part for part, _ in parts], axis=0)
        noise = random.standard_normal((2, *clean.shape)) * np.sqrt(
            0.5 * len(far) / 10 ** (_SNR_DB.value / 10)
        )
        snapshots.append(clean + noise[0] + 1j * noise[1])
        signals.append([scale for _, scale in parts])
        places.append([azimuth, elevation, far])
    azimuth, elevation, source_range = np.moveaxis(np.array(places), 1, 0)
    count = np.full(len(places), len(far))
    truth = metrics.Sources(azimuth, elevation, source_range, count)
    return np.stack(snapshots), truth, np.array(signals)


def row(name, snapshots, truth, signals, positions, channel, codes):
    """Localise, and return one row of the table."""
    batch = len(snapshots)
    variance = np.full(batch, signals.shape[1] / 10 ** (_SNR_DB.value / 10), np.float32)
    measurement = scenes.Measurement(
        snapshots.astype("c8"), channel.astype("c8"), codes.astype("c8")
    )
    estimate = jax.device_get(
        localization.localize(
            measurement, positions, wavelength=_WAVELENGTH, max_sources=3,
            limits=_LIMITS,
        )
    )  # fmt: skip

    def bound(azimuth, elevation, source_range, amplitudes, noise_variance):
        return bounds.standard_deviations(
            bounds.cramer_rao_bound(
                measurement._replace(noise_variance=noise_variance), azimuth, elevation,
                source_range, amplitudes[None] * np.ones((len(codes), 1)), positions,
                wavelength=_WAVELENGTH, static_path=True,
            )
        )  # fmt: skip

    deviations = np.asarray(jax.jit(jax.vmap(bound))(*truth[:3], signals.astype("c8"), variance))
    matches = metrics.assign(
        metrics.direction_distance(estimate, truth), np.asarray(estimate.num_sources),
        truth.num_sources,
    )  # fmt: skip
    errors = metrics.matched_errors(estimate, truth, matches)
    width = truth.azimuth.shape[1]
    ratios = [
        statistics.efficiency(
            np.asarray(error)[:, :width].ravel(), deviations[..., axis].ravel() ** 2
        ).median_ratio
        for axis, error in enumerate((errors.azimuth, errors.elevation, errors.source_range))
    ]
    scale = np.median(deviations, axis=(0, 1)) * [180 / np.pi, 180 / np.pi, 1.0]
    found = metrics.detection_rate(metrics.detection(estimate, truth, _GATE))
    right = np.mean(np.asarray(estimate.num_sources) == truth.num_sources)
    return (
        name, *(f"{ratio:.2f}" for ratio in ratios), f"{scale[0]:.4f}", f"{scale[1]:.4f}",
        f"{scale[2]:.4f}", f"{found:.3f}", f"{right:.3f}",
        f"{np.median(np.asarray(estimate.static_path_db)):.1f}",
    )  # fmt: skip


def main(argv) -> None:
    """Print the table, or write a file."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments are expected; got {' '.join(argv[1:])}")
    positions, channel, codes = surface()
    random = np.random.default_rng(1)
    cases = [(f"1 at {far:g} m", np.array([far])) for far in _RANGES]
    cases += [("2 at 2 and 3 m", np.array([2.0, 3.0])), ("2 at 3 and 7 m", np.array([3.0, 7.0]))]
    if _OUT.value:
        found = [drawn(random, far, positions, channel, codes) for _, far in cases]
        counts = [1] * len(_RANGES) + [3, 1]
        padded = [
            np.concatenate(
                [
                    np.pad(getattr(truth, name)[:count], [(0, 0), (0, 2 - truth[0].shape[1])])
                    for (_, truth, _), count in zip(found, counts, strict=True)
                ]
            )
            for name in ("azimuth", "elevation", "source_range")
        ]
        snapshots = np.concatenate(
            [part[:count] for (part, _, _), count in zip(found, counts, strict=True)]
        )
        containers.save(_OUT.value, {
            "snapshots": snapshots, "channel": channel, "codes": codes, "frequency": _FREQUENCY,
            "element_positions": positions, "azimuth": padded[0], "elevation": padded[1],
            "source_range": padded[2],
            "num_sources": np.repeat([1] * len(_RANGES) + [2, 2], counts),
        })  # fmt: skip
        print(f"written: {_OUT.value}, {len(snapshots)} scenes")
        return
    print(provenance.machine(), flush=True)
    rows = []
    for name, far in cases:
        scene = drawn(random, far, positions, channel, codes)
        rows.append(row(name, *scene, positions, channel, codes))
        print(*rows[-1], file=sys.stderr, flush=True)
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
