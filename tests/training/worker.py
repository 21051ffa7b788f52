"""One process of a run with one non-finite microbatch; started by `devices_test`.

Its argument is a JSON object: `config` (nested), `workdir`, `bad` (microbatch, from 0),
`out` (.npz of the final parameters), `stop_after` (epoch, or null), `signal_at` (microbatch,
from 0, before which the last process sends itself SIGTERM; or null), `shard_optimizer`,
`processes` (coordinator, number, index; or null), `data` (records; the first microbatches are
go to `out`, too).
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_dataset
from ris_jax.training import evaluation, loop, sources
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices, distributed
from ris_jax.training.saving import checkpoint


def _spoil(bad):
    """Replace the scenes of one microbatch by NaN."""
    draw = step_lib.draw_batch

    @jax.jit
    def spoiled(batch):
        snapshots = batch.measurement.snapshots * np.nan
        return batch._replace(measurement=batch.measurement._replace(snapshots=snapshots))

    def drawn(config, step):
        batch = draw(config, step)
        return spoiled(batch) if int(step) == bad else batch

    step_lib.draw_batch = drawn


def _signal_at(microbatch):
    """Send SIGTERM to the last process; JAX notifies the others within a second."""
    draw = step_lib.draw_batch

    def drawn(config, step):
        if int(step) == microbatch and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if int(step) >= microbatch:
            time.sleep(1.0)
        return draw(config, step)

    if microbatch is not None:
        step_lib.draw_batch = drawn


def _stop_after(epoch):
    """End the process after the checkpoint of an epoch."""
    save = checkpoint.Checkpoints.save

    def stopping(self, state, at, progress, val_nmse):
        save(self, state, at, progress, val_nmse)
        if at == epoch:
            raise SystemExit(0)

    checkpoint.Checkpoints.save = stopping


def _stored(state, folder, placement):
    """Return two microbatches and the held-out scenes as placed on the devices."""
    dataset = record_dataset.open_dataset(pathlib.Path(folder))
    source = sources.Stored(state.config, dataset, placement)
    microbatches = [source.draw(state) for _ in range(2)]
    heldout = source.heldout("validation", 5)
    return {"microbatches": microbatches, "heldout": [read for read, _ in heldout.batches]}


def main():
    """Run the process."""
    given = json.loads(sys.argv[1])
    _spoil(given["bad"])
    _signal_at(given["signal_at"])
    _stop_after(given["stop_after"])
    evaluation.CONSTANT_SCENES = 64  # 2048 are many batches of eight
    who = given["processes"]
    with distributed.joined(*who) if who else contextlib.nullcontext():
        placement = devices.all_devices(shard_optimizer=given["shard_optimizer"])
        config = config_lib.from_dict(given["config"])
        state = loop.train(config, pathlib.Path(given["workdir"]), placement=placement)
        stored = _stored(state, given["data"], placement)
        result = {"params": state.params, "opt_state": state.opt_state, "stored": stored}
        host = devices.to_host(result)
        if distributed.is_first():
            flat = jax.tree_util.tree_leaves_with_path(host)
            np.savez(given["out"], **{jax.tree_util.keystr(path): leaf for path, leaf in flat})
        local = jax.tree.leaves(state.opt_state)
        held = sum(leaf.addressable_shards[0].data.size for leaf in local)
        # Number of compilations of the step; fraction of the optimizer state on a device.
        print(json.dumps({
            "programs": step_lib.donating_step.num_compiled(),
            "held": held / sum(leaf.size for leaf in local),
        }))  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except errors.Interrupted as stopped:
        print(f"ris-jax: {stopped}", file=sys.stderr)
        sys.exit(stopped.status)
