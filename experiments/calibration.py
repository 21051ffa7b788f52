"""Accuracy of localisation with a calibrated surface, for hidden factors of its elements.

  python experiments/calibration.py
  python experiments/calibration.py --num_scenes=64 --recordings=8,32 --snr_db=20

The elements of the default surface (12 x 12, 16 antennas, 16 random codes) have random factors of
1 rad and 2 dB rms that the codes do not contain. Rows: localisation with the nominal codes, with
the exact factors, with factors from recordings of one source each at known positions, with one
factor per state of a 1-bit surface, and from recordings at unknown ("free") positions; each for
new scenes of one to three sources. Columns: median |error| over the root of the Cramer-Rao bound
for the exact factors in azimuth, elevation and range (0.674 if efficient); sources found within 5
degrees; scenes with the right number of sources; scenes with a warning; rms z-score of the factors;
loss of position accuracy that the calibration predicts [dB]; CPU seconds of the calibration.

Results (29 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2), 200
scenes at 20 dB; the standard error of the three ratios is 0.04:

            codes  azimuth  elevation  range  found  count right  warned  z-score  loss dB  CPU s
-------------------------------------------------------------------------------------------------
          nominal    41.57      24.55  15.17  0.759        0.325   1.000
            exact     0.68       0.69   0.69  1.000        1.000   0.000
          4 known     0.73       0.76   0.78  1.000        0.990   0.080     1.02     1.29    0.0
          8 known     0.68       0.84   0.76  1.000        0.995   0.000     1.03     0.75    0.1
         16 known     0.70       0.72   0.70  1.000        1.000   0.000     1.05     0.39    0.1
         32 known     0.69       0.74   0.67  1.000        0.995   0.000     0.99     0.21    0.1
     32 per state     0.72       0.71   0.71  1.000        0.990   0.005     1.05     0.50    0.5
 64 free, in turn    24.44       1.85  15.69  0.985        0.595   0.315
64 free, together     0.73       1.04   0.69  1.000        1.000   0.000     0.82     0.91   15.6

The common error of self-calibrated directions is one random number per coordinate and run; the
elevation, with the narrower field of view, is determined least.
"""

import sys
import time

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics, statistics
from ris_jax.data.recordings.validation import SourceTruth
from ris_jax.estimation.calibration import known_sources, self_calibration, sufficiency
from ris_jax.physics import arrays, scenes
from ris_jax.reports import provenance, tables

_NUM_SCENES = flags.DEFINE_integer("num_scenes", 200, "new scenes", lower_bound=1)
_RECORDINGS = flags.DEFINE_list("recordings", ["4", "8", "16", "32"], "sizes of a calibration")
_UNLABELLED = flags.DEFINE_integer("unlabelled", 64, "recordings of the self-calibration")
_SNR_DB = flags.DEFINE_float("snr_db", 20.0, "SNR of all recordings [dB]")
_PHASE, _AMPLITUDE_DB = 1.0, 2.0
_HEADER = (
    "codes", "azimuth", "elevation", "range", "found", "count right", "warned", "z-score",
    "loss dB", "CPU s",
)  # fmt: skip
_GATE = np.deg2rad(5.0)
_SYSTEM = {"system.codebook": "random", "scene.max_sources": 3}


def hidden(random, *shape):
    """Return factors of unit mean power with a real positive sum."""
    decibels = _AMPLITUDE_DB * random.standard_normal(shape)
    factors = 10 ** (decibels / 20) * np.exp(1j * _PHASE * random.standard_normal(shape))
    factors = factors / np.sqrt(np.mean(np.abs(factors) ** 2))
    return factors * np.exp(-1j * np.angle(factors.sum()))


def recorded(name, count, config, factors, most=3):
    """Draw scenes, and receive them through a surface with these factors.

    Returns:
      The scene with nominal codes, and the codes with factors.
    """
    limits = {"scene.max_sources": most, "scene.snr_min_db": 20.0, "scene.snr_max_db": 20.0}
    config = config_lib.override(config, limits)
    scene = jax.device_get(scenes.sample_scenes(scenes.stream_key(1, name), config, count))
    random = np.random.default_rng(len(name))
    codes = np.asarray(scene.measurement.codes)
    if factors.ndim == 2:
        codes = np.where(np.real(codes) >= 0, 1.0, -1.0).astype(np.complex64)
        true = codes * np.where(np.real(codes) > 0, factors[:, 0], factors[:, 1])
    else:
        true = codes * factors
    positions = arrays.element_positions(config.system)
    steering = np.asarray(
        jax.vmap(lambda truth: scenes.steering_matrix(truth, positions, config.system))(scene.truth)
    )
    field = np.einsum("bnk,blk->bln", steering, scene.signals)
    clean = np.einsum("bln,bmn->blm", true * field, scene.measurement.channel)
    variance = np.mean(np.abs(clean) ** 2, axis=(1, 2)) / 10 ** (_SNR_DB.value / 10)
    noise = random.standard_normal((2, *clean.shape)) / 2**0.5 * np.sqrt(variance)[:, None, None]
    measurement = scene.measurement._replace(
        snapshots=(clean + noise[0] + 1j * noise[1]).astype(np.complex64),
        codes=codes, noise_variance=variance.astype(np.float32),
    )  # fmt: skip
    return scene._replace(measurement=measurement), true.astype(np.complex64)


