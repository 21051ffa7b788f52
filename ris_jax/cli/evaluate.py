"""Held-out covariance scores of a trained network, by number of sources and by SNR.

Example:
  ris-jax evaluate --workdir=runs/quickstart --num_scenes=2000

Beside the network's normalised squared error (NMSE, both matrices at trace N) stand the scores of
the effective covariance (blended and shrunk) with its floor, the truth after the same shrinkage;
of the covariance that the snapshots give by themselves; and of the best constant covariance.
Scenes come from the stream `test`, which no training and no validation draws from. Writes
evaluation.csv, evaluation.tex and figures/covariance_scores.png into the work directory.
"""

import pathlib

import numpy as np
from absl import flags

from ris_jax import config as config_lib

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of a run", flag_values=FLAGS)
flags.DEFINE_integer("num_scenes", 2000, "scenes to score", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_string("estimator", None, "not there yet", flag_values=FLAGS)


def run() -> int:
    """Runs the command; returns the exit status."""
    if FLAGS.estimator:
        raise config_lib.ConfigError("--estimator is not there yet; --workdir is")
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the folder of a run, none given")
    from ris_jax.reports import covariance_scores, figures, tables
    from ris_jax.training import checkpoint, evaluation

    workdir = pathlib.Path(FLAGS.workdir)
    restored, warnings = checkpoint.open_best(workdir)
    config = restored.state.config
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"epoch {restored.epoch} of {workdir}, {FLAGS.num_scenes} scenes of the stream 'test'")
    heldout = evaluation.draw_heldout(config, "test", FLAGS.num_scenes)
    result = evaluation.evaluate(restored.state, heldout)
    scores = result.scores | evaluation.yardsticks(config, heldout)
    truths = [(target.num_sources, target.snr_db) for _, target in heldout.batches]
    num_sources, snr_db = (
        np.concatenate([np.asarray(t) for t in column])[: FLAGS.num_scenes]
        for column in zip(*truths, strict=True)
    )
    rows = covariance_scores.score_rows(scores, num_sources, snr_db, config.scene)
    header = covariance_scores.HEADER
    print(tables.as_text(header, rows))
    print(f"variance of outputs over variance of truth: {result.output_variance_ratio:.3f}")
    (workdir / "evaluation.csv").write_text(tables.as_csv(header, rows))
    (workdir / "evaluation.tex").write_text(tables.as_latex(header, rows))
    path = figures.save_covariance_scores(workdir, rows)
    print(f"written: {workdir / 'evaluation.csv'}, {workdir / 'evaluation.tex'}, {path}")
    return 0
