r"""Codes from the literature at equal power, for comparison with designed codes.

References:
  Abu-Shaban, Keykhosravi, Keskin, Alexandropoulos, Seco-Granados and Wymeersch, *Near-field
  localization with a reconfigurable intelligent surface acting as lens*, arXiv:2010.05617
  (directional and positional codes).
  Rahal, Denis, Keykhosravi, Keskin, Uguen and Wymeersch, *Constrained RIS phase profile
  optimization and time sharing for near-field localization*, arXiv:2203.07269 (four beams).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import code_design
from ris_jax.physics import arrays, linear

_POWER_STEPS = 1000  # of the descent on the covariance of the four beams


def random_codes(seed: int, num_codes: int, num_elements: int) -> Complex[np.ndarray, "L N"]:
    """Draw phases uniformly over a turn."""
    turns = np.random.default_rng(seed).random((num_codes, num_elements))
    return np.exp(2j * np.pi * turns).astype(np.complex64)


def best_combination(channel: Complex[np.ndarray, "M N"]) -> Complex[np.ndarray, "N"]:
    """Return the strongest combination of the antennas, u^H H, [N]."""
    left, _, _ = np.linalg.svd(channel, full_matrices=False)
    return left[:, 0].conj() @ channel


def beams(
    channel: Complex[np.ndarray, "M N"], vectors: Complex[np.ndarray, "L N"]
) -> Complex[np.ndarray, "L N"]:
    """Return unit-modulus codes that add steering vectors in phase at the antennas."""
    phase = np.angle(best_combination(channel) * vectors)
    return np.exp(-1j * phase).astype(np.complex64)


def pointed_codes(
    seed: int,
    num_codes: int,
    positions: Float[Array, "N 3"],
    channel: Complex[np.ndarray, "M N"],
    wavelength: float,
    places: Float[np.ndarray, "P 3"],
    wavefront: config_lib.Wavefront,
) -> Complex[np.ndarray, "L N"]:
    """Return beams at random positions out of the given ones.

    Args:
      seed: of the draw.
      num_codes: L.
      positions: [N, 3] of the elements [m].
      channel: [M, N].
      wavelength: [m].
      places: [P, 3] azimuth [rad], elevation [rad], range [m].
      wavefront: planar gives directional codes, a curved one positional codes.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(places), num_codes, replace=num_codes > len(places))
    azimuth, elevation, source_range = places[drawn].T.astype(positions.dtype)
    vectors = arrays.steering_vector(
        azimuth, elevation, source_range, positions, wavelength=wavelength, wavefront=wavefront
    )
    return beams(channel, np.asarray(vectors))


def _beam_vectors(problem: code_design.DesignProblem, channel) -> Complex[np.ndarray, "N 4"]:
    """Return the best combination's response to one position, and its derivatives."""
    left, _, _ = np.linalg.svd(channel, full_matrices=False)
    return np.asarray(problem.responses)[:, 0] @ left[:, 0].conj()


def _orthonormal_beams(
    problem: code_design.DesignProblem, channel: Complex[np.ndarray, "M N"]
) -> Complex[np.ndarray, "4 N"]:
    """Return orthonormal weights that receive one position and its derivatives.

    Raises:
      ValueError: there is not exactly one position.
    """
    if problem.responses.shape[1] != 1:
        raise ValueError(f"need 1 position; got {problem.responses.shape[1]}")
    basis, _ = np.linalg.qr(_beam_vectors(problem, channel))
    return basis.conj().T


def four_beams(
    problem: code_design.DesignProblem,
    channel: Complex[np.ndarray, "M N"],
    num_codes: int,
    source_signal: config_lib.SourceSignal,
) -> Complex[np.ndarray, "L N"]:
    """Return unit-modulus codes for one known position: the beam and its three derivatives.

    Each code has the phases of one of the four beams. Each code after the fourth is the one that
    lowers the position error bound most.

    Raises:
      ValueError: there is not exactly one position, or there are fewer than four codes.
    """
    if num_codes < 4:
        raise ValueError(f"need 4 codes or more; got {num_codes}")
    available = np.exp(1j * np.angle(_orthonormal_beams(problem, channel))).astype(np.complex64)
    chosen = [0, 1, 2, 3]
    score = jax.jit(lambda codes: code_design.position_errors(problem, codes, source_signal)[0])
    for _ in range(num_codes - 4):
        values = []
        for beam in range(4):
            codes = np.zeros((num_codes, available.shape[1]), np.complex64)
            codes[: len(chosen) + 1] = available[[*chosen, beam]]
            values.append(float(score(codes)))
        chosen.append(int(np.argmin(values)))
    return available[chosen]


def four_beams_bound(
    problem: code_design.DesignProblem, channel: Complex[np.ndarray, "M N"], num_codes: int
) -> float:
    """Compute the position error bound [m] of optimal codes of any amplitude, for one position.

    The optimal codes are combinations of the beam and its three derivatives. A descent finds their
    covariance at the total power of L unit-modulus codes; the problem is convex. With one antenna,
    no unit-modulus codes have a lower bound. Constant signals.
    """
    basis = jnp.asarray(_orthonormal_beams(problem, channel), jnp.complex64)
    images = linear.einsum("ln,npvm->lpvm", basis, problem.responses)
    power = float(num_codes * basis.shape[1])
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, _POWER_STEPS))

    def error(parts):
        mix = jax.lax.complex(*parts)
        mix = mix * jnp.sqrt(power / jnp.sum(jnp.abs(mix) ** 2))
        mixed = linear.einsum("kl,lpvm->kpvm", mix, images)
        total = jnp.sum(code_design.grams_of(mixed), axis=0)
        return jnp.log(code_design.errors_of_total(total, problem.level)[0])

    @jax.jit
    def best(parts):
        def step(state, _):
            parts, moments = state
            value, slope = jax.value_and_grad(error)(parts)
            update, moments = optimizer.update(slope, moments)
            return (optax.apply_updates(parts, update), moments), value

        return jax.lax.scan(step, (parts, optimizer.init(parts)), length=_POWER_STEPS)[1]

    start = np.random.default_rng(0).normal(size=(2, 4, 4)) + np.eye(4)
    return float(jnp.exp(jnp.min(best(jnp.asarray(start, jnp.float32)))))
