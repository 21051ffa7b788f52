"""Nested optimizer, one task per layer, and functions that read its state.

::

  apply_if_finite(            a microbatch with non-finite gradients changes nothing,
    MultiSteps(               the mean of `accumulation` finite microbatches, or of the
                                remaining ones at the end of an epoch,
      chain(
        clip by the global norm,
        partition(backbone, head: muon(schedule)))))

Muon (Jordan et al., 2024) updates matrices along their orthogonalised momentum; Adam updates all
other parameters. `optimizer.method="adamw"` uses AdamW for all. The order of the layers matters:
with `apply_if_finite` inside `MultiSteps`, one NaN stays in the accumulator and training stalls
without an error (see `tests/training/optimizer_test.py`).

The optimizer works on packed gradients and parameters (`ris_jax.training.packing`). Its rates,
limits and decay are data (`OptimizerHyperparameters`): runs that differ in them share a compiled
step.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, Bool, Float, Int

from ris_jax import config as config_lib
from ris_jax.training import packing

Group = Literal["backbone", "head"]
GROUPS: tuple[Group, ...] = ("backbone", "head")

# After this many errors optax would apply the bad update; the loop stops the run long before.
_NEVER = 2**31 - 1
# Newton-Schulz coefficients of optax; one row per step gives a loop that is compiled once.
_NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
_STACK = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


_Scalar = Any  # an array [], or a NumPy number before the state exists


class OptimizerHyperparameters(NamedTuple):
    """Fields of a configuration that the optimizer reads as data, [] each."""

    learning_rate: _Scalar  #: peak, of the backbone
    head_multiplier: _Scalar
    accumulation: _Scalar
    warmup_updates: _Scalar
    total_updates: _Scalar
    final_fraction: _Scalar
    weight_decay: _Scalar
    clip_norm: _Scalar
    ema_decay: _Scalar


def hyperparameters(
    config: config_lib.OptimizerConfig, total_updates: int
) -> OptimizerHyperparameters:
    """Return the hyperparameters of a run of `total_updates` updates, on the host."""
    warmup = min(max(1, round(config.warmup_fraction * total_updates)), total_updates)
    return OptimizerHyperparameters(
        learning_rate=np.float32(config.learning_rate),
        head_multiplier=np.float32(config.head_multiplier),
        accumulation=np.int32(config.accumulation),
        warmup_updates=np.int32(warmup),
        total_updates=np.int32(total_updates),
        final_fraction=np.float32(config.final_fraction),
        weight_decay=np.float32(config.weight_decay),
        clip_norm=np.float32(config.clip_norm),
        ema_decay=np.float32(config.ema_decay),
    )


def parameter_groups(params: Any) -> Any:
    """Label parameters `head` below a module named `head*`, all others `backbone`."""

    def group(path, _):
        names = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
        return "head" if any(name.startswith("head") for name in names) else "backbone"

    return jax.tree_util.tree_map_with_path(group, params)


def layout(params: Any, method: config_lib.OptimizerMethod) -> packing.PackedLayout:
    """Return the packed layout of a method's gradients and parameters."""
    return packing.layout(params, parameter_groups(params), matrices=method == "muon")


