"""Localisation at several frequencies, in Python and from the command line."""

import csv
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from cases import small

from ris_jax import config as config_lib
from ris_jax import wideband_localization
from ris_jax.accuracy import wideband_bound
from ris_jax.cli import main
from ris_jax.data.recordings import frequency_recordings, frequency_simulation
from ris_jax.estimation import source_number
from ris_jax.estimation.checks.limits import Limits
from ris_jax.estimation.estimate import Estimate
from ris_jax.estimation.flags import Flag
from ris_jax.physics import arrays, scenes, wideband

CONFIG = small.configuration(
    small.SYSTEM | {"system.rows": 8, "system.columns": 8, "system.num_snapshots": 12},
    scene__max_sources=2, scene__min_sources=2, scene__range_min=1.0, scene__range_max=4.0,
    scene__snr_min_db=25.0, scene__snr_max_db=30.0, scene__path_loss="none",
)  # fmt: skip
FREQUENCIES = np.linspace(0.9e9, 1.1e9, 4)
# Those of `localize` on the command line, so that one program serves all tests.
LIMITS = Limits(math.radians(60.0), math.radians(30.0), 0.5, math.inf)
BATCH = 8


def recorded(coherence):
    """Return eight simulated scenes of two sources."""
    given = frequency_simulation.simulated_recordings(
        CONFIG, FREQUENCIES, num_scenes=BATCH, seed=3, coherence=coherence
    )
    return given, frequency_recordings.from_arrays(given)


def localize(measurement, positions=None, **options):
    positions = arrays.element_positions(CONFIG.system) if positions is None else positions
    options = {"frequencies": FREQUENCIES, "max_sources": 2, "limits": LIMITS} | options
    return wideband_localization.localize_wideband(measurement, positions, **options)


def errors_of(found, truth, field):
    """Return the error of the better of the two matches of two sources, [B, 2]."""
    values, expected = np.asarray(getattr(found, field)), np.asarray(getattr(truth, field))
    swapped = np.abs(found.azimuth[:, ::-1] - truth.azimuth).sum(axis=1)
    straight = np.abs(found.azimuth - truth.azimuth).sum(axis=1)
    values = np.where((swapped < straight)[:, None], values[:, ::-1], values)
    return values - expected


@pytest.mark.parametrize(
    "coherence", [pytest.param("incoherent", marks=pytest.mark.full), "coherent"]
)
def test_sources_are_counted_and_found_within_their_error_bars(coherence):
    _, recordings = recorded(coherence)
    found = localize(recordings.measurement, coherence=coherence)
    np.testing.assert_array_equal(found.num_sources, [2] * BATCH)
    deviation = np.sqrt(np.diagonal(found.covariance, axis1=-2, axis2=-1)).max(axis=1)
    for index, field in enumerate(("azimuth", "elevation")):
        error = errors_of(found, recordings.truth, field)
        assert np.all(np.abs(error) < 5.0 * deviation[:, index, None])
    assert (found.delay is None) == (coherence == "incoherent")
    if coherence == "coherent":
        truth = recordings.truth._asdict() | {"delay": recordings.delay}
        error = errors_of(found, type("Truth", (), truth), "delay")
        bar = np.sqrt(np.asarray(found.delay_variance)).max(axis=1, keepdims=True)
        assert np.all(np.abs(error) < 5.0 * bar)
        assert np.all(bar < 1e-9)
    noise = np.asarray(found.noise_variance) / recordings.measurement.noise_variance
    np.testing.assert_allclose(noise, 1.0, atol=0.4)
    assert all(flags == Flag.WIDEBAND for flags in np.asarray(found.flags))


def test_power_and_units_do_not_matter():
    _, recordings = recorded("coherent")
    given = recordings.measurement
    found = localize(given, coherence="coherent")
    scaled = localize(
        given._replace(snapshots=given.snapshots * 2.0**-30, channel=given.channel * 2.0**5),
        coherence="coherent",
    )
    np.testing.assert_allclose(scaled.azimuth, found.azimuth, atol=1e-6)
    np.testing.assert_allclose(scaled.power / found.power, 2.0**-70, rtol=1e-3)


