"""Cramér-Rao bound over the field of view, from a configuration or a recordings file.

Example:
  ris-jax bound --out=bound
  ris-jax bound --out=bound --set=system.num_antennas=4 --sweep=snr_db:-10:30:5 --at=20,10,5
  ris-jax bound --out=bound --data=recordings.npz --second=10,0,4 --resolution
  ris-jax bound --out=bound --transmit_power_dbm=0 --bandwidth_hz=1e5 --sweep=antennas:1,2,4,8,16
  ris-jax bound --out=bound --nomaps --impairments=all
  ris-jax bound --out=bound --frequencies=0.9e9:1.1e9:21 --coherence=coherent --at=20,10,5

Writes into the directory --out: `from_above` (the plane of --elevation_deg) and `front` (direction
cosines at --front_range), each as .csv, .png and .pdf, and `positions.csv` with the bounds at each
--at. Every --sweep adds `sweep_NAME` in the same three formats. Positions are
azimuth_deg,elevation_deg,range_m.

No unbiased estimate has smaller errors. The bound is that of a single source, or of a source next
to a second one at --second. Empty cells and grey areas are not identifiable. --snr_db is the SNR
received from a single source at each position. With --transmit_power_dbm, the SNR follows from the
transmit power, the loss on both hops and the receiver noise instead.

With --static_path=on, the direct path and reflections that are the same under all codes are a
further unknown of each antenna. The command prints the cost of this unknown.

With --frequencies, or --data with several frequencies, the command writes only `positions.csv`; the
bound of coherent sources includes that of their delay.

--impairments ranks hardware errors and wrong wavefronts by the error of an estimator that assumes
the nominal model: bias, standard deviation and both (the misspecified bound) at each --at, root
mean square over draws of the hardware, in `impairments.csv`. Strengths are those of impairments.*,
or typical ones.

A configuration draws its channel from --seed; with --num_channels the errors are root mean square
over several draws.
"""

import pathlib
import time
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from absl import flags
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, frequency_bound, frequency_flags, surface_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.bound_maps import Surface, UnitBound
    from ris_jax.accuracy.link_budget import LinkBudget

