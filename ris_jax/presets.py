"""Named configurations. Each is the default with the fields that its purpose needs."""

from ris_jax import config as config_lib

_OVERRIDES: dict[str, dict[str, object]] = {
    # A newcomer's first run: some minutes on two cores.
    "quickstart": {},
    # The system of the reference at full length: 30 epochs of fresh scenes.
    "reference": {
        "training.epochs": 30,
        "training.steps_per_epoch": 200,
    },
    # Can the network learn at all? 512 fixed scenes, validated on the same ones.
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
    """A named configuration.

    Raises:
      ConfigError: there is none of that name.
    """
    if name not in _OVERRIDES:
        raise config_lib.ConfigError(f"preset: need one of {', '.join(NAMES)}; got {name!r}")
    return config_lib.override(config_lib.Config(), _OVERRIDES[name])
