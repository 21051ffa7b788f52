"""Elements with a response, from an independent simulator: at the bound with it, not without it."""

import functools

import chex
import jax
import numpy as np
import pytest
from cases import simulator

from ris_jax import localization
from ris_jax.accuracy import bounds
from ris_jax.cli import main
from ris_jax.data.recordings import containers, reader
from ris_jax.estimation.baselines.catalogue import METHODS
from ris_jax.estimation.flags import NOTES, Flag
from ris_jax.networks import network_start
from ris_jax.physics import scenes
from ris_jax.physics.element_response import ElementResponse

BATCH, CODES, ANTENNAS, SNR_DB = 24, 8, 8, 20.0
POSITIONS = simulator.plane(6, 6)
OPTIONS = {
    "wavelength": simulator.WAVELENGTH, "max_sources": 2, "search": "fast", "chunk_size": 8
}  # fmt: skip
ANGLES = np.radians([0, 20, 40, 60, 75, 90])
AMPLITUDES = np.array([1.0, 0.97, 0.82, 0.5, 0.25, 0.05])
RESPONSES = {
    "cosine": ElementResponse.cosine(2.0),
    "table": ElementResponse.table(ANGLES, AMPLITUDES),
}


def wave(name, positions, sources, wavelength):
    """Return spherical waves times the response of each element."""
    away = (sources[:, 2:] * simulator.directions(sources))[:, None] - positions
    cosine = away[..., 2] / np.linalg.norm(away, axis=-1)
    # The simulator knows the angle; a straight line between the points of a table is close enough.
    angle = np.arccos(np.clip(cosine, -1, 1))
    gains = {"cosine": cosine**2, "table": RESPONSES["table"].of_cosines(np.cos(angle), np)}[name]
    return simulator.spherical(positions, sources, wavelength) * gains


@functools.cache
def recording(name="cosine"):
    random = np.random.default_rng(4)
    places = random.uniform([-50, -25, 0.8], [50, 25, 2.0], (BATCH, 1, 3))
    return simulator.through_surface(
        list(places), positions=POSITIONS, length=CODES, antennas=ANTENNAS, snr_db=SNR_DB,
        seed=5, wave=functools.partial(wave, name),
    )  # fmt: skip


def localize(name="cosine", positions=POSITIONS, **changes):
    """Localise chunks of 8 scenes, whose programs `static_path_test` uses as well."""
    found = recording(name)
    parts = [x.astype(np.complex64) for x in (found.snapshots, found.channel, found.codes)]
    unknown = np.full(BATCH, np.nan, np.float32)
    return localization.localize_in_chunks(
        scenes.Measurement(*parts, noise_variance=unknown), positions,
        **OPTIONS | {"response": RESPONSES[name]} | changes,
    )  # fmt: skip


def errors(found):
    """Return errors of azimuth, elevation [rad] and range [m] of one source a scene, [B, 3]."""
    truth = np.stack(recording().sources)[:, 0] * [np.pi / 180, np.pi / 180, 1.0]
    estimate = np.stack([found.azimuth, found.elevation, found.source_range], -1)[:, 0]
    return estimate - truth


@functools.cache
def deviations(name):
    """Return the root of the bound with the response, [B, 3]."""
    found = recording(name)
    truth = np.stack(found.sources)[:, 0] * [np.pi / 180, np.pi / 180, 1.0]

    def bound(channel, codes, place, signals, noise):
        one = scenes.Measurement(None, channel, codes, noise)  # pyright: ignore
        return bounds.cramer_rao_bound(
            one, place[:1], place[1:2], place[2:], signals, POSITIONS.astype("f4"),
            wavelength=simulator.WAVELENGTH, response=RESPONSES[name],
        ).covariance[0]  # fmt: skip

    fields = np.stack([
        signals @ wave(name, POSITIONS, np.asarray(one), simulator.WAVELENGTH)
        for signals, one in zip(found.signals, found.sources, strict=True)
    ])  # fmt: skip
    clean = (found.codes * fields) @ np.swapaxes(found.channel, 1, 2)
    noise = np.mean(np.abs(clean) ** 2, axis=(1, 2)) / 10 ** (SNR_DB / 10)
    covariance = jax.jit(jax.vmap(bound))(
        found.channel.astype("c8"), found.codes.astype("c8"), truth.astype("f4"),
        np.stack(found.signals).astype("c8"), noise.astype("f4"),
    )  # fmt: skip
    return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


@pytest.mark.full
@pytest.mark.parametrize("name", ["cosine", "table"])
def test_errors_are_at_the_bound(name):
    """The median of an efficient estimate is 0.674; 72 values have a standard error of 0.1."""
    found = localize(name)
    np.testing.assert_array_equal(found.num_sources, np.ones(BATCH))
    assert not np.any(found.flags & ~NOTES)
    assert 0.45 < np.median(np.abs(errors(found)) / deviations(name)) < 0.9
    own = np.sqrt(np.diagonal(found.covariance[:, 0], axis1=1, axis2=2))
    np.testing.assert_allclose(np.median(own / deviations(name)), 1.0, atol=0.15)


