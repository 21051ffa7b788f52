"""Docstrings begin with a verb or a noun phrase; texts avoid words that need decoding."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

import ris_jax

ROOT = pathlib.Path(ris_jax.__file__).parent
EXCLUDED: tuple[str, ...] = ()
QUESTION = re.compile(r"(What|Which|How|Where|Of|Whether|When|Why|Who|Whose)\b")
AVOIDED = re.compile(r"\b(told|a source more|one (source )?too many)\b", re.IGNORECASE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FILES = [
    path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in EXCLUDED
]


def question_lines(source):
    """First docstring lines that begin with a question word."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    lines = [(ast.get_docstring(node) or "").partition("\n")[0] for node in nodes]
    return [line for line in lines if QUESTION.match(line)]


def avoided_words(source):
    """Avoided words in docstrings, comments and messages; names in backticks are allowed."""
    texts = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    texts += [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    texts = [re.sub(r"`[^`]*`", "", " ".join(text.split())) for text in texts]
    return [found.group() for text in texts for found in AVOIDED.finditer(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_package(path):
    source = path.read_text()
    assert question_lines(source) == []
    assert avoided_words(source) == []


def test_excluded_parts_exist():
    """An entry without a file excludes nothing."""
    assert [name for name in EXCLUDED if not (ROOT / name).exists()] == []


def test_faults_are_found():
    source = (
        '"""What is left."""\n\n\n'
        'def f():\n    """Of all."""  # as told\n    return "one too many"\n'
    )
    assert question_lines(source) == ["What is left.", "Of all."]
    assert avoided_words(source) == ["told", "one too many"]
    assert avoided_words('"""Column `told` of a table."""') == []
