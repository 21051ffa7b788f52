"""Design phase codes that minimise the position error bound over a region or at positions.

Example:
  ris-jax design --out=codes --set=system.num_antennas=2
  ris-jax design --out=codes --at=20,5,4 --bits=1,2
  ris-jax design --out=codes --region=-30,30,-10,10,2,8 --goal=worst --data=recordings.npz
  ris-jax design --out=sizes --target_m=0.1 --set=system.num_antennas=2
  ris-jax simulate --out=records --set=system.codes_file=codes/codes_3bit.npz
  ris-jax design --out=codes --frequencies=0.9e9:1.1e9:9 --coherence=coherent --num_positions=64

Region or positions: the field of view of the configuration, or --region, in degrees and metres, is
sampled at --num_positions (search). With --at, which may be repeated, the codes are for these
positions only (tracking). The phases are optimised by gradient descent from several starts. A
coordinate descent then quantises them to each number of --bits; it never increases the objective.

Writes into the directory --out: `codes_continuous.npz` and `codes_Nbit.npz` with `codes` [L, N] and
controller `levels` [L, N], 0 to 2^N - 1; `comparison.csv` with the position error bounds of
designed, random, DFT, directional and positional codes at equal transmit power; `before_after` as
.png and .pdf; and state.npz. A region is scored at positions other than those of the design.
After an interruption, the same command resumes.

With --target_m, prints instead the smallest number of codes, with the given antennas, and of
antennas, with the given codes, whose --goal of the position error bound is at most the target; for
random and for designed phases, each code at the same transmit power. Writes `needed.csv`.

--snr_db is here the SNR received with random codes, at each position. The channel is that of
--data, or one draw of the configuration; the codes are for this channel.

With --frequencies, or --data with several frequencies, one set of codes for all frequencies
minimises the bound of all frequencies together.
"""

import pathlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.cli import (
    code_designer,
    frequency_design,
    frequency_flags,
    surface_flags,
    target_search,
)

if TYPE_CHECKING:
    from ris_jax.cli.code_designer import Designer

