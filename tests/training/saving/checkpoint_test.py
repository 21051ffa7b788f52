"""Checkpoints under faults of disks, kills and users."""

import errno
import json
import math
import os
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib
from ris_jax.training.saving import checkpoint, manifest


@pytest.fixture(scope="module")
def config(tiny_config) -> config_lib.Config:
    """Return a configuration with dropout and a window of two microbatches."""
    return config_lib.override(tiny_config, {"model.dropout": 0.1, "optimizer.accumulation": 2})


def _copy(state: state_lib.TrainState) -> state_lib.TrainState:
    return jax.tree.map(jnp.copy, state)


@pytest.fixture(scope="module")
def trained(config) -> state_lib.TrainState:
    """Return the state after three microbatches, one into a window. Copy it before a step."""
    state = state_lib.create_train_state(config)
    for _ in range(3):
        state, _ = step_lib.train_step(state, step_lib.draw_batch(config, state.step))
    return state


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory) -> pathlib.Path:
    """Return a directory with checkpoints of epochs 1 (the better) and 2. Copy it before damage."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = checkpoint.Checkpoints(workdir, keep=2)
    checkpoints.save(trained, 1, {"epoch": 1}, 0.25)
    checkpoints.save(trained, 2, {"epoch": 2}, 0.5)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path) -> pathlib.Path:
    """Return a copy of `saved` for one test."""
    return shutil.copytree(saved, tmp_path / "run")


def _files(workdir: pathlib.Path, epoch: int) -> list[str]:
    folder = workdir / "checkpoints" / str(epoch)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _damage_metadata(workdir: pathlib.Path) -> None:
    """Damage the metadata of epoch 2 that orbax reads when it opens the directory."""
    path = workdir / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    values = json.loads(path.read_text()) | {"commit_timestamp_nsecs": [[]]}
    path.write_text(json.dumps(values))


def _epochs(workdir: pathlib.Path) -> list[int]:
    """Return the epochs with any file."""
    names = {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}
    return sorted(int(name) for name in names)


def _assert_identical(ours, theirs):
    """Compare bit for bit, with dtypes."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, here), there in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        here, there = np.asarray(here), np.asarray(there)
        assert here.dtype == there.dtype, jax.tree_util.keystr(path)
        assert here.tobytes() == there.tobytes(), jax.tree_util.keystr(path)


class TestRoundTrip:
    def test_is_bit_identical_and_so_is_the_next_step(self, config, trained, saved):
        template = state_lib.create_train_state(config)
        restored, warnings = checkpoint.Checkpoints(saved, 2).restore_newest(template)
        assert (restored.epoch, restored.progress, warnings) == (2, {"epoch": 2}, [])
        _assert_identical(trained, restored.state)
        batch = step_lib.draw_batch(config, trained.step)
        _assert_identical(
            step_lib.train_step(_copy(trained), batch),
            step_lib.train_step(_copy(restored.state), batch),
        )

    def test_a_restored_state_compiles_nothing(self, config, trained, saved):
        batch = step_lib.draw_batch(config, trained.step)
        step_lib.train_step(_copy(trained), batch)
        template = state_lib.create_train_state(config)
        restored, _ = checkpoint.Checkpoints(saved, 2).restore_newest(template)
        before = step_lib.keeping_step.num_compiled()
        step_lib.train_step(restored.state, batch)
        assert step_lib.keeping_step.num_compiled() == before

    @pytest.mark.parametrize("value", [math.inf, math.nan, 0.1 + 0.2])
    def test_progress_keeps_every_float(self, config, trained, tmp_path, value):
        checkpoint.Checkpoints(tmp_path, 1).save(trained, 1, {"best_val_nmse": value}, value)
        restored, _ = checkpoint.Checkpoints(tmp_path, 1).restore_newest(trained)
        np.testing.assert_equal(restored.progress["best_val_nmse"], value)


