"""The files in ``deploy/``, the pinned versions, and a parser of reslink's command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def deploy() -> Path:
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.fixture(scope="session")
def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Containerfile, with those of the stage it starts from."""
    text = (ROOT / "deploy" / "container" / "Containerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = list(found.get(base, [f"FROM {base}"]))
        elif line and not line.startswith("#"):
            found[name].append(line)
    return found


@pytest.fixture(scope="session")
def parse() -> Callable[[list[str]], dict[str, Any]]:
    """Parses the words after ``reslink`` as the command line does, without running them, and returns the parameters."""
    from reslink.cli.main import app

    def parse_words(words: list[str]) -> dict[str, Any]:
        command: Any = typer.main.get_command(app)
        names = []
        while hasattr(command, "commands"):
            assert words[0] in command.commands, f"reslink has no command {words[0]}"
            names.append(words[0])
            command, words = command.commands[words[0]], words[1:]
        if "--on" in words and not any("--on" in parameter.opts for parameter in command.params):
            pytest.skip("this version has no --on")
        parameters: dict[str, Any] = command.make_context(" ".join(names), list(words)).params
        return parameters

    return parse_words
