r"""The default network: a transformer over patches of the aperture field.

It reads the measurement through the physics: the regularised field estimate
:math:`\hat x = (\Phi^H\Phi + \lambda I)^{-1}\Phi^H y` as an image over the array, the noise level,
and the snapshots; it writes a covariance factor over the same patches, the number of sources, and
their parameters. Input is scaled to unit power, so a recording's unit does not matter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax import losses, measurement, scenes
from ris_jax.models import patches

_NOISE_FEATURES = 3
_RESIDUAL_INIT = nnx.initializers.variance_scaling(0.02, "fan_in", "normal")
_HEAD_INIT = nnx.initializers.variance_scaling(0.1, "fan_in", "normal")


class Features(NamedTuple):
    """What the network reads, each at unit power."""

    fields: Complex[Array, "... N C"]  # aperture field estimates
    snapshots: Complex[Array, "... L M"]
    snr: Float[Array, "..."]  # linear


def extract_features(batch: scenes.Measurement, source_signal: config_lib.SourceSignal) -> Features:
    """Features of a batch of measurements.

    Args:
      batch: a `Measurement` with leading axis B.
      source_signal: constant gives one field, independent gives L of them.
    """

    def one(item):
        return measurement.field_estimates(item, source_signal), measurement.signal_to_noise(item)

    fields, snr = jax.vmap(one)(batch)
    return Features(_unit_power(fields), _unit_power(batch.snapshots), snr)


def _unit_power(x: Complex[Array, "B i j"]) -> Complex[Array, "B i j"]:
    power = jnp.mean(jnp.abs(x) ** 2, axis=(-1, -2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(power, jnp.finfo(power.dtype).tiny))


def _as_real(x: Complex[Array, "..."]) -> Float[Array, "..."]:
    """Real and imaginary parts of the last axis, one after the other."""
    return jnp.concatenate([x.real, x.imag], axis=-1)


class Block(nnx.Module):
    """Pre-norm attention and a two-layer perceptron."""

    def __init__(self, model: config_lib.ModelConfig, *, rngs: nnx.Rngs):
        width, dtype = model.width, jnp.dtype(model.compute_dtype)
        self.num_heads = model.num_heads
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.attention_out = nnx.Linear(
            width, width, kernel_init=_RESIDUAL_INIT, dtype=dtype, rngs=rngs
        )
        self.mlp_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, model.mlp_ratio * width, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(
            model.mlp_ratio * width, width, kernel_init=_RESIDUAL_INIT, dtype=dtype, rngs=rngs
        )
        self.dropout = nnx.Dropout(model.dropout)

    def __call__(self, x: Float[Array, "B T D"], *, rngs: nnx.Rngs | None) -> Float[Array, "B T D"]:
        deterministic = rngs is None
        shape = (*x.shape[:2], 3 * self.num_heads, x.shape[-1] // self.num_heads)
        heads = self.query_key_value(self.attention_norm(x)).reshape(shape)
        query, key, value = jnp.split(heads, 3, axis=2)
        attended = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        update = self.attention_out(attended)
        x = x + self.dropout(update, deterministic=deterministic, rngs=rngs)
        update = self.mlp_out(jax.nn.relu(self.mlp_in(self.mlp_norm(x))))
        return x + self.dropout(update, deterministic=deterministic, rngs=rngs)


class PatchTransformer(nnx.Module):
    """Tokens: one for each patch of the field, and one of the whole scene that reads the rest."""

    def __init__(self, config: config_lib.Config, *, rngs: nnx.Rngs):
        system, model = config.system, config.model
        width, dtype = model.width, jnp.dtype(model.compute_dtype)
        self.config = config
        self.num_sources = config.scene.max_sources
        tokens, size = patches.patch_indices(system, model).shape
        fields = 1 if system.source_signal == "constant" else system.num_snapshots
        position = 0.02 * jax.random.normal(rngs.params(), (tokens, width))
        self.patch_position = nnx.Param(position)
        self.embed_patch = nnx.Linear(2 * size * fields, width, dtype=dtype, rngs=rngs)
        self.embed_noise = nnx.Linear(_NOISE_FEATURES, width, dtype=dtype, rngs=rngs)
        self.embed_snapshots = nnx.Linear(
            2 * system.num_snapshots * system.num_antennas, width, dtype=dtype, rngs=rngs
        )
        self.blocks = nnx.List([Block(model, rngs=rngs) for _ in range(model.depth)])
        self.final_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head_factor = nnx.Linear(
            width, 2 * size * self.num_sources, kernel_init=_HEAD_INIT, dtype=dtype, rngs=rngs
        )
        self.head_count = nnx.Linear(
            width, self.num_sources, kernel_init=_HEAD_INIT, dtype=dtype, rngs=rngs
        )
        self.head_parameters = nnx.Linear(
            width, 3 * self.num_sources, kernel_init=_HEAD_INIT, dtype=dtype, rngs=rngs
        )

    def _tokens(self, features: Features, indices: np.ndarray) -> Float[Array, "B T D"]:
        batch, dtype = features.fields.shape[0], jnp.dtype(self.config.model.compute_dtype)
        level = jnp.log10(jnp.maximum(features.snr, 1e-6))
        noise = jnp.stack([level, jnp.tanh(level), jnp.exp(-jnp.maximum(level, -3.0))], axis=-1)
        noise = self.embed_noise(noise.astype(dtype))
        windows = features.fields[:, indices].reshape(batch, len(indices), -1)
        patch = self.embed_patch(_as_real(windows).astype(dtype)) + self.patch_position[...]
        snapshots = _as_real(features.snapshots.reshape(batch, -1))
        scene = self.embed_snapshots(snapshots.astype(dtype))
        tokens = jnp.concatenate([scene[:, None], patch], axis=1) + noise[:, None]
        return tokens.astype(dtype)

    def _factor(
        self, tokens: Float[Array, "B T D"], indices: np.ndarray
    ) -> Complex[Array, "B N K"]:
        """Patches of the factor, averaged where they overlap."""
        batch, elements = tokens.shape[0], self.config.system.num_elements
        patch = self.head_factor(tokens).astype(jnp.float32)
        real, imaginary = jnp.split(patch.reshape(batch, -1, 2 * self.num_sources), 2, axis=-1)
        factor = jnp.zeros((batch, elements, self.num_sources), jnp.complex64)
        factor = factor.at[:, indices.ravel()].add(jax.lax.complex(real, imaginary))
        return factor / np.bincount(indices.ravel(), minlength=elements)[:, None]

    def __call__(self, features: Features, *, rngs: nnx.Rngs | None = None) -> losses.Prediction:
        """Predicts a batch.

        Args:
          features: of a batch of B scenes.
          rngs: randomness of dropout; None predicts without.

        Returns:
          A `Prediction`, float32 and complex64 whatever the compute dtype.
        """
        indices = patches.patch_indices(self.config.system, self.config.model)
        tokens = self._tokens(features, indices)
        for block in self.blocks:
            tokens = block(tokens, rngs=rngs)
        tokens = self.final_norm(tokens)
        scene = tokens[:, 0] + jnp.mean(tokens[:, 1:], axis=1)
        parameters = self.head_parameters(scene).astype(jnp.float32)
        return losses.Prediction(
            factor=self._factor(tokens[:, 1:], indices),
            count_logits=self.head_count(scene).astype(jnp.float32),
            parameters=parameters.reshape(-1, self.num_sources, 3),
        )
