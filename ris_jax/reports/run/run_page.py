"""Report page of a run, finished or not: configuration, scores and commands."""

import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ris_jax import config as config_lib
from ris_jax import errors, presets
from ris_jax.data.records import record_dataset
from ris_jax.networks import architectures
from ris_jax.reports import localization_figures, localization_scores, provenance, tables
from ris_jax.reports.run import (
    covariance_scores,
    html_page,
    profile_table,
    run_figures,
    run_times,
    training_curves,
)
from ris_jax.training import evaluation, sources
from ris_jax.training import state as state_lib
from ris_jax.training.processes import devices, distributed
from ris_jax.training.saving import checkpoint, metrics_log

NAME = "report.html"
_TEST = "test"  # the stream or split that neither training nor validation uses
_NUM_SCENES = 512


class HeldOut(NamedTuple):
    """Scenes that neither training nor validation uses, and the devices to score them on."""

    source: sources.Source
    split: str  # of the source
    words: str  # description
    placement: devices.DevicePlacement


def held_out(
    config: config_lib.Config,
    dataset: record_dataset.Dataset | None,
    placement: devices.DevicePlacement,
) -> HeldOut:
    """Select the scenes that a run is scored on: simulated scenes, or records.

    Args:
      config: the run.
      dataset: records; without a test split, the validation split is used.
      placement: the devices; all processes of a run must share them.

    Raises:
      ConfigError: the records are of another system.
    """
    if dataset is None:
        simulated = sources.Simulated(config, placement)
        return HeldOut(simulated, _TEST, f"simulated scenes of the stream {_TEST!r}", placement)
    stored = sources.Stored(config, dataset, placement)
    split = _TEST if _TEST in dataset.splits else evaluation.validation_stream(config)
    return HeldOut(stored, split, f"stored scenes of the split {split!r}", placement)


class NetworkScores(NamedTuple):
    """Scores of the kept network on unseen scenes."""

    epoch: int
    scored: covariance_scores.Scored
    scenes: str  # description
    drawn: Mapping[str, bytes]  # PNG by name


class Report(NamedTuple):
    """Contents of the page."""

    workdir: pathlib.Path
    config: config_lib.Config
    rows: list[dict[str, Any]]  # of metrics.jsonl
    log: list[metrics_log.LogLine]
    checkpoints: list[checkpoint.Entry]
    scores: NetworkScores | None  # None: `problems` has the reason
    problems: list[str]
    positions: Sequence[dict[str, Any]] = ()  # of `localization_scores.score_rows`, if scored


def gather(
    workdir: pathlib.Path,
    config: config_lib.Config,
    on: HeldOut,
    *,
    num_scenes: int = _NUM_SCENES,
) -> Report:
    """Read a run and score its best network; every process of a run must call this function.

    Args:
      workdir: the run's directory.
      config: the run's.
      on: the scenes to score on, at most `num_scenes` of them.
      num_scenes: 2 or more.
    """
    scores, entries = None, []
    try:
        kept = checkpoint.Checkpoints(workdir, config.training.keep_checkpoints, read_only=True)
        entries = kept.inventory()
        restored, problems = kept.restore_best(state_lib.create_train_state(config, on.placement))
    except errors.RunError as error:  # no checkpoint yet, or no longer: report the rest
        problems = [str(error)]
    else:
        scores = _score(restored, on, num_scenes)
        problems += _other_scenes(restored, on)
    rows, log = metrics_log.read_rows(workdir), metrics_log.read_log(workdir)
    return Report(workdir, config, rows, log, entries, scores, problems)


def _score(restored: checkpoint.Restored, on: HeldOut, num_scenes: int) -> NetworkScores:
    config, heldout = restored.state.config, on.source.heldout(on.split, num_scenes)
    scene = run_figures.shown(config, heldout)
    scored = covariance_scores.score(restored.state, heldout, on.source.constant())
    drawn = {}
    if distributed.is_first():
        drawn = run_figures.draw(config, scored.result, scene)
        drawn["bars"] = training_curves.covariance_score_bars(scored.rows)
    pictures = {name: localization_figures.png(drawn[name]) for name in drawn}
    return NetworkScores(restored.epoch, scored, f"{heldout.num_scenes} {on.words}", pictures)


