"""Benchmark suites: a suite is a list of cells, and a cell is a kind of scene.

A suite defines the varied quantity, the scenes and the kind of figure; `accuracy` runs the cells
and `bundle` writes the results. Two suites that need the same cell share it.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal

from ris_jax import config as config_lib

# Which estimators get the number of sources; `own`: those that cannot estimate it.
Count = Literal["own", "blind", "known"]
Figure = Literal["bars", "lines", "heat_map", "runtime"]

# Hardware mismatch that the estimator does not model; docs/guide/arrays.md.
IMPAIRMENTS: dict[str, dict[str, Any]] = {
    "none": {},
    "positions off by 7.5 mm": {"impairments.position_jitter": 7.5e-3},
    "phases off by 0.1 rad": {"impairments.phase_error": 0.1},
    "3 % dead elements": {"impairments.dead_fraction": 0.03},
    "reflection down to 1/2": {"impairments.beta_min": 0.5},
    "channel error -20 dB": {"impairments.channel_error": 0.01},
}
IMPAIRMENTS["all of these"] = {
    name: value for changes in IMPAIRMENTS.values() for name, value in changes.items()
}


@dataclasses.dataclass(frozen=True)
class SourcePlacement:
    """Positions of sources beyond what a configuration can set; None leaves them as drawn."""

    azimuth_deg: float | None = None  # of every source, on either side of boresight
    separation_deg: float | None = None  # of two sources, in a random direction
    least_separation_deg: float = 0.0  # scenes with two closer sources are drawn again


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of scene, and whether its number of sources is given."""

    label: str
    value: float  # position on the axis of the varied quantity
    changes: tuple[tuple[str, Any], ...] = ()  # of the configuration, by dotted name
    placement: SourcePlacement = SourcePlacement()
    count: Count = "own"
    series: float | None = None  # position on the second axis of a heat map

    def config(self, base: config_lib.Config) -> config_lib.Config:
        """Return the configuration of this cell's scenes."""
        return config_lib.override(base, dict(self.changes))


@dataclasses.dataclass(frozen=True)
class Suite:
    """A comparison over one varied quantity."""

    name: str
    title: str
    axis: str  # varied quantity, with its unit
    scenes: str  # description of the scenes
    figure: Figure
    cells: Callable[[config_lib.Config], list[Cell]]
    # Third panel of the figure, highlighted in the tables: sources found, or scenes resolved.
    share: Literal["detected", "resolved"] = "detected"
    mismatch: bool = False  # whether the misspecified bound is next to the errors


def sources(count: int) -> dict[str, Any]:
    """Return changes of a configuration to scenes of this many sources."""
    return {"scene.min_sources": count, "scene.max_sources": count}


def _snr(snr_db: float) -> dict[str, Any]:
    return {"scene.snr_min_db": snr_db, "scene.snr_max_db": snr_db}


def _ranges(low: float, high: float) -> dict[str, Any]:
    return {"scene.range_min": low, "scene.range_max": high}


def _cell(label: str, value: float, changes: dict[str, Any], **rest: Any) -> Cell:
    return Cell(label, value, tuple(sorted(changes.items())), **rest)


def _snr_values(config: config_lib.Config) -> list[float]:
    """Return six values, from the lowest to the highest configured SNR."""
    low, high = config.scene.snr_min_db, config.scene.snr_max_db
    if low == high:
        return [low]
    return [low + (high - low) * step / 5 for step in range(6)]


def _counts(config: config_lib.Config) -> range:
    return range(config.scene.min_sources, config.scene.max_sources + 1)


def _overall(config: config_lib.Config) -> list[Cell]:
    return [
        _cell(label, value, {}, count=count)
        for value, (label, count) in enumerate((("blind", "blind"), ("known", "known")))
    ]


def _num_sources(config: config_lib.Config) -> list[Cell]:
    return [_cell(f"K = {count}", count, sources(count)) for count in _counts(config)]


def _by_snr(config: config_lib.Config) -> list[Cell]:
    return [_cell(f"{snr:g} dB", snr, _snr(snr)) for snr in _snr_values(config)]


def _two_sources(config: config_lib.Config) -> list[Cell]:
    apart = SourcePlacement(least_separation_deg=10.0)
    return [
        _cell(f"{snr:g} dB", snr, sources(2) | _snr(snr) | _ranges(1.0, 4.0), placement=apart)
        for snr in _snr_values(config)
    ]


def _by_range(config: config_lib.Config) -> list[Cell]:
    scene = config.scene
    values = [r for r in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0)
              if scene.range_min <= r <= scene.range_max]  # fmt: skip
    changes = sources(1) | _snr(15.0)
    return [_cell(f"{r:g} m", r, changes | _ranges(r, r)) for r in values or [scene.range_min]]


