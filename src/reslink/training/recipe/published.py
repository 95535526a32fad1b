"""The published recipes of the package: finds them by name and reads the results in their header."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from reslink.errors import UsageError, suggest

PUBLISHED = Path(str(resources.files("reslink.training.recipe") / "published"))
"""Folder of the published recipes, ``NAME.yaml`` each."""

_HEADER = re.compile(r"(?P<description>.*?) Command: (?P<command>.*?) Result: (?P<result>.*?) Time: (?P<time>.*)", re.DOTALL)


@dataclass(frozen=True)
class PublishedRecipe:
    """A recipe of the package and what it reached.

    Attributes:
        name: Its name, as ``--recipe`` takes it.
        description: Network and data.
        command: The command that was run.
        result: Metrics on held-out data.
        time: Training time.
    """

    name: str
    description: str
    command: str
    result: str
    time: str

    @classmethod
    def read(cls, path: Path) -> PublishedRecipe:
        """Reads the comment at the start of a recipe file.

        Raises:
            ValueError: If the comment has no description, command, result or time.
        """
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = [line.removeprefix("#").strip() for line in lines[: _first_setting(lines)]]
        parts = _HEADER.fullmatch(" ".join(comment))
        if parts is None:
            raise ValueError(f"{path.name} has no header with description, Command, Result and Time")
        return cls(path.stem, **{key: value.strip() for key, value in parts.groupdict().items()})

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return dict(vars(self))


def _first_setting(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


def names() -> list[str]:
    """Returns the sorted names of the published recipes."""
    return sorted(path.stem for path in PUBLISHED.glob("*.yaml"))


def published_recipes() -> list[PublishedRecipe]:
    """Returns the published recipes, sorted by name."""
    return [PublishedRecipe.read(PUBLISHED / f"{name}.yaml") for name in names()]


def find_recipe(name_or_path: str | Path) -> Path:
    """Returns the file of a recipe: a published one for its name, otherwise the given path.

    A string without a ``/`` is first looked up among the names: ``phantom`` is the published recipe, ``./phantom`` the file of
    that name. A warning says so if there is such a file, or ``phantom.yaml``. A ``Path`` is always a path.

    Raises:
        UsageError: If a name is neither a published recipe nor an existing file, with the nearest name.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or path.suffix or os.sep in name_or_path:
        return path
    if name_or_path in names():
        for file in (path, path.with_suffix(".yaml")):
            if file.exists():
                warnings.warn(f"{path} is the published recipe; write ./{file} to use the file of that name", stacklevel=2)
        return PUBLISHED / f"{path.name}.yaml"
    if path.is_file():
        return path
    raise UsageError(
        f"There is no recipe {path.name!r}",
        "--recipe takes a YAML file or the name of a published recipe (reslink recipes lists them)",
        suggest(path.name, names()),
    )