def _other_scenes(restored: checkpoint.Restored, on: HeldOut) -> list[str]:
    """Warn if a run on records is scored on other scenes, or the reverse."""
    ours, theirs = on.source.position(), restored.progress["data"]
    if (ours or {}).get("identity") == (theirs or {}).get("identity"):
        return []
    trained = "simulated scenes" if theirs is None else f"records {theirs['identity'][:12]}"
    return [f"trained on {trained}, but scored on other scenes; give the records with --data"]


def write(report: Report, path: pathlib.Path) -> None:
    """Write the page atomically."""
    provenance.write_whole(path, render(report))


def render(report: Report) -> str:
    """Return the page as HTML."""
    name = report.workdir.resolve().name
    return html_page.render(
        f"ris_jax run {name}",
        [
            ("Result", _opening(report)),
            ("Warnings", _warnings(report)),
            ("Configuration", _configuration(report.config)),
            ("Training", _curves(report)),
            ("Covariance", _scores(report)),
            ("One scene", _pictures(report, "spectra", "map")),
            ("Calibration of the number of sources", _pictures(report, "calibration")),
            ("Checkpoints", _checkpoints(report)),
            ("Where the time went", profile_table.as_html(report.workdir)),
            ("Use it", _commands(report.workdir)),
            ("Made with", _made_with(report.config)),
        ],
    )


def _epochs(report: Report) -> list[dict[str, Any]]:
    return [row for row in report.rows if row["kind"] == "epoch"]


def _state_of(report: Report) -> str:
    """Describe the progress of the run."""
    training, epochs = report.config.training, _epochs(report)
    done = epochs[-1]["epoch"] if epochs else 0
    if done == training.epochs:
        return f"Finished: all {done} epochs."
    finite = [(row["val_nmse"], row["epoch"]) for row in epochs if row["val_nmse"] is not None]
    best = min(finite)[1] if finite else 0
    if 0 < training.early_stopping_epochs <= done - best:
        return f"Stopped early after epoch {done} of {training.epochs}: epoch {best} was the best."
    return f"Not finished: {done} of {training.epochs} epochs."


def _opening(report: Report) -> str:
    """Return the overall result, date and duration, and the position errors next to the bound."""
    lines = [f"{_state_of(report)} {_overall(report)}".rstrip(), run_times.described(report.log)]
    opening = html_page.listed(line for line in lines if line)
    if report.positions:
        header, rows = localization_scores.summary_table(report.positions)
        title = html_page.paragraph(f"Position errors: {localization_scores.SUMMARY_TITLE}.")
        opening += title + html_page.table(header, rows)
    elif report.scores is not None:
        folder = shlex.quote(str(report.workdir))
        opening += html_page.paragraph(
            f"Position errors next to the bound: ris-jax report --workdir={folder} adds them."
        )
    return opening


def _overall(report: Report) -> str:
    """Return the overall result in one sentence; empty without a network to score."""
    if report.positions:
        whole = report.positions[0]
        errors = [
            f"{name} {tables.significant(whole[f'{name}_median_{unit}'])} {unit}"
            for name, unit, _ in localization_scores.PARAMETERS
            if math.isfinite(whole[f"{name}_median_{unit}"])
        ]
        found, right = (tables.percent(whole[name]) for name in ("detected", "count_right"))
        return (
            f"On {whole['scenes']} simulated test scenes, {found} of the sources are found, and "
            f"the number of sources is correct in {right} of scenes; median errors: "
            f"{', '.join(errors) or 'unknown'}."
        )
    if report.scores is None:
        return ""
    row = _whole(report.scores)
    return (
        f"On {report.scores.scenes}, the covariance NMSE is {row['network']:.4f}, and the number "
        f"of sources is correct in {row['count right']:.1%} of scenes."
    )


def _whole(scores: NetworkScores) -> dict[str, Any]:
    """Return the covariance scores of all scenes by name."""
    return dict(zip(covariance_scores.HEADER, scores.scored.rows[0], strict=True))


def _warnings(report: Report) -> str:
    """List the problems of the run; empty if there are none."""
    found = list(report.problems)
    if skipped := sum(row["skipped"] for row in _epochs(report)):
        total = sum(row["microbatches"] for row in _epochs(report))
        found.append(f"{skipped} of {total} microbatches were non-finite and were skipped.")
    begun = metrics_log.starts(report.log)
    if len(begun) > 1:
        after = ", ".join(str(epochs) for epochs in begun[1:])
        found.append(f"Resumed {len(begun) - 1} times, after epochs {after}.")
    found += [f"{line.when}: {line.text}" for line in metrics_log.warnings(report.log)]
    found += [
        f"Checkpoint of epoch {e.epoch}: {e.problem}" for e in report.checkpoints if e.problem
    ]
    return html_page.listed(found, "warning")


