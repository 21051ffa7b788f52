r"""Uniform, centred planar arrays, whose elements form mirror pairs.

Element n at :math:`q_n` has its mirror at :math:`-q_n`. In the Fresnel approximation of a
near-field steering vector,

.. math:: a_n = N^{-1/2} \exp\{jk(\hat u^Tq_n - \rho(\|q_n\|^2 - (\hat u^Tq_n)^2)/2)\},

both have the same quadratic phase, which contains the range, and opposite linear phases, which
contain the direction. A method that uses only :math:`2\hat u^T q_n` has the beamwidth of an array
of twice the spacing d. It is ambiguous in u and w with the period :math:`\lambda / 2d`. Half a
wavelength spacing gives one ambiguity, a quarter wavelength none.
"""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Float

from ris_jax import config as config_lib
from ris_jax.estimation import search_grid

# Tolerance of element positions, as a fraction of the spacing.
_TOLERANCE = 1e-3
# Margin of the search beyond half a period, as a fraction of a period: no peak at its edge.
_OVERLAP = 0.04


@dataclasses.dataclass(frozen=True)
class GridLayout:
    """A grid of elements, x fastest."""

    rows: int  # along y
    columns: int  # along x
    spacing: float  # [m], along both

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    def period(self, wavelength: float) -> float:
        """Return the distance in u or w of directions with the same mirror-pair phases."""
        return wavelength / (2.0 * self.spacing)


def layout_of(positions: Float[np.ndarray, "N 3"]) -> GridLayout:
    """Return the grid of the elements of an array.

    Args:
      positions: [N, 3] float [m], NumPy.

    Raises:
      ConfigError: they are not a centred grid in the x-y plane with one spacing, x fastest.
    """
    positions = np.asarray(positions, float)
    count = len(positions)
    steps = np.abs(np.diff(positions[:, 1]))
    # The first row ends where y changes.
    new_row = np.flatnonzero(steps > 0.5 * np.max(steps, initial=0.0))
    columns = int(new_row[0]) + 1 if len(new_row) else count
    rows = count // columns
    widths = [np.ptp(positions[:, c]) / max(n - 1, 1) for c, n in ((0, columns), (1, rows))]
    spacing = max(widths)
    y, x = np.meshgrid(
        (np.arange(rows) - (rows - 1) / 2) * spacing,
        (np.arange(columns) - (columns - 1) / 2) * spacing,
        indexing="ij",
    )
    wanted = np.stack([x.ravel(), y.ravel(), np.zeros(rows * columns)], axis=-1)
    fits = wanted.shape == positions.shape and spacing > 0
    if not fits or np.max(np.abs(positions - wanted)) > _TOLERANCE * spacing:
        raise config_lib.ConfigError(
            "positions: need a grid centred on the origin in the x-y plane, of one spacing, x "
            f"fastest, for this estimator; got {count} elements off such a grid"
        )
    return GridLayout(rows, columns, float(spacing))


def one_period(
    region: search_grid.SearchRegion, layout: GridLayout, wavelength: float
) -> search_grid.SearchRegion:
    """Return the part of a region without ambiguous directions."""
    most = layout.period(wavelength) * (0.5 + _OVERLAP)
    return dataclasses.replace(region, u_max=min(region.u_max, most), w_max=min(region.w_max, most))


def aliases(
    region: search_grid.SearchRegion, layout: GridLayout, wavelength: float
) -> Float[np.ndarray, "P 2"]:
    """Return the shifts of (u, w) from `one_period` to aliases in the region."""
    period = layout.period(wavelength)
    one = one_period(region, layout, wavelength)
    most = [
        math.ceil((whole + part) / period) - 1
        for whole, part in ((region.u_max, one.u_max), (region.w_max, one.w_max))
    ]
    steps = itertools.product(*(range(-count, count + 1) for count in most))
    return period * np.array(list(steps), np.float32)