_SWEEPS = ("snr_db", "transmit_power_dbm", "antennas", "codes", "elements", "bits")
_MOST_VALUES = 100  # of one sweep
_COSTLY_DB = 3.0  # cost of a static path that is a warning
_RANGES = (0.1, 0.2, 0.5, 1.0)  # default positions of the table, over the largest range
# Names of `mismatch.NAMES`, without importing JAX.
_HARDWARE = (
    "position_jitter", "phase_error", "amplitude_error_db", "dead_fraction", "beta_min",
    "channel_error",
)  # fmt: skip
_DIRECTIONS_DEG = (0.0, 30.0, 60.0)  # azimuths of the table of range limits

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "output directory", flag_values=FLAGS)
surface_flags.define(FLAGS)
frequency_flags.define_frequencies(FLAGS)
frequency_flags.define_coherence(FLAGS)
flags.DEFINE_integer(
    "num_channels", 1, "channel draws of a configuration", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_bool("maps", True, "draw the two maps", flag_values=FLAGS)
flags.DEFINE_integer("grid", 100, "positions per side of a map", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_float(
    "elevation_deg", 0.0, "elevation of the map from above", lower_bound=-89.0, upper_bound=89.0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "front_range", None, "range of the map over direction cosines [m]; default: range_max / 2",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_multi_string(
    "at", [], "position of a table row and a curve; may be repeated", flag_values=FLAGS
)
flags.DEFINE_string("second", None, "position of a second source", flag_values=FLAGS)
flags.DEFINE_multi_string(
    "sweep",
    [],
    f"NAME:START:STOP:STEP or NAME:VALUE,VALUE,...; NAME is one of {', '.join(_SWEEPS)}",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "target_m", None, "with --sweep: report the first value with at most this position error",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
    "static_path",
    "off",
    ("on", "off"),
    "on: a path that is the same under all codes is a further unknown (constant signals)",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "resolution", False, "report the separation of two sources at which the bound is half of it",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_list(
    "impairments", [], "all, or some impairments of the simulator and wrong wavefronts, to rank",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "num_draws", 32, "draws of the hardware for --impairments", lower_bound=1, flag_values=FLAGS
)


def sweep(text: str) -> tuple[str, list[float]]:
    """Parse name and values of a --sweep.

    Raises:
      ConfigError: the text is not a sweep.
    """
    name, colon, rest = text.partition(":")
    wrong = config_lib.ConfigError(
        f"--sweep: need NAME:START:STOP:STEP or NAME:VALUE,VALUE,... with NAME one of "
        f"{', '.join(_SWEEPS)}; got {text!r}"
    )
    if name not in _SWEEPS or not colon:
        raise wrong
    try:
        if "," in rest or ":" not in rest:
            values = [float(part) for part in rest.split(",")]
        else:
            start, stop, step = (float(part) for part in rest.split(":"))
            count = np.floor((stop - start) / step + 1e-9) + 1 if step > 0 else 0
            values = (start + step * np.arange(min(max(count, 0), _MOST_VALUES + 1))).tolist()
    except ValueError as error:
        raise wrong from error
    if not 1 <= len(values) <= _MOST_VALUES or not np.isfinite(values).all():
        raise config_lib.ConfigError(
            f"--sweep: need 1 to {_MOST_VALUES} finite values; got {text!r}"
        )
    if not name.endswith(("_db", "_dbm")) and not all(v >= 1 and v == int(v) for v in values):
        raise config_lib.ConfigError(f"--sweep: need whole numbers above zero; got {text!r}")
    return name, values


class _Bounds:
    """Bounds of one system at positions: of a single source, or next to a second one."""

    def __init__(self, source: surface_flags.SurfaceSource, budget: "LinkBudget | None", second):
        self.source, self.budget, self.second = source, budget, second
        self.surface = source.surface()

    @property
    def waves(self) -> dict[str, Any]:
        """Return the options of `bound_maps`."""
        return self.source.waves | {"static_path": FLAGS.static_path == "on"}

    def unit(
        self, surface: "Surface", places: np.ndarray, advance=lambda count: None
    ) -> "UnitBound":
        from ris_jax.accuracy import bound_maps

        second = self.second_of(places)
        return bound_maps.unit_bounds(surface, places, second, progress=advance, **self.waves)

    def second_of(self, places: np.ndarray) -> np.ndarray | None:
        """Return the position of the second source, for every position; None without one."""
        return None if self.second is None else np.broadcast_to(self.second, places.shape)

    def columns(self, places: np.ndarray, advance=lambda count: None) -> np.ndarray:
        """Return the columns of a table, for positions [P, 3]."""
        from ris_jax.accuracy import bound_maps
        from ris_jax.reports import bound_tables

        unit = self.unit(self.surface, places, advance)
        snr = surface_flags.power(FLAGS, self.surface, self.budget)(places, unit)
        found = bound_maps.deviations(unit, snr, places)
        return bound_tables.columns(places, snr.mean(axis=0), found)


def _from_above(scene: config_lib.SceneConfig) -> Float[np.ndarray, "R A 3"]:
    limit = np.deg2rad(scene.azimuth_max_deg)
    ranges = np.linspace(scene.range_min, scene.range_max, FLAGS.grid)
    source_range, azimuth = np.meshgrid(
        ranges, np.linspace(-limit, limit, FLAGS.grid), indexing="ij"
    )
    elevation = np.full_like(azimuth, np.deg2rad(FLAGS.elevation_deg))
    return np.stack([azimuth, elevation, source_range], axis=-1)


def _front(source_range: float) -> Float[np.ndarray, "W U 3"]:
    """Return a grid with NaN where u and w are no direction, or one within 6 deg of the plane."""
    side = np.linspace(-1.0, 1.0, FLAGS.grid)
    u, w = np.meshgrid(side, side)
    ahead = np.sqrt(np.where(u**2 + w**2 < 0.99, 1.0 - u**2 - w**2, np.nan))
    return np.stack(
        [np.arctan2(u, ahead), np.arcsin(w) + 0.0 * ahead, source_range + 0.0 * ahead], axis=-1
    )


def _write(folder: pathlib.Path, name: str, content: str, figure: Any) -> None:
    from ris_jax.reports import bound_figures, provenance

    provenance.write_whole(folder / f"{name}.csv", content)
    provenance.write_whole(folder / f"{name}.png", bound_figures.png(figure))
    provenance.write_whole(folder / f"{name}.pdf", bound_figures.pdf(figure))


def _maps(folder: pathlib.Path, bound: _Bounds, title: str) -> None:
    from ris_jax.reports import bound_figures, bound_tables

    scene = bound.source.config.scene
    front_range = FLAGS.front_range or 0.5 * scene.range_max
    drawn = (
        ("from_above", _from_above(scene), bound_figures.from_above,
         f"elevation {FLAGS.elevation_deg:g} deg"),
        ("front", _front(front_range), bound_figures.front, f"range {front_range:g} m"),
    )  # fmt: skip
    second = None if bound.second is None else bound_tables.cartesian(bound.second)
    for name, grid, draw, where in drawn:
        there = np.isfinite(grid).all(axis=-1)
        numbers = np.full((*grid.shape[:2], len(bound_tables.HEADER)), np.nan)
        with common_flags.progress(int(there.sum()), name.replace("_", " "), "position") as advance:
            numbers[there] = bound.columns(grid[there], advance)
        figure = draw(numbers, f"Cramér-Rao bound, {where}: {title}", second)
        _write(folder, name, bound_tables.as_csv(numbers[there]), figure)


def _label(place: np.ndarray) -> str:
    azimuth, elevation = np.rad2deg(place[:2])
    return f"{azimuth:g} deg, {elevation:g} deg, {place[2]:g} m"


def _swept(bound: _Bounds, name: str, value: float, places: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the value in use, and the columns of a table."""
    import dataclasses

    from ris_jax.accuracy import bound_maps, link_budget
    from ris_jax.reports import bound_tables

    if name in ("snr_db", "transmit_power_dbm"):
        surface = bound.surface
    else:
        surface = bound.source.surface(name, int(value))
        value = len(surface.positions) if name == "elements" else value
    unit = bound.unit(surface, places)
    if name == "snr_db":
        snr = np.full(unit.gain.shape, 10.0 ** (value / 10.0))
    else:
        budget = bound.budget
        if name == "transmit_power_dbm":
            assert isinstance(budget, link_budget.LinkBudget)
            budget = dataclasses.replace(budget, transmit_power_dbm=value)
        snr = surface_flags.power(FLAGS, surface, budget)(places, unit)
    found = bound_maps.deviations(unit, snr, places)
    return value, bound_tables.columns(places, snr.mean(axis=0), found)


def _sweep(folder: pathlib.Path, bound: _Bounds, name: str, values, places: np.ndarray) -> None:
    """Write a sweep; print the values that reach the target."""
    from ris_jax.reports import bound_figures, bound_tables, tables

    used, found = [], []
    with common_flags.progress(len(values), f"sweep of {name}", "value") as advance:
        for value in values:
            swept, numbers = _swept(bound, name, value, places)
            used.append(swept)
            found.append(numbers)
            advance(1)
    numbers = np.stack(found)  # [V, P, 11]
    rows = [
        [value, *row] for value, table in zip(used, found, strict=True)
        for row in bound_tables.rows(table)
    ]  # fmt: skip
    content = tables.as_csv((f"swept_{name}", *bound_tables.HEADER), rows)
    order = [bound_tables.HEADER.index(column) for column in (
        "position_error_m", "azimuth_std_deg", "elevation_std_deg", "range_std_m")]  # fmt: skip
    lines = {_label(place): numbers[:, index][:, order] for index, place in enumerate(places)}
    _write(folder, f"sweep_{name}", content, bound_figures.curves(name, used, lines))
    if FLAGS.target_m is None:
        return
    for place, line in lines.items():
        reached = np.flatnonzero(line[:, 0] <= FLAGS.target_m)
        what = f"{name} = {used[reached[0]]:g}" if reached.size else f"no {name} of the sweep"
        print(f"{what} reaches {FLAGS.target_m:g} m at {place}", flush=True)


def _print_static_path_cost(bound: _Bounds, places: np.ndarray) -> None:
    """Print the mean increase of the variances by an unknown static path."""
    from ris_jax.accuracy import bound_maps

    without = bound_maps.unit_bounds(
        bound.surface, places, bound.second_of(places), **bound.source.waves
    )
    increase = bound_maps.increase_db(bound.unit(bound.surface, places), without)
    print(f"Cost of the unknown static path: {abs(increase):.2f} dB", flush=True)
    if not increase <= _COSTLY_DB:
        print("warning: the codes have a large mean, which a static path hides", flush=True)


def _print_limits(bound: _Bounds, places: np.ndarray) -> None:
    """Print range limits of a single source and, if requested, resolutions."""
    from ris_jax.accuracy import bound_maps
    from ris_jax.reports import tables

    surface, waves = bound.surface, bound.waves
    snr = surface_flags.power(FLAGS, surface, bound.budget)
    azimuths = [a for a in _DIRECTIONS_DEG if a <= bound.source.config.scene.azimuth_max_deg]
    directions = np.deg2rad([[azimuth, FLAGS.elevation_deg] for azimuth in azimuths])
    limits = bound_maps.range_limits(surface, directions, snr, **waves)
    far = bound_maps.fraunhofer_distance(np.asarray(surface.positions), float(surface.wavelength))
    named = ", ".join(
        f"{limit:.3g} m at azimuth {azimuth:g} deg"
        for limit, azimuth in zip(limits, azimuths, strict=True)
    )
    print(f"Range limit (range bound equals the range): {named}; Fraunhofer distance {far:.3g} m")
    if not FLAGS.resolution:
        return
    found = bound_maps.resolutions(surface, places, snr, **waves)
    rows = [
        [_label(place), *np.rad2deg(row[:2]).tolist(), float(row[2])]
        for place, row in zip(places, found, strict=True)
    ]
    print("Resolution (separation of two sources at which the bound is half of it):")
    print(tables.as_text(("around", "azimuth_deg", "elevation_deg", "range_m"), rows), flush=True)


def _impairments() -> list[str]:
    """Return the names of --impairments: of the simulator, then assumed wavefronts.

    Raises:
      ConfigError: a name is unknown.
    """
    wavefronts = [name for name in get_args(config_lib.Wavefront) if name != "planar"]
    known = [*_HARDWARE, *wavefronts]
    if FLAGS.impairments == ["all"]:
        return known
    for name in FLAGS.impairments:
        if name not in known:
            raise config_lib.ConfigError(
                f"--impairments: need all, or some of {', '.join(known)}; got {name!r}"
            )
    return list(FLAGS.impairments)


def _rank(folder: pathlib.Path, bound: _Bounds, places: np.ndarray) -> None:
    """Write and print the error caused by each impairment, largest first."""
    import jax
    import jax.numpy as jnp

    from ris_jax.accuracy import bound_maps, mismatch
    from ris_jax.physics import scenes
    from ris_jax.reports import provenance, tables

    surface, config = bound.surface, bound.source.config
    waves, wavelength = config.system.wavefront, float(surface.wavelength)
    points = jnp.asarray(places, surface.positions.dtype)
    unit = bound_maps.unit_bounds(surface, places, **bound.source.waves)
    snr = surface_flags.power(FLAGS, surface, bound.budget)(places, unit)
    least = bound_maps.deviations(unit, snr, places).position_error
    noise = jnp.asarray(np.tile(unit.gain[0] / snr[0], (FLAGS.num_draws, 1)), points.dtype)
    key = scenes.stream_key(FLAGS.seed, "impairments")
    received = jax.jit(mismatch.received, static_argnames="wavefront")
    draw = jax.jit(mismatch.draw_hardware, static_argnums=(2, 3))
    names = [name for name in _impairments() if name != waves]
    rows, costs = [], {}
    with common_flags.progress(len(names), "impairments", "impairment") as advance:
        for name in names:
            one, assumed, strength = config_lib.ImpairmentConfig(), waves, None
            if name in mismatch.NAMES:
                one = mismatch.single_impairment(name, config.impairments, wavelength)
                strength = getattr(one, name)
            else:
                assumed = name
            hardware = draw(key, surface, one, FLAGS.num_draws)
            means = received(surface, hardware, points, wavefront=waves)
            found = mismatch.misspecified_bound(
                surface, hardware.estimated_channel, means, points, noise, wavefront=assumed
            )
            parts = {k: np.asarray(v) for k, v in mismatch.root_mean_squares(found).items()}
            label = name if name in mismatch.NAMES else f"{name} wavefront assumed"
            costs[label] = float(np.sqrt(np.mean((parts["error"] / least) ** 2)))
            metres = np.stack([*(parts[k] for k in ("bias", "deviation", "error")), least], axis=-1)
            for place, numbers in zip(places, metres, strict=True):
                where = [*np.rad2deg(place[:2]).tolist(), float(place[2])]
                rows.append([label, strength, *where, *numbers.tolist(), costs[label]])
            advance(1)
    rows.sort(key=lambda row: np.nan_to_num(-row[-1], nan=np.inf))
    rows = [[None if isinstance(c, float) and not np.isfinite(c) else c for c in r] for r in rows]
    header = (
        "impairment", "strength", "azimuth_deg", "elevation_deg", "range_m", "bias_m", "std_m",
        "position_error_m", "nominal_bound_m", "rms_error_over_bound",
    )  # fmt: skip
    provenance.write_whole(folder / "impairments.csv", tables.as_csv(header, rows))
    shown = {row[0]: [row[0], row[1], row[-1]] for row in rows}
    for row in rows:
        shown[row[0]].append(row[7])
    labels = [f"error_m at {_label(place)}" for place in places]
    print("Impairments, by root mean square over the positions of error over nominal bound:")
    columns = ("impairment", "strength", "rms_error_over_bound", *labels)
    print(tables.as_text(columns, list(shown.values())), flush=True)


def _places(scene: config_lib.SceneConfig) -> Float[np.ndarray, "P 3"]:
    if FLAGS.at:
        return np.stack([surface_flags.place("at", text) for text in FLAGS.at])
    ranges = np.maximum(np.array(_RANGES) * scene.range_max, scene.range_min)
    return np.stack([np.zeros_like(ranges), np.zeros_like(ranges), ranges], axis=-1)


def _check_sweeps(sweeps: list[tuple[str, list[float]]]) -> None:
    names = [name for name, _ in sweeps]
    if FLAGS.target_m is not None and not (names and 0 < FLAGS.target_m < np.inf):
        raise config_lib.ConfigError(
            f"--target_m: need finite metres above zero and a --sweep; got {FLAGS.target_m}"
        )
    if len(set(names)) < len(names):
        raise config_lib.ConfigError(f"--sweep: need every name once; got {', '.join(names)}")
    linked = FLAGS.transmit_power_dbm is not None
    if "transmit_power_dbm" in names and not linked:
        raise config_lib.ConfigError("--sweep: transmit_power_dbm also needs --transmit_power_dbm")
    if "snr_db" in names and linked:
        raise config_lib.ConfigError("--sweep: snr_db needs no --transmit_power_dbm")


COMPILES = "about 4 s for each system size"


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.out:
        raise config_lib.ConfigError("--out: need the output directory, none given")
    if FLAGS.front_range is not None and not 0 < FLAGS.front_range < np.inf:
        raise config_lib.ConfigError(
            f"--front_range: need finite metres above zero; got {FLAGS.front_range}"
        )
    if FLAGS.data and FLAGS["seed"].present:
        raise config_lib.ConfigError("--seed: need this or --data, which has its channel")
    if FLAGS.impairments and FLAGS.static_path == "on":
        raise config_lib.ConfigError("--impairments: need --static_path=off; got on")
    _check_sweeps([sweep(text) for text in FLAGS.sweep])
    for flag, texts in (("at", FLAGS.at), ("second", [FLAGS.second] if FLAGS.second else [])):
        for text in texts:
            surface_flags.place(flag, text)
    _impairments()
    if FLAGS.frequencies:
        count = len(frequency_flags.parsed(FLAGS.frequencies))
        return f"bound at {count} frequencies; {surface_flags.snr_db(FLAGS):g} dB SNR"
    maps = f"; 2 maps of {FLAGS.grid} x {FLAGS.grid} positions" if FLAGS.maps else ""
    return f"bound: {surface_flags.announced(FLAGS, FLAGS.num_channels)}{maps}"


def run() -> int:
    """Run the command; return the exit status."""
    began = time.monotonic()
    if frequency_bound.requested(FLAGS):
        return frequency_bound.run(FLAGS, _places(common_flags.configuration(FLAGS, {}).scene))
    budget = surface_flags.link_budget(FLAGS)
    source = surface_flags.source(FLAGS, FLAGS.num_channels)
    if FLAGS.impairments and source.config.system.source_signal != "constant":
        raise config_lib.ConfigError("--impairments: need constant signals; got independent")
    if FLAGS.static_path == "on" and source.config.system.source_signal != "constant":
        raise config_lib.ConfigError(
            "--static_path: expected off for independent signals; found on; the path then changes "
            "in every snapshot"
        )
    second = surface_flags.place("second", FLAGS.second) if FLAGS.second else None
    places = _places(source.config.scene)
    folder = pathlib.Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)

    from ris_jax.reports import bound_tables, provenance, tables

    bound = _Bounds(source, budget, second)
    numbers = bound.columns(places)
    shown = [name for name in bound_tables.HEADER if name not in ("x_m", "y_m", "z_m")]
    keep = [bound_tables.HEADER.index(name) for name in shown]
    print(tables.as_text(shown, bound_tables.rows(numbers[:, keep])), flush=True)
    provenance.write_whole(folder / "positions.csv", bound_tables.as_csv(numbers))
    if FLAGS.static_path == "on":
        _print_static_path_cost(bound, places)
    _print_limits(bound, places)
    if FLAGS.impairments:
        _rank(folder, bound, places)
    if FLAGS.maps:
        _maps(folder, bound, f"{surface_flags.described_power(FLAGS)}, {source.sizes()}")
    for name, values in map(sweep, FLAGS.sweep):
        _sweep(folder, bound, name, values, places)
    print(f"written: {folder}, {time.monotonic() - began:.0f} s")
    return 0
