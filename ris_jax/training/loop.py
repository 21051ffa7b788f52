"""The training loop: draws, steps, records, validates, saves; resumes from what it saved."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import dacite
import jax
import jax.numpy as jnp
import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors, scenes
from ris_jax.data import record_dataset
from ris_jax.training import checkpoint, devices, evaluation, processes, record, sources
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows of the run so far; saved with every checkpoint."""

    epoch: int = 0  # finished ones
    best_epoch: int = 0
    best_val_nmse: float = math.inf
    data: sources.Position | None = None  # where in the records; None: scenes are simulated

    def after(self, epoch: int, val_nmse: float, data: sources.Position | None) -> "Progress":
        """The progress once `epoch` has ended with `val_nmse`, the next scenes being at `data`."""
        if val_nmse < self.best_val_nmse:
            return Progress(epoch, epoch, val_nmse, data)
        return dataclasses.replace(self, epoch=epoch, data=data)


def _progress_of(restored: checkpoint.Restored) -> Progress:
    """What a checkpoint says of the run so far.

    Raises:
      RunError: it is something else.
    """
    try:
        return dacite.from_dict(Progress, restored.progress, dacite.Config(strict=True))
    # dacite lets out what a value that is no object makes of it.
    except (dacite.DaciteError, TypeError, AttributeError) as error:
        raise errors.RunError(
            f"checkpoint of epoch {restored.epoch}: progress: need what `train` writes; got "
            f"{errors.brief(repr(restored.progress))} ({errors.brief(error)})"
        ) from error


def dead_parameters(state: state_lib.TrainState, batch: scenes.Scene) -> list[str]:
    """Paths of the parameters whose gradient is identically zero on a batch."""

    @jax.jit
    def largest(state, batch):
        features, target = step_lib.prepare(batch, state.config)

        def loss_fn(params):
            return step_lib.batch_loss(state, params, features, target)[0]

        return jax.tree.map(lambda g: jnp.max(jnp.abs(g)), jax.grad(loss_fn)(state.params))

    flat = jax.tree_util.tree_leaves_with_path(devices.to_host(largest(state, batch)))
    return [jax.tree_util.keystr(path) for path, value in flat if value == 0.0]


def _open_workdir(config: config_lib.Config, workdir: pathlib.Path) -> None:
    """Makes the run's folder, or checks that it belongs to the same configuration."""
    if processes.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        if checkpoint.load_config(workdir) is None:
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


def _microbatches(
    state: state_lib.TrainState, source: sources.Source, count: int, chunk: int
) -> Iterator[tuple[state_lib.TrainState, list[dict[str, Any]]]]:
    """Runs `count` microbatches, yielding the state and the metrics of each, `chunk` at a time.

    Metrics wait on the devices and come over together.
    """
    pending = []
    for number in range(1, count + 1):
        state, metrics = step_lib.train_step(state, source.draw(state))
        pending.append(metrics)
        if len(pending) == chunk or number == count:
            yield state, [_on_host(row) for row in jax.device_get(pending)]
            pending = []


def _on_host(metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: value.item() for name, value in metrics.items()}


def _stop_if_lost(metrics: dict[str, Any], limit: int) -> None:
    """Ends a run whose microbatches or parameters are no longer finite, before it is saved."""
    if not metrics["params_finite"]:
        raise errors.TrainingLostError(
            f"the parameters are not finite after microbatch {metrics['microbatch']} (update "
            f"{metrics['update']}): the learning rate is too high; the last checkpoint is intact"
        )
    if metrics["skipped_in_a_row"] < limit:
        return
    terms = [
        name.removeprefix("loss_")
        for name, value in metrics.items()
        if name.startswith("loss_") and not math.isfinite(value)
    ]
    culprit = "loss terms " + ", ".join(terms) if terms else "gradients"
    raise errors.TrainingLostError(
        f"{limit} microbatches in a row were not finite, up to microbatch "
        f"{metrics['microbatch']} (update {metrics['update']}): {culprit}; parameters are those "
        "of the last finite one, and the last checkpoint is intact"
    )


