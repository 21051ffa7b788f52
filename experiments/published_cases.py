"""Published cases next to this package and to the bound, in one table.

  python experiments/published_cases.py
  python experiments/published_cases.py --cases=2,3

The cases and their sources: `published_surface.py` (1), `published_lines.py` (2, 3). Columns: our
position RMSE with its standard error, over trials in which a source is found, or, in rows "bound",
the mean bound over draws of the codes; the RMSE of a search that starts at the truth, in double
precision, on the same data; the bound; the RMS error of 1/r over its bound; the fraction of trials
with the right number of sources. "blind": number of sources unknown, up to 5.

Results (30 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2), with
--num_surface=64 and two commands, one for case 1 and one for cases 2 and 3:

   case      set-up  published       ours std. error from truth      bound   1/r  right   trials
------------------------------------------------------------------------------------------------
1 bound         1 m 0.000769 m 0.000769 m  6.3e-06 m                                    10 codes
1 bound         2 m  0.00615 m  0.00621 m  7.4e-05 m                                    10 codes
1 bound         3 m   0.0208 m    0.021 m  0.00018 m                                    10 codes
1 bound         4 m   0.0494 m   0.0497 m   0.0004 m                                    10 codes
1 bound         6 m    0.167 m    0.167 m   0.0015 m                                    10 codes
1 bound         8 m    0.395 m    0.395 m   0.0037 m                                    10 codes
1 bound        10 m     0.77 m     0.77 m   0.0073 m                                    10 codes
1 bound        15 m      2.6 m     2.59 m    0.025 m                                    10 codes
1 blind         1 m 0.000769 m 0.000675 m  7.2e-05 m 0.000674 m 0.000788 m  0.85 100.0%       64
1 blind         2 m  0.00615 m  0.00608 m  0.00054 m  0.00606 m  0.00626 m  0.97 100.0%       64
1 blind         3 m   0.0208 m    0.026 m   0.0018 m    0.026 m   0.0214 m  1.22 100.0%       64
1 blind         4 m   0.0494 m   0.0534 m   0.0049 m   0.0533 m   0.0512 m  1.04 100.0%       64
1 blind         6 m    0.167 m    0.177 m    0.017 m    0.177 m    0.174 m  1.02 100.0%       64
1 blind         8 m    0.395 m    0.443 m    0.047 m    0.443 m    0.414 m  1.05 100.0%       64
1 blind        10 m     0.77 m    0.798 m    0.062 m    0.798 m    0.809 m  0.96 100.0%       64
1 blind        15 m      2.6 m     3.19 m     0.37 m      3.2 m     2.73 m  0.99 100.0%       64
1 blind 1 m, -40 dB              0.0944 m    0.011 m   0.0897 m   0.0788 m  1.09 100.0%       64
1 blind 1 m, -44 dB               0.474 m     0.17 m    0.123 m    0.125 m  1.50 100.0%       64
2 blind        0 dB     4.39 m     2.11 m     0.56 m                2.05 m  1.85   2.5%     1000
2 K = 1        0 dB     4.39 m     4.58 m    0.096 m                2.05 m 12.21 100.0%     1000
2 blind        5 dB     2.59 m     1.01 m    0.075 m                1.15 m  1.25  51.6%     1000
2 K = 1        5 dB     2.59 m     1.71 m      0.1 m                1.15 m  6.76 100.0%     1000
2 blind       10 dB     1.65 m    0.576 m    0.027 m               0.648 m  1.00  99.7%     1000
2 K = 1       10 dB     1.65 m    0.575 m    0.027 m               0.648 m  1.00 100.0%     1000
2 blind       15 dB     1.46 m    0.341 m    0.017 m               0.364 m  1.00  99.9%     1000
2 K = 1       15 dB     1.46 m    0.341 m    0.017 m               0.364 m  1.00 100.0%     1000
2 blind       20 dB      1.4 m      0.2 m    0.011 m               0.205 m  1.00  99.9%     1000
2 K = 1       20 dB      1.4 m      0.2 m    0.011 m               0.205 m  1.00 100.0%     1000
3 blind 9 to 10 deg 85% to 97%     100.0%       0.0%                             100.0%     1000

Case 1: errors are those of the search from the truth, so the bound is attained at all published
ranges within 2.6 standard errors. At 15 m the error of 1/r is at its bound, and that of r is 17 %
above it because r is not linear in 1/r. With less power at 1 m, the threshold lies between -40 and
-44 dB, a total SNR of 23 and 19 dB over the codes: the range of some estimates is then far from
that of the source, at a place where the likelihood is higher than at the source.

Case 2: the bound is attained from 10 dB on, blind; with K = 1 given, the error is about a third of
the published one or less from 10 dB on. At 5 dB the 16 samples have a total SNR of 14 dB, and some
estimates with K = 1 are at another place of the field of view; blind, the source is significant in
half of the trials at the default false-alarm rate of 0.1 %. At 0 dB, 9 dB in total, the estimate is
rarely near the source. A network that returns the mean of likely places then has a smaller error.

Case 3: all trials are right.
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
_LOW_POWERS = (-40.0, -44.0)

HEADER = (
    "case", "set-up", "published", "ours", "std. error", "from truth", "bound", "1/r over bound",
    "number right", "trials",
)  # fmt: skip


def _row(
    case: str, setup: str, published: str, found: surface.Trials, position, inverse, truth: str = ""
) -> tuple:
    """Return the row of a position RMSE.

    Args:
      case: name.
      setup: of the row.
      published: number, as text.
      found: trials.
      position: bound on the position [m].
      inverse: [T] bounds on 1/r [1/m].
      truth: RMSE of a search from the truth, as text.
    """
    known = np.isfinite(found.position_error)
    squares = found.position_error[known] ** 2
    rmse = np.sqrt(squares.mean())
    deviation = squares.std(ddof=1) / (2.0 * rmse * np.sqrt(known.sum()))
    ratio = np.sqrt(np.mean((found.inverse_range_error[known] / inverse[known]) ** 2))
    right = np.mean(found.counts == 1)
    return (
        case, setup, published, f"{rmse:.3g} m", f"{deviation:.2g} m", truth,
        f"{position:.3g} m", f"{ratio:.2f}", f"{right:.1%}", str(len(known)),
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
            f"{own / num_draws**0.5:.2g} m", "", "", "", "", f"{num_draws} codes",
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
    near = surface.maximum_from_truth(_SEED, metres, num_trials, power_db)
    truth = f"{np.sqrt(np.mean(near**2)):.3g} m"
    return _row("1 blind", setup, published, found, bound.position_error[0], inverse, truth)


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
        "3 blind", "9 to 10 deg", f"{low:.0%} to {high:.0%}", f"{right:.1%}",
        f"{deviation:.1%}", "", "", "", f"{right:.1%}", str(num_trials),
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
