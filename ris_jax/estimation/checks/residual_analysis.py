r"""Least-squares fit of a finished estimate, in double precision, and tests of its residual.

If the model fits, the residual is white over antennas and over codes. It is also equally strong
inside and outside of :math:`\Phi C^N`, the range of all aperture fields. Each test has a designed
false-alarm rate, and none needs the noise variance. The code is NumPy on the host, one scene at a
time.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy import linalg, special

# False-alarm rates of the tests of one scene; together below 1e-3. The split of energy inside and
# outside of the field space also reacts to sources too weak to count: its rate is lower.
_RATE = 1e-4
_FIELD_RATE = 2e-5
# Real parameters of a source besides its amplitudes, in complex samples.
_PLACE = 1.5
# Condition number of an information matrix above which parameters are undetermined.
_MOST_CONDITION = 1e8
# Maximum N for the field-space test: the factorization costs N^3.
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
    """Compute the received images of aperture fields for every code; a view if all are equal."""
    alike = len(codes) > 1 and bool((codes == codes[0]).all())
    fields = (codes[:1] if alike else codes)[:, None, :] * vectors
    seen = np.moveaxis(fields @ channel.T, 1, 2)
    return np.broadcast_to(seen, (len(codes), *seen.shape[1:])) if alike else seen


def fit(
    snapshots: Complex[np.ndarray, "L M"], seen: Complex[np.ndarray, "L M K"], *, constant: bool
) -> SceneFit:
    """Fit least-squares amplitudes of sources with images `seen`."""
    length, antennas, sources = seen.shape
    groups = seen.reshape(1, length * antennas, sources) if constant else seen
    data = snapshots.reshape(len(groups), -1)
    # Images that all snapshots share are decomposed once.
    basis, factor = np.linalg.qr(groups[:1] if seen.strides[0] == 0 else groups)
    # Amplitudes of coinciding sources are not unique: the least-norm solution is used.
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


def information(
    fitted: SceneFit, seen: Complex[np.ndarray, "L M K 4"]
) -> Float[np.ndarray, "3K 3K"]:
    r"""Return the Fisher information of (u, w, 1/r), source by source, without the noise.

    .. math:: \mathrm{Re}\, D^H (I - B B^+) D

    Args:
      fitted: fit of the same scene.
      seen: images of the steering vectors and of their derivatives.
    """
    groups, count = fitted.amplitudes.shape
    rows = fitted.residual.size // groups
    slopes = seen[..., 1:].reshape(groups, rows, count, 3) * fitted.amplitudes[:, None, :, None]
    slopes = slopes.reshape(groups, rows, 3 * count)
    basis = fitted.basis.reshape(groups, rows, count)
    slopes = slopes - basis @ (np.swapaxes(basis.conj(), 1, 2) @ slopes)
    return np.sum(np.real(np.swapaxes(slopes.conj(), 1, 2) @ slopes), axis=0)


def inverse_information(
    matrix: Float[np.ndarray, "P P"], free: Bool[np.ndarray, "P"]
) -> Float[np.ndarray, "P P"]:
    """Invert an information matrix; infinite on the diagonal where it is not determined."""
    scale = np.sqrt(np.where(free, np.diagonal(matrix), 1.0))
    free = free & (scale > 0)
    full = np.where(np.eye(len(matrix), dtype=bool), np.inf, 0.0)
    kept = np.ix_(free, free)
    unit = matrix[kept] / np.outer(scale[free], scale[free])
    if free.any() and np.linalg.cond(unit) < _MOST_CONDITION:
        full[kept] = np.linalg.inv(unit) / np.outer(scale[free], scale[free])
    return full


class FieldSpace(NamedTuple):
    """Received space of all aperture fields, or None if it is the whole space."""

    factor: Complex[np.ndarray, "N N"]  #: Cholesky factor of Phi^H Phi, lower


def field_space(
    channel: Complex[np.ndarray, "M N"], codes: Complex[np.ndarray, "L N"]
) -> FieldSpace | None:
    """Factorize :math:`\\Phi^H\\Phi` if there are fewer elements than samples.

    The latest results are kept: scenes of a live surface share channel and codes.
    """
    antennas, elements = channel.shape
    if elements > _MOST_ELEMENTS or len(codes) * antennas < elements + 8:
        return None
    raw = (np.ascontiguousarray(part, np.complex128).tobytes() for part in (channel, codes))
    return _factorized(*raw, elements)


@functools.lru_cache(maxsize=4)
def _factorized(raw_channel: bytes, raw_codes: bytes, elements: int) -> FieldSpace | None:
    """`field_space` of arrays as bytes of complex128."""
    channel, codes = (
        np.frombuffer(raw, np.complex128).reshape(-1, elements) for raw in (raw_channel, raw_codes)
    )
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
    """Return whether the residual of a fit passes every test."""
    if not np.sum(np.abs(fitted.residual) ** 2) > 0.0 or fitted.dof < 8.0:
        return True
    chances = [*energy_chances(fitted), coloured_chance(fitted, channel, codes)]
    if any(chance < _RATE for chance in chances) or _has_large_eigenvalue(fitted):
        return False
    return space is None or field_chance(fitted, space, channel, codes) >= _FIELD_RATE


def energy_chances(fitted: SceneFit) -> list[float]:
    """Return two-sided p-values of the extreme antenna and code, corrected for their number.

    The fraction of a part in the energy of white noise is Beta distributed.
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
    r"""Return the p-value of a residual that is coloured by the channel and the codes.

    A signal through the surface has the covariance :math:`H H^H` over antennas and that of the
    codes over snapshots; noise is white.
    """
    residual, basis = fitted.residual, fitted.basis
    energy = np.sum(np.abs(residual) ** 2)
    sides = [(channel, residual, basis)]
    # The snapshots of independent signals are uncorrelated.
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
    # Shifted Gamma law with the same first three cumulants as the quadratic form.
    shape = 4.0 * square**3 / max(cube, 1e-6 * square**1.5) ** 2
    return float(special.gammaincc(shape, max(shape + np.sqrt(shape / square) * score, 0.0)))


