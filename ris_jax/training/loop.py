"""Training loop: draw, step, record, validate, save; resume from the last checkpoint."""

import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data.records import record_dataset
from ris_jax.physics import scenes
from ris_jax.training import (
    callbacks,
    evaluation,
    extension,
    heldout_table,
    optimizer,
    profiling,
    run_clock,
    sources,
)
from ris_jax.training import progress as progress_lib
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices, distributed, memory, signals
from ris_jax.training.saving import checkpoint, metrics_log, retention, work_directory


def _progress_of(restored: checkpoint.Restored) -> progress_lib.Progress:
    """Return the progress stored in a checkpoint.

    Raises:
      RunError: the checkpoint holds no valid progress.
    """
    try:
        return progress_lib.Progress.from_json(restored.progress)
    except ValueError as error:
        raise errors.RunError(
            f"checkpoint of epoch {restored.epoch}: progress: need what `train` writes; got "
            f"{errors.brief(repr(restored.progress))} ({errors.brief(error)})"
        ) from error


def dead_parameters(state: state_lib.TrainState, batch: scenes.Scene) -> list[str]:
    """Return the paths of parameters whose gradient is identically zero on a batch.

    Args:
      state: before the first step. It is donated to one training step, from which the gradients
        are read; a separate program would take as long to compile.
      batch: scenes with leading axis B.

    Returns:
      The paths; empty if the gradients are not finite, because the optimizer then keeps none.
    """
    after, metrics = step_lib.train_step_in_place(state, batch)
    if not metrics["finite"]:
        return []
    packed = optimizer.layout(after.params, after.config.optimizer.method)
    largest = optimizer.largest_gradients(devices.to_host(after.opt_state), packed)
    return [path for path, value in largest.items() if value == 0.0]


def _microbatches(
    state: state_lib.TrainState,
    source: sources.Source,
    done: int,
    stop: signals.StopSignal,
) -> Iterator[tuple[state_lib.TrainState, list[dict[str, Any]]]]:
    """Run the remaining microbatches of an epoch; stop early when a signal arrives.

    Yields the state and the metrics of each microbatch, at the end of every window of `log_every`
    and at the end. Metrics stay on the devices until then and are transferred together.
    """
    training, pending = state.config.training, []
    for number in range(done + 1, training.steps_per_epoch + 1):
        if stop.asked():
            break
        state, metrics = step_lib.train_step_in_place(state, source.draw(state))
        pending.append(metrics)
        if number % training.log_every == 0:
            yield state, [_on_host(row) for row in jax.device_get(pending)]
            pending = []
    if pending:
        yield state, [_on_host(row) for row in jax.device_get(pending)]


def _on_host(metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: value.item() for name, value in metrics.items()}


def _stop_if_lost(metrics: dict[str, Any], limit: int) -> None:
    """Stop a run with non-finite microbatches or parameters, before it is saved."""
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
        f"{limit} consecutive microbatches were not finite, up to microbatch "
        f"{metrics['microbatch']} (update {metrics['update']}): {culprit}; the parameters are "
        "those of the last finite microbatch, and the last checkpoint is intact"
    )


