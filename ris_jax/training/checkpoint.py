"""Checkpoints: orbax, checked by hash, with a fall-back to the one before.

A step on disk counts only once its manifest stands beside it (``<step>.sha256.json``: the hash of
every file and the score, written last and renamed into place), so a save that was cut short is
never read, and a flipped byte is never used. Older steps go only after that. Orbax itself keeps no
score beside a preservation policy, so which steps stay is decided here.

Of several processes each writes and reads its part of the arrays; the first alone writes manifests,
removes things and says what is whole, and the others wait for it. The folder is one for all.
"""

import contextlib
import functools
import gc
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
from ris_jax import config_files, errors
from ris_jax.data import files
from ris_jax.training import devices, manifest, processes
from ris_jax.training import state as state_lib

CONFIG_NAME = "config.json"
# What orbax and its storage layer raise on a full disk or a file that is not what it should be.
_STORAGE_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError)

_SECONDS_FOR_THREADS_TO_END = 0.5  # of a save that failed


class Restored(NamedTuple):
    """A checkpoint read back."""

    state: state_lib.TrainState
    epoch: int
    progress: dict[str, Any]  # what the loop knows of the run so far


class Entry(NamedTuple):
    """A checkpoint on disk."""

    epoch: int
    val_nmse: float  # infinite where it is not known or not finite
    problem: str  # what is wrong with its files; empty if nothing is


