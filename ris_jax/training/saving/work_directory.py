"""Work directory of a run: one run at a time, one configuration."""

import contextlib
import pathlib
from collections.abc import Iterator

from ris_jax import config as config_lib
from ris_jax import errors, files
from ris_jax.training.processes import distributed
from ris_jax.training.saving import checkpoint, metrics_log, retention


@contextlib.contextmanager
def opened(config: config_lib.Config, workdir: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Create and lock the work directory; with several processes, the first one does it.

    Args:
      config: the run.
      workdir: its work directory.
      wait: wait for another run in the directory instead of failing.

    Raises:
      ConfigError: the directory holds a run of another configuration; the fields are listed.
      RunError: another run uses the directory, or the processes do not share one.
    """
    with contextlib.ExitStack() as held:
        refused = ""
        if distributed.is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(files.exclusive(workdir, wait=wait))
            except errors.RunError as error:
                refused = str(error)
        if refused := distributed.agreed(refused):
            raise errors.RunError(refused)
        _require_same(config, workdir)
        yield


def _require_same(config: config_lib.Config, workdir: pathlib.Path) -> None:
    """Check that the directory holds the same configuration, or no run with a checkpoint."""
    if distributed.is_first():
        for name in (checkpoint.CONFIG_NAME, metrics_log.METRICS_NAME):
            files.sweep(workdir, name)
        # A run without a checkpoint (out of memory, for example) leaves nothing to protect.
        if checkpoint.load_config(workdir) is None or not retention.any_in(workdir):
            checkpoint.save_config(workdir, config)
    distributed.wait("work directory")
    existing = checkpoint.load_config(workdir)
    if existing is None:
        raise errors.RunError(f"{workdir}: need a directory shared by all processes; got another")
    if existing != config:
        raise config_lib.ConfigError(
            f"{workdir} holds a run of another configuration; here: "
            + ", ".join(config_lib.difference(config, existing))
        )
