"""Input of the model check: the arguments of `localize`, on the host."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid
from ris_jax.estimation.checks import alternatives
from ris_jax.estimation.estimate import Estimate
from ris_jax.physics import arrays, scenes
from ris_jax.physics.element_response import ElementResponse


class CheckInput(NamedTuple):
    """Arguments of `localize`, on the host."""

    measurement: scenes.Measurement  #: [B, ...] NumPy
    positions: Float[np.ndarray, "N 3"]
    wavelength: float
    wavefront: config_lib.Wavefront
    signal: config_lib.SourceSignal
    region: search_grid.SearchRegion
    counted: bool  #: the number of sources was not given
    static_path: bool = False  #: it was removed before the fit; the measurement still has it
    response: ElementResponse | None = None  #: of the elements

    def scene(self, number: int) -> alternatives.Reading:
        """Data of one scene, as given, in double precision."""
        snapshots, channel, codes, _ = self.measurement
        return alternatives.Reading(
            np.asarray(snapshots[number], np.complex128),
            np.asarray(channel[number], np.complex128),
            np.asarray(codes[number], np.complex128),
            np.asarray(self.positions, float),
            self.signal,
            self.wavefront,
            static_path=self.static_path,
        )

    def fitted_scene(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Snapshots, channel and codes of one scene, without the static path if it was removed."""
        return self.scene(number).removed()[:3]

    def steering(self, points, positions, wavefront) -> Complex[np.ndarray, "P N"]:
        """Steering vectors of the package; see `alternatives.Steering`."""
        found = _vectors(
            np.asarray(points, np.float32),
            np.asarray(positions, np.float32),
            self.response,
            wavelength=float(self.wavelength),
            wavefront=wavefront,
        )
        return np.asarray(found)

    def steering_jets(self, estimate: Estimate) -> Complex[np.ndarray, "B K 4 N"]:
        """Steering vectors of an estimate, and their derivatives in (u, w, 1/r)."""
        points = coordinates_of(estimate)
        jets = _jets(
            np.asarray(points.reshape(-1, 3), np.float32),
            np.asarray(self.positions, np.float32),
            self.response,
            wavelength=float(self.wavelength),
            wavefront=self.wavefront,
        )
        return np.asarray(jets).reshape(*points.shape[:2], 4, -1)


@functools.partial(jax.jit, static_argnames=("wavelength", "wavefront"))
def _vectors(points, positions, response, *, wavelength, wavefront):
    return arrays.steering_at(
        points, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )


@functools.partial(jax.jit, static_argnames=("wavelength", "wavefront"))
def _jets(points, positions, response, *, wavelength, wavefront):
    return arrays.steering_jet(
        points, positions, wavelength=wavelength, wavefront=wavefront, response=response
    )


def coordinates_of(estimate: Estimate) -> Float[np.ndarray, "B K 3"]:
    """Return the source positions in (u, w, 1/r), [B, K, 3]."""
    azimuth, elevation = np.asarray(estimate.azimuth, float), np.asarray(estimate.elevation, float)
    with np.errstate(divide="ignore"):
        rho = 1.0 / np.asarray(estimate.source_range, float)
    return np.stack([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), rho], axis=-1)
