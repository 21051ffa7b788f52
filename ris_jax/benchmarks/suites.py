"""What there is to compare: every suite is a list of cells, and a cell is a kind of scene.

A suite says what varies from cell to cell, on what scenes, and how it is drawn; `accuracy` runs the
cells and `bundle` writes them down. Two suites that need the same cell share it.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal

from ris_jax import config as config_lib

# Whether the number of sources is told: `own` tells it to those estimators that cannot count.
Count = Literal["own", "blind", "known"]
Figure = Literal["bars", "lines", "heat_map", "runtime"]

# What the hardware has that the estimator is not told; docs/guide/arrays.md.
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
class Placement:
    """Where sources are, beyond what a configuration can say; None leaves it as drawn."""

    azimuth_deg: float | None = None  # of every source, at either side of boresight
    separation_deg: float | None = None  # of two sources, any way in the plane of directions
    least_separation_deg: float = 0.0  # scenes with two sources closer than this are drawn again


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of scene, and whether its number of sources is told."""

    label: str
    value: float  # place on the axis of what varies
    changes: tuple[tuple[str, Any], ...] = ()  # of the configuration, by dotted name
    placement: Placement = Placement()
    count: Count = "own"
    series: float | None = None  # place on the second axis of a heat map

    def config(self, base: config_lib.Config) -> config_lib.Config:
        """The configuration of this cell's scenes."""
        return config_lib.override(base, dict(self.changes))


@dataclasses.dataclass(frozen=True)
class Suite:
    """A comparison by one thing that varies."""

    name: str
    title: str
    axis: str  # what varies, with its unit
    scenes: str  # how they are drawn, for the reader
    figure: Figure
    cells: Callable[[config_lib.Config], list[Cell]]
    # What the third panel shows and the tables point out: sources found, or scenes resolved.
    share: Literal["detected", "resolved"] = "detected"


def sources(count: int) -> dict[str, Any]:
    """Changes of a configuration to scenes of so many sources."""
    return {"scene.min_sources": count, "scene.max_sources": count}


def _snr(snr_db: float) -> dict[str, Any]:
    return {"scene.snr_min_db": snr_db, "scene.snr_max_db": snr_db}


def _ranges(low: float, high: float) -> dict[str, Any]:
    return {"scene.range_min": low, "scene.range_max": high}


def _cell(label: str, value: float, changes: dict[str, Any], **rest: Any) -> Cell:
    return Cell(label, value, tuple(sorted(changes.items())), **rest)


def _snr_values(config: config_lib.Config) -> list[float]:
    """Six, from the least to the most that is configured."""
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
    apart = Placement(least_separation_deg=10.0)
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
    return [_cell(f"{a:g} deg", a, changes, placement=Placement(azimuth_deg=a)) for a in values]


def _by_separation(config: config_lib.Config) -> list[Cell]:
    changes = sources(2) | _snr(15.0) | _ranges(3.0, 3.0)
    return [
        _cell(f"{apart:g} deg", apart, changes, placement=Placement(separation_deg=apart))
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
_TOLD = "; maximum_likelihood and network count by themselves, the others are told"
SUITES = {
    suite.name: suite
    for suite in (
        Suite("overall", "All scenes, with the number of sources unknown and known",
              "number of sources", f"{_DEFAULT}; unknown: those that cannot count take the number "
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
              f"two sources at 15 dB, both 3 m away and so of one strength{_TOLD}", "lines",
              _by_separation, "resolved"),
        Suite("rmse_by_num_sources", "By number of sources at 15 dB", "sources",
              f"{_DEFAULT}, but at 15 dB and a fixed number of sources{_TOLD}", "lines",
              _rmse_by_num_sources),
        Suite("heat_map", "By number of sources and SNR", "SNR [dB]",
              f"{_DEFAULT}, at a fixed number of sources and SNR{_TOLD}", "heat_map", _heat_map),
        Suite("impairments", "Hardware that is not as told", "hardware",
              f"{_DEFAULT}, but at 15 dB; the bound is that of the hardware as told{_TOLD}",
              "bars", _impairments),
        Suite("runtime", "Time of a scene against its error", "sources",
              f"{_DEFAULT}, but at 15 dB and a fixed number of sources{_TOLD}", "runtime",
              _rmse_by_num_sources),
    )
}  # fmt: skip
SPEED = {"throughput": "Speed of every stage", "growth": "Speed by size"}
NAMES = (*SUITES, *SPEED)


def chosen(names: str) -> tuple[str, ...]:
    """The suites that a comma-separated list means, in the order of `NAMES`; `all` is all.

    Raises:
      ConfigError: there is no suite of that name, or none is named.
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
    """The scenes of these suites can be drawn.

    Raises:
      ConfigError: a suite has more sources than the configuration has places.
    """
    most = config.scene.max_sources
    for name in names:
        cells = SUITES[name].cells(config) if name in SUITES else []
        needed = max((cell.config(config).scene.max_sources for cell in cells), default=0)
        if needed > most:
            raise config_lib.ConfigError(
                f"scene.max_sources: need {needed} or more in suite {name}; got {most}"
            )