def learning_rate(
    hyper: OptimizerHyperparameters, group: Group, updates: Int[Array, ""]
) -> Float[Array, ""]:
    """Return the learning rate after `updates` updates: warmup from above zero, cosine decay."""
    peak = hyper.learning_rate * (hyper.head_multiplier if group == "head" else 1.0)
    rise = (updates + 1.0) / hyper.warmup_updates
    falling = jnp.maximum(hyper.total_updates - hyper.warmup_updates, 1)
    progress = jnp.clip((updates - hyper.warmup_updates) / falling, 0.0, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    fall = hyper.final_fraction + (1.0 - hyper.final_fraction) * cosine
    return peak * jnp.where(updates < hyper.warmup_updates, rise, fall)


def _clip() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        del params
        factor = _clip_factor(optax.tree.norm(updates), extra["hyper"])
        return jax.tree.map(lambda update: update * factor, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _clip_factor(norm: Float[Array, ""], hyper: OptimizerHyperparameters) -> Float[Array, ""]:
    return jnp.minimum(1.0, hyper.clip_norm / jnp.maximum(norm, 1e-12))


def _decay() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        decay = extra["hyper"].weight_decay
        return jax.tree.map(lambda u, p: u + decay * p, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _descend(group: Group) -> optax.GradientTransformationExtraArgs:
    """Step against the gradient at the scheduled rate; the state counts the updates."""

    def init(params):
        del params
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        del params
        rate = -learning_rate(extra["hyper"], group, state.count)
        counted = optax.ScaleByScheduleState(optax.safe_increment(state.count))
        return jax.tree.map(lambda update: rate * update, updates), counted

    return optax.GradientTransformationExtraArgs(init, update)


def _of_parts(
    transforms: dict[str, optax.GradientTransformationExtraArgs],
) -> optax.GradientTransformationExtraArgs:
    """Apply one transformation per entry of a dictionary, like `optax.partition` without masks."""

    def init(params):
        return {name: transform.init(params[name]) for name, transform in transforms.items()}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        done = {
            name: transform.update(updates[name], state[name], params[name], **extra)
            for name, transform in transforms.items()
        }
        return {name: new[0] for name, new in done.items()}, {n: new[1] for n, new in done.items()}

    return optax.GradientTransformationExtraArgs(init, update)


def _muon(packed: packing.PackedLayout, group: Group) -> optax.GradientTransformationExtraArgs:
    """Momentum orthogonalised by Newton-Schulz for stacks of matrices, Adam for the vector."""
    factors = packed.width_factors(group)

    def scaled(updates: Any, params: Any) -> Any:
        del params
        return {name: update * factors[name] for name, update in updates.items()}

    stacks = dict.fromkeys(factors, _STACK)
    matrices = optax.chain(
        optax.contrib.scale_by_muon(_NEWTON_SCHULZ, weight_dimension_numbers=stacks),
        optax.stateless(scaled),
        _decay(),
        _descend(group),
    )
    vector = optax.chain(optax.scale_by_adam(nesterov=True), _descend(group))
    return _of_parts({packing.MATRICES: matrices, packing.VECTOR: vector})


def _adamw(packed: packing.PackedLayout, group: Group) -> optax.GradientTransformationExtraArgs:
    del packed
    return optax.chain(optax.scale_by_adam(), _decay(), _descend(group))


def create_optimizer(
    config: config_lib.OptimizerConfig, packed: packing.PackedLayout
) -> optax.GradientTransformationExtraArgs:
    """Create the nested optimizer described in the module docstring.

    Its `init` and `update` take what `packed.pack` returns. `update` also takes `hyper`, the
    `OptimizerHyperparameters`, and `epoch_ends`, True for the last microbatch of an epoch: a window
    that is not full is then applied as the mean of its microbatches. Only `config.method` is read.
    """
    method = {"muon": _muon, "adamw": _adamw}[config.method]
    inner = optax.chain(_clip(), _of_parts({group: method(packed, group) for group in GROUPS}))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        window = extra["hyper"].accumulation
        if "epoch_ends" in extra:
            window = jnp.where(extra.pop("epoch_ends"), state.mini_step + 1, window)
        return optax.MultiSteps(inner, lambda _: window).update(updates, state, params, **extra)

    accumulated = optax.GradientTransformationExtraArgs(optax.MultiSteps(inner, 1).init, update)
    return optax.with_extra_args_support(optax.apply_if_finite(accumulated, _NEVER))


class Counters(NamedTuple):
    """Counters of applied and skipped updates."""

    updates: Int[Array, ""]  # applied to the parameters
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def counters(opt_state: optax.OptState) -> Counters:
    """Read the counters of `create_optimizer`'s state."""
    multi: Any = opt_state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    finite: Any = opt_state
    return Counters(multi.gradient_step, finite.total_notfinite, finite.notfinite_count)


def largest_gradients(opt_state: optax.OptState, packed: packing.PackedLayout) -> dict[str, float]:
    """Measure each parameter's largest gradient, by path; zero only if all were zero.

    Read from the accumulator and the first moments of `create_optimizer`'s state, on the host,
    after few microbatches.
    """
    multi: Any = opt_state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    moments = {
        group: functools.reduce(
            lambda found, tree: found | tree,
            (_by_part(mu) for _, mu in optax.tree.get_all_with_path(states, "mu")),
        )
        for group, states in multi.inner_opt_state[1].items()
    }
    largest: dict[str, float] = {}
    for tree in map(packed.unpack, (multi.acc_grads, moments)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path)
            largest[name] = max(largest.get(name, 0.0), float(np.max(np.abs(leaf))))
    return largest


def _by_part(moment: Any) -> dict[str, Any]:
    """Return first moments under the names of the parts of a packed group."""
    if not isinstance(moment, dict):
        return {packing.VECTOR: moment}
    return moment if packing.VECTOR in moment else {packing.MATRICES: moment}


def learning_rates(
    hyper: OptimizerHyperparameters, updates: Int[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Return the learning rates after `updates` updates, by group."""
    return {group: learning_rate(hyper, group, updates) for group in GROUPS}


def gradients_finite(grads: Any) -> Bool[Array, ""]:
    """Return whether the norm is finite, and with it each gradient, their mean and the clipping."""
    return jnp.isfinite(optax.tree.norm(grads))


def group_norms(packed: packing.Packed) -> dict[str, Float[Array, ""]]:
    """Return the Euclidean norm of each parameter group."""
    return {group: optax.tree.norm(packed[group]) for group in GROUPS}


def clip_ratio(
    opt_state: optax.OptState, grads: packing.Packed, hyper: OptimizerHyperparameters
) -> Float[Array, ""]:
    """Return the factor by which clipping scales the window's mean gradient so far."""
    multi: Any = opt_state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    count = multi.mini_step.astype(jnp.float32)
    mean = jax.tree.map(lambda acc, g: acc + (g - acc) / (count + 1.0), multi.acc_grads, grads)
    return _clip_factor(optax.tree.norm(mean), hyper)
