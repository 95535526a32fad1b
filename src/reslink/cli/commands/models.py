"""``reslink models``: lists the shipped models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json
from reslink.reports.formatting import format_interval, format_number

if TYPE_CHECKING:
    from reslink.bundles.zoo import ShippedModel

COLUMNS = (
    "model",
    "images",
    "classes",
    ">accuracy (95 % interval)",
    ">AUROC (95 % interval)",
    ">n",
    ">other hospitals: accuracy",
    ">other hospitals: silent errors",
    ">other hospitals: n",
)

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
    console.table(COLUMNS, [_row(model) for model in shipped], title="Shipped models")
    console.note(
        "Metrics: test images of the sources that the model learned from. Other hospitals: the data set with the lowest "
        "accuracy; silent errors are wrong answers without an abstention, as a share of all images; –: none was tried"
    )
    console.note("Print limitations, license and all evaluations of a model with: reslink models NAME")
    console.research_use_only()


def _print_card(console: Console, model: ShippedModel, json: bool) -> None:
    if json:
        console.json(model.as_dict() | {"research_use_only": True}, indent=2)
        return
    console.data(*model.card().rstrip().splitlines())
    console.research_use_only()


def _row(model: ShippedModel) -> tuple[str, ...]:
    """Returns the row of a model in the table; long texts are in its card."""
    from reslink.bundles.pretrained import other_hospitals

    accuracy, auroc = (_estimate(model.metrics.get(name)) for name in ("accuracy", "auroc"))
    n = str(max((metric["n"] for metric in model.metrics.values()), default="–"))
    worst = next(iter(other_hospitals(model.ledger)), None)
    outside = ("–",) * 3 if worst is None else (f"{worst.accuracy:.3f}", f"{worst.silent_errors:.3f}", str(worst.n))
    return model.name, model.scope, ", ".join(model.classes), accuracy, auroc, n, *outside


def _estimate(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "–"
    return f"{format_number(metric['estimate'])} ({format_interval(metric)})"
