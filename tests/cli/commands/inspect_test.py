"""Mistakes in recordings files that `inspect` reports, and correct files without reports."""

import contextlib
import io

import numpy as np
import pytest

from ris_jax.cli import main
from ris_jax.data.recordings import containers, host_steering
from ris_jax.physics.element_response import ElementResponse

WAVELENGTH = 0.3


def _grid(rows, columns, spacing=0.5 * WAVELENGTH):
    y, x = np.mgrid[:rows, :columns] * spacing
    places = np.stack([x.ravel(), y.ravel(), np.zeros(rows * columns)], axis=-1)
    return places - places.mean(axis=0)


def _gaussian(random, *shape):
    real, imaginary = random.normal(scale=np.sqrt(0.5), size=(2, *shape))
    return real + 1j * imaginary


def _file(
    positions=None, antennas=12, codes=16, seed=0, snr_db=15.0, sources=2, scenes=3, bits=3,
    independent=False, wavefront="spherical", wavelength=WAVELENGTH, surface=True, static=0.0,
    response=None,
):  # fmt: skip
    """Return the arrays of a recordings file."""
    random = np.random.default_rng(seed)
    positions = _grid(8, 8) if positions is None else positions
    elements = len(positions)
    levels = 2**bits
    shape = (codes, elements)
    chosen = np.exp(2j * np.pi * random.integers(levels, size=shape) / levels)
    channel = _gaussian(random, antennas, elements)
    if not surface:
        antennas, channel, chosen = elements, np.eye(elements), np.ones(shape)
    snapshots = []
    for _ in range(scenes):
        angles = random.uniform([[-0.9], [-0.4]], [[0.9], [0.4]], (2, sources))
        if np.ptp(positions[:, 1]) == 0:
            angles[1] = 0
        points = host_steering.coordinates_of(*angles, random.uniform(0.8, 5.0, sources))
        vectors = host_steering.steering(
            points, positions, wavelength=wavelength, wavefront=wavefront, response=response
        )
        signals = np.exp(2j * np.pi * random.random(sources))
        if independent:
            signals = _gaussian(random, codes, sources)
        clean = (chosen * (signals @ vectors)) @ channel.T
        clean += static * np.sqrt(np.mean(np.abs(clean) ** 2)) * _gaussian(random, antennas)
        noise = np.mean(np.abs(clean) ** 2) * 10 ** (-snr_db / 10)
        snapshots.append(clean + np.sqrt(noise) * _gaussian(random, *clean.shape))
    return {
        "snapshots": np.array(snapshots),
        "channel": channel.astype(complex),
        "codes": chosen.astype(complex),
        "wavelength": np.array(wavelength),
        "element_positions": positions,
        **({} if response is None else {"response_exponent": response.exponent}),
    }


def _run(path):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main.main(["ris-jax", "inspect", f"--data={path}"])
    return status, out.getvalue()


def _inspected(tmp_path, arrays):
    containers.save(tmp_path / "a.npz", arrays)
    return _run(tmp_path / "a.npz")


ANGLE = np.linspace(0, 2 * np.pi, 32, endpoint=False)
GOOD = {
    "default": {},
    "high SNR": {"snr_db": 40.0},
    "low SNR": {"snr_db": -5.0, "sources": 1},
    "one source": {"sources": 1},
    "four sources": {"sources": 4},
    "12 x 12 with 16 of 16": {"positions": _grid(12, 12), "antennas": 16},
    "as many codes as antennas": {"antennas": 16, "snr_db": 5.0},
    "few samples": {"antennas": 4, "codes": 8},
    "one antenna": {"antennas": 1, "codes": 200},
    "one bit": {"bits": 1, "codes": 32},
    "two bits": {"bits": 2},
    "a line": {"positions": _grid(1, 24), "antennas": 4},
    "a wide surface": {"positions": _grid(4, 24)},
    "a circle": {"positions": 0.75 * np.stack([np.cos(ANGLE), np.sin(ANGLE), 0 * ANGLE], -1)},
    "any places": {"positions": np.random.default_rng(5).uniform(-0.6, 0.6, (48, 3)) * [1, 1, 0.1]},
    "independent signals": {"independent": True},
    "one scene": {"scenes": 1},
    "no surface": {"positions": _grid(4, 8), "surface": False, "codes": 8},
    "5 GHz": {"positions": _grid(10, 10, 0.025), "wavelength": 0.0558},
    "a static path": {"static": 1.0, "codes": 32},
    "off-centre": {"positions": _grid(8, 8) + np.array([0.4, 0.0, 0.0])},
    "elements with a response": {"response": ElementResponse.cosine(1.0)},
}


@pytest.mark.parametrize("name", GOOD)
def test_correct_files_have_no_warnings(tmp_path, name):
    status, out = _inspected(tmp_path, _file(**GOOD[name]))
    assert "suspicious: " not in out
    assert status == 0


