"""Write an HTML report of a run, finished or not: configuration, curves, scores, warnings.

Example:
  ris-jax report --workdir=runs/quickstart
  ris-jax report --workdir=runs/stored --data=records --out=stored.html

Writes report.html, a single offline file, into the work directory or to --out. `train` writes the
same page at its end. The best network is scored on simulated scenes of the stream `test`, or on the
split `test` of --data; neither training nor validation uses these.
"""

import pathlib

from absl import flags

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.cli import common_flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "directory of the run", flag_values=FLAGS)
flags.DEFINE_string("data", None, "directory of records to score on", flag_values=FLAGS)
common_flags.define_skip_damaged(FLAGS)
flags.DEFINE_integer(
    "num_scenes", 2000, "maximum number of scenes to score", lower_bound=2, flag_values=FLAGS
)
flags.DEFINE_string("out", None, "output file; default: report.html of the run", flag_values=FLAGS)


COMPILES = "about 15 s, once per network"
_NAME = "report.html"


def _out() -> pathlib.Path:
    return pathlib.Path(FLAGS.out or pathlib.Path(FLAGS.workdir) / _NAME)


def announcement() -> str:
    """Check the flags that need no JAX; return the first line to print."""
    if not FLAGS.workdir:
        raise config_lib.ConfigError("--workdir: need the directory of a run, none given")
    common_flags.require_data(FLAGS)
    from ris_jax.reports import provenance

    provenance.require_folder("--out" if FLAGS.out else "--workdir", _out())
    return f"reporting on the run in {FLAGS.workdir}"


def run() -> int:
    """Run the command; return the exit status."""
    workdir, out = pathlib.Path(FLAGS.workdir), _out()
    from ris_jax.reports.run import run_page
    from ris_jax.training.processes import devices
    from ris_jax.training.saving import checkpoint

    config = checkpoint.load_config(workdir)
    if config is None:
        raise errors.RunError(f"no run in {workdir}: config.json is missing")
    dataset = common_flags.dataset(FLAGS) if FLAGS.data else None
    on = run_page.held_out(config, dataset, devices.one_device())
    run_page.write(run_page.gather(workdir, config, on, num_scenes=FLAGS.num_scenes), out)
    print(f"written: {out}")
    return 0
