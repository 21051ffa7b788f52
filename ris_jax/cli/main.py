"""Near-field localisation of radio sources through a reconfigurable intelligent surface.

  ris-jax COMMAND [--flag=value ...]        (or: python -m ris_jax COMMAND ...)

Commands:
  example    write a small recordings file to try localize on
  inspect    print how a recordings file is interpreted, with warnings
  train      train a network on simulated or stored scenes; resumable
  simulate   draw scenes for training into a directory of records; resumable
  import     convert recordings with true positions to records for training; resumable
  evaluate   score an estimator against the bound, or a trained network
  calibrate  estimate the factors of a surface's elements, and its pose, from recordings
  localize   locate the sources in recordings, with error bars
  serve      locate sources live, over HTTP and WebSocket, with a map in the browser
  report     write a report page of a run, finished or not
  tune       search for hyper-parameters, with any number of workers
  bound      compute the Cramér-Rao bound over the field of view: maps, sweeps, limits
  design     design phase codes that minimise the bound over a region or at positions
  benchmark  compare estimators with each other and the bound, and measure speed
  doctor     check an installation

  ris-jax COMMAND --help                    flags of a command, with an example
"""

import importlib
import signal
import sys
import threading

from absl import flags, logging

from ris_jax import _environment

_COMMANDS = (
    "example", "inspect", "train", "simulate", "import", "evaluate", "calibrate", "localize",
    "serve", "report", "tune", "bound", "design", "benchmark", "doctor",
)  # fmt: skip
_MODULES = {"import": "import_records"}  # modules that cannot have their command's name
# Resumable commands.
_GO_ON = ("train", "tune", "benchmark", "simulate", "import_records", "design")
_USAGE_ERROR = 2


def _complain(text: str) -> None:
    print(f"ris-jax: {' '.join(text.split())}", file=sys.stderr)


def _terminated(number: int, _: object) -> None:
    from ris_jax import errors

    raise errors.Interrupted(number)


def _prepared(module) -> int:
    """Print the first line of a command before JAX is imported; then run the command."""
    print(module.announcement(), flush=True)
    from ris_jax import compilation_cache

    if module.FLAGS.compilation_cache:
        compilation_cache.enable_compilation_cache()
    else:
        compilation_cache.disable_compilation_cache()
    if not module.COMPILES:
        return module.run()
    from ris_jax.cli import compile_progress

    with compile_progress.Observer(module.COMPILES) as compiled:
        status = module.run()
    if summary := compiled.summary():
        print(summary)
    return status


def _run(module) -> int:
    """Run a command; print user errors as one line on standard error."""
    from ris_jax import config as config_lib
    from ris_jax import errors, files

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
    except RuntimeError as error:  # includes jax.errors.JaxRuntimeError
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
    """Return the advice after an interruption."""
    goes_on = module.__name__.rpartition(".")[2] in _GO_ON
    return "; the same command resumes where it stopped" if goes_on else ""


def _out_of_memory(module, error: BaseException) -> str:
    """Return the message, with a smaller batch size as advice."""
    from ris_jax import errors

    values = module.FLAGS
    size = values.batch_size if "batch_size" in values else None
    advice = f" with --batch_size={size}: --batch_size={size // 2} needs less" if size else ""
    if size == 1:
        advice = ""
    return f"out of memory{advice}; {errors.first_line(error)}"


def _define_cache(values: flags.FlagValues) -> None:
    """Add --compilation_cache to the flags of a command, once per process."""
    if "compilation_cache" not in values:
        flags.DEFINE_bool(
            "compilation_cache", True, "keep compiled programs in the user's cache directory",
            flag_values=values,
        )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv`; return the exit status."""
    logging.set_verbosity(logging.ERROR)  # orbax logs every step
    _environment.silence_xla()
    arguments = list(sys.argv if argv is None else argv)[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else _USAGE_ERROR
    command, *rest = arguments
    if command not in _COMMANDS:
        _complain(f"unknown command {command!r}; commands: {', '.join(_COMMANDS)}")
        return _USAGE_ERROR
    module = importlib.import_module(f"ris_jax.cli.commands.{_MODULES.get(command, command)}")
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
        _complain(f"{command}: expected flags only; got {' '.join(extra)!r}")
        return _USAGE_ERROR
    return _run(module)


def console() -> None:
    """Run the command of this process: `ris-jax`, or `python -m ris_jax`."""
    _environment.collect_rarely()
    sys.exit(main())
