"""Converts pydantic's errors on a recipe to messages in the terms of the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from reslink.errors import UsageError, suggest

_FLAGS = {"trainer.epochs": "--epochs", "seed": "--seed"}
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a string",
    "null": "null",
}


class SettingsSchema:
    """The JSON schema of a settings class, with lookup by dotted names.

    Args:
        schema: The result of ``model_json_schema``.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def keys(self) -> Iterator[str]:
        """Yields the dotted name of every section and setting."""
        yield from self._below(self._schema, "")

    def allowed(self, path: Sequence[str]) -> str:
        """Returns the allowed values of a setting in words."""
        node = self._schema
        for part in path:
            node = self._resolve(node).get("properties", {}).get(part, {})
        return self._describe(node)

    def takes_whole_numbers(self, path: Sequence[str]) -> bool:
        """Returns whether a setting takes whole numbers but no other numbers; false for an unknown one."""
        node = self._schema
        for part in path:
            node = self._resolve(node).get("properties", {}).get(part, {})
        options = [self._resolve(option).get("type") for option in node.get("anyOf", [node])]
        return "integer" in options and "number" not in options

    def _resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        name = node.get("$ref", "").rpartition("/")[2]
        return self._schema["$defs"][name] if name else node

    def _below(self, node: dict[str, Any], prefix: str) -> Iterator[str]:
        for name, child in self._resolve(node).get("properties", {}).items():
            yield prefix + name
            yield from self._below(child, f"{prefix}{name}.")

    def _describe(self, node: dict[str, Any]) -> str:
        node = self._resolve(node)
        if "anyOf" in node:
            return " or ".join(dict.fromkeys(self._describe(option) for option in node["anyOf"]))
        if "enum" in node or "const" in node:
            return "one of " + ", ".join(str(value) for value in node.get("enum", [node.get("const")]))
        kind = node.get("type", "")
        if kind == "array":
            return self._describe_list(node)
        if kind == "object" and not node.get("properties"):
            return "a mapping of names to values"
        if kind == "object":
            return "a section with the keys " + ", ".join(node.get("properties", {}))
        return _KINDS.get(kind, "another value") + _range(node)

    def _describe_list(self, node: dict[str, Any]) -> str:
        items = node.get("prefixItems")
        if items:
            return f"a list of {len(items)}, each {self._describe(items[0])}"
        return f"a list, each entry {self._describe(node.get('items', {}))}"


def _range(node: dict[str, Any]) -> str:
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    parts = [f"{word} {node[bound]:g}" for bound, word in bounds.items() if bound in node]
    return " " + " and ".join(parts) if parts else ""


def nearest_key(key: str, options: Iterable[str]) -> str:
    """Returns the phrase that suggests the setting most likely meant; the last part of the name counts first.

    Args:
        key: The name that the user wrote, dotted or not.
        options: The dotted names of all settings.
    """
    choices = list(options)
    section, _, name = key.rpartition(".")
    same_name = [choice for choice in choices if choice.rpartition(".")[2] == name]
    if same_name:
        return suggest(key, same_name) if len(same_name) > 1 else f"Did you mean {same_name[0]!r}?"
    siblings = [choice for choice in choices if section and choice.startswith(section + ".")]
    phrase = suggest(key, siblings) if siblings else ""
    if phrase.startswith("Did"):
        return phrase
    by_name = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    close = suggest(name, by_name)
    if close.startswith("Did"):
        return f"Did you mean {by_name[close.split(chr(39))[1]]!r}?"
    return suggest(key, siblings or [choice for choice in choices if "." not in choice])


def explain(error: ValidationError, schema: dict[str, Any], prefix: tuple[str, ...] = ()) -> UsageError:
    """Returns pydantic's first error as a message in three parts.

    Args:
        error: The error of pydantic.
        schema: JSON schema of the settings class that raised it.
        prefix: Path of these settings in the recipe.
    """
    first = error.errors(include_url=False)[0]
    settings = SettingsSchema(schema)
    path = _settings_path(
        [str(part) for part in first["loc"]], set(settings.keys()), unknown=first["type"] == "extra_forbidden"
    )
    key = ".".join([*prefix, *path])
    if first["type"] == "extra_forbidden":
        known = [".".join([*prefix, name]) for name in settings.keys()]  # noqa: SIM118 - not a dictionary
        return UsageError(f"The recipe has the unknown key {key!r}", "A recipe has only known keys", nearest_key(key, known))
    if first["type"] == "value_error":
        reason = str(first["ctx"]["error"])
        return UsageError(
            f"The recipe's {key or 'settings'}: {reason}", "The settings must fit together", f"Change {key or 'it'}"
        )
    flag = f" ({_FLAGS[key]} {first['input']})" if key in _FLAGS else ""
    return UsageError(
        f"{key} is {_shown(first['input'])}{flag}",
        f"It is {settings.allowed(path)}",
        f"Correct it in the recipe, with --set {key}=…" + (f" or with {_FLAGS[key]}" if key in _FLAGS else ""),
    )


def _settings_path(loc: list[str], known: set[str], *, unknown: bool) -> list[str]:
    """Removes what pydantic appends to the name of a setting: list indices, names of alternatives."""
    if unknown:
        return loc
    while loc and ".".join(loc) not in known:
        loc = loc[:-1]
    return loc


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
