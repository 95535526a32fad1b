"""Checks the finished site: the targets of links, pictures and anchors exist, and no page loads anything from a network."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}


class _Page(HTMLParser):
    """The links of a page, the files that it loads, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = {"", "top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := values.get(key)))
        if tag == "a" and values.get("href"):
            self.links.add(str(values["href"]))
        if tag in LOADED and values.get(LOADED[tag]) and values.get("rel") not in ("canonical", "author"):
            self.loaded.add(str(values[LOADED[tag]]))


def faults(folder: Path, paths: Iterable[Path]) -> list[str]:
    """Returns one sentence per broken link of the pages of a site."""
    pages: dict[Path, _Page] = {}
    for path in paths:
        pages[path] = _Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    sentences = []
    for path, page in pages.items():
        name = path.relative_to(folder)
        sentences += [f"{name}: {url} is loaded from a network" for url in page.loaded if urlsplit(url).netloc]
        for url in page.links | page.loaded:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                sentences.append(f"{name}: {url} does not exist")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                sentences.append(f"{name}: the anchor {url} does not exist")
    return sentences


def check(app: Sphinx, error: Exception | None) -> None:
    """Warns of each broken link."""
    if error is not None or app.builder.format != "html":
        return
    paths = [Path(app.builder.get_outfilename(name)).resolve() for name in sorted(app.env.found_docs)]
    for fault in faults(Path(app.outdir).resolve(), paths):
        logging.getLogger(__name__).warning(fault)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("build-finished", check, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
