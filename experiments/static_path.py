"""Accuracy with a path that is the same under all codes, and the false-alarm rate of its test.

  python experiments/static_path.py --cell_scenes=400 --alarm_scenes=3200

Scenes of the simulator of the package (DFT codes) and of an independent one in NumPy (random codes
and channels in every scene). The SNR is 15 dB without the path, the number of sources is unknown,
and `static_path` is "auto". Columns: power of the path over that of the sources [dB], fraction of
scenes from which it was removed, its measured power [dB], fraction of sources detected, fraction of
scenes with the correct count; median error over the root of the bound for each parameter (0.674 is
efficient; standard error 0.02 to 0.03), and 95 % ellipses that hold the truth. The bound has the
path as an unknown where there is one. False alarms are those of default scenes without a path: by
the p-value of a scene, and by the decision of a call of `localize`. Impaired hardware has a phase
error of 0.3 rad and a channel error of -10 dB.

Results (29 November 2026; x86_64, 2 cores shared with three other processes, Python 3.11.7, jax
0.10.2), 18 minutes:

  simulator       K  path  removed   found  detected   count  azimuth  elevation  range  ellipse
------------------------------------------------------------------------------------------------
    package       2  none    0.000       -    1.0000  1.0000    0.712      0.679  0.693   0.9513
    package       2   -10    1.000  -10.01    1.0000  1.0000    0.701      0.700  0.683   0.9437
    package       2    +0    1.000   -0.01    1.0000  1.0000    0.701      0.700  0.686   0.9437
    package       2   +10    1.000  +10.00    1.0000  1.0000    0.702      0.700  0.683   0.9437
    package       2   +20    1.000  +19.99    1.0000  1.0000    0.702      0.700  0.684   0.9437
    package  1 to 3  none    0.000       -    1.0000  0.9975    0.690      0.665  0.696   0.9425
    package  1 to 3   -10    1.000  -10.02    1.0000  0.9975    0.651      0.706  0.682   0.9513
    package  1 to 3    +0    1.000   -0.01    1.0000  0.9975    0.651      0.706  0.682   0.9513
    package  1 to 3   +10    1.000  +10.00    1.0000  0.9975    0.651      0.704  0.679   0.9513
    package  1 to 3   +20    1.000  +20.00    1.0000  0.9975    0.651      0.707  0.681   0.9513
independent       2  none    0.000       -    0.9975  0.9975    0.694      0.624  0.716   0.9461
independent       2   -10    1.000  -10.00    0.9975  0.9975    0.733      0.646  0.749   0.9474
independent       2    +0    1.000   +0.00    0.9975  0.9975    0.731      0.644  0.749   0.9474
independent       2   +10    1.000  +10.00    0.9975  0.9975    0.731      0.644  0.752   0.9474
independent       2   +20    1.000  +20.00    0.9975  0.9975    0.733      0.644  0.749   0.9474
independent  1 to 3  none    0.000       -    1.0000  0.9975    0.653      0.661  0.653   0.9590
independent  1 to 3   -10    1.000   -9.99    1.0000  1.0000    0.697      0.657  0.671   0.9506
independent  1 to 3    +0    1.000   -0.01    1.0000  1.0000    0.699      0.657  0.671   0.9506
independent  1 to 3   +10    1.000  +10.00    1.0000  1.0000    0.697      0.653  0.671   0.9506
independent  1 to 3   +20    1.000  +19.99    1.0000  1.0000    0.697      0.657  0.672   0.9506

hardware                     false alarms    rate
-------------------------------------------------
   ideal              scenes with p < 0.1  0.0850
   ideal             scenes with p < 0.01  0.0116
   ideal            scenes with p < 0.001  0.0025
   ideal   calls of 1 scenes with removal  0.0000
   ideal   calls of 8 scenes with removal  0.0000
   ideal  calls of 64 scenes with removal  0.0000
impaired              scenes with p < 0.1  0.1131
impaired             scenes with p < 0.01  0.0256
impaired            scenes with p < 0.001  0.0069
impaired   calls of 1 scenes with removal  0.0016
impaired   calls of 8 scenes with removal  0.0050
impaired  calls of 64 scenes with removal  0.0200
"""

