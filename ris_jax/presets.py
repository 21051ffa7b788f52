"""Named configurations: the default with some fields changed for a purpose."""

from ris_jax import config as config_lib

_FULL_LENGTH: dict[str, object] = {"training.epochs": 10, "training.steps_per_epoch": 200}
_OVERRIDES: dict[str, dict[str, object]] = {
    # A first run: a minute and a half on two cores.
    "quickstart": {
        "training.epochs": 2,
        "training.steps_per_epoch": 60,
        "training.validation_scenes": 512,
    },
    # The reference's system at full length: the shipped network "default".
    "reference": _FULL_LENGTH,
    # Hardware mismatch, from zero to the configured strength: the shipped network "robust".
    "robust": _FULL_LENGTH
    | {
        "impairments.varied": True,
        "impairments.position_jitter": 7.5e-3,
        "impairments.phase_error": 0.1,
        "impairments.dead_fraction": 0.03,
        "impairments.beta_min": 0.5,
    },
    # A larger surface and base station at 3.5 GHz: the shipped network "array_16x16".
    "array_16x16": {
        "system.wavelength": 0.0857,
        "system.spacing": 0.04285,
        "system.rows": 16,
        "system.columns": 16,
        "system.num_antennas": 64,
        "system.num_snapshots": 64,
        "training.epochs": 5,
    },
    # Check that training works: 512 fixed scenes, also used for validation.
    "overfit": {
        "training.epochs": 8,
        "training.steps_per_epoch": 160,
        "training.fixed_scenes": 512,
        "training.validation_scenes": 512,
        "training.validate_on_training_scenes": True,
        "model.dropout": 0.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.ema_decay": 0.99,
    },
    # The baseline after SubspaceNet: the shipped network "subspace_network".
    "subspace_network": {
        "model.architecture": "subspace_network",
        "model.width": 48,
        "model.depth": 4,
        "model.mlp_ratio": 2,
        "loss.covariance": 0.0,
        "loss.existence": 0.0,
        "loss.offset": 0.0,
        "loss.subspace": 1.0,
        "loss.position": 0.1,
        "training.epochs": 10,
        "training.steps_per_epoch": 400,
        "training.batch_size": 32,
        "training.validation_scenes": 1024,
    },
    # For a GPU: a wider, deeper network, larger batches, bfloat16.
    "large": {
        "model.width": 384,
        "model.depth": 8,
        "model.num_heads": 6,
        "model.compute_dtype": "bfloat16",
        "optimizer.weight_decay": 1e-2,
        "training.epochs": 100,
        "training.steps_per_epoch": 500,
        "training.batch_size": 1024,
        "training.validation_scenes": 8192,
    },
}
NAMES = tuple(_OVERRIDES)


def preset(name: str) -> config_lib.Config:
    """Return a named configuration.

    Raises:
      ConfigError: the name is unknown.
    """
    if name not in _OVERRIDES:
        raise config_lib.ConfigError(f"preset: need one of {', '.join(NAMES)}; got {name!r}")
    return config_lib.override(config_lib.Config(), _OVERRIDES[name])
