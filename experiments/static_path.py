"""Accuracy with a path that is the same under all codes, and the false-alarm rate of its test.

python experiments/static_path.py --cell_scenes=400 --alarm_scenes=3200
"""

import pathlib
import sys

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import numpy as np
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import bounds, metrics
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import model_check, static_path_check
from ris_jax.estimation.flags import Flag
from ris_jax.physics import arrays, scenes
from ris_jax.reports import localization_scores, provenance, tables

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))
from cases import simulator

_SCENES = flags.DEFINE_integer("cell_scenes", 400, "scenes in every cell", lower_bound=1)
_ALARMS = flags.DEFINE_integer("alarm_scenes", 3200, "scenes of the false-alarm rate")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the scenes")

STRENGTHS_DB = (None, -10.0, 0.0, 10.0, 20.0)
SNR_DB = 15.0
MOST = {"2": 2, "1 to 3": 3}
LEAST = {"2": 2, "1 to 3": 1}
HEADER = (
    "simulator", "K", "path [dB]", "removed", "found [dB]", "detected", "count right",
    "azimuth ratio", "elevation ratio", "range ratio", "in ellipse", "95 % int.",
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
    truth = scenes.Truth(
        np.radians(place[:, 0]), np.radians(place[:, 1]), place[:, 2], active, counts,
        np.full(number, SNR_DB, np.float32),
    )  # fmt: skip
    clean = np.mean(
        np.abs((found.codes * _fields(found)) @ np.swapaxes(found.channel, 1, 2)) ** 2, (1, 2)
    )
    return scenes.Scene(
        scenes.Measurement(
            *(part.astype(np.complex64) for part in (found.snapshots, found.channel, found.codes)),
            (clean / 10 ** (SNR_DB / 10)).astype(np.float32),
        ),
        truth,
        signals,
    )


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
    strength = np.nanmedian(estimate.static_path_db) if removed else np.nan
    return [
        name, count, "none" if strength_db is None else f"{strength_db:+g}", f"{removed:.3f}",
        "-" if np.isnan(strength) else f"{strength:+.2f}",
        f"{row['detected']:.4f}", f"{row['count_right']:.4f}",
        *(f"{row[f'{parameter}_ratio']:.3f}" for parameter in ("azimuth", "elevation", "range")),
        f"{row['inside_ellipse']:.4f}", f"{row['inside_lower']:.3f}-{row['inside_upper']:.3f}",
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
    problem = model_check.CheckInput(
        drawn.measurement, np.asarray(positions), options["wavelength"], options["wavefront"],
        "constant", search_grid.region_of(config.scene), counted=True,
    )  # fmt: skip
    return model_check.examine(estimate, problem)[1].mean, drawn.measurement.codes[0]


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
    alarms += alarm_rows("phase error 0.3 rad, channel error -10 dB", hardware)
    print(tables.as_text(("hardware", "false alarms", "rate"), alarms), flush=True)


if __name__ == "__main__":
    app.run(main)
