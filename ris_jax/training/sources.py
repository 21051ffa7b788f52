"""Where training takes its scenes from: the simulator, or records on disk."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from ris_jax import config as config_lib
from ris_jax import scenes
from ris_jax.data import record_dataset
from ris_jax.training import devices, evaluation
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

Position = dict[str, Any]  # JSON: whose scenes, and which comes next

# The splits of records have the names of the simulator's streams.
_TRAIN = "train"


class Source(Protocol):
    """What the loop asks for."""

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """The next microbatch."""
        ...

    def heldout(self, name: str, num_scenes: int) -> evaluation.Heldout:
        """The first scenes of a stream or split, at most `num_scenes`."""
        ...

    def position(self) -> Position | None:
        """What to save with a checkpoint; None where the state's step says it all."""
        ...

    def restore(self, position: Position | None) -> None:
        """Goes on from a saved position.

        Raises:
          ConfigError: it is of other scenes.
        """
        ...


class Simulated:
    """Scenes drawn on the device; which ones follows from the state's step alone."""

    def __init__(self, config: config_lib.Config, placement: devices.Placement):
        self._config, self._placement = config, placement

    def draw(self, state: state_lib.TrainState) -> scenes.Scene:
        """The microbatch of the state's step."""
        return step_lib.draw_batch(state.config, state.step)

    def heldout(self, name: str, num_scenes: int) -> evaluation.Heldout:
        """The first scenes of a stream."""
        return evaluation.draw_heldout(self._config, name, num_scenes, self._placement.batch)

    def position(self) -> None:
        """Nothing but the step."""

    def restore(self, position: Position | None) -> None:
        """Nothing to be done.

        Raises:
          ConfigError: the run was trained on records.
        """
        if position is not None:
            raise config_lib.ConfigError(
                f"--data: need the records that the run began with ({_named(position)}); got none"
            )


class Stored:
    """Scenes of records, each once a pass; which ones come next is in the iterator's state."""

    def __init__(
        self,
        config: config_lib.Config,
        dataset: record_dataset.Dataset,
        placement: devices.Placement,
    ):
        """Opens an iterator at its first microbatch.

        Args:
          config: the run; its system and number of sources must be those of the records.
          dataset: of the run.
          placement: the devices that share every microbatch.

        Raises:
          ConfigError: they are others, or the configuration asks for `fixed_scenes`.
          RunError: there are no scenes to train on, or none to validate on.
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
        """The next microbatch, on its way to the devices; each process has read its rows."""
        del state
        return as_scene(next(self._batches), self._placement)

    def heldout(self, name: str, num_scenes: int) -> evaluation.Heldout:
        """The first scenes of a split, prepared on the device; fewer if it has fewer."""
        split = self._dataset.split(name)
        count = min(num_scenes, len(split))
        return stored_heldout(self._config, split.gather, count, self._placement)

    def position(self) -> Position:
        """The iterator's state, and whose it is."""
        return {"identity": self._dataset.identity, "iterator": self._batches.get_state()}

    def restore(self, position: Position | None) -> None:
        """Sets the iterator's state.

        Raises:
          ConfigError: the run was trained on other scenes.
        """
        ours = self._dataset.identity
        if position is None or position["identity"] != ours:
            there = "simulated scenes" if position is None else _named(position)
            raise config_lib.ConfigError(
                f"--data: need what the run began with ({there}); got {self._dataset.folder} "
                f"(records {ours[:12]})"
            )
        self._batches.set_state(position["iterator"])


def stored_heldout(
    config: config_lib.Config,
    gather: Callable[[np.ndarray], record_dataset.Batch],
    num_scenes: int,
    placement: devices.Placement,
) -> evaluation.Heldout:
    """Stored scenes to score a network on, prepared on the devices.

    Args:
      config: the run, with the system of the scenes.
      gather: gives the scenes with some indices, as `record_dataset.Split.gather` does.
      num_scenes: how many, from the first on.
      placement: the devices that share every batch; each process gathers its rows.
    """
    size, batches = config.training.batch_size, []
    for start in range(0, num_scenes, size):
        # The last batch is filled from the beginning: one shape, and what is beyond is cut off.
        indices = (start + np.arange(size)) % num_scenes
        mine = np.array_split(indices, jax.process_count())[jax.process_index()]
        batches.append(step_lib.prepared(as_scene(gather(mine), placement), config))
    return evaluation.Heldout(batches, num_scenes)


def _named(position: Position) -> str:
    return f"records {str(position['identity'])[:12]}"


def require_alike(config: config_lib.Config, dataset: record_dataset.Dataset) -> None:
    """The configuration describes the records, as far as a network sees it.

    Raises:
      ConfigError: it does not, the field is named; or it asks for `fixed_scenes`.
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


def as_scene(batch: record_dataset.Batch, placement: devices.Placement) -> scenes.Scene:
    """What came from disk, on the devices; the signals, which are not stored, are of no source.

    Args:
      batch: this process's rows of a batch.
      placement: the devices of all processes.
    """
    stored = batch.scenes
    # As plain words: one transfer, not one a field.
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
    """The fields of a `records.scene_dtype`; codes that all scenes share are repeated here."""
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
