"""Commands `train`, `evaluate` and `doctor` on one run; examples of --help."""

import base64
import csv
import importlib
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from ris_jax import config as config_lib
from ris_jax import config_files
from ris_jax.accuracy import metrics
from ris_jax.cli import doctor_checks, main
from ris_jax.cli.commands import doctor
from ris_jax.data.recordings import containers, surface_calibration
from ris_jax.data.records import simulation
from ris_jax.networks import pretrained
from ris_jax.physics import arrays, codebooks, scenes
from ris_jax.training import evaluation, profiling

SMALL = (
    "system.rows=4", "system.columns=4", "system.num_antennas=4", "system.num_snapshots=6",
    "scene.max_sources=2", "model.width=16", "model.depth=1", "model.num_heads=2",
    "training.validation_scenes=20",
)  # fmt: skip
SETTINGS = [f"--set={setting}" for setting in SMALL]
# Sizes of all runs here: one configuration, so that its step compiles once.
SIZES = ["--epochs=2", "--steps_per_epoch=30", "--batch_size=16"]
CONFIG = config_lib.override(
    config_lib.Config(), {name: int(x) for name, x in (text.split("=") for text in SMALL)}
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Return the directory of a finished run of two short epochs."""
    folder = tmp_path_factory.mktemp("run") / "small"
    command = ["ris-jax", "train", f"--workdir={folder}", *SIZES, *SETTINGS]
    assert main.main(command) == 0
    return folder


def test_train_draws_its_loss_curves(workdir):
    assert (workdir / "figures" / "loss.png").stat().st_size > 10_000


def _embedded(text):
    """Return the images of a page by their alternative text."""
    pictures = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', text)
    return {shows: base64.b64decode(data) for shows, data in pictures}


def test_train_ends_with_a_page(workdir):
    text = (workdir / "report.html").read_text()
    pictures = _embedded(text)
    assert len(pictures) == 5
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    for part in (
        "Finished: all 2 epochs.",
        "On 512 simulated scenes of the stream &#x27;test&#x27;, the covariance NMSE is",
        f"ris-jax report --workdir={workdir} adds them",
        "<td>model.width</td><td>16</td><td>64</td>",  # here, and in the nearest preset
        "<td>K = 2</td>",
        "(in use)",
        f"ris-jax localize --data=recordings.npz --out=positions.csv --workdir={workdir}",
    ):
        assert part in text
    assert "Warnings" not in text


@pytest.mark.full
def test_train_profile(tmp_path):
    """The page says where the time went, and the trace is kept."""
    workdir = tmp_path / "small"
    command = ["ris-jax", "train", f"--workdir={workdir}", "--profile", *SIZES, *SETTINGS]
    assert main.main(command) == 0
    assert "Where the time went" in (workdir / "report.html").read_text()
    found = profiling.read(workdir)
    assert found is not None
    calls = {part.name: part.calls for part in found.parts}
    assert calls == {
        "drawing scenes": 30, "forward, backward and optimizer": 30,
        "host: rows, events, lines": 2, "evaluation": 1, "figures": 1, "checkpoint": 1,
    }  # fmt: skip
    assert found.step_flops > 0
    assert found.argument_bytes > 0
    # The trace contains the steps and the names of the longest operations.
    assert any(name.startswith("jit__microbatch: ") for name, _ in found.operations)
    assert 0.0 < sum(share for _, share in found.operations) <= 1.0
    assert list(workdir.glob("profile/plugins/profile/*/perfetto_trace.json.gz"))


def test_report_opens_with_position_errors(workdir, calls, tmp_path):
    """The estimator is replaced by one that finds the few sources near boresight."""
    page = tmp_path / "page.html"
    flags = [f"--workdir={workdir}", f"--out={page}", "--num_scenes=200"]
    assert main.main(["ris-jax", "report", *flags]) == 0
    assert calls[0]["network"].config.model.width == 16
    text = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    opening = text[text.index("<h2>Result") : text.index("<h2>Configuration")]
    for part in (
        "Finished: all 2 epochs. On 200 simulated test scenes, ",
        "; median errors: azimuth ",
        "Started ",
        "; duration without pauses 0:0",
        "median of an efficient estimator (from the bound)",
        "<th>azimuth [deg]</th>",
    ):
        assert part in opening, part
    assert re.search(r"<td>[\d.]+ / [\d.]+</td>", opening)


def test_report_of_a_run_with_problems(workdir, tmp_path, capsys):
    """The run is resumed and unfinished, with a skipped microbatch, damage and an HTML name."""
    copy = shutil.copytree(workdir, tmp_path / "<b>&'run'")
    rows = (copy / "metrics.jsonl").read_text().splitlines()
    kept = [row for row in rows if '"epoch": 2' not in row]
    kept = [row.replace('"skipped": 0', '"skipped": 3') for row in kept]
    (copy / "metrics.jsonl").write_text("\n".join(kept))
    with (copy / "run.log").open("a") as log:
        log.write("2026-01-01T00:00:00+00:00 started after epoch 1\nnonsense\n")
        log.write("2026-01-01T00:00:01+00:00 warning: <i>the disk</i> is slow\n")
    for manifest in (copy / "checkpoints").glob("*.sha256.json"):
        manifest.unlink()
    assert main.main(["ris-jax", "report", f"--workdir={copy}"]) == 0
    first, written, *_ = capsys.readouterr().out.splitlines()  # and possibly the compile time
    assert first == f"reporting on the run in {copy}"
    assert written == f"written: {copy / 'report.html'}"
    text = (copy / "report.html").read_text()
    for part in (
        "ris_jax run &lt;b&gt;&amp;&#x27;run&#x27;",
        "Not finished: 1 of 2 epochs.",
        "3 of 30 microbatches were non-finite and were skipped.",
        "Resumed 1 times, after epochs 1.",
        "2026-01-01T00:00:01+00:00: warning: &lt;i&gt;the disk&lt;/i&gt; is slow",
        "no usable checkpoint in",
        "writing it was interrupted",
        "There is no network to score yet.",
    ):
        assert part in text, part
    assert len(_embedded(text)) == 1  # the curves
    assert "Where the time went" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir: need the directory of a run"),
        (["--workdir=/nonexistent"], "--workdir: need a directory that exists; got /nonexistent"),
        (["--workdir=/"], "no run in /"),
        (["--workdir=/", "--out=/none/x.html"], "--out: need a directory that exists; got /none"),
        (["--workdir=/", "--num_scenes=1"], "num_scenes"),
    ],
)
def test_report_refuses(arguments, message, capsys):
    assert main.main(["ris-jax", "report", *arguments]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_evaluate(workdir, capsys):
    assert main.main(["ris-jax", "evaluate", f"--workdir={workdir}", "--num_scenes=50"]) == 0
    printed = capsys.readouterr().out
    assert "variance of outputs over variance of truth" in printed
    assert "expected calibration error of the number of sources" in printed
    with (workdir / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["scenes"] == "50"
    by_count = [row for row in rows if row["scenes of"].startswith("K =")]
    by_snr = [row for row in rows if row["scenes of"].endswith("dB")]
    assert sum(int(row["scenes"]) for row in by_count) == 50
    assert sum(int(row["scenes"]) for row in by_snr) == 50
    assert (workdir / "evaluation.tex").exists()
    assert (workdir / "figures" / "covariance_scores.png").exists()


def test_evaluate_out_of_memory_names_the_batch_size(workdir, capsys, monkeypatch):
    def no_room(*_):
        jnp.ones(1 << 43).block_until_ready()  # 32 TB

    monkeypatch.setattr(evaluation, "evaluate", no_room)
    for flags, advice in (
        ([], "with --batch_size=16: --batch_size=8 needs less"),
        (["--batch_size=4"], "with --batch_size=4: --batch_size=2 needs less"),
    ):
        command = ["ris-jax", "evaluate", f"--workdir={workdir}", "--num_scenes=4", *flags]
        assert main.main(command) == 1
        assert advice in capsys.readouterr().err


@pytest.mark.full
def test_evaluate_an_estimator_with_the_network(workdir, tmp_path, capsys):
    """The scenes are those of the training, scored with and without the network."""
    sizes = ["--num_scenes=12", "--batch_size=12", f"--out={tmp_path}"]
    command = ["ris-jax", "evaluate", "--estimator=network", f"--workdir={workdir}"]
    assert main.main([*command, *sizes, *SETTINGS]) == 0
    printed = capsys.readouterr().out
    assert f"network with {workdir}, 12 scenes of the stream 'test'" in printed
    with (tmp_path / "evaluation_network.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["scenes_of"], rows[0]["scenes"]) == ("all", "12")
    assert (tmp_path / "figures" / "network_scene_map.png").exists()


def _scores(folder):
    with (folder / "evaluation.csv").open() as file:
        return next(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(workdir):
    """Return the scores of the first four scenes of the stream `test`."""
    assert main.main(["ris-jax", "evaluate", f"--workdir={workdir}", "--num_scenes=4"]) == 0
    return _scores(workdir)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Write the same scenes to disk."""
    folder = tmp_path_factory.mktemp("out") / "records"
    counts = {"train": 16, "test": 4}
    simulation.simulate(CONFIG, folder, counts, shard_scenes=8)
    return folder


def test_evaluate_on_records(workdir, drawn, records, capsys):
    flags = [f"--workdir={workdir}", f"--data={records}"]
    assert main.main(["ris-jax", "evaluate", *flags]) == 0
    assert f"4 scenes of {records}" in capsys.readouterr().out
    stored = _scores(workdir)
    for name in ("scenes", "network", "effective", "snapshots", "count right"):
        assert float(stored[name]) == pytest.approx(float(drawn[name]), rel=1e-3)
    # The constant is from the sixteen stored training scenes, not from the stream.
    assert stored["constant"] != drawn["constant"]


def test_evaluate_on_records_of_another_count(workdir, tmp_path, capsys):
    more = config_lib.override(CONFIG, {"scene.max_sources": 3})
    simulation.simulate(more, tmp_path / "records", {"test": 2}, shard_scenes=2)
    flags = [f"--workdir={workdir}", f"--data={tmp_path / 'records'}"]
    assert main.main(["ris-jax", "evaluate", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data: need 2 source places per scene" in line
    assert "got 3 in" in line


@pytest.mark.full
def test_evaluate_on_recordings(workdir, drawn, recordings, capsys):
    """Scores are nearly equal: the noise variance follows from the SNR and 24 samples."""
    assert main.main(["ris-jax", "evaluate", f"--workdir={workdir}", f"--data={recordings}"]) == 0
    found = _scores(workdir)
    assert found["scenes"] == "4"
    assert float(found["snapshots"]) == pytest.approx(float(drawn["snapshots"]), rel=0.05)
    assert float(found["network"]) == pytest.approx(float(drawn["network"]), rel=0.5)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Write scenes of the run's system, with truth."""
    draw = jax.jit(lambda key: scenes.sample_scenes(key, CONFIG, 4))
    batch = jax.device_get(draw(scenes.stream_key(0, "test")))
    path = tmp_path_factory.mktemp("data") / "recordings.npz"
    recorded = {
        "snapshots": batch.measurement.snapshots,
        "channel": batch.measurement.channel,
        "codes": batch.measurement.codes,
        "wavelength": CONFIG.system.wavelength,
        "element_positions": np.asarray(arrays.element_positions(CONFIG.system)),
        "snr_db": batch.truth.snr_db,
    }
    truth = {name: getattr(batch.truth, name) for name in metrics.Sources._fields}
    containers.save(path, recorded | truth)
    return path


def _localize(recordings, out, *arguments):
    flags = [f"--data={recordings}", f"--out={out}", "--max_sources=2", *arguments]
    return main.main(["ris-jax", "localize", *flags])


@pytest.mark.full
@pytest.mark.parametrize("estimator", ["auto", "music"])
def test_localize_with_a_run(workdir, recordings, tmp_path, capsys, estimator):
    out = tmp_path / "positions.json"
    assert _localize(recordings, out, f"--workdir={workdir}", f"--estimator={estimator}") == 0
    assert "against the truth" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["network"], found["estimator"]) == (str(workdir), estimator)
    assert len(found["scenes"]) == 4
    sources = [source for scene in found["scenes"] for source in scene["sources"]]
    assert sources
    assert all(abs(source["azimuth_deg"]) < 90 for source in sources)


def _refused(capsys, out, *parts):
    printed, err = capsys.readouterr()
    assert len(printed.splitlines()) <= 1  # the first line, which comes before JAX
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert not out.exists()


@pytest.mark.full
def test_other_signals_use_the_grid_search(workdir, recordings, tmp_path, capsys):
    out = tmp_path / "positions.csv"
    assert _localize(recordings, out, f"--workdir={workdir}", "--source_signal=independent") == 0
    assert "\nnetwork_not_used, 4 of 4 scenes: the network was" in capsys.readouterr().out
    with out.open() as file:
        assert all("network_not_used" in row["flags"] for row in csv.DictReader(file))


@pytest.mark.parametrize("flag", ["azimuth_max_deg", "elevation_max_deg", "range_min"])
def test_field_of_view_of_a_network(workdir, recordings, tmp_path, capsys, flag):
    out = tmp_path / "positions.csv"
    assert _localize(recordings, out, f"--workdir={workdir}", f"--{flag}=20") != 0
    _refused(capsys, out, f"--{flag}: not allowed with a network")


def test_field_of_view_of_a_shipped_network(recordings, tmp_path, capsys):
    shipped = pretrained.names()
    if not shipped:
        pytest.skip("no network comes with this copy of the package")
    out = tmp_path / "positions.csv"
    for name in shipped:
        assert _localize(recordings, out, f"--pretrained={name}", "--range_min=1") != 0
        _refused(capsys, out, "--range_min: not allowed with a network")


def test_a_damaged_run_is_reported(workdir, recordings, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for manifest in (copy / "checkpoints").glob("*.sha256.json"):
        manifest.unlink()
    out = tmp_path / "positions.csv"
    assert _localize(recordings, out, f"--workdir={copy}") != 0
    _refused(capsys, out, "checkpoint")


@pytest.mark.full
def test_doctor_checks_a_run(workdir, tmp_path):
    findings = list(doctor_checks.run(workdir))
    assert [name for name, *_ in findings] == ["checkpoints are intact", "beats the best constant"]
    assert findings[0][1]
    (failed,) = doctor._guarded("run", lambda: doctor_checks.run(tmp_path))
    assert not failed[1]
    assert "no run in" in failed[2]


def test_doctor_reports_missing_rows(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "metrics.jsonl").unlink()
    assert [holds for _, holds, _ in doctor_checks.run(copy)] == [True, False]


@pytest.mark.full
def test_overflowing_rate_ends_the_run_and_saves_nothing_bad(tmp_path, capsys):
    """Gradients are finite, the update is not: no checkpoint may contain it."""
    settings = [f"--set={setting}" for setting in (*SMALL, "optimizer.method=adamw")]
    sizes = ["--epochs=2", "--steps_per_epoch=4", "--batch_size=16", "--learning_rate=1e30"]
    assert main.main(["ris-jax", "train", f"--workdir={tmp_path}", *sizes, *settings]) == 1
    assert "the learning rate is too high" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").glob("*.json"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "microbatch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "--workdir: need the directory of a run"),
        (["evaluate", "--estimator=esprit"], "estimator: need one of auto, maximum_likelihood"),
        (["evaluate", "--pretrained=default", "--workdir=x"], "both given"),
        (["evaluate", "--pretrained=x"], "pretrained: need one of"),
        (["evaluate", "--workdir=x", "--seed=3"], "--seed: goes with --estimator"),
        (["evaluate", "--workdir=/nonexistent"], "no run in /nonexistent"),
        (["evaluate", "--estimator=network", "--pretrained=x"], "pretrained: need one of"),
        (["evaluate", "--estimator=network", "--workdir=/none"], "no run in /none"),
    ],
)
def test_evaluate_refuses(arguments, message, capsys):
    assert main.main(["ris-jax", *arguments]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


# Flags that make the examples of a command small; the last of two equal flags counts.
_TARGET = ["--num_positions=4", "--steps=8", "--starts=1", "--most_codes=16", "--most_antennas=4"]
_SMALLER = {
    "example": ["--num_scenes=2"],
    "inspect": [],
    "bound": ["--grid=6", "--num_channels=1"],
    "design": ["--num_positions=4", "--steps=8", "--sweeps=1"],
    "simulate": ["--num_train=32", "--num_val=8", "--num_test=8", *SETTINGS[:5]],
    "import": [],
    "train": [*SIZES, *SETTINGS, "--dropout=0", "--nofigures"],
    "evaluate": ["--num_scenes=4", "--batch_size=4", *SETTINGS[:5]],
    "calibrate": [],
    "localize": ["--max_sources=2"],
    "report": ["--num_scenes=8"],
    "tune": ["--trials=1", "--space=space.json", *SETTINGS, *(
        f"--set=training.{size.removeprefix('--')}" for size in SIZES
    )],
}  # fmt: skip
_NETWORK_ALONE = ["--num_scenes=50"]  # of `evaluate`, without other size flags
# Examples that need more than this process, and the tests that run them.
_ELSEWHERE = {
    "simulate --out=wideband.npz --num_test=8 --frequencies=0.9e9:1.1e9:9":
        "tests/wideband_localization_test.py",
    "localize --data=wideband.npz --out=positions.csv --coherence=coherent":
        "tests/wideband_localization_test.py",
    "bound --out=bound --frequencies=0.9e9:1.1e9:21 --coherence=coherent --at=20,10,5":
        "tests/wideband_localization_test.py",
    "evaluate --estimator=maximum_likelihood --frequencies=0.9e9:1.1e9:9 --coherence=coherent":
        "tests/wideband_localization_test.py",
    "design --out=codes --frequencies=0.9e9:1.1e9:9 --coherence=coherent --num_positions=64":
        "tests/wideband_localization_test.py",
    "train --workdir=runs/wide --distributed": "tests/training/processes/devices_test.py",
    "train --workdir=runs/wide --coordinator=host0:5000 --num_processes=2 --process_id=0":
        "tests/training/processes/devices_test.py",
    "tune --workdir=runs/tune --storage=postgresql://user:password@host/database":
        "tests/tuning/processes_test.py",
    "benchmark --suite=all --num_scenes=200 --out=benchmark":
        "tests/cli/commands/benchmark_test.py",
    "benchmark --suite=two_sources,snr --num_scenes=500 --estimators=network,music --out=few":
        "tests/cli/commands/benchmark_test.py",
    "serve --channel=recordings.npz": "tests/cli/commands/serve_test.py",
    "serve --channel=recordings.npz --calibration=surface.npz --port=8080 --static_path=on":
        "tests/cli/commands/serve_test.py",
    "doctor": ".ci/run",
    "doctor --thorough --workdir=runs/quickstart": ".ci/run",
}  # fmt: skip


def _module(command):
    return importlib.import_module(f"ris_jax.cli.commands.{main._MODULES.get(command, command)}")


def _examples():
    """Return the command lines of all --help texts, without `ris-jax` and comments, once each."""
    pattern = re.compile(r"^  ris-jax (.*?)(?: {2,}\(.*)?$", re.MULTILINE)
    texts = [_module(command).__doc__ for command in main._COMMANDS]
    return list(dict.fromkeys(line for text in texts for line in pattern.findall(text)))


_EXAMPLES = _examples()


@pytest.fixture(scope="module")
def given(workdir, recordings, tmp_path_factory):
    """Write all files that examples read: recordings, shards, records, a configuration, a run."""
    folder = tmp_path_factory.mktemp("given")
    shutil.copy(recordings, folder / "recordings.npz")
    with np.load(recordings) as arrays_of:
        containers.save(folder / "recordings.h5", dict(arrays_of))
    assert main.main(["ris-jax", "example", f"--out={folder / 'example.npz'}"]) == 0
    with np.load(folder / "example.npz") as arrays_of:
        scipy.io.savemat(folder / "recordings.mat", dict(arrays_of))
    known = folder / "known_positions.npz"
    assert main.main(["ris-jax", "example", f"--out={known}", "--num_scenes=24"]) == 0
    shutil.copy(known, folder / "anything.npz")
    with np.load(known) as arrays_of:
        binary = np.where(arrays_of["codes"].real < 0, -1.0, 1.0)
        containers.save(folder / "one_bit.npz", dict(arrays_of) | {"codes": binary})
    elements = CONFIG.system.num_elements
    surface = surface_calibration.SurfaceCalibration(np.ones(elements) + 0j, np.zeros(elements))
    surface_calibration.save_calibration(folder / "surface.npz", surface)
    (folder / "codes").mkdir()
    np.savez(folder / "codes" / "codes_3bit.npz", codes=codebooks.codebook(CONFIG.system))
    normal = np.random.default_rng(0).normal
    (folder / "shards").mkdir()
    np.savez(
        folder / "shards" / "shard_000.npz",
        y=normal(size=(8, 6, 4, 2)),
        H_full=normal(size=(8, 4, 144, 2)),
        codes=normal(size=(8, 6, 144, 2)),
        ptr=np.full((8, 6), 0.5),
        K=np.ones(8, int),
        snr=np.zeros(8),
    )
    sizes = _SMALLER["simulate"]
    of_five = [size for size in sizes if "max_sources" not in size]  # as the shipped networks need
    for name, flags in (("records", sizes), ("records_of_five", of_five)):
        assert main.main(["ris-jax", "simulate", f"--out={folder / name}", *flags]) == 0
    (folder / "runs" / "tune").mkdir(parents=True)
    config = config_files.read(workdir / "config.json")
    (folder / "runs" / "tune" / "best.json").write_text(config_files.text(config))
    for name in ("quickstart", "stored"):
        (folder / "runs" / name).symlink_to(workdir)
    (folder / "space.json").write_text('{"model.depth": {"choices": [1]}}')
    return folder


@pytest.mark.full
@pytest.mark.parametrize("example", [text for text in _EXAMPLES if text not in _ELSEWHERE])
def test_example_of_help(example, given, tmp_path, monkeypatch):
    """The directory has the example's inputs, and no outputs."""
    command, *flags = example.split()
    writes = {"train": ("runs/quickstart", "runs/stored"), "tune": ("runs/tune/best.json",)}.get(
        command, ()
    )
    for name in (
        "recordings.npz", "recordings.h5", "recordings.mat", "known_positions.npz", "one_bit.npz",
        "anything.npz", "surface.npz", "codes", "shards", "records",
        "space.json", "runs/quickstart", "runs/stored", "runs/tune/best.json",
    ):  # fmt: skip
        if name not in writes and f"--out={name}" not in flags:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            of_five = name == "records" and "--pretrained" in example
            (tmp_path / name).symlink_to(given / ("records_of_five" if of_five else name))
    monkeypatch.chdir(tmp_path)
    learned = [("32 scenes are learned", True, "`doctor` runs in .ci/run")]
    monkeypatch.setattr(doctor_checks, "learning", lambda config: iter(learned))
    alone = command == "evaluate" and "--estimator" not in example
    smaller = _NETWORK_ALONE if alone else _SMALLER[command]
    if "--target_m" in example:  # it rejects --sweeps
        smaller = _TARGET
    if command == "bound" and "--data" not in example:
        smaller = [*smaller, *SETTINGS[:4]]
    assert main.main(["ris-jax", command, *flags, *smaller]) == 0
    for flag, _, value in (word.partition("=") for word in flags):
        if flag in ("--out", "--workdir", "--figure"):
            assert pathlib.Path(value).exists()


@pytest.mark.parametrize(("example", "where"), _ELSEWHERE.items())
def test_flags_of_examples_that_run_elsewhere(example, where):
    """Only the flags are parsed here."""
    assert example in _EXAMPLES
    assert (pathlib.Path(__file__).parents[2] / where).exists()
    command, *flags = example.split()
    _module(command).FLAGS.unparse_flags()
    assert _module(command).FLAGS([command, *flags])[1:] == []