class Checkpoints:
    """The checkpoints of one run, one a finished epoch; or numbered by something else."""

    def __init__(
        self,
        workdir: pathlib.Path,
        keep: int,
        *,
        read_only: bool = False,
        folder: str = "checkpoints",
        unit: str = "epoch",
    ):
        """Opens `workdir/folder`.

        Args:
          workdir: the run's folder; it must exist.
          keep: how many of the newest are kept beside the best.
          read_only: neither creates nor cleans anything.
          folder: in the run's.
          unit: what the numbers of the checkpoints count, in words.
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
        self._passed_over: list[str] = []  # warnings of what stood in the way of opening
        try:
            self._manager = _opened(self._root, options)
        except errors.RunError:
            if read_only or not self._clear_the_way():
                raise
            self._manager = _opened(self._root, options)
        if not read_only:
            self._alone(self._sweep)

    def _clear_the_way(self) -> bool:
        """Removes checkpoints whose files are not what was written; says whether there were any.

        Orbax reads the metadata of all when it opens their folder, before hashes are looked at.
        """
        damaged = {}
        if processes.is_first():
            steps = sorted(int(path.name) for path in self._root.iterdir() if path.name.isdigit())
            damaged = {epoch: problem for epoch in steps if (problem := self._damage(epoch))}
            for epoch in damaged:
                self._remove(epoch)
        self._passed_over = [
            f"{self._named(epoch)} is not used: {problem}"
            for epoch, problem in processes.agreed(damaged).items()
        ]
        return bool(self._passed_over)

    def newest(self) -> int:
        """The largest number of a checkpoint, whole or not; 0: there is none."""
        return processes.agreed(self._manager.latest_step() or 0)

    def _named(self, epoch: int) -> str:
        return f"checkpoint of {self._unit} {epoch}"

    def _alone(self, change: Callable[[], None]) -> None:
        """Has the first process change something, while the others wait and look again."""
        if processes.is_first():
            change()
        processes.wait("checkpoints changed")
        if not processes.is_first():
            self._manager.reload()

    def save(
        self, state: state_lib.TrainState, epoch: int, progress: dict[str, Any], val_nmse: float
    ) -> None:
        """Writes one epoch's checkpoint, then its manifest, then drops what it supersedes.

        Raises:
          RunError: it cannot be written, or is already there; the ones before it are untouched.
        """
        newest = self._manager.latest_step()
        if newest is not None and newest >= epoch:
            raise errors.RunError(
                f"{self._named(epoch)} is not written: {self._root} already has that of "
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
            if processes.is_first():
                manifest.write(self._root, epoch, val_nmse)
        except _STORAGE_ERRORS as error:
            if processes.is_first():  # the others may have stopped: nobody waits
                self._discard(epoch)
            raise errors.RunError(
                f"{self._named(epoch)} cannot be written to {self._root}: "
                f"{errors.first_line(error)}; those before it are intact: make room "
                "where the disk is full, and the same command goes on"
            ) from error
        self._alone(self._drop_superseded)

    def restore_newest(self, template: state_lib.TrainState) -> tuple[Restored | None, list[str]]:
        """The newest checkpoint that is whole, and a warning for each one passed over.

        Checkpoints that are not whole are removed: the run writes those epochs again.

        Args:
          template: a state of the same configuration, for structure and placement.

        Raises:
          ConfigError: a checkpoint is of another configuration; the fields are named.
          RunError: a checkpoint is whole and yet cannot be restored, for want of memory say.
        """
        warnings = list(self._passed_over)
        for epoch in processes.agreed(sorted(self._manager.all_steps(), reverse=True)):
            restored, problem = self._try_restore(epoch, template)
            if restored is not None:
                return restored, warnings
            warnings.append(f"{self._named(epoch)} is not used: {problem}")
            self._alone(functools.partial(self._discard, epoch))
        return None, warnings

    def restore_best(self, template: state_lib.TrainState) -> tuple[Restored, list[str]]:
        """The checkpoint with the lowest val_nmse that is whole; nothing is removed.

        Raises:
          ConfigError: a checkpoint is of another configuration; the fields are named.
          RunError: there is none, or one is whole and yet cannot be restored.
        """
        warnings = []
        for epoch in sorted(self._manager.all_steps(), key=self._score):
            restored, problem = self._try_restore(epoch, template)
            if restored is not None:
                return restored, warnings
            warnings.append(f"{self._named(epoch)} is not used: {problem}")
        raise errors.RunError("; ".join([f"no usable checkpoint in {self._root}", *warnings]))

    def inventory(self) -> list["Entry"]:
        """What there is, by epoch; all processes must ask."""
        found = []
        if processes.is_first():
            steps = sorted(self._manager.all_steps())
            found = [(epoch, self._score(epoch), self._damage(epoch)) for epoch in steps]
        return [Entry(*entry) for entry in processes.agreed(found)]

    def _try_restore(
        self, epoch: int, template: state_lib.TrainState
    ) -> tuple[Restored | None, str]:
        """A checkpoint, or None and what is wrong with it."""
        if problem := processes.agreed(self._damage(epoch) if processes.is_first() else ""):
            return None, problem
        items = self._read(epoch, config=ocp.args.JsonRestore(), progress=ocp.args.JsonRestore())
        try:
            saved_config = config_lib.from_stored(items.config)
        except config_lib.ConfigError as error:
            raise errors.RunError(
                f"{self._named(epoch)} in {self._root} is whole but of another version or "
                f"damaged: {error}"
            ) from error
        if saved_config != template.config:
            raise config_lib.ConfigError(
                f"{self._named(epoch)} in {self._root} is of another configuration; here: "
                + ", ".join(config_lib.difference(template.config, saved_config))
            )
        abstract = jax.tree.map(_abstract, _arrays(template))
        arrays = self._read(epoch, state=ocp.args.StandardRestore(abstract)).state
        return Restored(template.replace(**arrays), epoch, items.progress), ""

    def _read(self, epoch: int, **items: Any) -> Any:
        """Items of a checkpoint whose files are what was written."""
        try:
            with _one_report_of_failure():
                return self._manager.restore(epoch, args=ocp.args.Composite(**items))
        # Of files that are not what they should be, orbax makes any exception: AttributeError, or
        # a bare Exception around what its storage layer says.
        except Exception as error:
            raise errors.RunError(
                f"{self._named(epoch)} in {self._root} is whole but cannot be restored: "
                f"{errors.first_line(error)}"
            ) from error

    def _drop_superseded(self) -> None:
        """Removes what is neither among the newest nor the best."""
        steps = sorted(self._manager.all_steps())
        best = min(steps, key=self._score)
        for epoch in steps[: -self._keep]:
            if epoch != best or self._score(epoch) == math.inf:
                self._discard(epoch)

    def _sweep(self) -> None:
        """Removes what saves and removals that were cut short have left."""
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
        # The manifest first: nothing that is half removed may count as whole.
        manifest.path_of(self._root, epoch).unlink(missing_ok=True)
        for leftover in [self._root / str(epoch), *self._root.glob(f"{epoch}.*")]:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _opened(root: pathlib.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    try:
        return ocp.CheckpointManager(root, options=options)
    except (ValueError, TypeError, AttributeError) as error:  # it reads the metadata of all
        raise errors.RunError(
            f"{root}: the metadata of a checkpoint cannot be read, move it away: "
            f"{errors.first_line(error)}"
        ) from error


@contextlib.contextmanager
def _one_report_of_failure() -> Iterator[None]:
    """Lets a failure out as the exception it is, and nothing else.

    On a full disk every array fails in a thread of its own, and asyncio, absl and the interpreter
    each print tracebacks of it: hundreds of lines around the one that matters.
    """

    def without_traceback(entry: logging.LogRecord) -> bool:
        return entry.exc_info is None

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    hook = sys.unraisablehook
    for logger in loggers:
        logger.addFilter(without_traceback)
    # Writes of the storage layer that end after the first failure find their event loop closed.
    sys.unraisablehook = lambda _: None
    try:
        yield
    except _STORAGE_ERRORS as error:
        # Frames hold the futures that nobody asked; they complain when they are collected.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        time.sleep(_SECONDS_FOR_THREADS_TO_END)
        raise
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(without_traceback)


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


def open_best(
    workdir: pathlib.Path, placement: devices.Placement | None = None
) -> tuple[Restored, list[str]]:
    """The best checkpoint of a run, and a warning for each one passed over.

    Args:
      workdir: the run's folder.
      placement: where its state is to live; one device if not given.

    Raises:
      ConfigError: the folder's `config.json` is not a configuration.
      RunError: there is no run in the folder, or no usable checkpoint.
    """
    config = load_config(workdir)
    if config is None:
        raise errors.RunError(f"no run in {workdir}: {CONFIG_NAME} is not there")
    checkpoints = Checkpoints(workdir, config.training.keep_checkpoints, read_only=True)
    return checkpoints.restore_best(state_lib.create_train_state(config, placement))


def save_config(workdir: pathlib.Path, config: config_lib.Config) -> None:
    """Writes `config.json`, whole or not at all."""
    with files.replacing(workdir / CONFIG_NAME) as partial:
        partial.write_text(config_files.text(config))


def load_config(workdir: pathlib.Path) -> config_lib.Config | None:
    """The configuration of a run; None where no run was started.

    Raises:
      ConfigError: `config.json` is not a configuration.
    """
    try:
        return config_files.read(workdir / CONFIG_NAME)
    except FileNotFoundError:
        return None