def entries(scene, config, truth=None):
    """Return the recordings with steering vectors of their sources."""
    measurement, truth = scene.measurement, truth or scene.truth
    return known_sources.known_scenes(
        measurement.snapshots, measurement.channel, measurement.codes,
        np.asarray(arrays.element_positions(config.system), float),
        SourceTruth(*(np.asarray(getattr(truth, field)) for field in SourceTruth._fields)),
        wavelength=config.system.wavelength, noise_variance=measurement.noise_variance,
    )  # fmt: skip


def scored(name, scene, codes, exact, config, options):
    """Return the accuracy columns of localisation with the given codes."""
    positions = arrays.element_positions(config.system)
    estimate = jax.device_get(
        localization.localize_in_chunks(
            scene.measurement._replace(codes=codes), positions, chunk_size=64, **options
        )
    )
    matches = metrics.assign(
        metrics.direction_distance(estimate, scene.truth),
        np.asarray(estimate.num_sources), np.asarray(scene.truth.num_sources),
    )  # fmt: skip
    errors = metrics.matched_errors(estimate, scene.truth, matches)
    with_factors = scene._replace(measurement=scene.measurement._replace(codes=exact))
    bound = bounds.standard_deviations(
        jax.jit(bounds.scene_bound, static_argnums=2)(with_factors, positions, config.system)
    )
    present = np.arange(bound.shape[1]) < np.asarray(scene.truth.num_sources)[:, None]
    ratios = [
        statistics.efficiency(
            np.asarray(error)[present], np.asarray(deviation)[present] ** 2
        ).median_ratio
        for error, deviation in zip(
            (errors.azimuth, errors.elevation, errors.source_range),
            np.moveaxis(np.asarray(bound), -1, 0), strict=True,
        )
    ]  # fmt: skip
    found = metrics.detection_rate(metrics.detection(estimate, scene.truth, _GATE))
    right = np.mean(np.asarray(estimate.num_sources) == np.asarray(scene.truth.num_sources))
    return (
        name, *(f"{ratio:.2f}" for ratio in ratios), f"{found:.3f}", f"{right:.3f}",
        f"{np.mean(np.asarray(estimate.flags) != 0):.3f}",
    )  # fmt: skip


def calibration_columns(fit, true, scene, config, seconds):
    """Return z-score, predicted loss and CPU seconds."""
    z = np.abs((fit.calibration.factors - true) / fit.calibration.deviations)
    scene_entries, _ = entries(scene, config)
    loss = np.median([
        sufficiency.losses_db(
            fit, [entry], np.asarray(arrays.element_positions(config.system), float),
            wavelength=config.system.wavelength,
        )[0]
        for entry in scene_entries[:5]
    ])  # fmt: skip
    return f"{np.sqrt(np.mean(z**2) / 2):.2f}", f"{loss:.2f}", f"{seconds:.1f}"


def main(argv) -> None:
    """Print the table."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments are expected; got {' '.join(argv[1:])}")
    config = config_lib.override(config_lib.Config(), _SYSTEM)
    positions = np.asarray(arrays.element_positions(config.system), float)
    options = localization.options_of(config)
    random = np.random.default_rng(0)
    factors, per_state = hidden(random, len(positions)), hidden(random, len(positions), 2)
    print(provenance.machine(), flush=True)
    new, exact = recorded("new", _NUM_SCENES.value, config, factors)
    nominal = new.measurement.codes
    rows = []

    def add(row, columns=("", "", "")):
        rows.append((*row, *columns))
        print(*rows[-1], file=sys.stderr, flush=True)

    add(scored("nominal", new, nominal, exact, config, options))
    add(scored("exact", new, exact, exact, config, options))
    for count in map(int, _RECORDINGS.value):
        known, _ = recorded("known", count, config, factors, most=1)
        began = time.process_time()
        fit = known_sources.calibrate(*entries(known, config))
        columns = calibration_columns(fit, factors, known, config, time.process_time() - began)
        codes = fit.calibration.apply_to_codes(nominal)
        add(scored(f"{count} known", new, codes, exact, config, options), columns)

    known, _ = recorded("known", 32, config, per_state, most=1)
    began = time.process_time()
    fit = known_sources.calibrate(*entries(known, config), states=np.array([1.0, -1.0 + 0j]))
    columns = calibration_columns(fit, per_state, known, config, time.process_time() - began)
    binary, exact_binary = recorded("new", _NUM_SCENES.value, config, per_state)
    codes = fit.calibration.apply_to_codes(binary.measurement.codes)
    add(scored("32 per state", binary, codes, exact_binary, config, options), columns)

    unlabelled, _ = recorded("unlabelled", _UNLABELLED.value, config, factors, most=1)
    began = time.process_time()

    def locate(codes):
        found = jax.device_get(
            localization.localize_in_chunks(
                unlabelled.measurement._replace(codes=codes), positions, chunk_size=64,
                **options | {"num_sources": 1, "max_sources": 1, "check": False},
            )
        )  # fmt: skip
        return SourceTruth(*(np.asarray(getattr(found, field)) for field in SourceTruth._fields))

    turns, found = self_calibration.in_turn(
        locate, lambda truth: entries(unlabelled, config, truth),
        np.asarray(unlabelled.measurement.codes), positions,
    )  # fmt: skip
    name = f"{_UNLABELLED.value} free"
    codes = turns.calibration.apply_to_codes(nominal)
    add(scored(f"{name}, in turn", new, codes, exact, config, options))
    fit, _ = self_calibration.together(turns, found, positions, wavelength=config.system.wavelength)
    columns = calibration_columns(fit, factors, unlabelled, config, time.process_time() - began)
    codes = fit.calibration.apply_to_codes(nominal)
    add(scored(f"{name}, together", new, codes, exact, config, options), columns)
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
