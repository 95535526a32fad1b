"""FLOPs and time for a slice."""

from __future__ import annotations

from reslink.experiments.tune.cost import measure_cost
from reslink.networks.analysis import flops_by_layer
from reslink.training.recipe.recipe import load_recipe


def test_flops_are_those_of_the_layers() -> None:
    recipe = load_recipe(None, ["model.variant=reslink_small", "preprocess.size=64", "preprocess.channels=1"])
    cost = measure_cost(recipe, 2)
    assert cost.flops == sum(layer.flops for layer in flops_by_layer(recipe.reslink(2), 64))
    assert cost.ms > 0


def test_a_smaller_input_costs_less() -> None:
    small, large = (load_recipe(None, ["model.variant=reslink_small", f"preprocess.size={size}"]) for size in (64, 96))
    assert measure_cost(small, 2).flops < measure_cost(large, 2).flops
