"""Near-field localisation of radio sources through a reconfigurable intelligent surface.

  ris-jax COMMAND [--flag=value ...]        (or: python -m ris_jax COMMAND ...)

Commands:
  train      train a network on simulated or stored scenes; goes on where it stopped
  simulate   scenes to train on, drawn into a folder of records; goes on where it stopped
  import     recordings and shards of the reference, as records to train on; likewise
  evaluate   held-out scores of an estimator against the bound, or of a trained network
  localize   positions of the sources in recordings, with error bars
  tune       search for hyper-parameters, with any number of workers
  benchmark  estimators against each other and the bound, and speed: a folder for a paper
  doctor     check an installation

  ris-jax COMMAND --help                    what a command takes, with an example
"""

import importlib
import sys

from absl import flags, logging

_COMMANDS = ("train", "simulate", "import", "evaluate", "localize", "tune", "benchmark", "doctor")
_MODULES = {"import": "import_records"}  # a command's module, where it cannot have its name
_AFTER_INTERRUPTION = {
    "train": "; `train` goes on from its last checkpoint",
    "tune": "; `tune` goes on from its last checkpoint",
    "benchmark": "; the same command goes on where it stopped",
    "simulate": "; the same command goes on where it stopped",
    "import_records": "; the same command goes on where it stopped",
}
_USAGE_ERROR = 2


def _complain(text: str) -> None:
    print(f"ris-jax: {' '.join(text.split())}", file=sys.stderr)


def _run(module) -> int:
    """Runs a command; what a user can act on becomes one line on standard error."""
    from ris_jax import config as config_lib
    from ris_jax import errors

    try:
        return module.run()
    except config_lib.ConfigError as error:
        _complain(str(error))
        return _USAGE_ERROR
    except (errors.RunError, OSError) as error:
        _complain(str(error))
        return 1
    except MemoryError:
        _complain("out of memory; a smaller --batch_size needs less")
        return 1
    except RuntimeError as error:  # jax.errors.JaxRuntimeError among them
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _complain(f"out of memory; a smaller --batch_size needs less: {str(error).splitlines()[0]}")
        return 1
    except KeyboardInterrupt:
        command = module.__name__.rpartition(".")[2]
        _complain("interrupted" + _AFTER_INTERRUPTION.get(command, ""))
        return 130


def main(argv: list[str] | None = None) -> int:
    """Runs the command that `argv` names; returns the exit status."""
    logging.set_verbosity(logging.ERROR)  # orbax tells absl what it does at every step
    arguments = list(sys.argv if argv is None else argv)[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else _USAGE_ERROR
    command, *rest = arguments
    if command not in _COMMANDS:
        _complain(f"unknown command {command!r}; commands: {', '.join(_COMMANDS)}")
        return _USAGE_ERROR
    module = importlib.import_module(f"ris_jax.cli.{_MODULES.get(command, command)}")
    if {"-h", "--help"} & set(rest):
        print(f"{module.__doc__}\nFlags:\n{module.FLAGS.get_help(prefix='  ')}")
        return 0
    try:
        module.FLAGS.unparse_flags()
        extra = module.FLAGS([command, *rest])[1:]
    except flags.Error as error:
        _complain(f"{command}: {error}")
        return _USAGE_ERROR
    if extra:
        _complain(f"{command}: flags only, please; got {' '.join(extra)!r}")
        return _USAGE_ERROR
    return _run(module)


def console() -> None:
    """Entry point of the `ris-jax` script."""
    sys.exit(main())
