"""Builds the site: `python -m sphinx -W --keep-going -b html docs docs/_build/html`.

It runs all examples; `-D plot_gallery=0` builds in a minute without. Nothing is fetched.
"""

import os
import re
import sys
from pathlib import Path

from numpydoc.docscrape_sphinx import SphinxDocString

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference import ERRORS, find_public, write_pages  # noqa: E402

import skembed  # noqa: E402

project = "skembed"
author = "The skembed developers"
copyright = "The skembed developers"
version = release = skembed.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/sg_execution_times*"]
default_role = "literal"  # docstrings put code into single backticks
smartquotes = False  # what stands in quotes is often typed as it is
nitpicky = True
# Types of other libraries: their pages are out of reach without a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!skembed).*"), (r"py:.*", r"skembed\.(\w+\.)*_\w.*")]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the docstrings say more
autosummary_generate = False
numpydoc_show_class_members = False
# Unknown parameters, their order, that of sections, and whether there is a docstring.
numpydoc_validation_checks = {"PR02", "PR03", "GL07", "GL08"}
numpydoc_validation_exclude = {r"\.BaseEmbedder$"}  # its parameters are those of subclasses

os.environ.setdefault("TQDM_DISABLE", "1")  # every step of a bar would be a line of its own
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"^_",
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("skembed",),
    "reference_url": {"skembed": None},
    "download_all_examples": False,  # they would lack the modules that they share
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "skembed"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
}


# numpydoc would put a property's first sentence in place of what its class says of it.
_process = SphinxDocString._process_param
SphinxDocString._process_param = lambda self, name, text, _: _process(self, name, text, False)

PAGES = {name.rpartition(".")[2]: name for name in find_public()} | {ERRORS: ERRORS}


def link(app, docname, source):
    """Let guides lead to the API and, by links as they stand in a checkout, to the gallery."""
    if docname.startswith(("api/", "auto_examples/")):
        return
    text = source[0].replace("](../examples/)", "](auto_examples/index.rst)")
    text = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](auto_examples/\1.rst)", text)
    parts = re.split(r"(^```.*?^```$|^#[^\n]*$)", text, flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):  # between blocks of code and headings
        parts[i] = link_names(parts[i], "{py:obj}")
    source[0] = "".join(parts)


def link_names(text, role):
    """Make links of inline code that is the name of something public."""

    def link(code):
        name = PAGES.get(code[1])
        return f"{role}`{code[1]} <{name}>`" if name else code[0]

    return re.sub(r"(?<![\[`:}])`([\w.]+)`(?!`)", link, text)


def mend(app, what, name, obj, options, lines):
    """Let docstrings lead to the API and to guides; no author's initial begins a list."""
    text = link_names("\n".join(lines), ":py:obj:")
    text = re.sub(r"`?docs/(\w+)\.md`?", r":doc:`/\1`", text)
    lines[:] = re.sub(r"(\.\. \[\S+\] [A-Z])\. ", r"\1\\. ", text).split("\n")


def setup(app):
    """Write the API reference before pages are looked for."""
    write_pages(HERE / "api")
    app.connect("source-read", link)
    app.connect("autodoc-process-docstring", mend)