def test_two_sources_at_one_position_differ_in_delay():
    truth = scenes.Truth(
        azimuth=jnp.array([0.3, 0.3]), elevation=jnp.array([-0.1, -0.1]),
        source_range=jnp.array([2.0, 2.0]), amplitude=jnp.ones(2),
        num_sources=jnp.array(2), snr_db=jnp.array(25.0),
    )  # fmt: skip
    delay = jnp.array([2e-9, 9e-9])

    @small.jit
    @jax.vmap
    def draw(key):
        return wideband.simulate_wideband(
            key, truth, delay, CONFIG, band=wideband.band_of(FREQUENCIES), coherence="coherent"
        )

    scene = draw(jax.random.split(jax.random.key(0), BATCH))
    measurement = scene.measurement._replace(codes=scene.measurement.codes[0])
    found = localize(measurement, coherence="coherent")
    np.testing.assert_array_equal(found.num_sources, [2] * BATCH)
    np.testing.assert_allclose(np.sort(found.delay), [[2e-9, 9e-9]] * BATCH, atol=0.5e-9)
    np.testing.assert_allclose(found.azimuth, 0.3, atol=0.1)


def test_noise_alone_is_no_source():
    random = np.random.default_rng(0)
    _, recordings = recorded("coherent")
    shape = (2, *recordings.snapshots.shape)
    noise = random.normal(size=shape).astype(np.float32)
    silent = recordings.measurement._replace(snapshots=noise[0] + 1j * noise[1])
    found = localize(silent, coherence="coherent")
    np.testing.assert_array_equal(found.num_sources, [0] * BATCH)
    np.testing.assert_allclose(found.noise_variance, 2.0, rtol=0.2)
    flags = np.asarray(found.flags)
    assert all(flags & Flag.NOTHING_FOUND)
    assert all(flags & Flag.NOISE_ABOVE)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"coherence": "partly"}, "coherence: need one of incoherent, coherent"),
        ({"source_signal": "independent"}, "source_signal: expected constant .*; found indep"),
        ({"delay_limits": (0.0, 1e-9)}, "delay_limits: expected none for incoherent"),
        ({"coherence": "coherent", "delay_limits": (2.0, 1.0)}, r"delay_limits: .*\(2.0, 1.0\)"),
        ({"coherence": "coherent", "delay_limits": (0.0, 1.0)}, "at most 1.5e-08 s, the inverse"),
        ({"frequencies": FREQUENCIES[:3]}, r"snapshots: .* with F = 3 frequencies"),
        ({"positions": np.zeros((5, 3))}, r"channel: expected \[F, M, N\] = \[4, 4, 5\]"),
        ({"max_sources": 60}, "max_sources: need less than 48"),
        ({"search": "slow"}, "search: expected one of fast"),
    )
    def test_options(self, options, message):
        _, recordings = recorded("coherent")
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            localize(recordings.measurement, **options)

    @parameterized.parameters(
        ({"snapshots": np.ones((4, 12, 4)) + 0j}, r"snapshots: .*one scene is snapshots\[None\]"),
        ({"snapshots": np.ones((8, 4, 12, 4))}, "snapshots: expected complex numbers"),
        ({"snapshots": np.ones((0, 4, 12, 4)) + 0j}, "snapshots: expected no empty axis"),
        ({"channel": None}, "channel: expected an array for several frequencies; found none"),
        ({"codes": np.ones((4, 64)) + 0j}, r"codes: .*\[4, 12, 64\].*found \[4, 64\]"),
        ({"noise_variance": np.ones(3)}, r"noise_variance: .*\[B\] = \[8\]"),
    )
    def test_measurements(self, changes, message):
        _, recordings = recorded("coherent")
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            localize(recordings.measurement._replace(**changes))

    def test_delays_need_two_frequencies(self):
        _, recordings = recorded("coherent")
        one = recordings.measurement
        one = one._replace(snapshots=one.snapshots[:, :1], channel=one.channel[:, :1])
        with self.assertRaisesRegex(config_lib.ConfigError, "two or more for coherent"):
            localize(one, frequencies=FREQUENCIES[:1], coherence="coherent")

    def test_too_many_delays(self):
        _, recordings = recorded("coherent")
        wide = np.array([1e9, 1e9 + 1e4, 5e9, 6e9])
        with self.assertRaisesRegex(config_lib.ConfigError, "at most 16384 delay cells"):
            localize(recordings.measurement, frequencies=wide, coherence="coherent")

    def test_the_narrowband_function_names_this_one(self):
        from ris_jax import localization

        _, recordings = recorded("coherent")
        with self.assertRaisesRegex(config_lib.ConfigError, "use localize_wideband"):
            localization.localize(recordings.measurement, recordings.positions, wavelength=0.3)


