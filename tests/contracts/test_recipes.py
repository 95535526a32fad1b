"""Every recipe says in its head what it reached, by which command, in what time; and its figures stand in RESULTS.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_head_of_a_recipe(recipe: Path, root: Path) -> None:
    head = re.match(r"(?:#.*\n)+", recipe.read_text())
    assert head is not None
    text = re.sub(r"\n# +", " ", head.group())
    found = re.search(r"Command: (.*?) Result: (.*?) Time: (.*)", text, re.DOTALL)
    assert found is not None, "it has no command, result and time"
    command, result, time = (part.strip() for part in found.groups())
    assert f"reslink train DATA --out RUN --recipe recipes/{recipe.name}" in command
    figures = re.findall(r"\b0\.\d{3}\b", result)
    assert figures, "it was never run"
    assert re.search(r"\d+ (to \d+ )?minutes", time)
    results = (root / "benchmarks" / "RESULTS.md").read_text()
    assert [figure for figure in figures if figure not in results] == []
