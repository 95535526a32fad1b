"""``reslink describe``: what a network is made of, what it costs, and what it sees."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json, Set
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.networks.reslink import ResLinkConfig

EXAMPLES = (
    "reslink describe reslink_paper",
    "reslink describe reslink_small --set model.attention=none --size 256 --json",
)


def describe(
    console: Console,
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="A variant, such as reslink_small.")],
    sets: Set = None,
    size: Annotated[
        int | None, typer.Option("--size", min=64, max=1024, help="Side of the input; the recipe's if not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Print parameters and FLOPs by layer, receptive fields, and what attention costs as the map grows."""
    from reslink.training.recipe.recipe import load_recipe

    _refuse_shipped(variant)
    recipe = load_recipe(None, [f"model.variant={variant}", *(sets or ())])
    config = recipe.network()
    facts = description(config, size or recipe.preprocess.size) | {"variant": recipe.model.variant}
    if json:
        console.json(facts, indent=2)
    else:
        _show(console, facts)


def _refuse_shipped(name: str) -> None:
    from reslink.bundles import zoo

    if name in zoo.names():
        raise UsageError(
            f"{name} is a bundle that ships with reslink, not a network variant",
            "describe takes a variant, such as reslink_small",
            f"Run reslink models {name}",
        )


def description(config: ResLinkConfig, size: int) -> dict[str, Any]:
    """Returns what ``describe --json`` prints.

    Args:
        config: The network's shape.
        size: Side of the square input in pixels.
    """
    from reslink.networks.analysis import attention_cost, flops_by_layer, parameters, receptive_fields
    from reslink.networks.reslink import build

    network = build(config, seed=0)
    layers = flops_by_layer(config, size)
    sides = [size // 4 * factor for factor in (1, 2, 4)]
    return {
        "input": [config.in_channels, size, size],
        "config": config.model_dump(mode="json"),
        "parameters": parameters(network),
        "flops": sum(layer.flops for layer in layers),
        "layers": [asdict(layer) for layer in layers],
        "receptive_fields": [asdict(field) for field in receptive_fields(network, size)],
        "attention_cost": [asdict(cost) for cost in attention_cost(sides, config.stem_dim, config.area_size)],
    }


def _show(console: Console, facts: dict[str, Any]) -> None:
    layers = facts["layers"]
    rows = [(row["name"], row["kind"], f"{row['parameters']:,}", f"{row['flops'] / 1e6:,.2f}") for row in layers]
    rows.append(("all", "", f"{facts['parameters']:,}", f"{facts['flops'] / 1e6:,.2f}"))
    size = "×".join(map(str, facts["input"]))
    console.table(("layer", "kind", ">parameters", ">MFLOPs"), rows, title=f"{facts['variant']}, one image of {size}")
    fields = [
        (row["stage"], str(row["stride"]), str(row["size"]), str(row["size_with_attention"]))
        for row in facts["receptive_fields"]
    ]
    title = "Receptive field in input pixels"
    console.table(("after", ">stride", ">convolutions", ">with attention areas"), fields, title=title)
    costs = [
        (f"{row['side']}×{row['side']}", f"{row['area'] / 1e6:,.2f}", f"{row['self_attention'] / 1e6:,.2f}")
        for row in facts["attention_cost"]
    ]
    title = "MFLOPs of attention as the map grows"
    console.table(("map", ">area attention", ">dot-product self-attention"), costs, title=title)
