"""Check an installation: devices, physics, losses, gradients, and training of a small network.

Example:
  ris-jax doctor
  ris-jax doctor --thorough --workdir=runs/quickstart      (also checks that run's checkpoints)

Each check prints one line with the measured value; the exit status is 0 if all pass. --thorough
adds all codebooks, all wavefronts, and the scores of the small network.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args

from absl import flags

from ris_jax import config as config_lib
from ris_jax import errors

if TYPE_CHECKING:
    from ris_jax.cli.doctor_checks import Finding

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "directory of a run to check as well", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "random seed of the checks", flag_values=FLAGS)
flags.DEFINE_bool("thorough", False, "run all checks; takes minutes", flag_values=FLAGS)

COMPILES = "about 30 s, once per installation"


def _config() -> config_lib.Config:
    return config_lib.override(config_lib.Config(), {"training.seed": FLAGS.seed})


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    _config()
    if FLAGS.workdir and not pathlib.Path(FLAGS.workdir).is_dir():
        raise config_lib.ConfigError(
            f"--workdir: need the directory of a run; got {FLAGS.workdir!r}"
        )
    return f"checking the installation{' thoroughly' if FLAGS.thorough else ''}"


def _guarded(name: str, check: "Callable[[], Iterator[Finding]]") -> "Iterator[Finding]":
    """Run a check; turn an exception into a finding, so that the others still run."""
    try:
        yield from check()
    except Exception as error:
        yield name, False, f"the check itself failed: {errors.first_line(error)}"


def _checks() -> "dict[str, Callable[[], Iterator[Finding]]]":
    """Return the requested checks, cheap ones first."""
    from ris_jax.cli import doctor_checks

    config, small = _config(), doctor_checks.small_config(FLAGS.seed)
    codebooks, wavefronts = (config.system.codebook,), (config.system.wavefront,)
    if FLAGS.thorough:
        codebooks = get_args(config_lib.CodebookName)
        wavefronts = get_args(config_lib.Wavefront)
    found = {"devices": doctor_checks.devices, "compilation cache": doctor_checks.cache}
    if FLAGS.workdir:
        found["run"] = lambda: doctor_checks.run(pathlib.Path(FLAGS.workdir))
    return found | {
        "conditioning": lambda: doctor_checks.conditioning(config, codebooks),
        "peak": lambda: doctor_checks.peak(config, wavefronts),
        "losses": lambda: doctor_checks.losses_at_truth(config),
        "learning": lambda: doctor_checks.learning(small, thorough=FLAGS.thorough),
    }


def run() -> int:
    """Run the command; return the exit status."""
    failures = 0
    for name, check in _checks().items():
        for what, holds, measured in _guarded(name, check):
            failures += not holds
            print(f"{'ok  ' if holds else 'FAIL'}  {what}: {measured}", flush=True)
    print("all checks passed" if not failures else f"{failures} checks failed")
    return min(failures, 1)
