"""The optimizer nest, each layer doing one thing, and readers of its state.

::

  apply_if_finite(            a microbatch whose gradients are not finite changes nothing at all,
    MultiSteps(               the mean of `accumulation` finite microbatches,
      chain(
        clip_by_global_norm,
        partition(backbone, head: muon(schedule)))))

Muon (Jordan et al., 2024) steps matrices along their orthogonalised momentum and everything else
by Adam; `optimizer.method="adamw"` uses AdamW for all. The order of the nest matters: with
`apply_if_finite` inside `MultiSteps`, one NaN stays in the accumulator for ever and training
stalls in silence (`tests/training/optimizer_test.py` shows it).
"""

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, Bool, Float, Int

from ris_jax import config as config_lib

Group = Literal["backbone", "head"]
GROUPS: tuple[Group, ...] = ("backbone", "head")

# Past this many errors optax would apply the bad update: the loop stops the run long before.
_NEVER = 2**31 - 1


def parameter_groups(params: Any) -> Any:
    """`head` for every parameter below a module whose name starts with `head`, else `backbone`."""

    def group(path, _):
        names = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
        return "head" if any(name.startswith("head") for name in names) else "backbone"

    return jax.tree_util.tree_map_with_path(group, params)


def learning_rate_schedule(
    config: config_lib.OptimizerConfig, total_updates: int, group: Group
) -> optax.Schedule:
    """Linear warmup that starts above zero, then a cosine; counted in updates."""
    peak = config.learning_rate * (config.head_multiplier if group == "head" else 1.0)
    warmup = min(max(1, round(config.warmup_fraction * total_updates)), total_updates)
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    fall = optax.cosine_decay_schedule(
        peak, max(total_updates - warmup, 1), alpha=config.final_fraction
    )
    return optax.join_schedules([rise, fall], [warmup])


def create_optimizer(
    config: config_lib.OptimizerConfig, total_updates: int
) -> optax.GradientTransformation:
    """The nest of this module's docstring."""
    method = {"muon": optax.contrib.muon, "adamw": optax.adamw}[config.method]
    per_group: dict[Hashable, optax.GradientTransformation] = {
        group: method(
            learning_rate_schedule(config, total_updates, group), weight_decay=config.weight_decay
        )
        for group in GROUPS
    }
    inner = optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.partition(per_group, parameter_groups)
    )
    accumulated = optax.MultiSteps(inner, config.accumulation)
    return optax.apply_if_finite(accumulated.gradient_transformation(), _NEVER)


class Counters(NamedTuple):
    """What the optimizer has done so far."""

    updates: Int[Array, ""]  # applied to the parameters
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def counters(opt_state: optax.OptState) -> Counters:
    """Reads the counters of `create_optimizer`'s state."""
    multi: Any = opt_state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    finite: Any = opt_state
    return Counters(multi.gradient_step, finite.total_notfinite, finite.notfinite_count)


def largest_gradients(opt_state: optax.OptState) -> dict[str, float]:
    """How large any gradient of each parameter has been, by path: zero only if all were zero.

    Read from the accumulator and the first moments of `create_optimizer`'s state, on the host,
    after few microbatches.
    """
    multi: Any = opt_state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    seen = [multi.acc_grads, *(mu for _, mu in optax.tree.get_all_with_path(multi, "mu"))]
    largest: dict[str, float] = {}
    for path, leaf in (pair for tree in seen for pair in jax.tree_util.tree_leaves_with_path(tree)):
        name = jax.tree_util.keystr(path)
        largest[name] = max(largest.get(name, 0.0), float(np.max(np.abs(leaf))))
    return largest


def learning_rates(
    config: config_lib.OptimizerConfig, total_updates: int, updates: Int[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """The rates of the update that comes after `updates` updates, by group."""
    return {
        group: jnp.asarray(learning_rate_schedule(config, total_updates, group)(updates))
        for group in GROUPS
    }


def gradients_finite(grads: Any) -> Bool[Array, ""]:
    """Whether the gradients' norm is finite: each of them, their running mean, and the clipping."""
    return jnp.isfinite(optax.tree.norm(grads))


def group_norms(tree: Any) -> dict[str, Float[Array, ""]]:
    """Euclidean norm of each parameter group's part of a tree."""
    labels = jax.tree.leaves(parameter_groups(tree))
    leaves = jax.tree.leaves(tree)
    return {
        group: optax.tree.norm(
            [x for x, label in zip(leaves, labels, strict=True) if label == group]
        )
        for group in GROUPS
    }


def clip_ratio(
    opt_state: optax.OptState, grads: Any, config: config_lib.OptimizerConfig
) -> Float[Array, ""]:
    """Factor by which clipping scales the window's mean gradient, this microbatch included."""
    multi: Any = opt_state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    seen = multi.mini_step.astype(jnp.float32)
    mean = jax.tree.map(lambda acc, g: acc + (g - acc) / (seen + 1.0), multi.acc_grads, grads)
    norm = optax.tree.norm(mean)
    return jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-12))
