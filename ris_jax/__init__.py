"""Near-field localisation of radio sources through a reconfigurable intelligent surface.

Pure functions that take and return arrays; see README for an example.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ris_jax._environment import configure_environment

__version__ = "0.1.0"

configure_environment()

# Module of each public name; loaded on first use, so that `ris-jax --help` needs no JAX.
_EXPORTS = {
    "Config": "config",
    "CovarianceConfig": "config",
    "ImpairmentConfig": "config",
    "LossConfig": "config",
    "ModelConfig": "config",
    "OptimizerConfig": "config",
    "SceneConfig": "config",
    "SystemConfig": "config",
    "TrainingConfig": "config",
    "preset": "presets",
    "enable_compilation_cache": "compilation_cache",
    "planar_array": "physics.arrays",
    "steering_vector": "physics.arrays",
    "codebook": "physics.codebooks",
    "rician_channel": "physics.channel",
    "Measurement": "physics.scenes",
    "Scene": "physics.scenes",
    "Truth": "physics.scenes",
    "sample_scenes": "physics.scenes",
    "simulate": "physics.scenes",
    "stream_key": "physics.scenes",
    "remove_static_path": "physics.static_path",
    "aperture_field": "physics.measurement",
    "effective_covariance": "physics.covariance",
    "LowRankCovariance": "physics.covariance",
    "ElementResponse": "physics.element_response",
    "cramer_rao_bound": "accuracy.bounds",
    "position_error_bound": "accuracy.bounds",
    "Bound": "accuracy.bounds",
    "gospa": "accuracy.metrics",
    "GospaScores": "accuracy.metrics",
    "SurfaceCalibration": "data.recordings.surface_calibration",
    "load_calibration": "data.recordings.surface_calibration",
    "Dataset": "data.records.record_dataset",
    "Estimate": "estimation.estimate",
    "maximum_likelihood": "estimation.maximum_likelihood",
    "music": "estimation.baselines.subspace",
    "mvdr": "estimation.baselines.subspace",
    "modified_music": "estimation.baselines.decoupled_music",
    "reduced_dimension_music": "estimation.baselines.decoupled_music",
    "orthogonal_matching_pursuit": "estimation.baselines.orthogonal_matching_pursuit",
    "sparse_bayesian_learning": "estimation.baselines.sparse_bayesian",
    "PowerIterations": "estimation.baselines.sparse_bayesian",
    "akaike": "estimation.baselines.information_criteria",
    "minimum_description_length": "estimation.baselines.information_criteria",
    "GridLayout": "estimation.baselines.symmetric_arrays",
    "Limits": "estimation.checks.limits",
    "SearchOptions": "estimation.matching_pursuit",
    "SearchRegion": "estimation.search_grid",
    "Flag": "estimation.flags",
    "localize": "localization",
    "localize_wideband": "wideband_localization",
    "PreparedLocalizer": "serving.prepared",
    "export_localizer": "serving.exported",
    "load_pretrained": "networks.pretrained",
    "Network": "networks.pretrained",
    "Prediction": "networks.losses",
    "Target": "networks.losses",
    "load_run": "training.saving.checkpoint",
    "create_train_state": "training.state",
    "predict": "training.state",
    "TrainState": "training.state",
    "train_step": "training.step",
    "eval_step": "training.step",
    "Evaluated": "training.step",
    "train": "training.loop",
    "Callbacks": "training.callbacks",
    "DevicePlacement": "training.processes.devices",
}

if TYPE_CHECKING:
    from ris_jax.accuracy.bounds import Bound, cramer_rao_bound, position_error_bound
    from ris_jax.accuracy.metrics import GospaScores, gospa
    from ris_jax.compilation_cache import enable_compilation_cache
    from ris_jax.config import (
        Config,
        CovarianceConfig,
        ImpairmentConfig,
        LossConfig,
        ModelConfig,
        OptimizerConfig,
        SceneConfig,
        SystemConfig,
        TrainingConfig,
    )
    from ris_jax.data.recordings.surface_calibration import SurfaceCalibration, load_calibration
    from ris_jax.data.records.record_dataset import Dataset
    from ris_jax.estimation.baselines.decoupled_music import modified_music, reduced_dimension_music
    from ris_jax.estimation.baselines.information_criteria import akaike, minimum_description_length
    from ris_jax.estimation.baselines.orthogonal_matching_pursuit import orthogonal_matching_pursuit
    from ris_jax.estimation.baselines.sparse_bayesian import (
        PowerIterations,
        sparse_bayesian_learning,
    )
    from ris_jax.estimation.baselines.subspace import music, mvdr
    from ris_jax.estimation.baselines.symmetric_arrays import GridLayout
    from ris_jax.estimation.checks.limits import Limits
    from ris_jax.estimation.estimate import Estimate
    from ris_jax.estimation.flags import Flag
    from ris_jax.estimation.matching_pursuit import SearchOptions
    from ris_jax.estimation.maximum_likelihood import maximum_likelihood
    from ris_jax.estimation.search_grid import SearchRegion
    from ris_jax.localization import localize
    from ris_jax.networks.losses import Prediction, Target
    from ris_jax.networks.pretrained import Network, load_pretrained
    from ris_jax.physics.arrays import planar_array, steering_vector
    from ris_jax.physics.channel import rician_channel
    from ris_jax.physics.codebooks import codebook
    from ris_jax.physics.covariance import LowRankCovariance, effective_covariance
    from ris_jax.physics.element_response import ElementResponse
    from ris_jax.physics.measurement import aperture_field
    from ris_jax.physics.scenes import (
        Measurement,
        Scene,
        Truth,
        sample_scenes,
        simulate,
        stream_key,
    )
    from ris_jax.physics.static_path import remove_static_path
    from ris_jax.presets import preset
    from ris_jax.serving.exported import export_localizer
    from ris_jax.serving.prepared import PreparedLocalizer
    from ris_jax.training.callbacks import Callbacks
    from ris_jax.training.loop import train
    from ris_jax.training.processes.devices import DevicePlacement
    from ris_jax.training.saving.checkpoint import load_run
    from ris_jax.training.state import TrainState, create_train_state, predict
    from ris_jax.training.step import Evaluated, eval_step, train_step
    from ris_jax.wideband_localization import localize_wideband

__all__ = [
    "Bound",
    "Callbacks",
    "Config",
    "CovarianceConfig",
    "Dataset",
    "DevicePlacement",
    "ElementResponse",
    "Estimate",
    "Evaluated",
    "Flag",
    "GospaScores",
    "GridLayout",
    "ImpairmentConfig",
    "Limits",
    "LossConfig",
    "LowRankCovariance",
    "Measurement",
    "ModelConfig",
    "Network",
    "OptimizerConfig",
    "PowerIterations",
    "Prediction",
    "PreparedLocalizer",
    "Scene",
    "SceneConfig",
    "SearchOptions",
    "SearchRegion",
    "SurfaceCalibration",
    "SystemConfig",
    "Target",
    "TrainState",
    "TrainingConfig",
    "Truth",
    "akaike",
    "aperture_field",
    "codebook",
    "cramer_rao_bound",
    "create_train_state",
    "effective_covariance",
    "enable_compilation_cache",
    "eval_step",
    "export_localizer",
    "gospa",
    "load_calibration",
    "load_pretrained",
    "load_run",
    "localize",
    "localize_wideband",
    "maximum_likelihood",
    "minimum_description_length",
    "modified_music",
    "music",
    "mvdr",
    "orthogonal_matching_pursuit",
    "planar_array",
    "position_error_bound",
    "predict",
    "preset",
    "reduced_dimension_music",
    "remove_static_path",
    "rician_channel",
    "sample_scenes",
    "simulate",
    "sparse_bayesian_learning",
    "steering_vector",
    "stream_key",
    "train",
    "train_step",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
