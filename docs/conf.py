# SPDX-License-Identifier: Apache-2.0
"""Settings of the documentation site.

    pip install -e '.[docs]' && sphinx-build -W --keep-going -c docs . build/site

The source folder is the repository, so READMEs stay next to the code. Their links and
pictures are checked as they are on GitHub. README.md is the first page.
"""

import pathlib
import sys

import ldm_jax

sys.path.insert(0, str(pathlib.Path(__file__).parent / "extensions"))

project = "ldm_jax"
copyright = "the authors of ldm_jax, Apache 2.0"
release = ldm_jax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_pages",
    "plain_docstrings",
    "contents",
]

root_doc = "README"
include_patterns = [
    "*.md",
    "configs/README.md",
    "launch/*.md",
    "ldm_jax/**/*.md",
    "docs/*.md",
    "docs/*.ipynb",
]

myst_heading_anchors = 3
# The notebook is stored without outputs; the site shows those of this build.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"
highlight_language = "text"

html_theme = "furo"
html_title = "ldm_jax"
html_static_path = []
html_copy_source = False
html_show_sourcelink = False
