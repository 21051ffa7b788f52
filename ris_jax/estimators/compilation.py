"""`jax.jit` for the large programs of the estimators, compiled in half the time on a CPU."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

# XLA's newer code generator for fusions, for `maximum_likelihood` of 8 scenes (jaxlib 0.10): 10 to
# 11 CPU seconds instead of 5 to 6, and no faster code.
_OPTIONS = {"xla_cpu_use_fusion_emitters": False}


@functools.cache
def _compiler_options() -> dict[str, Any]:
    """`_OPTIONS` on a CPU, if this XLA has them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(jnp.negative, compiler_options=_OPTIONS)(1.0)
    except (jax.errors.JaxRuntimeError, ValueError):
        return {}
    return _OPTIONS


def _tracing(arguments: Any) -> bool:
    """Whether another program is being traced: options are for whole programs only."""
    leaves = [*jax.tree.leaves(arguments), jnp.add(0, 0)]
    return any(isinstance(leaf, Tracer) for leaf in leaves)


class Program:
    """A jitted function with `_OPTIONS`, or, inside another program, without."""

    def __init__(self, function: Callable[..., Any], static_argnames: Iterable[str]):
        functools.update_wrapper(self, function)
        self._jit = functools.partial(jax.jit, function, static_argnames=tuple(static_argnames))
        self._inner = self._jit()

    @functools.cached_property
    def outer(self) -> Any:
        """The jitted function that is called where nothing is traced."""
        return self._jit(compiler_options=_compiler_options())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = self._inner if _tracing((arguments, options)) else self.outer
        return function(*arguments, **options)


def program(static_argnames: Iterable[str]) -> Callable[[Callable[..., Any]], Program]:
    """Decorate a function as a `Program`."""
    return functools.partial(Program, static_argnames=static_argnames)
