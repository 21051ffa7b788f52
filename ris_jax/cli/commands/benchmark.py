"""Compare estimators with each other and the Cramér-Rao bound, and measure their speed.

Example:
  ris-jax benchmark --suite=all --num_scenes=200 --out=benchmark
  ris-jax benchmark --suite=two_sources,snr --num_scenes=500 --estimators=network,music --out=few

Suites: overall, num_sources, snr, two_sources (by SNR), range, azimuth, separation (probability of
resolution), rmse_by_num_sources (at 15 dB), heat_map (number of sources by SNR), impairments (next
to errors predicted by the misspecified bound), runtime, throughput (simulator, training step, every
estimator, files to positions; operations, bytes and the machine's peak rates), growth (the same by
number of elements, codes, sources, grid cells and scenes at once), and all.

Writes tables/NAME.csv and .tex, figures/NAME.png and .pdf, and README.md, which shows and explains
them, into --out. --num_scenes is the number of scenes per cell, such as one SNR or one range.
Finished cells are in cells/; after an interruption, the same command resumes. More suites and
estimators can be added later. Other settings need another directory.

`maximum_likelihood` and `network` estimate the number of sources; the other estimators are given
it. --scenes_of=NAME=COUNT runs a slow estimator on the first scenes of a cell only.
"""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags
from ris_jax.estimation.baselines import names

if TYPE_CHECKING:
    from ris_jax.benchmarks.accuracy import BenchmarkPlan, NamedNetwork, Runner
    from ris_jax.benchmarks.store import Store

