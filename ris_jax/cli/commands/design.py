"""Design phase codes that minimise the position error bound over a region or at positions.

Example:
  ris-jax design --out=codes --set=system.num_antennas=2
  ris-jax design --out=codes --at=20,5,4 --bits=1,2
  ris-jax design --out=codes --region=-30,30,-10,10,2,8 --goal=worst --data=recordings.npz
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

--snr_db is here the SNR received with random codes, at each position. The channel is that of
--data, or one draw of the configuration; the codes are for this channel.

With --frequencies, or --data with several frequencies, one set of codes for all frequencies
minimises the bound of all frequencies together.
"""

import hashlib
import io
import json
import pathlib
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.cli import common_flags, frequency_design, frequency_flags, surface_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.code_design import DesignProblem

_GOALS = ("mean", "worst", "quantile")
_RANDOM_DRAWS = 10
_SEGMENT = 50  # steps of a descent between two saved states
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


class _Designer:
    """Optimiser of the codes of one surface; finished parts are kept in the state file."""

    def __init__(
        self,
        source: surface_flags.SurfaceSource,
        places: np.ndarray,
        scored: np.ndarray,
        several: frequency_design.FrequencyDesign | None,
    ):
        self.several = several
        self.surface = source.surface() if several is None else several.middle()
        self.waves, self.places, self.scored = source.waves, places, scored
        self.channel = np.asarray(self.surface.channel[0])
        self.num_codes = FLAGS.num_codes or len(self.surface.codes)
        self.budget = surface_flags.link_budget(FLAGS)
        self.options = {
            "source_signal": self.waves["source_signal"],
            "goal": FLAGS.goal,
            "quantile": FLAGS.quantile,
        }
        self.problem = self.make_problem(places)
        self.path = pathlib.Path(FLAGS.out) / "state.npz"
        self.state: dict[str, np.ndarray] = {}

    def level(self, places: np.ndarray) -> Float[np.ndarray, "P"]:
        """Power of the source over the noise variance; its steering vector has norm 1 far away."""
        from ris_jax.accuracy import link_budget

        if self.several is not None:
            return self.several.level(places, surface_flags.snr_db(FLAGS))
        power = float(np.mean(np.abs(self.channel) ** 2))
        if self.budget is None:
            return np.full(len(places), 10.0 ** (surface_flags.snr_db(FLAGS) / 10.0) / power)
        return link_budget.received_snr(
            self.budget, np.ones((1, len(places))), places[:, 2],
            num_elements=len(self.surface.positions), channel_power=power,
            wavelength=float(self.surface.wavelength),
        )[0]  # fmt: skip

    def make_problem(self, places: np.ndarray) -> "DesignProblem":
        import jax.numpy as jnp

        from ris_jax.accuracy import code_design

        if self.several is not None:
            return self.several.problem(places, self.level(places))
        kind = self.surface.positions.dtype
        return code_design.make_problem(
            self.surface.positions, self.surface.channel[0], self.surface.wavelength,
            jnp.asarray(places, kind), jnp.asarray(self.level(places), kind),
            wavefront=self.waves["wavefront"], response=self.surface.response,
        )  # fmt: skip

    def errors(self, codes: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "P"]:
        """Return the position error bound [m] of `bounds`; infinity if unidentifiable."""
        import jax.numpy as jnp

        from ris_jax.accuracy import bound_maps

        if self.several is not None:
            return self.several.errors(codes, places, self.level(places))
        surface = self.surface._replace(codes=jnp.asarray(codes, self.surface.codes.dtype))
        unit = bound_maps.unit_bounds(surface, places, **self.waves)
        snr = self.level(places) * unit.gain
        return bound_maps.deviations(unit, snr, places).position_error

    def value(self, codes: np.ndarray) -> float:
        from ris_jax.accuracy import code_design

        return float(code_design.value_of(self.problem, codes, **self.options))

    def baselines(self, system: config_lib.SystemConfig) -> dict[str, np.ndarray]:
        """Return codes of the literature, by name."""
        import dataclasses

        from ris_jax.accuracy import code_baselines
        from ris_jax.physics import codebooks

        surface, count = self.surface, self.num_codes
        found: dict[str, np.ndarray] = {}
        if count <= len(surface.positions):
            grid = dataclasses.replace(
                system, num_snapshots=count, codebook="dft2d", codes_file=None, phase_bits=None
            )
            if grid.num_elements != len(surface.positions):  # recordings: any array
                places = tuple(map(tuple, np.asarray(surface.positions).tolist()))
                grid = dataclasses.replace(grid, element_positions=places)
            found["DFT"] = np.asarray(codebooks.codebook(grid))
        wavefronts: dict[str, config_lib.Wavefront] = {
            "directional": "planar", "positional": self.waves["wavefront"]
        }  # fmt: skip
        for name, wavefront in wavefronts.items():
            found[name] = code_baselines.pointed_codes(
                FLAGS.seed, count, surface.positions, self.channel, float(surface.wavelength),
                self.places, wavefront,
            )  # fmt: skip
        if len(self.places) == 1 and count >= 4 and self.several is None:
            found["four beams"] = code_baselines.four_beams(
                self.problem, self.channel, count, self.options["source_signal"]
            )
        return found

    def fingerprint(self) -> str:
        """Return a hash of everything that the result depends on."""
        import jax

        arrays = (*jax.tree.leaves(self.surface), self.places, self.level(self.places))
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
        names = ("steps", "starts", "sweeps", "seed", "num_codes")
        inputs = self.options | self.waves | {name: getattr(FLAGS, name) for name in names}
        inputs |= {} if self.several is None else self.several.inputs()
        return hashlib.sha256(b"".join([*parts, json.dumps(inputs).encode()])).hexdigest()

    def load(self) -> None:
        """Read the state of the same command, if there is one.

        Raises:
          RunError: the directory has the state of another command, or a damaged one.
        """
        if not self.path.exists():
            self.state = {"fingerprint": np.array(self.fingerprint())}
            return
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                self.state = dict(found)
            same = str(self.state["fingerprint"]) == self.fingerprint()
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise errors.RunError(
                f"{self.path}: damaged; remove it; {errors.first_line(error)}"
            ) from error
        if not same:
            raise errors.RunError(
                f"{self.path}: belongs to other flags; need another directory, or remove it"
            )
        print(f"resuming from {self.path}", flush=True)

    def save(self, **arrays: Any) -> None:
        from ris_jax.reports import provenance

        self.state |= {name: np.asarray(array) for name, array in arrays.items()}
        provenance.write_whole(self.path, _npz(self.state))

    def descend(self, starts: list[np.ndarray]) -> Complex[np.ndarray, "L N"]:
        """Return continuous codes: the best found by the descents from all starts."""
        import jax

        from ris_jax.accuracy import code_design

        best_value, best = np.inf, starts[0]
        for number, codes in enumerate(starts):
            descent = code_design.start_descent(codes, FLAGS.steps)
            leaves, structure = jax.tree.flatten(descent)
            names = [f"descent_{number}_{index}" for index in range(len(leaves))]
            if names[0] in self.state:
                descent = jax.tree.unflatten(structure, [self.state[name] for name in names])
            with common_flags.progress(FLAGS.steps, f"descent {number + 1}", "step") as advance:
                advance(int(descent.step))
                while (left := FLAGS.steps - int(descent.step)) > 0:
                    descent = code_design.descend(
                        self.problem, descent, num_steps=FLAGS.steps, steps=min(left, _SEGMENT),
                        **self.options,
                    )  # fmt: skip
                    self.save(**dict(zip(names, jax.tree.leaves(descent), strict=True)))
                    advance(min(left, _SEGMENT))
            for found in (np.exp(1j * np.asarray(descent.best_phases)), codes):
                found = found.astype(np.complex64)
                if (value := self.value(found)) < best_value:
                    best_value, best = value, found
            print(f"descent {number + 1}: {best_value:.4g} m so far", flush=True)
        return best

    def quantise(self, codes: np.ndarray, bits: int) -> Complex[np.ndarray, "L N"]:
        """Return codes of `bits` bits: rounded, then improved phase by phase."""
        import jax.numpy as jnp

        from ris_jax.accuracy import code_design
        from ris_jax.physics import codebooks

        name = f"codes_{bits}bit"
        if name in self.state:
            return self.state[name]
        rounded = found = np.asarray(codebooks.quantize_phase(jnp.asarray(codes), bits)).astype(
            np.complex64
        )
        every = np.indices(found.shape).reshape(2, -1).T
        generator = np.random.default_rng([FLAGS.seed, bits])
        with common_flags.progress(FLAGS.sweeps, f"{bits} bits", "sweep") as advance:
            for _ in range(FLAGS.sweeps):
                order = generator.permutation(every)
                found = code_design.improve_quantised(
                    self.problem, found, order, bits=bits, **self.options
                )
                advance(1)
        before, after = self.value(rounded), self.value(found)
        print(f"{bits} bits: {before:.4g} m rounded, {after:.4g} m improved", flush=True)
        self.save(**{name: found})
        return found


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _statistics(found: np.ndarray) -> list[float]:
    """Return mean, median, 90 % quantile and largest; infinity if unidentifiable."""
    if not np.isfinite(found).all():
        ordered = np.sort(found)
        middle, most = (ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.9))
        return [np.inf, float(middle), float(most), np.inf]
    return [float(f) for f in (found.mean(), *np.quantile(found, [0.5, 0.9]), found.max())]


