"""Conversion of recordings to the input of estimators."""

from typing import Any

import numpy as np

from ris_jax import scenes
from ris_jax.data import recordings as recordings_lib


def measurement(recordings: recordings_lib.Recordings) -> scenes.Measurement:
    """Return the scenes of a file as a batch of measurements, in host memory.

    Returns:
      `Measurement` [B, ...]; the noise variance follows from `snr_db`, and is NaN without it.
    """
    power = np.mean(np.abs(recordings.snapshots) ** 2, axis=(1, 2))
    if recordings.snr_db is None:
        noise_variance = np.full_like(power, np.nan)
    else:
        # Received power is signal plus noise, and their ratio is the SNR.
        noise_variance = power / (1.0 + 10.0 ** (recordings.snr_db / 10.0))
    fields: dict[str, Any] = {  # NumPy arrays, which every estimator accepts
        "snapshots": recordings.snapshots,
        "channel": recordings.channel,
        "codes": recordings.codes,
        "noise_variance": noise_variance.astype(np.float32),
    }
    return scenes.Measurement(**fields)