FLAGS = flags.FlagValues()
flags.DEFINE_string("suite", None, "suites, comma-separated; or all", flag_values=FLAGS)
flags.DEFINE_string("out", "benchmark", "directory for the results", flag_values=FLAGS)
flags.DEFINE_integer("num_scenes", 200, "scenes per cell", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_list(
    "estimators",
    None,
    f"comma-separated; default: all that support the array. {names.listing()}",
    flag_values=FLAGS,
)
flags.DEFINE_multi_string(
    "scenes_of", [], "NAME=COUNT, fewer scenes for an estimator; may be repeated", flag_values=FLAGS
)
flags.DEFINE_float(
    "false_alarm_rate",
    config_lib.DEFAULT_FALSE_ALARM_RATE,
    "of maximum likelihood's test for the number of sources",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", 64, "scenes that an estimator processes at once", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("seed", None, "random seed", flag_values=FLAGS)
common_flags.define_network(FLAGS)
common_flags.define(FLAGS)

# Shipped networks of the estimators that need one.
_SHIPPED = {"network": "default", "subspace_network": "subspace_network"}


def _estimators(system: config_lib.SystemConfig) -> tuple[str, ...]:
    """Return the requested estimators, by default all that support this array, ours first."""
    from ris_jax.estimation.baselines.catalogue import METHODS

    known = tuple(METHODS)
    grid = system.element_positions is None and system.centered
    usable = (name for name in known if grid or not METHODS[name].mirrored)
    wanted = tuple(FLAGS.estimators or usable)
    for name in wanted:
        if name not in known:
            raise config_lib.ConfigError(
                f"--estimators: need some of {', '.join(known)}; got {name!r}"
            )
    return tuple(dict.fromkeys(wanted))


def _networks(estimators: tuple[str, ...], config: config_lib.Config) -> "dict[str, NamedNetwork]":
    """Return the networks that the estimators need: that of the flags, or the shipped ones.

    A network that does not support the array is left out, unless its estimator is requested.

    Raises:
      ConfigError: it is requested.
    """
    from ris_jax.benchmarks.accuracy import NamedNetwork
    from ris_jax.estimation.baselines import catalogue
    from ris_jax.networks import pretrained

    found = {}
    for name in (name for name in estimators if name in _SHIPPED):
        found[name] = NamedNetwork(pretrained.load_pretrained(_SHIPPED[name]), _SHIPPED[name])
    given = common_flags.network(FLAGS)
    if given is not None:
        name = catalogue.of_network(given.config)
        if name in found:
            found[name] = NamedNetwork(given, FLAGS.pretrained or given.card)
    for name in tuple(found):
        reason = found[name].network.refuses(config)
        if reason and FLAGS.estimators:
            raise config_lib.ConfigError(reason)
        if reason:
            del found[name]
    return found


def _fewer(estimators: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Parse --scenes_of."""
    pairs = []
    for text in FLAGS.scenes_of:
        name, _, count = text.partition("=")
        if name not in estimators or not count.isdecimal() or int(count) < 2:
            raise config_lib.ConfigError(
                f"--scenes_of: need NAME=COUNT of one of {', '.join(estimators)} and 2 or more; "
                f"got {text!r}"
            )
        pairs.append((name, int(count)))
    return tuple(pairs)


def _configuration() -> config_lib.Config:
    given = {} if FLAGS.seed is None else {"training.seed": FLAGS.seed}
    return common_flags.configuration(FLAGS, given)


def _plan() -> "BenchmarkPlan":
    """Return the plan that the flags describe."""
    config = _configuration()
    estimators = _estimators(config.system)
    from ris_jax import localization
    from ris_jax.benchmarks import accuracy

    localization.check_options(estimators[0], false_alarm_rate=FLAGS.false_alarm_rate)
    networks = _networks(estimators, config)
    estimators = tuple(name for name in estimators if name in networks or name not in _SHIPPED)
    return accuracy.BenchmarkPlan(
        config=config,
        estimators=estimators,
        num_scenes=FLAGS.num_scenes,
        networks=networks,
        fewer=_fewer(estimators),
        batch_size=FLAGS.batch_size,
        false_alarm_rate=FLAGS.false_alarm_rate,
    )


def _header(plan: "BenchmarkPlan") -> str:
    from ris_jax.reports import provenance

    fewer = "".join(f"; {name}: {count}" for name, count in plan.fewer)
    names_ = ", ".join(dict.fromkeys(network.name for network in plan.networks.values()))
    network = f"; networks: {names_}" if names_ else ""
    return (
        f"{plan.num_scenes} scenes per cell{fewer}, false-alarm rate {plan.false_alarm_rate:g}, "
        f"{plan.batch_size} scenes at once{network}\n{provenance.header(plan.config)}"
    )


def _accuracy(name: str, runner: "Runner", out: pathlib.Path, header: str) -> str:
    """Run one accuracy suite; return its text for the index."""
    from ris_jax.benchmarks import bundle, suites
    from ris_jax.estimation.baselines.catalogue import METHODS

    suite = suites.SUITES[name]
    rows = bundle.rows_of(suite, runner, common_flags.line_beside_progress)
    bundle.write_suite(out, suite, rows, header)
    said = [f"Scenes: {suite.scenes}."]
    if suite.share == "resolved":
        chains = [e for e in runner.plan.estimators if METHODS[e].counts]
        said += [bundle.distance_from_bound(rows, estimator) + "." for estimator in chains]
    if suite.mismatch:
        said.append(bundle.predictions(rows))
    return "\n\n".join(said)


def _speed(name: str, plan: "BenchmarkPlan", where: "Store", header: str) -> str:
    """Run one speed suite; return its text for the index."""
    from ris_jax.benchmarks import bundle, speed_report, throughput
    from ris_jax.reports import tables

    total = sum(1 for _ in throughput.CASES[name](plan))
    with common_flags.progress(total, name, "stage") as progress:
        rows, ceilings = throughput.rows_of(
            name, plan, where, progress, common_flags.line_beside_progress
        )
    rates = (
        f"Machine: {ceilings.operations / 1e9:.3g} Gflop/s in a float32 matrix product, "
        f"{ceilings.bytes_per_second / 1e9:.3g} GB/s read and written in a copy."
    )
    columns, body = speed_report.table(rows)
    csv = tables.as_csv(
        throughput.HEADER, [[row[column] for column in throughput.HEADER] for row in rows]
    )
    comments = [speed_report.READING, rates, *header.splitlines()]
    latex = tables.as_latex(columns, body)
    bundle.write_files(where.folder, name, comments, csv, latex, speed_report.figure(rows))
    return f"{speed_report.READING}\n\n{rates}\n\n{tables.as_markdown(columns, body)}"


COMPILES = "about 20 s for each estimator"


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    from ris_jax.benchmarks import suites

    wanted = suites.chosen(FLAGS.suite or "")
    common_flags.check_network(FLAGS)
    suites.check(wanted, _configuration())
    return f"benchmarking {', '.join(wanted)} into {FLAGS.out}"


def run() -> int:
    """Run the command; return the exit status."""
    from ris_jax.benchmarks import suites

    wanted = suites.chosen(FLAGS.suite or "")
    plan, out = _plan(), pathlib.Path(FLAGS.out)
    from ris_jax.benchmarks import accuracy, bundle, store

    header = _header(plan)
    print(header, flush=True)
    total = sum(
        plan.scenes_of(estimator) * len(suites.SUITES[name].cells(plan.config))
        for name in wanted
        if name in suites.SUITES
        for estimator in plan.estimators
    )
    path = out
    with store.opened(out, plan.settings) as where:
        with common_flags.progress(total, "localising") as progress:
            runner = accuracy.Runner(plan, where, progress)
            for name in (name for name in wanted if name in suites.SUITES):
                said = _accuracy(name, runner, out, header)
                path = bundle.write_index(out, {name: said}, header)
                print(f"\n{name}\n{said}", flush=True)
        for name in (name for name in wanted if name in suites.SPEED):
            said = _speed(name, plan, where, header)
            path = bundle.write_index(out, {name: said}, header)
            print(f"\n{name}\n{said}", flush=True)
    print(f"written: {path}, which lists all results")
    return 0
