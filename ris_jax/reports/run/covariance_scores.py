"""Held-out covariance scores by number of sources and SNR, next to baselines."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex

from ris_jax import config as config_lib
from ris_jax.accuracy import statistics
from ris_jax.training import evaluation
from ris_jax.training import state as state_lib
from ris_jax.training.processes import devices

HEADER = (
    "scenes of",
    "scenes",
    "network",
    "std. error",
    "effective",
    "shrunk truth",
    "snapshots",
    "constant",
    "count right",
)
_SNR_BINS = 5


def _row(label: str, scores: dict[str, np.ndarray], chosen: np.ndarray) -> tuple:
    values = {name: score[chosen].astype(np.float64) for name, score in scores.items()}
    count = int(chosen.sum())
    return (
        label,
        count,
        float(values["nmse"].mean()),
        float(values["nmse"].std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
        float(values["effective_nmse"].mean()),
        float(values["shrunk_truth_nmse"].mean()),
        float(values["snapshots_nmse"].mean()),
        float(values["constant_nmse"].mean()),
        float(values["count_correct"].mean()),
    )


def score_rows(
    scores: dict[str, np.ndarray],
    num_sources: np.ndarray,
    snr_db: np.ndarray,
    scene: config_lib.SceneConfig,
) -> list[tuple]:
    """Return rows of `HEADER`: all scenes, each number of sources, each of five bins of SNR.

    Args:
      scores: [B] each, from `training.evaluation`: the network's and the baselines'.
      num_sources: [B] int.
      snr_db: [B].
      scene: its SNR limits are the ends of the bins.
    """
    rows = [_row("all", scores, np.ones(len(snr_db), bool))]
    rows += [_row(f"K = {k}", scores, num_sources == k) for k in np.unique(num_sources)]
    edges = np.linspace(scene.snr_min_db, scene.snr_max_db, _SNR_BINS + 1)
    bins = np.clip(np.searchsorted(edges, snr_db, side="right") - 1, 0, _SNR_BINS - 1)
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        if (bins == number).any():
            rows.append(_row(f"{low:g} to {high:g} dB", scores, bins == number))
    return rows


class Scored(NamedTuple):
    """Scores of a network on held-out scenes."""

    result: evaluation.Evaluation
    rows: list[tuple]  # of `HEADER`
    calibration_error: float  # expected, of the number of sources


def score(
    state: state_lib.TrainState,
    heldout: evaluation.Heldout,
    constant: Complex[np.ndarray, "N N"] | None = None,
) -> Scored:
    """Score a state's averaged parameters and the baselines.

    Args:
      state: of the run; every process of the run must call this function.
      heldout: scenes to score.
      constant: as for `evaluation.yardsticks`.
    """
    result = evaluation.evaluate(state, heldout)
    scores = result.scores | evaluation.yardsticks(state.config, heldout, constant)
    truths = devices.to_host([(t.num_sources, t.snr_db) for _, t in heldout.batches])
    num_sources, snr_db = (
        np.concatenate(column)[: heldout.num_scenes] for column in zip(*truths, strict=True)
    )
    return Scored(
        result,
        score_rows(scores, num_sources, snr_db, state.config.scene),
        statistics.expected_calibration_error(
            scores["count_confidence"], scores["count_correct"] > 0
        ),
    )