def _flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "every", "problem"),
        [
            (_flip, 1, "has changed since it was written"),
            (_truncate, 4, "has changed since it was written"),
            (pathlib.Path.unlink, 4, "is missing"),
        ],
        ids=["flipped", "truncated", "missing"],
    )
    def test_any_file_is_named_and_the_previous_checkpoint_is_used(
        self, trained, saved, tmp_path, damage, every, problem
    ):
        names = _files(saved, 2)[::every]
        assert len(names) >= 4
        for number, name in enumerate(names):
            workdir = shutil.copytree(saved, tmp_path / str(number))
            damage(workdir / "checkpoints" / "2" / name)
            checkpoints = checkpoint.Checkpoints(workdir, 2)
            restored, warnings = checkpoints.restore_newest(trained)
            expected = f"checkpoint of epoch 2 is not used: file {name} {problem}"
            assert warnings == [expected]
            assert restored.epoch == 1
            assert _epochs(workdir) == [1]
        _assert_identical(trained, restored.state)
        # The run resumes there and writes that epoch again.
        checkpoints.save(trained, 2, {"epoch": 2}, 0.5)
        assert checkpoints.restore_newest(trained)[0].epoch == 2

    def test_an_interrupted_save_is_not_used(self, trained, workdir):
        (workdir / "checkpoints" / "2.sha256.json").unlink()
        restored, (warning,) = checkpoint.Checkpoints(workdir, 2).restore_newest(trained)
        assert restored.epoch == 1
        assert "epoch 2 is not used: writing it was interrupted" in warning

    @pytest.mark.parametrize(
        "content", [b"", b"\xff\x00", b"{", b"[]", b"null", b"{}", b'{"files": 3}', b"[" * 100_000]
    )
    def test_manifest_is_named(self, trained, workdir, content):
        (workdir / "checkpoints" / "2.sha256.json").write_bytes(content)
        read_only = checkpoint.Checkpoints(workdir, 2, read_only=True)
        assert read_only.restore_best(trained)[0].epoch == 1
        restored, warnings = checkpoint.Checkpoints(workdir, 2).restore_newest(trained)
        assert restored.epoch == 1
        assert warnings == ["checkpoint of epoch 2 is not used: 2.sha256.json cannot be read"]

    def test_all_checkpoints_starts_a_new_run(self, trained, workdir):
        for epoch in (1, 2):
            _flip(max((workdir / "checkpoints" / str(epoch)).rglob("d/*")))
        with pytest.raises(errors.RunError, match=r"no usable .*epoch 1 is not.*epoch 2 is not"):
            checkpoint.Checkpoints(workdir, 2, read_only=True).restore_best(trained)
        assert _epochs(workdir) == [1, 2]  # reading removes nothing
        restored, warnings = checkpoint.Checkpoints(workdir, 2).restore_newest(trained)
        assert restored is None
        assert [warning.split(" is not used")[0] for warning in warnings] == [
            "checkpoint of epoch 2",
            "checkpoint of epoch 1",
        ]
        assert _epochs(workdir) == []

    def test_best_checkpoint_falls_back_to_the_next_best(self, trained, workdir):
        _truncate(workdir / "checkpoints" / "1" / "_CHECKPOINT_METADATA")
        checkpoints = checkpoint.Checkpoints(workdir, 2, read_only=True)
        restored, (warning,) = checkpoints.restore_best(trained)
        assert restored.epoch == 2
        assert "epoch 1 is not used: file _CHECKPOINT_METADATA" in warning

    def test_metadata_is_named(self, trained, workdir):
        _damage_metadata(workdir)
        with pytest.raises(errors.RunError, match="the metadata of a checkpoint cannot be read"):
            checkpoint.Checkpoints(workdir, 2, read_only=True)
        assert _epochs(workdir) == [1, 2]
        restored, (warning,) = checkpoint.Checkpoints(workdir, 2).restore_newest(trained)
        assert restored.epoch == 1
        assert "epoch 2 is not used: file _CHECKPOINT_METADATA has changed since" in warning
        assert _epochs(workdir) == [1]

    def test_leftovers_of_killed_saves_are_removed(self, trained, workdir):
        root = workdir / "checkpoints"
        shutil.copytree(root / "2", root / "3.orbax-checkpoint-tmp")
        (root / "4.sha256.tmp").write_text("{")
        (root / "5.sha256.json").write_text("{}")
        checkpoint.Checkpoints(workdir, 2, read_only=True)
        assert _epochs(workdir) == [1, 2, 3, 4, 5]
        assert checkpoint.Checkpoints(workdir, 2).restore_newest(trained)[0].epoch == 2
        assert _epochs(workdir) == [1, 2]


