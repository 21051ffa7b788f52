"""Score positions of an estimator against the bound, or covariances of a network.

Example:
  ris-jax evaluate --estimator=maximum_likelihood --num_scenes=200
  ris-jax evaluate --workdir=runs/quickstart --num_scenes=2000
  ris-jax evaluate --pretrained=default --estimator=network
  ris-jax evaluate --pretrained=default --data=records
  ris-jax evaluate --estimator=maximum_likelihood --frequencies=0.9e9:1.1e9:9 --coherence=coherent

With --estimator, simulated scenes of --preset and --set are localised, or those of --data: the
split `test` of a directory of records, or recordings with truth. Prints median errors next to the
Cramér-Rao bound, and the fraction of scenes with the correct number of sources, by number of
sources. --full prints all tables, which are also written: detection rate, false estimates, number
of sources, GOSPA, and the errors of azimuth, elevation and range, by number of sources, SNR, range
and smallest separation. Writes evaluation_NAME.csv, evaluation_NAME.tex and figures/ into --out.
The signals of stored scenes are unknown, so the columns of the bound are then empty.

With only --workdir or --pretrained, the network's covariance is scored by its normalised squared
error (NMSE, both matrices at trace N), next to four baselines: the effective covariance (blended
and shrunk) with its floor; the truth after the same shrinkage; the covariance of the snapshots
alone; and the best constant covariance. The number of sources is scored as well. For a subspace
network, whose covariance is a surrogate, projectors on the signal subspaces are compared instead.
Writes evaluation.csv, evaluation.tex and figures/covariance_scores.png into --workdir, or into
--out. With both a network and --estimator, the estimator uses the network.

With --static_path=on, or scenes with scene.static_path_db, the bound has the static path as a
further unknown.

With --frequencies, or recordings at several frequencies in --data, maximum likelihood over all
frequencies is scored, and the delay of coherent sources as well. Networks are narrowband.

Simulated scenes come from the stream `test`, which neither training nor validation uses. With
--data, a network is scored on the array of the data; recordings also need snr_db.
"""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags, evaluation_scenes, frequency_evaluation, frequency_flags

if TYPE_CHECKING:
    from ris_jax.accuracy import metrics
    from ris_jax.estimation.estimate import Estimate
    from ris_jax.networks.pretrained import Network
    from ris_jax.reports.localization_scores import LocalizationScores

