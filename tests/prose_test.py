"""Docstrings begin with a verb or a noun phrase; texts avoid words that need decoding."""

import ast
import io
import json
import pathlib
import re
import tokenize

import pytest

import ris_jax

ROOT = pathlib.Path(ris_jax.__file__).parents[1]
FOLDERS = ("ris_jax", "tests", "experiments")
EXCLUDED = ("tests/prose_test.py",)  # has examples of faults
QUESTION = re.compile(r"(What|Which|How|Where|Of|Whether|When|Why|Who|Whose)\b")
AVOIDED = re.compile(r"\b(told|a source more|one (source )?too many)\b", re.IGNORECASE)
FORMER = re.compile(r"\bPyTorch\b|\breference (pipeline|code|shards?)\b|\bthe reference's\b")
LINK_TO_FORMER = re.compile(r"\[[^]]*\]\([^)]*from_pytorch\.md[^)]*\)")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if str(path.relative_to(ROOT)) not in EXCLUDED
)

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.ipynb")),
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


def page_text(path):
    """The text of a Markdown page or a notebook, without code."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"```.*?```|^ {4}.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


def question_sentences(text):
    """Headings and sentences that begin with a question word."""
    starts = re.split(r"\n\s*\n|[.:;!?]\s+|^#+ |^[-*] |\| ", text, flags=re.MULTILINE)
    return [start.split("\n")[0] for start in starts if QUESTION.match(start.strip())]


def former_names(text):
    """Mentions of the pipeline that this package replaces, apart from links to its page."""
    return [found.group() for found in FORMER.finditer(LINK_TO_FORMER.sub("", text))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path):
    text = page_text(path)
    assert question_sentences(text) == []
    assert [found.group() for found in AVOIDED.finditer(text)] == []
    if path.stem not in ("from_pytorch", "CHANGELOG"):
        assert former_names(text) == []


def test_faults_of_pages_are_found():
    text = "## What it says\n\nPlain text. Of two sources, `told`, one was told the number."
    assert len(question_sentences(text)) == 2
    assert former_names("[from the PyTorch pipeline](from_pytorch.md), the reference's") == [
        "the reference's"
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts(path):
    source = path.read_text()
    assert question_lines(source) == []
    assert avoided_words(source) == []


def test_faults_are_found():
    source = (
        '"""What is left."""\n\n\n'
        'def f():\n    """Of all."""  # as told\n    return "one too many"\n'
    )
    assert question_lines(source) == ["What is left.", "Of all."]
    assert avoided_words(source) == ["told", "one too many"]
    assert avoided_words('"""Column `told` of a table."""') == []
