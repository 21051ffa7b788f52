"""`jax.jit` for large programs, with half to two thirds of the compile time on a CPU."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

# XLA's newer code generator for fusions, for `maximum_likelihood` of 8 scenes (jaxlib 0.10): 10 to
# 11 CPU seconds instead of 5 to 6, and no faster code.
_OPTIONS: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
# For programs that run a few times: their code is about half as fast.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Return the options that shorten compilation on a CPU, if this XLA has them; else none."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(jnp.negative, compiler_options=_OPTIONS)(1.0)
    except (jax.errors.JaxRuntimeError, ValueError):
        return {}
    return _OPTIONS


def one_program(static_argnames: str | tuple[str, ...] = ()) -> Callable[[Callable], Any]:
    """Decorate a function of some operations: an eager call compiles one program for all of them.

    Each eager operation is a program of its own, at 10 to 20 ms. Within another program the
    operations become part of that program; the function is traced once for each shape.
    """
    return functools.partial(jax.jit, static_argnames=static_argnames, inline=True)


def tracing(arguments: Any) -> bool:
    """Return whether a program is being traced: of these arguments, or around this call."""
    # The iota needs no transfer from host to device.
    leaves = [*jax.tree.leaves(arguments), jax.lax.iota(jnp.int32, 1)]
    return any(isinstance(leaf, Tracer) for leaf in leaves)


class Program:
    """A jitted function with `compiler_options`, or, inside another program, without."""

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnames: Iterable[str] = (),
        *,
        donate_argnums: tuple[int, ...] = (),
        quick: bool = False,
    ):
        """Jit a function; nothing is compiled and no device is initialized yet.

        Args:
          function: to be compiled.
          static_argnames: as in `jax.jit`.
          donate_argnums: as in `jax.jit`.
          quick: compile in the shortest time, for a program that runs a few times.
        """
        functools.update_wrapper(self, function)
        self._jit = functools.partial(
            jax.jit,
            function,
            static_argnames=tuple(static_argnames),
            donate_argnums=donate_argnums,
        )
        self._inner, self._quick = self._jit(), quick

    @functools.cached_property
    def outer(self) -> Any:
        """Jitted function for calls outside of tracing."""
        options = compiler_options()
        return self._jit(compiler_options=options | (_QUICK if options and self._quick else {}))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = self._inner if tracing((arguments, options)) else self.outer
        return function(*arguments, **options)

    def lower(self, *arguments: Any, **options: Any) -> jax.stages.Lowered:
        """Lower the program for calls outside of tracing."""
        return self.outer.lower(*arguments, **options)

    def num_compiled(self) -> int:
        """Return how many programs the calls so far have compiled, outside of other programs."""
        return self.outer._cache_size()

    def clear_cache(self) -> None:
        """Drop the compiled programs."""
        self.outer.clear_cache()


def program(
    static_argnames: Iterable[str] = (), *, quick: bool = False
) -> Callable[[Callable[..., Any]], Program]:
    """Decorate a function as a `Program`."""
    return functools.partial(Program, static_argnames=static_argnames, quick=quick)
