"""Maximum likelihood from start values of a network.

The network replaces the search, not the likelihood: its proposals are refined and get the same
error bars. If the network does not converge, or the residual exceeds the noise, the caller uses the
search on the grid.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from ris_jax import compilation
from ris_jax import config as config_lib
from ris_jax.estimation import (
    likelihood,
    matching_pursuit,
    maximum_likelihood,
    refinement,
    search_grid,
)
from ris_jax.estimation.checks import residual_test
from ris_jax.estimation.estimate import Estimate
from ris_jax.physics import scenes
from ris_jax.physics.element_response import ElementResponse, of_system, same_response

# Minimum probability of a reported source: a false source costs as much as a missed one, and below
# it the position is mostly wrong as well.
SURE = 0.8
_POLISHING = 0  # additional steps: the network already refines


class NetworkOutput(NamedTuple):
    """Output of a network for a batch."""

    coordinates: Float[Array, "B K 3"]  #: (u, w, 1/r)
    existence: Float[Array, "B K"]  #: probability of each source; 0 for padding
    count_probability: Float[Array, "B K"]  #: of 1 ... K sources
    factor: Complex[Array, "B N K"]  #: of the covariance, any scale
    unconverged: Bool[Array, "B"]  #: the pursuit did not converge


class LearnedCovariance(NamedTuple):
    """Covariance that a network estimates for a batch."""

    factor: Complex[Array, "B N r"]  #: any scale
    num_sources: Int[Array, "B"]


class LocalizationNetwork(Protocol):
    """Interface of a trained network, a pytree, for estimators."""

    @property
    def config(self) -> config_lib.Config: ...
    def covariance(self, measurement: scenes.Measurement) -> LearnedCovariance: ...
    def propose(
        self, observation: likelihood.Observation, noise_variance: Float[Array, "B"]
    ) -> NetworkOutput: ...
    def for_array(
        self,
        measurement: scenes.Measurement,
        positions: Float[Array, "N 3"],
        wavelength: float,
        wavefront: config_lib.Wavefront,
        source_signal: config_lib.SourceSignal,
    ) -> "LocalizationNetwork": ...


def for_model(
    estimator: str,
    network: LocalizationNetwork | None,
    source_signal: config_lib.SourceSignal,
    response: ElementResponse | None = None,
) -> tuple[str, LocalizationNetwork | None]:
    """Return the estimator and network to use for a kind of signals and a response of elements.

    A learned pursuit trained on the other kind of signals, or on elements with another response,
    miscounts without a warning. Maximum likelihood then replaces the estimator "network"; other
    estimators run without network.

    Raises:
      ConfigError: a subspace network that was trained on elements with another response.
    """
    if network is None:
        return estimator, network
    system = network.config.system
    trained = same_response(of_system(system), response)
    if network.config.model.architecture != "learned_pursuit":
        if not trained:
            raise config_lib.ConfigError(
                "response: expected the element response with which the subspace network was "
                "trained, found another; train one with it, or run without a network"
            )
        return estimator, network
    if trained and system.source_signal == source_signal:
        return estimator, network
    return "maximum_likelihood" if estimator == "network" else estimator, None


def present(
    proposal: NetworkOutput, num_sources: Int[Array, "B"], max_sources: int
) -> tuple[Float[Array, "B K"], Float[Array, "B K 3"]]:
    """Select the `num_sources` most probable sources, or those with probability above `SURE`.

    Args:
      proposal: of the network.
      num_sources: [B]; negative if unknown.
      max_sources: maximum number of sources in the result.

    Returns:
      [B, max_sources] 1 or 0, and their coordinates.
    """
    missing = max(max_sources - proposal.existence.shape[1], 0)
    existence = jnp.pad(proposal.existence, [(0, 0), (0, missing)])
    coordinates = jnp.pad(proposal.coordinates, [(0, 0), (0, missing), (0, 0)])
    surest, index = jax.lax.top_k(existence, max_sources)
    coordinates = jnp.take_along_axis(coordinates, index[..., None], axis=1)
    counted = (surest > 0) & (jnp.arange(max_sources) < num_sources[:, None])
    chosen = jnp.where(num_sources[:, None] < 0, surest > SURE, counted)
    return chosen.astype(coordinates.dtype), coordinates


def network_start(
    measurement: scenes.Measurement,
    positions: Float[Array, "N 3"],
    network: LocalizationNetwork,
    num_sources: Int[Array, "B"] | None,
    *,
    wavelength: float,
    wavefront: config_lib.Wavefront,
    response: ElementResponse | None = None,
    source_signal: config_lib.SourceSignal,
    max_sources: int,
    region: search_grid.SearchRegion,
) -> tuple[Estimate, Bool[Array, "B"]]:
    """Refine a network's proposals.

    Args:
      measurement: a batch with known noise variance.
      positions: [N, 3] elements [m].
      network: trained on, or set to, that array.
      num_sources: [B] if known; None takes sources with probability above `SURE`.
      wavelength: [m].
      wavefront: of the steering vectors.
      response: of the elements; None: the same in all directions.
      source_signal: constant or independent.
      max_sources: maximum number of sources in the result.
      region: search region.

    Returns:
      An `Estimate`, and the scenes [B] that need the search on the grid: the network did not
      converge, found too few sources, or was trained without impairments and the residual exceeds
      the noise.
    """
    unknown = jnp.full(len(measurement.snapshots), -1, jnp.int32)
    return _network_start(
        measurement,
        positions,
        network,
        unknown if num_sources is None else jnp.asarray(num_sources, jnp.int32),
        jnp.asarray(wavelength, jnp.float32),
        region.limits,
        response,
        wavefront=wavefront,
        source_signal=source_signal,
        max_sources=max_sources,
    )


@compilation.program(static_argnames=("wavefront", "source_signal", "max_sources"))
def _network_start(
    measurement, positions, network, num_sources, wavelength, limits, response,
    *, wavefront, source_signal, max_sources,
):  # fmt: skip
    """`network_start` with all numbers as arrays; a negative number of sources is unknown."""
    wave = {"wavelength": wavelength, "wavefront": wavefront, "response": response}
    snapshots, antennas = measurement.snapshots.shape[-2:]
    amplitudes = 1 if source_signal == "constant" else snapshots
    samples = snapshots * antennas
    observation = likelihood.observe_batch(measurement, source_signal)
    proposal = network.propose(observation, measurement.noise_variance)
    active, coordinates = present(proposal, num_sources, max_sources)
    search = maximum_likelihood.prepare(
        positions, limits, matching_pursuit.SearchOptions(), (1, 1, 1), samples, amplitudes,
        1.0, **wave,
    )  # fmt: skip

    def polish(scene, observation, start, active):
        fit = refinement.refine(search.setting, observation, start, active, _POLISHING)
        return maximum_likelihood.as_estimate(
            search, observation, fit, scene, positions, wave, source_signal
        )

    estimate = jax.vmap(polish)(measurement, observation, coordinates, active)
    exceeds_noise = residual_test.inconsistent(estimate, measurement, amplitudes)
    # A network trained with impairments allows a residual above the noise.
    nominal = network.config.impairments == config_lib.ImpairmentConfig()
    # Scenes without received energy have no sources.
    unconverged = proposal.unconverged & jnp.any(measurement.snapshots != 0.0, axis=(1, 2))
    missing = jnp.where(num_sources < 0, unconverged, estimate.num_sources < num_sources)
    return estimate, missing | (exceeds_noise & nominal)
