"""Out of memory: advice, and intact checkpoints."""

import jax
import jax.numpy as jnp
import pytest

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.training.processes import devices, memory


def _config(**values):
    named = {"batch_size": "training.batch_size", "accumulation": "optimizer.accumulation"}
    return config_lib.override(config_lib.Config(), {named[n]: v for n, v in values.items()})


def allocate_too_much():
    """Allocate 32 TB on a device."""
    return jnp.ones(1 << 43, jnp.float32).block_until_ready()


@pytest.mark.parametrize(
    ("size", "num_devices", "smaller"),
    [(64, 1, 32), (9, 1, 3), (64, 8, 32), (24, 8, 8), (7, 1, 1), (8, 8, None), (1, 1, None)],
)
def test_smaller_microbatches_with_as_many_scenes_per_update(size, num_devices, smaller):
    config = _config(batch_size=size, accumulation=3)
    changes = memory.smaller(config, num_devices)
    assert changes.get("training.batch_size") == smaller
    if smaller:
        assert smaller % num_devices == 0
        other = config_lib.override(config, changes)
        assert smaller * other.optimizer.accumulation == size * 3
        assert other.total_updates == config.total_updates
        assert smaller * other.training.steps_per_epoch == size * config.training.steps_per_epoch


@pytest.mark.parametrize(
    ("size", "advice"),
    [(8, "--batch_size=4 --accumulation=2 --steps_per_epoch="), (1, "use a smaller model or more")],
)
def test_a_real_error_becomes_one_line_of_advice(size, advice):
    with (
        pytest.raises(errors.OutOfMemoryError) as caught,
        memory.advised(_config(batch_size=size), devices.one_device()),
    ):
        allocate_too_much()
    text = str(caught.value)
    assert "\n" not in text
    assert f"with training.batch_size={size}, optimizer.accumulation=1: {advice}" in text
    assert text.endswith("RESOURCE_EXHAUSTED: Out of memory allocating 35184372088832 bytes.")


def test_host_memory():
    with (
        pytest.raises(errors.OutOfMemoryError, match=r"intact.*; MemoryError$"),
        memory.advised(_config(), devices.one_device()),
    ):
        raise MemoryError


def test_other_errors_are_raised_unchanged():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match=r"^INTERNAL: boom$"),
        memory.advised(_config(), devices.one_device()),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: boom")
