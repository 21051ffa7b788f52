"""Published cases next to this package and to the bound, in one table.

  python experiments/published_cases.py
  python experiments/published_cases.py --cases=2,3

The cases and their sources: `published_surface.py` (1), `published_lines.py` (2, 3).

"""

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import numpy as np
import published_lines as lines
import published_surface as surface
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax.reports import provenance, tables

_CASES = flags.DEFINE_list("cases", ["1", "2", "3"], "cases to run")
_DRAWS = flags.DEFINE_integer("num_draws", 10, "draws of the codes of case 1", lower_bound=2)
_FAR = flags.DEFINE_integer("num_surface", 100, "trials per range of case 1", lower_bound=2)
_TRIALS = flags.DEFINE_integer("num_lines", 1000, "trials per row of cases 2 and 3", lower_bound=2)
_SEED = 1
# Transmit power of case 1 over that of the paper [dB], at 1 m, where the threshold is.
_LOW_POWERS = (-40.0, -44.0, -48.0, -52.0)

HEADER = (
    "case", "set-up", "published", "ours", "std. error", "bound", "1/r over bound",
    "number right", "trials",
)  # fmt: skip


def _row(case: str, setup: str, published: str, found: surface.Trials, position, inverse) -> tuple:
    """Return the row of a position RMSE.

    Args:
      case: name.
      setup: of the row.
      published: number, as text.
      found: trials.
      position: bound on the position [m].
      inverse: [T] bounds on 1/r [1/m].
    """
    known = np.isfinite(found.position_error)
    squares = found.position_error[known] ** 2
    rmse = np.sqrt(squares.mean())
    deviation = squares.std(ddof=1) / (2.0 * rmse * np.sqrt(known.sum()))
    ratio = np.sqrt(np.mean((found.inverse_range_error[known] / inverse[known]) ** 2))
    right = np.mean(found.counts == 1)
    return (
        case, setup, published, f"{rmse:.3g} m", f"{deviation:.2g} m", f"{position:.3g} m",
        f"{ratio:.2f}", f"{right:.1%}", str(len(known)),
    )  # fmt: skip


def bound_rows(num_draws: int) -> list[tuple]:
    """Compare the bound of case 1 with the published one."""
    ranges = np.array(list(surface.PUBLISHED))
    jax.config.update("jax_enable_x64", True)
    drawn = [surface.bounds(seed, ranges).position_error for seed in range(1, 1 + num_draws)]
    jax.config.update("jax_enable_x64", False)
    mean, spread = np.mean(drawn, axis=0), np.std(drawn, axis=0, ddof=1)
    return [
        (
            "1 bound", f"{metres:g} m", f"{published:.3g} m", f"{ours:.3g} m",
            f"{own / num_draws**0.5:.2g} m", "", "", "", f"{num_draws} codes",
        )
        for (metres, published), ours, own in zip(
            surface.PUBLISHED.items(), mean, spread, strict=True
        )
    ]  # fmt: skip


def surface_row(metres: float, power_db: float, num_trials: int) -> tuple:
    """Localise the source of case 1."""
    found = surface.localised(_SEED, metres, num_trials, power_db)
    bound = surface.bounds(_SEED, np.array([metres]), power_db)
    published = f"{surface.PUBLISHED[metres]:.3g} m" if power_db == 0 else ""
    setup = f"{metres:g} m" + (f", {power_db:g} dB" if power_db else "")
    inverse = np.full(num_trials, bound.parameters[0, 2] / metres**2)
    return _row("1 blind", setup, published, found, bound.position_error[0], inverse)


def one_shot_rows(snr_db: float, num_trials: int) -> list[tuple]:
    """Localise the source of case 2, with an unknown and with a known number of sources."""
    data = lines.one_shot(_SEED, snr_db, num_trials)
    metres = data.places[:, 2]
    azimuth, along = lines.deviations(data).T
    position = np.sqrt(np.mean((metres * azimuth) ** 2 + along**2))
    return [
        _row(
            f"2 {name}", f"{snr_db:g} dB", f"{lines.PUBLISHED[snr_db]:.3g} m",
            lines.localised(data, count), position, along / metres**2,
        )
        for name, count in (("blind", None), ("K = 1", 1))
    ]  # fmt: skip


def counting_row(num_trials: int) -> tuple:
    """Count the sources of case 3."""
    right = np.mean(lines.counted(_SEED, num_trials) == 2)
    deviation = np.sqrt(right * (1.0 - right) / num_trials)
    low, high = lines.ACCURACY
    return (
        "3 blind", "10 dB, 9 to 10 degrees", f"{low:.0%} to {high:.0%}", f"{right:.1%}",
        f"{deviation:.1%}", "", "", f"{right:.1%}", str(num_trials),
    )  # fmt: skip


def rows(cases: list[str]):
    """Yield the rows of the table, case by case."""
    if "1" in cases:
        yield from bound_rows(_DRAWS.value)
        for metres in surface.PUBLISHED:
            yield surface_row(metres, 0.0, _FAR.value)
        for power_db in _LOW_POWERS:
            yield surface_row(1.0, power_db, _FAR.value)
    if "2" in cases:
        for snr_db in lines.PUBLISHED:
            yield from one_shot_rows(snr_db, _TRIALS.value)
    if "3" in cases:
        yield counting_row(_TRIALS.value)


def main(_):
    """Print the table; each row is also printed as soon as it is known."""
    unknown = sorted(set(_CASES.value) - {"1", "2", "3"})
    if unknown:
        raise app.UsageError(f"--cases: need some of 1, 2, 3; got {', '.join(unknown)}")
    print(provenance.header(config_lib.Config()), flush=True)
    found = []
    for row in rows(_CASES.value):
        print(" | ".join(row), flush=True)
        found.append(row)
    print("\n" + tables.as_text(HEADER, found))


if __name__ == "__main__":
    app.run(main)