def _run_epoch(
    state: state_lib.TrainState, source: sources.Source, epoch: int, recorder: record.Recorder
) -> tuple[state_lib.TrainState, dict[str, Any]]:
    """One epoch; every microbatch's loss enters the means, skipped ones are counted."""
    training = state.config.training
    finite_losses, finite_nmses, updates, skipped = [], [], 0, 0
    chunks = _microbatches(state, source, training.steps_per_epoch, training.log_every)
    for state, rows in chunks:
        for row in rows:
            recorder.full_log(row)
            updates += row["update_applied"]
            skipped += not row["finite"]
            if row["finite"]:
                finite_losses.append(row["loss"])
                finite_nmses.append(row["nmse"])
            if not row["update_applied"]:
                del row["param_delta_norm"]
        window = {
            "epoch": epoch,
            "window_loss": _mean([row["loss"] for row in rows if row["finite"]]),
            "window_microbatches": len(rows),
        }
        recorder.row("microbatch", rows[-1]["microbatch"], window | rows[-1])
        for row in rows:
            _stop_if_lost(row, state.config.optimizer.max_consecutive_nonfinite)
        recorder.advance(len(rows), epoch, window["window_loss"])
    return state, {
        "train_loss": _mean(finite_losses),
        "train_nmse": _mean(finite_nmses),
        "microbatches": training.steps_per_epoch,
        "updates": updates,
        "skipped": skipped,
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _validation_row(result: evaluation.Evaluation) -> dict[str, float]:
    return {
        "val_loss": result.mean("loss"),
        "val_nmse": result.mean("nmse"),
        "val_effective_nmse": result.mean("effective_nmse"),
        "val_count_accuracy": result.mean("count_correct"),
        "output_variance_ratio": result.output_variance_ratio,
    }


def _start(
    state: state_lib.TrainState,
    source: sources.Source,
    recorder: record.Recorder,
    heldout: evaluation.Heldout,
) -> None:
    """What is told before the first step: dead parameters, and the score of knowing nothing."""
    before = source.position()
    for path in dead_parameters(state, source.draw(state)):
        recorder.line(f"warning: the gradient of {path} is identically zero")
    source.restore(before)  # the first microbatch is still to come
    first = _validation_row(evaluation.evaluate(state, heldout))
    recorder.row("start", 0, {"epoch": 0} | first)
    recorder.line(
        f"before training: val_loss {first['val_loss']:.4f}, val_nmse {first['val_nmse']:.4f}"
    )


def train(
    config: config_lib.Config,
    workdir: pathlib.Path,
    dataset: record_dataset.Dataset | None = None,
    *,
    after_epoch: Callable[[], object] = lambda: None,
    placement: devices.Placement | None = None,
) -> state_lib.TrainState:
    """Trains a configuration in a folder, from its newest good checkpoint if there is one.

    Args:
      config: the run.
      workdir: gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and figures/.
      dataset: records to train and validate on; without, scenes are simulated.
      after_epoch: is called when an epoch's row and checkpoint are on disk; what it raises ends
        the run, which can go on later.
      placement: the devices that share every microbatch; all there are if not given. It is not
        part of the run: the next start may have others.

    Returns:
      The state after the last epoch.

    Raises:
      ConfigError: the folder holds a run of another configuration or of other records, or the
        records are of another system, the fields are named; or the devices cannot share a
        microbatch evenly.
      RunError: a checkpoint cannot be written, records lack a split, or the processes of the run
        do not share a folder.
      TrainingLostError: losses, gradients or parameters are no longer finite.
    """
    placement = placement or devices.all_devices()
    devices.require_shares(config, placement)
    source = (
        sources.Simulated(config, placement)
        if dataset is None
        else sources.Stored(config, dataset, placement)
    )
    _open_workdir(config, workdir)
    training = config.training
    state = state_lib.create_train_state(config, placement)
    checkpoints = checkpoint.Checkpoints(workdir, training.keep_checkpoints)
    restored, warnings = checkpoints.restore_newest(state)
    progress = Progress()
    if restored is not None:
        state, progress = restored.state, _progress_of(restored)
        source.restore(progress.data)
    total = training.epochs * training.steps_per_epoch
    first = processes.is_first()
    with record.Recorder(workdir, progress.epoch, total) if first else record.Silent() as recorder:
        for warning in warnings:
            recorder.line(f"warning: {warning}")
        if progress.epoch == training.epochs:
            recorder.line(f"all {training.epochs} epochs are done already")
            return state
        return _run(state, source, progress, checkpoints, recorder, after_epoch)


def _run(
    state: state_lib.TrainState,
    source: sources.Source,
    progress: Progress,
    checkpoints: checkpoint.Checkpoints,
    recorder: record.Recorder,
    after_epoch: Callable[[], object],
) -> state_lib.TrainState:
    """All epochs that are left, with a row, a line and a checkpoint for each."""
    config, training = state.config, state.config.training
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    recorder.line(
        f"{size} parameters; {training.epochs} epochs of {training.steps_per_epoch} microbatches "
        f"of {training.batch_size} scenes on {state.placement}; compiling"
    )
    heldout = source.heldout(evaluation.validation_stream(config), training.validation_scenes)
    training_scenes = source.heldout("train", evaluation.CONSTANT_SCENES)
    yardsticks = evaluation.yardsticks(config, heldout, training_scenes)
    del training_scenes
    constant, snapshots, floor = (float(np.mean(yardsticks[n])) for n in evaluation.YARDSTICKS)
    beside = f"constant {constant:.3f} | snapshots {snapshots:.3f} | shrunk truth {floor:.4f}"
    if progress.epoch:
        recorder.line(f"going on after epoch {progress.epoch} of {training.epochs}")
        recorder.skip(progress.epoch * training.steps_per_epoch)
    else:
        _start(state, source, recorder, heldout)
    for epoch in range(progress.epoch + 1, training.epochs + 1):
        if 0 < training.early_stopping_epochs <= progress.epoch - progress.best_epoch:
            recorder.line(f"no better val_nmse for {training.early_stopping_epochs} epochs")
            break
        began = time.monotonic()
        state, row = _run_epoch(state, source, epoch, recorder)
        row |= _validation_row(evaluation.evaluate(state, heldout))
        progress = progress.after(epoch, row["val_nmse"], source.position())
        row |= {"constant_nmse": constant, "snapshots_nmse": snapshots}
        recorder.row("epoch", epoch * training.steps_per_epoch, {"epoch": epoch} | row)
        recorder.sync()
        checkpoints.save(state, epoch, dataclasses.asdict(progress), row["val_nmse"])
        recorder.line(
            f"epoch {epoch}/{training.epochs}: loss train {row['train_loss']:.4f} val "
            f"{row['val_loss']:.4f} | NMSE train {row['train_nmse']:.4f} val "
            f"{row['val_nmse']:.4f} | yardsticks: {beside} | variance ratio "
            f"{row['output_variance_ratio']:.2f} | {time.monotonic() - began:.1f} s"
        )
        after_epoch()
    return state
