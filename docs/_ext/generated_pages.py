"""Writes the pages that come from the package itself: its commands, its public names, and the models that ship with it.

The pages are Markdown files, written before Sphinx looks for sources. Git ignores them.
"""

from __future__ import annotations

from pathlib import Path

import api_pages
import command_pages
import model_pages
from sphinx.application import Sphinx

WRITTEN_BY_HAND = ("index.md", "weights-license.md")


def pages() -> dict[str, str]:
    """Returns every generated page: its path below ``docs/`` and its text."""
    return {**command_pages.pages(), **api_pages.pages(), **model_pages.pages()}


def write_pages(app: Sphinx) -> None:
    """Writes the pages, and removes those of commands, names and models that are gone.

    A file that already has the same text is left alone, so that Sphinx does not read it again.
    """
    source, texts = Path(app.srcdir), pages()
    for name, text in texts.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for folder in (command_pages.FOLDER, api_pages.FOLDER, model_pages.FOLDER):
        for path in (source / folder).glob("*.md"):
            if path.name not in WRITTEN_BY_HAND and f"{folder}/{path.name}" not in texts:
                path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("autodoc-process-docstring", api_pages.describe_callable_package, priority=100)  # before napoleon
    app.connect("missing-reference", api_pages.resolve_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
