"""Counting operations: closed forms of matrix products, loops and conditions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.benchmarks import operations
from ris_jax.estimation import candidate_search, matching_pursuit


def count(function, *arguments):
    return operations.product_operations(jax.make_jaxpr(function)(*arguments).jaxpr)


LEFT, RIGHT = jnp.ones((3, 4)), jnp.ones((4, 5))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a @ b, 2 * 3 * 4 * 5),
        (lambda a, b: (a + 0j) @ (b + 0j), 8 * 3 * 4 * 5),
        (jax.jit(lambda a, b: jnp.einsum("ij,jk->ik", a, b)), 2 * 3 * 4 * 5),
        (lambda a, b: jax.vmap(lambda row: row @ b)(a), 2 * 3 * 4 * 5),
        (lambda a, b: jax.lax.fori_loop(0, 7, lambda _, x: x + (a @ b), a @ b), 8 * 2 * 3 * 4 * 5),
        (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((3, 5))), 120),
        (lambda a, b: a[:, :1] + b[0, 0], 0),
    ],
)
def test_product_operations(function, expected):
    assert count(function, LEFT, RIGHT) == expected


def test_cost_is_no_less_than_the_products():
    function = jax.jit(lambda a, b: jax.lax.fori_loop(0, 7, lambda _, x: x + jnp.sin(a @ b), a @ b))
    compiled = function.lower(LEFT, RIGHT).compile()
    cost = operations.cost(function, compiled, LEFT, RIGHT)
    assert cost.operations >= 8 * 120
    assert cost.bytes_moved > 0


def test_search_operations():
    """Another source costs one more round; twice the elements cost four times as much."""
    options = matching_pursuit.SearchOptions(grid=(1, 1, 1), candidates=0)
    config = config_lib.override(config_lib.Config(), {"system.rows": 1, "system.columns": 6,
                                 "system.num_snapshots": 2, "scene.max_sources": 2})  # fmt: skip

    def count(found, config=config):
        return operations.search_operations(config, options, found)

    through, grow = 8 * 6**2, 4 * 2 * (options.joint_iterations + 1)
    change = 2 * candidate_search.PAIRS * through + 8 * 6
    np.testing.assert_allclose(count(1) - count(0), grow * through + 8 * 6 + change)
    np.testing.assert_allclose(count(2) - count(1), change)  # at most one round per slot
    wider = config_lib.override(config, {"system.columns": 12})
    np.testing.assert_allclose(count(1, wider) / count(1), 4.0, rtol=0.01)


def test_timed_and_ceilings(monkeypatch):
    calls = []
    timing = operations.timed(lambda: calls.append(1), 0.0)
    assert len(calls) == 4  # the first is not timed
    chex.assert_shape(timing.seconds, (3,))
    assert (timing.seconds >= 0).all()
    monkeypatch.setattr(operations, "_MATRIX", 64)
    monkeypatch.setattr(operations, "_COPIED", 1024)
    assert min(operations.ceilings(0.0)) > 0
