"""Transformer that scores fitted sources and candidate peaks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ris_jax import config as config_lib
from ris_jax.networks import pursuit_features

_RESIDUAL_INIT = nnx.initializers.variance_scaling(0.02, "fan_in", "normal")
_HEAD_INIT = nnx.initializers.variance_scaling(0.1, "fan_in", "normal")


class CandidateScores(NamedTuple):
    """Scores of every source, every candidate, and the number of sources."""

    keep: Float[Array, "B K"]  #: logits that the source is real
    add: Float[Array, "B P"]  #: logits of a missing source here
    offset: Float[Array, "B P 3"]  #: from the candidate to that source, in units of resolution
    count_logits: Float[Array, "B K"]  #: of 1 ... K_max sources


class AttentionBlock(nnx.Module):
    """Pre-norm attention with a bias for every pair of tokens, and a two-layer perceptron."""

    def __init__(self, model: config_lib.ModelConfig, *, rngs: nnx.Rngs):
        width, dtype = model.width, jnp.dtype(model.compute_dtype)
        self.num_heads = model.num_heads
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.pair_bias = nnx.Linear(2, model.num_heads, use_bias=False, dtype=dtype, rngs=rngs)
        self.attention_out = nnx.Linear(
            width, width, kernel_init=_RESIDUAL_INIT, dtype=dtype, rngs=rngs
        )
        self.mlp_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, model.mlp_ratio * width, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(
            model.mlp_ratio * width, width, kernel_init=_RESIDUAL_INIT, dtype=dtype, rngs=rngs
        )
        self.dropout = nnx.Dropout(model.dropout)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        pairs: Float[Array, "B T T 2"],
        visible: Float[Array, "B T"],
        *,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B T D"]:
        deterministic = rngs is None
        shape = (*x.shape[:2], 3 * self.num_heads, x.shape[-1] // self.num_heads)
        heads = self.query_key_value(self.attention_norm(x)).reshape(shape)
        query, key, value = jnp.split(heads, 3, axis=2)
        attended = jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=jnp.moveaxis(self.pair_bias(pairs), -1, 1),
            mask=(visible > 0)[:, None, None, :],
        ).reshape(x.shape)
        update = self.attention_out(attended)
        x = x + self.dropout(update, deterministic=deterministic, rngs=rngs)
        update = self.mlp_out(jax.nn.relu(self.mlp_in(self.mlp_norm(x))))
        return x + self.dropout(update, deterministic=deterministic, rngs=rngs)


def _stacked(model: config_lib.ModelConfig, rngs: nnx.Rngs) -> AttentionBlock:
    """Create all blocks as one, parameters stacked along a first axis: compiled once."""

    @nnx.split_rngs(splits=model.depth)
    @nnx.vmap
    def create(rngs):
        return AttentionBlock(model, rngs=rngs)

    return create(rngs)


class Scorer(nnx.Module):
    """Transformer over one token for the scene, one per source and one per candidate."""

    def __init__(self, config: config_lib.Config, *, rngs: nnx.Rngs):
        model = config.model
        width, dtype = model.width, jnp.dtype(model.compute_dtype)
        self.dtype, self.depth = dtype, model.depth

        def linear(inputs, outputs, **options):
            return nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs, **options)

        self.embed_scene = linear(pursuit_features.SCENE_FEATURES, width)
        self.embed_source = linear(pursuit_features.SOURCE_FEATURES, width)
        self.embed_candidate = linear(pursuit_features.CANDIDATE_FEATURES, width)
        self.blocks = _stacked(model, rngs)
        self.final_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head_keep = linear(width, 1, kernel_init=_HEAD_INIT)
        self.head_add = linear(width, 4, kernel_init=_HEAD_INIT)
        self.head_count = linear(width, config.scene.max_sources, kernel_init=_HEAD_INIT)

    def __call__(
        self,
        state: pursuit_features.PursuitState,
        active: Float[Array, "B K"],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> CandidateScores:
        """Score a batch.

        Args:
          state: with leading axis B.
          active: [B, K] 1 for fitted sources, 0 for padding.
          rngs: randomness of dropout; None disables dropout.
        """
        sources = active.shape[1]
        scene = self.embed_scene(state.scene_features.astype(self.dtype))[:, None]
        source = self.embed_source(state.source_features.astype(self.dtype))
        candidate = self.embed_candidate(state.candidate_features.astype(self.dtype))
        tokens = jnp.concatenate([scene, source, candidate], axis=1) + scene
        overlaps = jnp.pad(state.overlaps, [(0, 0), (1, 0), (1, 0)])
        pairs = jnp.stack([overlaps, overlaps**2], axis=-1).astype(self.dtype)
        visible = jnp.ones(tokens.shape[:2]).at[:, 1 : 1 + sources].set(active)
        tokens = self.final_norm(self._through_blocks(tokens, pairs, visible, rngs))
        add = self.head_add(tokens[:, 1 + sources :]).astype(jnp.float32)
        return CandidateScores(
            keep=self.head_keep(tokens[:, 1 : 1 + sources])[..., 0].astype(jnp.float32),
            add=add[..., 0],
            offset=add[..., 1:],
            count_logits=self.head_count(tokens[:, 0]).astype(jnp.float32),
        )

    def _through_blocks(
        self,
        tokens: Float[Array, "B T D"],
        pairs: Float[Array, "B T T 2"],
        visible: Float[Array, "B T"],
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B T D"]:
        """Apply the blocks in sequence; one program, run `depth` times.

        Derivatives compute the activations of a block again. Storing them raises the memory of the
        training step to 2.6 times (199 instead of 77 MB for 128 scenes) and takes more time.
        """
        graphdef, stacked = nnx.split(self.blocks, nnx.Param)
        keys = None if rngs is None else jax.random.split(rngs.dropout(), self.depth)

        @jax.checkpoint
        def apply(tokens, layer):
            params, key = layer
            rngs = None if key is None else nnx.Rngs(dropout=key)
            return nnx.merge(graphdef, params)(tokens, pairs, visible, rngs=rngs), None

        return jax.lax.scan(apply, tokens, (stacked, keys))[0]