class TestIntactCheckpointsAreKept:
    """An intact checkpoint is never removed because reading it failed."""

    def test_out_of_memory(self, trained, workdir, monkeypatch):
        def restore(*_, **__):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")

        checkpoints = checkpoint.Checkpoints(workdir, 2)
        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        for read in (checkpoints.restore_newest, checkpoints.restore_best):
            with pytest.raises(errors.RunError, match=r"intact but .*: RESOURCE.* memory$"):
                read(trained)
        assert _epochs(workdir) == [1, 2]

    def test_another_configuration(self, config, workdir):
        other = config_lib.override(config, {"model.width": 24, "training.seed": 3})
        template = jax.eval_shape(lambda: state_lib.create_train_state(other))
        named = r"model\.width=24 \(there 16\), training\.seed=3 \(there 0\)"
        with pytest.raises(config_lib.ConfigError, match=named):
            checkpoint.Checkpoints(workdir, 2).restore_newest(template)
        assert _epochs(workdir) == [1, 2]

    def test_unreadable_metadata(self, workdir):
        _damage_metadata(workdir)
        manifest.write(workdir / "checkpoints", 2, 0.5)
        for read_only in (True, False):
            with pytest.raises(errors.RunError, match="the metadata of a checkpoint cannot be"):
                checkpoint.Checkpoints(workdir, 2, read_only=read_only)
        assert _epochs(workdir) == [1, 2]

    @pytest.mark.parametrize("error", [Exception("from tensorstore"), AttributeError("x")])
    def test_any_failure_of_restoring(self, trained, workdir, monkeypatch, error):
        def restore(*_, **__):
            raise error

        checkpoints = checkpoint.Checkpoints(workdir, 2)
        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        with pytest.raises(errors.RunError, match="intact but cannot be restored"):
            checkpoints.restore_newest(trained)

    def test_invalid_configuration(self, trained, workdir):
        """The hash is correct; another version may have written it."""
        path = workdir / "checkpoints" / "2" / "config" / "metadata"
        path.write_text(path.read_text().replace('"depth": 1', '"depth": "1"'))
        manifest.write(workdir / "checkpoints", 2, 0.5)
        with pytest.raises(errors.RunError, match=r"checkpoint of epoch 2 .*model\.depth"):
            checkpoint.Checkpoints(workdir, 2).restore_newest(trained)
        assert _epochs(workdir) == [1, 2]

    @pytest.mark.parametrize("epoch", [1, 2])
    def test_an_epoch_saved_again(self, trained, workdir, epoch):
        checkpoints = checkpoint.Checkpoints(workdir, 2)
        with pytest.raises(errors.RunError, match=rf"epoch {epoch} is not written.* epoch 2"):
            checkpoints.save(trained, epoch, {"epoch": epoch}, 0.1)
        restored, warnings = checkpoints.restore_newest(trained)
        assert (restored.epoch, warnings) == (2, [])

    def test_no_checkpoints(self, tmp_path):
        with pytest.raises(errors.RunError, match="no checkpoints in"):
            checkpoint.Checkpoints(tmp_path, 2, read_only=True)
        assert not list(tmp_path.iterdir())