@pytest.fixture(scope="module")
def wideband_file(tmp_path_factory):
    """Write a file with the scenes of the other tests."""
    path = tmp_path_factory.mktemp("wideband") / "wideband.npz"
    settings = (
        "system.rows=8", "system.columns=8", "system.num_antennas=4", "system.num_snapshots=12",
        "scene.max_sources=2", "scene.min_sources=2", "scene.range_min=1", "scene.range_max=4",
        "scene.snr_min_db=25", "scene.snr_max_db=30", "scene.path_loss=none", "training.seed=3",
    )  # fmt: skip
    command = ["simulate", f"--out={path}", "--num_test=8", "--frequencies=0.9e9:1.1e9:4"]
    settings = [f"--set={setting}" for setting in settings]
    assert main.main(["ris-jax", *command, "--coherence=coherent", *settings]) == 0
    return path


def test_commands(wideband_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["ris-jax", "localize", f"--data={wideband_file}", "--max_sources=2"]
    assert main.main([*command, "--out=a.csv", "--coherence=coherent"]) == 0
    printed = capsys.readouterr().out
    assert "16 sources in 8 scenes" in printed
    assert "100.0% of 16 sources" in printed
    assert "median delay error of those found: 0." in printed
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) == 16
    assert all(0 < float(row["delay_std_ns"]) < 1 for row in rows)
    assert main.main([*command, "--out=a.json", "--coherence=coherent", "--figure=map.png"]) == 0
    whole = json.loads((tmp_path / "a.json").read_text())
    assert whole["frequencies"] == FREQUENCIES.tolist()
    assert whole["scenes"][0]["sources"][0].keys() >= {"delay_ns", "delay_std_ns", "power_db"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pretrained=robust"], "--pretrained: expected no network at several frequencies"),
        (["--estimator=music"], "--estimator: expected auto or maximum_likelihood"),
        (["--static_path=on"], "--static_path: expected auto or off"),
        (["--source_signal=independent"], "--source_signal: expected constant"),
        (["--response_exponent=1"], "--response_exponent: expected none"),
        (["--calibration=a.npz"], "--calibration: expected none"),
        (["--delay_max_ns=-1", "--coherence=coherent"], "--delay_max_ns: expected finite nano"),
    ],
)
def test_flags_that_need_one_frequency(wideband_file, tmp_path, capsys, flags, message):
    out = tmp_path / "a.csv"
    command = ["ris-jax", "localize", f"--data={wideband_file}", f"--out={out}", *flags]
    assert main.main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frequencies=1e9"], "need a name ending in .npz"),
        (["--frequencies=1e9:2e9"], "--frequencies: expected START:STOP:COUNT"),
        (["--frequencies=1e9:2e9:0"], "--frequencies: expected START:STOP:COUNT"),
        (["--frequencies=900,1000"], "--frequencies: expected START:STOP:COUNT"),
        (["--coherence=coherent"], "--coherence: needs --frequencies"),
        (["--frequencies=1e9,2e9", "--num_train=5"], "--num_train: expected none"),
        (["--frequencies=1e9,2e9", "--num_test=0"], "--num_test: need 1 or more"),
    ],
)
def test_flags_of_simulate(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    named = "--out=a" if message.startswith("need a name") else "--out=a.npz"
    assert main.main(["ris-jax", "simulate", named, *flags]) > 0
    assert message in capsys.readouterr().err


def test_flags_without_frequencies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["ris-jax", "example", "--out=a.npz", "--num_scenes=1"]) == 0
    command = ["ris-jax", "localize", "--data=a.npz", "--out=a.csv", "--coherence=coherent"]
    assert main.main(command) == 2
    assert "--coherence: needs recordings with `frequencies`" in capsys.readouterr().err