def nearest_preset(config: config_lib.Config) -> str:
    """Return the name of the preset that differs in the fewest fields."""
    return min(
        presets.NAMES,
        key=lambda name: len(config_lib.difference(config, presets.preset(name))),
    )


def _configuration(config: config_lib.Config) -> str:
    """List the differences from the nearest preset."""
    name = nearest_preset(config)
    here, there = (
        config_lib.flatten(config_lib.to_dict(c)) for c in (config, presets.preset(name))
    )
    changed = [(k, repr(here[k]), repr(there[k])) for k in here if here[k] != there[k]]
    first = html_page.paragraph(f"Preset {name!r}, unchanged.")
    if changed:
        first = html_page.paragraph(f"Nearest preset {name!r}, with these changes:")
        first += html_page.table(("field", "here", "preset"), changed)
    return first


def _made_with(config: config_lib.Config) -> str:
    """Return machine, versions and every field of the configuration."""
    fields = config_lib.flatten(config_lib.to_dict(config))
    everything = html_page.table(("field", "value"), [(k, repr(v)) for k, v in fields.items()])
    header = html_page.preformatted(provenance.header(config))
    return header + html_page.folded("the whole configuration", everything)


def _curves(report: Report) -> str:
    if not _epochs(report):
        return html_page.paragraph("No epoch is complete yet.")
    curves = localization_figures.png(training_curves.loss_curves(report.rows))
    return html_page.image(curves, "loss and NMSE of training and held-out scenes by epoch")


def _scores(report: Report) -> str:
    if report.scores is None:
        return html_page.paragraph("There is no network to score yet.")
    scored, whole = report.scores.scored, _whole(report.scores)
    about = html_page.paragraph(
        f"The network of epoch {report.scores.epoch} on {report.scores.scenes}: NMSE "
        f"{whole['network']:.4f} ± {whole['std. error']:.4f} (snapshots alone "
        f"{whole['snapshots']:.3f}, best constant {whole['constant']:.3f}), number of sources "
        f"correct in {whole['count right']:.1%} of scenes, expected calibration error "
        f"{scored.calibration_error:.3f}, variance of outputs over variance of truth "
        f"{scored.result.output_variance_ratio:.2f}. NMSE is that of "
        f"{architectures.of(report.config).scored} at trace N; count right is a fraction of scenes."
    )
    rows = scored.rows
    return about + html_page.table(covariance_scores.HEADER, rows) + _pictures(report, "bars")


_SHOWS = {
    "bars": "NMSE of network, snapshots and best constant by number of sources and SNR",
    "spectra": "MUSIC spectra of the network's, the true and the snapshots' covariance",
    "map": "true sources and sources found by the network, from above and from the surface",
    "calibration": "fraction of scenes with the correct number of sources, by confidence",
}


def _pictures(report: Report, *names: str) -> str:
    drawn = {} if report.scores is None else report.scores.drawn
    return "".join(html_page.image(drawn[name], _SHOWS[name]) for name in names if name in drawn)


def _checkpoints(report: Report) -> str:
    if not report.checkpoints:
        return ""
    kept = None if report.scores is None else report.scores.epoch
    rows = [
        (
            str(entry.epoch) + " (in use)" * (entry.epoch == kept),
            entry.val_nmse if math.isfinite(entry.val_nmse) else None,
            entry.problem or "whole",
        )
        for entry in report.checkpoints
    ]
    return html_page.table(("epoch", "val_nmse", "files"), rows)


def _commands(workdir: pathlib.Path) -> str:
    folder = f"--workdir={shlex.quote(str(workdir))}"
    return html_page.preformatted(
        f"ris-jax localize --data=recordings.npz --out=positions.csv {folder}\n"
        f"ris-jax evaluate {folder}                       # covariances and counts\n"
        f"ris-jax evaluate {folder} --estimator=network   # positions, against the bound\n"
        f"ris-jax report {folder}                         # this page again\n"
        f"tensorboard --logdir={shlex.quote(str(workdir / 'tensorboard'))}"
    )