def _run_epoch(
    state: state_lib.TrainState,
    source: sources.Source,
    progress: progress_lib.Progress,
    recorder: metrics_log.Recorder,
    stop: signals.StopSignal,
    clock: run_clock.RunClock,
) -> tuple[state_lib.TrainState, progress_lib.Progress]:
    """Run the rest of the epoch; stop early when a signal arrives.

    The means include the loss of every finite microbatch; skipped ones are counted.
    """
    training, epoch = state.config.training, progress.epoch + 1
    clock.begin()
    chunks = _microbatches(state, source, progress.so_far.microbatches, stop)
    for state, rows in chunks:
        for row in rows:
            recorder.full_log(row)
            progress = progress.plus(row)
            if not row["update_applied"]:
                del row["param_delta_norm"]
        window, done = progress.window, progress.so_far.microbatches
        if done % training.log_every == 0 or done == training.steps_per_epoch:
            place = {
                "epoch": epoch,
                "window_loss": window.mean_loss,
                "window_microbatches": window.microbatches,
            }
            recorder.row("microbatch", rows[-1]["microbatch"], place | rows[-1])
            progress = dataclasses.replace(progress, window=progress_lib.Tally())
        for row in rows:
            _stop_if_lost(row, state.config.optimizer.max_consecutive_nonfinite)
        clock.add(len(rows))
        if sys.stderr.isatty():  # the bar shows rate and remaining time
            recorder.advance(len(rows), epoch, window.mean_loss)
        elif clock.due():
            recorder.line(clock.line(progress.microbatches(training), window.mean_loss))
    return state, progress


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
    recorder: metrics_log.Recorder,
    heldout: evaluation.Heldout,
    watching: callbacks.Callbacks,
) -> None:
    """Report dead parameters and the validation score before the first step."""
    before = source.position()
    another = state_lib.create_train_state(state.config, state.placement)
    batch = source.draw(state)
    for path in watching.timed(profiling.COMPILATION, dead_parameters, another, batch):
        recorder.line(f"warning: the gradient of {path} is identically zero")
    source.restore(before)  # draw the first microbatch again
    some = heldout.first_batch()
    first = _validation_row(evaluation.evaluate(state, some))
    recorder.row("start", 0, {"epoch": 0} | first)
    recorder.line(
        f"before training: val_loss {first['val_loss']:.4f}, val_nmse {first['val_nmse']:.4f} "
        f"({some.num_scenes} scenes)"
    )


def train(
    config: config_lib.Config,
    workdir: str | pathlib.Path,
    dataset: record_dataset.Dataset | None = None,
    *,
    after_epoch: Callable[[], object] = lambda: None,
    placement: devices.DevicePlacement | None = None,
    watching: callbacks.Callbacks | None = None,
    wait: bool = False,
) -> state_lib.TrainState:
    """Train a configuration in a work directory, from its newest intact checkpoint if any.

    A run in the directory may have fewer epochs than `config`; it is then extended.

    Args:
      config: the run.
      workdir: gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and figures/.
      dataset: records to train and validate on; by default scenes are simulated.
      after_epoch: called after an epoch's row and checkpoint are on disk. An exception in it ends
        the run, which can be resumed.
      placement: devices that share every microbatch; all devices by default. It is not part of
        the run: a resumed run may use others.
      watching: callbacks for figures and timing.
      wait: wait for another process that trains in the directory instead of failing.

    Returns:
      The state after the last epoch.

    Raises:
      ConfigError: the directory holds a run of another configuration, of more epochs, or of other
        records, or the records belong to another system (the fields are listed); or the devices
        do not divide a microbatch evenly.
      RunError: a checkpoint cannot be written, records lack a split, another process trains in
        the directory, or the processes of the run do not share one.
      TrainingLostError: losses, gradients or parameters are no longer finite.
      OutOfMemoryError: a device is out of memory; the message proposes smaller microbatches.
      Interrupted: SIGTERM or Ctrl-C arrived between two microbatches; the progress is saved.
    """
    workdir, placement = pathlib.Path(workdir), placement or devices.all_devices()
    devices.require_shares(config, placement)
    source = (
        sources.Simulated(config, placement)
        if dataset is None
        else sources.Stored(config, dataset, placement)
    )
    watching = watching or callbacks.Callbacks()
    source = watching.source(source)
    with work_directory.opened(config, workdir, wait=wait), memory.advised(config, placement):
        extended = extension.extend(config, workdir)
        return _continue(config, workdir, source, placement, after_epoch, watching, extended)


def _continue(
    config: config_lib.Config,
    workdir: pathlib.Path,
    source: sources.Source,
    placement: devices.DevicePlacement,
    after_epoch: Callable[[], object],
    watching: callbacks.Callbacks,
    extended: extension.Extension | None,
) -> state_lib.TrainState:
    """Resume the run from its newest intact checkpoint, in a locked directory."""
    training = config.training
    state = state_lib.create_train_state(config, placement)
    checkpoints = retention.RunCheckpoints(workdir, training)
    restored, warnings = checkpoints.restore_newest(state)
    progress = progress_lib.Progress()
    if restored is not None:
        state, progress = restored.state, _progress_of(restored)
        source.restore(progress.data)
    done, total = progress.microbatches(training), training.epochs * training.steps_per_epoch
    first = distributed.is_first()
    opened = (
        metrics_log.Recorder(workdir, progress.epoch, done, total)
        if first
        else metrics_log.Silent()
    )
    with opened as recorder, signals.StopSignal() as stop:
        for warning in warnings:
            recorder.line(f"warning: {warning}")
        if progress.epoch == training.epochs:
            recorder.line(
                f"all {training.epochs} epochs are done already; a larger --epochs extends the run"
            )
            return state
        if extended is not None:
            recorder.line(extended.line(progress.microbatches(training)))
        return _run(state, source, progress, checkpoints, recorder, stop, after_epoch, watching)