def test_densities_of_four_coordinates():
    """Euler characteristic densities of a chi-squared field (Adler & Taylor, Theorem 15.10.1)."""
    amplitudes, statistic = 1, 20.0
    degrees, level = 2 * amplitudes, 2 * statistic
    expected = math.exp(-statistic)  # order 0 of two degrees of freedom
    for order in range(1, 5):
        total = 0.0
        for i in range((order - 1) // 2 + 1):
            for m in range(order - 2 * i):
                total += (
                    (-1) ** (order - 1 + m + i) * math.comb(degrees - 1, order - 1 - m - 2 * i)
                    * math.factorial(order - 1)
                    / (math.factorial(m) * math.factorial(i) * 2**i) * level ** (m + i)
                )  # fmt: skip
        scale = (2 * math.pi) ** (order / 2) * 2 ** ((degrees - 2) / 2) * math.gamma(degrees / 2)
        expected += total * level ** ((degrees - order) / 2) * math.exp(-level / 2) / scale
    found = source_number.false_alarm_probability(
        jnp.array(statistic), amplitudes, jnp.ones(5, jnp.float32)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_volumes_of_a_product():
    """A box times an interval: elementary symmetric polynomials of the edges."""
    found = source_number.times_interval(jnp.array([1.0, 9.0, 26.0, 24.0]), 5.0)
    np.testing.assert_allclose(found, [1.0, 14.0, 71.0, 154.0, 120.0])


def test_bound_command(wideband_file, tmp_path, capsys):
    out = tmp_path / "bound"
    command = ["ris-jax", "bound", f"--out={out}", f"--data={wideband_file}", "--at=20,10,2"]
    assert main.main([*command, "--coherence=coherent", "--snr_db=20"]) == 0
    (row,) = csv.DictReader((out / "positions.csv").read_text().splitlines())
    recordings = frequency_recordings.read_frequencies(wideband_file)
    place = [*np.deg2rad([20.0, 10.0]).tolist(), 2.0]
    azimuth, elevation, source_range = jnp.array(place, jnp.float32)[:, None]
    band, positions = wideband.band_of(FREQUENCIES), arrays.element_positions(CONFIG.system)
    signals = jnp.ones((len(FREQUENCIES), 1), jnp.complex64)
    channel, codes = jnp.asarray(recordings.channel[0]), jnp.asarray(recordings.codes[0, 0])

    @small.jit
    def deviations():
        clean = wideband.received_clean(
            signals, arrays.to_coordinates(azimuth, elevation, source_range), channel, codes,
            positions, band=band, wavefront="spherical",
        )  # fmt: skip
        noise = 0.01 * jnp.mean(jnp.abs(clean) ** 2)
        bound = wideband_bound.wideband_bound(
            scenes.Measurement(jnp.zeros(()), channel, codes, noise), azimuth, elevation,
            source_range, None, signals, positions, band=band, coherence="coherent",
        )  # fmt: skip
        return wideband_bound.wideband_deviations(bound)

    expected = np.asarray(deviations())[0]
    expected = expected * [180 / np.pi, 180 / np.pi, 1.0, 1e9]
    names = ("azimuth_std_deg", "elevation_std_deg", "range_std_m", "delay_std_ns")
    np.testing.assert_allclose([float(row[name]) for name in names], expected, rtol=1e-3)
    capsys.readouterr()
    assert main.main([*command, "--sweep=antennas:1,2"]) == 2
    assert "--sweep: expected none at several frequencies" in capsys.readouterr().err
    assert main.main([*command, "--static_path=on"]) == 2
    assert main.main([*command, "--frequencies=1e9,2e9"]) == 2
    assert main.main([*command, "--scene=99"]) == 2
    alone = ["ris-jax", "bound", f"--out={out}", "--coherence=coherent"]
    assert main.main(alone) == 2
    assert "--coherence: needs several frequencies" in capsys.readouterr().err


SETTINGS = (
    "--set=system.rows=4", "--set=system.columns=4", "--set=system.num_antennas=4",
    "--set=system.num_snapshots=6", "--set=scene.range_max=2", "--frequencies=0.9e9,1e9,1.1e9",
)  # fmt: skip


@pytest.fixture(name="estimates")
def _estimates(monkeypatch):
    """Replace the estimator by one that returns the truth of a single source at boresight."""
    asked = []

    def localize_wideband(measurement, positions, **options):
        asked.append(options | {"measurement": measurement})
        size, most = len(measurement.snapshots), options["max_sources"]
        places = np.zeros((size, most))
        counts = np.ones(size, int) if options["num_sources"] is None else options["num_sources"]
        covariance = np.broadcast_to(np.eye(3), (size, most, 3, 3))
        coherent = options["coherence"] == "coherent"
        return Estimate(
            places, places, places + 5, places + 1, np.asarray(counts), covariance, places[:, 0],
            flags=np.zeros(size, np.int32), delay=places + 1e-9 if coherent else None,
            delay_variance=places + 1e-20 if coherent else None,
        )  # fmt: skip

    monkeypatch.setattr(wideband_localization, "localize_wideband", localize_wideband)
    return asked


def evaluated(path):
    with path.open() as file:
        return {row["scenes_of"]: row for row in csv.DictReader(file)}


@pytest.mark.full
def test_evaluation_of_simulated_scenes(estimates, tmp_path, capsys):
    """The bound includes that of the delay, and the scenes are those of the stream `test`."""
    command = [
        "ris-jax", "evaluate", "--estimator=auto", f"--out={tmp_path}", "--num_scenes=5",
        "--batch_size=3", "--coherence=coherent", "--known_num_sources", "--seed=2", *SETTINGS,
        "--set=scene.max_sources=2", "--set=scene.snr_min_db=10",
    ]  # fmt: skip
    assert main.main(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for text in ("3 frequencies from 0.9 to 1.1 GHz", "coherent amplitudes", "delay [ns]"):
        assert text in printed
    rows = evaluated(tmp_path / "evaluation_auto.csv")
    counts = np.concatenate([call["num_sources"] for call in estimates])
    assert rows["all"]["sources"] == str(counts.sum())
    assert rows["all"]["count_right"] == "1.0"
    key = jax.random.fold_in(scenes.stream_key(2, "test"), 4)
    config = config_lib.override(
        config_lib.Config(),
        {name: int(x) for name, x in (text[6:].split("=") for text in command if "--set=" in text)},
    )

    @small.jit
    def expected(key):
        scene = frequency_simulation.frequency_scene(
            key, config, frequencies=np.array([0.9e9, 1e9, 1.1e9]), coherence="coherent"
        )
        return scene.measurement.snapshots

    last = estimates[-1]["measurement"].snapshots[-1]
    np.testing.assert_allclose(last, expected(key), atol=1e-3)
    found, bound = (rows["all"][f"delay_{name}_ns"] for name in ("median", "median_bound"))
    assert found == "nan" or float(found) > 0  # of sources near boresight
    assert bound == "nan" or 0 < float(bound) < 10


def test_evaluation_of_recordings(estimates, wideband_file, tmp_path, capsys):
    command = ["ris-jax", "evaluate", f"--data={wideband_file}", f"--out={tmp_path / 'out'}"]
    assert main.main([*command, "--estimator=maximum_likelihood", "--num_scenes=5"]) == 0
    assert "no bound" in capsys.readouterr().out
    rows = evaluated(tmp_path / "out" / "evaluation_maximum_likelihood.csv")
    assert rows["all"]["scenes"] == "5"
    assert "delay_rmse_ns" not in rows["all"]  # incoherent
    assert estimates[0]["frequencies"] == FREQUENCIES.tolist()
    without = tmp_path / "without.npz"
    with np.load(wideband_file) as found:
        kept = {name: found[name] for name in found if name not in ("num_sources", "delay")}
        for name in ("azimuth", "elevation", "source_range"):
            kept.pop(name)
        np.savez(without, **kept)
    assert main.main([*command[:2], f"--data={without}", "--estimator=auto"]) == 2
    assert "--data: need recordings with truth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pretrained=default"], "--pretrained: expected no network at several frequencies"),
        (["--estimator=network", "--pretrained=default"], "--pretrained: expected no network"),
        (["--estimator=music"], "--estimator: expected auto or maximum_likelihood"),
        (["--estimator=auto", "--static_path=on"], "--static_path: expected auto or off"),
    ],
)
def test_flags_of_evaluate(wideband_file, tmp_path, capsys, flags, message):
    """The same errors for recordings and for simulated scenes."""
    for source in (f"--data={wideband_file}", "--frequencies=1e9,1.1e9"):
        assert main.main(["ris-jax", "evaluate", f"--out={tmp_path}", source, *flags]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("system.source_signal", ["system.source_signal=independent"]),
        ("impairments", ["impairments.phase_error=0.1"]),
        ("scene.static_path_db", ["scene.static_path_db=0"]),
        ("system.response_exponent", ["system.response_exponent=1"]),
        ("system.response_angles", ["system.response_angles=[0,1.6]",
                                    "system.response_amplitudes=[1,0.1]"]),
    ],
)  # fmt: skip
def test_configurations_without_a_wideband_model(tmp_path, capsys, name, changes):
    sets = [f"--set={change}" for change in changes]
    for command in (["evaluate", "--estimator=auto", f"--out={tmp_path}"],
                    ["simulate", f"--out={tmp_path / 'a.npz'}"]):  # fmt: skip
        assert main.main(["ris-jax", *command, "--frequencies=1e9,1.1e9", *sets]) == 2
        assert f"{name}: expected the default at several frequencies" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.parametrize("coherence", ["incoherent", "coherent"])