_GOALS = ("mean", "worst", "quantile")
_RANDOM_DRAWS = 10
_MAP_SIDE = 50  # positions per side of a map in the figure

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "output directory", flag_values=FLAGS)
surface_flags.define(FLAGS)
frequency_flags.define_frequencies(FLAGS)
frequency_flags.define_coherence(FLAGS)
flags.DEFINE_integer(
    "num_codes", None, "number of codes L; default: as configured, or as in --data", lower_bound=1,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_multi_string(
    "at", [], "position azimuth_deg,elevation_deg,range_m; may be repeated", flag_values=FLAGS
)
flags.DEFINE_string(
    "region", None, "azimuth, elevation [deg] and range [m], each from,to; six numbers",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "num_positions", 512, "positions in the region to design for", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_enum("goal", "mean", _GOALS, "of the position error bound", flag_values=FLAGS)
flags.DEFINE_float(
    "quantile", 0.9, "of the position error bound, with --goal=quantile", lower_bound=0.0,
    upper_bound=1.0, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_list("bits", ["1", "2", "3"], "phase bits to quantise to", flag_values=FLAGS)
flags.DEFINE_integer("steps", 300, "steps per descent", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "starts", 2, "descents: from the best known codes, then from random ones", lower_bound=1,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "sweeps", 3, "sweeps of the coordinate descent", lower_bound=1, flag_values=FLAGS
)
target_search.define(FLAGS)


def _bits() -> list[int]:
    try:
        found = [int(text) for text in FLAGS.bits]
    except ValueError as error:
        raise config_lib.ConfigError(f"--bits: need numbers; got {','.join(FLAGS.bits)}") from error
    if not all(1 <= bits <= 8 for bits in found):
        raise config_lib.ConfigError(f"--bits: need 1 to 8; got {','.join(FLAGS.bits)}")
    return sorted(set(found), reverse=True)


def _limits(scene: config_lib.SceneConfig) -> Float[np.ndarray, "3 2"]:
    """Return the region in radians and metres."""
    azimuth, elevation = scene.azimuth_max_deg, scene.elevation_max_deg
    found = [-azimuth, azimuth, -elevation, elevation, scene.range_min, scene.range_max]
    if FLAGS.region:
        try:
            found = [float(text) for text in FLAGS.region.split(",")]
        except ValueError as error:
            raise config_lib.ConfigError(f"--region: need numbers; got {FLAGS.region!r}") from error
        in_order = len(found) == 6 and all(found[i] <= found[i + 1] for i in (0, 2, 4))
        angles = in_order and max(map(abs, found[:4])) < 90
        if not (angles and found[4] > 0 and found[5] < np.inf):
            raise config_lib.ConfigError(
                "--region: need azimuth and elevation within 90 degrees and finite metres above "
                f"zero, each from,to; got {FLAGS.region!r}"
            )
    return np.reshape(found, (3, 2)) * np.array([[np.pi / 180], [np.pi / 180], [1.0]])


def _draw(limits: np.ndarray, count: int, stream: int) -> Float[np.ndarray, "P 3"]:
    generator = np.random.default_rng([FLAGS.seed, stream])
    return limits[:, 0] + generator.random((count, 3)) * np.ptp(limits, axis=1)


def _statistics(found: np.ndarray) -> list[float]:
    """Return mean, median, 90 % quantile and largest; infinity if unidentifiable."""
    if not np.isfinite(found).all():
        ordered = np.sort(found)
        middle, most = (ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.9))
        return [np.inf, float(middle), float(most), np.inf]
    return [float(f) for f in (found.mean(), *np.quantile(found, [0.5, 0.9]), found.max())]


_COLUMNS = ("codes", "mean_m", "median_m", "quantile_90_m", "worst_m")


def _compare(
    designer: "Designer", scored: np.ndarray, named: dict[str, np.ndarray]
) -> tuple[list, dict]:
    """Return rows of the comparison, and errors by name."""
    draws = [
        designer.errors(designer.random_codes(draw, designer.num_codes), scored)
        for draw in range(_RANDOM_DRAWS)
    ]
    middle = np.median([_statistics(found) for found in draws], axis=0).tolist()
    found = {name: designer.errors(codes, scored) for name, codes in named.items()}
    rows = [[f"random, median of {_RANDOM_DRAWS}", *middle]]
    rows += [[name, *_statistics(numbers)] for name, numbers in found.items()]
    rows = [[None if value == np.inf else value for value in row] for row in rows]
    return rows, {"random": draws[0]} | found


def _figure(designer: "Designer", limits: np.ndarray, before, after, found: dict) -> None:
    from ris_jax.reports import bound_figures, bound_tables, provenance

    azimuth, _, source_range = (np.linspace(low, high, _MAP_SIDE) for low, high in limits)
    elevation = float(np.mean(limits[1]))
    grid = np.stack(
        np.meshgrid(source_range, azimuth, [elevation], indexing="ij"), axis=-1
    )[..., 0, [1, 2, 0]]  # fmt: skip
    maps = {
        name: designer.errors(codes, grid.reshape(-1, 3)).reshape(grid.shape[:2])
        for name, codes in (before, after)
    }
    figure = bound_figures.before_and_after(bound_tables.cartesian(grid), maps, found)
    folder = pathlib.Path(FLAGS.out)
    provenance.write_whole(folder / "before_after.png", bound_figures.png(figure))
    provenance.write_whole(folder / "before_after.pdf", bound_figures.pdf(figure))


def _write_codes(folder: pathlib.Path, codes: np.ndarray, bits: int | None) -> None:
    from ris_jax.reports import provenance

    arrays: dict[str, Any] = {"codes": codes.astype(np.complex64)}
    if bits is not None:
        turns = np.angle(codes) / (2 * np.pi) * 2**bits
        arrays |= {"levels": (np.round(turns).astype(int) % 2**bits).astype(np.uint8)}
        arrays |= {"phase_bits": bits}
    name = "codes_continuous.npz" if bits is None else f"codes_{bits}bit.npz"
    provenance.write_whole(folder / name, code_designer.npz(arrays))


COMPILES = "about 10 s, once per system"


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.out:
        raise config_lib.ConfigError("--out: need the output directory, none given")
    if FLAGS.at and FLAGS.region:
        raise config_lib.ConfigError("--at: need this or --region; both given")
    if FLAGS.codes:
        raise config_lib.ConfigError("--codes: need none, `design` makes codes")
    _bits()
    target_search.check(FLAGS)
    _limits(config_lib.SceneConfig())
    for text in FLAGS.at:
        surface_flags.place("at", text)
    where = f"{len(FLAGS.at)} given" if FLAGS.at else f"{FLAGS.num_positions} of a region"
    system = surface_flags.announced(FLAGS) + frequency_design.announced(FLAGS)
    return f"design: {system}; positions: {where}; goal: {FLAGS.goal}"


def _needed(source: surface_flags.SurfaceSource, places: np.ndarray, scored: np.ndarray) -> int:
    """Search for the numbers of codes and antennas that reach the target."""
    from ris_jax.reports import provenance, tables

    size = target_search.sizes(FLAGS, source)
    surface = source.surface("antennas", size.most_antennas)
    code_designer.require_area(np.asarray(surface.positions))
    path = pathlib.Path(FLAGS.out) / "needed.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    designer = code_designer.Designer(FLAGS, surface, source.waves, places, "needed_state.npz")
    designer.load()
    found = target_search.rows(designer, size, scored, FLAGS.target_m)
    provenance.write_whole(path, tables.as_csv(target_search.COLUMNS, found))
    print(tables.as_text(target_search.COLUMNS, found))
    print("\n".join([*target_search.messages(found, size, FLAGS), f"written: {path}"]), flush=True)
    return 0


def run() -> int:
    """Run the command; return the exit status."""
    began, bits = time.monotonic(), _bits()
    several = frequency_design.requested(FLAGS)
    source = frequency_design.source(FLAGS) if several else surface_flags.source(FLAGS)
    limits = _limits(source.config.scene)
    if FLAGS.at:
        places = scored = np.stack([surface_flags.place("at", text) for text in FLAGS.at])
    else:
        places, scored = (_draw(limits, FLAGS.num_positions, stream) for stream in (0, 1))

    from ris_jax.accuracy import code_baselines
    from ris_jax.reports import provenance, tables

    if FLAGS.target_m is not None:
        return _needed(source, places, scored)
    if several:
        designer = frequency_design.designer(FLAGS, source, places)
    else:
        designer = code_designer.Designer(FLAGS, source.surface(), source.waves, places)
    code_designer.require_area(np.asarray(designer.surface.positions))
    folder = pathlib.Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    designer.load()
    named = designer.baselines(source.config.system)
    draws = [designer.random_codes(draw, designer.num_codes) for draw in range(FLAGS.starts)]
    known = min([*named.values(), draws[0]], key=designer.value)
    continuous = designer.descend([known, *draws][: FLAGS.starts])
    if not np.isfinite(designer.errors(continuous, places)).all():
        raise errors.RunError(
            f"{designer.num_codes} codes and {len(designer.channel)} antennas do not determine "
            "every position; need more of either"
        )
    _write_codes(folder, continuous, None)
    named["designed, continuous"] = continuous
    for number in bits:
        codes = designer.quantise(continuous, number)
        _write_codes(folder, codes, number)
        named[f"designed, {number} bits"] = codes
    rows, found = _compare(designer, scored, named)
    constant = source.config.system.source_signal == "constant"
    if len(places) == 1 and constant and not several:
        value = code_baselines.four_beams_bound(
            designer.problem, designer.channel, designer.num_codes
        )
        rows.append(["optimum of any amplitude", value, value, value, value])
    provenance.write_whole(folder / "comparison.csv", tables.as_csv(_COLUMNS, rows))
    print(tables.as_text(_COLUMNS, rows), flush=True)
    if FLAGS.at:
        limits = np.stack([limits[:, 0], np.maximum(limits[:, 1], places.max(axis=0))], axis=-1)
    first = next(iter(named))
    _figure(designer, limits, (first, named[first]), ("designed", continuous), found)
    print(f"written: {folder}, {time.monotonic() - began:.0f} s")
    return 0
