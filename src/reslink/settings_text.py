"""Reads YAML and JSON with limits on size, depth, aliases and numbers, flattens settings, and leaves out their newer fields.

Without them, a few hundred bytes of nested YAML aliases take gigabytes of memory, and deep nesting or an integer of thousands
of digits ends in an exception that names no file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import yaml
    from pydantic import BaseModel

MAX_YAML_BYTES: Final = 1 << 18
MAX_JSON_BYTES: Final = 256 << 20
MAX_DEPTH: Final = 64
MAX_YAML_VALUES: Final = 10_000
"""Values of a YAML text after its aliases are expanded."""

MAX_DIGITS: Final = 20
"""Digits of an integer: those of 64 bits."""


def parse_yaml(text: str, loader: type[yaml.SafeLoader] | None = None) -> Any:
    """Returns the value of a YAML text, with keys and values that JSON can hold, dates aside.

    Args:
        text: The text.
        loader: The loader; default: ``yaml.SafeLoader``.

    Raises:
        ValueError: If it is not valid YAML or exceeds a limit; the message is one line.
    """
    import yaml  # slow to import, and a bundle holds only JSON

    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"it has more than {MAX_YAML_BYTES >> 10} KiB")
    try:
        _check_events(text)
        reader = (loader or yaml.SafeLoader)(text)
        node = reader.get_single_node()
        if node is None:
            return None
        _count_values(node, {}, 0)
        value = reader.construct_document(node)
        _check_values(value)
    except RecursionError:
        raise _too_deep() from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return value


def parse_json(text: str | bytes, finite: bool = False) -> Any:
    """Returns the value of a JSON text.

    Args:
        text: The text.
        finite: Whether NaN and infinite numbers, which are not JSON, are refused.

    Raises:
        ValueError: If it is not JSON or exceeds a limit.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES >> 20} MiB")
    try:
        value = json.loads(text, parse_int=_parse_integer, parse_constant=_refuse_constant if finite else None)
    except RecursionError:
        raise _too_deep() from None
    _check_values(value, finite)
    return value


def read_yaml(path: Path, loader: type[yaml.SafeLoader] | None = None) -> Any:
    """Returns the value of a YAML file, see :func:`parse_yaml`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not valid YAML in UTF-8, or exceeds a limit.
    """
    return parse_yaml(_read(path, MAX_YAML_BYTES).decode(), loader)


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file, see :func:`parse_json`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON, or exceeds a limit.
    """
    return parse_json(_read(path, MAX_JSON_BYTES))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested settings with their dotted names, such as ``trainer.epochs``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def without_newer_defaults(model: BaseModel, fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns the JSON form of a model without the named fields that have their defaults, so that earlier files stay the same.

    Args:
        model: The model.
        fields: Its JSON form.
        *names: Fields that were added later.
    """
    defaults = {name: type(model).model_fields[name].default for name in names}
    return {name: value for name, value in fields.items() if name not in defaults or getattr(model, name) != defaults[name]}


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(limit + 1)


def _too_deep() -> ValueError:
    return ValueError(f"its values are nested more than {MAX_DEPTH} levels deep")


def _check_events(text: str) -> None:
    """Checks depth and number of values while the text is scanned, as building and counting them takes much longer."""
    import yaml

    depth = values = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH:
            raise _too_deep()
        if values > MAX_YAML_VALUES:
            raise _too_many()


def _too_many() -> ValueError:
    return ValueError(f"it has more than {MAX_YAML_VALUES} values, aliases (*name) expanded")


def _count_values(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Returns the number of values of a node with its aliases expanded; the same node is counted once and remembered."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    size = sizes.get(id(node))
    if size is None:
        sizes[id(node)] = MAX_YAML_VALUES + 1  # found again below itself, it contains itself
        size = sizes[id(node)] = 1 + sum(_count_values(child, sizes, depth + 1) for child in _children(node))
    if size > MAX_YAML_VALUES:
        raise _too_many()
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _parse_integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"it has an integer of {len(text.lstrip('-'))} digits")
    return int(text)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _check_values(value: Any, finite: bool = False) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise _too_deep()
        below: list[Any] = []
        for item in level:
            _check_number(item, finite)
            if isinstance(item, dict):
                _check_keys(item)
                below += item.values()
            elif isinstance(item, (list, tuple, set)):
                below += item
        level, depth = below, depth + 1


def _check_number(item: Any, finite: bool) -> None:
    if isinstance(item, int) and abs(item) >= 10**MAX_DIGITS:
        raise ValueError(f"it has an integer of more than {MAX_DIGITS} digits")
    if finite and isinstance(item, float) and not math.isfinite(item):
        raise ValueError("it has a number that is too large")


def _check_keys(item: dict[Hashable, Any]) -> None:
    for key in item:
        if not isinstance(key, (str, int, float)) and key is not None:
            raise ValueError(f"it has the key {key!s:.40}, and a key is a word")
        _check_number(key, finite=False)
