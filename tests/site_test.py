"""The site builds from docs/ without a warning, and its notebooks run."""

import pathlib
import re
import shutil
import subprocess
import sys
import zlib

import pytest

import ris_jax

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]  # notebooks compile
pytest.importorskip("myst_nb", reason="the extra `docs` is not installed")

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; notebooks share the tests' cache of compiled programs."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "docs"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build", "generated"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", source, folder / "html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


def test_notebooks_are_stored_without_outputs():
    for path in (DOCS / "notebooks").glob("*.ipynb"):
        assert '"output_type"' not in path.read_text(), f"{path}: clear its outputs"


def test_notebooks_have_run_and_drawn(site):
    pages = sorted((site / "notebooks").glob("*.html"))
    assert len(pages) == len(list((DOCS / "notebooks").glob("*.ipynb"))) == 3
    for page in pages:
        assert "data:image/png" in page.read_text() or "_images/" in page.read_text()


def test_formulas_are_formulas(site):
    """A remaining dollar sign is a formula that MyST did not recognise."""
    article = re.search(r"<article.*</article>", (site / "theory.html").read_text(), re.DOTALL)
    assert article is not None
    assert article[0].count('class="math') > 50
    assert "$" not in article[0]


def test_reference_lists_every_public_name(site):
    index = (DOCS / "reference" / "index.md").read_text().split()
    header, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert header.startswith(b"# Sphinx inventory")
    described = {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}
    for name, module in ris_jax._EXPORTS.items():
        assert f"ris_jax.{module}.{name}" in described
        assert f"ris_jax.{module}.{name}" in index
