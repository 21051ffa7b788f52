"""Localiser of a fixed surface: arrays in, `Estimate` out, with the latency of one scene.

`localize` derives the search grid, the steering vectors of its cells and the observation operator
in each call. Here they are computed once, and scenes run one by one in a compiled program.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ris_jax import compilation, estimators, localization
from ris_jax import config as config_lib
from ris_jax.estimation import (
    inputs,
    likelihood,
    matching_pursuit,
    maximum_likelihood,
    search_grid,
    source_number,
)
from ris_jax.estimation.checks.check_input import CheckInput
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.networks import network_start
from ris_jax.physics import scenes
from ris_jax.physics import static_path as static_path_lib
from ris_jax.physics.element_response import ElementResponse


class SearchConstants(NamedTuple):
    """Arrays that all scenes of a surface share."""

    steering: Float[Array, "N 2G"] | None  #: see `candidate_search.Grid.stored`
    unit: Float[Array, "3"]  #: see `candidate_search.Grid.unit`
    volumes: Float[Array, "4"]  #: see `source_number.intrinsic_volumes`
    operator: Float[Array, "1 T N 2R"]  #: see `likelihood.Observation.operator`


@dataclasses.dataclass(frozen=True, eq=False)
class SceneProgram:
    """Maximum-likelihood search of one scene of constant signals through a fixed surface."""

    channel: Complex[np.ndarray, "1 M N"]
    codes: Complex[np.ndarray, "1 L N"]
    positions: Float[np.ndarray, "N 3"]  #: [m]
    wavelength: float  #: [m]
    wavefront: config_lib.Wavefront
    response: ElementResponse | None
    region: search_grid.SearchRegion
    effort: matching_pursuit.SearchOptions
    num_sources: int | None
    max_sources: int
    false_alarm_rate: float

    @functools.cached_property
    def constants(self) -> SearchConstants:
        """Arrays that `search` takes, computed on first use."""

        def compute():
            search, near_one, _ = self._search(jnp.zeros(self._shape, jnp.complex64))
            operator = likelihood.shared_operator(near_one.channel, near_one.codes, "constant")
            return SearchConstants(search.grid.stored, search.grid.unit, search.volumes, operator)

        return compilation.Program(compute, quick=True)()

    @functools.cached_property
    def compiled(self) -> compilation.Program:
        """`search`, compiled on its first call."""
        return compilation.Program(self.search)

    def search(self, constants: SearchConstants, snapshots: Complex[Array, "1 L M"]) -> Estimate:
        """Localise the sources of one scene; traceable.

        Args:
          constants: of this surface.
          snapshots: complex64.

        Returns:
          `Estimate` [1, max_sources] without the model check.
        """
        search, near_one, scale = self._search(snapshots)
        search = dataclasses.replace(
            search,
            grid=dataclasses.replace(search.grid, stored=constants.steering, unit=constants.unit),
            volumes=constants.volumes,
        )
        observations = likelihood.observe_batch(near_one, "constant", constants.operator)
        least, most = (0, self.max_sources) if self.num_sources is None else (self.num_sources,) * 2
        estimate = maximum_likelihood.fit_scenes(
            search,
            observations,
            near_one,
            jnp.asarray(self.positions, jnp.float32),
            jnp.full(1, least, jnp.int32),
            jnp.full(1, most, jnp.int32),
            max_sources=self.max_sources,
            source_signal="constant",
            wavelength=self.wavelength,
            wavefront=self.wavefront,
            response=self.response,
        )
        return estimators.unscaled(estimate, scale)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return 1, self.codes.shape[1], self.channel.shape[1]

    def _search(self, snapshots):
        """Return the search, the scaled measurement and its scale; XLA drops unused parts."""
        measurement = scenes.Measurement(
            snapshots=snapshots,
            channel=jnp.asarray(self.channel, jnp.complex64),
            codes=jnp.asarray(self.codes, jnp.complex64),
            noise_variance=jnp.full(1, jnp.nan, jnp.float32),
        )
        near_one, scale = estimators.scaled(measurement)
        _, length, antennas = self._shape
        wave: dict[str, Any] = {"wavelength": self.wavelength, "wavefront": self.wavefront}
        shape = self.effort.grid or search_grid.search_shape(
            self.positions, self.region, cell=self.effort.cell, **wave
        )
        search = maximum_likelihood.prepare(
            jnp.asarray(self.positions, jnp.float32),
            self.region.limits,
            self.effort,
            shape,
            length * antennas,
            1,
            self.false_alarm_rate,
            response=self.response,
            **wave,
        )
        return search, near_one, scale


class PreparedLocalizer:
    """`localize` for a fixed array, channel and set of codes.

    The results are those of `localize`, up to rounding, except that the flags have no likely causes
    of warnings: their search takes 0.1 to 1 s per scene. Constant signals and the estimator
    "maximum_likelihood" have the compiled program of one scene; other estimators call `localize`.
    """

    def __init__(
        self,
        channel: Complex[Any, "M N"] | None,
        codes: Complex[Any, "L N"] | None,
        positions: Float[Any, "N 3"],
        *,
        shape: tuple[int, int],
        wavelength: float,
        wavefront: config_lib.Wavefront = "spherical",
        response: ElementResponse | None = None,
        source_signal: config_lib.SourceSignal = "constant",
        estimator: str = "auto",
        num_sources: int | None = None,
        max_sources: int = 5,
        false_alarm_rate: float = source_number.DEFAULT_FALSE_ALARM_RATE,
        limits: Limits | None = None,
        network: network_start.LocalizationNetwork | None = None,
        search: str | matching_pursuit.SearchOptions = "normal",
        static_path: config_lib.StaticPath = "auto",
    ):
        """Check the arguments; nothing is compiled yet.

        Args:
          channel: complex; None for an array without a surface, as for `localize`.
          codes: complex, or None.
          positions: elements [m].
          shape: L and M of the snapshots.
          wavelength: [m].
          wavefront: as for `localize`, as the other options.
          response: of the elements, if it depends on the angle.
          source_signal: constant or independent.
          estimator: name.
          num_sources: number of sources, if known.
          max_sources: maximum number of sources.
          false_alarm_rate: of a scene, if the number is unknown.
          limits: of the reported sources.
          network: trained network, if any.
          search: effort.
          static_path: on, off or auto.

        Raises:
          ConfigError: an invalid option, or mismatched shapes.
        """
        self.shape = shape
        blank = np.ones((1, *shape), np.complex64)
        given = scenes.Measurement(blank, channel, codes)  # pyright: ignore[reportArgumentType]
        checked = localization.checked_inputs(
            given, positions, wavelength=wavelength, response=response,
            source_signal=source_signal, estimator=estimator, num_sources=num_sources,
            max_sources=max_sources, false_alarm_rate=false_alarm_rate, region=None, limits=limits,
            static_path=static_path,
        )  # fmt: skip
        response, region = checked.response, checked.region
        self._measurement = checked.measurement
        self.static_path: config_lib.StaticPath = static_path
        self._tested, self._notes = checked.path_tested, checked.notes
        effort = matching_pursuit.effort(search)
        self._limits, self._network = limits, network
        self._options: dict[str, Any] = {
            "wavelength": wavelength,
            "wavefront": wavefront,
            "response": response,
            "source_signal": source_signal,
            "estimator": estimator,
            "num_sources": num_sources,
            "max_sources": max_sources,
            "false_alarm_rate": false_alarm_rate,
            "limits": limits,
            "network": network,
            "search": effort,
        }
        self._positions = positions
        self._problem = CheckInput(
            measurement=self._measurement,
            positions=np.asarray(checked.positions),
            wavelength=wavelength,
            wavefront=wavefront,
            response=response,
            signal=source_signal,
            region=region if network is None else search_grid.region_of(network.config.scene),
            counted=num_sources is None,
            static_path=static_path == "on",
        )
        searched = estimator == "maximum_likelihood" or (estimator == "auto" and network is None)
        self.is_compiled = searched and source_signal == "constant" and network is None
        if jax.default_backend() == "cpu":
            # A queue of several jobs fills an accelerator. On a CPU its empty places cost time.
            effort = dataclasses.replace(effort, queue=1)

        def program(without_path: bool) -> SceneProgram:
            surface = self._measurement
            if without_path:
                surface = static_path_lib.remove_static_path(surface)
            return SceneProgram(
                np.asarray(surface.channel),
                np.asarray(surface.codes),
                np.asarray(checked.positions),
                wavelength,
                wavefront,
                response,
                region,
                effort,
                num_sources,
                max_sources,
                false_alarm_rate,
            )

        self._program = functools.cache(program)

    @property
    def program(self) -> SceneProgram | None:
        """Search of one scene that `static_path` asks for first; None if it has no program."""
        return self._program(self.static_path == "on") if self.is_compiled else None

    def warm_up(self) -> None:
        """Compile all programs that a scene may need, with and without a static path."""
        noise = np.random.default_rng(0).normal(size=(1, *self.shape, 2)).astype(np.float32)
        snapshots = noise.view(np.complex64)[..., 0]
        self(snapshots)
        if not self.is_compiled:
            self(snapshots, 1.0)  # some estimators have another program for a known noise variance
        if self._network is not None:  # scenes of which it is unsure are searched
            search = {"estimator": "maximum_likelihood", "network": None}
            jax.block_until_ready(self._localize(snapshots, False, np.nan, **search))
        if self._tested:
            jax.block_until_ready(self._fit(snapshots, True))
            # The flag and the strength of the path have programs of their own.
            self(snapshots + 100.0)

    def __call__(
        self,
        snapshots: Complex[np.ndarray, "B L M"],
        noise_variance: Float[np.ndarray, "B"] | float = np.nan,
    ) -> Estimate:
        """Localise the sources of a few scenes.

        Args:
          snapshots: complex64, finite.
          noise_variance: of each scene or all, NaN if unknown; for the model check only.

        Returns:
          `Estimate` of NumPy arrays with `flags`.

        Raises:
          ConfigError: another shape.
        """
        inputs.require(
            snapshots.shape[1:] == self.shape and len(snapshots),
            "snapshots",
            f"[B, L, M] with L, M = {', '.join(map(str, self.shape))}",
            snapshots.shape,
        )
        batch = len(snapshots)
        noise = np.broadcast_to(np.asarray(noise_variance, np.float32), batch)
        given = self._measurement._replace(snapshots=snapshots, noise_variance=noise)
        problem = self._problem._replace(measurement=inputs.for_each_scene(given))
        estimate = self._fit(snapshots, self.static_path == "on", noise)
        notes = self._notes
        if estimate.flags is not None:
            first = Flag(int(np.asarray(estimate.flags)[0]))
            notes = Flag(first & ~(Flag.NOT_CHECKED | Flag.STATIC_PATH))
        return localization.checked(
            estimate,
            problem,
            self._limits,
            notes,
            fit_again=(lambda path: self._fit(snapshots, path, noise)) if self._tested else None,
            causes=False,
        )

    def _fit(self, snapshots, without_path: bool, noise: Any = np.nan) -> Estimate:
        """Return the estimate without the model check, scene by scene."""
        if self.is_compiled:
            program = self._program(without_path)
            if without_path:
                snapshots = static_path_lib.without_mean(snapshots)
            found = [program.compiled(program.constants, scene[None]) for scene in snapshots]
        else:
            noise = np.broadcast_to(np.asarray(noise, np.float32), len(snapshots))
            found = [
                self._localize(scene[None], without_path, each)
                for scene, each in zip(snapshots, noise, strict=True)
            ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *jax.device_get(found))

    def _localize(self, snapshots, without_path: bool, noise: Any, **changes: Any) -> Estimate:
        """`localize` for one scene, without the model check."""
        noise = np.full(1, noise, np.float32)
        return localization.localize(
            self._measurement._replace(snapshots=snapshots, noise_variance=noise),
            self._positions,
            static_path="on" if without_path else "off",
            check=False,
            **self._options | changes,
        )
