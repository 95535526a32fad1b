"""The differences between two nested dictionaries, such as recipes, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_HASHED = {"data": "data has changed", "sources": "the sources of the images have changed"}


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yields the differences between two nested dictionaries: dotted names with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        label = name.removeprefix("recipe.")
        yield _HASHED.get(label, f"{label} was {before}, is {now}")
