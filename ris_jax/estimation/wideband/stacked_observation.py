"""Compression of scenes at several frequencies into a `likelihood.Observation`.

Each frequency has its own operator: a Gram matrix [N, N] where N <= LM, else Phi [LM, N].
Incoherent frequencies are the groups of the observation; coherent ones form one group.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax.estimation import likelihood
from ris_jax.physics import linear, scenes
from ris_jax.physics import measurement as measurement_lib


def _operators(
    channel: Complex[Array, "F M N"], codes: Complex[Array, "C L N"]
) -> Float[Array, "F N 2R"]:
    """`likelihood.Observation.operator` of each frequency; C is F, or 1 for the same codes."""
    compressed = likelihood.compresses(channel, codes, "constant")
    gram = measurement_lib.column_products(codes[0]) if compressed and len(codes) == 1 else None

    def one(antennas, code):
        if gram is not None:
            return linear.parts((measurement_lib.column_products(antennas) * gram).conj())
        return likelihood.operator_of(antennas, code, "constant")[0]

    if len(codes) == 1:
        return jax.lax.map(lambda antennas: one(antennas, codes[0]), channel)
    return jax.lax.map(lambda pair: one(*pair), (channel, codes))


def observe_frequencies(
    measurement: scenes.Measurement, coherence: config_lib.Coherence
) -> likelihood.Observation:
    """Compress a batch of scenes.

    Args:
      measurement: snapshots [B, F, L, M]; channel [S, F, M, N] and codes [S, C, L, N], S = B or 1
        if all scenes share them, C = F or 1 if all frequencies have the same codes.
      coherence: incoherent or coherent.

    Returns:
      [B, ...]; the operator [S, F, N, 2R].
    """
    snapshots, channel, codes, _ = measurement
    frequencies = channel.shape[1]
    compressed = likelihood.compresses(channel, codes, "constant")
    operator = jax.lax.map(lambda pair: _operators(*pair), (channel, codes))

    def received(scene):
        snapshots, channel, codes = scene
        energy = jnp.sum(jnp.abs(snapshots) ** 2)
        codes = jnp.broadcast_to(codes, (frequencies, *codes.shape[1:]))
        data = snapshots.reshape(frequencies, -1)
        if compressed:
            parts = scenes.Measurement(snapshots, channel, codes, jnp.zeros(frequencies))
            data = jax.vmap(measurement_lib.adjoint)(parts)
        if coherence == "coherent":
            data = data.reshape(1, -1)
        weights = jnp.ones(len(data), energy.dtype)
        nothing: Any = None  # the operator follows
        return likelihood.Observation(nothing, data, energy, weights, compressed, coherence)

    shared = len(channel) == 1
    rest = (channel[0], codes[0]) if shared else (channel, codes)
    axes = ((0, None, None),) if shared else ((0, 0, 0),)
    found = jax.vmap(received, in_axes=axes)((snapshots, *rest))
    return found.replace(operator=operator)
