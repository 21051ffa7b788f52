r"""Learned matching pursuit: a network scores peaks, the likelihood refines sources.

Each step finds the peaks of the residual spectrum (`pursuit_features`). A network scores the peaks
and the fitted sources, and estimates each peak's offset from its grid cell (`scorer`). Accepted
sources are refined jointly on the likelihood. A step can add several sources, so two steps mostly
replace ten of a greedy search. At the end the network gives a probability for every source and for
the number of sources. The covariance weights the sources by their probabilities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ris_jax import config as config_lib
from ris_jax.estimation import likelihood, refinement
from ris_jax.networks import losses, pursuit_features, scorer
from ris_jax.physics import scenes

# During the pursuit a source is dropped if its `keep` logit is below this.
_DROP_LOGIT = -1.5
# Maximum number of refinements per scene.
_MOST_STEPS = 5
_QUEUE = 16  # minimum number of scenes per round; an eighth of the batch if larger


class Update(NamedTuple):
    """Update: sources from which a batch is refined next."""

    coordinates: Float[Array, "B K 3"]
    active: Float[Array, "B K"]
    changes: Bool[Array, "B"]  # whether the set of sources changes


class Pursuit(NamedTuple):
    """Pursuit state of a batch, with the scores of the network."""

    fit: refinement.SourceFit
    existence: Float[Array, "B K"]  # probability of every source; 0 for padding
    count_logits: Float[Array, "B K"]
    update: Update


class LearnedPursuit(nnx.Module):
    """Learned pursuit model: one scorer for all steps."""

    def __init__(self, config: config_lib.Config, *, rngs: nnx.Rngs):
        self.config = config
        # The attribute names the stored parameters.
        self.judge = scorer.Scorer(config, rngs=rngs)

    def _score(
        self,
        observation: likelihood.Observation,
        fit: refinement.SourceFit,
        noise_variance: Float[Array, "B"],
        rngs: nnx.Rngs | None,
    ) -> tuple[pursuit_features.PursuitState, scorer.CandidateScores]:
        context = pursuit_features.search_context(self.config)
        state = jax.vmap(lambda *scene: pursuit_features.describe(context, *scene))(
            observation, fit, noise_variance
        )
        return state, self.judge(state, fit.active, rngs=rngs)

    def _update(
        self,
        fit: refinement.SourceFit,
        state: pursuit_features.PursuitState,
        scores: scorer.CandidateScores,
    ) -> Update:
        """Drop and add sources according to the scores; the most probable take the free slots.

        No gradient passes through it: the loss compares the scores of every step with the truth.
        """
        context = pursuit_features.search_context(self.config)
        scores = jax.lax.stop_gradient(scores)
        sources = fit.active.shape[-1]
        present = fit.active > 0
        stays = present & (scores.keep > _DROP_LOGIT)
        nothing = ~jnp.any(stays, axis=-1, keepdims=True)
        best = scores.add == jnp.max(scores.add, axis=-1, keepdims=True)
        added = (scores.add > 0) | (nothing & best)
        score = jnp.concatenate(
            [
                jnp.where(stays, 1.0 + jax.nn.sigmoid(scores.keep), 0.0),
                jnp.where(added, jax.nn.sigmoid(scores.add), 0.0),
            ],
            axis=-1,
        )
        offset = jnp.clip(scores.offset, -losses.REACH, losses.REACH) * context.step
        places = jnp.clip(state.candidates + offset, context.problem.lower, context.problem.upper)
        coordinates = jnp.concatenate([fit.coordinates, places], axis=1)
        score, index = jax.lax.top_k(score, sources)
        active = (score > 0).astype(coordinates.dtype)
        coordinates = jnp.take_along_axis(coordinates, index[..., None], axis=1)
        coordinates = jnp.where(active[..., None] > 0, coordinates, 0.0)
        arrives = jnp.any((score > 0) & (index >= sources), axis=-1)
        return Update(coordinates, active, arrives | jnp.any(present & ~stays, axis=-1))

    def _refine(self, observation: likelihood.Observation, update: Update) -> refinement.SourceFit:
        problem = pursuit_features.search_context(self.config).problem
        steps = self.config.model.iterations
        return jax.vmap(
            lambda scene, start, active: refinement.refine(problem, scene, start, active, steps)
        )(observation, update.coordinates, update.active)

    def _observe(self, measurement: scenes.Measurement) -> likelihood.Observation:
        """Observe all scenes at once; groups of eight, as in `observe_batch`, cannot be sharded."""
        signal = self.config.system.source_signal
        return jax.vmap(lambda scene: likelihood.observe(scene, signal))(measurement)

    def _nothing(self, observation: likelihood.Observation) -> refinement.SourceFit:
        sources = self.config.scene.max_sources
        return jax.vmap(lambda scene: refinement.no_sources(scene, sources))(observation)

    def __call__(
        self, measurement: scenes.Measurement, *, rngs: nnx.Rngs | None = None
    ) -> losses.Prediction:
        """Predict a batch, with the same number of rounds for every scene.

        Each round refines the sources selected by the previous round and scores the result. The
        first round has no sources.

        Args:
          measurement: a batch of B scenes with known noise variance.
          rngs: randomness of dropout; None disables dropout.

        Returns:
          A `Prediction`, float32 and complex64 whatever the compute dtype.
        """
        context = pursuit_features.search_context(self.config)
        observation, noise = self._observe(measurement), measurement.noise_variance
        rounds = self.config.model.rounds + 1
        keys = None if rngs is None else jax.random.split(rngs.dropout(), rounds)
        nothing = self._nothing(observation)

        def one_round(update, turn):
            number, key = turn
            fit = jax.lax.cond(number > 0, self._refine, lambda *_: nothing, observation, update)
            rngs = None if key is None else nnx.Rngs(dropout=key)
            state, scores = self._score(observation, fit, noise, rngs)
            decision = losses.Decision(
                sources=fit.coordinates / context.grid.unit,
                active=fit.active,
                keep=scores.keep,
                candidates=state.candidates / context.grid.unit,
                add=scores.add,
                offset=scores.offset,
            )
            return self._update(fit, state, scores), (decision, fit, scores.count_logits)

        # A scan compiles refinement, network and their derivatives once for all rounds.
        start = Update(nothing.coordinates, nothing.active, noise < 0)
        _, outputs = jax.lax.scan(one_round, start, (jnp.arange(rounds), keys))
        decisions, fit, count_logits = outputs
        fit, count_logits = jax.tree.map(lambda leaf: leaf[-1], (fit, count_logits))
        existence = jax.nn.sigmoid(decisions.keep[-1]) * fit.active
        return losses.Prediction(
            factor=self.factor(observation, fit, existence, noise),
            count_logits=count_logits,
            coordinates=fit.coordinates,
            existence=existence,
            decisions=decisions,
        )

    def factor(self, observation, fit, existence, noise_variance):
        """Return the covariance factor: steering vectors scaled by source power and probability.

        Args:
          observation: a batch.
          fit: its sources.
          existence: [B, K] their probabilities.
          noise_variance: [B].

        Returns:
          [B, N, K] complex64.
        """
        context = pursuit_features.search_context(self.config)
        power = jax.vmap(refinement.signal_power)(observation, fit, noise_variance)
        vectors = jax.vmap(lambda c: context.problem.jet(c)[:, 0])(fit.coordinates)
        # sqrt has an infinite slope at 0: avoid it.
        positive = power * existence > 0
        weight = jnp.where(positive, jnp.sqrt(jnp.where(positive, power * existence, 1.0)), 0.0)
        return jnp.swapaxes(vectors * weight[..., None], -1, -2)

    def pursue(
        self, observation: likelihood.Observation, noise_variance: Float[Array, "B"]
    ) -> Pursuit:
        """Run the pursuit on every scene until its set of sources no longer changes.

        After a first round of all scenes, the scenes that change are processed as a queue, as in
        `matching_pursuit.in_turn`.

        Returns:
          A `Pursuit`; scenes whose update still changes did not converge.
        """

        def scored(observation, noise_variance, fit):
            state, scores = self._score(observation, fit, noise_variance, None)
            existence = jax.nn.sigmoid(scores.keep) * fit.active
            return Pursuit(fit, existence, scores.count_logits, self._update(fit, state, scores))

        def refined(observation, noise_variance, pursuit):
            fit = self._refine(observation, pursuit.update)
            return scored(observation, noise_variance, fit)

        batch = noise_variance.shape[0]
        size = min(max(_QUEUE, batch // 8), batch)
        scenes_ = observation, noise_variance

        def waiting(carry):
            pursuit, steps = carry
            return pursuit.update.changes & (steps < _MOST_STEPS)

        def one_round(carry):
            pursuit, steps = carry
            chosen = jnp.argsort(~waiting(carry), stable=True)[:size]
            mine = waiting(carry)[chosen]
            part, scene = jax.tree.map(lambda leaf: leaf[chosen], (pursuit, scenes_))
            part = jax.tree.map(
                lambda new, old: jnp.where(mine.reshape(-1, *[1] * (new.ndim - 1)), new, old),
                refined(scene[0], scene[1], part),
                part,
            )
            pursuit = jax.tree.map(lambda whole, some: whole.at[chosen].set(some), pursuit, part)
            return pursuit, steps.at[chosen].add(mine)

        first = refined(*scenes_, scored(*scenes_, self._nothing(observation)))
        start = (first, jnp.ones(batch, jnp.int32))
        return jax.lax.while_loop(lambda carry: jnp.any(waiting(carry)), one_round, start)[0]
