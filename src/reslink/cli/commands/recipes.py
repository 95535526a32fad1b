"""``reslink recipes``: lists the published recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json

if TYPE_CHECKING:
    from reslink.training.recipe.published import PublishedRecipe

EXAMPLES = (
    "reslink recipes",
    "reslink recipes context_20 > mine.yaml",
    "reslink train images/ --out runs/long --recipe context_20",
)


def recipes(
    console: Console,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe as YAML.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the published recipes with their results, or print one as YAML. --recipe accepts their names."""
    from reslink.errors import check_choice
    from reslink.training.recipe import published

    if name is None:
        _list(console, published.published_recipes(), json)
        return
    check_choice("published recipe", name, published.names())
    path = published.PUBLISHED / f"{name}.yaml"
    if json:
        console.json(published.PublishedRecipe.read(path).as_dict(), indent=2)
        return
    console.data(*path.read_text(encoding="utf-8").rstrip().splitlines())


def _list(console: Console, entries: Sequence[PublishedRecipe], json: bool) -> None:
    if json:
        console.json({"recipes": [recipe.as_dict() for recipe in entries]}, indent=2)
        return
    rows = [(recipe.name, recipe.description, recipe.result, recipe.time) for recipe in entries]
    console.table(("recipe", "description", "result", "time"), rows, title="Published recipes")
    console.note("Train with one: reslink train DATA --out RUN --recipe NAME")