import pathlib
import sys
from typing import Any

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import model_check, static_path_check
from ris_jax.estimation.checks.check_input import CheckInput
from ris_jax.estimation.flags import Flag
from ris_jax.physics import arrays, scenes
from ris_jax.reports import localization_scores, provenance, tables

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))
from cases import simulator  # pyright: ignore[reportMissingImports]

_SCENES = flags.DEFINE_integer("cell_scenes", 400, "scenes in every cell", lower_bound=1)
_ALARMS = flags.DEFINE_integer("alarm_scenes", 3200, "scenes of the false-alarm rate")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the scenes")

STRENGTHS_DB = (None, -10.0, 0.0, 10.0, 20.0)
SNR_DB = 15.0
MOST = {"2": 2, "1 to 3": 3}
LEAST = {"2": 2, "1 to 3": 1}
HEADER = (
    "simulator", "K", "path", "removed", "found", "detected", "count", "azimuth", "elevation",
    "range", "ellipse",
)  # fmt: skip


def configuration(count: str, strength_db: float | None) -> config_lib.Config:
    """Return the configuration of a cell."""
    return config_lib.override(
        config_lib.Config(),
        {
            "scene.min_sources": LEAST[count],
            "scene.max_sources": MOST[count],
            "scene.range_max": 6.0,
            "scene.snr_min_db": SNR_DB,
            "scene.snr_max_db": SNR_DB,
            "scene.static_path_db": strength_db,
        },
    )


def of_package(config: config_lib.Config, number: int) -> scenes.Scene:
    """Draw scenes by the simulator of the package."""
    key = scenes.stream_key(_SEED.value, "static path")
    return jax.device_get(scenes.sample_scenes(key, config, number))


def independent(config: config_lib.Config, number: int) -> scenes.Scene:
    """Draw scenes by the simulator of the tests: random channels and codes in every scene."""
    random = np.random.default_rng(_SEED.value)
    most = config.scene.max_sources
    sources = simulator.random_sources(random, number, most)
    if config.scene.min_sources == most:
        sources = [
            np.stack(
                [random.uniform(-a, a, most) for a in (55, 25)] + [random.uniform(1, 6, most)], 1
            )
            for _ in range(number)
        ]
    found = simulator.through_surface(
        sources, seed=_SEED.value + 1, snr_db=SNR_DB, static_db=config.scene.static_path_db
    )

    def padded(rows, shape, value, kind):
        table = np.full((number, *shape), value, kind)
        for row, one in zip(table, rows, strict=True):
            row[..., : one.shape[-1]] = one
        return table

    place = padded([one.T for one in sources], (3, most), 1.0, np.float32)
    counts = np.array([len(one) for one in sources], np.int32)
    signals = padded(found.signals, (len(found.codes[0]), most), 0.0, np.complex64)
    active = (np.arange(most) < counts[:, None]).astype(np.float32)
    snr_db = np.full(number, SNR_DB, np.float32)
    truth: list[Any] = [*np.moveaxis(place, 1, 0), active, counts, snr_db]
    truth[:2] = np.radians(truth[:2])
    clean = np.abs((found.codes * _fields(found)) @ np.swapaxes(found.channel, 1, 2)) ** 2
    noise = clean.mean(axis=(1, 2)) / 10 ** (SNR_DB / 10)
    single: list[Any] = [x.astype("c8") for x in (found.snapshots, found.channel, found.codes)]
    measured = scenes.Measurement(*single, noise_variance=jnp.asarray(noise, jnp.float32))
    return scenes.Scene(measured, scenes.Truth(*truth), signals)


def _fields(found: simulator.Recording) -> np.ndarray:
    """Return the aperture fields of every snapshot, [B, L, N]."""
    assert found.signals is not None
    return np.stack([
        signals @ simulator.spherical(found.positions, np.asarray(places), simulator.WAVELENGTH)
        for signals, places in zip(found.signals, found.sources, strict=True)
    ])  # fmt: skip


