"""All random numbers of a scene from one call.

A call of the generator costs a program of its own in compiling, and most of its time in running
where there are few numbers in it. What is drawn is uniform on (-1, 1); `uniform` and `normal` make
of it what is wanted.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

_LEAST = float(np.nextafter(np.float32(-1.0), np.float32(0.0)))


def draw(key: jax.Array, *shapes: tuple[int, ...]) -> list[Float[Array, "..."]]:
    """Independent numbers, uniform on (-1, 1), in arrays of several shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    entries = jax.random.uniform(key, (sum(sizes),), minval=_LEAST)
    ends = itertools.accumulate(sizes)
    return [
        entries[end - size : end].reshape(shape)
        for shape, size, end in zip(shapes, sizes, ends, strict=True)
    ]


def uniform(
    entries: Float[Array, "..."],
    low: Float[Array, "..."] | float = 0.0,
    high: Float[Array, "..."] | float = 1.0,
) -> Float[Array, "..."]:
    """Uniform from `low` to `high`."""
    return low + (high - low) * (0.5 * (entries + 1.0))


def normal(entries: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gaussian of unit variance."""
    return jnp.sqrt(2.0) * jax.lax.erf_inv(entries)


def complex_normal(entries: Float[Array, "2 ..."]) -> Complex[Array, "..."]:
    """Circular complex Gaussian of unit variance."""
    real, imaginary = jax.lax.erf_inv(entries)
    return jax.lax.complex(real, imaginary)
