"""Every published recipe states its result, command and time; its metrics are also in the benchmark results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reslink.training.recipe.published import PublishedRecipe, published_recipes


@pytest.mark.parametrize("recipe", published_recipes(), ids=lambda recipe: recipe.name)
def test_the_header_of_a_recipe(recipe: PublishedRecipe, root: Path) -> None:
    assert f"reslink train DATA --out RUN --recipe {recipe.name}" in recipe.command
    numbers = re.findall(r"\b0\.\d{3}\b", recipe.result)
    assert numbers, "it was never run"
    assert re.search(r"\d+ (to \d+ )?(minutes|seconds)", recipe.time)
    results = "".join(page.read_text() for page in (root / "docs" / "benchmarks").glob("*.md"))
    assert [number for number in numbers if number not in results] == []
