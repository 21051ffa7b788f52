"""Write an HTML report of a run, finished or not: errors, curves, scores, warnings.

Example:
  ris-jax report --workdir=runs/quickstart
  ris-jax report --workdir=runs/stored --data=records --out=stored.html

Writes report.html, a single offline file, into the work directory or to --out. It opens with the
overall result, the date and duration of the run, and the position errors of its best network next
to the Cramér-Rao bound, in up to 500 simulated scenes. `train` writes the page at its end, without
the position errors.

Covariance and number of sources are scored on simulated scenes of the stream `test`, or on the
split `test` of --data. Neither training nor validation uses these scenes.
"""

import pathlib
from typing import Any

from absl import flags

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.cli import common_flags, evaluation_scenes

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "directory of the run", flag_values=FLAGS)
flags.DEFINE_string("data", None, "directory of records to score on", flag_values=FLAGS)
common_flags.define_skip_damaged(FLAGS)
flags.DEFINE_integer(
    "num_scenes", 2000, "maximum number of scenes to score", lower_bound=2, flag_values=FLAGS
)
flags.DEFINE_string("out", None, "output file; default: report.html of the run", flag_values=FLAGS)


COMPILES = "about 40 s, once per network"
_NAME = "report.html"
_POSITION_SCENES = 500
_BATCH_SIZE = 64


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
    report = run_page.gather(workdir, config, on, num_scenes=FLAGS.num_scenes)
    if report.scores is not None:
        report = report._replace(positions=_position_rows(workdir, config))
    run_page.write(report, out)
    print(f"written: {out}")
    return 0


def _position_rows(workdir: pathlib.Path, config: config_lib.Config) -> list[dict[str, Any]]:
    """Localise simulated scenes with the best network of a run; return rows of their scores."""
    from ris_jax import localization
    from ris_jax.reports import localization_scores
    from ris_jax.training.saving import checkpoint

    network, _ = checkpoint.load_run(workdir)
    num_scenes = min(FLAGS.num_scenes, _POSITION_SCENES)
    case = evaluation_scenes.simulated(config, num_scenes, _BATCH_SIZE)
    with common_flags.progress(num_scenes, "localising") as progress:
        estimate = localization.localize_in_chunks(
            case.measurement,
            case.positions,
            network=network,
            chunk_size=_BATCH_SIZE,
            progress=progress,
            **case.options,
        )
    scores = localization_scores.score(
        estimate, case.truth, snr_db=case.snr_db, bound_covariance=case.bound
    )
    return localization_scores.score_rows(scores, case.snr_limits_db)
