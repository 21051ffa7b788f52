"""Search of `design --target_m`: how many codes or antennas reach a position error bound."""

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags

from ris_jax import config as config_lib

if TYPE_CHECKING:
    from ris_jax.cli import surface_flags
    from ris_jax.cli.code_designer import Designer

COLUMNS = ("needed", "codes_are", "number", "bound_m", "bound_m_with_one_fewer", "most")
_DRAWS = 10  # of random codes
_GROWTH = 4  # largest numbers by default, over those of the configuration
_UNUSED = ("bits", "sweeps")


class Sizes(NamedTuple):
    """Numbers of codes and antennas of the surface, and the largest ones of the search."""

    codes: int
    antennas: int
    most_codes: int
    most_antennas: int


def define(values: flags.FlagValues) -> None:
    """Add the flags of the search."""
    flags.DEFINE_float(
        "target_m", None, "print how many codes, or antennas, have at most this --goal of the "
        "position error bound, in place of a design", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "most_codes", None, f"with --target_m: largest number; default: {_GROWTH} times the codes",
        lower_bound=1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "most_antennas", None, f"with --target_m: largest number; default: {_GROWTH} times the "
        "antennas, or all of --data", lower_bound=1, flag_values=values,
    )  # fmt: skip


def check(values: flags.FlagValues) -> None:
    """Check the flags of the search.

    Raises:
      ConfigError: flags contradict each other, or a value is invalid.
    """
    if values.target_m is None:
        for name in ("most_codes", "most_antennas"):
            if values[name].present:
                raise config_lib.ConfigError(f"--{name}: needs --target_m; none given")
        return
    if not 0 < values.target_m < np.inf:
        raise config_lib.ConfigError(
            f"--target_m: need finite metres above zero; got {values.target_m}"
        )
    for name in _UNUSED:
        if values[name].present:
            raise config_lib.ConfigError(
                f"--{name}: need none with --target_m, which compares continuous phases"
            )


def sizes(values: flags.FlagValues, source: "surface_flags.SurfaceSource") -> Sizes:
    """Return the numbers of the surface and the largest ones.

    Raises:
      ConfigError: a largest number is below that of the surface, or above that of a file.
    """
    system, found = source.config.system, source.recordings
    codes, antennas = values.num_codes or system.num_snapshots, system.num_antennas
    if found is not None:
        _, length, antennas = found.snapshots.shape
        codes = values.num_codes or length
    most_codes = values.most_codes or _GROWTH * codes
    most_antennas = values.most_antennas or antennas * (_GROWTH if found is None else 1)
    for name, most, least in (
        ("most_codes", most_codes, codes), ("most_antennas", most_antennas, antennas)
    ):  # fmt: skip
        if most < least:
            raise config_lib.ConfigError(f"--{name}: need {least} or more; got {most}")
    if found is not None and most_antennas > antennas:
        raise config_lib.ConfigError(
            f"--most_antennas: need at most {antennas}, those of --data; got {most_antennas}"
        )
    return Sizes(codes, antennas, most_codes, most_antennas)


def rows(designer: "Designer", size: Sizes, scored: np.ndarray, target: float) -> list[list]:
    """Search for the smallest numbers; print each tried design.

    Args:
      designer: of the surface with the largest number of antennas.
      size: numbers of the surface and of the search.
      scored: [P, 3] positions at which the bound is computed.
      target: greatest bound [m].

    Returns:
      Rows of `COLUMNS`: codes and antennas, for random and for designed codes. A number is None
      if the largest one does not reach the target; the bound is then that of the largest.
    """
    from ris_jax.accuracy import needed_sizes

    scored_problem = designer.make_problem(scored)
    fixed = needed_sizes.first_antennas(scored_problem, size.antennas)
    by_codes = [
        needed_sizes.objective_by_codes(
            fixed, designer.random_codes(draw, size.most_codes), **designer.options
        )
        for draw in range(_DRAWS)
    ]
    by_antennas = [
        needed_sizes.objective_by_antennas(
            scored_problem, designer.random_codes(draw, size.codes), **designer.options
        )
        for draw in range(_DRAWS)
    ]

    @functools.cache
    def designed(num_codes: int, num_antennas: int) -> float:
        problem = needed_sizes.first_antennas(designer.problem, num_antennas)
        draws = [designer.random_codes(draw, num_codes) for draw in range(designer.flags.starts)]
        name = f"codes {num_codes}, antennas {num_antennas}, descent"
        codes = designer.descend(draws, problem, name)
        return designer.value(codes, needed_sizes.first_antennas(scored_problem, num_antennas))

    found = []
    for name, curves, most, design in (
        ("codes", by_codes, size.most_codes, lambda number: designed(number, size.antennas)),
        ("antennas", by_antennas, size.most_antennas, lambda number: designed(size.codes, number)),
    ):
        curve = np.median(np.asarray(curves), axis=0)
        number = needed_sizes.smallest(lambda count, c=curve: c[count - 1] <= target, most)
        kinds = {
            f"random, median of {_DRAWS}": (lambda count, c=curve: float(c[count - 1]), number),
            "designed": (
                design,
                needed_sizes.smallest(lambda count, d=design: d(count) <= target, most, number),
            ),
        }
        for kind, (bound, answer) in kinds.items():
            fewer = bound(answer - 1) if answer and answer > 1 else None
            found.append([name, kind, answer, bound(answer or most), fewer, most])
    return found


def messages(found: list[list], size: Sizes, values: flags.FlagValues) -> list[str]:
    """Return the conditions of the search, and a line for each target that is not reached."""
    goal = {"mean": "mean", "worst": "largest value", "quantile": f"{values.quantile:g} quantile"}
    lines = [
        f"{goal[values.goal]} of the position error bound at most {values.target_m:g} m; each code "
        f"at the same transmit power; codes: with {size.antennas} antennas; antennas: with "
        f"{size.codes} codes"
    ]
    return lines + [
        f"{name}, {kind}: {values.target_m:g} m not reached with up to {most} ({bound:.4g} m); "
        f"raise --most_{name} or the power"
        for name, kind, number, bound, _, most in found
        if number is None
    ]
