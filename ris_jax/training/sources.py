"""Sources of training scenes: the simulator, or records on disk."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, UInt32

from ris_jax import config as config_lib
from ris_jax.data.records import record_dataset
from ris_jax.physics import scenes
from ris_jax.training import evaluation
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices

Position = dict[str, Any]  # JSON: identity of the scenes, and the next one

# The splits of records have the names of the simulator's streams.
_TRAIN = "train"


class Source(Protocol):
    """Interface of a scene source."""

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """Draw the next microbatch."""
        ...

    def heldout(self, name: str, num_scenes: int) -> evaluation.Heldout:
        """Return the first scenes of a stream or split, at most `num_scenes`."""
        ...

    def constant(self) -> Complex[np.ndarray, "N N"]:
        """Return the best constant covariance of the scenes for training."""
        ...

    def position(self) -> Position | None:
        """Return the position to save with a checkpoint; None if the state's step determines it."""
        ...

    def restore(self, position: Position | None) -> None:
        """Continue from a saved position.

        Raises:
          ConfigError: the position belongs to other scenes.
        """
        ...


class Simulated:
    """Scenes drawn on the device, determined by the state's step alone."""

    def __init__(self, config: config_lib.Config, placement: devices.DevicePlacement):
        self._config, self._placement = config, placement

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """Draw the microbatch of the state's step."""
        return step_lib.draw_batch(state.config, state.step)

    def heldout(self, name: str, num_scenes: int) -> evaluation.Heldout:
        """Draw the first scenes of a stream."""
        return evaluation.draw_heldout(self._config, name, num_scenes, self._placement.batch)

    def constant(self) -> Complex[np.ndarray, "N N"]:
        """Return the best constant covariance of the training stream."""
        return evaluation.simulated_constant(self._config, self._placement.batch)

    def position(self) -> None:
        """Return None: the step is sufficient."""

    def restore(self, position: Position | None) -> None:
        """Check that the run was trained on simulated scenes; there is no position to restore.

        Raises:
          ConfigError: the run was trained on records.
        """
        if position is not None:
            raise config_lib.ConfigError(
                f"--data: need the records of this run ({_named(position)}); got none"
            )