_COLUMNS = ("codes", "mean_m", "median_m", "quantile_90_m", "worst_m")


def _compare(designer: _Designer, named: dict[str, np.ndarray]) -> tuple[list, dict]:
    """Return rows of the comparison, and errors by name."""
    from ris_jax.accuracy import code_baselines

    elements = len(designer.surface.positions)
    draws = [
        designer.errors(
            code_baselines.random_codes(FLAGS.seed + draw, designer.num_codes, elements),
            designer.scored,
        )
        for draw in range(_RANDOM_DRAWS)
    ]
    middle = np.median([_statistics(found) for found in draws], axis=0).tolist()
    found = {name: designer.errors(codes, designer.scored) for name, codes in named.items()}
    rows = [[f"random, median of {_RANDOM_DRAWS}", *middle]]
    rows += [[name, *_statistics(numbers)] for name, numbers in found.items()]
    rows = [[None if value == np.inf else value for value in row] for row in rows]
    return rows, {"random": draws[0]} | found


def _figure(designer: _Designer, limits: np.ndarray, before, after, found: dict) -> None:
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
    provenance.write_whole(folder / name, _npz(arrays))


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
    _limits(config_lib.SceneConfig())
    for text in FLAGS.at:
        surface_flags.place("at", text)
    where = f"{len(FLAGS.at)} given" if FLAGS.at else f"{FLAGS.num_positions} of a region"
    system = surface_flags.announced(FLAGS) + frequency_design.announced(FLAGS)
    return f"design: {system}; positions: {where}; goal: {FLAGS.goal}"