def _run(
    state: state_lib.TrainState,
    source: sources.Source,
    progress: progress_lib.Progress,
    checkpoints: retention.RunCheckpoints,
    recorder: metrics_log.Recorder,
    stop: signals.StopSignal,
    after_epoch: Callable[[], object],
    watching: callbacks.Callbacks,
) -> state_lib.TrainState:
    """Run the remaining epochs, with a row, a line and a checkpoint for each."""
    config, training = state.config, state.config.training
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    recorder.line(
        f"{size} parameters; {training.epochs} epochs of {training.steps_per_epoch} microbatches "
        f"of {training.batch_size} scenes on {state.placement}; compiling"
    )
    heldout = source.heldout(evaluation.validation_stream(config), training.validation_scenes)
    yardsticks = evaluation.yardsticks(config, heldout, source.constant())
    constant, snapshots, floor = (float(np.mean(yardsticks[n])) for n in evaluation.YARDSTICKS)
    beside = f"constant {constant:.3f} | snapshots {snapshots:.3f} | shrunk truth {floor:.4f}"
    if done := progress.microbatches(training):
        recorder.line(f"resuming after {progress.place(training)}")
        recorder.skip(done)
    else:
        _start(state, source, recorder, heldout, watching)
    clock = run_clock.RunClock(training)
    for epoch in range(progress.epoch + 1, training.epochs + 1):
        if 0 < training.early_stopping_epochs <= progress.epoch - progress.best_epoch:
            recorder.line(f"no better val_nmse for {training.early_stopping_epochs} epochs")
            break
        began = time.monotonic()
        state, progress = _run_epoch(state, source, progress, recorder, stop, clock)
        if progress.so_far.microbatches < training.steps_per_epoch or stop.asked():
            _leave(state, progress.at(source.position()), checkpoints, recorder, stop)
        result = watching.timed("evaluation", evaluation.evaluate, state, heldout)
        row = progress.so_far.epoch_row() | _validation_row(result)
        progress = progress.after(epoch, row["val_nmse"], source.position())
        row |= {"constant_nmse": constant, "snapshots_nmse": snapshots}
        position = epoch * training.steps_per_epoch
        recorder.row("epoch", position, {"epoch": epoch} | row)
        look = callbacks.CallbackData(epoch, result, heldout)
        recorder.images(watching.timed("figures", watching.figures, look), position)
        recorder.sync()
        watching.timed(
            "checkpoint",
            checkpoints.save_epoch, state, epoch, progress.to_json(), row["val_nmse"],
        )  # fmt: skip
        recorder.line(
            f"epoch {epoch}/{training.epochs}: loss train {row['train_loss']:.4f} val "
            f"{row['val_loss']:.4f} | NMSE train {row['train_nmse']:.4f} val "
            f"{row['val_nmse']:.4f} | baselines: {beside} | variance ratio "
            f"{row['output_variance_ratio']:.2f} | {time.monotonic() - began:.1f} s"
        )
        after_epoch()
        if epoch == training.epochs:
            target = devices.to_host(heldout.batches[0][1])
            for line in heldout_table.lines(config, result.first, target):
                recorder.line(line)
    return state


def _leave(
    state: state_lib.TrainState,
    progress: progress_lib.Progress,
    checkpoints: retention.RunCheckpoints,
    recorder: metrics_log.Recorder,
    stop: signals.StopSignal,
) -> NoReturn:
    """Save the unfinished epoch and end the run after a signal."""
    recorder.sync()
    training = state.config.training
    done = progress.microbatches(training)
    if not done:
        raise stop.error(" before the first microbatch; the same command starts again")
    checkpoints.save_within(state, done, progress.to_json())
    raise stop.error(
        f" after {progress.place(training)}, which is saved; the same command resumes from there"
    )
