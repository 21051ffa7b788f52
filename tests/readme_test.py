"""What the README shows runs as printed."""

import pathlib
import re

import pytest

import ris_jax

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_python_example(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.count("True") == 3


def test_public_names():
    assert set(ris_jax._EXPORTS) == set(ris_jax.__all__)
    for name in ris_jax.__all__:
        assert getattr(ris_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ris_jax.nonsense  # noqa: B018
