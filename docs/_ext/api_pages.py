"""The pages of the Python API: one for each name in ``reslink.__all__``."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import reslink

FOLDER = "reference/api"
NAMES = tuple(sorted((name for name in reslink.__all__ if not name.startswith("_")), key=str.lower))

PAGE = """# reslink.{name}

```{{eval-rst}}
.. currentmodule:: reslink

.. {directive}:: {name}{signature}
{options}
```

```{{eval-rst}}
.. minigallery:: reslink.{name}
   :add-heading: Examples that use {name}
   :heading-level: ^
```
"""


def pages() -> dict[str, str]:
    """Returns a page for each public name, and the tables of the index."""
    texts = {f"{FOLDER}/{name}.md": _page(name) for name in NAMES}
    texts["_generated/api.md"] = _index()
    return texts


def _page(name: str) -> str:
    value = getattr(reslink, name)
    if not inspect.isclass(value):
        return PAGE.format(name=name, signature="", directive="autofunction", options="")
    options = "   :members:\n   :exclude-members: model_config, model_post_init, set_fit_request, set_score_request\n"
    return PAGE.format(name=name, signature=_settings(value), directive="autoclass", options=options)


def _settings(value: Any) -> str:
    """Returns the signature of a settings class with its defaults alone; pydantic's own repeats every constraint of a field."""
    fields = getattr(value, "model_fields", {})
    return f"(*, {', '.join(f'{name}={field.default!r}' for name, field in fields.items())})" if fields else ""


def _index() -> str:
    """Returns two tables, of classes and of functions, and the table of contents of the pages."""
    classes = [name for name in NAMES if inspect.isclass(getattr(reslink, name))]
    lines = []
    for title, names in (("Classes", classes), ("Functions", [name for name in NAMES if name not in classes])):
        lines += [
            f"## {title}",
            "",
            "```{eval-rst}",
            ".. currentmodule:: reslink",
            "",
            ".. autosummary::",
            "   :nosignatures:",
            "",
        ]
        lines += [*(f"   {name}" for name in names), "```", ""]
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *NAMES, "```", ""])


def describe_callable_package(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Shows the documentation of the function where a public name is a package that can be called, as ``reslink.audit``."""
    if inspect.ismodule(value) and callable(value):
        word = name.rsplit(".", 1)[-1]
        function = getattr(importlib.import_module(f"reslink.api.{word}"), word)
        lines[:] = (inspect.getdoc(function) or "").splitlines()


def resolve_public_name(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Node) -> nodes.Node | None:
    """Links a name by its module (``reslink.bundles.bundle.Bundle``) to the page of the public name (``reslink.Bundle``)."""
    target = node.get("reftarget", "")
    last = target.rsplit(".", 1)[-1]
    if node.get("refdomain") != "py" or last not in NAMES or target == f"reslink.{last}":
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"reslink.{last}", node, content)