@pytest.mark.full
def test_an_ignored_response_costs_accuracy_or_is_flagged():
    found = localize(response=None)
    ratio = np.median(np.abs(errors(found)) / deviations("cosine"))
    wrong = (np.asarray(found.num_sources) != 1) | (np.asarray(found.flags & ~NOTES) != 0)
    assert ratio > 1.2 or wrong.mean() > 0.5
    assert wrong.mean() > 0.5


def test_power_is_that_of_the_wave():
    """Sources of amplitude 1 have power 1, not 1 times the response."""
    power = np.asarray(localize().power[:, 0])
    np.testing.assert_allclose(power, np.ones(BATCH), rtol=0.15)


@pytest.mark.full
def test_power_without_the_response_is_too_small():
    assert np.median(localize(response=None, num_sources=1).power[:, 0]) < 0.6


@pytest.mark.full
def test_exponent_0_is_bit_equal_to_no_response():
    found, plain = (localize(response=r) for r in (ElementResponse.cosine(0.0), None))
    chex.assert_trees_all_equal(found, plain)


@pytest.mark.full
@pytest.mark.parametrize("estimator", [name for name, one in METHODS.items() if one.search])
def test_every_baseline_takes_the_response(estimator):
    """Errors with it are smaller than without it, or as small: those on a grid have its cells."""
    if METHODS[estimator].network == "needed":
        pytest.skip("a network for one array")
    given, ignored = (
        localize(estimator=estimator, num_sources=1, max_sources=1, check=False, response=one)
        for one in (RESPONSES["cosine"], None)
    )
    sizes = [np.median(np.abs(errors(one))[:, 2]) for one in (given, ignored)]
    assert sizes[0] < 1.1 * sizes[1]
    # The same received power is that of a stronger wave.
    assert np.median(given.power[:, 0] / ignored.power[:, 0]) > 1.2


@pytest.mark.full
def test_own_normals():
    """A surface that is turned by 30 degrees, in coordinates of the room."""
    turn = np.array([[0.75**0.5, 0, 0.5], [0, 1, 0], [-0.5, 0, 0.75**0.5]])
    places = np.stack(recording().sources)[:, 0]
    response = RESPONSES["cosine"].rotated(turn)
    estimate = localize(response=response, positions=POSITIONS @ turn.T)
    unit = simulator.directions(places) @ turn.T
    expected = np.arctan2(unit[:, 0], unit[:, 2])
    within = np.abs(expected) < np.radians(60)
    assert within.sum() > BATCH / 2
    np.testing.assert_array_equal(estimate.num_sources[within], np.ones(within.sum()))
    assert np.max(np.abs(estimate.azimuth[within, 0] - expected[within])) < 0.02
    np.testing.assert_allclose(estimate.power[within, 0], np.ones(within.sum()), rtol=0.15)


def test_normals_of_other_elements_are_refused():
    response = ElementResponse.cosine(1.0, normals=np.tile([0.0, 0.0, 1.0], (35, 1)))
    with pytest.raises(ValueError, match=r"response_normals: expected \[3\] or \[36, 3\]"):
        localize(response=response)


class TestCommands:
    def file(self, path, **more):
        containers.save(path, recording().file(**more))
        return path

    def options(self, tmp_path, path):
        return [
            "ris-jax", "localize", f"--data={path}", f"--out={tmp_path / 'a.csv'}",
            "--max_sources=2", "--search=fast", "--batch_size=8",
        ]  # fmt: skip

    @pytest.mark.parametrize("given", ["file", "flag"])
    def test_localize(self, tmp_path, given):
        fields = {"response_exponent": np.array(2.0)} if given == "file" else {}
        path = self.file(tmp_path / "a.npz", **fields)
        more = [] if given == "file" else ["--response_exponent=2"]
        assert main.main(self.options(tmp_path, path) + more) == 0
        rows = (tmp_path / "a.csv").read_text().splitlines()
        assert len(rows) == BATCH + 1
        azimuth = np.array([float(row.split(",")[2]) for row in rows[1:]])
        np.testing.assert_allclose(azimuth, np.degrees(localize().azimuth[:, 0]), atol=0.01)

    def test_inspect(self, tmp_path, capsys):
        table = {"response_angles": ANGLES, "response_amplitudes": AMPLITUDES}
        path = self.file(tmp_path / "a.npz", **table)
        main.main(["ris-jax", "inspect", f"--data={path}"])
        assert "element response  table of 6 angles up to 90 deg" in capsys.readouterr().out

    def test_round_trip(self, tmp_path):
        table = {"response_angles": ANGLES, "response_amplitudes": AMPLITUDES}
        found = reader.read(self.file(tmp_path / "a.npz", **table))
        reader.write(tmp_path / "b.h5", found)
        again = reader.read(tmp_path / "b.h5")
        for one, other in zip(found.response.as_table(), (ANGLES, AMPLITUDES), strict=True):
            np.testing.assert_allclose(one, other)
        for one, other in zip(found.response.as_table(), again.response.as_table(), strict=True):
            np.testing.assert_allclose(one, other)


def test_networks_without_the_response_are_not_used():
    flag = Flag.NETWORK_NOT_USED
    assert "element response" in flag.sentence
    assert network_start.for_model("network", None, "constant", RESPONSES["table"]) == (
        "network", None
    )  # fmt: skip
