"""``reslink models``: the bundles that ship with reslink, which any command takes by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json

if TYPE_CHECKING:
    from reslink.bundles.zoo import ShippedModel

EXAMPLES = (
    "reslink models",
    "reslink models ct",
    "reslink models --json",
)


def models(
    console: Console,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print the model card of this one.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the models that ship with reslink, or print the card of one. Every command takes such a name for BUNDLE.

    A folder that is called like one of them is meant only when written as a path: ./ct.
    """
    from reslink.bundles import zoo

    if name is not None:
        _one(console, zoo.model(name), json)
        return
    found = zoo.shipped()
    if json:
        console.json({"models": [model.as_dict() for model in found], "research_use_only": True}, indent=2)
        return
    if not found:
        console.data("No model ships with this installation. Train one: reslink train DATA --out RUN")
        return
    facts = [dict(_facts(model)) for model in found]
    rows = [(key, *(one.get(key, "–") for one in facts)) for key in dict.fromkeys(key for one in facts for key in one)]
    console.table(("", *(model.name for model in found)), rows, title="Models that ship with reslink")
    console.note("The card of one: reslink models NAME")
    console.research_use_only()


def _one(console: Console, model: ShippedModel, json: bool) -> None:
    if json:
        console.json(model.as_dict() | {"research_use_only": True}, indent=2)
        return
    console.data(model.card().rstrip())
    console.research_use_only()


def _facts(model: ShippedModel) -> Iterator[tuple[str, str]]:
    """Yields what the table says of a model: a name and a text each."""
    from reslink.metrics.classification import NAMES

    channels, height, width = model.input
    yield "tells apart", model.tells_apart
    yield "classes", ", ".join(model.classes)
    yield "modality", model.modality
    yield "input", f"{channels}×{height}×{width}"
    yield "size on disk", f"{model.bytes / 1e6:.1f} MB"
    yield "parameters", f"{model.parameters:,}"
    for name, figure in model.figures.items():
        yield NAMES[name], _figure(figure)
    if not model.figures:
        yield "figures", "nothing was measured"
    elif model.n_groups is not None:
        yield "judged on", f"{max(figure['n'] for figure in model.figures.values())} images in {model.n_groups} groups"
    gate = "abstains from images unlike its own" if model.has_gate else "none: answers to any picture, of whatever it is"
    yield "out-of-distribution gate", gate
    yield "licence of the weights", model.licence
    yield "read first", model.about


def _figure(figure: Mapping[str, Any]) -> str:
    low, high = figure["ci_low"], figure["ci_high"]
    interval = "no interval" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"{figure['estimate']:.3f} ({interval}; n {figure['n']})"
