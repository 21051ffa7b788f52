r"""The concentrated likelihood of source positions.

With circular white noise of unknown variance, the likelihood of the positions p is maximal where
the energy that the sources explain is:

.. math:: E(p) = \sum_t y_t^H B_t (B_t^H B_t)^{-1} B_t^H y_t,\quad B_t = \Phi_t A(p)

(Ziskind & Wax, *Maximum likelihood localization of multiple sources by alternating projection*,
IEEE Trans. ASSP 36(10), 1988). The amplitudes are projected out: one set of them for all snapshots
when the signal is constant (a single group t, :math:`\Phi` of all snapshots), one for each
snapshot when it is independent (groups of one snapshot). Constant signals need only
:math:`\Phi^H\Phi` and :math:`\Phi^Hy`; these are used where they are smaller, N <= LM.

At several frequencies, the operator has one entry per frequency, and aperture fields are stacked,
[..., F N]. The frequencies are groups with amplitudes of their own (incoherent), or one group
(coherent); see `estimation.wideband`. Only `images` and `matched_fields` depend on this.

Functions here take one scene; map them over a batch with `jax.vmap`, or with `over_scenes` where
all scenes have one channel and one set of codes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from ris_jax import config as config_lib
from ris_jax.physics import linear, measurement, scenes

# Fraction of a vector's mean energy that keeps the Gram matrix of coinciding sources regular.
_REGULARISATION = 1e-6
# Fewest scenes that `observe_batch` compresses at a time; a sixteenth of the batch if more.
_AT_A_TIME = 8


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["operator", "data", "energy", "weights"],
    meta_fields=["compressed", "coherence"],
)
@dataclasses.dataclass(frozen=True)
class Observation:
    """The data of a scene as the likelihood uses them."""

    #: `linear.parts` of the transposed Gram matrix [1, N, 2N] if compressed, else of Phi_t
    #: [T, N, 2R].
    operator: Float[Array, "T N 2R"]
    data: Complex[Array, "T R"]  #: Phi^H y [1, N] if compressed, else y_t
    energy: Float[Array, ""]  #: sum of ``|y|^2``
    weights: Float[Array, "T"]  #: snapshots that each group stands for; see `snapshot_groups`
    compressed: bool  #: whether the operator is a Gram matrix
    #: Amplitudes of several frequencies; None: one frequency. T of the operator is F, and T of the
    #: other fields is F if incoherent, 1 if coherent.
    coherence: config_lib.Coherence | None = None

    def replace(self, **changes: Any) -> "Observation":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Images(NamedTuple):
    """Images of aperture fields at the receiver: inner products are ``conj(left) . right``."""

    left: Complex[Array, "T P R"]
    right: Complex[Array, "T P R"]


class Concentrated(NamedTuple):
    """Explained energy and its derivatives in K x D coordinates, coordinate-major."""

    value: Float[Array, ""]
    gradient: Float[Array, "DK"]  #: half of the derivative
    curvature: Float[Array, "DK DK"]  #: Gauss-Newton, positive semidefinite, half of the second
    amplitudes: Complex[Array, "T K"]


class Prior(NamedTuple):
    """Prior of the amplitudes of independent signals: circular Gaussian, white."""

    power: Float[Array, "K"]
    noise_variance: Float[Array, ""]
    weights: Float[Array, "T"]  #: snapshots that each group stands for


def observe(scene: scenes.Measurement, source_signal: config_lib.SourceSignal) -> Observation:
    """Compress a scene.

    Args:
      scene: one scene, without batch axis.
      source_signal: "constant" has one group of all snapshots, "independent" L groups.
    """
    operator = operator_of(scene.channel, scene.codes, source_signal)
    return _observation(operator, scene, source_signal)


def compresses(channel: Array, codes: Array, source_signal: config_lib.SourceSignal) -> bool:
    """Return whether the Gram matrix [N, N] is no larger than Phi [LM, N]."""
    samples = codes.shape[-2] * channel.shape[-2]
    return source_signal == "constant" and channel.shape[-1] <= samples


def operator_of(
    channel: Complex[Array, "M N"],
    codes: Complex[Array, "L N"],
    source_signal: config_lib.SourceSignal,
) -> Float[Array, "T N 2R"]:
    """`Observation.operator` of a channel and codes."""
    if compresses(channel, codes, source_signal):
        return linear.parts(measurement.gram(channel, codes).conj())[None]
    each = codes[:, :, None] * channel.T[None, :, :]
    if source_signal == "constant":
        each = jnp.swapaxes(each, 0, 1).reshape(1, channel.shape[-1], -1)
    return linear.parts(each)


def _observation(
    operator: Float[Array, "T N 2R"],
    scene: scenes.Measurement,
    source_signal: config_lib.SourceSignal,
) -> Observation:
    energy = jnp.sum(jnp.abs(scene.snapshots) ** 2)
    compressed = compresses(scene.channel, scene.codes, source_signal)
    if compressed:
        data = measurement.adjoint(scene)[None]
    else:
        data = scene.snapshots.reshape(operator.shape[0], -1)
    weights = jnp.ones(operator.shape[0], energy.dtype)
    return Observation(operator, data, energy, weights, compressed)


def shared_operator(
    channel: Complex[Array, "1 M N"],
    codes: Complex[Array, "1 L N"],
    source_signal: config_lib.SourceSignal,
) -> Float[Array, "1 T N 2R"]:
    """`Observation.operator` of scenes that share one channel and one set of codes."""
    return operator_of(channel[0], codes[0], source_signal)[None]


def observe_batch(
    measurement: scenes.Measurement,
    source_signal: config_lib.SourceSignal,
    operator: Float[Array, "1 T N 2R"] | None = None,
) -> Observation:
    """`observe` for a batch, some scenes at a time.

    For a large batch at once, each call allocates new memory for the intermediate matrices: 0.28 ms
    per scene for 128 scenes of default sizes on two cores, 0.10 ms in groups of eight.

    Args:
      measurement: snapshots [B, L, M], and channel and codes [B, ...], or [1, ...] if all scenes
        share them.
      source_signal: as for `observe`.
      operator: that all scenes share, if already computed; see `shared_operator`.

    Returns:
      [B, ...]; the operator [1, T, N, 2R] if all scenes share it, see `over_scenes`.
    """
    snapshots, channel, codes, _ = measurement
    some = max(_AT_A_TIME, len(snapshots) // 16)
    if len(channel) == len(codes) == 1:
        whole = shared_operator(channel, codes, source_signal) if operator is None else operator

        def received(snapshots):
            scene = measurement._replace(snapshots=snapshots, channel=channel[0], codes=codes[0])
            return _observation(whole[0], scene, source_signal).replace(operator=None)

        return jax.lax.map(received, snapshots, batch_size=some).replace(operator=whole)
    return jax.lax.map(lambda scene: observe(scene, source_signal), measurement, batch_size=some)


def of_scenes(
    operator: Float[Array, "S T N 2R"], observation: Observation, scenes: Int[Array, "J"]
) -> Observation:
    """Observations of chosen scenes of a batch; an operator that all share, S = 1, is not copied.

    Args:
      operator: of the scenes, or one for all.
      observation: [B, ...], its own operator unused.
      scenes: numbers below B.
    """
    shared = operator.shape[0] == 1
    return dataclasses.replace(
        observation,
        operator=operator if shared else operator[scenes],
        data=observation.data[scenes],
        energy=observation.energy[scenes],
        weights=observation.weights[scenes],
    )


def over_scenes(function: Callable[..., Any], observation: Observation, *arguments: Any) -> Any:
    """Map a function of an observation and other arguments over scenes, as `jax.vmap`.

    Args:
      function: of one scene.
      observation: [B, ...], its operator [B, ...] or, shared, [1, ...].
      *arguments: [B, ...] or None.
    """
    axes = observation.replace(operator=0, data=0, energy=0, weights=0)
    if observation.operator.shape[0] == 1:
        observation = observation.replace(operator=observation.operator[0])
        axes = axes.replace(operator=None)
    return jax.vmap(function, in_axes=(axes, *(0 for _ in arguments)))(observation, *arguments)


@jax.jit
def images(observation: Observation, vectors: Complex[Array, "P N"]) -> Images:
    """Images of P aperture fields at the receiver; of several frequencies, stacked, [P, F N]."""
    if observation.coherence is not None:
        return _stacked_images(observation, vectors)
    right = linear.product(vectors, observation.operator)
    if observation.compressed:
        return Images(vectors[None], right)
    return Images(right, right)


def _stacked_images(observation: Observation, vectors: Complex[Array, "P FN"]) -> Images:
    frequencies, elements = observation.operator.shape[:2]
    left = jnp.swapaxes(vectors.reshape(-1, frequencies, elements), 0, 1)
    right = linear.product(left, observation.operator)
    if observation.coherence == "coherent":
        right = jnp.swapaxes(right, 0, 1).reshape(1, len(vectors), -1)
        left = vectors[None]
    return Images(left if observation.compressed else right, right)


def matched_fields(
    observation: Observation, residual: Complex[Array, "T R"]
) -> Complex[Array, "T N"]:
    r""":math:`\Phi_t^H r_t` of a residual in the coordinates of `Observation.data`.

    At several frequencies, T is F.
    """
    if observation.coherence == "coherent":
        residual = residual.reshape(observation.operator.shape[0], -1)
    if observation.compressed:
        return residual
    real, imaginary = jnp.split(observation.operator, 2, axis=-1)
    operator = jax.lax.complex(real, -imaginary)
    return linear.einsum("tnr,tr->tn", operator, residual)


def inner_products(
    left: Complex[Array, "T P R"], right: Complex[Array, "T Q R"]
) -> Complex[Array, "T P Q"]:
    """``conj(left) . right``, group by group."""
    return linear.einsum("tpr,tqr->tpq", left.conj(), right)


def against(left: Complex[Array, "T P R"], data: Complex[Array, "T R"]) -> Complex[Array, "T P"]:
    """``conj(left) . data``, group by group."""
    return linear.einsum("tpr,tr->tp", left.conj(), data)


def regular_gram(
    gram: Complex[Array, "T K K"], active: Float[Array, "K"]
) -> Complex[Array, "T K K"]:
    """Return an invertible Gram matrix: unit diagonal for absent sources, small loading for all."""
    diagonal = linear.diagonal(gram).real
    added = jnp.where(active > 0, _REGULARISATION * diagonal, 1.0)
    return gram + added[..., None] * jnp.eye(gram.shape[-1], dtype=gram.dtype)


@jax.jit
def concentrate(
    gram: Complex[Array, "T CK CK"],
    matched: Complex[Array, "T CK"],
    active: Float[Array, "K"],
    prior: Prior | None = None,
) -> Concentrated:
    r"""Explained energy, its gradient and Gauss-Newton curvature, from inner products alone.

    The Jacobian of the projected residual is Kaufman's (*A variable projection method for solving
    separable nonlinear least squares problems*, BIT 15, 1975). Let :math:`D` be the derivatives of
    the steering vectors times the fitted amplitudes. The curvature is
    :math:`\mathrm{Re}\,D^H\Phi^H(I - BB^+)\Phi D`, the Fisher information of the
    positions, without the factor :math:`2/\sigma^2`.

    With a prior, amplitudes are integrated out instead of fitted, :math:`\Lambda =
    \sigma^2 \mathrm{diag}(P)^{-1}`:

    .. math:: E(p) = \sum_t y_t^H B_t (B_t^H B_t + \Lambda)^{-1} B_t^H y_t
              - \sigma^2 \log\det(I + \Lambda^{-1} B_t^H B_t)

    This is the unconditional likelihood (Stoica & Nehorai, *Performance study of conditional and
    unconditional direction-of-arrival estimation*, IEEE Trans. ASSP 38(10), 1990), which stays
    efficient where an amplitude for every snapshot is too much to fit.

    Args:
      gram: [T, CK, CK] inner products of K images followed by those of their derivatives in u, of
        all K, in w, in 1/r and in any further coordinate: C = 1 + D for D coordinates. Rows and
        columns of absent sources are zero.
      matched: [T, CK] inner products of the same with the data.
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
    projected = gram[:, slopes, slopes] - linear.matmul(back, solved[..., :-1])
    coordinates = gram.shape[-1] // sources - 1
    weights = jnp.tile(amplitudes, (1, coordinates))
    slope = matched[:, slopes] - linear.einsum("tij,tj->ti", back, amplitudes)
    # Energy that these amplitudes explain, without the loading of the Gram matrix.
    norms = linear.diagonal(gram[:, values, values]).real
    explained = (matched[:, values].conj() * amplitudes).real
    value = jnp.sum(explained + _REGULARISATION * norms * jnp.abs(amplitudes) ** 2)
    gradient = jnp.sum((weights.conj() * slope).real, axis=0)
    if prior is not None:
        noise = prior.noise_variance * prior.weights
        value -= jnp.sum(noise * linear.log_determinant_positive(alone))
        own = jnp.tile(jnp.eye(sources, dtype=cross.real.dtype), (1, coordinates))
        own = noise[:, None, None] * own
        gradient -= jnp.sum((solved[..., :-1] * own).real, axis=(0, 1))
    return Concentrated(
        value=value,
        gradient=gradient,
        curvature=jnp.sum(
            (weights.conj()[:, :, None] * projected * weights[:, None, :]).real, axis=0
        ),
        amplitudes=amplitudes,
    )
