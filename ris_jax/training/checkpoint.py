"""Checkpoints: orbax, checked by hash, with a fall-back to the one before.

A step on disk counts only once its hashes stand beside it (`<step>.sha256.json`, written last and
renamed into place), so a save that was cut short is never read, and a flipped byte is never used.
"""

import hashlib
import json
import logging
import math
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training import state as state_lib

_CONFIG_NAME = "config.json"
# What orbax and its storage layer raise on a full disk or a file that is not what it should be.
_STORAGE_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError)


class Restored(NamedTuple):
    """A checkpoint read back."""

    state: state_lib.TrainState
    epoch: int
    progress: dict[str, Any]  # what the loop knows of the run so far


class Checkpoints:
    """The checkpoints of one run, one a finished epoch."""

    def __init__(self, workdir: pathlib.Path, keep: int, *, read_only: bool = False):
        """Opens `workdir/checkpoints`.

        Args:
          workdir: the run's folder; it must exist.
          keep: how many of the newest are kept beside the best.
          read_only: neither creates nor cleans anything.
        """
        self._root = workdir.resolve() / "checkpoints"
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                # A NaN metric compares false with everything and would count as best.
                preservation_policy.BestN(get_metric_fn=_finite_metric, reverse=True, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            enable_async_checkpointing=False,
            read_only=read_only,
            create=not read_only,
        )
        logging.getLogger("orbax").setLevel(logging.ERROR)
        if read_only and not self._root.is_dir():
            raise errors.RunError(f"no checkpoints in {workdir}")
        self._manager = ocp.CheckpointManager(self._root, options=options)

    def save(
        self, state: state_lib.TrainState, epoch: int, progress: dict[str, Any], val_nmse: float
    ) -> None:
        """Writes one epoch's checkpoint, then its hashes.

        Raises:
          RunError: it cannot be written; the ones before it are untouched.
        """
        try:
            saved = self._manager.save(
                epoch,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_arrays(state)),
                    progress=ocp.args.JsonSave(progress),
                    config=ocp.args.JsonSave(config_lib.to_dict(state.config)),
                ),
                metrics={"val_nmse": val_nmse if math.isfinite(val_nmse) else None},
            )
            if not saved:
                raise OSError(f"a checkpoint of epoch {epoch} is already there")
            hashes = {name: _sha256(path) for name, path in self._files(epoch)}
            temporary = self._hash_path(epoch).with_suffix(".tmp")
            temporary.write_text(json.dumps(hashes, indent=0))
            temporary.replace(self._hash_path(epoch))
        except _STORAGE_ERRORS as error:
            self._discard(epoch)
            raise errors.RunError(
                f"checkpoint of epoch {epoch} cannot be written to {self._root}: "
                f"{_first_line(error)}; those before it are intact"
            ) from error
        kept = {str(step) for step in self._manager.all_steps()}
        for path in self._root.glob("*.sha256.json"):
            if path.name.split(".")[0] not in kept:
                path.unlink()

    def restore_newest(self, template: state_lib.TrainState) -> tuple[Restored | None, list[str]]:
        """The newest checkpoint that is whole, and a warning for each one passed over.

        Checkpoints that are not whole are removed: the run writes those epochs again.

        Args:
          template: a state of the same configuration, for structure and placement.
        """
        warnings = []
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            restored, problem = self._try_restore(epoch, template)
            if restored is not None:
                return restored, warnings
            warnings.append(f"checkpoint of epoch {epoch} is not used: {problem}")
            self._discard(epoch)
        return None, warnings

    def restore_best(self, template: state_lib.TrainState) -> tuple[Restored, list[str]]:
        """The checkpoint with the lowest val_nmse that is whole; nothing is removed.

        Raises:
          RunError: there is none.
        """
        warnings = []
        steps = self._manager.all_steps()
        scores = {epoch: _finite_metric(self._manager.metrics(epoch)) for epoch in steps}
        for epoch in sorted(scores, key=lambda step: scores[step]):
            restored, problem = self._try_restore(epoch, template)
            if restored is not None:
                return restored, warnings
            warnings.append(f"checkpoint of epoch {epoch} is not used: {problem}")
        raise errors.RunError("; ".join([f"no usable checkpoint in {self._root}", *warnings]))

    def _try_restore(
        self, epoch: int, template: state_lib.TrainState
    ) -> tuple[Restored | None, str]:
        """A checkpoint, or None and what is wrong with it."""
        if problem := self._damage(epoch):
            return None, problem
        try:
            items = self._manager.restore(
                epoch,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(_abstract, _arrays(template))),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except _STORAGE_ERRORS as error:
            return None, _first_line(error)
        return Restored(template.replace(**items.state), epoch, items.progress), ""

    def _damage(self, epoch: int) -> str:
        """What is wrong with a checkpoint's files, by name; empty if nothing is."""
        path = self._hash_path(epoch)
        try:
            hashes = json.loads(path.read_text())
        except FileNotFoundError:
            return "it was cut short while it was written (no hashes)"
        except (OSError, ValueError):
            return f"{path.name} cannot be read"
        files = dict(self._files(epoch))
        for name, expected in hashes.items():
            if name not in files:
                return f"file {name} is missing"
            if _sha256(files[name]) != expected:
                return f"file {name} is not what was written"
        return ""

    def _files(self, epoch: int) -> list[tuple[str, pathlib.Path]]:
        folder = self._root / str(epoch)
        return [
            (str(path.relative_to(folder)), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def _hash_path(self, epoch: int) -> pathlib.Path:
        return self._root / f"{epoch}.sha256.json"

    def _discard(self, epoch: int) -> None:
        shutil.rmtree(self._root / str(epoch), ignore_errors=True)
        for leftover in self._root.glob(f"{epoch}.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        self._manager.reload()


def _arrays(state: state_lib.TrainState) -> dict[str, Any]:
    """The parts of a state that are arrays, by name."""
    return {
        "step": state.step,
        "params": state.params,
        "ema_params": state.ema_params,
        "opt_state": state.opt_state,
    }


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _finite_metric(metrics: Any) -> float:
    value = (metrics or {}).get("val_nmse")
    return math.inf if value is None or not math.isfinite(value) else value


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def save_config(workdir: pathlib.Path, config: config_lib.Config) -> None:
    """Writes `config.json`, whole or not at all."""
    temporary = workdir / (_CONFIG_NAME + ".tmp")
    temporary.write_text(json.dumps(config_lib.to_dict(config), indent=2) + "\n")
    temporary.replace(workdir / _CONFIG_NAME)


def load_config(workdir: pathlib.Path) -> config_lib.Config | None:
    """The configuration of a run; None where no run was started.

    Raises:
      ConfigError: `config.json` is not a configuration.
    """
    path = workdir / _CONFIG_NAME
    try:
        return config_lib.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise config_lib.ConfigError(f"{path}: not JSON: {error}") from error
