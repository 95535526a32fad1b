"""Writes docs/reference/recipe.md from the settings classes, or checks that it is up to date.

Run ``make recipe-keys`` after you change a setting.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pydantic import BaseModel

from reslink.training.recipe.errors import SettingsSchema
from reslink.training.recipe.recipe import Recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "recipe.md"
HEAD = """# Recipe keys

A recipe is a YAML file with the sections below. `--set section.key=value` sets one key and overrides the file; the value is
parsed as YAML. An unknown key is an error that names the nearest one. `config.yaml` in each run folder holds every key with
the value that was used.

```yaml
trainer:
  epochs: 5
model:
  variant: reslink_paper
```
"""


def attributes(model: type[BaseModel]) -> dict[str, str]:
    """Returns the description of each field from the ``Attributes:`` section of a class docstring."""
    _, _, section = (model.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in entries}


def rows(model: type[BaseModel], prefix: str, schema: SettingsSchema) -> list[str]:
    """Returns a table row for each setting of a section."""
    texts = attributes(model)
    path = prefix.split(".")[:-1]
    return [
        f"| `{prefix}{name}` | {texts.get(name, '')} | {schema.allowed([*path, name])} | `{default(field.get_default())}` |"
        for name, field in model.model_fields.items()
        if not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel)
    ]


def default(value: object) -> str:
    """Returns a default value in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def first_line(model: type[BaseModel]) -> str:
    """Returns the first line of a section's docstring."""
    return (model.__doc__ or "").splitlines()[0].replace("``", "`")


def page() -> str:
    """Returns the text of the page."""
    schema, text = SettingsSchema(Recipe.model_json_schema()), [HEAD]
    sections = {"": Recipe} | {
        f"{name}.": field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    for prefix, model in sections.items():
        text.append(f"\n## {prefix.rstrip('.') or 'Top level'}\n\n{first_line(model)}\n")
        text += ["| key | meaning | values | default |", "|---|---|---|---|", *rows(model, prefix, schema)]
    return "\n".join(text) + "\n"


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page instead of checking it")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write(f"{PAGE} is not up to date: run make recipe-keys\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
