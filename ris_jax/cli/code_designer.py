"""Optimiser of the codes of a surface, with a state file, for the command `design`."""

import hashlib
import io
import json
import pathlib
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.cli import common_flags, surface_flags

if TYPE_CHECKING:
    from ris_jax.accuracy.bound_maps import Surface
    from ris_jax.accuracy.code_design import DesignProblem

_SEGMENT = 50  # steps of a descent between two saved states


def npz(arrays: dict[str, Any]) -> bytes:
    """Return the content of a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def require_area(positions: Float[np.ndarray, "N 3"]) -> None:
    """Check that elements are not on a line, whose position error bound is infinite.

    Raises:
      RunError: they are.
    """
    from ris_jax.estimation.checks import limits

    line = limits.undetermined_coordinate(positions)
    if line is not None:
        raise errors.RunError(
            "elements: expected a surface; found a line, which does not determine the "
            f"{('azimuth', 'elevation')[line]}; no codes make the position error finite"
        )


class Designer:
    """Optimiser of the codes of one surface; finished parts are kept in the state file."""

    has_four_beams = True  # whether the four beams of a known position are defined

    def __init__(
        self,
        flags_of_design: flags.FlagValues,
        surface: "Surface",
        waves: dict[str, Any],
        places: Float[np.ndarray, "P 3"],
        state_name: str = "state.npz",
    ):
        """Prepare the problem.

        Args:
          flags_of_design: of the command `design`.
          surface: with one channel.
          waves: wavefront and source signal.
          places: positions to design for, azimuth [rad], elevation [rad], range [m].
          state_name: name of the state file in the directory --out.
        """
        self.flags, self.surface, self.waves, self.places = flags_of_design, surface, waves, places
        self.channel = np.asarray(self.surface.channel[0])
        self.num_codes = self.flags.num_codes or len(self.surface.codes)
        self.budget = surface_flags.link_budget(self.flags)
        self.options = {
            "source_signal": self.waves["source_signal"],
            "goal": self.flags.goal,
            "quantile": self.flags.quantile,
        }
        self.problem = self.make_problem(places)
        self.path = pathlib.Path(self.flags.out) / state_name
        self.state: dict[str, np.ndarray] = {}

    def level(self, places: np.ndarray) -> Float[np.ndarray, "P"]:
        """Power of the source over the noise variance; its steering vector has norm 1 far away."""
        from ris_jax.accuracy import link_budget

        power = float(np.mean(np.abs(self.channel) ** 2))
        if self.budget is None:
            return np.full(len(places), 10.0 ** (surface_flags.snr_db(self.flags) / 10.0) / power)
        return link_budget.received_snr(
            self.budget, np.ones((1, len(places))), places[:, 2],
            num_elements=len(self.surface.positions), channel_power=power,
            wavelength=float(self.surface.wavelength),
        )[0]  # fmt: skip

    def make_problem(self, places: np.ndarray) -> "DesignProblem":
        from ris_jax.accuracy import code_design

        kind = self.surface.positions.dtype
        return code_design.make_problem(
            self.surface.positions, self.surface.channel[0], self.surface.wavelength,
            places.astype(kind), self.level(places).astype(kind),
            wavefront=self.waves["wavefront"], response=self.surface.response,
        )  # fmt: skip

    def errors(self, codes: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "P"]:
        """Return the position error bound [m] of `bounds`; infinity if unidentifiable."""
        import jax.numpy as jnp

        from ris_jax.accuracy import bound_maps

        surface = self.surface._replace(codes=jnp.asarray(codes, self.surface.codes.dtype))
        unit = bound_maps.unit_bounds(surface, places, **self.waves)
        snr = self.level(places) * unit.gain
        return bound_maps.deviations(unit, snr, places).position_error

    def value(self, codes: np.ndarray, problem: "DesignProblem | None" = None) -> float:
        """Return the objective [m] of codes at the positions of a problem, or of the design."""
        from ris_jax.accuracy import code_design

        return float(code_design.value_of(problem or self.problem, codes, **self.options))

    def random_codes(self, draw: int, num_codes: int) -> Complex[np.ndarray, "L N"]:
        """Return random phases; fewer codes of a draw are the first ones of more."""
        from ris_jax.accuracy import code_baselines

        return code_baselines.random_codes(
            self.flags.seed + draw, num_codes, len(self.surface.positions)
        )

    def baselines(self, system: config_lib.SystemConfig) -> dict[str, np.ndarray]:
        """Return codes of the literature, by name."""
        import dataclasses

        from ris_jax.accuracy import code_baselines
        from ris_jax.physics import codebooks

        surface, count = self.surface, self.num_codes
        found: dict[str, np.ndarray] = {}
        if count <= len(surface.positions):
            grid = dataclasses.replace(
                system, num_snapshots=count, codebook="dft2d", codes_file=None, phase_bits=None
            )
            if grid.num_elements != len(surface.positions):  # recordings: any array
                places = tuple(map(tuple, np.asarray(surface.positions).tolist()))
                grid = dataclasses.replace(grid, element_positions=places)
            found["DFT"] = np.asarray(codebooks.codebook(grid))
        wavefronts: dict[str, config_lib.Wavefront] = {
            "directional": "planar", "positional": self.waves["wavefront"]
        }  # fmt: skip
        for name, wavefront in wavefronts.items():
            found[name] = code_baselines.pointed_codes(
                self.flags.seed, count, surface.positions, self.channel, float(surface.wavelength),
                self.places, wavefront,
            )  # fmt: skip
        if len(self.places) == 1 and count >= 4 and self.has_four_beams:
            found["four beams"] = code_baselines.four_beams(
                self.problem, self.channel, count, self.options["source_signal"]
            )
        return found

    def fingerprint(self) -> str:
        """Return a hash of everything that the result depends on."""
        import jax

        arrays = (*jax.tree.leaves(self.surface), self.places, self.level(self.places))
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
        names = ("steps", "starts", "sweeps", "seed", "num_codes")
        inputs = self.options | self.waves | {name: getattr(self.flags, name) for name in names}
        return hashlib.sha256(b"".join([*parts, json.dumps(inputs).encode()])).hexdigest()

    def load(self) -> None:
        """Read the state of the same command, if there is one.

        Raises:
          RunError: the directory has the state of another command, or a damaged one.
        """
        if not self.path.exists():
            self.state = {"fingerprint": np.array(self.fingerprint())}
            return
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                self.state = dict(found)
            same = str(self.state["fingerprint"]) == self.fingerprint()
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise errors.RunError(
                f"{self.path}: damaged; remove it; {errors.first_line(error)}"
            ) from error
        if not same:
            raise errors.RunError(
                f"{self.path}: belongs to other flags; need another directory, or remove it"
            )
        print(f"resuming from {self.path}", flush=True)

    def save(self, **arrays: Any) -> None:
        from ris_jax.reports import provenance

        self.state |= {name: np.asarray(array) for name, array in arrays.items()}
        provenance.write_whole(self.path, npz(self.state))

    def descend(
        self,
        starts: list[np.ndarray],
        problem: "DesignProblem | None" = None,
        name: str = "descent",
    ) -> Complex[np.ndarray, "L N"]:
        """Return continuous codes: the best found by the descents from all starts.

        Args:
          starts: codes [L, N].
          problem: in place of that of the design.
          name: of the descents, in the state file and in messages.
        """
        import jax

        from ris_jax.accuracy import code_design

        problem = problem or self.problem
        best_value, best = np.inf, starts[0]
        for number, codes in enumerate(starts):
            descent = code_design.start_descent(codes, self.flags.steps)
            leaves, structure = jax.tree.flatten(descent)
            names = [f"{name}_{number}_{index}" for index in range(len(leaves))]
            if names[0] in self.state:
                descent = jax.tree.unflatten(structure, [self.state[name] for name in names])
            with common_flags.progress(self.flags.steps, f"{name} {number + 1}", "step") as advance:
                advance(int(descent.step))
                while (left := self.flags.steps - int(descent.step)) > 0:
                    descent = code_design.descend(
                        problem, descent, num_steps=self.flags.steps,
                        steps=min(left, _SEGMENT), **self.options,
                    )  # fmt: skip
                    self.save(**dict(zip(names, jax.tree.leaves(descent), strict=True)))
                    advance(min(left, _SEGMENT))
            for found in (np.exp(1j * np.asarray(descent.best_phases)), codes):
                found = found.astype(np.complex64)
                if (value := self.value(found, problem)) < best_value:
                    best_value, best = value, found
            print(f"{name} {number + 1}: {best_value:.4g} m so far", flush=True)
        return best

    def quantise(self, codes: np.ndarray, bits: int) -> Complex[np.ndarray, "L N"]:
        """Return codes of `bits` bits: rounded, then improved phase by phase."""
        import jax.numpy as jnp

        from ris_jax.accuracy import code_design
        from ris_jax.physics import codebooks

        name = f"codes_{bits}bit"
        if name in self.state:
            return self.state[name]
        rounded = found = np.asarray(codebooks.quantize_phase(jnp.asarray(codes), bits)).astype(
            np.complex64
        )
        every = np.indices(found.shape).reshape(2, -1).T
        generator = np.random.default_rng([self.flags.seed, bits])
        with common_flags.progress(self.flags.sweeps, f"{bits} bits", "sweep") as advance:
            for _ in range(self.flags.sweeps):
                order = generator.permutation(every)
                found = code_design.improve_quantised(
                    self.problem, found, order, bits=bits, **self.options
                )
                advance(1)
        before, after = self.value(rounded), self.value(found)
        print(f"{bits} bits: {before:.4g} m rounded, {after:.4g} m improved", flush=True)
        self.save(**{name: found})
        return found