class TestRetention:
    def _save(self, workdir, state, scores, first=1):
        for epoch, score in enumerate(scores, first):
            # Open the checkpoints anew for each epoch, as separate processes do.
            checkpoint.Checkpoints(workdir, 2).save(state, epoch, {}, score)

    def test_keeps_the_newest_and_the_best(self, trained, tmp_path):
        self._save(tmp_path, trained, [0.5, 0.1, math.nan, 0.3, 0.4])
        assert _epochs(tmp_path) == [2, 4, 5]
        assert checkpoint.Checkpoints(tmp_path, 2).restore_best(trained)[0].epoch == 2
        self._save(tmp_path, trained, [0.05, 0.2, 0.2], first=6)
        assert _epochs(tmp_path) == [6, 7, 8]
        assert checkpoint.Checkpoints(tmp_path, 2).restore_best(trained)[0].epoch == 6

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_non_finite_score_is_never_the_best(self, trained, tmp_path, bad):
        self._save(tmp_path, trained, [bad, bad, bad])
        assert _epochs(tmp_path) == [2, 3]
        self._save(tmp_path, trained, [7.0, bad, bad], first=4)
        assert _epochs(tmp_path) == [4, 5, 6]
        assert checkpoint.Checkpoints(tmp_path, 2).restore_best(trained)[0].epoch == 4

    def test_the_older_checkpoint_is_removed_after_the_newer_is_complete(
        self, trained, tmp_path, monkeypatch
    ):
        """With keep=1, a kill between files and hashes must leave a checkpoint."""
        checkpoint.Checkpoints(tmp_path, 1).save(trained, 1, {}, 0.5)
        killed = checkpoint.Checkpoints(tmp_path, 1)

        def kill(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(manifest, "write", kill)
        with pytest.raises(KeyboardInterrupt):
            killed.save(trained, 2, {}, 0.4)
        restored, (warning,) = checkpoint.Checkpoints(tmp_path, 1).restore_newest(trained)
        assert restored.epoch == 1
        assert "epoch 2 is not used: writing it was interrupted" in warning


def _full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestFullDisk:
    def _check_failed_save(self, checkpoints, trained, workdir):
        with pytest.raises(errors.RunError) as caught:
            checkpoints.save(trained, 3, {"epoch": 3}, 0.01)
        text = str(caught.value)
        assert "checkpoint of epoch 3 cannot be written" in text
        assert "earlier checkpoints are intact" in text
        assert "\n" not in text
        assert _epochs(workdir) == [1, 2]
        return text

    @pytest.mark.parametrize(
        "share", [0.4, *(pytest.param(s, marks=pytest.mark.full) for s in (0.0, 0.2, 0.6, 0.8))]
    )
    def test_a_real_full_disk(self, trained, saved, small_disk, share):
        """The disk holds a fraction of a checkpoint and fills up at different moments."""
        with small_disk("disk", 32 << 20) as disk:
            empty = shutil.disk_usage(disk.path).free
            workdir = disk.path / "run"
            shutil.copytree(saved, workdir)
            checkpoint_size = (empty - shutil.disk_usage(disk.path).free) // 2
            room = int(share * checkpoint_size)
            filler = disk.path / "filler"
            with filler.open("wb") as file:
                file.write(b"x" * (shutil.disk_usage(disk.path).free - room))
            checkpoints = checkpoint.Checkpoints(workdir, 2)
            self._check_failed_save(checkpoints, trained, workdir)
            assert checkpoints.restore_newest(trained)[0].epoch == 2
            filler.unlink()
            checkpoints.save(trained, 3, {"epoch": 3}, 0.01)
            assert checkpoints.restore_best(trained)[0].epoch == 3

    def test_a_limit_on_the_size_of_files(self, trained, workdir):
        """A file size limit (EFBIG) replaces a full disk if nothing can be mounted."""
        checkpoints = checkpoint.Checkpoints(workdir, 2)
        _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            self._check_failed_save(checkpoints, trained, workdir)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert checkpoints.restore_newest(trained)[0].epoch == 2

    @pytest.mark.parametrize("of_the_manifest", [False, True])
    def test_at_either_stage(self, trained, workdir, monkeypatch, of_the_manifest):
        checkpoints = checkpoint.Checkpoints(workdir, 2)
        where = (manifest, "write") if of_the_manifest else (checkpoints._manager, "save")
        monkeypatch.setattr(*where, _full)
        text = self._check_failed_save(checkpoints, trained, workdir)
        assert "No space left on device" in text


class TestConfigFile:
    def test_round_trip(self, config, tmp_path):
        assert checkpoint.load_config(tmp_path) is None
        checkpoint.save_config(tmp_path, config)
        assert checkpoint.load_config(tmp_path) == config
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    def test_a_run_of_format_version_1_keeps_its_wavefront(self, config, tmp_path):
        values = config_lib.to_dict(config)
        assert values["system"]["wavefront"] == "spherical"
        (tmp_path / "config.json").write_text(json.dumps(values))
        expected = config_lib.override(config, {"system.wavefront": "spherical_phase"})
        assert checkpoint.load_config(tmp_path) == expected

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "not JSON"),
            (b'{"system": {', "not JSON"),
            (b"\xff\xfe\x00", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[1, 2]", "need a JSON object; got list"),
            (b"null", "need a JSON object; got NoneType"),
            (b'{"model": {"widht": 3}}', "unknown configuration key: widht"),
            (b'{"model": {"width": "3"}}', "width"),
            (b'{"model": 3}', "model"),
            (b'{"model": {"width": -4}}', r"model\.width: need a value above zero; got -4"),
        ],
    )
    def test_damage_is_an_error_that_names_the_file(self, tmp_path, content, problem):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(config_lib.ConfigError, match=rf"config\.json: .*{problem}"):
            checkpoint.load_config(tmp_path)

    def test_every_field_round_trips(self, config):
        values = json.loads(json.dumps(config_lib.to_dict(config)))
        assert config_lib.from_dict(values) == config
