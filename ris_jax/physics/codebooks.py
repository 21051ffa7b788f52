"""Phase codes of the surface, their quantisation, and the response of real hardware."""

import pathlib
import zipfile
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Complex, Float

from ris_jax import compilation, errors
from ris_jax import config as config_lib
from ris_jax.physics import random_draws


@compilation.one_program("phase_bits")
def quantize_phase(codes: Complex[Array, "..."], phase_bits: int | None) -> Complex[Array, "..."]:
    """Round phases to ``2**phase_bits`` levels at unit modulus; None leaves them unchanged."""
    phase = jnp.angle(codes)
    if phase_bits is not None:
        step = 2.0 * jnp.pi / 2**phase_bits
        phase = jnp.round(phase / step) * step
    return jnp.exp(1j * phase)


def _spread(count: int, total: int) -> np.ndarray:
    """Return ``count`` indices spread evenly over ``range(total)``."""
    return np.arange(count) * total // count


def _beams_per_axis(num_codes: int, rows: int, columns: int) -> tuple[int, int]:
    """Return beams along y and x: enough beams, in the ratio closest to the array's shape."""
    choices = [
        (down, -(-num_codes // down))
        for down in range(1, num_codes + 1)
        if down <= rows and -(-num_codes // down) <= columns
    ]
    return min(choices, key=lambda c: (c[0] * c[1], abs(np.log(c[0] * columns / (c[1] * rows)))))


def _dft2d(num_codes: int, rows: int, columns: int) -> np.ndarray:
    """Return beams at evenly spread spatial frequencies of both axes."""
    down, across = _beams_per_axis(num_codes, rows, columns)
    vertical = np.exp(-2j * np.pi * np.outer(_spread(down, rows), np.arange(rows)) / rows)
    horizontal = np.exp(
        -2j * np.pi * np.outer(_spread(across, columns), np.arange(columns)) / columns
    )
    beams = np.einsum("ir,jc->ijrc", vertical, horizontal).reshape(down * across, rows * columns)
    return beams[_spread(num_codes, down * across)]


def _dft1d(num_codes: int, num_elements: int) -> np.ndarray:
    beams = _spread(num_codes, num_elements)
    return np.exp(-2j * np.pi * np.outer(beams, np.arange(num_elements)) / num_elements)


def _random(num_codes: int, num_elements: int) -> np.ndarray:
    generator = np.random.default_rng(0)  # one fixed draw: the codebook is part of the system
    return np.exp(2j * np.pi * generator.random((num_codes, num_elements)))


def _hadamard(num_codes: int, num_elements: int) -> np.ndarray:
    order = 1 << (max(num_codes, num_elements) - 1).bit_length()
    # Evenly strided rows would be constant over blocks of elements, so a fixed draw selects them.
    rows = np.random.default_rng(0).permutation(order)[:num_codes]
    return scipy.linalg.hadamard(order)[rows, :num_elements].astype(complex)


def read_codes(path: str | pathlib.Path) -> Complex[np.ndarray, "L N"]:
    """Read codes from a file: the array `codes` [L, N] of an .npz; other arrays are ignored.

    Raises:
      RunError: the file cannot be read, has no codes, or they are not finite numbers [L, N].
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            codes = np.asarray(found["codes"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise errors.RunError(
            f"{path}: need an .npz file with codes; {errors.first_line(error)}"
        ) from error
    if codes.ndim != 2 or not codes.size or codes.dtype.kind not in "cfiu":
        raise errors.RunError(
            f"{path}: codes: need numbers [L, N]; got {codes.dtype} {list(codes.shape)}"
        )
    if not np.isfinite(codes).all():
        raise errors.RunError(f"{path}: codes: need finite numbers; got NaN or infinity")
    return codes.astype(np.complex64)


def codebook(system: config_lib.SystemConfig) -> Complex[Array, "L N"]:
    """Return the codes of a configuration; codes from `codes_file` are unchanged.

    An array given by explicit positions has no rows and columns: its two-dimensional DFT uses the
    most nearly square grid with the same number of elements.

    Args:
      system: `codebook` is dft2d, dft1d, random, hadamard, or mixed (DFT beams and random codes
        alternate); `num_snapshots` codes, quantised to `phase_bits`.

    Returns:
      [L, N] complex, unit modulus.

    Raises:
      ValueError: the name is unknown.
      ConfigError: the codes of `codes_file` have another number of codes or elements.
      RunError: `codes_file` has no usable codes.
    """
    if system.codes_file is not None:
        given = read_codes(system.codes_file)
        needed = (system.num_snapshots, system.num_elements)
        if given.shape != needed:
            raise config_lib.ConfigError(
                f"system.codes_file: need codes [num_snapshots, N] = {needed}; got {given.shape}"
            )
        return jax.device_put(given)
    count, elements = system.num_snapshots, system.num_elements
    rows, columns = system.rows, system.columns
    if system.element_positions is not None:
        rows = max(d for d in range(1, int(elements**0.5) + 1) if elements % d == 0)
        columns = elements // rows
    if system.codebook == "dft2d":
        codes = _dft2d(count, rows, columns)
    elif system.codebook == "dft1d":
        codes = _dft1d(count, elements)
    elif system.codebook == "random":
        codes = _random(count, elements)
    elif system.codebook == "hadamard":
        codes = _hadamard(count, elements)
    elif system.codebook == "mixed":
        codes = _random(count, elements)
        codes[::2] = _dft2d(-(-count // 2), rows, columns)
    else:
        names = ", ".join(get_args(config_lib.CodebookName))
        raise ValueError(f"codebook: need one of {names}; got {system.codebook!r}")
    return quantize_phase(codes, system.phase_bits)


def phase_dependent_amplitude(
    phase: Float[Array, "..."],
    *,
    beta_min: Float[Array, ""] | float,
    beta_phase: float,
    beta_exponent: float,
) -> Float[Array, "..."]:
    r"""Return the reflection amplitude of a lossy element at a given phase shift.

    .. math:: \beta(\theta) = \beta_{min} + (1-\beta_{min})
              \left(\tfrac{\sin(\theta-\phi)+1}{2}\right)^{\alpha}

    Args:
      phase: [...] :math:`\theta` [rad].
      beta_min: smallest amplitude, 0 to 1; 1 is an ideal element.
      beta_phase: :math:`\phi` [rad].
      beta_exponent: :math:`\alpha`.

    Returns:
      [...] amplitude.

    References:
      Abeywickrama, Zhang, Wu, Yuen, *Intelligent reflecting surface: practical phase shift model
      and beamforming optimization*, IEEE Trans. Commun. 68(9), 2020, Eq. (5).
    """
    curve = ((jnp.sin(phase - beta_phase) + 1.0) / 2.0) ** beta_exponent
    return beta_min + (1.0 - beta_min) * curve


def hardware_response(
    key: jax.Array,
    codes: Complex[Array, "L N"],
    impairments: config_lib.ImpairmentConfig,
    severity: Float[Array, ""] | float = 1.0,
) -> Complex[Array, "L N"]:
    """Draw the actual response of the surface to nominal codes.

    Args:
      key: randomness of this surface.
      codes: [L, N] nominal codes.
      impairments: phase and amplitude error, dead elements and phase-dependent amplitude.
      severity: strength of all of them, as a fraction of the configured one.

    Returns:
      [L, N] complex, not of unit modulus.
    """
    phase, amplitude_db, dead = random_draws.draw(key, *[(codes.shape[-1],)] * 3)
    phase_error = severity * impairments.phase_error * random_draws.normal(phase)
    amplitude_db = severity * impairments.amplitude_error_db * random_draws.normal(amplitude_db)
    alive = random_draws.uniform(dead) >= severity * impairments.dead_fraction
    response = alive * 10.0 ** (amplitude_db / 20.0) * jnp.exp(1j * phase_error)
    amplitude = phase_dependent_amplitude(
        jnp.angle(codes),
        beta_min=1.0 - severity * (1.0 - impairments.beta_min),
        beta_phase=impairments.beta_phase,
        beta_exponent=impairments.beta_exponent,
    )
    return codes * amplitude * response
