"""Near-field localisation of radio sources through a reconfigurable intelligent surface.

  ris-jax COMMAND [--flag=value ...]        (or: python -m ris_jax COMMAND ...)

Commands:
  example    a small recordings file to try localize on
  inspect    how a recordings file is interpreted, and what looks wrong with it
  train      train a network on simulated or stored scenes; goes on where it stopped
  simulate   scenes to train on, drawn into a folder of records; goes on where it stopped
  import     recordings and shards of the reference, as records to train on; likewise
  evaluate   held-out scores of an estimator against the bound, or of a trained network
  localize   positions of the sources in recordings, with error bars
  report     one page of a run, finished or not
  tune       search for hyper-parameters, with any number of workers
  bound      Cramér-Rao bound over the field of view: maps, sweeps, limits
  design     phase codes that minimise the bound over a region or at positions
  benchmark  estimators against each other and the bound, and speed: a folder for a paper
  doctor     check an installation

  ris-jax COMMAND --help                    what a command takes, with an example
"""

import importlib
import signal
import sys
import threading

from absl import flags, logging

from ris_jax import _environment

_COMMANDS = (
    "example", "inspect", "train", "simulate", "import", "evaluate", "localize", "report", "tune",
    "bound", "design", "benchmark", "doctor",
)  # fmt: skip
_MODULES = {"import": "import_records"}  # a command's module, where it cannot have its name
# Commands that go on where they stopped.
_GO_ON = ("train", "tune", "benchmark", "simulate", "import_records", "design")
_USAGE_ERROR = 2


def _complain(text: str) -> None:
    print(f"ris-jax: {' '.join(text.split())}", file=sys.stderr)


def _terminated(number: int, _: object) -> None:
    from ris_jax import errors

    raise errors.Interrupted(number)


def _prepared(module) -> int:
    """Tells what a command is about to do, before JAX is imported; then does it."""
    print(module.announcement(), flush=True)
    from ris_jax import compilation_cache

    if module.FLAGS.compilation_cache:
        compilation_cache.enable_compilation_cache()
    else:
        compilation_cache.disable_compilation_cache()
    if not module.COMPILES:
        return module.run()
    from ris_jax.cli import compilation

    with compilation.Observer(module.COMPILES) as compiled:
        status = module.run()
    if summary := compiled.summary():
        print(summary)
    return status


def _run(module) -> int:
    """Runs a command; what a user can act on becomes one line on standard error."""
    from ris_jax import config as config_lib
    from ris_jax import errors
    from ris_jax.data import files

    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and before == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        return _prepared(module)
    except config_lib.ConfigError as error:
        _complain(str(error))
        return _USAGE_ERROR
    except errors.RunError as error:
        _complain(str(error))
        return 1
    except OSError as error:
        _complain(files.described(error))
        return 1
    except MemoryError as error:
        _complain(_out_of_memory(module, error))
        return 1
    except RuntimeError as error:  # jax.errors.JaxRuntimeError among them
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _complain(_out_of_memory(module, error))
        return 1
    except errors.Interrupted as error:
        _complain(str(error) if error.saved else f"{error}{_after_interruption(module)}")
        return error.status
    except KeyboardInterrupt:
        _complain(f"interrupted{_after_interruption(module)}")
        return 128 + signal.SIGINT
    finally:
        if signal.getsignal(signal.SIGTERM) is _terminated:
            signal.signal(signal.SIGTERM, before)


def _after_interruption(module) -> str:
    """What can be done when a command was stopped."""
    goes_on = module.__name__.rpartition(".")[2] in _GO_ON
    return "; the same command goes on where it stopped" if goes_on else ""


def _out_of_memory(module, error: BaseException) -> str:
    """What to ask for instead of what did not fit."""
    from ris_jax import errors

    values = module.FLAGS
    size = values.batch_size if "batch_size" in values else None
    advice = f" with --batch_size={size}: --batch_size={size // 2} needs less" if size else ""
    if size == 1:
        advice = ""
    return f"out of memory{advice}; {errors.first_line(error)}"


def _define_cache(values: flags.FlagValues) -> None:
    """Adds --compilation_cache to the flags of a command, once a process."""
    if "compilation_cache" not in values:
        flags.DEFINE_bool(
            "compilation_cache", True, "keep compiled programs in the user's cache directory",
            flag_values=values,
        )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs the command that `argv` names; returns the exit status."""
    logging.set_verbosity(logging.ERROR)  # orbax tells absl what it does at every step
    _environment.silence_xla()
    arguments = list(sys.argv if argv is None else argv)[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else _USAGE_ERROR
    command, *rest = arguments
    if command not in _COMMANDS:
        _complain(f"unknown command {command!r}; commands: {', '.join(_COMMANDS)}")
        return _USAGE_ERROR
    module = importlib.import_module(f"ris_jax.cli.{_MODULES.get(command, command)}")
    _define_cache(module.FLAGS)
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
