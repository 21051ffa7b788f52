r"""The concentrated likelihood of source positions.

With circular white noise of unknown variance, the likelihood of the positions p is maximal where
the energy that the sources explain is:

.. math:: E(p) = \sum_t y_t^H B_t (B_t^H B_t)^{-1} B_t^H y_t,\quad B_t = \Phi_t A(p)

(Ziskind & Wax, *Maximum likelihood localization of multiple sources by alternating projection*,
IEEE Trans. ASSP 36(10), 1988). The amplitudes are projected out: one set of them for all snapshots
when the signal is constant (a single group t, :math:`\Phi` of all snapshots), one for each
snapshot when it is independent (groups of one snapshot). Constant signals need only
:math:`\Phi^H\Phi` and :math:`\Phi^Hy`, so that LM rows become N.

Functions here take one scene; map them over a batch with `jax.vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax import linear, measurement, scenes

# Share of a vector's mean energy that keeps the Gram matrix of coinciding sources regular.
_REGULARISATION = 1e-6
# Scenes that `observe_batch` compresses at a time, at least; a sixteenth of the batch if more.
_AT_A_TIME = 8


class Observation(NamedTuple):
    """What the likelihood needs of a scene, compressed when the signal is constant."""

    #: `linear.parts` of the transposed Gram matrix [1, N, N], or of Phi_l [L, N, M].
    operator: Float[Array, "T N 2R"]
    data: Complex[Array, "T R"]  #: constant: Phi^H y [1, N]; else y_l [L, M]
    energy: Float[Array, ""]  #: sum of ``|y|^2``


class Images(NamedTuple):
    """Vectors as the receiver sees them: inner products are ``conj(left) . right``."""

    left: Complex[Array, "T P R"]
    right: Complex[Array, "T P R"]


class Concentrated(NamedTuple):
    """Explained energy and its derivatives in K x 3 coordinates, coordinate-major."""

    value: Float[Array, ""]
    gradient: Float[Array, "3K"]  #: half of the derivative
    curvature: Float[Array, "3K 3K"]  #: Gauss-Newton, positive semidefinite, half of the second
    amplitudes: Complex[Array, "T K"]


class Prior(NamedTuple):
    """What is believed of the amplitudes of independent signals: circular Gaussian, white."""

    power: Float[Array, "K"]
    noise_variance: Float[Array, ""]


def observe(scene: scenes.Measurement, source_signal: config_lib.SourceSignal) -> Observation:
    """Compresses a scene; see the module."""
    energy = jnp.sum(jnp.abs(scene.snapshots) ** 2)
    if source_signal == "constant":
        gram = linear.parts(measurement.gram(scene).conj())
        return Observation(gram[None], measurement.adjoint(scene)[None], energy)
    operators = scene.codes[:, :, None] * scene.channel.T[None, :, :]
    return Observation(linear.parts(operators), scene.snapshots, energy)


def observe_batch(
    measurement: scenes.Measurement, source_signal: config_lib.SourceSignal
) -> Observation:
    """`observe` for a batch, some scenes at a time.

    All at once, the intermediate matrices of a large batch are fresh memory in every call: of 128
    scenes of default sizes on two cores 0.28 ms a scene, by eights 0.10 ms.
    """
    some = max(_AT_A_TIME, len(measurement.snapshots) // 16)
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(
            lambda scene: observe(scene, source_signal), measurement, batch_size=some
        )


def images(
    observation: Observation,
    vectors: Complex[Array, "P N"],
    source_signal: config_lib.SourceSignal,
) -> Images:
    """What the receiver sees of P aperture fields."""
    right = linear.product(vectors, observation.operator)
    if source_signal == "constant":
        return Images(vectors[None], right)
    return Images(right, right)


def matched_fields(
    observation: Observation,
    residual: Complex[Array, "T R"],
    source_signal: config_lib.SourceSignal,
) -> Complex[Array, "T N"]:
    r""":math:`\Phi_t^H r_t` of a residual in the coordinates of `Observation.data`."""
    if source_signal == "constant":
        return residual
    real, imaginary = jnp.split(observation.operator, 2, axis=-1)
    operator = jax.lax.complex(real, -imaginary)
    return jnp.einsum("tnr,tr->tn", operator, residual)


def inner_products(
    left: Complex[Array, "T P R"], right: Complex[Array, "T Q R"]
) -> Complex[Array, "T P Q"]:
    """``conj(left) . right``, group by group."""
    return jnp.einsum("tpr,tqr->tpq", left.conj(), right)


def against(left: Complex[Array, "T P R"], data: Complex[Array, "T R"]) -> Complex[Array, "T P"]:
    """``conj(left) . data``, group by group."""
    return jnp.einsum("tpr,tr->tp", left.conj(), data)


def regular_gram(
    gram: Complex[Array, "T K K"], active: Float[Array, "K"]
) -> Complex[Array, "T K K"]:
    """A Gram matrix that can be inverted: a unit diagonal at absent sources, a little on all."""
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1).real
    added = jnp.where(active > 0, _REGULARISATION * diagonal, 1.0)
    return gram + added[..., None] * jnp.eye(gram.shape[-1], dtype=gram.dtype)


def concentrate(
    gram: Complex[Array, "T 4K 4K"],
    matched: Complex[Array, "T 4K"],
    active: Float[Array, "K"],
    prior: Prior | None = None,
) -> Concentrated:
    r"""Explained energy, its gradient and Gauss-Newton curvature, from inner products alone.

    The Jacobian of the projected residual is Kaufman's (*A variable projection method for solving
    separable nonlinear least squares problems*, BIT 15, 1975): with :math:`D` the derivatives of
    the steering vectors times the fitted amplitudes, curvature is
    :math:`\mathrm{Re}\,D^H\Phi^H(I - BB^+)\Phi D`, which is also the Fisher information of the
    positions, but for :math:`2/\sigma^2`.

    With a prior, amplitudes are integrated out instead of fitted, :math:`\Lambda =
    \sigma^2 \mathrm{diag}(P)^{-1}`:

    .. math:: E(p) = \sum_t y_t^H B_t (B_t^H B_t + \Lambda)^{-1} B_t^H y_t
              - \sigma^2 \log\det(I + \Lambda^{-1} B_t^H B_t)

    This is the unconditional likelihood (Stoica & Nehorai, *Performance study of conditional and
    unconditional direction-of-arrival estimation*, IEEE Trans. ASSP 38(10), 1990), which stays
    efficient where an amplitude for every snapshot is too much to fit.

    Args:
      gram: [T, 4K, 4K] inner products of K images followed by those of their derivatives in u, of
        all K, in w, and in 1/r. Rows and columns of absent sources are zero.
      matched: [T, 4K] inner products of the same with the data.
      active: [K] 1 or 0.
      prior: of the amplitudes; None fits them.
    """
    sources = active.shape[-1]
    values, slopes = slice(None, sources), slice(sources, None)
    alone = regular_gram(gram[:, values, values], active)
    if prior is not None:
        ridge = jnp.where(active > 0, prior.noise_variance / prior.power, 0.0)
        alone = alone + jnp.diag(ridge).astype(alone.dtype)
    cross = gram[:, values, slopes]
    right = jnp.concatenate([cross, matched[:, values, None]], axis=-1)
    solved = linear.solve_positive(alone, right)
    amplitudes = solved[..., -1]
    back = jnp.swapaxes(cross.conj(), -1, -2)
    projected = gram[:, slopes, slopes] - back @ solved[..., :-1]
    weights = jnp.tile(amplitudes, (1, 3))
    slope = matched[:, slopes] - jnp.einsum("tij,tj->ti", back, amplitudes)
    # What these amplitudes explain; what keeps the Gram matrix regular is no part of it.
    norms = jnp.diagonal(gram[:, values, values], axis1=1, axis2=2).real
    explained = (matched[:, values].conj() * amplitudes).real
    value = jnp.sum(explained + _REGULARISATION * norms * jnp.abs(amplitudes) ** 2)
    gradient = jnp.sum((weights.conj() * slope).real, axis=0)
    if prior is not None:
        value -= prior.noise_variance * jnp.sum(linear.log_determinant_positive(alone))
        own = jnp.tile(jnp.eye(sources, dtype=cross.real.dtype), (1, 3))
        gradient -= prior.noise_variance * jnp.sum((solved[..., :-1] * own).real, axis=(0, 1))
    return Concentrated(
        value=value,
        gradient=gradient,
        curvature=jnp.sum(
            (weights.conj()[:, :, None] * projected * weights[:, None, :]).real, axis=0
        ),
        amplitudes=amplitudes,
    )