class Stored:
    """Scenes of records, each once per pass; the iterator's state determines the next ones."""

    def __init__(
        self,
        config: config_lib.Config,
        dataset: record_dataset.Dataset,
        placement: devices.DevicePlacement,
    ):
        """Open an iterator at its first microbatch.

        Args:
          config: the run; its system and number of sources must match the records.
          dataset: of the run.
          placement: the devices that share every microbatch.

        Raises:
          ConfigError: they do not match, or the configuration sets `fixed_scenes`.
          RunError: there are no scenes for training or for validation.
        """
        require_alike(config, dataset)
        self._config, self._dataset, self._placement = config, dataset, placement
        for name in (_TRAIN, evaluation.validation_stream(config)):
            dataset.split(name)
        self._batches = record_dataset.batches(
            dataset.split(_TRAIN),
            config.training.batch_size,
            config.training.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """Read the next microbatch and transfer it; each process reads its rows."""
        del state
        return as_scene(next(self._batches), self._placement)

    def heldout(self, name: str, num_scenes: int) -> evaluation.Heldout:
        """Prepare the first scenes of a split on the device; fewer if the split is smaller."""
        split = self._dataset.split(name)
        count = min(num_scenes, len(split))
        return stored_heldout(self._config, split.gather, count, self._placement)

    def constant(self) -> Complex[np.ndarray, "N N"]:
        """Return the best constant covariance of the first scenes for training."""
        return evaluation.best_constant(self.heldout(_TRAIN, evaluation.CONSTANT_SCENES))

    def position(self) -> Position:
        """Return the iterator's state and the identity of the records."""
        return {"identity": self._dataset.identity, "iterator": self._batches.get_state()}

    def restore(self, position: Position | None) -> None:
        """Set the iterator's state.

        Raises:
          ConfigError: the run was trained on other scenes.
        """
        ours = self._dataset.identity
        if position is None or position["identity"] != ours:
            there = "simulated scenes" if position is None else _named(position)
            raise config_lib.ConfigError(
                f"--data: need the scenes of this run ({there}); got {self._dataset.folder} "
                f"(records {ours[:12]})"
            )
        self._batches.set_state(position["iterator"])


def stored_heldout(
    config: config_lib.Config,
    gather: Callable[[np.ndarray], record_dataset.Batch],
    num_scenes: int,
    placement: devices.DevicePlacement,
) -> evaluation.Heldout:
    """Prepare stored scenes on the devices for scoring a network.

    Args:
      config: the run, with the system of the scenes.
      gather: returns the scenes at given indices, as `record_dataset.Split.gather`.
      num_scenes: number of scenes, from the first on.
      placement: the devices that share every batch; each process gathers its rows.
    """
    size, batches = config.training.batch_size, []
    for start in range(0, num_scenes, size):
        # The last batch is padded with the first scenes, for one shape; the padding is dropped.
        indices = (start + np.arange(size)) % num_scenes
        mine = np.array_split(indices, jax.process_count())[jax.process_index()]
        batches.append(step_lib.prepared(as_scene(gather(mine), placement), config))
    return evaluation.Heldout(batches, num_scenes)


def _named(position: Position) -> str:
    return f"records {str(position['identity'])[:12]}"


def require_alike(config: config_lib.Config, dataset: record_dataset.Dataset) -> None:
    """Check that the configuration matches the records in all fields that a network depends on.

    Raises:
      ConfigError: a field differs (it is named), or `fixed_scenes` is set.
    """
    ours, theirs = (config_lib.flatten(config_lib.to_dict(c)) for c in (config, dataset.config))
    for name in ours:
        relevant = name.startswith("system.") or name == "scene.max_sources"
        if relevant and ours[name] != theirs[name]:
            raise config_lib.ConfigError(
                f"{name}: need {theirs[name]!r} as in {dataset.folder}; got {ours[name]!r}"
            )
    fixed = config.training.fixed_scenes
    if fixed:
        raise config_lib.ConfigError(
            f"training.fixed_scenes: need 0 with records, which are fixed; got {fixed}"
        )


def as_scene(batch: record_dataset.Batch, placement: devices.DevicePlacement) -> scenes.Scene:
    """Transfer a stored batch to the devices; stored scenes have no signals.

    Args:
      batch: this process's rows of a batch.
      placement: the devices of all processes.
    """
    stored = batch.scenes
    # As plain words: one transfer instead of one per field.
    words = stored.view(np.uint32).reshape(len(stored), -1)
    shared = len(batch.codes) == 1 < len(stored)
    put = jax.make_array_from_process_local_data
    return _unpacked(
        stored.dtype,
        put(placement.batch, words),
        put(placement.replicated if shared else placement.batch, batch.codes),
    )


@functools.partial(jax.jit, static_argnums=0)
def _unpacked(dtype: np.dtype, words: UInt32[Array, "B W"], codes: Array) -> scenes.Scene:
    """Unpack the fields of a `records.scene_dtype`; codes shared by all scenes are repeated."""
    size = words.shape[0]
    fields = {}
    layout: dict[Any, Any] = dict(dtype.fields or {})
    for name in dtype.names or ():
        kind, offset = layout[name][:2]
        taken = words[:, offset // 4 : (offset + kind.itemsize) // 4]
        if kind.base == np.complex64:
            parts = jax.lax.bitcast_convert_type(taken, jnp.float32).reshape(size, -1, 2)
            value = jax.lax.complex(parts[..., 0], parts[..., 1])
        else:
            value = jax.lax.bitcast_convert_type(taken, kind.base)
        fields[name] = value.reshape(size, *kind.shape)
    return scenes.Scene(
        measurement=scenes.Measurement(
            snapshots=fields["snapshots"],
            channel=fields["channel"],
            codes=jnp.broadcast_to(codes, (size, *codes.shape[1:])),
            noise_variance=fields["noise_variance"],
        ),
        truth=scenes.Truth(**{name: fields[name] for name in scenes.Truth._fields}),
        signals=jnp.zeros((size, dtype["snapshots"].shape[0], 0), jnp.complex64),
    )
