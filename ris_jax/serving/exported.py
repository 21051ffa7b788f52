"""Export of a localiser for fixed shapes: a file that plain JAX runs, without this package."""

import functools
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Complex, Float

from ris_jax import config as config_lib
from ris_jax import errors, files, localization
from ris_jax.estimation import inputs
from ris_jax.physics import scenes
from ris_jax.physics import static_path as static_path_lib
from ris_jax.serving import prepared

FIELDS = (
    "azimuth", "elevation", "source_range", "power", "num_sources", "covariance", "noise_variance",
)  # fmt: skip


def export_localizer(
    path: str | os.PathLike[str],
    positions: Float[Any, "N 3"],
    *,
    shape: tuple[int, int],
    channel: Complex[Any, "M N"] | None = None,
    codes: Complex[Any, "L N"] | None = None,
    batch_size: int = 1,
    static_path: config_lib.StaticPath = "off",
    platforms: Sequence[str] = ("cpu",),
    **options: Any,
) -> None:
    """Write `localize` for one surface and one batch size to a file.

    The file has the surface, the search grid and the estimator. A program loads it with JAX alone:
    ``jax.export.deserialize(bytearray(content)).call(snapshots)``, snapshots [B, L, M] complex64,
    returns a dictionary with the arrays `FIELDS` of `Estimate`. These are the results of
    ``localize(..., check=False)``: without the model check and its flags.

    Args:
      path: file to write; an existing one is replaced.
      positions: elements [m].
      shape: L and M.
      channel: surface to antennas; None for an array without a surface.
      codes: of the snapshots; None for an array without a surface.
      batch_size: number of scenes of a call.
      static_path: "on" or "off".
      platforms: devices on which the file runs: cpu, cuda, rocm, tpu.
      **options: others of `localize`: wavelength, max_sources, limits, ...

    Raises:
      ConfigError: an invalid option, or mismatched shapes.
      RunError: the package flatbuffers is missing, with which JAX writes the file.
      OSError: the file cannot be written.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise errors.RunError(
            "export: expected the package flatbuffers; found none: pip install 'ris-jax[export]'"
        )
    inputs.require(static_path in ("on", "off"), "static_path", "on or off", static_path)
    inputs.require(batch_size >= 1, "batch_size", "1 or more", batch_size)
    localizer = prepared.PreparedLocalizer(
        channel, codes, positions, shape=shape, static_path=static_path, **options
    )
    program = localizer.program
    # Outside of the traced function: the constants become constants of the file.
    search = None if program is None else functools.partial(program.search, program.constants)

    def localize(snapshots):
        if search is None:
            found = localization.localize(
                scenes.Measurement(snapshots, channel, codes),  # pyright: ignore[reportArgumentType]
                positions,
                static_path=static_path,
                check=False,
                **options,
            )
        else:
            if static_path == "on":
                snapshots = static_path_lib.without_mean(snapshots)
            found = jax.lax.map(search, snapshots[:, None])  # scene by scene
            found = jax.tree.map(lambda leaf: leaf[:, 0], found)
        return {name: getattr(found, name) for name in FIELDS}

    given = jax.ShapeDtypeStruct((batch_size, *shape), jnp.complex64)
    content = export.export(jax.jit(localize), platforms=tuple(platforms))(given).serialize()
    with files.replacing(pathlib.Path(path)) as partial:
        partial.write_bytes(content)
