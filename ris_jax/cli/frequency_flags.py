"""Flags for recordings at several frequencies, shared by the commands."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from absl import flags
from jaxtyping import Float

from ris_jax import config as config_lib

if TYPE_CHECKING:
    from ris_jax.data.recordings.frequency_recordings import FrequencyRecordings

_MOST_FREQUENCIES = 10_000


def define_coherence(values: flags.FlagValues) -> None:
    """Add --coherence to the flags of a command."""
    flags.DEFINE_enum(
        "coherence",
        None,
        get_args(config_lib.Coherence),
        "with several frequencies: amplitudes of a source are free at each frequency (incoherent, "
        "the default), or one amplitude and one delay (coherent)",
        flag_values=values,
    )


def define_frequencies(values: flags.FlagValues) -> None:
    """Add --frequencies to the flags of a command."""
    flags.DEFINE_string(
        "frequencies", None, "frequencies [Hz], START:STOP:COUNT or VALUE,VALUE,...",
        flag_values=values,
    )  # fmt: skip


def parsed(text: str) -> Float[np.ndarray, "F"]:
    """Parse a --frequencies flag.

    Raises:
      ConfigError: the text has no different frequencies in hertz.
    """
    wrong = config_lib.ConfigError(
        f"--frequencies: expected START:STOP:COUNT or VALUE,VALUE,... [Hz], all different and "
        f"{config_lib.LOWEST_FREQUENCY:g} or more; found {text!r}"
    )
    try:
        if ":" in text:
            start, stop, count = text.split(":")
            number = int(count)
            if not 1 <= number <= _MOST_FREQUENCIES:
                raise wrong
            values = np.linspace(float(start), float(stop), number)
        else:
            values = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        if error is wrong:
            raise
        raise wrong from error
    good = np.isfinite(values).all() and (values >= config_lib.LOWEST_FREQUENCY).all()
    if not good or len(np.unique(values)) < len(values):
        raise wrong
    return values


def refuse(values: flags.FlagValues, names: Iterable[str], why: str) -> None:
    """Reject flags that do not apply.

    Raises:
      ConfigError: one of them is given.
    """
    for name in names:
        if values[name].present:
            raise config_lib.ConfigError(f"--{name}: {why}")


def requested(values: flags.FlagValues, narrowband: Iterable[str], why: str) -> bool:
    """Return whether --frequencies is given or --data has several frequencies.

    Args:
      values: of the command.
      narrowband: flags that need one frequency.
      why: end of the message if one of them is given.

    Raises:
      ConfigError: a flag that does not apply.
      RunError: the file of --data cannot be read.
    """
    several = bool(values.frequencies)
    if values.data:
        from ris_jax.data.recordings import frequency_recordings

        if several:
            raise config_lib.ConfigError(
                "--frequencies: expected this or --data, which has its frequencies; both given"
            )
        several = frequency_recordings.has_frequencies(values.data)
    if several:
        refuse(values, narrowband, why)
    else:
        refuse(values, ("coherence",), "needs several frequencies")
    return several


def check_estimator(values: flags.FlagValues) -> None:
    """Check the flags of the estimator for several frequencies.

    Raises:
      ConfigError: a network, an estimator or the removal of a static path at one frequency.
    """
    for name in ("pretrained", "workdir"):
        if values[name].value:
            raise config_lib.ConfigError(
                f"--{name}: expected no network at several frequencies, because networks are "
                f"narrowband; found {values[name].value!r}"
            )
    for name, allowed in (
        ("estimator", ("auto", "maximum_likelihood")),
        ("static_path", ("auto", "off")),
    ):
        if values[name].value not in allowed:
            raise config_lib.ConfigError(
                f"--{name}: expected {' or '.join(allowed)} at several frequencies, because all "
                f"others are narrowband; found {values[name].value}"
            )


def check_configuration(config: config_lib.Config, *, simulated: bool) -> None:
    """Check that a configuration has no part that the model of several frequencies lacks.

    Args:
      config: of the command.
      simulated: whether its impairments and static path act on scenes.

    Raises:
      ConfigError: it has an element response, independent signals, impairments or a static path.
    """
    system = config.system
    for name, given in (
        ("system.source_signal", system.source_signal != "constant"),
        ("system.response_exponent", system.response_exponent > 0),
        ("system.response_angles", bool(system.response_angles)),
        ("impairments", simulated and config.impairments != config_lib.ImpairmentConfig()),
        ("scene.static_path_db", simulated and config.scene.static_path_db is not None),
    ):
        if given:
            raise config_lib.ConfigError(
                f"{name}: expected the default at several frequencies, which have constant signals "
                "and ideal hardware"
            )


def options_of(values: flags.FlagValues, recordings: "FrequencyRecordings") -> dict[str, Any]:
    """Return the options of `localize_wideband` from the flags of `localize`.

    Raises:
      ConfigError: a flag that needs a single frequency.
    """
    check_estimator(values)
    if values.source_signal not in (None, "constant"):
        raise config_lib.ConfigError(
            f"--source_signal: expected constant at several frequencies; found "
            f"{values.source_signal}"
        )
    refuse(values, ("calibration",), "expected none for recordings at several frequencies, because "
           "a calibration holds at one frequency")  # fmt: skip
    refuse(values, ("response_exponent",), "expected none for recordings at several frequencies")
    coherence = values.coherence or "incoherent"
    delays = None
    if values.delay_max_ns is not None:
        if not (math.isfinite(values.delay_max_ns) and values.delay_max_ns > 0):
            raise config_lib.ConfigError(
                f"--delay_max_ns: expected finite nanoseconds above zero; found "
                f"{values.delay_max_ns}"
            )
        delays = (0.0, 1e-9 * values.delay_max_ns)
    return {
        "frequencies": recordings.frequencies.tolist(),
        "coherence": coherence,
        "delay_limits": delays,
        "wavefront": values.wavefront or "spherical",
        "num_sources": values.num_sources,
        "max_sources": values.max_sources,
        "false_alarm_rate": values.false_alarm_rate,
        "search": values.search,
    }
