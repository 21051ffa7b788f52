"""Received signal-to-noise ratio from transmit power, path loss and receiver noise."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

_BOLTZMANN = 1.380649e-23  # [J/K]
_REFERENCE_TEMPERATURE = 290.0  # [K]


@dataclasses.dataclass(frozen=True)
class LinkBudget:
    """Power of the sources, loss on both hops and noise of the base station."""

    transmit_power_dbm: float  #: of a source, times the gain of its antenna
    noise_figure_db: float = 5.0  #: of the receivers of the base station
    bandwidth_hz: float = 1e6
    path_loss_exponent: float = 2.0  #: from source to surface; 2 is free space
    surface_loss_db: float = 60.0  #: mean loss from an element to an antenna of the base station

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise ValueError(f"{field.name}: need a finite number; got {value}")
        for name in ("bandwidth_hz", "path_loss_exponent"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: need a value above zero; got {getattr(self, name)}")

    @property
    def noise_power_dbm(self) -> float:
        """Thermal noise in the bandwidth, at 290 K, with the noise figure."""
        watts = _BOLTZMANN * _REFERENCE_TEMPERATURE * self.bandwidth_hz
        return 10.0 * math.log10(watts * 1e3) + self.noise_figure_db


def received_snr(
    budget: LinkBudget,
    gain: Float[np.ndarray, "D P"],
    source_range: Float[np.ndarray, "P"],
    *,
    num_elements: int,
    channel_power: float,
    wavelength: float,
) -> Float[np.ndarray, "D P"]:
    r"""Compute the SNR of isotropic sources in front of a surface of isotropic elements, linear.

    .. math:: \mathrm{SNR} = \frac{P}{\sigma^2} \Big(\frac{\lambda}{4\pi}\Big)^2 r^{-n}
              \frac{N\,G(p)}{L_s\,\overline{|H|^2}}

    Args:
      budget: P, n, :math:`L_s` and the noise.
      gain: [D, P] received power of a source of unit amplitude, whose steering vector has norm 1
        in the far field.
      source_range: [P] r [m].
      num_elements: N, since the steering vector has norm 1 over the whole surface.
      channel_power: mean power of an entry of H, which the loss replaces.
      wavelength: [m].
    """
    path = (wavelength / (4.0 * np.pi)) ** 2 * source_range**-budget.path_loss_exponent
    transmit_over_noise = 10.0 ** ((budget.transmit_power_dbm - budget.noise_power_dbm) / 10.0)
    loss = 10.0 ** (budget.surface_loss_db / 10.0)
    return transmit_over_noise * path * num_elements * gain / (loss * channel_power)