def run() -> int:
    """Run the command; return the exit status."""
    began, bits = time.monotonic(), _bits()
    if frequency_design.requested(FLAGS):
        source, several = frequency_design.from_flags(FLAGS)
    else:
        source, several = surface_flags.source(FLAGS), None
    limits = _limits(source.config.scene)
    if FLAGS.at:
        places = scored = np.stack([surface_flags.place("at", text) for text in FLAGS.at])
    else:
        places, scored = (_draw(limits, FLAGS.num_positions, stream) for stream in (0, 1))

    from ris_jax.accuracy import code_baselines
    from ris_jax.estimation.checks import limits as limits_lib
    from ris_jax.reports import provenance, tables

    designer = _Designer(source, places, scored, several)
    line = limits_lib.undetermined_coordinate(np.asarray(designer.surface.positions))
    if line is not None:
        raise errors.RunError(
            f"elements: expected a surface; found a line, which does not determine the "
            f"{('azimuth', 'elevation')[line]}; no codes make the position error finite"
        )
    folder = pathlib.Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    designer.load()
    named = designer.baselines(source.config.system)
    elements = len(designer.surface.positions)
    draws = [
        code_baselines.random_codes(FLAGS.seed + draw, designer.num_codes, elements)
        for draw in range(FLAGS.starts)
    ]
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
    rows, found = _compare(designer, named)
    constant = source.config.system.source_signal == "constant"
    if len(places) == 1 and constant and several is None:
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