def cell(name: str, count: str, strength_db: float | None) -> list:
    """Localise the scenes of a cell with --static_path=auto; return its row."""
    config = configuration(count, strength_db)
    drawn = {"package": of_package, "independent": independent}[name](config, _SCENES.value)
    positions = arrays.element_positions(config.system)
    bound = bounds.scene_bound(drawn, positions, config.system, strength_db is not None)
    estimate = localization.localize_in_chunks(
        drawn.measurement._replace(noise_variance=np.full(_SCENES.value, np.nan, np.float32)),
        positions, **localization.options_of(config),
    )  # fmt: skip
    row = localization_scores.score_rows(
        localization_scores.score(
            estimate, metrics.sources(drawn.truth), bound_covariance=np.asarray(bound.covariance)
        )
    )[0]
    removed = np.mean(np.asarray(estimate.flags) & Flag.STATIC_PATH != 0)
    strength = np.nanmedian(np.asarray(estimate.static_path_db)) if removed else np.nan
    return [
        name, count, "none" if strength_db is None else f"{strength_db:+g}", f"{removed:.3f}",
        "-" if np.isnan(strength) else f"{strength:+.2f}",
        f"{row['detected']:.4f}", f"{row['count_right']:.4f}",
        *(f"{row[f'{parameter}_ratio']:.3f}" for parameter in ("azimuth", "elevation", "range")),
        f"{row['inside_ellipse']:.4f}",
    ]  # fmt: skip


def alarm_tests(impairments: dict[str, float]) -> tuple[static_path_check.MeanTest, np.ndarray]:
    """Return the tests of default scenes without a static path, and the codes."""
    config = config_lib.override(config_lib.Config(), impairments)
    drawn = of_package(config, _ALARMS.value)
    positions = arrays.element_positions(config.system)
    options = localization.options_of(config)
    estimate = localization.localize_in_chunks(
        drawn.measurement, positions, static_path="off", check=False, **options
    )
    problem = CheckInput(
        drawn.measurement, np.asarray(positions), options["wavelength"], options["wavefront"],
        "constant", search_grid.region_of(config.scene), counted=True,
    )  # fmt: skip
    codes = np.asarray(drawn.measurement.codes[0])
    return model_check.examine(estimate, problem)[1].mean, codes


def alarm_rows(name: str, impairments: dict[str, float]) -> list[list]:
    """Return rows of false-alarm rates: of the p-value of a scene, and of calls of `localize`."""
    test, codes = alarm_tests(impairments)
    rows = []
    for chance in (0.1, 0.01, 0.001):
        rows.append([name, f"scenes with p < {chance}", f"{np.mean(test.chance < chance):.4f}"])
    for size in (1, 8, 64):
        parts = np.arange(_ALARMS.value // size * size).reshape(-1, size)
        calls = [
            static_path_check.is_present(
                static_path_check.MeanTest(test.ratio[part], test.chance[part]), codes
            )
            for part in parts
        ]
        rows.append([name, f"calls of {size} scenes with removal", f"{np.mean(calls):.4f}"])
    return rows


def main(_):
    """Print both tables."""
    print(provenance.header(config_lib.Config()), flush=True)
    rows = []
    for name in ("package", "independent"):
        for count in MOST:
            for strength_db in STRENGTHS_DB:
                rows.append(cell(name, count, strength_db))
                print(" ".join(map(str, rows[-1])), flush=True)
    print(tables.as_text(HEADER, rows), flush=True)
    if not _ALARMS.value:
        return
    alarms = alarm_rows("ideal", {})
    hardware = {"impairments.phase_error": 0.3, "impairments.channel_error": 0.1}
    alarms += alarm_rows("impaired", hardware)
    print(tables.as_text(("hardware", "false alarms", "rate"), alarms), flush=True)


if __name__ == "__main__":
    app.run(main)
