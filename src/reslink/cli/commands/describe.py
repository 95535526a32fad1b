"""``reslink describe``: layers, cost and receptive fields of a network."""

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
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="Network variant, such as reslink_small.")],
    sets: Set = None,
    size: Annotated[
        int | None, typer.Option("--size", min=64, max=1024, help="Input size in pixels; default: that of the recipe.")
    ] = None,
    json: Json = False,
) -> None:
    """Print parameters and FLOPs by layer, receptive fields, and the cost of attention by feature map size."""
    from reslink.training.recipe.recipe import load_recipe

    _check_not_a_bundle(variant)
    recipe = load_recipe(None, [f"model.variant={variant}", *(sets or ())])
    config = recipe.network()
    description = describe_network(config, size or recipe.preprocess.size) | {"variant": recipe.model.variant}
    if json:
        console.json(description, indent=2)
    else:
        _print_description(console, description)


def _check_not_a_bundle(name: str) -> None:
    from reslink.bundles import zoo

    if name in zoo.names():
        raise UsageError(
            f"{name} is a shipped model, not a network variant",
            "reslink describe takes a variant, such as reslink_small",
            f"Run reslink models {name}",
        )


def describe_network(config: ResLinkConfig, size: int) -> dict[str, Any]:
    """Returns the output of ``describe --json``.

    Args:
        config: The configuration of the network.
        size: Side length of the square input in pixels.
    """
    from reslink.networks.analysis import attention_cost, count_parameters, flops_by_layer, receptive_fields
    from reslink.networks.reslink import build_network

    network = build_network(config, seed=0)
    layers = flops_by_layer(config, size)
    map_sizes = [size // 4 * factor for factor in (1, 2, 4)]
    return {
        "input": [config.in_channels, size, size],
        "config": config.model_dump(mode="json"),
        "parameters": count_parameters(network),
        "flops": sum(layer.flops for layer in layers),
        "layers": [asdict(layer) for layer in layers],
        "receptive_fields": [asdict(field) for field in receptive_fields(network, size)],
        "attention_cost": [asdict(cost) for cost in attention_cost(map_sizes, config.stem_dim, config.area_size)],
    }


def _print_description(console: Console, description: dict[str, Any]) -> None:
    layers = description["layers"]
    rows = [(row["name"], row["kind"], f"{row['parameters']:,}", f"{row['flops'] / 1e6:,.2f}") for row in layers]
    rows.append(("all", "", f"{description['parameters']:,}", f"{description['flops'] / 1e6:,.2f}"))
    size = "×".join(map(str, description["input"]))
    console.table(("layer", "kind", ">parameters", ">MFLOPs"), rows, title=f"{description['variant']}, one image of {size}")
    fields = [
        (row["stage"], str(row["stride"]), str(row["size"]), str(row["size_with_attention"]))
        for row in description["receptive_fields"]
    ]
    title = "Receptive field in input pixels"
    console.table(("after", ">stride", ">convolutions", ">with attention areas"), fields, title=title)
    costs = [
        (f"{row['side']}×{row['side']}", f"{row['area'] / 1e6:,.2f}", f"{row['self_attention'] / 1e6:,.2f}")
        for row in description["attention_cost"]
    ]
    title = "MFLOPs of attention by feature map size"
    console.table(("map", ">area attention", ">dot-product self-attention"), costs, title=title)
