"""Trained networks, loaded from a run or from the shipped weights."""

import dataclasses
import functools
import json
import math
import pathlib
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ris_jax import config as config_lib
from ris_jax.estimation import likelihood
from ris_jax.networks import architectures, network_start, subspace_network
from ris_jax.physics import arrays, element_response, scenes

_CONFIG, _PARAMETERS, _CARD = "config.json", "parameters.npz", "card.json"


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config", "card"]
)
@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network; a `ris_jax.networks.network_start.LocalizationNetwork`, and a pytree.

    Attributes:
      config: of the training; `for_array` replaces its array.
      params: its parameters.
      card: provenance as JSON: command, commit, scores.
    """

    config: config_lib.Config
    params: Any
    card: str = "{}"

    def model(self) -> Any:
        """Return the Flax module with these parameters, of the trained architecture."""
        return nnx.merge(architectures.graphdef(self.config), self.params)

    def covariance(self, measurement: scenes.Measurement) -> network_start.LearnedCovariance:
        """Compute a covariance for subspace methods, and the number of sources, of a batch.

        A learned pursuit returns the sources that it is sure of. A subspace network has no
        positions, and returns the most probable number.
        """
        if self.config.model.architecture == "subspace_network":
            output = self.model()(measurement)
            count = 1 + jnp.argmax(output.count_logits, axis=-1)
            return network_start.LearnedCovariance(output.factor, count)
        output = self(measurement)
        count = jnp.sum(output.existence > network_start.SURE, axis=1)
        return network_start.LearnedCovariance(output.factor, count)

    def propose(
        self, observation: likelihood.Observation, noise_variance: Float[Array, "B"]
    ) -> network_start.NetworkOutput:
        """Evaluate a learned pursuit on a batch, compressed for the likelihood."""
        model = self.model()
        pursuit = model.pursue(observation, noise_variance)
        return network_start.NetworkOutput(
            coordinates=pursuit.fit.coordinates,
            existence=pursuit.existence,
            count_probability=jax.nn.softmax(pursuit.count_logits),
            factor=model.factor(observation, pursuit.fit, pursuit.existence, noise_variance),
            unconverged=pursuit.update.changes,
        )

    @jax.jit
    def __call__(self, measurement: scenes.Measurement) -> network_start.NetworkOutput:
        """Evaluate a learned pursuit on a batch of B scenes with known noise variance."""
        observation = likelihood.observe_batch(measurement, self.config.system.source_signal)
        return self.propose(observation, measurement.noise_variance)

    def refuses(self, config: config_lib.Config) -> str:
        """Return why the network cannot serve a configuration; empty if it can.

        A learned pursuit serves any array with the source signal of its training. A subspace
        network serves its own array only; antennas and codes may differ. `spherical` and
        `spherical_phase` have the same phases and count as one.
        """
        own, given = self.config.system, config.system
        if not element_response.same_response(*map(element_response.of_system, (own, given))):
            return (
                "response: need the element response with which the network was trained; "
                "got another"
            )
        if self.config.model.architecture != "subspace_network":
            if own.source_signal == given.source_signal:
                return ""
            return (
                f"source_signal: need {own.source_signal}, which is what the network was trained "
                f"for; got {given.source_signal}"
            )
        with jax.ensure_compile_time_eval():
            places = [np.asarray(arrays.element_positions(system)) for system in (own, given)]
        same_places = places[0].shape == places[1].shape and np.allclose(*places, atol=1e-6)
        columns = [subspace_network.input_columns(c) for c in (self.config, config)]
        compared = {
            "wavelength": (math.isclose(own.wavelength, given.wavelength, rel_tol=1e-6),
                           own.wavelength, given.wavelength),
            "wavefront": (own.wavefront.removesuffix("_phase")
                          == given.wavefront.removesuffix("_phase"),
                          own.wavefront, given.wavefront),
            "source_signal": (own.source_signal == given.source_signal,
                              own.source_signal, given.source_signal),
            "positions": (same_places, f"the {own.num_elements} of its training",
                          f"{given.num_elements} others"),
            "num_snapshots": (columns[0] == columns[1], f"{columns[0]} or more", columns[1]),
        }  # fmt: skip
        for name, (same, needed, got) in compared.items():
            if not same:
                return (
                    f"{name}: need {needed}, for which the subspace network was trained; got {got}"
                )
        return ""

    def for_array(
        self,
        measurement: scenes.Measurement,
        positions: Float[Array, "N 3"],
        wavelength: float,
        wavefront: config_lib.Wavefront,
        source_signal: config_lib.SourceSignal,
    ) -> "Network":
        """Return the same network for another array.

        The input features of a learned pursuit are in units of the array's resolution and of the
        noise. Its parameters therefore do not depend on wavelength, positions and number of
        elements. A subspace network works for its own array only.

        Args:
          measurement: a batch to be localised; only its shapes are used.
          positions: [N, 3] elements [m].
          wavelength: [m].
          wavefront: of the steering vectors.
          source_signal: constant or independent.

        Raises:
          ConfigError: the signals are others than in training; or, for a subspace network, the
            array or its waves.
        """
        system = self.config.system
        _, snapshots, antennas = measurement.snapshots.shape
        with jax.ensure_compile_time_eval():
            own = np.asarray(arrays.element_positions(system))
        places = np.asarray(positions, np.float32)
        same = own.shape == places.shape and np.allclose(own, places, atol=1e-6 * wavelength)
        system = dataclasses.replace(
            system,
            wavelength=float(wavelength),
            element_positions=system.element_positions if same else places.tolist(),
            codebook="random",  # unused: the measurement has the codes
            num_snapshots=snapshots,
            num_antennas=antennas,
            wavefront=wavefront,
            source_signal=source_signal,
        )
        config = dataclasses.replace(self.config, system=system)
        reason = self.refuses(config)
        if reason:
            raise config_lib.ConfigError(reason)
        return dataclasses.replace(self, config=config)


def names() -> list[str]:
    """List the shipped networks."""
    folder = resources.files("ris_jax") / "networks" / "weights"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / _CONFIG).is_file())


def load_pretrained(name: str) -> Network:
    """Load a shipped network; nothing is downloaded.

    Args:
      name: one of `names`.

    Raises:
      ConfigError: the name is unknown.
    """
    if name not in names():
        raise config_lib.ConfigError(f"pretrained: need one of {', '.join(names())}; got {name!r}")
    folder = resources.files("ris_jax") / "networks" / "weights" / name
    with resources.as_file(folder) as path:
        return read(pathlib.Path(path))


def read(folder: pathlib.Path) -> Network:
    """Read a network that `write` stored."""
    config = config_lib.from_stored(json.loads((folder / _CONFIG).read_text()))
    card = (folder / _CARD).read_text()
    template = architectures.parameter_shapes(config)
    with np.load(folder / _PARAMETERS, allow_pickle=False) as stored:
        paths, tree = jax.tree_util.tree_flatten_with_path(template)
        leaves = [jax.device_put(stored[jax.tree_util.keystr(path)]) for path, _ in paths]
    return Network(config, jax.tree_util.tree_unflatten(tree, leaves), card)


def write(network: Network, folder: pathlib.Path) -> None:
    """Write a network: config.json, parameters.npz and card.json."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = jax.tree_util.tree_leaves_with_path(jax.device_get(network.params))
    stored = json.dumps(config_lib.to_stored(network.config), indent=1)
    (folder / _CONFIG).write_text(stored + "\n")
    (folder / _CARD).write_text(network.card)
    np.savez(folder / _PARAMETERS, **{jax.tree_util.keystr(path): leaf for path, leaf in flat})
