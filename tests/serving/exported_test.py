"""Export: a program with plain JAX gives the results of `localize`."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest
from serving import surfaces

import ris_jax
from ris_jax import config as config_lib
from ris_jax import errors, localization
from ris_jax.serving import exported

MEASUREMENT, _, POSITIONS = surfaces.simulated()
_PROGRAM = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ris_jax":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import jax
import jax.export

source, snapshots, target = sys.argv[1:]
with open(source, "rb") as file:
    localizer = jax.export.deserialize(bytearray(file.read()))
given = np.load(snapshots)
call = jax.jit(localizer.call)
size = localizer.in_avals[0].shape[0]
found = [jax.device_get(call(given[i : i + size])) for i in range(0, len(given), size)]
np.savez(target, **{name: np.concatenate([part[name] for part in found]) for name in found[0]})
"""


def _export(path, **options):
    exported.export_localizer(
        path, POSITIONS, shape=surfaces.SHAPE, channel=MEASUREMENT.channel,
        codes=MEASUREMENT.codes, **surfaces.OPTIONS | options,
    )  # fmt: skip


def _assert_same_elsewhere(folder, wanted):
    """Check the results of a process that cannot import this package."""
    np.save(folder / "snapshots.npy", MEASUREMENT.snapshots)
    names = [folder / name for name in ("localizer.bin", "snapshots.npy", "found.npz")]
    subprocess.run([sys.executable, "-c", _PROGRAM, *map(str, names)], check=True, timeout=600)
    with np.load(folder / "found.npz") as found:
        assert set(found) == set(exported.FIELDS)
        deviations = np.sqrt(np.diagonal(wanted.covariance, axis1=-2, axis2=-1))
        np.testing.assert_array_equal(found["num_sources"], wanted.num_sources)
        for index, name in enumerate(("azimuth", "elevation", "source_range")):
            deviation = deviations[..., index]
            known = np.isfinite(deviation)
            away = np.abs(found[name][known] - getattr(wanted, name)[known])
            assert (away <= 0.1 * deviation[known]).all(), name
        np.testing.assert_allclose(found["covariance"], wanted.covariance, rtol=0.05, atol=1e-6)
        np.testing.assert_allclose(found["noise_variance"], wanted.noise_variance, rtol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 2, "static_path": "on"},
        {"batch_size": 2, "source_signal": "independent"},
    ],
    ids=["one", "static_path", "independent"],
)
def test_plain_jax_has_the_results(tmp_path, options):
    _export(tmp_path / "localizer.bin", **options)
    options = {"static_path": "off"} | options
    options.pop("batch_size", None)
    wanted = localization.localize(
        MEASUREMENT, POSITIONS, check=False, **surfaces.OPTIONS | options
    )
    _assert_same_elsewhere(tmp_path, jax.device_get(wanted))


def test_public_name():
    assert ris_jax.export_localizer is exported.export_localizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"static_path": "auto"}, "static_path: need on or off; got 'auto'"),
        ({"batch_size": 0}, "batch_size: need 1 or more; got 0"),
        ({"estimator": "none"}, "estimator: need one of"),
    ],
)
def test_invalid_options(tmp_path, options, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        _export(tmp_path / "localizer.bin", **options)
    assert not list(tmp_path.iterdir())


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "flatbuffers" else find(name)
    )
    with pytest.raises(errors.RunError, match="export: expected the package flatbuffers; found"):
        _export(tmp_path / "localizer.bin")
