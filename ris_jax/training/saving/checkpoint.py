"""Orbax checkpoints that are verified by hash, with a fall-back to the previous one.

A step counts only once its manifest exists. The manifest, ``<step>.sha256.json``, holds the hash
of every file and the score, and is written last. A save that was cut short is therefore never
read, and a flipped byte is never used. Older steps are removed only after that. Orbax keeps no
score with a preservation policy, so this module decides which steps stay.

With several processes, each writes and reads its part of the arrays. Only the first process
writes manifests, removes files and verifies checkpoints; the others wait. All processes share
one directory.
"""

import contextlib
import functools
import gc
import json
import logging
import math
import pathlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ris_jax import config as config_lib
from ris_jax import config_files, errors, files
from ris_jax.networks import pretrained
from ris_jax.training import state as state_lib
from ris_jax.training.processes import devices, distributed
from ris_jax.training.saving import manifest

CONFIG_NAME = "config.json"
# Exceptions of orbax and its storage layer on a full disk or a damaged file.
_STORAGE_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError)

_SECONDS_FOR_THREADS_TO_END = 0.5  # after a failed save


class Restored(NamedTuple):
    """A restored checkpoint."""

    state: state_lib.TrainState
    epoch: int
    progress: dict[str, Any]  # see `progress.Progress.to_json`


class Entry(NamedTuple):
    """A checkpoint on disk."""

    epoch: int
    val_nmse: float  # infinite if unknown or not finite
    problem: str  # damage to its files; empty if intact