def _has_large_eigenvalue(fitted: SceneFit) -> bool:
    """Return whether the antenna covariance has an eigenvalue too large for white noise."""
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
    # Johnstone, Ann. Statist. 29(2), 2001; the trace replaces the noise variance (Nadler, IEEE
    # Trans. Signal Process. 59(5), 2011).
    root = np.sqrt(large) + np.sqrt(small)
    spread = root * (1.0 / np.sqrt(large) + 1.0 / np.sqrt(small)) ** (1.0 / 3.0)
    mean = np.sum(np.abs(matrix) ** 2) / (small * large)
    return bool(largest > mean * (root**2 + _TRACY_WIDOM * spread))


def _complement(fitted: SceneFit) -> Complex[np.ndarray, "L R"]:
    """Return the residual of independent signals in the complement coordinates, if shared."""
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
    """Return the two-sided p-value of residual energy inside over outside of the field space."""
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
    # The F law as a Beta law of the fraction inside.
    share = inside_dof * ratio / (inside_dof * ratio + outside_dof)
    chances = [f(inside_dof, outside_dof, share) for f in (special.betainc, special.betaincc)]
    return float(min(2.0 * min(chances), 1.0))


def has_redundant_source(fitted: SceneFit) -> bool:
    """Return whether independent signals of K sources span fewer than K dimensions.

    In coordinates with white noise, the weakest direction of the signal covariance is then noise
    only, although each source is significant.
    """
    length, sources = fitted.amplitudes.shape
    if fitted.constant or sources < 2 or length < 4 * sources:
        return False
    # basis^H y = factor s, in which noise is white.
    signals = np.einsum("tkj,tj->tk", fitted.factor, fitted.amplitudes)
    weakest = np.linalg.eigvalsh(signals.T @ signals.conj() / length)[0]
    noise = np.sum(np.abs(fitted.residual) ** 2) / max(fitted.dof, 1.0)
    return bool(weakest < noise * (1.0 + 2.0 / np.sqrt(length)))
