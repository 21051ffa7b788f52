"""The folder of a run: one run at a time, of one configuration."""

import contextlib
import pathlib
from collections.abc import Iterator

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data import files
from ris_jax.training import checkpoint, processes, record, saves


@contextlib.contextmanager
def opened(config: config_lib.Config, workdir: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Makes a run's folder and keeps other runs out; of several processes the first does.

    Args:
      config: the run.
      workdir: its folder.
      wait: for another run that is there, instead of refusing.

    Raises:
      ConfigError: the folder holds a run of another configuration, the fields are named.
      RunError: another run is there, or the processes of this one do not share a folder.
    """
    with contextlib.ExitStack() as held:
        refused = ""
        if processes.is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(files.exclusive(workdir, wait=wait))
            except errors.RunError as error:
                refused = str(error)
        if refused := processes.agreed(refused):
            raise errors.RunError(refused)
        _require_same(config, workdir)
        yield


def _require_same(config: config_lib.Config, workdir: pathlib.Path) -> None:
    """Checks that the folder belongs to the same configuration, or to none that has begun."""
    if processes.is_first():
        for name in (checkpoint.CONFIG_NAME, record.METRICS_NAME):
            files.sweep(workdir, name)
        # What never came to a checkpoint, for want of memory say, leaves nothing to protect.
        if checkpoint.load_config(workdir) is None or not saves.any_in(workdir):
            checkpoint.save_config(workdir, config)
    processes.wait("work directory")
    existing = checkpoint.load_config(workdir)
    if existing is None:
        raise errors.RunError(f"{workdir}: need a folder that all processes share; got another one")
    if existing != config:
        raise config_lib.ConfigError(
            f"{workdir} holds a run of another configuration; here: "
            + ", ".join(config_lib.difference(config, existing))
        )