def test_design_command(tmp_path, monkeypatch, capsys, coherence):
    """The codes lower the bound of all frequencies, and `simulate` reads them."""
    monkeypatch.chdir(tmp_path)
    command = [
        "ris-jax", "design", "--out=codes", f"--coherence={coherence}", *SETTINGS, "--at=20,10,1",
        "--steps=30", "--sweeps=1", "--bits=1", "--starts=1",
    ]  # fmt: skip
    assert main.main(command) == 0, capsys.readouterr().err
    assert f"at 3 frequencies, {coherence} amplitudes" in capsys.readouterr().out
    rows = csv.DictReader((tmp_path / "codes" / "comparison.csv").read_text().splitlines())
    means = {row["codes"]: float(row["mean_m"] or "inf") for row in rows}
    assert means["designed, continuous"] < means["random, median of 10"]
    assert "four beams" not in means
    assert main.main(command) == 0
    assert "resuming" in capsys.readouterr().out
    assert main.main([*command, "--seed=1"]) == 1
    simulate = ["ris-jax", "simulate", "--out=a.npz", "--num_test=1", *SETTINGS]
    codes = ["--set=system.codebook=random", "--set=system.codes_file=codes/codes_1bit.npz"]
    assert main.main([*simulate, *codes]) == 0
    with np.load("a.npz") as found, np.load("codes/codes_1bit.npz") as designed:
        np.testing.assert_allclose(found["codes"], designed["codes"], atol=1e-6)


