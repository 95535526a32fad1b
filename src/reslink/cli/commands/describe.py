"""``reslink describe``: layers, cost and receptive fields of a network."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json, Set
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.networks.config import ResLinkConfig
    from reslink.networks.entry_points import Builder
    from reslink.networks.external_config import ExternalConfig

EXAMPLES = (
    "reslink describe reslink_paper",
    "reslink describe densenet121",
    "reslink describe reslink_small --set model.attention=none --size 256 --json",
)


def describe(
    console: Console,
    variant: Annotated[
        str,
        typer.Argument(metavar="NETWORK", help="Network variant such as reslink_small, or your own, such as nets.py:build."),
    ],
    sets: Set = None,
    size: Annotated[
        int | None, typer.Option("--size", min=64, max=1024, help="Input size in pixels; default: that of the recipe.")
    ] = None,
    json: Json = False,
) -> None:
    """Print parameters and FLOPs by layer, receptive fields, and the cost of attention by feature map size."""
    from reslink.training.recipe.recipe import load_recipe, network_settings

    _check_not_a_bundle(variant)
    changes = [*network_settings(variant).items(), *(sets or ())]
    recipe = load_recipe(None, changes if size is None else [*changes, ("preprocess.size", size)])
    config = recipe.network()
    description = describe_network(config, recipe.preprocess.size, recipe.builder()) | {"variant": recipe.model.variant}
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


def describe_network(config: ResLinkConfig | ExternalConfig, size: int, builder: Builder | None = None) -> dict[str, Any]:
    """Returns the output of ``describe --json``: for networks that are not a ResLink, without receptive fields and attention.

    Args:
        config: The configuration of the network.
        size: Side length of the square input in pixels.
        builder: Builds the network of an entry point.
    """
    import torch

    from reslink.networks.analysis import attention_cost, count_parameters, flops_by_layer, layer_costs, receptive_fields
    from reslink.networks.build import build_network
    from reslink.networks.reslink import ResLink

    network = build_network(config, 0, builder)
    if not isinstance(network, ResLink):
        layers = layer_costs(network.eval(), torch.zeros(1, config.in_channels, size, size))
        return {
            "input": [config.in_channels, size, size],
            "config": config.model_dump(mode="json"),
            "parameters": count_parameters(network),
            "flops": sum(layer.flops for layer in layers),
            "layers": [asdict(layer) for layer in layers],
            "receptive_fields": [],
            "attention_cost": [],
        }
    own, layers = network.config, flops_by_layer(network.config, size)
    map_sizes = [size // 4 * factor for factor in (1, 2, 4)]
    return {
        "input": [config.in_channels, size, size],
        "config": config.model_dump(mode="json"),
        "parameters": count_parameters(network),
        "flops": sum(layer.flops for layer in layers),
        "layers": [asdict(layer) for layer in layers],
        "receptive_fields": [asdict(field) for field in receptive_fields(network, size)],
        "attention_cost": [asdict(cost) for cost in attention_cost(map_sizes, own.stem_dim, own.area_size)],
    }


def _print_description(console: Console, description: dict[str, Any]) -> None:
    layers = description["layers"]
    rows = [(row["name"], row["kind"], f"{row['parameters']:,}", f"{row['flops'] / 1e6:,.2f}") for row in layers]
    rows.append(("all", "", f"{description['parameters']:,}", f"{description['flops'] / 1e6:,.2f}"))
    size = "×".join(map(str, description["input"]))
    console.table(("layer", "kind", ">parameters", ">MFLOPs"), rows, title=f"{description['variant']}, one image of {size}")
    if not description["receptive_fields"]:
        return
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