FLAGS = flags.FlagValues()
common_flags.define_network(FLAGS)
common_flags.define_estimator(FLAGS, None, "auto")
flags.DEFINE_integer(
    "num_scenes",
    None,
    "scenes to score; default: 2000 for a network, 500 for an estimator, all of --data",
    lower_bound=2,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "data", None, "a directory of records, or recordings with truth", flag_values=FLAGS
)
common_flags.define_skip_damaged(FLAGS)
flags.DEFINE_string("out", "evaluation", "directory for results without a run", flag_values=FLAGS)
flags.DEFINE_boolean(
    "known_num_sources", False, "give the number of sources to the estimator", flag_values=FLAGS
)
flags.DEFINE_float(
    "false_alarm_rate",
    config_lib.DEFAULT_FALSE_ALARM_RATE,
    "of the estimator's test for the number of sources",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", 64, "scenes that an estimator processes at once; default for a network alone: "
    "its training batch size", lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
common_flags.define_static_path(FLAGS)
frequency_flags.define_frequencies(FLAGS)
frequency_flags.define_coherence(FLAGS)
flags.DEFINE_integer("seed", None, "random seed", flag_values=FLAGS)
flags.DEFINE_boolean(
    "full", False, "print all rows and columns, not only a summary by number of sources",
    flag_values=FLAGS,
)  # fmt: skip
common_flags.define(FLAGS)

_NETWORK_SCENES = 2000
_ESTIMATOR_SCENES = 500
# Flags that do not apply to a network, whose run has its own configuration.
_ESTIMATOR_FLAGS = (
    "known_num_sources", "false_alarm_rate", "static_path", "seed", "preset", "set", "full"
)  # fmt: skip


COMPILES = "about 20 s, once per array"


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not (FLAGS.workdir or FLAGS.pretrained or FLAGS.estimator):
        raise config_lib.ConfigError(
            "--workdir: need the directory of a run, a --pretrained network or an --estimator; "
            "none given"
        )
    common_flags.require_data(FLAGS)
    for flag in () if FLAGS.estimator else _ESTIMATOR_FLAGS:
        if FLAGS[flag].present:
            raise config_lib.ConfigError(f"--{flag}: goes with --estimator; none given")
    several = frequency_evaluation.check(FLAGS)
    common_flags.check_network(FLAGS)
    what = FLAGS.estimator or FLAGS.workdir or FLAGS.pretrained
    return f"evaluating {what} on scenes {_source()}{several}"


def run() -> int:
    """Run the command; return the exit status."""
    several = frequency_evaluation.requested(FLAGS)
    return _evaluate_estimator(several) if FLAGS.estimator else _evaluate_network()


def _evaluate_network() -> int:
    network = common_flags.network(FLAGS)
    assert network is not None
    from ris_jax.networks import architectures
    from ris_jax.reports import provenance, tables
    from ris_jax.reports.run import covariance_scores, training_curves
    from ris_jax.training import state as state_lib

    out, config = pathlib.Path(FLAGS.workdir or FLAGS.out), network.config
    if FLAGS["batch_size"].present:
        config = config_lib.override(config, {"training.batch_size": FLAGS.batch_size})
    FLAGS.batch_size = config.training.batch_size  # for the message if memory runs out
    config, heldout, constant = _network_case(config)
    if reason := network.refuses(config):
        raise config_lib.ConfigError(reason)
    num_scenes = heldout.num_scenes
    print(f"{FLAGS.workdir or FLAGS.pretrained}, {num_scenes} scenes {_source()}")
    print(provenance.header(config))
    state = state_lib.create_train_state(config).replace(ema_params=network.params)
    result, rows, error = covariance_scores.score(state, heldout, constant)
    header = covariance_scores.HEADER
    print(f"NMSE of {architectures.of(config).scored} at trace N")
    print(tables.as_text(header, rows))
    print(f"expected calibration error of the number of sources: {error:.3f}")
    print(f"variance of outputs over variance of truth: {result.output_variance_ratio:.3f}")
    out.mkdir(parents=True, exist_ok=True)
    provenance.write_whole(out / "evaluation.csv", tables.as_csv(header, rows))
    provenance.write_whole(out / "evaluation.tex", tables.as_latex(header, rows))
    path = training_curves.save_covariance_scores(out, rows)
    print(f"written: {out / 'evaluation.csv'}, {out / 'evaluation.tex'}, {path}")
    return 0


def _network_case(config: config_lib.Config) -> evaluation_scenes.NetworkCase:
    if not FLAGS.data:
        return evaluation_scenes.simulated_for_network(config, FLAGS.num_scenes or _NETWORK_SCENES)
    if evaluation_scenes.is_records(FLAGS.data):
        return evaluation_scenes.stored_for_network(
            config, common_flags.dataset(FLAGS), FLAGS.num_scenes
        )
    return evaluation_scenes.recorded_for_network(config, FLAGS.data, FLAGS.num_scenes)


def _estimator_case(several: bool) -> tuple[config_lib.Config, evaluation_scenes.EvaluationScenes]:
    """Return the scenes to localise, and their configuration."""
    given = {} if FLAGS.seed is None else {"training.seed": FLAGS.seed}
    if several:
        config = common_flags.configuration(FLAGS, given)
        return config, frequency_evaluation.scenes(
            FLAGS, config, FLAGS.num_scenes or _ESTIMATOR_SCENES
        )
    if FLAGS.data and evaluation_scenes.is_records(FLAGS.data):
        dataset = common_flags.dataset(FLAGS)
        config = common_flags.configuration(FLAGS, given, common_flags.fields_of(dataset))
        return config, evaluation_scenes.stored(config, dataset, FLAGS.num_scenes)
    config = common_flags.configuration(FLAGS, given)
    removed = FLAGS.static_path == "on"
    if FLAGS.data:
        found = evaluation_scenes.recorded(
            config, FLAGS.data, FLAGS.num_scenes, static_path=removed
        )
        return config, found
    num_scenes = FLAGS.num_scenes or _ESTIMATOR_SCENES
    return config, evaluation_scenes.simulated(
        config, num_scenes, FLAGS.batch_size, static_path=removed
    )


def _localize(
    case: evaluation_scenes.EvaluationScenes, several: bool, network: "Network | None"
) -> "Estimate":
    from ris_jax import localization, wideband_localization

    with common_flags.progress(len(case.measurement.snapshots), "localising") as progress:
        options: dict[str, Any] = case.options | {
            "num_sources": np.asarray(case.truth.num_sources) if FLAGS.known_num_sources else None,
            "false_alarm_rate": FLAGS.false_alarm_rate,
            "chunk_size": FLAGS.batch_size,
            "progress": progress,
        }
        if several:
            return wideband_localization.localize_wideband_in_chunks(
                case.measurement, case.positions, **options
            )
        return localization.localize_in_chunks(
            case.measurement, case.positions, estimator=FLAGS.estimator, network=network,
            static_path=FLAGS.static_path, **options,
        )  # fmt: skip


def _evaluate_estimator(several: bool) -> int:
    from ris_jax import localization
    from ris_jax.estimation import flags as flags_lib
    from ris_jax.reports import localization_scores, provenance, source_table

    out = pathlib.Path(FLAGS.out)
    localization.check_options(FLAGS.estimator, false_alarm_rate=FLAGS.false_alarm_rate)
    network = common_flags.network(FLAGS)
    config, case = _estimator_case(several)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    header = _header(config, len(case.measurement.snapshots))
    if several:
        header = f"{frequency_evaluation.described(case)}\n{header}"
    print(header)
    estimate = _localize(case, several, network)
    for line in flags_lib.summary(estimate.flags, flags_lib.Flag.NETWORK_NOT_USED):
        print(f"note: {line}")
    for line in source_table.static_path_summary(estimate):
        print(f"note: {line}")
    scores = localization_scores.score(
        estimate, case.truth, snr_db=case.snr_db, bound_covariance=case.bound,
        delay=case.delay, delay_variance=case.delay_bound,
    )  # fmt: skip
    rows = localization_scores.score_rows(scores, case.snr_limits_db)
    print(localization_scores.as_text(rows) if FLAGS.full else localization_scores.summary(rows))
    if case.bound is None:
        print("no bound: the signals of recordings and of records are unknown")
    name = f"evaluation_{FLAGS.estimator}"
    comments = "".join(f"% {line}\n" for line in header.splitlines())
    provenance.write_whole(out / f"{name}.csv", localization_scores.as_csv(rows))
    provenance.write_whole(out / f"{name}.tex", comments + localization_scores.as_latex(rows))
    paths = _write_figures(out / "figures", estimate, case.truth, scores, rows)
    print(f"written: {out / name}.csv and .tex, {len(paths)} figures in {out / 'figures'}")
    return 0


def _source() -> str:
    return f"of {FLAGS.data}" if FLAGS.data else f"of the stream {evaluation_scenes.TEST!r}"


def _header(config: config_lib.Config, total: int) -> str:
    from ris_jax.reports import provenance

    source = _source()
    count = (
        "known" if FLAGS.known_num_sources else f"at false-alarm rate {FLAGS.false_alarm_rate:g}"
    )
    by = FLAGS.pretrained or FLAGS.workdir
    name = f"{FLAGS.estimator} with {by}" if by else FLAGS.estimator
    return (
        f"{name}, {total} scenes {source}, number of sources {count}\n{provenance.header(config)}"
    )


def _write_figures(
    folder: pathlib.Path,
    estimate: "Estimate",
    truth: "metrics.SourcesLike",
    scores: "LocalizationScores",
    rows: list[dict[str, Any]],
) -> list[pathlib.Path]:
    """Draw all figures of an estimator; return their paths."""
    from ris_jax.accuracy import counts
    from ris_jax.reports import localization_figures, provenance

    most = max(estimate.azimuth.shape[1], scores.truth.azimuth.shape[1])
    num_true = scores.truth.num_sources
    matrix = counts.confusion_matrix(num_true, scores.num_estimated, most)
    shown = int(np.argmax(num_true >= min(2, num_true.max())))
    title = f"scene {shown}: {num_true[shown]} sources, {scores.num_estimated[shown]} found"
    drawn = {
        "count_confusion": localization_figures.count_confusion(matrix),
        "error_distribution": localization_figures.error_distribution(scores),
        "scene_map": localization_figures.scene_map(estimate, shown, truth, title),
    }
    if any(row["kind"] == "snr" for row in rows):
        drawn["error_by_snr"] = localization_figures.error_by_snr(rows)
    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{FLAGS.estimator}_{name}.png")
        provenance.write_whole(paths[-1], localization_figures.png(figure))
    return paths
