r"""Cramér-Rao bound of sources received at several frequencies; see `physics.wideband`.

Incoherent amplitudes form one group of data for each frequency, with separate amplitudes. Coherent
ones form a single group of all frequencies, and each source has its delay as a fourth parameter.
Both cases are `bounds.conditional_bound`. The noise is white with the same variance at all
frequencies.
"""

import functools
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float

from ris_jax import config as config_lib
from ris_jax.accuracy import bounds
from ris_jax.physics import arrays, linear, scenes, wideband


class WidebandBound(NamedTuple):
    """Bound of azimuth [rad], elevation [rad], range [m] and, if coherent, delay [s].

    P is 3 or 4. A parameter that the data do not determine has variance infinity and covariances
    zero.
    """

    covariance: Float[Array, "K P P"]
    identifiable: Bool[Array, "K P"]

    @property
    def position(self) -> bounds.Bound:
        """The bound of the first three parameters."""
        return bounds.Bound(self.covariance[..., :3, :3], self.identifiable[..., :3])


def wideband_bound(
    measurement: scenes.Measurement,
    azimuth: Float[Array, "K"],
    elevation: Float[Array, "K"],
    source_range: Float[Array, "K"],
    delay: Float[Array, "K"] | None,
    signals: Complex[Array, "F K"],
    positions: Float[Array, "N 3"],
    *,
    band: wideband.Band,
    coherence: config_lib.Coherence,
    wavefront: config_lib.Wavefront = "spherical",
) -> WidebandBound:
    """Return the conditional Cramér-Rao bound of one scene at F frequencies.

    Args:
      measurement: channel [F, M, N] or [M, N], codes [F, L, N] or [L, N] and noise variance [] of
        the scene; the snapshots are not used.
      azimuth: [K] [rad].
      elevation: [K] [rad].
      source_range: [K] [m]; infinity is a plane wave, with bounds of its angles.
      delay: [K] [s] of coherent signals; its value has no influence on the bound. None is allowed.
      signals: [F, K] amplitudes at each frequency, of coherent signals with the phases of the
        delays. A source with only zeros is padding, see `bounds.cramer_rao_bound`.
      positions: [N, 3] elements [m].
      band: frequencies, see `wideband.band_of`.
      coherence: incoherent or coherent.
      wavefront: as for `arrays.steering`.

    Returns:
      A `WidebandBound` with 3 (incoherent) or 4 (coherent) parameters a source.

    Raises:
      ValueError: mismatched shapes or an unknown coherence; the field is named.
    """
    num_frequencies, sources = len(band.wavelengths), azimuth.size
    channel, codes = measurement.channel, measurement.codes
    sizes = {"F": num_frequencies, "K": sources, "N": len(positions), "3": 3}
    sizes |= {"L": codes.shape[-2], "M": channel.shape[-2]}
    for field, array, layouts in (
        ("azimuth", azimuth, ("K",)), ("elevation", elevation, ("K",)),
        ("source_range", source_range, ("K",)), ("signals", signals, ("FK",)),
        ("positions", positions, ("N3",)), ("codes", codes, ("FLN", "LN")),
        ("channel", channel, ("FMN", "MN")), ("noise_variance", measurement.noise_variance, ("",)),
    ):  # fmt: skip
        needed = [tuple(sizes[axis] for axis in layout) for layout in layouts]
        if array.shape not in needed:
            letters = " or ".join(f"[{', '.join(layout)}]" for layout in layouts)
            raise ValueError(f"{field}: need {letters} = {needed[0]}; got {array.shape}")
    if delay is not None and delay.shape != (sources,):
        raise ValueError(f"delay: need [K] = {(sources,)}; got {delay.shape}")
    choices = get_args(config_lib.Coherence)
    if coherence not in choices:
        raise ValueError(f"coherence: need one of {', '.join(choices)}; got {coherence!r}")

    coherent = coherence == "coherent"
    active = jnp.any(signals != 0.0, axis=0)
    point = jnp.where(active, jnp.stack([azimuth, elevation, 1.0 / source_range]), 0.0)

    def images(channel, codes, wavelength, wavenumber):
        def steering(point):
            return arrays.steering(
                arrays.direction(point[0], point[1]), point[2], positions,
                wavelength=wavelength, wavefront=wavefront,
            )  # fmt: skip

        def slope(axis):
            return jax.jvp(steering, (point,), (jnp.broadcast_to(axis[:, None], point.shape),))[1]

        slopes = jax.vmap(slope)(jnp.eye(3, dtype=point.dtype))
        vectors = jnp.concatenate([steering(point)[None], slopes])
        if coherent:
            vectors = jnp.concatenate([vectors, (-2j * jnp.pi * wavenumber) * vectors[:1]])
        return linear.matmul(codes[:, None, None, :] * vectors, channel.T)  # [L, 1 + P, K, M]

    axes = tuple(0 if array.ndim == 3 else None for array in (channel, codes))
    seen = jax.vmap(images, in_axes=(*axes, 0, 0))(channel, codes, *band)
    seen = jnp.moveaxis(seen, 1, -2)  # [F, 1 + P, K, L, M]
    if coherent:
        seen = jnp.moveaxis(seen * signals[:, None, :, None, None], 0, -3)[None]
        signals = active[None].astype(signals.dtype)
    seen = seen.reshape(*seen.shape[:3], -1)
    full, identifiable = bounds.conditional_bound(
        seen[:, 0], seen[:, 1:], signals, measurement.noise_variance
    )

    index, parameters = jnp.arange(sources), seen.shape[1] - 1
    is_range, is_delay = (jnp.arange(parameters) == number for number in (2, 3))
    finite = jnp.where(active & jnp.isfinite(source_range), source_range, 0.0)
    known = identifiable & ((finite[:, None] > 0.0) | ~is_range)
    # dr = -r^2 d(1/r), and the delay is the delay distance over c.
    scale = jnp.where(is_range, -(finite[:, None] ** 2), 1.0)
    scale = jnp.where(is_delay, 1.0 / config_lib.SPEED_OF_LIGHT, scale)
    covariance = jnp.where(known[:, :, None] & known[:, None, :], full[index, :, index, :], 0.0)
    covariance = covariance * scale[:, :, None] * scale[:, None, :]
    known &= jnp.isfinite(jnp.diagonal(covariance, axis1=-2, axis2=-1))
    return WidebandBound(bounds.mark(covariance, known), known)


@functools.partial(jax.jit, static_argnames=("system", "coherence"))
def wideband_scene_bound(
    scene: wideband.WidebandScene,
    positions: Float[Array, "N 3"],
    system: config_lib.SystemConfig,
    *,
    band: wideband.Band,
    coherence: config_lib.Coherence,
) -> WidebandBound:
    """Return the bound of simulated scenes, [B, K, ...], for scenes with leading axis B."""

    def one(scene):
        truth = scene.truth
        return wideband_bound(
            scene.measurement, truth.azimuth, truth.elevation, truth.source_range, scene.delay,
            scene.signals, positions, band=band, coherence=coherence, wavefront=system.wavefront,
        )  # fmt: skip

    return jax.vmap(one)(scene)


def wideband_deviations(bound: WidebandBound) -> Float[Array, "... K P"]:
    """Return standard deviations of azimuth [rad], elevation [rad], range [m] and delay [s]."""
    return jnp.sqrt(jnp.diagonal(bound.covariance, axis1=-2, axis2=-1))