def _set(**changes):
    """Return a change of fields by functions of the old values."""
    return lambda arrays: arrays | {key: change(arrays[key]) for key, change in changes.items()}


def _states(arrays):
    """Return the states of three-bit codes."""
    return np.round(np.angle(arrays["codes"]) / (np.pi / 4)).astype(int) % 8


MISTAKES = {
    "transposed axes": (_set(snapshots=lambda y: y.swapaxes(1, 2)), {}, "axes swapped"),
    "transposed axes of one length": (
        _set(snapshots=lambda y: y.swapaxes(1, 2)), {"antennas": 16}, "axes L and M"
    ),
    "phases as codes": (_set(codes=np.angle), {}, "phases"),
    "complex phases as codes": (_set(codes=lambda c: np.angle(c) + 0j), {}, "phases"),
    "states as codes": (lambda a: a | {"codes": _states(a)}, {}, "states"),
    "complex states as codes": (lambda a: a | {"codes": _states(a) + 0j}, {}, "states"),
    "one-bit states as codes": (
        _set(codes=lambda c: (c.real < 0).astype(float)), {"bits": 1}, "one-bit states"
    ),
    "degrees for radians": (
        lambda a: a | {"codes": np.exp(1j * 45.0 * _states(a))}, {}, "in degrees"
    ),
    "degrees in the truth": (
        lambda a: a | {"num_sources": np.ones(3, int), "azimuth": np.full((3, 1), 30.0),
                       "elevation": np.zeros((3, 1)), "source_range": np.ones((3, 1))},
        {}, "degrees?",
    ),
    "centimetres": (_set(element_positions=lambda q: 100 * q), {}, "centimetres"),
    "millimetres": (_set(element_positions=lambda q: 1000 * q), {}, "millimetres"),
    "wavelengths": (
        lambda a: a | {"element_positions": a["element_positions"] / a["wavelength"]},
        {}, "wavelengths?",
    ),
    "wrong sign convention": (
        _set(snapshots=np.conj, channel=np.conj, codes=np.conj), {}, "opposite sign convention"
    ),
    "conjugated snapshots": (_set(snapshots=np.conj), {}, "snapshots conjugated"),
    "channel of other codes": (
        lambda a: a | {"channel": a["channel"] * a["codes"][0]}, {}, "measured with other codes"
    ),
    "codes of another run": (
        _set(codes=lambda c: np.random.default_rng(9).permutation(c.ravel()).reshape(c.shape)),
        {}, "belong to other snapshots",
    ),
    "duplicated elements": (
        _set(element_positions=lambda q: np.where(np.arange(len(q))[:, None] == 1, q[0], q)),
        {}, "need distinct positions of all elements",
    ),
    "nearly duplicated elements": (
        _set(element_positions=lambda q: np.where(np.arange(len(q))[:, None] == 1, q[0] + 1e-6, q)),
        {}, "2 elements coincide with another",
    ),
    "map coordinates": (
        _set(element_positions=lambda q: q + np.array([431_250.0, 5_412_800.0, 112.0])), {},
        "map coordinates?",
    ),
    "a wall on a map": (_set(element_positions=lambda q: q[:, [0, 2, 1]]), {}, "facing +z"),
    "rows for columns": (
        _set(element_positions=lambda q: q[np.arange(64).reshape(4, 16).T.ravel()]),
        {"positions": _grid(4, 16)}, "rows and columns",
    ),
    "wrong SNR": (lambda a: a | {"snr_db": np.full(3, 40.0)}, {}, "snr_db"),
}  # fmt: skip


# Ten mistakes, on other arrays than the 8 x 8 elements of `MISTAKES`.
TEN = (
    "transposed axes", "complex phases as codes", "complex states as codes", "degrees for radians",
    "centimetres", "wavelengths", "wrong sign convention", "channel of other codes",
    "nearly duplicated elements", "map coordinates",
)  # fmt: skip
ARRAYS = {
    name: GOOD[name]
    for name in (
        "a line", "one antenna", "a circle", "any places", "5 GHz", "a static path",
        "independent signals",
    )
}  # fmt: skip
OTHERS = [
    pytest.param(array, name, marks=[] if array == "a line" else pytest.mark.full)
    for array in ARRAYS
    for name in TEN
]


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(tmp_path, name):
    change, options, expected = MISTAKES[name]
    _check(tmp_path, change(_file(**options)), expected)


@pytest.mark.parametrize(("array", "name"), OTHERS)
def test_mistakes_are_named_on_other_arrays(tmp_path, array, name):
    change, _, expected = MISTAKES[name]
    _check(tmp_path, change(_file(**ARRAYS[array])), expected)


def _check(tmp_path, arrays, expected):
    """Check that the mistake is among at most two warnings."""
    status, out = _inspected(tmp_path, arrays)
    assert status == 1
    suspicious = [line for line in out.splitlines() if line.startswith("suspicious: ")]
    assert any(expected in line for line in suspicious), out
    assert len(suspicious) <= 2
