"""``reslink models``: lists the shipped models."""

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
        str | None, typer.Argument(metavar="[NAME]", help="Print the model card of this model.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the shipped models, or print the model card of one. Every command accepts a model name as BUNDLE.

    To use a folder with the same name as a model, write it as a path: ./ct.
    """
    from reslink.bundles import zoo

    if name is not None:
        _print_card(console, zoo.model(name), json)
        return
    shipped = zoo.shipped()
    if json:
        console.json({"models": [model.as_dict() for model in shipped], "research_use_only": True}, indent=2)
        return
    if not shipped:
        console.data("This installation has no models. Train one with: reslink train DATA --out RUN")
        return
    columns = [dict(_properties(model)) for model in shipped]
    titles = dict.fromkeys(title for column in columns for title in column)
    rows = [(title, *(column.get(title, "–") for column in columns)) for title in titles]
    console.table(("", *(model.name for model in shipped)), rows, title="Shipped models")
    console.note("Print a model card with: reslink models NAME")
    console.research_use_only()


def _print_card(console: Console, model: ShippedModel, json: bool) -> None:
    if json:
        console.json(model.as_dict() | {"research_use_only": True}, indent=2)
        return
    console.data(*model.card().rstrip().splitlines())
    console.research_use_only()


def _properties(model: ShippedModel) -> Iterator[tuple[str, str]]:
    """Yields the rows of a model in the table: title and text."""
    from reslink.metrics.classification import METRIC_NAMES

    channels, height, width = model.input_shape
    yield "task", model.task
    yield "classes", ", ".join(model.classes)
    yield "modality", model.modality
    yield "input", f"{channels}×{height}×{width}"
    yield "size on disk", f"{model.bytes / 1e6:.1f} MB"
    yield "parameters", f"{model.parameters:,}"
    for name, metric in model.metrics.items():
        yield METRIC_NAMES[name], _estimate(metric)
    if not model.metrics:
        yield "metrics", "none measured"
    elif model.n_groups is not None:
        yield "evaluated on", f"{max(metric['n'] for metric in model.metrics.values())} images in {model.n_groups} groups"
    detector = "abstains from images unlike its training data" if model.has_ood_detector else "none: predicts any image"
    yield "out-of-distribution detector", detector
    yield "license of the weights", model.license
    yield "usage notes", model.usage_notes


def _estimate(metric: Mapping[str, Any]) -> str:
    low, high = metric["ci_low"], metric["ci_high"]
    interval = "no interval" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"{metric['estimate']:.3f} ({interval}; n {metric['n']})"