class Checkpoints:
    """The checkpoints of one run, numbered by epoch or by another unit."""

    def __init__(
        self,
        workdir: pathlib.Path,
        keep: int,
        *,
        read_only: bool = False,
        folder: str = "checkpoints",
        unit: str = "epoch",
    ):
        """Open `workdir/folder`.

        Args:
          workdir: work directory of the run; it must exist.
          keep: number of newest checkpoints that are kept besides the best.
          read_only: neither create nor clean anything.
          folder: directory within `workdir`.
          unit: name of what the checkpoints are numbered by.
        """
        self._root = workdir.resolve() / folder
        self._keep, self._unit = keep, unit
        self._damage = functools.partial(manifest.damage, self._root)
        self._score = functools.partial(manifest.val_nmse, self._root)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.PreserveAll(),
            enable_async_checkpointing=False,
            read_only=read_only,
            create=not read_only,
        )
        logging.getLogger("orbax").setLevel(logging.ERROR)
        if read_only and not self._root.is_dir():
            raise errors.RunError(f"no checkpoints in {workdir}")
        self._passed_over: list[str] = []  # warnings about checkpoints removed on opening
        try:
            self._manager = _opened(self._root, options)
        except errors.RunError:
            if read_only or not self._clear_the_way():
                raise
            self._manager = _opened(self._root, options)
        if not read_only:
            self._alone(self._sweep)

    def _clear_the_way(self) -> bool:
        """Remove damaged checkpoints; return whether there were any.

        Orbax reads the metadata of all checkpoints when it opens the directory, before any hash is
        verified.
        """
        damaged = {}
        if distributed.is_first():
            steps = sorted(int(path.name) for path in self._root.iterdir() if path.name.isdigit())
            damaged = {epoch: problem for epoch in steps if (problem := self._damage(epoch))}
            for epoch in damaged:
                self._remove(epoch)
        self._passed_over = [
            f"{self._named(epoch)} is not used: {problem}"
            for epoch, problem in distributed.agreed(damaged).items()
        ]
        return bool(self._passed_over)

    def newest(self) -> int:
        """Return the largest checkpoint number, intact or not; 0 without checkpoints."""
        return distributed.agreed(self._manager.latest_step() or 0)

    def _named(self, epoch: int) -> str:
        return f"checkpoint of {self._unit} {epoch}"

    def _alone(self, change: Callable[[], None]) -> None:
        """Run `change` in the first process; the others wait, then reload."""
        if distributed.is_first():
            change()
        distributed.wait("checkpoints changed")
        if not distributed.is_first():
            self._manager.reload()

    def save(
        self, state: state_lib.TrainState, epoch: int, progress: dict[str, Any], val_nmse: float
    ) -> None:
        """Write a checkpoint, then its manifest, then drop superseded checkpoints.

        Raises:
          RunError: writing fails, or the checkpoint exists; earlier checkpoints are intact.
        """
        newest = self._manager.latest_step()
        if newest is not None and newest >= epoch:
            raise errors.RunError(
                f"{self._named(epoch)} is not written: {self._root} already holds "
                f"{self._unit} {newest}"
            )
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_arrays(state)),
            progress=ocp.args.JsonSave(progress),
            config=ocp.args.JsonSave(config_lib.to_stored(state.config)),
        )
        try:
            with _one_report_of_failure():
                self._manager.save(epoch, args=items)
            if distributed.is_first():
                manifest.write(self._root, epoch, val_nmse)
        except _STORAGE_ERRORS as error:
            if distributed.is_first():  # no waiting: the others may have stopped
                self._discard(epoch)
            raise errors.RunError(
                f"{self._named(epoch)} cannot be written to {self._root}: "
                f"{errors.first_line(error)}; earlier checkpoints are intact. If the disk is full, "
                "free some space; the same command then resumes"
            ) from error
        self._alone(self._drop_superseded)

    def restore_newest(self, template: state_lib.TrainState) -> tuple[Restored | None, list[str]]:
        """Restore the newest intact checkpoint, with a warning for each damaged one.

        Damaged checkpoints are removed; the run writes those epochs again.

        Args:
          template: a state of the same configuration, for structure and placement.

        Raises:
          ConfigError: a checkpoint belongs to another configuration; the fields are listed.
          RunError: an intact checkpoint cannot be restored, for example for lack of memory.
        """
        warnings = list(self._passed_over)
        for epoch in distributed.agreed(sorted(self._manager.all_steps(), reverse=True)):
            restored, problem = self._try_restore(epoch, template)
            if restored is not None:
                return restored, warnings
            warnings.append(f"{self._named(epoch)} is not used: {problem}")
            self._alone(functools.partial(self._discard, epoch))
        return None, warnings

    def restore_best(self, template: state_lib.TrainState) -> tuple[Restored, list[str]]:
        """Restore the intact checkpoint with the lowest `val_nmse`; nothing is removed.

        Raises:
          ConfigError: a checkpoint belongs to another configuration; the fields are listed.
          RunError: there is no intact checkpoint, or one cannot be restored.
        """
        warnings = []
        for epoch in sorted(self._manager.all_steps(), key=self._score):
            restored, problem = self._try_restore(epoch, template)
            if restored is not None:
                return restored, warnings
            warnings.append(f"{self._named(epoch)} is not used: {problem}")
        raise errors.RunError("; ".join([f"no usable checkpoint in {self._root}", *warnings]))

    def inventory(self) -> list["Entry"]:
        """List all checkpoints by epoch; every process must call this."""
        found = []
        if distributed.is_first():
            steps = sorted(self._manager.all_steps())
            found = [(epoch, self._score(epoch), self._damage(epoch)) for epoch in steps]
        return [Entry(*entry) for entry in distributed.agreed(found)]

    def _try_restore(
        self, epoch: int, template: state_lib.TrainState
    ) -> tuple[Restored | None, str]:
        """Return the checkpoint, or None and a description of the damage."""
        if problem := distributed.agreed(self._damage(epoch) if distributed.is_first() else ""):
            return None, problem
        items = self._read(epoch, config=ocp.args.JsonRestore(), progress=ocp.args.JsonRestore())
        try:
            saved_config = config_lib.from_stored(items.config)
        except config_lib.ConfigError as error:
            raise errors.RunError(
                f"{self._named(epoch)} in {self._root} is intact but its configuration cannot "
                f"be read (another version?): {error}"
            ) from error
        if saved_config != template.config:
            raise config_lib.ConfigError(
                f"{self._named(epoch)} in {self._root} belongs to another configuration; here: "
                + ", ".join(config_lib.difference(template.config, saved_config))
            )
        abstract = jax.tree.map(_abstract, _arrays(template))
        arrays = self._read(epoch, state=ocp.args.StandardRestore(abstract)).state
        return Restored(template.replace(**arrays), epoch, items.progress), ""

    def _read(self, epoch: int, **items: Any) -> Any:
        """Read items of an intact checkpoint."""
        try:
            with _one_report_of_failure():
                return self._manager.restore(epoch, args=ocp.args.Composite(**items))
        # Orbax raises any exception for a malformed file: AttributeError, or a bare Exception
        # around the error of its storage layer.
        except Exception as error:
            raise errors.RunError(
                f"{self._named(epoch)} in {self._root} is intact but cannot be restored: "
                f"{errors.first_line(error)}"
            ) from error

    def _drop_superseded(self) -> None:
        """Remove checkpoints that are neither among the newest nor the best."""
        steps = sorted(self._manager.all_steps())
        best = min(steps, key=self._score)
        for epoch in steps[: -self._keep]:
            if epoch != best or self._score(epoch) == math.inf:
                self._discard(epoch)

    def _sweep(self) -> None:
        """Remove leftovers of interrupted saves and removals."""
        files.sweep(self._root)
        steps = {str(step) for step in self._manager.all_steps()}
        for path in self._root.iterdir():
            step, dot, _ = path.name.partition(".")
            if dot and step.isdigit() and step not in steps:
                self._discard(int(step))

    def _discard(self, epoch: int) -> None:
        self._remove(epoch)
        self._manager.reload()

    def _remove(self, epoch: int) -> None:
        # The manifest goes first: a partly removed checkpoint must not count as intact.
        manifest.path_of(self._root, epoch).unlink(missing_ok=True)
        for leftover in [self._root / str(epoch), *self._root.glob(f"{epoch}.*")]:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _opened(root: pathlib.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    try:
        return ocp.CheckpointManager(root, options=options)
    except (ValueError, TypeError, AttributeError) as error:  # the manager reads all metadata
        raise errors.RunError(
            f"{root}: the metadata of a checkpoint cannot be read; move that checkpoint away: "
            f"{errors.first_line(error)}"
        ) from error


@contextlib.contextmanager
def _one_report_of_failure() -> Iterator[None]:
    """Report a failure as one exception only.

    On a full disk every array fails in its own thread. asyncio, absl and the interpreter then each
    print tracebacks, hundreds of lines around the relevant one.
    """

    def without_traceback(entry: logging.LogRecord) -> bool:
        return entry.exc_info is None

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    hook = sys.unraisablehook
    for logger in loggers:
        logger.addFilter(without_traceback)
    # Storage-layer writes that end after the first failure find their event loop closed.
    sys.unraisablehook = lambda _: None
    try:
        yield
    except _STORAGE_ERRORS as error:
        # Frames hold futures that were never awaited; these print warnings when collected.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        time.sleep(_SECONDS_FOR_THREADS_TO_END)
        raise
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(without_traceback)


def _arrays(state: state_lib.TrainState) -> dict[str, Any]:
    """Return the array parts of a state, by name."""
    return {
        "step": state.step,
        "params": state.params,
        "ema_params": state.ema_params,
        "opt_state": state.opt_state,
    }


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def open_best(
    workdir: pathlib.Path, placement: devices.DevicePlacement | None = None
) -> tuple[Restored, list[str]]:
    """Restore the best checkpoint of a run, with a warning for each damaged one.

    Args:
      workdir: work directory of the run.
      placement: devices of the restored state; one device by default.

    Raises:
      ConfigError: `config.json` in the directory is not a configuration.
      RunError: the directory holds no run, or no usable checkpoint.
    """
    config = load_config(workdir)
    if config is None:
        raise errors.RunError(f"no run in {workdir}: {CONFIG_NAME} is missing")
    checkpoints = Checkpoints(workdir, config.training.keep_checkpoints, read_only=True)
    return checkpoints.restore_best(state_lib.create_train_state(config, placement))


def save_config(workdir: pathlib.Path, config: config_lib.Config) -> None:
    """Write `config.json` atomically."""
    with files.replacing(workdir / CONFIG_NAME) as partial:
        partial.write_text(config_files.text(config))


def load_config(workdir: pathlib.Path) -> config_lib.Config | None:
    """Return the configuration of a run; None if no run was started.

    Raises:
      ConfigError: `config.json` is not a configuration.
    """
    try:
        return config_files.read(workdir / CONFIG_NAME)
    except FileNotFoundError:
        return None


def load_run(workdir: str | pathlib.Path) -> tuple[pretrained.Network, list[str]]:
    """Load the best network of a run; also return warnings about damaged checkpoints.

    Raises:
      RunError: there is no run, or no intact checkpoint.
    """
    restored, warnings = open_best(pathlib.Path(workdir))
    state = restored.state
    card = json.dumps({"workdir": str(workdir), "epoch": restored.epoch})
    return pretrained.Network(state.config, state.ema_params, card), warnings
