"""What the README shows runs as printed."""

import pathlib
import re

import numpy as np
import pytest

import ris_jax
from ris_jax import metrics
from ris_jax.data import recordings

README = pathlib.Path(__file__).parents[1] / "README.md"


BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(block, names):
    exec(compile(block, "README.md", "exec"), names)


def test_there_are_three_examples():
    assert len(BLOCKS) == 3


def test_recordings_example(tmp_path, monkeypatch):
    """What the first example saves is what `localize` reads."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)

    def gaussian(*shape):
        return generator.normal(size=shape) + 1j * generator.normal(size=shape)

    positions = np.array([[x, y, 0.0] for y in range(3) for x in range(3)]) * 0.15
    names = {"y": gaussian(4, 5, 6), "H": gaussian(6, 9), "C": gaussian(5, 9), "q": positions}
    run(BLOCKS[0], names)
    found = recordings.read(tmp_path / "recordings.npz")
    assert found.snapshots.shape == (4, 5, 6)
    assert not found.skipped


def test_localization_example():
    """The second example finds the sources that were simulated."""
    names = {}
    run(BLOCKS[1], names)
    truth, found = names["scene"].truth, names["found"]
    np.testing.assert_array_equal(found.num_sources, truth.num_sources)
    assert float(metrics.gospa(found, truth).total.max()) < 1.0


def test_training_example(capsys):
    run(BLOCKS[2], {})
    assert capsys.readouterr().out.count("True") == 3


def test_public_names():
    assert set(ris_jax._EXPORTS) == set(ris_jax.__all__)
    for name in ris_jax.__all__:
        assert getattr(ris_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ris_jax.nonsense  # noqa: B018
