"""All random numbers of a scene from one call.

Every call of the generator is compiled separately, and its overhead dominates for few numbers. The
numbers are uniform on (-1, 1); `uniform` and `normal` transform them.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

_LEAST = float(np.nextafter(np.float32(-1.0), np.float32(0.0)))


def draw(key: jax.Array, *shapes: tuple[int, ...]) -> list[Float[Array, "..."]]:
    """Draw independent numbers, uniform on (-1, 1), in arrays of several shapes."""
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
    """Transform to a uniform distribution from `low` to `high`."""
    return low + (high - low) * (0.5 * (entries + 1.0))


def normal(entries: Float[Array, "..."]) -> Float[Array, "..."]:
    """Transform to a Gaussian distribution of unit variance."""
    return jnp.sqrt(2.0) * jax.lax.erf_inv(entries)


def complex_normal(entries: Float[Array, "2 ..."]) -> Complex[Array, "..."]:
    """Transform to a circular complex Gaussian distribution of unit variance."""
    real, imaginary = jax.lax.erf_inv(entries)
    return jax.lax.complex(real, imaginary)
