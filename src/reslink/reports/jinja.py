"""The one way in which templates are read: escaped, strict about what is missing, with the filters of every page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from reslink.reports.run import sections


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """Returns a template.

    Args:
        name: Its file name, such as ``page.html.j2``.
        filters: Those of this page, beside ``figure``, ``interval`` and ``signed``.
    """
    environment = Environment(
        loader=PackageLoader("reslink.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {"figure": sections.figure, "interval": sections.interval, "signed": sections.signed}
    environment.filters |= shared | filters
    return environment.get_template(name)
