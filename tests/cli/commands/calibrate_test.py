"""`ris-jax calibrate`, and `localize --calibration`."""

import re

import numpy as np
import pytest
from estimation.calibration import known_sources_test

from ris_jax.cli import main
from ris_jax.data.recordings import containers, surface_calibration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of a 6 x 6 surface with hidden factors: known.npz, per_state.npz."""
    folder = tmp_path_factory.mktemp("calibrate")
    for name, states in (("known", None), ("per_state", 2)):
        found, _ = known_sources_test.recording(24, 1, states, bits=None if states is None else 1)
        containers.save(folder / f"{name}.npz", found.file(**found.truth()))
    containers.save(folder / "unknown.npz", found.file())
    return folder


def run(*arguments):
    return main.main(["ris-jax", *arguments])


def test_known_positions(folder, capsys):
    out, figure = folder / "surface.npz", folder / "surface.png"
    status = run("calibrate", f"--data={folder}/known.npz", f"--out={out}", f"--figure={figure}")
    printed = capsys.readouterr().out
    assert status == 0
    assert "24 recordings, 24 sources; 36 factors of 36 elements" in printed
    assert "residual over noise" in printed
    assert "recordings give at most 0.5 dB" in printed
    assert figure.read_bytes()[:4] == b"\x89PNG"
    found = surface_calibration.load_calibration(out)
    true = known_sources_test.hidden(36)
    assert np.sqrt(np.mean(np.abs(found.factors - true) ** 2)) < 0.05
    np.testing.assert_allclose(found.positions, known_sources_test.POSITIONS)


def test_per_state(folder, capsys):
    out = folder / "states.npz"
    assert run("calibrate", f"--data={folder}/per_state.npz", f"--out={out}", "--per_state") == 0
    assert "72 factors of 36 elements" in capsys.readouterr().out
    found = surface_calibration.load_calibration(out)
    np.testing.assert_allclose(found.states, [1, -1], atol=1e-6)
    true = known_sources_test.hidden(36, 2)
    assert np.sqrt(np.mean(np.abs(found.factors - true) ** 2)) < 0.1


def test_pose(folder, capsys):
    """The surface is where its drawing puts it."""
    out = folder / "pose.npz"
    assert run("calibrate", f"--data={folder}/known.npz", f"--out={out}", "--pose") == 0
    assert "pose: rotation about x, y, z" in capsys.readouterr().out
    found = surface_calibration.load_calibration(out)
    np.testing.assert_allclose(found.rotation, np.eye(3), atol=0.05)
    np.testing.assert_allclose(found.offset, 0.0, atol=0.05)


def test_static_path(folder, capsys, tmp_path):
    found, true = known_sources_test.recording(24, static_db=10.0)
    containers.save(tmp_path / "data.npz", found.file(**found.truth()))
    out = tmp_path / "surface.npz"
    assert run("calibrate", f"--data={tmp_path}/data.npz", f"--out={out}", "--static_path") == 0
    assert "gain" in capsys.readouterr().out
    factors = surface_calibration.load_calibration(out).factors
    assert np.sqrt(np.mean(np.abs(factors - true) ** 2)) < 0.05


def test_a_wrong_position_is_named(folder, capsys, tmp_path):
    found, _ = known_sources_test.recording(24)
    truth = found.truth()
    truth["azimuth"][7] += 0.5
    containers.save(tmp_path / "wrong.npz", found.file(**truth))
    assert run("calibrate", f"--data={tmp_path}/wrong.npz", f"--out={tmp_path}/out.npz") == 0
    assert "warning: scene 7: the residual is" in capsys.readouterr().out


def test_noise_that_the_factors_do_not_explain(folder, capsys, tmp_path):
    """The file gives 40 dB; the recordings have 20 dB."""
    found, _ = known_sources_test.recording(24)
    containers.save(tmp_path / "snr.npz", found.file(snr_db=np.full(24, 40.0), **found.truth()))
    assert run("calibrate", f"--data={tmp_path}/snr.npz", f"--out={tmp_path}/out.npz") == 0
    assert "times the noise of snr_db" in capsys.readouterr().out


@pytest.mark.full
def test_unknown_positions_and_localize(folder, capsys):
    """Self-calibrated factors localise new scenes, up to a common shift."""
    out = folder / "self.npz"
    assert run(
        "calibrate", f"--data={folder}/known.npz", f"--out={out}", "--unknown_positions",
        "--num_sources=1",
    ) == 0  # fmt: skip
    assert "loss of position accuracy" in capsys.readouterr().out
    status = run(
        "localize", f"--data={folder}/known.npz", f"--out={folder}/found.csv",
        f"--calibration={out}",
    )  # fmt: skip
    assert status == 0
    right = re.search(r"number correct in ([\d.]+)% of scenes", capsys.readouterr().out)
    assert float(right[1]) > 90


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=x.npz"], "--data: need a file"),
        (["--data=x.npz"], "--out: need a file"),
        (["--data=x.npz", "--out=x.txt"], "x.txt"),
        (["--data=x.npz", "--out=x.npz", "--loss_db=0"], "--loss_db: need more than 0 dB"),
        (["--data=x.npz", "--out=x.npz", "--num_sources=2"], "only with --unknown_positions"),
        (["--data=x.npz", "--out=x.npz", "--pose", "--unknown_positions"], "--pose: needs known"),
        (
            ["--data=x.npz", "--out=x.npz", "--static_path", "--source_signal=independent"],
            "--static_path: only for constant signals",
        ),
        (["--data=x.npz", "--out=x.npz", "--figure=x.gif"], "--figure: need a name ending in"),
        (["--data={}/unknown.npz", "--out={}/x.npz"], "expected positions of the sources"),
        (["--data={}/known.npz", "--out={}/x.npz", "--per_state"], "expected at most 8 states"),
    ],
)
def test_errors(flags, message, folder, capsys):
    assert run("calibrate", *(flag.format(folder) for flag in flags)) in (1, 2)
    assert message in capsys.readouterr().err


def test_localize_refuses_another_surface(folder, capsys, tmp_path):
    other = surface_calibration.SurfaceCalibration(np.ones(9) + 0j, np.zeros(9))
    surface_calibration.save_calibration(tmp_path / "other.npz", other)
    status = run(
        "localize", f"--data={folder}/known.npz", f"--out={tmp_path}/x.csv",
        f"--calibration={tmp_path}/other.npz",
    )  # fmt: skip
    assert status == 1
    assert "calibration: expected factors of 36 elements, found 9" in capsys.readouterr().err
