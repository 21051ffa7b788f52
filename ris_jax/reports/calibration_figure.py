"""Figure of a calibration: amplitudes and phases over the surface, and the recordings needed."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from ris_jax.estimation.calibration.known_sources import SurfaceFit


def figure(
    fit: SurfaceFit,
    positions: Float[np.ndarray, "N 3"],
    amounts: Int[np.ndarray, "A"],
    losses: Float[np.ndarray, "A"],
) -> Figure:
    """Draw factors at the places of their elements, for every state, and losses.

    Args:
      fit: the calibration.
      positions: elements [m].
      amounts: numbers of recordings.
      losses: loss of position accuracy for each number [dB].
    """
    factors = fit.calibration.factors.reshape(len(positions), -1)
    states = factors.shape[1]
    drawn = Figure(figsize=(11.0, 3.4 * states), layout="constrained")
    grid = drawn.add_gridspec(states, 3)
    spread = max(float(np.ptp(positions, axis=0).max()), 1e-9)
    size = np.clip(6e4 / len(positions), 8, 180) * 0.25
    for state in range(states):
        amplitude = 20 * np.log10(np.maximum(np.abs(factors[:, state]), 1e-6))
        phase = np.degrees(np.angle(factors[:, state]))
        limit = max(float(np.abs(amplitude).max()), 0.1)
        for column, (values, text, limits, colours) in enumerate((
            (amplitude, "amplitude [dB]", (-limit, limit), "RdBu_r"),
            (phase, "phase [deg]", (-180.0, 180.0), "twilight"),
        )):  # fmt: skip
            axes = drawn.add_subplot(grid[state, column])
            dots = axes.scatter(
                positions[:, 0], positions[:, 1], c=values, s=size, marker="s", cmap=colours,
                vmin=limits[0], vmax=limits[1],
            )  # fmt: skip
            name = "" if states == 1 else f", state {state}"
            axes.set(xlabel="x [m]", ylabel="y [m]", title=f"{text}{name}", aspect="equal")
            axes.margins(0.05 if spread else 0.1)
            drawn.colorbar(dots, ax=axes)
    axes = drawn.add_subplot(grid[0, 2])
    axes.loglog(amounts, losses, "o-", ms=4)
    axes.axvline(len(fit.samples), color="0.5", ls="--", lw=1, label="these recordings")
    axes.set(
        xlabel="recordings", ylabel="loss of position accuracy [dB]", title="recordings needed"
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    return drawn