@pytest.mark.full
def test_design_for_recordings(wideband_file, tmp_path, capsys):
    command = ["ris-jax", "design", f"--out={tmp_path}", f"--data={wideband_file}"]
    few = ["--at=0,0,2", "--steps=4", "--sweeps=1", "--bits=1", "--starts=1", "--num_codes=6"]
    assert main.main([*command, *few]) == 0, capsys.readouterr().err
    with np.load(tmp_path / "codes_1bit.npz") as found:
        assert found["codes"].shape == (6, 64)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--frequencies=1e9", "--coherence=coherent"], 2, "two or more frequencies; found 1"),
        (["--coherence=coherent"], 2, "--coherence: needs several frequencies"),
        (["--frequencies=1e9,2e9", "--transmit_power_dbm=0"], 2, "--transmit_power_dbm: expected"),
        (["--frequencies=1e9,2e9", "--target_m=1"], 2, "--target_m: expected none"),
        (["--frequencies=1,2"], 2, "--frequencies: expected START:STOP:COUNT"),
        (["--set=system.rows=1", "--frequencies=1e9,2e9"], 1, "found a line"),
        (["--set=system.columns=1"], 1, "does not determine the azimuth"),
    ],
)
def test_flags_of_design(tmp_path, capsys, flags, status, message):
    out = tmp_path / "out"
    command = ["ris-jax", "design", f"--out={out}", "--set=system.codebook=random"]
    assert main.main([*command, *flags]) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()
