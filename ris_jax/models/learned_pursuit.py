r"""Learned matching pursuit: physics proposes and refines, a network decides.

Each round looks for peaks of what the fitted sources leave (`situation`), asks the network which of
them are sources, where between the grid's cells they are and which fitted ones are none (`judge`),
and refines the sources together on the likelihood. Several sources are added at once, so two
rounds do what a greedy search does in ten. In the end the network says how sure it is of every
source and how many there are; the covariance weighs the sources by that.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ris_jax import config as config_lib
from ris_jax import losses, scenes
from ris_jax.estimators import likelihood, refinement
from ris_jax.models import judge, situation

# A source is dropped in mid-pursuit when the network is this sure that it is none.
_DROP_LOGIT = -1.5


class LearnedPursuit(nnx.Module):
    """The model: one judge for all rounds."""

    def __init__(self, config: config_lib.Config, *, rngs: nnx.Rngs):
        self.config = config
        self.judge = judge.Judge(config, rngs=rngs)

    def __call__(
        self, measurement: scenes.Measurement, *, rngs: nnx.Rngs | None = None
    ) -> losses.Prediction:
        """Predicts a batch.

        Args:
          measurement: a batch of B scenes with known noise variance.
          rngs: randomness of dropout; None predicts without.

        Returns:
          A `Prediction`, float32 and complex64 whatever the compute dtype.
        """
        config, model = self.config, self.config.model
        signal, sources = config.system.source_signal, config.scene.max_sources
        around = situation.surroundings(config)
        noise = measurement.noise_variance
        observation = jax.vmap(lambda scene: likelihood.observe(scene, signal))(measurement)
        batch = noise.shape[0]

        def refine(coordinates, active, iterations):
            fit = jax.vmap(
                lambda o, c, a: refinement.refine(around.setting, o, c, a, iterations)
            )(observation, coordinates, active)
            return jax.lax.stop_gradient(fit)

        def look(fit):
            seen = jax.vmap(lambda o, f, n: situation.describe(around, o, f, n))(
                observation, fit, noise
            )
            return jax.lax.stop_gradient(seen)

        with jax.default_matmul_precision("highest"):
            fit = refine(jnp.zeros((batch, sources, 3)), jnp.zeros((batch, sources)), 0)
        decisions = []
        for number in range(model.rounds + 1):
            with jax.default_matmul_precision("highest"):
                seen = look(fit)
            moment = jax.nn.one_hot(number, model.rounds + 1)
            verdict = self.judge(seen, fit.active, moment, rngs=rngs)
            decisions.append(
                losses.Decision(
                    sources=fit.coordinates / around.grid.unit,
                    active=fit.active,
                    keep=verdict.keep,
                    candidates=seen.candidates / around.grid.unit,
                    add=verdict.add,
                    offset=verdict.offset,
                )
            )
            if number < model.rounds:
                coordinates, active = _chosen(around, seen, fit, jax.lax.stop_gradient(verdict))
                with jax.default_matmul_precision("highest"):
                    fit = refine(coordinates, active, model.iterations)
        with jax.default_matmul_precision("highest"):
            power = jax.vmap(refinement.signal_power)(observation, fit, noise)
            vectors = jax.vmap(lambda c: around.setting.jet(c)[:, 0])(fit.coordinates)
        existence = jax.nn.sigmoid(verdict.keep) * fit.active
        weight = jnp.sqrt(jnp.maximum(power * existence, 1e-30))
        factor = jnp.swapaxes(vectors * weight[..., None], -1, -2)
        return losses.Prediction(
            factor=factor,
            count_logits=verdict.count_logits,
            coordinates=fit.coordinates,
            existence=existence,
            decisions=tuple(decisions),
        )


def _chosen(
    around: situation.Surroundings,
    seen: situation.Situation,
    fit: refinement.Fit,
    verdict: judge.Verdict,
) -> tuple[Float[Array, "B K 3"], Float[Array, "B K"]]:
    """Sources that stay and candidates that are added, the surest first."""
    sources = fit.active.shape[-1]
    stays = (fit.active > 0) & (verdict.keep > _DROP_LOGIT)
    nothing = ~jnp.any(stays, axis=-1, keepdims=True)
    best = verdict.add == jnp.max(verdict.add, axis=-1, keepdims=True)
    added = (verdict.add > 0) | (nothing & best)
    probability = jax.nn.sigmoid(verdict.add)
    score = jnp.concatenate([jnp.where(stays, 2.0, 0.0), jnp.where(added, probability, 0.0)], -1)
    offset = jnp.clip(verdict.offset, -losses.REACH, losses.REACH) * around.step
    places = jnp.clip(seen.candidates + offset, around.setting.lower, around.setting.upper)
    coordinates = jnp.concatenate([fit.coordinates, places], axis=1)
    highest, index = jax.lax.top_k(score, sources)
    chosen = jnp.take_along_axis(coordinates, index[..., None], axis=1)
    active = (highest > 0).astype(chosen.dtype)
    return jnp.where(active[..., None] > 0, chosen, 0.0), active
