r"""Test for a static path in the residual of a fit, and the effect of its removal.

A path that is the same under all codes leaves its energy in the residual's mean over codes. Without
it, the mean holds as much energy per degree of freedom as the rest. This is the score test of the
path (Rao, *Large sample tests of statistical hypotheses concerning several parameters*, Math. Proc.
Camb. Phil. Soc. 44(1), 1948) for an unknown noise variance: an F test. It needs the fit without the
path only.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy import special

from ris_jax.estimation.checks import alternatives, residual_analysis
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.physics import static_path

# False-alarm rate of a call of `localize`.
_RATE = 1e-4
# Least energy of the residual's mean, relative to the noise in it. Below two, the path causes less
# error than its removal: the bias of the fit is then smaller than the increase of its variance.
_LEAST_RATIO = 2.0
# Fraction of a source's image outside of the static paths, below which the two are equal.
_EQUAL = 1e-6
# Increase of the variances that is reported as a cost of the codes.
_COSTLY_DB = 3.0


class MeanTest(NamedTuple):
    """Test of the residual's mean over codes, for each scene; NaN if not tested."""

    ratio: Float[np.ndarray, "B"]  #: energy in the mean over that in the rest, per dimension
    chance: Float[np.ndarray, "B"]  #: probability of a larger ratio without a static path


def untested(batch: int) -> MeanTest:
    """Return the results of scenes without a test."""
    return MeanTest(np.full(batch, np.nan), np.full(batch, np.nan))


def mean_test(fitted: residual_analysis.SceneFit) -> tuple[float, float]:
    r"""Return ratio and p-value of one scene, see `MeanTest`.

    The static paths span :math:`S = 1_L / \sqrt L \otimes I_M`. The part of S outside of the
    sources' images is tested, :math:`r^H S (S^H (I - U U^H) S)^{-1} S^H r`, with the inverse by K x
    K matrices. Errors of the positions make the test slightly conservative.

    Args:
      fitted: fit of constant signals.
    """
    length, antennas = fitted.residual.shape
    overlap = fitted.basis.conj().sum(axis=0).T / np.sqrt(length)  # U^H S [K, M]
    score = fitted.residual.sum(axis=0) / np.sqrt(length)  # S^H r
    apart, axes = np.linalg.eigh(np.eye(len(overlap)) - overlap @ overlap.conj().T)
    kept = apart > _EQUAL
    both = axes.conj().T @ (overlap @ score)
    inside = np.sum(np.abs(score) ** 2) + np.sum(np.abs(both[kept]) ** 2 / apart[kept])
    dof = antennas - np.count_nonzero(~kept)
    rest = fitted.dof - dof
    total = np.sum(np.abs(fitted.residual) ** 2)
    if length < 2 or dof < 1 or rest < 1.0 or not total > inside:
        return np.nan, np.nan
    chance = special.betaincc(dof, rest, inside / total)
    return (inside / dof) / ((total - inside) / rest), float(chance)


def is_present(test: MeanTest, codes: Complex[np.ndarray, "L N"]) -> bool:
    """Return whether any scene, or all scenes together, have a static path worth removing.

    Codes with a large mean also concentrate an error of the model (positions, channel) in the
    residual's mean. The ratio then has to exceed their share.

    Args:
      test: of the scenes of a call.
      codes: of one scene.
    """
    tested = np.isfinite(test.ratio)
    if not tested.any():
        return False
    least = _LEAST_RATIO * max(1.0, len(codes) * static_path.mean_fraction(codes))
    ratio, chance = test.ratio[tested], np.maximum(test.chance[tested], 1e-300)
    alone = (ratio > least) & (chance < 0.5 * _RATE / len(ratio))
    # Fisher's combination of the p-values.
    together = special.gammaincc(len(ratio), -np.sum(np.log(chance))) < 0.5 * _RATE
    return bool(alone.any() or (together and ratio.mean() > least))


def measured(
    scene: alternatives.Reading, jets: Complex[np.ndarray, "K 4 N"]
) -> tuple[float, float]:
    """Return the strength of a static path, and the increase of variances by its removal [dB].

    Args:
      scene: with its static path, of constant signals.
      jets: steering vectors of the sources found, and their derivatives.

    Returns:
      Power over that of the sources, per sample, without the noise in it; infinite without sources.
      Mean increase over sources and parameters; NaN if no parameter is determined.
    """
    left, count = scene.removed(), len(jets)
    vectors = jets.reshape(4 * count, jets.shape[-1])

    def images(codes):
        shape = len(codes), len(scene.channel), count, 4
        return residual_analysis.images(vectors, scene.channel, codes).reshape(shape)

    whole, reduced = images(scene.codes), images(left.codes)
    fitted = residual_analysis.fit(left.snapshots, reduced[..., 0], constant=True)
    noise = np.sum(np.abs(fitted.residual) ** 2) / max(fitted.dof, 1.0)
    surface = whole[..., 0] @ fitted.amplitudes[0]
    path = np.mean(scene.snapshots - surface, axis=0)
    power = np.mean(np.abs(path) ** 2) - noise / len(surface)
    signal = np.mean(np.abs(surface) ** 2)
    with np.errstate(divide="ignore"):
        strength = 10.0 * np.log10(max(power, 0.0) / signal) if signal > 0.0 else np.inf
    known = residual_analysis.fit(scene.snapshots - path, whole[..., 0], constant=True)
    variances = [
        np.diagonal(residual_analysis.inverse_information(matrix, np.diagonal(matrix) > 0.0))
        for matrix in (
            residual_analysis.information(known, whole),
            residual_analysis.information(fitted, reduced),
        )
    ]
    determined = np.isfinite(variances[0])
    if not determined.any():
        return strength, np.nan
    increase = 10.0 * np.log10(variances[1][determined] / variances[0][determined])
    return strength, float(np.mean(increase))


def flags_of(estimate: Estimate) -> Int[np.ndarray, "B"]:
    """Return the flags of scenes from whose data a static path was removed."""
    removed = ~np.isnan(np.asarray(estimate.static_path_db))
    costly = np.nan_to_num(np.asarray(estimate.static_path_loss_db)) > _COSTLY_DB
    return np.where(removed, Flag.STATIC_PATH, 0) | np.where(removed & costly, Flag.CODE_MEAN, 0)
