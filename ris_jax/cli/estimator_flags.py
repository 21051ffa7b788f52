"""Flags of commands that localise sources in a user's data: estimator, limits, calibration."""

import math
from typing import TYPE_CHECKING, Any

from absl import flags

from ris_jax import config as config_lib
from ris_jax.cli import common_flags

if TYPE_CHECKING:
    from ris_jax.data.recordings.reader import Recordings
    from ris_jax.estimation.checks.limits import Limits

_LIMITS = config_lib.SceneConfig()  # default limits of the sources
_FIELD_OF_VIEW = ("azimuth_max_deg", "elevation_max_deg", "range_min", "range_max")


def define(values: flags.FlagValues) -> None:
    """Add the flags to a command."""
    common_flags.define_network(values)
    common_flags.define_estimator(
        values, "auto", "auto (network if one is given, else maximum_likelihood)"
    )
    flags.DEFINE_integer(
        "num_sources", None, "sources in every scene, if known", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "max_sources",
        _LIMITS.max_sources,
        "maximum number of sources in a scene",
        lower_bound=1,
        flag_values=values,
    )
    common_flags.define_waves(values)
    common_flags.define_response(values)
    flags.DEFINE_float(
        "false_alarm_rate",
        config_lib.DEFAULT_FALSE_ALARM_RATE,
        "fraction of scenes with a false alarm, if the number of sources is unknown",
        flag_values=values,
    )
    flags.DEFINE_float(
        "azimuth_max_deg",
        _LIMITS.azimuth_max_deg,
        "sources are within plus or minus this",
        flag_values=values,
    )
    flags.DEFINE_float(
        "elevation_max_deg",
        _LIMITS.elevation_max_deg,
        "sources are within plus or minus this; 0 for a linear array",
        flag_values=values,
    )
    flags.DEFINE_float(
        "range_min", _LIMITS.range_min, "smallest source range [m]", flag_values=values
    )
    flags.DEFINE_float("range_max", math.inf, "largest source range [m]", flag_values=values)
    flags.DEFINE_enum(
        "search",
        "normal",
        ("fast", "normal", "thorough"),
        "effort of the search on a grid: cells, candidates and iterations",
        flag_values=values,
    )
    common_flags.define_binary_codes(values)
    common_flags.define_static_path(values)
    flags.DEFINE_string(
        "calibration",
        None,
        "file of `ris-jax calibrate`: factors of the elements, and pose of the surface",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> None:
    """Check the flags that need no JAX.

    Raises:
      ConfigError: one line with the flag.
    """
    _limit_arguments(values)
    common_flags.check_network(values)
    if values.workdir or values.pretrained:
        for flag in _FIELD_OF_VIEW:
            if values[flag].present:
                raise config_lib.ConfigError(
                    f"--{flag}: not allowed with a network, which uses the limits of its training"
                )


def _limit_arguments(values: flags.FlagValues) -> dict[str, float]:
    """Return arguments of `limits.Limits`; errors name the flag."""
    least, most = values.range_min, values.range_max
    if not 0 < least < math.inf:
        raise config_lib.ConfigError(f"--range_min: need finite metres above zero; got {least!r}")
    if not most > least:
        raise config_lib.ConfigError(f"--range_max: need more than --range_min={least}; got {most}")
    angles = {}
    for name, lowest in (("azimuth_max_deg", "0 <"), ("elevation_max_deg", "0 <=")):
        value = float(getattr(values, name))
        if not (0 < value < 90 or (value == 0 and lowest == "0 <=")):
            raise config_lib.ConfigError(f"--{name}: need {lowest} value < 90; got {value!r}")
        angles[name.removesuffix("_deg")] = math.radians(value)
    return {**angles, "range_min": least, "range_max": most}


def check_options(values: flags.FlagValues) -> None:
    """Check the options of the estimator.

    Raises:
      ConfigError: one line with the option.
    """
    from ris_jax import localization

    localization.check_options(
        values.estimator,
        num_sources=values.num_sources,
        max_sources=values.max_sources,
        false_alarm_rate=values.false_alarm_rate,
    )


def recordings(values: flags.FlagValues, path: str) -> "Recordings":
    """Read recordings, with the factors and the pose of --calibration if it is given.

    Raises:
      RunError: one line with the file and the field.
    """
    from ris_jax.data.recordings import reader, surface_calibration

    found = reader.read(path, binary_codes=values.binary_codes)
    if not values.calibration:
        return found
    return reader.calibrated(found, surface_calibration.load_calibration(values.calibration))


def limits_of(values: flags.FlagValues) -> "Limits":
    """Return the limits of reported sources."""
    from ris_jax.estimation.checks import limits

    return limits.Limits(**_limit_arguments(values))


def options(values: flags.FlagValues, data: "Recordings") -> dict[str, Any]:
    """Return the options of `localize` except the network; a flag takes precedence over the data.

    Args:
      values: flags with those of `define`.
      data: recordings.
    """
    # The search limits of a network are those of its training.
    searched = values.pretrained is None and values.workdir is None
    within = limits_of(values) if searched else None
    return {
        "wavelength": data.wavelength,
        "wavefront": values.wavefront or data.wavefront or "spherical",
        "response": common_flags.response(values, data.response),
        "source_signal": values.source_signal or data.source_signal or "constant",
        "estimator": values.estimator,
        "num_sources": values.num_sources,
        "max_sources": values.max_sources,
        "false_alarm_rate": values.false_alarm_rate,
        "limits": within,
        "search": values.search,
        "static_path": values.static_path,
    }
