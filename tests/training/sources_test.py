"""Training from disk: stored scenes, and bit-identical resume."""

import os
import signal

import chex
import jax
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.data.records import record_dataset, simulation
from ris_jax.errors import Interrupted
from ris_jax.training import evaluation, loop, sources
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.processes import devices
from ris_jax.training.saving import checkpoint, metrics_log

COUNTS = {"train": 48, "validation": 20}


@pytest.fixture(scope="module")
def config(tiny_config) -> config_lib.Config:
    """Return two epochs of six microbatches of eight scenes; an epoch is a pass over 48 scenes."""
    return config_lib.override(tiny_config, {"model.dropout": 0.1, "optimizer.accumulation": 4})


@pytest.fixture(scope="module")
def dataset(config, tmp_path_factory) -> record_dataset.Dataset:
    folder = tmp_path_factory.mktemp("records")
    simulation.simulate(config, folder, COUNTS, shard_scenes=20)
    return record_dataset.open_dataset(folder)


@pytest.fixture(scope="module")
def whole(config, dataset, tmp_path_factory):
    """Return rows and last state of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    state = loop.train(config, workdir, dataset)
    return workdir, state


@pytest.mark.parametrize("shared", [True, False])
def test_scenes_reach_the_device_bit_for_bit(dataset, shared):
    batch = dataset.split("train").gather(np.array([3, 40, 3]))
    if not shared:
        codes = batch.codes * np.array([1, 1j, -1])[:, None, None]
        batch = batch._replace(codes=codes.astype(np.complex64))
    scene = jax.device_get(sources.as_scene(batch, devices.one_device()))
    fields = scene.measurement._asdict() | scene.truth._asdict()
    codes = fields.pop("codes")
    np.testing.assert_array_equal(codes, np.broadcast_to(batch.codes, codes.shape))
    for name, values in fields.items():
        assert values.tobytes() == batch.scenes[name].tobytes(), name
        assert values.dtype == batch.scenes[name].dtype
    assert scene.signals.shape == (3, 6, 0)


@pytest.mark.full
def test_with_learning_rate_zero_train_loss_is_validation_loss(config, dataset, tmp_path):
    """Each scene of the split occurs once in an epoch."""
    still = config_lib.override(
        config,
        {
            "optimizer.learning_rate": 0.0,
            "model.dropout": 0.0,
            "training.validation_scenes": 48,
            "training.validate_on_training_scenes": True,
        },
    )
    loop.train(still, tmp_path, dataset)
    for row in metrics_log.epoch_rows(tmp_path):
        assert row["train_loss"] == pytest.approx(row["val_loss"], abs=1e-5)
        assert row["train_nmse"] == pytest.approx(row["val_nmse"], abs=1e-5)


class _Stopped(BaseException):
    """Simulated kill; not an Exception, so that no code handles it."""


@pytest.mark.full
@pytest.mark.parametrize(("microbatch", "how"), [(2, _Stopped), (8, _Stopped), (9, Interrupted)])
def test_stopped_and_started_again(config, dataset, whole, tmp_path, monkeypatch, microbatch, how):
    """After a kill the epoch runs again; after a stop request the next scenes follow."""
    draw = sources.Stored.draw

    def stopping(self, state):
        if int(state.step) == microbatch - 1:
            if how is _Stopped:
                raise _Stopped
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, state)

    monkeypatch.setattr(sources.Stored, "draw", stopping)
    with pytest.raises(how):
        loop.train(config, tmp_path, dataset)
    assert (tmp_path / "interrupted" / "9").exists() == (how is Interrupted)
    monkeypatch.undo()
    # Open the data anew, as another process does.
    state = loop.train(config, tmp_path, record_dataset.open_dataset(dataset.folder))
    assert metrics_log.read_rows(tmp_path) == metrics_log.read_rows(whole[0])
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.full
def test_the_checkpoint_holds_the_identity_and_position_of_the_data(config, dataset, whole):
    checkpoints = checkpoint.Checkpoints(whole[0], 2, read_only=True)
    restored, _ = checkpoints.restore_best(state_lib.create_train_state(config))
    position = restored.progress["data"]
    assert position["identity"] == dataset.identity
    assert position["iterator"] == {"next_index": int(restored.state.step)}


def test_other_scenes_are_refused(config, dataset, tmp_path):
    other_folder = tmp_path / "other"
    simulation.simulate(config, other_folder, {**COUNTS, "train": 49}, shard_scenes=20)
    other = sources.Stored(config, record_dataset.open_dataset(other_folder), devices.one_device())
    ours = sources.Stored(config, dataset, devices.one_device())
    simulated = sources.Simulated(config, devices.one_device())
    with pytest.raises(config_lib.ConfigError, match=rf"\(records {dataset.identity[:12]}\); got"):
        other.restore(ours.position())
    with pytest.raises(config_lib.ConfigError, match=r"of this run \(simulated scenes\); got"):
        ours.restore(simulated.position())
    with pytest.raises(config_lib.ConfigError, match=r"--data: need the records .*; got none"):
        simulated.restore(ours.position())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"system.num_antennas": 5}, r"system\.num_antennas: need 4 as in .*; got 5"),
        ({"scene.max_sources": 3}, r"scene\.max_sources: need 2 as in .*; got 3"),
        ({"training.fixed_scenes": 48}, r"training\.fixed_scenes: need 0 .*; got 48"),
    ],
)
def test_configurations_of_other_records_are_refused(config, dataset, tmp_path, changes, named):
    other = config_lib.override(config, changes)
    with pytest.raises(config_lib.ConfigError, match=named):
        loop.train(other, tmp_path / "run", dataset)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [5, 1000])
def test_heldout_scenes_are_the_first_of_the_split(config, dataset, count):
    source = sources.Stored(config, dataset, devices.one_device())
    heldout = source.heldout("validation", count)
    assert heldout.num_scenes == min(count, 20)
    assert {len(target.snr) for _, target in heldout.batches} == {8}
    stored = dataset.split("validation").gather(np.arange(heldout.num_scenes))
    found = np.concatenate([features.snapshots for features, _ in heldout.batches])
    np.testing.assert_array_equal(found[: heldout.num_scenes], stored.scenes["snapshots"])
    # They equal the scenes drawn from the stream of that name.
    drawn = evaluation.draw_heldout(config, "validation", heldout.num_scenes)
    whole = min(heldout.num_scenes, 8)
    ours, theirs = (jax.tree.map(lambda x: x[:whole], h.batches[0]) for h in (heldout, drawn))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.full
def test_a_stored_run_traces_its_step_once(config, dataset, tmp_path):
    jax.clear_caches()
    loop.train(config, tmp_path, dataset)
    assert step_lib.donating_step.num_compiled() == 1
