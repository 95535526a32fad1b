"""The cost of a network for one slice: its FLOPs, which select among equally good trials, and its measured time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from reslink.networks.analysis import layer_costs
from reslink.networks.build import build_network
from reslink.training.recipe.recipe import Recipe

REPEATS = 15


@dataclass(frozen=True)
class Cost:
    """The cost of one slice.

    Attributes:
        flops: Floating-point operations; a multiply-add counts as two. The same on every machine.
        ms: Milliseconds on the processor of this machine: the shortest of ``REPEATS`` passes of one
            slice, because other programs only make a pass longer.
    """

    flops: int
    ms: float


def measure_cost(recipe: Recipe, num_classes: int) -> Cost:
    """Returns the cost of the network of a recipe, with random weights.

    Args:
        recipe: The recipe.
        num_classes: Number of classes of the data.
    """
    network = build_network(recipe.network(num_classes), recipe.seed, recipe.builder()).eval()
    size = recipe.preprocess.size
    x = torch.zeros(1, recipe.preprocess.channels, size, size)
    flops = sum(layer.flops for layer in layer_costs(network, x))
    seconds = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            start = time.perf_counter()
            network(x)
            seconds.append(time.perf_counter() - start)
    return Cost(flops, 1000 * min(seconds))
