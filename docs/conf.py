"""Configuration of the documentation site: `sphinx-build -W docs docs/_build`, warnings are errors.

Pages are Markdown (MyST), the reference comes from docstrings, and the notebooks, which are kept
without outputs, are executed at every build.
"""

import ris_jax  # noqa: F401, I001  before jax: it sets threads that JAX reads when it starts
import jax

jax.Array.__name__ = "Array"  # in signatures, where jaxtyping would say jaxlib._jax.Array

project = "ris_jax"
author = "the ris_jax authors"
copyright = "the ris_jax authors, Apache-2.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = "ris_jax"

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# Names in single backquotes become links where there is something to link to.
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
