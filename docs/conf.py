"""Settings of the documentation site. ``make docs`` builds it into ``docs/_build/html``."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import reslink

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks are fastest in one thread
os.environ.setdefault("MPLBACKEND", "agg")
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "reslink"
author = "The reslink authors"
copyright = "The reslink authors"
version = release = reslink.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "generated_pages",
    "check_links",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_generated", "examples", "notebooks", "**.ipynb", "**/sg_execution_times.rst"]
nitpicky = True
# Only names of reslink can be resolved without a network connection.
nitpick_ignore_regex = [("py:.*", r"(?!reslink\b).*"), ("py:.*", r"reslink\.[a-z_]+\..*")]
smartquotes = False  # it would turn the dashes of options into typographic ones
templates_path: list[str] = []

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "reslink"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"index": [], "glossary": [], "limits": [], "coming-from": []}
html_theme_options = {
    "announcement": "Research use only. Not a medical device; not for diagnosis.",
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}

copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "backreferences_dir": "_generated/backreferences",
    "doc_module": ("reslink",),
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "matplotlib_animations": False,
    "write_computation_times": False,
}
# sphinx-gallery compares its own objects when it pickles the environment; nothing of the site is lost by it.
warnings.filterwarnings("ignore", message=".*cannot cache unpickleable configuration value.*")
suppress_warnings = ["config.cache"]
