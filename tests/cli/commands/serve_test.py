"""Command `serve`: flags, noise level, errors, and a complete run."""

import importlib.util
import json
import re
import signal
import urllib.error
import urllib.request

import live_server
import numpy as np
import pytest
from serving import surfaces

from ris_jax import _environment
from ris_jax.cli import main
from ris_jax.cli.commands import serve
from ris_jax.data.recordings import containers
from ris_jax.serving import service

MEASUREMENT, TRUTH, POSITIONS = surfaces.simulated()


def _write(path, **changes):
    arrays = {
        "snapshots": MEASUREMENT.snapshots,
        "channel": MEASUREMENT.channel,
        "codes": MEASUREMENT.codes,
        "wavelength": 0.3,
        "element_positions": POSITIONS,
    }
    containers.save(path, {k: v for k, v in (arrays | changes).items() if v is not None})
    return path


@pytest.fixture
def served(monkeypatch):
    """Replace the server; return the arguments of each start."""
    starts = []

    monkeypatch.setattr(_environment, "use_one_thread", lambda: None)

    async def run(live, host, port, announce):
        starts.append((live, host, port))
        announce("stopped")

    monkeypatch.setattr(service, "run", run)
    return starts


def _serve(path, *flags):
    return main.main(["ris-jax", "serve", f"--channel={path}", *flags])


def test_flags_reach_the_service(tmp_path, served, capsys):
    path = _write(tmp_path / "surface.npz")
    flags = [
        "--max_sources=2", "--num_sources=1", "--static_path=on", "--search=fast", "--host=::1",
        "--port=8123", "--max_body_mb=0.5", "--max_queue=3", "--max_scenes=2", "--range_min=0.4",
        "--false_alarm_rate=0.02", "--wavefront=planar",
    ]  # fmt: skip
    assert _serve(path, *flags) == 0
    ((live, host, port),) = served
    assert (host, port) == ("::1", 8123)
    assert live.limits == service.ServiceLimits(500_000, 3, 2)
    assert live.localizer.shape == surfaces.SHAPE
    program = live.localizer.program
    assert (program.num_sources, program.max_sources, program.wavefront) == (1, 2, "planar")
    assert program.false_alarm_rate == 0.02
    assert program.effort.candidates == 3
    assert live.localizer.static_path == "on"
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"serving the surface of {path}",
        "8 codes, 8 antennas, 36 elements; noise level: unknown, because the file has no snr_db",
    ]


@pytest.mark.parametrize(
    ("snr_db", "message"),
    [
        (None, "unknown, because the file has no snr_db"),
        ("same", "{:.3g} per sample"),
        ("other", "unknown, because snr_db gives levels that differ by .* dB; send snr_db with"),
    ],
)
def test_noise_level(tmp_path, served, capsys, snr_db, message):
    power = np.mean(np.abs(MEASUREMENT.snapshots) ** 2, axis=(1, 2))
    level = 1e-3 * power.min()
    given = {"same": 10 * np.log10(power / level - 1), "other": np.array([0.0, 5.0, 10.0, 30.0])}
    path = _write(tmp_path / "surface.npz", snr_db=given.get(snr_db))
    assert _serve(path, "--static_path=off") == 0
    assert re.search(f"noise level: {message.format(level)}", capsys.readouterr().out)
    noise = served[0][0]._noise
    assert noise == pytest.approx(level, rel=1e-4) if snr_db == "same" else np.isnan(noise)


@pytest.mark.parametrize(
    ("elements", "flags", "calls"),
    [(36, [], 1), (35, [], 0), (36, ["--estimator=music"], 0)],
)
def test_small_arrays_use_one_thread(tmp_path, served, monkeypatch, elements, flags, calls):
    """The programs of other estimators have LAPACK calls, which need several."""
    called = []
    monkeypatch.setattr(_environment, "use_one_thread", lambda: called.append(1))
    monkeypatch.setattr(serve, "_SMALL_ARRAY", elements)
    assert _serve(_write(tmp_path / "surface.npz"), "--max_sources=2", *flags) == 0
    assert len(called) == calls


def test_calibration_is_applied(tmp_path, served):
    factors = np.exp(1j * np.linspace(0, 1, len(POSITIONS)))
    containers.save(tmp_path / "calibration.npz", {"factors": factors})
    path = _write(tmp_path / "surface.npz")
    assert _serve(path, f"--calibration={tmp_path / 'calibration.npz'}") == 0
    np.testing.assert_allclose(
        served[0][0].localizer._measurement.codes[0], MEASUREMENT.codes * factors, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--channel="], "--channel: need a file, none given"),
        (["--max_body_mb=0"], "--max_body_mb: need 0 < value <= 1024; got 0.0"),
        (["--max_body_mb=2000"], "--max_body_mb: need 0 < value"),
        (["--port=70000"], "port=70000"),
        (["--max_queue=0"], "max_queue=0"),
        (["--max_scenes=0"], "max_scenes=0"),
        (["--range_min=0"], "--range_min: need finite metres above zero"),
        (["--estimator=network"], "--estimator: network needs --pretrained or --workdir"),
        (["--max_sources=99"], "max_sources: need less than"),
        (["--channel=missing.npz"], "missing.npz: no such file"),
    ],
)
def test_invalid_flags(tmp_path, served, capsys, flags, message):
    assert _serve(_write(tmp_path / "surface.npz"), *flags) != 0
    assert message in capsys.readouterr().err
    assert not served


@pytest.mark.parametrize("field", ["channel", "codes"])
def test_scenes_share_channel_and_codes(tmp_path, served, capsys, field):
    random = np.random.default_rng(0)
    shape = (surfaces.SCENES, 8, len(POSITIONS))
    each = np.exp(2j * np.pi * random.random(shape))
    path = _write(tmp_path / "surface.npz", **{field: each})
    assert _serve(path) == 1
    assert f"{path}: {field}: expected the same for all scenes" in capsys.readouterr().err


def test_the_missing_package_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _serve(tmp_path / "surface.npz") == 1
    assert "expected the package aiohttp; found none: pip install 'ris-jax[serve]'" in (
        capsys.readouterr().err
    )


def test_loopback_is_the_default():
    serve.FLAGS.unparse_flags()
    serve.FLAGS(["serve"])
    assert (serve.FLAGS.host, serve.FLAGS.port) == ("127.0.0.1", 0)


@pytest.mark.full
def test_a_complete_run(tmp_path):
    """The service answers, writes nothing and ends with status 0."""
    path = _write(tmp_path / "surface.npz")
    before = sorted(tmp_path.iterdir())
    with live_server.running(path, "--max_sources=2", "--static_path=off") as server:
        for number, scene in enumerate(MEASUREMENT.snapshots):
            request = urllib.request.Request(
                f"{server.address}/localize", live_server.as_json(scene)
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                (found,) = json.load(response)["scenes"]
            assert found["num_sources"] == TRUTH.num_sources[number]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{server.address}/localize", b"{}", timeout=60)
    assert server.process.returncode == 0
    assert server.lines[-2].startswith("stopped; 4 requests answered, 0 refused")
    assert sorted(tmp_path.iterdir()) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
