"""Flags of a scene: one bit per warning or note, with a sentence that names the cause.

Estimators do not raise on bad data. Warnings are in `Estimate.flags`, a bit mask for each scene
(compare the results of optimistix).
"""

import enum
from typing import Any

import numpy as np
from jaxtyping import Int


class Flag(enum.IntFlag):
    """Warnings about an estimate, or notes on its computation."""

    NOT_CHECKED = 1 << 0
    CENTRED = 1 << 1
    UNDETERMINED = 1 << 2
    ON_LIMIT = 1 << 3
    MAX_SOURCES = 1 << 4
    NOTHING_FOUND = 1 << 5
    COINCIDENT = 1 << 6
    COHERENT = 1 << 7
    AMBIGUOUS = 1 << 8
    NOISE_FLOOR = 1 << 9
    MISFIT = 1 << 10
    NOISE_ABOVE = 1 << 11
    NOISE_BELOW = 1 << 12
    UNITS = 1 << 13
    INDEPENDENT_SIGNALS = 1 << 14
    CONJUGATED = 1 << 15
    SNAPSHOTS_CONJUGATED = 1 << 16
    CHANNEL_CONJUGATED = 1 << 17
    CODES_CONJUGATED = 1 << 18
    CODES_REVERSED = 1 << 19
    CODE_STATES = 1 << 20
    AXES_SWAPPED = 1 << 21
    ELEMENT_ORDER = 1 << 22
    ELEMENT_PLANE = 1 << 23
    WAVEFRONT = 1 << 24
    OUTSIDE_LIMITS = 1 << 25
    NETWORK_NOT_USED = 1 << 26
    STATIC_PATH = 1 << 27
    CODE_MEAN = 1 << 28
    WIDEBAND = 1 << 29

    @property
    def sentence(self) -> str:
        """Explanation of the flag for users, in one sentence."""
        return _SENTENCES[self]


#: Notes: the estimate is valid.
NOTES = (
    Flag.NOT_CHECKED | Flag.CENTRED | Flag.UNDETERMINED | Flag.NETWORK_NOT_USED | Flag.STATIC_PATH
    | Flag.WIDEBAND
)  # fmt: skip

_SENTENCES = {
    Flag.NOT_CHECKED: "the model check needs values and does not run inside jax.jit",
    Flag.CENTRED: "element positions are far from the origin (map coordinates?): source "
    "positions are relative to the centre of the array",
    Flag.UNDETERMINED: "the array is a line and determines only the angle to it: the other angle "
    "is assumed to be 0",
    Flag.ON_LIMIT: "a source lies on the limit of the search region: it may be outside; widen the "
    "limits",
    Flag.MAX_SOURCES: "max_sources was reached and the residual holds another source: raise "
    "max_sources, or the model does not fit",
    Flag.NOTHING_FOUND: "no source was found in any scene: check wavelength, source_signal, axes "
    "and signs",
    Flag.COINCIDENT: "sources of huge power cancel each other: the model does not fit, or two "
    "sources are too close to separate",
    Flag.COHERENT: "more sources than independent signals: reflections of one source, or antennas "
    "or elements that are not calibrated",
    Flag.AMBIGUOUS: "another direction in the region has nearly the same steering vector (grating "
    "lobe or mirror image) and explains the data as well",
    Flag.NOISE_FLOOR: "the noise is below what single precision resolves: standard deviations are "
    "lower limits",
    Flag.MISFIT: "the residual is not white: positions, codes, channel or wave model do not fit "
    "the data; standard deviations are too small",
    Flag.NOISE_ABOVE: "the residual is stronger than the noise that snr_db gives: positions, "
    "codes, channel or SNR do not fit the data",
    Flag.NOISE_BELOW: "the residual is weaker than the noise that snr_db gives: the SNR is too low",
    Flag.UNITS: "element spacing is not between 0.1 and 1 wavelengths and the model does not fit: "
    "are positions and wavelength both in metres?",
    Flag.INDEPENDENT_SIGNALS: "the signals change from snapshot to snapshot: use "
    "source_signal=independent",
    Flag.CONJUGATED: "the data fit the opposite sign convention: conjugate snapshots, channel and "
    "codes",
    Flag.SNAPSHOTS_CONJUGATED: "the data fit better with the snapshots conjugated",
    Flag.CHANNEL_CONJUGATED: "the data fit better with the channel conjugated",
    Flag.CODES_CONJUGATED: "the data fit better with the codes conjugated",
    Flag.CODES_REVERSED: "the data fit better with the codes in reverse order",
    Flag.CODE_STATES: "the data fit better with codes 0 and 1 read as phases 0 and pi",
    Flag.AXES_SWAPPED: "the data fit better with the axes L and M of the snapshots swapped",
    Flag.ELEMENT_ORDER: "the data fit better with rows and columns of the element positions "
    "swapped",
    Flag.ELEMENT_PLANE: "the data fit better with the elements in the x-y plane",
    Flag.WAVEFRONT: "the data fit better with another wavefront (spherical, spherical_phase or "
    "parabolic)",
    Flag.OUTSIDE_LIMITS: "a source outside the search limits explains the data better: widen the "
    "limits",
    Flag.NETWORK_NOT_USED: "the network was trained on another source_signal or element response "
    "than that of the data: the search without a network took its place",
    Flag.STATIC_PATH: "a path that is the same under all codes was removed",
    Flag.CODE_MEAN: "the codes have a large mean, which a static path hides: its removal costs "
    "more than 3 dB; use codes whose mean is near zero",
    Flag.WIDEBAND: "several frequencies: limits and given noise are checked, the model is not",
}


def names(flags: int) -> list[str]:
    """Lower-case names of the bits that are set, lowest first."""
    return [str(flag.name).lower() for flag in Flag if flags & flag]


def summary(flags: Int[Any, "B"] | None, among: Flag | None = None) -> list[str]:
    """One line for each flag that any scene has: number of scenes and the sentence.

    Args:
      flags: [B] bit masks, or None.
      among: flags to list; all by default.

    Example:
      >>> summary(np.array([0, Flag.CENTRED]))[0].split(":")[0]
      'centred, 1 of 2 scenes'
    """
    if flags is None:
        return []
    values = np.atleast_1d(np.asarray(flags))
    listed = tuple(Flag) if among is None else tuple(among)
    counts = {flag: int(np.count_nonzero(values & flag)) for flag in listed}
    return [
        f"{names(flag)[0]}, {count} of {values.size} scenes: {flag.sentence}"
        for flag, count in counts.items()
        if count
    ]
