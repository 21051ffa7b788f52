"""Matched filter over the search grid, and over delays, at several frequencies."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ris_jax.estimation import candidate_search, search_grid
from ris_jax.physics import arrays, linear, wideband


@dataclasses.dataclass(frozen=True)
class FrequencyGrid(candidate_search.Grid):
    """A search grid whose spectrum combines F frequencies.

    Incoherent: the energies of the frequencies are summed. Coherent: at each point, the highest
    value over the delays, of the amplitudes of all frequencies with the phases of the delay
    removed. Steering vectors are computed block by block and not stored.
    """

    band: wideband.Band
    delays: Float[Array, "D"] | None  #: delay distances [m]; None: incoherent

    def _filtered(
        self, points: Float[Array, "P 3"], fields: Complex[Array, "F N"]
    ) -> Complex[Array, "F P"]:
        """Inner products of unit-norm steering vectors with the fields; zero beyond the horizon."""

        def one(wavelength, field):
            vectors = arrays.steering_at(
                points, self.positions, wavelength=wavelength, wavefront=self.wavefront
            )
            return linear.product(vectors.conj(), linear.parts(field[:, None]))[:, 0]

        # The norm is the same at all frequencies.
        norm = arrays.squared_norm(points, self.positions, wavefront=self.wavefront)
        weight = jax.lax.rsqrt(norm) * search_grid.visible(points)
        return jax.vmap(one)(self.band.wavelengths, fields) * weight

    def _over_delays(self, filtered: Complex[Array, "F P"]) -> Float[Array, "P D"]:
        """Energy of a stacked vector of unit norm at each delay."""
        assert self.delays is not None
        phasors = wideband.delay_phasors(self.delays, self.band.wavenumbers).conj()
        summed = linear.product(filtered.T, linear.parts(phasors.T))
        return (summed.real**2 + summed.imag**2) / filtered.shape[0]

    def spectrum(self, fields: Complex[Array, "F N"]) -> Float[Array, "G"]:
        """Matched filter at every point of the grid."""

        def power(points):
            filtered = self._filtered(points, fields)
            if self.delays is not None:
                return jnp.max(self._over_delays(filtered), axis=1)
            return jnp.sum(filtered.real**2 + filtered.imag**2, axis=0)

        rows = len(self.band.wavelengths) * len(self.positions)
        rows += 0 if self.delays is None else len(self.delays)
        return self.by_blocks(power, rows)

    def complete(
        self, points: Float[Array, "C 3"], fields: Complex[Array, "F N"]
    ) -> Float[Array, "C D"]:
        """Add the best delay of each point, interpolated between the delays of the grid."""
        if self.delays is None:
            return points
        spectrum = self._over_delays(self._filtered(points, fields))
        best = jnp.clip(jnp.argmax(spectrum, axis=1), 1, len(self.delays) - 2)[:, None]
        before, here, after = (
            jnp.take_along_axis(spectrum, best + step, axis=1) for step in (-1, 0, 1)
        )
        bend = 2.0 * here - before - after
        offset = jnp.where(bend > 0, 0.5 * (after - before) / jnp.where(bend > 0, bend, 1.0), 0.0)
        size = self.delays[1] - self.delays[0]
        delay = self.delays[best] + jnp.clip(offset, -1.0, 1.0) * size
        return jnp.concatenate([points, delay], axis=1)
