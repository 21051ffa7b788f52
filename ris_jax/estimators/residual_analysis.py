r"""Least-squares fit of a finished estimate, in double precision, and tests of its residual.

The residual of a model that fits is white: over antennas, over codes, and inside the space
:math:`\Phi C^N` of what an aperture field can cause as outside of it. Each test has a designed
false-alarm rate, and none needs the noise variance. NumPy on the host, one scene at a time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex
from scipy import linalg, special

# False-alarm rates of the tests of one scene; together below 1e-3. The split of energy inside and
# outside of the field's space also feels sources that are too weak to be counted: its own is lower.
_RATE = 1e-4
_FIELD_RATE = 2e-5
# Real parameters of a source beside its amplitudes, in complex samples.
_PLACE = 1.5
# Largest field space that is split off, N: its factorization costs N^3.
_MOST_ELEMENTS = 1024
# Quantile of the Tracy-Widom law of complex matrices at `_RATE` (asymptotic tail 1e-4).
_TRACY_WIDOM = 2.2


class SceneFit(NamedTuple):
    """Signals fitted to one scene at given steering vectors."""

    residual: Complex[np.ndarray, "L M"]
    amplitudes: Complex[np.ndarray, "T K"]  #: T = 1 for constant signals, else L
    basis: Complex[np.ndarray, "L M K"]  #: orthonormal, over all rows or within each snapshot
    factor: Complex[np.ndarray, "T K K"]  #: triangular: images = basis @ factor
    constant: bool

    @property
    def dof(self) -> float:
        """Complex degrees of freedom of the residual."""
        groups, sources = self.amplitudes.shape
        return self.residual.size - sources * (groups + _PLACE)


def images(
    vectors: Complex[np.ndarray, "K N"],
    channel: Complex[np.ndarray, "M N"],
    codes: Complex[np.ndarray, "L N"],
) -> Complex[np.ndarray, "L M K"]:
    """What the antennas receive of aperture fields under every code; a view if all are alike."""
    alike = len(codes) > 1 and bool((codes == codes[0]).all())
    fields = (codes[:1] if alike else codes)[:, None, :] * vectors
    seen = np.moveaxis(fields @ channel.T, 1, 2)
    return np.broadcast_to(seen, (len(codes), *seen.shape[1:])) if alike else seen


def fit(
    snapshots: Complex[np.ndarray, "L M"], seen: Complex[np.ndarray, "L M K"], *, constant: bool
) -> SceneFit:
    """Least-squares amplitudes of sources with images `seen`."""
    length, antennas, sources = seen.shape
    groups = seen.reshape(1, length * antennas, sources) if constant else seen
    data = snapshots.reshape(len(groups), -1)
    # Images that all snapshots share are decomposed once.
    basis, factor = np.linalg.qr(groups[:1] if seen.strides[0] == 0 else groups)
    # Sources in one place have no amplitudes of their own: those of least norm.
    inverse = np.linalg.pinv(factor, rcond=1e-9)
    basis, factor, inverse = (
        np.broadcast_to(part, (len(groups), *part.shape[1:])) for part in (basis, factor, inverse)
    )
    matched = np.einsum("trk,tr->tk", basis.conj(), data)
    residual = data - np.einsum("trk,tk->tr", basis, matched)
    amplitudes = np.einsum("tkj,tj->tk", inverse, matched)
    return SceneFit(
        residual.reshape(length, antennas),
        amplitudes,
        basis.reshape(length, antennas, sources),
        factor,
        constant,
    )


class FieldSpace(NamedTuple):
    """The space of what an aperture field can cause, or None where it is everything."""

    factor: Complex[np.ndarray, "N N"]  #: Cholesky factor of Phi^H Phi, lower


def field_space(
    channel: Complex[np.ndarray, "M N"], codes: Complex[np.ndarray, "L N"]
) -> FieldSpace | None:
    """Factor of :math:`\\Phi^H\\Phi` where fewer elements than samples make it worth while."""
    antennas, elements = channel.shape
    if elements > _MOST_ELEMENTS or len(codes) * antennas < elements + 8:
        return None
    gram = (channel.conj().T @ channel) * (codes.conj().T @ codes)
    try:
        factor = linalg.cholesky(gram, lower=True)
    except linalg.LinAlgError:
        return None
    diagonal = np.abs(np.diagonal(factor))
    return FieldSpace(factor) if diagonal.min() > 1e-4 * diagonal.max() else None


def is_white(
    fitted: SceneFit,
    channel: Complex[np.ndarray, "M N"],
    codes: Complex[np.ndarray, "L N"],
    space: FieldSpace | None,
) -> bool:
    """Whether the residual of a fit passes every test."""
    if not np.sum(np.abs(fitted.residual) ** 2) > 0.0 or fitted.dof < 8.0:
        return True
    chances = [*energy_chances(fitted), coloured_chance(fitted, channel, codes)]
    if any(chance < _RATE for chance in chances) or _has_large_eigenvalue(fitted):
        return False
    return space is None or field_chance(fitted, space, channel, codes) >= _FIELD_RATE


def energy_chances(fitted: SceneFit) -> list[float]:
    """Two-sided p-values of the extreme antenna and the extreme code, corrected for their number.

    The share of a part in the energy of white noise is Beta distributed.
    """
    energy = np.abs(fitted.residual) ** 2
    left = 1.0 - np.sum(np.abs(fitted.basis) ** 2, axis=2)
    places = fitted.amplitudes.shape[1] * _PLACE / fitted.residual.size
    found = []
    for axis in (0, 1):
        dof = np.maximum(np.sum(left - places, axis=axis), 0.0)
        total = dof.sum()
        kept = dof > 1.0
        if np.count_nonzero(kept) < 2:
            continue
        share = (energy.sum(axis=axis) / energy.sum())[kept]
        shape = dof[kept], total - dof[kept]
        chances = special.betainc(*shape, share), special.betaincc(*shape, share)
        found.append(min(2.0 * len(share) * float(np.min(chances)), 1.0))
    return found


def coloured_chance(
    fitted: SceneFit,
    channel: Complex[np.ndarray, "M N"],
    codes: Complex[np.ndarray, "L N"],
) -> float:
    r"""p-value of a residual that is coloured as the channel and the codes colour a signal.

    What came through the surface has the covariance :math:`H H^H` over antennas, and that of the
    codes over snapshots; noise has neither.
    """
    residual, basis = fitted.residual, fitted.basis
    energy = np.sum(np.abs(residual) ** 2)
    sides = [(channel, residual, basis)]
    # The snapshots of independent signals have nothing in common.
    if fitted.constant:
        sides.append((codes, residual.T, np.swapaxes(basis, 0, 1)))
    score, square, cube = 0.0, 0.0, 0.0
    for rows, left, taken in sides:
        weight = rows @ rows.conj().T
        weight = weight * (len(weight) / np.trace(weight).real) - np.eye(len(weight))
        score += np.sum((left @ weight.T) * left.conj()).real / energy * fitted.dof
        score += np.sum(np.einsum("mn,lnk->lmk", weight, taken) * taken.conj()).real
        product = weight @ weight
        square += len(left) * np.trace(product).real
        cube += 2.0 * len(left) * np.sum(product * weight.T).real
    if square < 1e-3 * residual.size:
        return 1.0
    # A shifted Gamma law of the same three cumulants as the quadratic form.
    shape = 4.0 * square**3 / max(cube, 1e-6 * square**1.5) ** 2
    return float(special.gammaincc(shape, max(shape + np.sqrt(shape / square) * score, 0.0)))


def _has_large_eigenvalue(fitted: SceneFit) -> bool:
    """Whether the covariance over antennas has an eigenvalue that white noise does not give."""
    residual = fitted.residual
    length, antennas = residual.shape
    sources = fitted.amplitudes.shape[1]
    if not fitted.constant:
        residual = _complement(fitted)
        antennas = residual.shape[1]
    small, large = sorted((antennas, length))
    if small < 2 or residual.size <= sources + 4:
        return False
    matrix = residual if length >= antennas else residual.T
    largest = np.linalg.eigvalsh(matrix.conj().T @ matrix)[-1]
    # Johnstone, Ann. Statist. 29(2), 2001; the trace stands for the noise variance (Nadler, IEEE
    # Trans. Signal Process. 59(5), 2011).
    root = np.sqrt(large) + np.sqrt(small)
    spread = root * (1.0 / np.sqrt(large) + 1.0 / np.sqrt(small)) ** (1.0 / 3.0)
    mean = np.sum(np.abs(matrix) ** 2) / (small * large)
    return bool(largest > mean * (root**2 + _TRACY_WIDOM * spread))


def _complement(fitted: SceneFit) -> Complex[np.ndarray, "L R"]:
    """Residual of independent signals in the coordinates that are left, where all share them."""
    basis = fitted.basis
    if len(basis) > 1 and not np.allclose(basis[0], basis[-1], atol=1e-9):
        return fitted.residual
    whole = np.linalg.qr(basis[0], mode="complete")[0]
    return fitted.residual @ whole[:, basis.shape[2] :].conj()


def field_chance(
    fitted: SceneFit,
    space: FieldSpace,
    channel: Complex[np.ndarray, "M N"],
    codes: Complex[np.ndarray, "L N"],
) -> float:
    """Two-sided p-value of the residual's energy inside over outside of the field's space."""
    if not fitted.constant:
        return 1.0
    matched = np.sum(codes.conj() * (fitted.residual @ channel.conj()), axis=0)
    inside = np.sum(np.abs(linalg.solve_triangular(space.factor, matched, lower=True)) ** 2)
    total = np.sum(np.abs(fitted.residual) ** 2)
    elements = len(matched)
    outside_dof = fitted.residual.size - elements
    inside_dof = elements - fitted.amplitudes.shape[1] * (1.0 + _PLACE)
    if inside_dof < 4.0:
        return 1.0
    ratio = (inside / inside_dof) / max((total - inside) / outside_dof, np.finfo(float).tiny)
    # The F law as a Beta law of the share that lies inside.
    share = inside_dof * ratio / (inside_dof * ratio + outside_dof)
    chances = [f(inside_dof, outside_dof, share) for f in (special.betainc, special.betaincc)]
    return float(min(2.0 * min(chances), 1.0))


def has_redundant_source(fitted: SceneFit) -> bool:
    """Whether independent signals of K sources span fewer than K dimensions.

    In coordinates in which the noise is white, the weakest direction of the signals' covariance is
    then noise only, although each source was significant.
    """
    length, sources = fitted.amplitudes.shape
    if fitted.constant or sources < 2 or length < 4 * sources:
        return False
    # basis^H y = factor s, in which noise is white.
    signals = np.einsum("tkj,tj->tk", fitted.factor, fitted.amplitudes)
    weakest = np.linalg.eigvalsh(signals.T @ signals.conj() / length)[0]
    noise = np.sum(np.abs(fitted.residual) ** 2) / max(fitted.dof, 1.0)
    return bool(weakest < noise * (1.0 + 2.0 / np.sqrt(length)))
