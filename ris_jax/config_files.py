"""Configurations in JSON files, nested like a run's `config.json`; missing fields are default."""

import json
import pathlib

from ris_jax import config as config_lib
from ris_jax import errors


def read(path: pathlib.Path) -> config_lib.Config:
    """Read the configuration of a file.

    Args:
      path: a JSON object of sections, each an object of fields.

    Raises:
      ConfigError: it is not a configuration; the message names the file and the field.
      OSError: it cannot be read.
    """
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise config_lib.ConfigError(f"{path}: not JSON: {errors.brief(error)}") from error
    if not isinstance(values, dict):
        raise config_lib.ConfigError(f"{path}: need a JSON object; got {type(values).__name__}")
    try:
        return config_lib.from_stored(values)
    except config_lib.ConfigError as error:
        raise config_lib.ConfigError(f"{path}: {error}") from error


def text(config: config_lib.Config) -> str:
    """Return text that `read` reads."""
    return json.dumps(config_lib.to_stored(config), indent=2) + "\n"