def _by_azimuth(config: config_lib.Config) -> list[Cell]:
    values = [a for a in (0.0, 15.0, 30.0, 45.0, 60.0, 75.0) if a <= config.scene.azimuth_max_deg]
    changes = sources(1) | _snr(15.0) | _ranges(1.0, 4.0)
    return [
        _cell(f"{a:g} deg", a, changes, placement=SourcePlacement(azimuth_deg=a)) for a in values
    ]


def _by_separation(config: config_lib.Config) -> list[Cell]:
    changes = sources(2) | _snr(15.0) | _ranges(3.0, 3.0)
    return [
        _cell(f"{apart:g} deg", apart, changes, placement=SourcePlacement(separation_deg=apart))
        for apart in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
    ]


def _rmse_by_num_sources(config: config_lib.Config) -> list[Cell]:
    return [_cell(f"K = {count}", count, sources(count) | _snr(15.0)) for count in _counts(config)]


def _heat_map(config: config_lib.Config) -> list[Cell]:
    pairs = itertools.product(_counts(config), _snr_values(config))
    return [
        _cell(f"K = {count}, {snr:g} dB", snr, sources(count) | _snr(snr), series=count)
        for count, snr in pairs
    ]


def _impairments(config: config_lib.Config) -> list[Cell]:
    return [
        _cell(label, value, _snr(15.0) | changes)
        for value, (label, changes) in enumerate(IMPAIRMENTS.items())
    ]


_DEFAULT = "as configured (by default 1 to 5 sources, -5 to 20 dB, 0.5 to 10 m)"
_TOLD = "; maximum_likelihood and network estimate the number of sources, the others are given it"
SUITES = {
    suite.name: suite
    for suite in (
        Suite("overall", "All scenes, with the number of sources unknown and known",
              "number of sources", f"{_DEFAULT}; unknown: estimators that need the number take it "
              "from maximum likelihood", "bars", _overall),
        Suite("num_sources", "By number of sources", "sources",
              f"{_DEFAULT}, at a fixed number of sources{_TOLD}", "lines", _num_sources),
        Suite("snr", "By SNR", "SNR [dB]", f"{_DEFAULT}, at a fixed SNR{_TOLD}", "lines", _by_snr),
        Suite("two_sources", "Two sources, by SNR", "SNR [dB]",
              f"two sources, 1 to 4 m away and at least 10 degrees apart{_TOLD}", "lines",
              _two_sources, "resolved"),
        Suite("range", "One source, by range", "range [m]",
              f"one source at 15 dB{_TOLD}", "lines", _by_range),
        Suite("azimuth", "One source, by azimuth", "azimuth from boresight [deg]",
              f"one source at 15 dB, 1 to 4 m away, on either side{_TOLD}", "lines", _by_azimuth),
        Suite("separation", "Two sources, by the angle between them", "separation [deg]",
              f"two sources at 15 dB, both 3 m away and equally strong{_TOLD}", "lines",
              _by_separation, "resolved"),
        Suite("rmse_by_num_sources", "By number of sources at 15 dB", "sources",
              f"{_DEFAULT}, but at 15 dB and a fixed number of sources{_TOLD}", "lines",
              _rmse_by_num_sources),
        Suite("heat_map", "By number of sources and SNR", "SNR [dB]",
              f"{_DEFAULT}, at a fixed number of sources and SNR{_TOLD}", "heat_map", _heat_map),
        Suite("impairments", "Hardware mismatch", "hardware",
              f"{_DEFAULT}, but at 15 dB; the bound is that of the assumed hardware{_TOLD}",
              "bars", _impairments, mismatch=True),
        Suite("runtime", "Time per scene against error", "sources",
              f"{_DEFAULT}, but at 15 dB and a fixed number of sources{_TOLD}", "runtime",
              _rmse_by_num_sources),
    )
}  # fmt: skip
SPEED = {"throughput": "Speed of every stage", "growth": "Speed by size"}
NAMES = (*SUITES, *SPEED)


def chosen(names: str) -> tuple[str, ...]:
    """Return the suites in a comma-separated list, in the order of `NAMES`; `all` selects all.

    Raises:
      ConfigError: a name is unknown, or the list is empty.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in (*NAMES, "all"):
            raise config_lib.ConfigError(
                f"--suite: need some of {', '.join(NAMES)}, or all; got {name!r}"
            )
    if not wanted:
        raise config_lib.ConfigError(
            f"--suite: need some of {', '.join(NAMES)}, or all; none given"
        )
    return tuple(name for name in NAMES if name in wanted or "all" in wanted)


def check(names: tuple[str, ...], config: config_lib.Config) -> None:
    """Check that the scenes of these suites can be drawn.

    Raises:
      ConfigError: a suite has more sources than the configuration allows.
    """
    most = config.scene.max_sources
    for name in names:
        cells = SUITES[name].cells(config) if name in SUITES else []
        needed = max((cell.config(config).scene.max_sources for cell in cells), default=0)
        if needed > most:
            raise config_lib.ConfigError(
                f"scene.max_sources: need {needed} or more in suite {name}; got {most}"
            )
