"""Held-out covariance scores by number of sources and SNR, beside the yardsticks."""

import itertools

import numpy as np

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
    scores: dict[str, np.ndarray], num_sources: np.ndarray, snr_db: np.ndarray
) -> list[tuple]:
    """Rows of `HEADER`: all scenes, each number of sources, each of five bins of SNR.

    Args:
      scores: [B] each, from `training.evaluation`: the network's and the yardsticks'.
      num_sources: [B] int.
      snr_db: [B].
    """
    rows = [_row("all", scores, np.ones(len(snr_db), bool))]
    rows += [_row(f"K = {k}", scores, num_sources == k) for k in np.unique(num_sources)]
    edges = np.linspace(snr_db.min(), snr_db.max() + 1e-6, _SNR_BINS + 1)
    for low, high in itertools.pairwise(edges):
        chosen = (snr_db >= low) & (snr_db < high)
        if chosen.any():
            rows.append(_row(f"{low:.0f} to {high:.0f} dB", scores, chosen))
    return rows
